//! The index in memory.
//!
//! Few vectors are scanned. Many stand in a *base*, rows that no longer change with a graph over them, and a *tail* of
//! what came since, which is scanned. A removed row of the base is a tombstone. When a fifth of the base is tombstones, or
//! the tail has grown to a quarter of it, the owner builds a new base from a [`Rebuild`], without a lock and while the old
//! one serves, and installs it together with what changed meanwhile.

use std::{collections::HashSet, sync::Arc};

use edgewise_types::{ChunkId, Generation};
use serde::{Deserialize, Serialize};

use crate::{
    GraphOptions, VectorError,
    flat::{Filter, Flat},
    graph::Graph,
    top::Top,
};

/// How far from 1 the length of a unit vector may be: room for `f32` rounding, none for a missing normalisation.
const UNIT_TOLERANCE: f64 = 1e-3;

/// A base is rebuilt when one in this many of its rows is a tombstone.
const TOMBSTONE_SHARE: usize = 5;
/// Or when the tail has one for this many rows of the base.
const TAIL_SHARE: usize = 4;
/// A filter that lets through less than one in this many chunks is answered by a scan of those.
const SELECTIVE: usize = 4;

/// A chunk found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VectorHit {
    /// Its id.
    pub chunk: ChunkId,
    /// Cosine of its vector and the query, -1 to 1.
    pub score: f32,
}

/// Rows with a graph over them.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) flat: Arc<Flat>,
    pub(crate) graph: Arc<Graph>,
    /// Removed since the graph was built.
    pub(crate) dead: HashSet<ChunkId>,
}

impl Base {
    fn contains(&self, chunk: ChunkId) -> bool {
        self.flat.row_of.contains_key(&chunk) && !self.dead.contains(&chunk)
    }

    pub(crate) fn live(&self) -> usize {
        self.flat.len() - self.dead.len()
    }
}

/// Unit vectors by chunk.
#[derive(Debug, Clone)]
pub struct VectorIndex {
    pub(crate) source: String,
    pub(crate) dimension: usize,
    pub(crate) generation: Generation,
    pub(crate) options: GraphOptions,
    pub(crate) base: Option<Base>,
    pub(crate) tail: Flat,
    /// Chunks inserted or removed since the rebuild that is going on began.
    changed: Option<HashSet<ChunkId>>,
    /// Set when a graph over this many vectors was refused: not tried again before there are more by half.
    refused_at: Option<usize>,
}

/// What a new base is built from: a copy of the live vectors.
#[derive(Debug)]
pub struct Rebuild {
    flat: Flat,
    options: GraphOptions,
}

/// A new base, to be installed.
#[derive(Debug)]
pub struct Rebuilt {
    flat: Arc<Flat>,
    graph: Graph,
}

impl Rebuild {
    /// Builds the graph and probes it. Takes minutes for hundreds of thousands of vectors, uses the threads of the
    /// current rayon pool, and needs no lock.
    ///
    /// # Errors
    /// [`VectorError::Graph`] if the graph is not sound: tell the index with [`VectorIndex::abandon`]; it goes on without.
    pub fn build(self) -> Result<Rebuilt, VectorError> {
        let flat = Arc::new(self.flat);
        let graph = Graph::build(Arc::clone(&flat), self.options)?;
        Ok(Rebuilt { flat, graph })
    }
}

impl VectorIndex {
    /// An empty index of generation 0 for vectors of `dimension` floats, at least 1. `source` is the identity of the
    /// catalog it derives from: a snapshot of another one is refused.
    pub fn new(dimension: usize, source: impl Into<String>) -> Self {
        Self::with_options(dimension, source, GraphOptions::default())
    }

    /// As [`Self::new`], with other limits.
    pub fn with_options(dimension: usize, source: impl Into<String>, options: GraphOptions) -> Self {
        Self {
            source: source.into(),
            dimension,
            generation: Generation::default(),
            options,
            base: None,
            tail: Flat::new(dimension),
            changed: None,
            refused_at: None,
        }
    }

    /// Number of vectors.
    pub fn len(&self) -> usize {
        self.tail.len() + self.base.as_ref().map_or(0, Base::live)
    }

    /// Whether it holds no vector.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
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
        self.tail.row_of.contains_key(&chunk) || self.base.as_ref().is_some_and(|base| base.contains(chunk))
    }

    /// The vector of a chunk.
    pub fn vector(&self, chunk: ChunkId) -> Option<Vec<f32>> {
        if let Some(row) = self.tail.row_of.get(&chunk) {
            return Some(self.tail.vector(*row).collect());
        }
        let base = self.base.as_ref().filter(|base| base.contains(chunk))?;
        Some(base.flat.vector(*base.flat.row_of.get(&chunk)?).collect())
    }

    /// Every chunk that has a vector here, in no particular order.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        let base = self.base.iter().flat_map(|base| base.flat.ids.iter().filter(move |id| !base.dead.contains(id)));
        base.chain(&self.tail.ids).copied()
    }

    /// Whether a graph serves, and over how many vectors; `None` if all are scanned.
    pub fn graph_len(&self) -> Option<usize> {
        self.base.as_ref().map(Base::live)
    }

    /// Makes room for `additional` more vectors at once.
    pub fn reserve(&mut self, additional: usize) {
        self.tail.reserve(additional);
    }

    /// Inserts or replaces the vector of a chunk.
    ///
    /// # Errors
    /// [`VectorError::Dimension`], or [`VectorError::NotUnit`] when it is not finite and of length 1 to three decimals.
    pub fn insert(&mut self, chunk: ChunkId, vector: &[f32]) -> Result<(), VectorError> {
        self.validate(vector)?;
        self.bury(chunk);
        self.tail.insert(chunk, vector);
        self.note(chunk);
        Ok(())
    }

    /// Removes the vector of a chunk. False if there was none.
    pub fn remove(&mut self, chunk: ChunkId) -> bool {
        let removed = self.bury(chunk) || self.tail.remove(chunk);
        if removed {
            self.note(chunk);
        }
        removed
    }

    /// Makes a row of the base a tombstone.
    fn bury(&mut self, chunk: ChunkId) -> bool {
        match &mut self.base {
            Some(base) if base.contains(chunk) => base.dead.insert(chunk),
            _ => false,
        }
    }

    fn note(&mut self, chunk: ChunkId) {
        if let Some(changed) = &mut self.changed {
            changed.insert(chunk);
        }
    }

    /// The `k` chunks nearest to the unit vector `query`, among those that `filter` lets through. Exact without a graph;
    /// with one, the scores are exact and a near chunk may be missed. Uses the threads of the current rayon pool when
    /// there are many vectors.
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
        let Some(base) = &self.base else { return Ok(self.scan(query, k, filter)) };
        // Tombstones and chunks filtered out take places in the graph's answer: ask for as many more.
        let wanted = |chunk: ChunkId| !base.dead.contains(&chunk) && filter.is_none_or(|filter| filter(chunk));
        let passing = match filter {
            None => base.live(),
            Some(_) => base.flat.ids.iter().filter(|chunk| wanted(**chunk)).count(),
        };
        if k == 0 || passing * SELECTIVE < base.flat.len() || k * SELECTIVE > passing {
            return Ok(self.scan(query, k, filter));
        }
        let ask = (k * base.flat.len()).div_ceil(passing) + k / 8;
        let mut top = self.tail.search(query, k, filter);
        let mut found = 0;
        for hit in base.graph.search(query, ask) {
            if wanted(hit.chunk) {
                found += 1;
                top.push(hit.chunk, hit.score);
            }
        }
        if found < k {
            return Ok(self.scan(query, k, filter));
        }
        Ok(top.into_hits())
    }

    /// As [`Self::search`], but always exact.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub fn search_exact(&self, query: &[f32], k: usize, filter: Filter<'_>) -> Result<Vec<VectorHit>, VectorError> {
        self.validate(query)?;
        Ok(self.scan(query, k, filter))
    }

    fn scan(&self, query: &[f32], k: usize, filter: Filter<'_>) -> Vec<VectorHit> {
        if k == 0 {
            return Vec::new();
        }
        let tail = self.tail.search(query, k, filter);
        let Some(base) = &self.base else { return tail.into_hits() };
        let wanted = |chunk: ChunkId| !base.dead.contains(&chunk) && filter.is_none_or(|filter| filter(chunk));
        Top::merge(base.flat.search(query, k, Some(&wanted)), tail).into_hits()
    }

    /// Whether a new base is worth building: there are many vectors without a graph, many tombstones, or a long tail.
    /// False while one is being built.
    pub fn rebuild_due(&self) -> bool {
        if self.changed.is_some() || self.len() < self.options.threshold {
            return false;
        }
        if self.refused_at.is_some_and(|refused| self.len() < refused + refused / 2) {
            return false;
        }
        match &self.base {
            None => true,
            Some(base) => {
                let rows = base.flat.len();
                base.dead.len() * TOMBSTONE_SHARE >= rows || self.tail.len() * TAIL_SHARE >= rows
            }
        }
    }

    /// Begins a rebuild: copies the live vectors. From here on, changes are remembered until [`Self::install`] or
    /// [`Self::abandon`].
    pub fn begin_rebuild(&mut self) -> Rebuild {
        let mut flat = Flat::new(self.dimension);
        flat.reserve(self.len());
        if let Some(base) = &self.base {
            for (row, chunk) in base.flat.ids.iter().enumerate().filter(|(_, chunk)| !base.dead.contains(chunk)) {
                flat.insert_row(*chunk, base.flat.row(row));
            }
        }
        for (row, chunk) in self.tail.ids.iter().enumerate() {
            flat.insert_row(*chunk, self.tail.row(row));
        }
        self.changed = Some(HashSet::new());
        Rebuild { flat, options: self.options }
    }

    /// Puts a new base in place, together with what changed since it was begun.
    pub fn install(&mut self, rebuilt: Rebuilt) {
        let changed = self.changed.take().unwrap_or_default();
        let mut tail = Flat::new(self.dimension);
        for chunk in &changed {
            if let Some(vector) = self.vector(*chunk) {
                tail.insert(*chunk, &vector);
            }
        }
        let dead = changed.into_iter().filter(|chunk| rebuilt.flat.row_of.contains_key(chunk)).collect();
        self.base = Some(Base { flat: rebuilt.flat, graph: Arc::new(rebuilt.graph), dead });
        self.tail = tail;
        self.refused_at = None;
    }

    /// Ends a rebuild that failed. The index goes on as it is.
    pub fn abandon(&mut self) {
        self.changed = None;
        self.refused_at = Some(self.len());
    }

    /// Builds a new base now.
    ///
    /// # Errors
    /// [`VectorError::Graph`]; the index goes on as it is.
    pub fn rebuild_now(&mut self) -> Result<(), VectorError> {
        match self.begin_rebuild().build() {
            Ok(rebuilt) => {
                self.install(rebuilt);
                Ok(())
            }
            Err(error) => {
                self.abandon();
                Err(error)
            }
        }
    }

    fn validate(&self, vector: &[f32]) -> Result<(), VectorError> {
        if vector.len() != self.dimension {
            return Err(VectorError::Dimension { expected: self.dimension, found: vector.len() });
        }
        let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
        // Written so that NaN is refused too.
        if (norm - 1.0).abs() <= UNIT_TOLERANCE { Ok(()) } else { Err(VectorError::NotUnit { norm }) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
