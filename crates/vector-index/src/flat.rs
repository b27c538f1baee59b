//! Vectors in rows, scanned exactly.
//!
//! A scan reads 8-bit codes first, a quarter of the memory. Quantisation moves a score by no more than a known bound, so
//! every row whose upper bound reaches the k-th best lower bound is scored again in full: the result is that of a scan of
//! the floats, bit by bit, at about the cost of a scan of the codes. Few vectors are scanned in full at once.
//!
//! Deliberately not here: tombstones, graphs, files.

use std::{collections::HashMap, ops::Range};

use edgewise_kernels::{CodedQuery, MAX_WIDTH, ZERO_CODE};
use edgewise_types::ChunkId;
use rayon::prelude::*;

#[cfg(test)]
use crate::VectorHit;
use crate::{
    kernel::{Block, Coded, LANES, blocks_for, dots, encode, pack, pack_into},
    top::Top,
};

/// Rows each thread scans at a time, at least. Below two of these a scan takes less time than waking a thread.
pub(crate) const ROWS_PER_TASK: usize = 2048;

/// Parts for each thread, so that one that is held up does not hold up all.
const TASKS_PER_THREAD: usize = 4;

/// Below this many rows the floats are in the cache anyway.
pub(crate) const CODES_FROM: usize = 2048;

/// Rows that are multiplied before the products are looked at.
const STEP: usize = 256;

/// A filter over rows.
pub(crate) type Wanted<'f> = Option<&'f (dyn Fn(usize) -> bool + Sync)>;

/// Unit vectors by chunk. 5 bytes per dimension and vector, plus about 50 per vector.
#[derive(Debug, Clone)]
pub(crate) struct Flat {
    pub(crate) dimension: usize,
    /// Chunk of each row. Removing a row moves the last one into its place.
    pub(crate) ids: Vec<ChunkId>,
    /// Rows of `blocks_for(dimension)` blocks.
    pub(crate) rows: Vec<Block>,
    codes: Vec<u8>,
    coded: Vec<Coded>,
    pub(crate) row_of: HashMap<ChunkId, usize>,
}

/// A query in 8 bits.
pub(crate) struct NearQuery {
    codes: CodedQuery,
    coded: Coded,
    slack: f32,
}

/// What codes say of a row's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Estimate {
    pub(crate) score: f32,
    /// The exact score is no further away.
    pub(crate) bound: f32,
}

impl NearQuery {
    fn new(query: &[Block]) -> Self {
        let mut bytes = vec![ZERO_CODE; query.len() * LANES];
        let coded = encode(query, &mut bytes);
        // Room for rounding of 32-bit sums, of dimension / 32 terms a lane, and for lengths that are not quite 1.
        let slack = 1e-4 + bytes.len() as f32 * 4e-9;
        Self { codes: CodedQuery::of_row(&bytes), coded, slack }
    }

    #[inline(always)]
    fn estimate(&self, sum: i32, row: Coded) -> Estimate {
        // q·x − q̂·x̂ = (q − q̂)·x + q̂·(x − x̂), with |x| = 1 and |q̂| ≤ 1 + |q − q̂|.
        let bound = self.coded.error + (1.0 + self.coded.error) * row.error + self.slack;
        Estimate { score: sum as f32 * (row.scale * self.coded.scale), bound }
    }
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

    /// Bytes of the codes, which a scan reads.
    pub(crate) fn code_bytes(&self) -> usize {
        self.codes.len() + self.coded.len() * size_of::<Coded>()
    }

    /// Bytes of everything.
    pub(crate) fn bytes(&self) -> usize {
        let entry = size_of::<(ChunkId, usize)>() + 1;
        let lists = self.ids.capacity() * size_of::<ChunkId>() + self.rows.capacity() * size_of::<Block>();
        lists
            + self.codes.capacity()
            + self.coded.capacity() * size_of::<Coded>()
            + self.row_of.capacity() * 8 / 7 * entry
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

    /// The codes of a row.
    pub(crate) fn codes(&self, row: usize) -> &[u8] {
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
                self.codes.resize(self.codes.len() + width * LANES, ZERO_CODE);
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
        let mut score = [0.0];
        dots(query, self.row(row), &mut score);
        score[0]
    }

    /// The query in 8 bits; `query` is packed.
    pub(crate) fn near_query(&self, query: &[Block]) -> NearQuery {
        NearQuery::new(query)
    }

    /// Row `row` as a query, its code scores comparable with those of [`Self::estimates`].
    pub(crate) fn row_query(&self, row: usize) -> NearQuery {
        NearQuery { codes: CodedQuery::of_row(self.codes(row)), coded: self.coded[row], slack: 0.0 }
    }

    /// What codes say of the scores of single rows; `sums` is room to work in.
    pub(crate) fn estimates<'f>(
        &'f self,
        query: &'f NearQuery,
        rows: &'f [u32],
        sums: &'f mut Vec<i32>,
    ) -> impl Iterator<Item = Estimate> + 'f {
        query.codes.dot_at(&self.codes, rows, sums);
        sums.iter().zip(rows).map(|(sum, row)| query.estimate(*sum, self.coded[*row as usize]))
    }

    /// What codes say of one row's score.
    pub(crate) fn estimate(&self, query: &NearQuery, row: usize) -> Estimate {
        let mut sum = [0];
        query.codes.dot_rows(self.codes(row), &mut sum);
        query.estimate(sum[0], self.coded[row])
    }

    /// The `k` rows nearest to `query`, among those that are `wanted`.
    pub(crate) fn search(&self, query: &[f32], k: usize, wanted: Wanted<'_>) -> Top {
        let codes_pay = self.len() >= CODES_FROM && k * 4 <= self.len();
        if codes_pay { self.search_codes(query, k, wanted) } else { self.search_floats(query, k, wanted) }
    }

    /// As [`Self::search`], reading every float.
    pub(crate) fn search_floats(&self, query: &[f32], k: usize, wanted: Wanted<'_>) -> Top {
        let query = pack(query);
        self.in_parts(|rows| self.scan(&query, k, wanted, rows)).into_iter().fold(Top::new(k), Top::merge)
    }

    /// As [`Self::search`], reading every code and some floats.
    pub(crate) fn search_codes(&self, query: &[f32], k: usize, wanted: Wanted<'_>) -> Top {
        if self.width() * LANES > MAX_WIDTH {
            return self.search_floats(query, k, wanted);
        }
        let query = pack(query);
        let near_query = self.near_query(&query);
        let parts = self.in_parts(|rows| self.scan_codes(&near_query, k, wanted, rows));
        let (mut lower, mut near) = (Top::new(k), Vec::new());
        for (part_lower, part_near) in parts {
            lower = lower.merge(part_lower);
            near.push(part_near);
        }
        let least = lower.least().unwrap_or(f32::NEG_INFINITY);
        let mut top = Top::new(k);
        for (row, _) in near.into_iter().flatten().filter(|(_, upper)| *upper >= least) {
            top.push(self.ids[row as usize], self.score(&query, row as usize));
        }
        top
    }

    /// Runs `scan` on all rows in parts, on the threads of the current pool if there are enough rows.
    fn in_parts<R: Send>(&self, scan: impl Fn(Range<usize>) -> R + Sync) -> Vec<R> {
        let threads = rayon::current_num_threads();
        if self.len() < 2 * ROWS_PER_TASK || threads == 1 {
            return vec![scan(0..self.len())];
        }
        let rows = self.len().div_ceil(threads * TASKS_PER_THREAD).max(ROWS_PER_TASK);
        let parts = 0..self.len().div_ceil(rows);
        parts.into_par_iter().map(|part| scan(part * rows..((part + 1) * rows).min(self.len()))).collect()
    }

    fn scan(&self, query: &[Block], k: usize, wanted: Wanted<'_>, rows: Range<usize>) -> Top {
        let width = self.width();
        let mut top = Top::new(k);
        let mut scores = [0.0; STEP];
        for start in rows.clone().step_by(STEP) {
            let step = start..(start + STEP).min(rows.end);
            let scores = &mut scores[..step.len()];
            dots(query, &self.rows[step.start * width..step.end * width], scores);
            for (row, score) in step.zip(scores) {
                // Asking costs more than a score: only about rows that would count.
                if top.least().is_none_or(|least| *score >= least) && wanted.is_none_or(|wanted| wanted(row)) {
                    top.push(self.ids[row], *score);
                }
            }
        }
        top
    }

    /// The k best lower bounds, and rows, with their upper bounds, among which the k best are.
    fn scan_codes(
        &self,
        query: &NearQuery,
        k: usize,
        wanted: Wanted<'_>,
        rows: Range<usize>,
    ) -> (Top, Vec<(u32, f32)>) {
        let width = self.width() * LANES;
        let (mut lower, mut near) = (Top::new(k), Vec::new());
        let mut sums = [0; STEP];
        for start in rows.clone().step_by(STEP) {
            let step = start..(start + STEP).min(rows.end);
            let sums = &mut sums[..step.len()];
            query.codes.dot_rows(&self.codes[step.start * width..step.end * width], sums);
            for (row, sum) in step.zip(sums) {
                let Estimate { score, bound } = query.estimate(*sum, self.coded[row]);
                if lower.least().is_none_or(|least| score + bound >= least) && wanted.is_none_or(|wanted| wanted(row)) {
                    near.push((row as u32, score + bound));
                    lower.push(self.ids[row], score - bound);
                }
            }
        }
        (lower, near)
    }

    /// Scores of single rows, for callers that know which.
    #[cfg(test)]
    pub(crate) fn hits(&self, query: &[f32], rows: impl Iterator<Item = usize>) -> Vec<VectorHit> {
        let query = pack(query);
        rows.map(|row| VectorHit { chunk: self.ids[row], score: self.score(&query, row) }).collect()
    }
}
