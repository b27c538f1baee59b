//! The index in memory.

use std::collections::HashMap;

use edgewise_types::{ChunkId, Generation};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    VectorError,
    kernel::{Block, blocks_for, dot, pack, pack_into},
    top::Top,
};

/// How far from 1 the length of a unit vector may be: room for `f32` rounding, none for a missing normalisation.
const UNIT_TOLERANCE: f64 = 1e-3;

/// Rows each thread scans at a time. Below two of these a scan takes less time than waking a thread.
const ROWS_PER_TASK: usize = 2048;

/// A chunk found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VectorHit {
    /// Its id.
    pub chunk: ChunkId,
    /// Cosine of its vector and the query, -1 to 1.
    pub score: f32,
}

/// Unit vectors by chunk, scanned exactly. 4 bytes per dimension and vector, plus about 40 per vector.
#[derive(Debug, Clone)]
pub struct VectorIndex {
    pub(crate) source: String,
    pub(crate) dimension: usize,
    pub(crate) generation: Generation,
    /// Chunk of each row. Removing a row moves the last one into its place.
    pub(crate) ids: Vec<ChunkId>,
    /// Rows of `blocks_for(dimension)` blocks.
    pub(crate) rows: Vec<Block>,
    pub(crate) row_of: HashMap<ChunkId, usize>,
}

impl VectorIndex {
    /// An empty index of generation 0 for vectors of `dimension` floats, at least 1. `source` is the identity of the
    /// catalog it derives from: a snapshot of another one is refused.
    pub fn new(dimension: usize, source: impl Into<String>) -> Self {
        Self {
            source: source.into(),
            dimension,
            generation: Generation::default(),
            ids: Vec::new(),
            rows: Vec::new(),
            row_of: HashMap::new(),
        }
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether it holds no vector.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Length of a vector.
    pub fn dimension(&self) -> usize {
        self.dimension
    }

    /// Identity of the catalog it derives from.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The catalog generation it reflects, as set by [`Self::set_generation`].
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Records the catalog generation that the inserts and removals so far lead to. Set it after the last of them: when
    /// one fails halfway, the generation before is still right, since repeating changes is harmless.
    pub fn set_generation(&mut self, generation: Generation) {
        self.generation = generation;
    }

    /// Whether the chunk has a vector here.
    pub fn contains(&self, chunk: ChunkId) -> bool {
        self.row_of.contains_key(&chunk)
    }

    /// Makes room for `additional` more vectors at once.
    pub fn reserve(&mut self, additional: usize) {
        self.ids.reserve(additional);
        self.rows.reserve(additional * blocks_for(self.dimension));
        self.row_of.reserve(additional);
    }

    /// Inserts or replaces the vector of a chunk.
    ///
    /// # Errors
    /// [`VectorError::Dimension`], or [`VectorError::NotUnit`] when it is not finite and of length 1 to three decimals.
    pub fn insert(&mut self, chunk: ChunkId, vector: &[f32]) -> Result<(), VectorError> {
        self.validate(vector)?;
        let width = blocks_for(self.dimension);
        let row = match self.row_of.get(&chunk) {
            Some(row) => *row,
            None => {
                let row = self.ids.len();
                self.ids.push(chunk);
                self.rows.resize(self.rows.len() + width, Block::ZERO);
                self.row_of.insert(chunk, row);
                row
            }
        };
        pack_into(vector, &mut self.rows[row * width..(row + 1) * width]);
        Ok(())
    }

    /// Removes the vector of a chunk. False if there was none.
    pub fn remove(&mut self, chunk: ChunkId) -> bool {
        let Some(row) = self.row_of.remove(&chunk) else { return false };
        let width = blocks_for(self.dimension);
        let last = self.ids.len() - 1;
        self.ids.swap_remove(row);
        if row != last {
            self.rows.copy_within(last * width..(last + 1) * width, row * width);
            self.row_of.insert(self.ids[row], row);
        }
        self.rows.truncate(last * width);
        true
    }

    /// The `k` chunks nearest to the unit vector `query`, among those that `filter` lets through. Uses the threads of the
    /// current rayon pool when there are many vectors.
    ///
    /// # Errors
    /// [`VectorError::Dimension`] or [`VectorError::NotUnit`] for the query.
    pub fn search(
        &self,
        query: &[f32],
        k: usize,
        filter: Option<&(dyn Fn(ChunkId) -> bool + Sync)>,
    ) -> Result<Vec<VectorHit>, VectorError> {
        self.validate(query)?;
        if k == 0 {
            return Ok(Vec::new());
        }
        let query = pack(query);
        let width = query.len();
        let scan = |ids: &[ChunkId], rows: &[Block]| {
            let mut top = Top::new(k);
            for (chunk, row) in ids.iter().zip(rows.chunks_exact(width)) {
                if filter.is_none_or(|filter| filter(*chunk)) {
                    top.push(*chunk, dot(&query, row));
                }
            }
            top
        };
        let top = if self.len() < 2 * ROWS_PER_TASK {
            scan(&self.ids, &self.rows)
        } else {
            self.ids
                .par_chunks(ROWS_PER_TASK)
                .zip(self.rows.par_chunks(ROWS_PER_TASK * width))
                .map(|(ids, rows)| scan(ids, rows))
                .reduce(|| Top::new(k), Top::merge)
        };
        Ok(top.into_hits())
    }

    fn validate(&self, vector: &[f32]) -> Result<(), VectorError> {
        if vector.len() != self.dimension {
            return Err(VectorError::Dimension { expected: self.dimension, found: vector.len() });
        }
        let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        // Written so that NaN is refused too.
        if (norm - 1.0).abs() <= UNIT_TOLERANCE { Ok(()) } else { Err(VectorError::NotUnit { norm }) }
    }

    /// The vector in `row`, without padding.
    pub(crate) fn vector(&self, row: usize) -> impl Iterator<Item = f32> {
        let width = blocks_for(self.dimension);
        self.rows[row * width..(row + 1) * width].iter().flat_map(|block| block.0).take(self.dimension)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const DIMENSION: usize = 19;

    /// Few directions, so that scores are often equal.
    fn direction(n: usize) -> Vec<f32> {
        let mut vector = vec![0.0; DIMENSION];
        let angle = (n / DIMENSION) as f32;
        vector[n % DIMENSION] = angle.cos();
        vector[(n + 1) % DIMENSION] = angle.sin();
        vector
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u64, usize),
        Remove(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let insert = (0u64..30, 0usize..60).prop_map(|(chunk, n)| Step::Insert(chunk, n));
        let step = prop_oneof![2 => insert, 1 => (0u64..30).prop_map(Step::Remove)];
        prop::collection::vec(step, 0..80)
    }

    fn run(steps: &[Step]) -> (VectorIndex, BTreeMap<ChunkId, usize>) {
        let (mut index, mut model) = (VectorIndex::new(DIMENSION, "test"), BTreeMap::new());
        for step in steps {
            match *step {
                Step::Insert(chunk, n) => {
                    index.insert(ChunkId(chunk), &direction(n)).unwrap();
                    model.insert(ChunkId(chunk), n);
                }
                Step::Remove(chunk) => {
                    assert_eq!(index.remove(ChunkId(chunk)), model.remove(&ChunkId(chunk)).is_some());
                }
            }
        }
        (index, model)
    }

    fn cosine(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    proptest! {
        #[test]
        fn a_search_finds_what_the_definition_says(steps in steps(), query in 0usize..60, k in 0usize..40, odd: bool) {
            let (index, model) = run(&steps);
            prop_assert_eq!(index.len(), model.len());
            let query = direction(query);
            let keep = |chunk: ChunkId| !odd || chunk.0 % 2 == 1;
            let hits = index.search(&query, k, odd.then_some(&keep)).unwrap();

            let mut exact: Vec<f64> =
                model.iter().filter(|(chunk, _)| keep(**chunk)).map(|(_, n)| cosine(&query, &direction(*n))).collect();
            exact.sort_by(|a, b| b.total_cmp(a));
            exact.truncate(k);
            prop_assert_eq!(hits.len(), exact.len());
            for (hit, exact) in hits.iter().zip(exact) {
                prop_assert!(keep(hit.chunk));
                prop_assert!((f64::from(hit.score) - cosine(&query, &direction(model[&hit.chunk]))).abs() < 1e-6);
                prop_assert!((f64::from(hit.score) - exact).abs() < 1e-6);
            }
            for pair in hits.windows(2) {
                let ordered =
                    pair[0].score > pair[1].score || pair[0].score == pair[1].score && pair[0].chunk < pair[1].chunk;
                prop_assert!(ordered, "{:?}", pair);
            }

            // Another way to the same content gives the same bits.
            let mut rebuilt = VectorIndex::new(DIMENSION, "test");
            for (chunk, n) in model.iter().rev() {
                rebuilt.insert(*chunk, &direction(*n)).unwrap();
            }
            prop_assert_eq!(rebuilt.search(&query, k, odd.then_some(&keep)).unwrap(), hits);
        }
    }

    #[test]
    fn threads_do_not_change_the_result() {
        let mut index = VectorIndex::new(DIMENSION, "test");
        for chunk in 0..3 * ROWS_PER_TASK as u64 + 17 {
            index.insert(ChunkId(chunk), &direction((chunk * 7919 % 1000) as usize)).unwrap();
        }
        let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        for k in [1, 10, 3000] {
            let query = direction(k);
            let one = pool(1).install(|| index.search(&query, k, None)).unwrap();
            let three = pool(3).install(|| index.search(&query, k, None)).unwrap();
            assert_eq!(one, three);
            // The sequential scan, reached by filtering a small copy.
            let mut small = VectorIndex::new(DIMENSION, "test");
            for hit in &one {
                small.insert(hit.chunk, &direction((hit.chunk.0 * 7919 % 1000) as usize)).unwrap();
            }
            assert_eq!(small.search(&query, k, None).unwrap(), one);
        }
    }

    #[test]
    fn vectors_that_are_not_unit_are_refused() {
        let mut index = VectorIndex::new(2, "test");
        assert!(matches!(index.insert(ChunkId(1), &[1.0]), Err(VectorError::Dimension { expected: 2, found: 1 })));
        for bad in [[0.0, 0.0], [1.0, 1.0], [f32::NAN, 0.0], [f32::INFINITY, 0.0], [0.998, 0.0]] {
            assert!(matches!(index.insert(ChunkId(1), &bad), Err(VectorError::NotUnit { .. })), "{bad:?}");
            assert!(matches!(index.search(&bad, 1, None), Err(VectorError::NotUnit { .. })), "{bad:?}");
        }
        assert!(index.is_empty());
        index.insert(ChunkId(1), &[0.6, 0.8]).unwrap();
        assert_eq!(index.search(&[0.6, 0.8], 1, None).unwrap()[0].score, 1.0);
    }
}
