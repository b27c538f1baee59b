//! A graph over rows that no longer change (hierarchical navigable small world, Malkov and Yashunin, TPAMI 2020), by
//! `hnsw_rs`.
//!
//! `hnsw_rs` can't delete, can leave a point that no search reaches, and copies what it indexes. So points here are row
//! numbers (their distance looks the rows up; nothing is copied), removed rows are filtered by the caller, and a new graph
//! is probed: each row is searched for, and those that do not find themselves are kept in a list that searches scan
//! beside the graph. A graph that loses many is refused.
//!
//! Deliberately not here: which rows are live, when a graph is worth building, files beyond the dump itself.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use hnsw_rs::prelude::{AnnT, Distance, Hnsw, HnswIo};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{
    VectorError, VectorHit,
    flat::Flat,
    kernel::{LANES, dot, pack, vectorised},
};

/// How a graph is built and searched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GraphOptions {
    /// From this many vectors on a graph is built; fewer are scanned.
    pub threshold: usize,
    /// Neighbours of a point (M of the paper).
    pub neighbours: usize,
    /// Candidates kept while building.
    pub ef_construction: usize,
    /// Candidates kept while searching, at least; twice the hits asked for if that is more.
    pub ef_search: usize,
}

impl Default for GraphOptions {
    fn default() -> Self {
        Self { threshold: 50_000, neighbours: 16, ef_construction: 200, ef_search: 160 }
    }
}

/// Share of rows that may be out of reach of a new graph.
const MOST_UNREACHED: f64 = 0.02;
/// Candidates kept while a row is searched for itself.
const PROBE_EF: usize = 48;
const MAX_LAYER: usize = 16;

/// Cosine distance of rows. A point of one number is a row; a longer one is a query, its floats as bits.
#[derive(Clone)]
struct RowDistance(Arc<Flat>);

impl Distance<u32> for RowDistance {
    fn eval(&self, a: &[u32], b: &[u32]) -> f32 {
        let cosine = match (a, b) {
            ([a], [b]) => vectorised(|| dot(self.0.row(*a as usize), self.0.row(*b as usize))),
            ([row], query) | (query, [row]) => vectorised(|| dot_bits(query, self.0.row(*row as usize))),
            _ => 0.0,
        };
        // hnsw_rs wants no negative distance; rounding can give one.
        (1.0 - cosine).max(0.0)
    }
}

/// Dot product of a query's bits, padded to whole blocks, and a row.
#[inline(always)]
fn dot_bits(query: &[u32], row: &[crate::kernel::Block]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (bits, block) in query.as_chunks::<LANES>().0.iter().zip(row) {
        for ((sum, bits), value) in sums.iter_mut().zip(bits).zip(&block.0) {
            *sum += f32::from_bits(*bits) * value;
        }
    }
    sums.iter().sum()
}

/// A graph over all rows of a [`Flat`].
pub(crate) struct Graph {
    flat: Arc<Flat>,
    hnsw: Hnsw<'static, u32, RowDistance>,
    /// Rows that the graph does not find, ascending.
    pub(crate) unreached: Vec<u32>,
    pub(crate) options: GraphOptions,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph")
            .field("rows", &self.flat.len())
            .field("unreached", &self.unreached.len())
            .finish_non_exhaustive()
    }
}

impl Graph {
    /// Builds and probes a graph, with the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`VectorError::Graph`] if it does not find its own rows.
    pub(crate) fn build(flat: Arc<Flat>, options: GraphOptions) -> Result<Self, VectorError> {
        let rows =
            u32::try_from(flat.len()).map_err(|_| VectorError::Graph { reason: "too many vectors".to_owned() })?;
        let hnsw = Hnsw::new(
            options.neighbours.clamp(4, 255),
            flat.len().max(1),
            MAX_LAYER,
            options.ef_construction,
            RowDistance(Arc::clone(&flat)),
        );
        (0..rows).into_par_iter().for_each(|row| hnsw.insert_slice((&[row], row as usize)));
        let mut graph = Self { flat, hnsw, unreached: Vec::new(), options };
        graph.unreached = (0..rows).into_par_iter().filter(|row| !graph.finds(*row)).collect();
        let most = (f64::from(rows) * MOST_UNREACHED).ceil() as usize;
        if graph.unreached.len() > most {
            let reason = format!("{} of {rows} vectors do not find themselves in it", graph.unreached.len());
            return Err(VectorError::Graph { reason });
        }
        Ok(graph)
    }

    /// Whether a search for a row finds it, or one exactly as near.
    fn finds(&self, row: u32) -> bool {
        let found = self.hnsw.search(&[row], 1, PROBE_EF);
        let own = self.hnsw.get_distance().eval(&[row], &[row]);
        found.first().is_some_and(|found| found.d_id == row as usize || found.distance <= own)
    }

    /// About the `k` nearest rows, in no particular order, with exact scores; rows out of the graph's reach included.
    pub(crate) fn search(&self, query: &[f32], k: usize) -> Vec<VectorHit> {
        let bits: Vec<u32> = pack(query).iter().flat_map(|block| block.0.map(f32::to_bits)).collect();
        let ef = self.options.ef_search.max(2 * k);
        let found = self.hnsw.search(&bits, k, ef);
        let rows = found.iter().map(|neighbour| neighbour.d_id).chain(self.unreached.iter().map(|row| *row as usize));
        let mut rows: Vec<usize> = rows.collect();
        rows.sort_unstable();
        rows.dedup();
        self.flat.hits(query, rows.into_iter())
    }

    /// Writes the graph, without vectors, to two files in `folder`, and returns their names. The caller syncs them.
    pub(crate) fn dump(&self, folder: &Path) -> Result<[String; 2], String> {
        let name = self.hnsw.file_dump(folder, NAME).map_err(|error| error.to_string())?;
        Ok([format!("{name}.hnsw.graph"), format!("{name}.hnsw.data")])
    }

    /// Reads what [`Self::dump`] wrote, whose checksums the caller has compared.
    pub(crate) fn load(
        folder: &Path,
        flat: Arc<Flat>,
        unreached: Vec<u32>,
        options: GraphOptions,
    ) -> Result<Self, String> {
        // A loaded graph borrows from its reader, which is a path and a few flags: leaked, once a start.
        let reader: &'static HnswIo = Box::leak(Box::new(HnswIo::new(folder, NAME)));
        let distance = RowDistance(Arc::clone(&flat));
        let loaded = catch_unwind(AssertUnwindSafe(|| reader.load_hnsw_with_dist::<u32, RowDistance>(distance)));
        let hnsw = match loaded {
            Ok(Ok(hnsw)) => hnsw,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("its files are damaged".to_owned()),
        };
        if hnsw.get_nb_point() != flat.len() || unreached.iter().any(|row| *row as usize >= flat.len()) {
            return Err("it is of other vectors".to_owned());
        }
        Ok(Self { flat, hnsw, unreached, options })
    }
}

/// Name of the dump's files, before their endings.
const NAME: &str = "graph";
