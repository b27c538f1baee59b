//! Causal attention of new positions over all positions of a sequence, with grouped query heads.
//!
//! Blocked online softmax (Milakov and Gimelshein, <https://arxiv.org/abs/1805.02867>; Dao et al.,
//! <https://arxiv.org/abs/2205.14135>): scores exist only for one page of 32 keys at a time, so memory beyond the
//! operands does not grow with the length. A register tile is up to twelve query rows by 32 keys; the rows are the query
//! heads that share a key-value head, at successive positions.
//!
//! Keys are cut into segments of 512 at absolute positions. Each segment has its own running maximum and sum, and
//! segments are merged in order. So a single query over a long sequence is spread over threads, and yet its result is
//! the same, bit for bit, as in a large batch.

use half::f16;
use rayon::prelude::*;

use crate::{
    KernelError, KvLayout,
    error::check_length,
    kv_layout::PAGE,
    simd::{Isa, Kernel, LANES, Simd, with_tile},
};

/// Pages in a segment.
const SEGMENT_PAGES: usize = 16;
/// Register tiles of query rows that go over a page while it is in the first-level cache.
const TILES_PER_TASK: usize = 2;
/// Tasks per thread below which segments are shared out too.
const TASKS_PER_THREAD: usize = 4;
/// Below this many elements the result is not gathered by several threads.
const PARALLEL_FROM: usize = 16 * 1024;

/// One attention operation.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Shape of keys and values.
    pub layout: KvLayout,
    /// Query heads, a multiple of the key-value heads; head `h` reads key-value head `h·kv_heads/heads`.
    pub heads: usize,
    /// Queries, `[queries, heads, head_dim]`, already rotated.
    pub q: &'a [f32],
    /// Position of the first query. The query at position `p` sees positions `0..=p`.
    pub first_position: usize,
    /// Pages of keys, those of the queries' own positions included.
    pub keys: &'a [f16],
    /// Pages of values.
    pub values: &'a [f16],
}

impl Attention<'_> {
    /// Writes the result, `[queries, heads, head_dim]`, using the threads of the current rayon pool. Scores are scaled
    /// by `1/√head_dim`.
    ///
    /// # Errors
    /// [`KernelError`] when shapes don't match or the pages are too few.
    pub fn run(&self, out: &mut [f32]) -> Result<(), KernelError> {
        self.run_with(Isa::detect(), out)
    }

    pub(crate) fn run_with(&self, isa: Isa, out: &mut [f32]) -> Result<(), KernelError> {
        let (kv_heads, head_dim) = (self.layout.kv_heads(), self.layout.head_dim());
        if kv_heads == 0 || self.heads == 0 || !self.heads.is_multiple_of(kv_heads) {
            return Err(KernelError::Dimension {
                what: "the number of query heads",
                actual: self.heads,
                rule: "a positive multiple of the number of key-value heads",
            });
        }
        let width = self.heads * head_dim;
        let queries = self.q.len() / width;
        check_length("the queries", self.q.len(), queries * width)?;
        check_length("the result of attention", out.len(), self.q.len())?;
        let needed = self.layout.elements(self.first_position + queries);
        check_length("the pages of keys", self.keys.len().min(needed), needed)?;
        check_length("the pages of values", self.values.len().min(needed), needed)?;
        if queries == 0 {
            return Ok(());
        }

        let rows = queries * self.heads / kv_heads;
        let rows_per_task = isa.query_rows() * TILES_PER_TASK;
        let tiles = rows.div_ceil(rows_per_task);
        let split = kv_heads * tiles < TASKS_PER_THREAD * rayon::current_num_threads();
        let tasks = (0..kv_heads * tiles).into_par_iter().map(|i| {
            let (kv_head, first) = (i / tiles, i % tiles * rows_per_task);
            Task { attention: *self, kv_head, first_row: first, rows: rows_per_task.min(rows - first), split }
        });
        let partials: Vec<Partial> = tasks.with_max_len(1).map(|task| task.run(isa)).collect();

        let gather = |(i, out): (usize, &mut [f32])| {
            let (position, head) = (i / self.heads, i % self.heads);
            let group = self.heads / kv_heads;
            let row = position * group + head % group;
            let partial = &partials[head / group * tiles + row / rows_per_task];
            partial.finish(row % rows_per_task, out);
        };
        if out.len() < PARALLEL_FROM {
            out.chunks_exact_mut(head_dim).enumerate().for_each(gather);
        } else {
            out.par_chunks_exact_mut(head_dim).enumerate().with_min_len(PARALLEL_FROM / head_dim / 4).for_each(gather);
        }
        Ok(())
    }
}

/// Query rows that share a key-value head: row `r` is query `r / group`, head `kv_head·group + r % group`.
#[derive(Debug, Clone, Copy)]
struct Task<'a> {
    attention: Attention<'a>,
    kv_head: usize,
    first_row: usize,
    rows: usize,
    /// Whether segments are shared out among threads: when there are too few tasks to keep them busy.
    split: bool,
}

impl Task<'_> {
    fn run(&self, isa: Isa) -> Partial {
        let queries = self.queries(isa.query_rows());
        let pages = self.limit(self.rows - 1).div_ceil(PAGE);
        let segment = |first: usize| {
            let mut partial = Partial::new(self.rows, self.attention.layout.head_dim());
            let last = pages.min(first + SEGMENT_PAGES);
            isa.run(Segment { task: self, queries: &queries, pages: (first, last), partial: &mut partial });
            partial
        };
        let starts: Vec<usize> = (0..pages).step_by(SEGMENT_PAGES).collect();
        let mut total = Partial::new(self.rows, self.attention.layout.head_dim());
        if self.split && starts.len() > 1 {
            let partials: Vec<Partial> = starts.into_par_iter().with_max_len(1).map(segment).collect();
            partials.iter().for_each(|partial| total.merge(partial));
        } else {
            starts.into_iter().for_each(|first| total.merge(&segment(first)));
        }
        total
    }

    /// Number of positions that row `row` of this task sees.
    #[inline(always)]
    fn limit(&self, row: usize) -> usize {
        let group = self.attention.heads / self.attention.layout.kv_heads();
        self.attention.first_position + (self.first_row + row) / group + 1
    }

    /// The queries as `[tile][head_dim][row]`, multiplied by `log₂e/√head_dim` so that softmax is in powers of two.
    fn queries(&self, tile: usize) -> Vec<f32> {
        let (heads, head_dim) = (self.attention.heads, self.attention.layout.head_dim());
        let group = heads / self.attention.layout.kv_heads();
        let scale = (std::f64::consts::LOG2_E / (head_dim as f64).sqrt()) as f32;
        let mut queries = vec![0.0; self.rows * head_dim];
        for first in (0..self.rows).step_by(tile) {
            let width = tile.min(self.rows - first);
            let to = &mut queries[first * head_dim..][..width * head_dim];
            for r in 0..width {
                let row = self.first_row + first + r;
                let head = row / group * heads + self.kv_head * group + row % group;
                let q = &self.attention.q[head * head_dim..][..head_dim];
                for (to, q) in to[r..].iter_mut().step_by(width).zip(q) {
                    *to = q * scale;
                }
            }
        }
        queries
    }
}

/// Softmax-weighted sums over some keys, not yet divided by the sum of weights.
#[derive(Debug)]
struct Partial {
    head_dim: usize,
    /// `[row][head_dim]`
    weighted: Vec<f32>,
    /// Largest score of each row, in units of log₂; `-∞` before the first key.
    largest: Vec<f32>,
    /// Sum of weights of each row, relative to the largest.
    total: Vec<f32>,
}

impl Partial {
    fn new(rows: usize, head_dim: usize) -> Self {
        let (weighted, largest) = (vec![0.0; rows * head_dim], vec![f32::NEG_INFINITY; rows]);
        Self { head_dim, weighted, largest, total: vec![0.0; rows] }
    }

    /// Adds the sums over later keys.
    fn merge(&mut self, later: &Self) {
        let rows = self.weighted.chunks_exact_mut(self.head_dim).zip(later.weighted.chunks_exact(self.head_dim));
        for (row, (to, from)) in rows.enumerate() {
            if later.total[row] == 0.0 {
                continue; // It saw no key.
            }
            if self.total[row] == 0.0 {
                to.copy_from_slice(from);
                self.largest[row] = later.largest[row];
                self.total[row] = later.total[row];
                continue;
            }
            let largest = self.largest[row].max(later.largest[row]);
            let (a, b) = ((self.largest[row] - largest).exp2(), (later.largest[row] - largest).exp2());
            for (to, from) in to.iter_mut().zip(from) {
                *to = *to * a + from * b;
            }
            self.largest[row] = largest;
            self.total[row] = self.total[row] * a + later.total[row] * b;
        }
    }

    fn finish(&self, row: usize, out: &mut [f32]) {
        let inverse = 1.0 / self.total[row];
        for (out, sum) in out.iter_mut().zip(&self.weighted[row * self.head_dim..]) {
            *out = sum * inverse;
        }
    }
}

/// The rows of one task over the pages of one segment.
struct Segment<'a> {
    task: &'a Task<'a>,
    queries: &'a [f32],
    pages: (usize, usize),
    partial: &'a mut Partial,
}

impl Kernel for Segment<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let rows = self.task.rows;
        for page in self.pages.0..self.pages.1 {
            for first in (0..rows).step_by(S::QUERY_ROWS) {
                with_tile!(S::QUERY_ROWS.min(rows - first), R => self.tile::<S, R>(s, page, first));
            }
        }
    }
}

impl Segment<'_> {
    /// `R` rows from `first` on, over one page.
    #[inline(always)]
    fn tile<S: Simd, const R: usize>(&mut self, s: S, page: usize, first: usize) {
        if R > S::QUERY_ROWS {
            return; // Never asked for; spares compiling tiles that this instruction set has no registers for.
        }
        let Attention { layout, keys, values, .. } = self.task.attention;
        let head_dim = layout.head_dim();
        let mut seen = [0; R];
        for r in 0..R {
            seen[r] = self.task.limit(first + r).saturating_sub(page * PAGE).min(PAGE);
        }
        // Rows are in order of position, so the last one sees most.
        let most = seen[R - 1];
        if most == 0 {
            return;
        }
        let queries = self.queries[first * head_dim..][..R * head_dim].as_chunks().0;
        let scores = scores::<S, R>(s, queries, layout.head_keys(keys, page, self.task.kv_head));
        let mut weights = [[0.0; PAGE]; R];
        for r in 0..R {
            if seen[r] > 0 {
                self.softmax(s, first + r, scores[r], seen[r], &mut weights[r]);
            }
        }
        let values = layout.head_values(values, page, self.task.kv_head);
        let sums = &mut self.partial.weighted[first * head_dim..][..R * head_dim];
        let (pairs, odd) = values.as_chunks::<2>();
        for (i, pair) in pairs.iter().enumerate() {
            accumulate::<S, R, 2>(s, &weights, pair, most, sums, 2 * i);
        }
        if let [single] = odd {
            accumulate::<S, R, 1>(s, &weights, std::array::from_ref(single), most, sums, values.len() - 1);
        }
    }

    /// Turns the scores of one row with the first `seen` keys of a page into weights, and brings what the row has
    /// summed so far onto the same scale.
    #[inline(always)]
    fn softmax<S: Simd>(&mut self, s: S, row: usize, scores: [S::F; 2], seen: usize, weights: &mut [f32; PAGE]) {
        let scores = if seen < PAGE { keep_first(s, scores, seen, f32::NEG_INFINITY) } else { scores };
        let before = self.partial.largest[row];
        let largest = before.max(s.maximum(s.max(scores[0], scores[1])));
        if largest > before {
            if self.partial.total[row] > 0.0 {
                let factor = s.exp2(s.splat(before - largest));
                let head_dim = self.partial.head_dim;
                for chunk in self.partial.weighted[row * head_dim..][..head_dim].as_chunks_mut().0 {
                    s.store(s.mul(s.load(chunk), factor), chunk);
                }
                let mut lanes = [0.0; LANES];
                s.store(factor, &mut lanes);
                self.partial.total[row] *= lanes[0];
            }
            self.partial.largest[row] = largest;
        }
        let largest = s.splat(largest);
        let powers = [s.exp2(s.sub(scores[0], largest)), s.exp2(s.sub(scores[1], largest))];
        let powers = if seen < PAGE { keep_first(s, powers, seen, 0.0) } else { powers };
        self.partial.total[row] += s.sum(s.add(powers[0], powers[1]));
        let (low, high) = weights.split_at_mut(LANES);
        if let (Some(low), Some(high)) = (low.first_chunk_mut(), high.first_chunk_mut()) {
            s.store(powers[0], low);
            s.store(powers[1], high);
        }
    }
}

/// Replaces the lanes from `count` on of a page's worth of lanes.
#[inline(always)]
fn keep_first<S: Simd>(s: S, x: [S::F; 2], count: usize, fill: f32) -> [S::F; 2] {
    [s.keep_first(x[0], count, fill), s.keep_first(x[1], count.saturating_sub(LANES), fill)]
}

/// Scores of `R` queries with the 32 keys of a page.
#[inline(always)]
fn scores<S: Simd, const R: usize>(s: S, queries: &[[f32; R]], keys: &[[[f16; LANES]; 2]]) -> [[S::F; 2]; R] {
    let mut sums = [[s.splat(0.0); 2]; R];
    for (q, k) in queries.iter().zip(keys) {
        let (low, high) = (s.load_f16(&k[0]), s.load_f16(&k[1]));
        for r in 0..R {
            let q = s.splat(q[r]);
            sums[r] = [s.fma(low, q, sums[r][0]), s.fma(high, q, sums[r][1])];
        }
    }
    sums
}

/// Adds the weighted sum of `C` chunks of 16 dimensions, from chunk `chunk` on, over the first `most` keys of a page.
#[inline(always)]
fn accumulate<S: Simd, const R: usize, const C: usize>(
    s: S,
    weights: &[[f32; PAGE]; R],
    values: &[[[f16; LANES]; PAGE]; C],
    most: usize,
    sums: &mut [f32],
    chunk: usize,
) {
    let sums = sums.as_chunks_mut::<LANES>().0;
    let chunks = sums.len() / R;
    let mut totals = [[s.splat(0.0); C]; R];
    for r in 0..R {
        for c in 0..C {
            totals[r][c] = s.load(&sums[r * chunks + chunk + c]);
        }
    }
    for key in 0..most.min(PAGE) {
        let mut row = [s.splat(0.0); C];
        for c in 0..C {
            row[c] = s.load_f16(&values[c][key]);
        }
        for r in 0..R {
            let weight = s.splat(weights[r][key]);
            for c in 0..C {
                totals[r][c] = s.fma(row[c], weight, totals[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            s.store(totals[r][c], &mut sums[r * chunks + chunk + c]);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        reference,
        testing::{assert_close, values},
    };

    struct Sequence {
        layout: KvLayout,
        heads: usize,
        q: Vec<f32>,
        k: Vec<f32>,
        v: Vec<f32>,
        keys: Vec<f16>,
        values: Vec<f16>,
    }

    impl Sequence {
        /// Random queries, keys and values of `positions` positions; the rest of the last page is poison.
        fn new(positions: usize, heads: usize, kv_heads: usize, head_dim: usize, seed: u64) -> Self {
            let layout = KvLayout::new(kv_heads, head_dim).unwrap();
            let width = kv_heads * head_dim;
            let (k, v) = (values(positions * width, 2.0, seed), values(positions * width, 1.0, seed + 1));
            let mut keys = vec![f16::NAN; layout.elements(positions)];
            let mut pages = keys.clone();
            layout.write(&k, &v, 0, &mut keys, &mut pages).unwrap();
            let q = values(positions * heads * head_dim, 2.0, seed + 2);
            Self { layout, heads, q, k, v, keys, values: pages }
        }

        fn attend(&self, isa: Isa, first: usize, last: usize) -> Vec<f32> {
            let width = self.heads * self.layout.head_dim();
            let mut out = vec![f32::NAN; (last - first) * width];
            let attention = Attention {
                layout: self.layout,
                heads: self.heads,
                q: &self.q[first * width..last * width],
                first_position: first,
                keys: &self.keys,
                values: &self.values,
            };
            attention.run_with(isa, &mut out).unwrap();
            out
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn matches_the_reference(
            positions in 1usize..150, kv_heads in 1usize..4, group in 1usize..6, chunks in 1usize..6, seed: u64,
        ) {
            let (heads, head_dim) = (kv_heads * group, chunks * LANES);
            let s = Sequence::new(positions, heads, kv_heads, head_dim, seed % 1000);
            let first = positions / 3;
            let q = &s.q[first * heads * head_dim..];
            let expected = reference::attention(q, &s.k, &s.v, heads, kv_heads, head_dim);
            for isa in Isa::available() {
                assert_close(&s.attend(isa, first, positions), &expected, 2e-5, isa.name());
            }
        }
    }

    #[test]
    fn long_sequences_match_the_reference_across_segments() {
        let positions = 2 * SEGMENT_PAGES * PAGE + 77;
        let s = Sequence::new(positions, 3, 1, 32, 7);
        let first = positions - 40;
        let expected = reference::attention(&s.q[first * 96..], &s.k, &s.v, 3, 1, 32);
        for isa in Isa::available() {
            assert_close(&s.attend(isa, first, positions), &expected, 2e-5, isa.name());
        }
    }

    #[test]
    fn a_result_does_not_depend_on_the_batch_it_is_in() {
        let positions = SEGMENT_PAGES * PAGE + 45;
        let s = Sequence::new(positions, 9, 3, 64, 11);
        for isa in Isa::available() {
            let whole = s.attend(isa, 0, positions);
            for (first, last) in [(0, 1), (13, 14), (5, 36), (positions - 1, positions), (positions - 50, positions)] {
                let part = s.attend(isa, first, last);
                let same = &whole[first * 576..last * 576];
                assert!(part.iter().zip(same).all(|(a, b)| a.to_bits() == b.to_bits()), "{} {first}", isa.name());
            }
        }
    }

    #[test]
    fn huge_keys_saturate_instead_of_reaching_earlier_positions() {
        let layout = KvLayout::new(1, 16).unwrap();
        let (mut k, mut v) = (vec![0.5; 32], vec![0.5; 32]);
        k[20] = 1e9;
        v[20] = -1e9;
        let (mut keys, mut values) = (vec![f16::ZERO; 512], vec![f16::ZERO; 512]);
        layout.write(&k, &v, 0, &mut keys, &mut values).unwrap();
        let mut out = vec![0.0; 32];
        let q = vec![0.0; 32];
        Attention { layout, heads: 1, q: &q, first_position: 0, keys: &keys, values: &values }.run(&mut out).unwrap();
        assert!(out[..16].iter().all(|x| *x == 0.5), "{out:?}");
        assert_eq!(out[20], (0.5 - 65504.0) / 2.0);
    }

    #[test]
    fn mismatched_shapes_are_refused() {
        let s = Sequence::new(33, 4, 2, 16, 3);
        let mut out = vec![0.0; 33 * 64];
        let ok = Attention { layout: s.layout, heads: 4, q: &s.q, first_position: 0, keys: &s.keys, values: &s.values };
        assert!(ok.run(&mut out).is_ok());
        assert!(ok.run(&mut out[1..]).is_err());
        assert!(Attention { heads: 3, ..ok }.run(&mut out).is_err());
        assert!(Attention { first_position: 32, ..ok }.run(&mut out).is_err(), "pages are too few");
        assert!(KvLayout::new(2, 20).is_err());
    }
}
