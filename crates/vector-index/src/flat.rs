//! Vectors in rows, scanned exactly.
//!
//! A scan reads 8-bit codes first, a quarter of the memory. Quantisation moves a score by no more than a known bound, so
//! every row whose upper bound reaches the k-th best lower bound is scored again in full: the result is that of a scan of
//! the floats, bit by bit, at about the cost of a scan of the codes. Few vectors are scanned in full at once.
//!
//! Deliberately not here: tombstones, graphs, files.

use std::collections::HashMap;

use edgewise_types::ChunkId;
use rayon::prelude::*;

use crate::{
    VectorHit,
    kernel::{Block, Coded, LANES, blocks_for, dot, dot_codes, encode, pack, pack_into, vectorised},
    top::Top,
};

/// Rows each thread scans at a time. Below two of these a scan takes less time than waking a thread.
pub(crate) const ROWS_PER_TASK: usize = 2048;

/// Below this many rows the floats are in the cache anyway.
const CODES_FROM: usize = 4096;

/// Room in the bound of a coded score for rounding of 32-bit floats, and for vectors that are not quite of length 1.
const SLACK: f32 = 1e-4;

/// A filter over chunks.
pub(crate) type Filter<'f> = Option<&'f (dyn Fn(ChunkId) -> bool + Sync)>;

/// Unit vectors by chunk. 5 bytes per dimension and vector, plus about 50 per vector.
#[derive(Debug, Clone)]
pub(crate) struct Flat {
    pub(crate) dimension: usize,
    /// Chunk of each row. Removing a row moves the last one into its place.
    pub(crate) ids: Vec<ChunkId>,
    /// Rows of `blocks_for(dimension)` blocks.
    pub(crate) rows: Vec<Block>,
    codes: Vec<i8>,
    coded: Vec<Coded>,
    pub(crate) row_of: HashMap<ChunkId, usize>,
}

impl Flat {
    pub(crate) fn new(dimension: usize) -> Self {
        Self {
            dimension,
            ids: Vec::new(),
            rows: Vec::new(),
            codes: Vec::new(),
            coded: Vec::new(),
            row_of: HashMap::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// Blocks of a row.
    pub(crate) fn width(&self) -> usize {
        blocks_for(self.dimension)
    }

    pub(crate) fn reserve(&mut self, additional: usize) {
        let width = self.width();
        self.ids.reserve(additional);
        self.rows.reserve(additional * width);
        self.codes.reserve(additional * width * LANES);
        self.coded.reserve(additional);
        self.row_of.reserve(additional);
    }

    pub(crate) fn row(&self, row: usize) -> &[Block] {
        let width = self.width();
        &self.rows[row * width..(row + 1) * width]
    }

    fn codes(&self, row: usize) -> &[i8] {
        let width = self.width() * LANES;
        &self.codes[row * width..(row + 1) * width]
    }

    /// Inserts or replaces the vector of a chunk, of the right dimension.
    pub(crate) fn insert(&mut self, chunk: ChunkId, vector: &[f32]) {
        let mut blocks = vec![Block::ZERO; self.width()];
        pack_into(vector, &mut blocks);
        self.insert_row(chunk, &blocks);
    }

    pub(crate) fn insert_row(&mut self, chunk: ChunkId, blocks: &[Block]) {
        let width = self.width();
        let row = match self.row_of.get(&chunk) {
            Some(row) => *row,
            None => {
                let row = self.ids.len();
                self.ids.push(chunk);
                self.rows.resize(self.rows.len() + width, Block::ZERO);
                self.codes.resize(self.codes.len() + width * LANES, 0);
                self.coded.push(Coded { scale: 1.0, error: 0.0 });
                self.row_of.insert(chunk, row);
                row
            }
        };
        self.rows[row * width..(row + 1) * width].copy_from_slice(blocks);
        self.coded[row] = encode(blocks, &mut self.codes[row * width * LANES..(row + 1) * width * LANES]);
    }

    /// Removes the vector of a chunk. False if there was none.
    pub(crate) fn remove(&mut self, chunk: ChunkId) -> bool {
        let Some(row) = self.row_of.remove(&chunk) else { return false };
        let (width, last) = (self.width(), self.ids.len() - 1);
        self.ids.swap_remove(row);
        self.coded.swap_remove(row);
        if row != last {
            self.rows.copy_within(last * width..(last + 1) * width, row * width);
            self.codes.copy_within(last * width * LANES..(last + 1) * width * LANES, row * width * LANES);
            self.row_of.insert(self.ids[row], row);
        }
        self.rows.truncate(last * width);
        self.codes.truncate(last * width * LANES);
        true
    }

    /// The vector in `row`, without padding.
    pub(crate) fn vector(&self, row: usize) -> impl Iterator<Item = f32> {
        self.row(row).iter().flat_map(|block| block.0).take(self.dimension)
    }

    /// Exact score of a row.
    pub(crate) fn score(&self, query: &[Block], row: usize) -> f32 {
        vectorised(|| dot(query, self.row(row)))
    }

    /// The `k` rows nearest to `query`, among those that `filter` lets through.
    pub(crate) fn search(&self, query: &[f32], k: usize, filter: Filter<'_>) -> Top {
        let query = pack(query);
        let with_codes = self.len() >= CODES_FROM && k * 4 <= self.len();
        let scan = |rows: std::ops::Range<usize>| {
            if with_codes { self.scan_codes(&query, k, filter, rows) } else { self.scan(&query, k, filter, rows) }
        };
        if self.len() < 2 * ROWS_PER_TASK || rayon::current_num_threads() == 1 {
            return scan(0..self.len());
        }
        let tasks = self.len().div_ceil(ROWS_PER_TASK);
        (0..tasks)
            .into_par_iter()
            .map(|task| scan(task * ROWS_PER_TASK..((task + 1) * ROWS_PER_TASK).min(self.len())))
            .reduce(|| Top::new(k), Top::merge)
    }

    fn scan(&self, query: &[Block], k: usize, filter: Filter<'_>, rows: std::ops::Range<usize>) -> Top {
        vectorised(|| {
            let mut top = Top::new(k);
            for row in rows {
                if filter.is_none_or(|filter| filter(self.ids[row])) {
                    top.push(self.ids[row], dot(query, self.row(row)));
                }
            }
            top
        })
    }

    fn scan_codes(&self, query: &[Block], k: usize, filter: Filter<'_>, rows: std::ops::Range<usize>) -> Top {
        let mut codes = vec![0; query.len() * LANES];
        let coded = encode(query, &mut codes);
        let (mut near, mut lower) = (Vec::with_capacity(rows.len()), Top::new(k));
        vectorised(|| {
            for row in rows {
                if filter.is_none_or(|filter| filter(self.ids[row])) {
                    let Coded { scale, error } = self.coded[row];
                    let score = dot_codes(&codes, self.codes(row)) as f32 * (scale * coded.scale);
                    // q·x − q̂·x̂ = (q − q̂)·x + q̂·(x − x̂), with |x| = 1 and |q̂| ≤ 1 + |q − q̂|.
                    let bound = coded.error + (1.0 + coded.error) * error + SLACK;
                    near.push((row, score + bound));
                    lower.push(self.ids[row], score - bound);
                }
            }
        });
        let least = lower.least();
        let mut top = Top::new(k);
        for (row, upper) in near {
            if least.is_none_or(|least| upper >= least) {
                top.push(self.ids[row], self.score(query, row));
            }
        }
        top
    }

    /// Scores of single rows, for callers that know which.
    pub(crate) fn hits(&self, query: &[f32], rows: impl Iterator<Item = usize>) -> Vec<VectorHit> {
        let query = pack(query);
        rows.map(|row| VectorHit { chunk: self.ids[row], score: self.score(&query, row) }).collect()
    }
}
