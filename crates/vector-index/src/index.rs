//! The index in memory.
//!
//! Few vectors are scanned. Many stand in a *base*, rows that no longer change with a graph over them, and a *tail* of
//! what came since, which is scanned. A removed row of the base is a tombstone. When a fifth of the base is tombstones, or
//! the tail has grown to a quarter of it, the owner builds a new base from a [`Rebuild`], without a lock and while the old
//! one serves, and installs it together with what changed meanwhile. A base waits for its first graph without one, and is
//! then scanned.

use std::{collections::HashSet, sync::Arc};

use edgewise_types::{ChunkId, Generation};
use serde::{Deserialize, Serialize};

use crate::{
    GraphOptions, VectorError,
    flat::Flat,
    graph::{Graph, Walk},
    kernel::pack,
    top::Top,
};

/// How far from 1 the length of a unit vector may be: room for `f32` rounding, none for a missing normalisation.
const UNIT_TOLERANCE: f64 = 1e-3;

/// A base is rebuilt when one in this many of its rows is a tombstone.
const TOMBSTONE_SHARE: usize = 5;
/// Or when the tail has one for this many rows of the base.
const TAIL_SHARE: usize = 4;
/// A filter that lets through less than one in this many chunks is answered by a scan: a walk would take longer.
const SELECTIVE: usize = 20;
/// And so is a search for more than one in this many chunks.
const MANY: usize = 50;
/// Rows asked about a filter to see how many it lets through.
const SAMPLE: usize = 256;

/// A filter over chunks.
type Filter<'f> = Option<&'f (dyn Fn(ChunkId) -> bool + Sync)>;

/// How a search goes about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Method {
    /// By the graph where there is one and it pays, else a scan.
    #[default]
    Auto,
    /// A scan that reads 8-bit codes and some floats. Exact.
    Codes,
    /// A scan that reads all floats. Exact, bit by bit the same.
    Floats,
    /// By the graph where there is one, keeping this many candidates.
    Graph {
        /// Candidates kept, at least the hits asked for.
        ef: usize,
    },
}

/// What an index consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexStats {
    /// Vectors.
    pub vectors: usize,
    /// Of these, under a graph; 0 if all are scanned.
    pub graph: usize,
    /// Rows that were removed and still take room.
    pub tombstones: usize,
    /// Bytes of vectors and codes.
    pub vector_bytes: usize,
    /// Bytes that a scan reads.
    pub code_bytes: usize,
    /// Bytes of the graph.
    pub graph_bytes: usize,
}

/// A chunk found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct VectorHit {
    /// Its id.
    pub chunk: ChunkId,
    /// Cosine of its vector and the query, -1 to 1.
    pub score: f32,
}

/// Rows that no longer change.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    pub(crate) flat: Arc<Flat>,
    pub(crate) graph: Option<Arc<Graph>>,
    /// By row: removed since.
    pub(crate) dead: Vec<bool>,
    pub(crate) dead_rows: usize,
}

impl Base {
    pub(crate) fn new(flat: Arc<Flat>, graph: Option<Arc<Graph>>) -> Self {
        let dead = vec![false; flat.len()];
        Self { flat, graph, dead, dead_rows: 0 }
    }

    /// Row of a chunk that is not removed.
    pub(crate) fn live_row(&self, chunk: ChunkId) -> Option<usize> {
        self.flat.row_of.get(&chunk).copied().filter(|row| !self.dead[*row])
    }

    /// Makes the row of a chunk a tombstone. False if there is none.
    pub(crate) fn bury(&mut self, chunk: ChunkId) -> bool {
        let Some(row) = self.live_row(chunk) else { return false };
        self.dead[row] = true;
        self.dead_rows += 1;
        true
    }

    pub(crate) fn live(&self) -> usize {
        self.flat.len() - self.dead_rows
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

/// What a new base is built from.
#[derive(Debug)]
pub struct Rebuild {
    base: Base,
    tail: Flat,
    options: GraphOptions,
}

/// A new base, to be installed.
#[derive(Debug)]
pub struct Rebuilt {
    flat: Arc<Flat>,
    graph: Option<Graph>,
}

impl Rebuild {
    /// Puts the live vectors together, and builds and probes a graph if there are enough of them. Takes minutes for
    /// hundreds of thousands of vectors, uses the threads of the current rayon pool, and needs no lock.
    ///
    /// # Errors
    /// [`VectorError::Graph`] if the graph is not sound: tell the index with [`VectorIndex::abandon`]; it goes on without.
    pub fn build(self) -> Result<Rebuilt, VectorError> {
        let Self { base, tail, options } = self;
        let flat = if base.dead_rows == 0 && tail.len() == 0 {
            base.flat
        } else {
            let mut flat = Flat::new(tail.dimension);
            flat.reserve(base.live() + tail.len());
            for (row, chunk) in base.flat.ids.iter().enumerate().filter(|(row, _)| !base.dead[*row]) {
                flat.insert_row(*chunk, base.flat.row(row));
            }
            for (row, chunk) in tail.ids.iter().enumerate() {
                flat.insert_row(*chunk, tail.row(row));
            }
            Arc::new(flat)
        };
        let graph =
            if flat.len() < options.threshold.max(1) { None } else { Some(Graph::build(Arc::clone(&flat), options)?) };
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
        self.tail.row_of.contains_key(&chunk) || self.base.as_ref().is_some_and(|base| base.live_row(chunk).is_some())
    }

    /// The vector of a chunk.
    pub fn vector(&self, chunk: ChunkId) -> Option<Vec<f32>> {
        if let Some(row) = self.tail.row_of.get(&chunk) {
            return Some(self.tail.vector(*row).collect());
        }
        let base = self.base.as_ref()?;
        Some(base.flat.vector(base.live_row(chunk)?).collect())
    }

    /// Every chunk that has a vector here, in no particular order.
    pub fn chunks(&self) -> impl Iterator<Item = ChunkId> {
        let live = |base: &'_ Base, row: usize| !base.dead[row];
        let base = self.base.iter().flat_map(move |base| {
            base.flat.ids.iter().enumerate().filter(move |(row, _)| live(base, *row)).map(|(_, chunk)| chunk)
        });
        base.chain(&self.tail.ids).copied()
    }

    /// Whether a graph serves, and over how many vectors; `None` if all are scanned.
    pub fn graph_len(&self) -> Option<usize> {
        self.base.as_ref().filter(|base| base.graph.is_some()).map(Base::live)
    }

    /// What it consists of.
    pub fn stats(&self) -> IndexStats {
        let base = self.base.as_ref();
        let graph = base.and_then(|base| base.graph.as_ref());
        let sum = |bytes: fn(&Flat) -> usize| bytes(&self.tail) + base.map_or(0, |base| bytes(&base.flat));
        IndexStats {
            vectors: self.len(),
            graph: self.graph_len().unwrap_or(0),
            tombstones: base.map_or(0, |base| base.dead_rows),
            vector_bytes: sum(Flat::bytes),
            code_bytes: sum(Flat::code_bytes),
            graph_bytes: graph.map_or(0, |graph| graph.bytes()),
        }
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
        self.base.as_mut().is_some_and(|base| base.bury(chunk))
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
        self.search_by(Method::Auto, query, k, filter)
    }

    /// As [`Self::search`], but always exact.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub fn search_exact(
        &self,
        query: &[f32],
        k: usize,
        filter: Option<&(dyn Fn(ChunkId) -> bool + Sync)>,
    ) -> Result<Vec<VectorHit>, VectorError> {
        self.search_by(Method::Codes, query, k, filter)
    }

    /// As [`Self::search`], by a method of the caller's choice.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub fn search_by(
        &self,
        method: Method,
        query: &[f32],
        k: usize,
        filter: Option<&(dyn Fn(ChunkId) -> bool + Sync)>,
    ) -> Result<Vec<VectorHit>, VectorError> {
        self.validate(query)?;
        if k == 0 {
            return Ok(Vec::new());
        }
        let chosen = match method {
            Method::Auto => self.walk_pays(k, filter).then(|| self.options.ef_search.max(2 * k)),
            Method::Graph { ef } => Some(ef.max(k)),
            Method::Codes | Method::Floats => None,
        };
        let walked = chosen.and_then(|ef| self.walk(query, k, ef, filter));
        Ok(walked.unwrap_or_else(|| self.scan(query, k, filter, method == Method::Floats)).into_hits())
    }

    /// Whether the graph, if there is one, is faster than a scan.
    fn walk_pays(&self, k: usize, filter: Filter<'_>) -> bool {
        let Some(base) = self.base.as_ref().filter(|base| base.graph.is_some()) else { return false };
        let rows = base.flat.len();
        if k.saturating_mul(MANY) > rows {
            return false;
        }
        let Some(filter) = filter else { return base.live() * SELECTIVE >= rows };
        let sample = rows.min(SAMPLE);
        let wanted = |at: usize| {
            let row = at * rows / sample;
            !base.dead[row] && filter(base.flat.ids[row])
        };
        (0..sample).filter(|at| wanted(*at)).count() * SELECTIVE >= sample
    }

    /// By the graph; `None` if there is none, or it does not answer.
    fn walk(&self, query: &[f32], k: usize, ef: usize, filter: Filter<'_>) -> Option<Top> {
        let base = self.base.as_ref()?;
        let wanted =
            |row: u32| !base.dead[row as usize] && filter.is_none_or(|filter| filter(base.flat.ids[row as usize]));
        let Walk::Rows(rows) = base.graph.as_ref()?.search(query, k, ef, &wanted) else { return None };
        if rows.len() < k && rows.len() < base.live() {
            // Either there are no more, or the graph does not find them.
            return None;
        }
        let packed = pack(query);
        let mut top = self.scan_tail(query, k, filter, false);
        for row in rows {
            top.push(base.flat.ids[row as usize], base.flat.score(&packed, row as usize));
        }
        Some(top)
    }

    fn scan_tail(&self, query: &[f32], k: usize, filter: Filter<'_>, floats: bool) -> Top {
        let ids = &self.tail.ids;
        let passes = filter.map(|filter| move |row: usize| filter(ids[row]));
        let wanted = passes.as_ref().map(|passes| passes as &(dyn Fn(usize) -> bool + Sync));
        if floats { self.tail.search_floats(query, k, wanted) } else { self.tail.search(query, k, wanted) }
    }

    fn scan(&self, query: &[f32], k: usize, filter: Filter<'_>, floats: bool) -> Top {
        let tail = self.scan_tail(query, k, filter, floats);
        let Some(base) = &self.base else { return tail };
        let wanted = |row: usize| !base.dead[row] && filter.is_none_or(|filter| filter(base.flat.ids[row]));
        let all = base.dead_rows == 0 && filter.is_none();
        let wanted = (!all).then_some(&wanted as &(dyn Fn(usize) -> bool + Sync));
        let found = if floats { base.flat.search_floats(query, k, wanted) } else { base.flat.search(query, k, wanted) };
        found.merge(tail)
    }

    /// Whether a new base is worth building: there are many vectors without a graph, many tombstones, or a long tail.
    /// False while one is being built.
    pub fn rebuild_due(&self) -> bool {
        if self.changed.is_some() {
            return false;
        }
        let many = self.len() >= self.options.threshold;
        if many && self.refused_at.is_some_and(|refused| self.len() < refused + refused / 2) {
            return false;
        }
        let Some(base) = &self.base else { return many };
        let rows = base.flat.len();
        let crowded = base.dead_rows * TOMBSTONE_SHARE >= rows;
        crowded || many && (base.graph.is_none() || self.tail.len() * TAIL_SHARE >= rows)
    }

    /// Begins a rebuild. From here on, changes are remembered until [`Self::install`] or [`Self::abandon`]. Takes the
    /// time of copying the tail, unless there is no base yet.
    pub fn begin_rebuild(&mut self) -> Rebuild {
        self.changed = Some(HashSet::new());
        let empty = Flat::new(self.dimension);
        let (base, tail) = match &self.base {
            Some(base) => (base.clone(), self.tail.clone()),
            None => (Base::new(Arc::new(std::mem::replace(&mut self.tail, empty.clone())), None), empty),
        };
        self.base.get_or_insert_with(|| base.clone());
        Rebuild { base, tail, options: self.options }
    }

    /// Whether a rebuild was begun that is neither installed nor abandoned.
    pub fn rebuilding(&self) -> bool {
        self.changed.is_some()
    }

    /// Puts a new base in place, together with what changed since it was begun. Does nothing if none was begun: what
    /// changed is then not known.
    pub fn install(&mut self, rebuilt: Rebuilt) {
        let Some(changed) = self.changed.take() else { return };
        let mut tail = Flat::new(self.dimension);
        for chunk in &changed {
            if let Some(vector) = self.vector(*chunk) {
                tail.insert(*chunk, &vector);
            }
        }
        self.refused_at = None;
        self.base = None;
        self.tail = tail;
        let Rebuilt { flat, graph } = rebuilt;
        if let Some(graph) = graph {
            let mut base = Base::new(flat, Some(Arc::new(graph)));
            changed.into_iter().for_each(|chunk| {
                base.bury(chunk);
            });
            self.base = Some(base);
            return;
        }
        // Few vectors: they may change in place.
        let mut all = Arc::unwrap_or_clone(flat);
        for chunk in changed {
            match self.tail.row_of.get(&chunk) {
                Some(row) => all.insert_row(chunk, self.tail.row(*row)),
                None => {
                    all.remove(chunk);
                }
            }
        }
        self.tail = all;
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
