//! The arithmetic of attention: a tile of query rows over the pages of one segment of keys.

use half::f16;

use super::{PAGE, PagedAttention, SEGMENT_PAGES};
use crate::{
    AttentionEntry, KvLayout,
    parallel::SharedSlice,
    simd::{Element, Isa, Kernel, LANES, Line, Simd, with_tile},
};

/// How many pages ahead keys and values are fetched into the cache, where few queries go over them.
const PAGES_AHEAD: usize = 2;

/// Query rows of one sequence that share a key-value head: row `r` is the query at position
/// `position + (first_row + r) / group` of head `kv_head·group + (first_row + r) % group`.
pub(super) struct Tile<'a> {
    attention: &'a PagedAttention<'a>,
    entry: &'a AttentionEntry<'a>,
    kv_head: usize,
    first_row: usize,
    rows: usize,
    /// Pages of sinks come first, then those of the window.
    sink_pages: usize,
    window_pages: (usize, usize),
}

impl<'a> Tile<'a> {
    pub(super) fn new(
        attention: &'a PagedAttention<'a>,
        entry: &'a AttentionEntry<'a>,
        kv_head: usize,
        first_row: usize,
        rows: usize,
    ) -> Self {
        let group = attention.group();
        let position = |row: usize| entry.position + (first_row + row) / group;
        let end = (position(rows - 1) + 1).div_ceil(PAGE);
        let first = attention.window.map_or(0, |window| (position(0) + 1).saturating_sub(window) / PAGE);
        let sink_pages = if first == 0 { 0 } else { attention.sinks.div_ceil(PAGE).min(first) };
        Self { attention, entry, kv_head, first_row, rows, sink_pages, window_pages: (first, end) }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Number of pages that its rows see.
    pub(super) fn pages(&self) -> usize {
        self.sink_pages + self.window_pages.1 - self.window_pages.0
    }

    /// The segments that hold those pages, in order.
    pub(super) fn segments(&self) -> impl Iterator<Item = usize> + use<> {
        let window = self.window_pages.0 / SEGMENT_PAGES..self.window_pages.1.div_ceil(SEGMENT_PAGES);
        (0..self.sink_pages.div_ceil(SEGMENT_PAGES).min(window.start)).chain(window)
    }

    /// Writes what its rows make of all they see.
    pub(super) fn attend(&self, isa: Isa, out: SharedSlice<f32>) {
        let mut work = Work::new(self, isa);
        let mut total = Partial::new(self.rows, self.attention.layout.stored_dim());
        for segment in self.segments() {
            work.partial.clear();
            isa.run(Segment { tile: self, segment, work: &mut work });
            total.merge(&work.partial);
        }
        self.finish(&total, out);
    }

    /// The sums over one segment.
    pub(super) fn segment(&self, isa: Isa, segment: usize) -> Partial {
        let mut work = Work::new(self, isa);
        isa.run(Segment { tile: self, segment, work: &mut work });
        work.partial
    }

    /// Merges the sums over all segments, given in order, and writes the result.
    pub(super) fn gather(&self, partials: &[Option<Partial>], out: SharedSlice<f32>) {
        let mut total = Partial::new(self.rows, self.attention.layout.stored_dim());
        partials.iter().flatten().for_each(|partial| total.merge(partial));
        self.finish(&total, out);
    }

    fn finish(&self, total: &Partial, out: SharedSlice<f32>) {
        let head_dim = self.attention.layout.head_dim();
        for row in 0..self.rows {
            // SAFETY: entries don't overlap, and of one entry, no other tile has this row and head.
            let out = unsafe { out.part(self.head(row) * head_dim, head_dim) };
            let inverse = 1.0 / total.total[row];
            for (out, sum) in out.iter_mut().zip(&total.weighted[row * total.width..]) {
                *out = sum * inverse;
            }
        }
    }

    /// Which head of which row of the batch a row is, counted over all heads of all rows.
    #[inline(always)]
    fn head(&self, row: usize) -> usize {
        let (group, row) = (self.attention.group(), self.first_row + row);
        (self.entry.first_row + row / group) * self.attention.heads + self.kv_head * group + row % group
    }

    /// Which positions of page `page` of the sequence the query at `position` sees, the lowest in the lowest bit.
    #[inline(always)]
    fn seen(&self, position: usize, page: usize) -> u32 {
        let below = |position: usize| match position.saturating_sub(page * PAGE) {
            count @ 0..PAGE => (1 << count) - 1,
            _ => u32::MAX,
        };
        let end = position + 1;
        match self.attention.window {
            None => below(end),
            Some(window) => below(end) & (!below(end.saturating_sub(window)) | below(self.attention.sinks)),
        }
    }

    /// The queries as `[tile][head_dim][row]`, multiplied so that scores come out scaled and softmax is in powers of
    /// two.
    fn queries(&self, tile: usize) -> Vec<f32> {
        let head_dim = self.attention.layout.head_dim();
        let scale = (std::f64::consts::LOG2_E * f64::from(self.attention.scale)) as f32;
        let mut queries = vec![0.0; self.rows * head_dim];
        for first in (0..self.rows).step_by(tile) {
            let width = tile.min(self.rows - first);
            let to = &mut queries[first * head_dim..][..width * head_dim];
            for r in 0..width {
                let q = &self.attention.q[self.head(first + r) * head_dim..][..head_dim];
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
pub(super) struct Partial {
    /// Dimensions of a head as stored.
    width: usize,
    /// `[row][width]`
    weighted: Vec<f32>,
    /// Largest score of each row, in units of log₂; `-∞` before the first key.
    largest: Vec<f32>,
    /// Sum of weights of each row, relative to the largest, key `k` of a page in lane `k % 16`.
    lanes: Vec<[f32; LANES]>,
    /// Sum of these lanes.
    total: Vec<f32>,
}

impl Partial {
    fn new(rows: usize, width: usize) -> Self {
        Self {
            width,
            weighted: vec![0.0; rows * width],
            largest: vec![f32::NEG_INFINITY; rows],
            lanes: vec![[0.0; LANES]; rows],
            total: vec![0.0; rows],
        }
    }

    fn clear(&mut self) {
        self.weighted.fill(0.0);
        self.largest.fill(f32::NEG_INFINITY);
        self.lanes.fill([0.0; LANES]);
        self.total.fill(0.0);
    }

    /// Adds the sums over later keys.
    fn merge(&mut self, later: &Self) {
        let rows = self.weighted.chunks_exact_mut(self.width).zip(later.weighted.chunks_exact(self.width));
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
}

/// What a thread keeps while it goes over the segments of a tile.
struct Work {
    queries: Vec<f32>,
    /// Position of each row.
    positions: Vec<usize>,
    partial: Partial,
    /// The page at hand in f32, where several register tiles go over it.
    converted: Converted,
}

/// Keys and values of one head in a page, in f32.
#[derive(Default)]
struct Converted {
    keys: Vec<Line<[f32; LANES], 2>>,
    values: Vec<Line<[f32; LANES], PAGE>>,
}

impl Converted {
    fn new(layout: KvLayout) -> Self {
        Self {
            keys: vec![Line([[0.0; LANES]; 2]); layout.head_dim()],
            values: vec![Line([[0.0; LANES]; PAGE]); layout.stored_dim() / LANES],
        }
    }

    #[inline(always)]
    fn take<S: Simd>(&mut self, s: S, page: PageOf<'_, f16>) {
        for (to, from) in self.keys.iter_mut().zip(page.keys) {
            for (to, from) in to.0.iter_mut().zip(from) {
                s.store(s.load_f16(from), to);
            }
        }
        for (to, from) in self.values.iter_mut().zip(page.values) {
            for (to, from) in to.0.iter_mut().zip(from) {
                s.store(s.load_f16(from), to);
            }
        }
    }
}

impl Work {
    fn new(tile: &Tile<'_>, isa: Isa) -> Self {
        let (layout, group) = (tile.attention.layout, tile.attention.group());
        let several = tile.rows > isa.query_rows();
        Self {
            queries: tile.queries(isa.query_rows()),
            positions: (0..tile.rows).map(|row| tile.entry.position + (tile.first_row + row) / group).collect(),
            partial: Partial::new(tile.rows, layout.stored_dim()),
            converted: if several { Converted::new(layout) } else { Converted::default() },
        }
    }
}

/// The rows of one tile over the pages of one segment.
struct Segment<'a> {
    tile: &'a Tile<'a>,
    segment: usize,
    work: &'a mut Work,
}

impl Kernel for Segment<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let (tile, start) = (self.tile, self.segment * SEGMENT_PAGES);
        let (first, end) = tile.window_pages;
        for number in start..end.min(start + SEGMENT_PAGES) {
            if number >= tile.sink_pages && number < first {
                continue;
            }
            let page = self.page(number);
            if tile.rows <= S::QUERY_ROWS {
                let next = (number + PAGES_AHEAD < end).then(|| self.page(number + PAGES_AHEAD));
                with_tile!(tile.rows, R => self.register_tile::<S, f16, R>(s, page, next, 0));
                continue;
            }
            let mut converted = std::mem::take(&mut self.work.converted);
            converted.take(s, page);
            let page = PageOf { number, keys: Line::plain(&converted.keys), values: Line::plain(&converted.values) };
            for first in (0..tile.rows).step_by(S::QUERY_ROWS) {
                with_tile!(S::QUERY_ROWS.min(tile.rows - first), R => {
                    self.register_tile::<S, f32, R>(s, page, None, first);
                });
            }
            self.work.converted = converted;
        }
        let partial = &mut self.work.partial;
        for (total, lanes) in partial.total.iter_mut().zip(&partial.lanes) {
            *total = s.sum(s.load(lanes));
        }
    }
}

impl<'a> Segment<'a> {
    /// A page of the sequence as it is stored.
    #[inline(always)]
    fn page(&self, number: usize) -> PageOf<'a, f16> {
        let PagedAttention { layout, keys, values, .. } = *self.tile.attention;
        let (stored, kv_head) = (self.tile.entry.pages[number], self.tile.kv_head);
        let (keys, values) = (layout.head_keys(keys, stored, kv_head), layout.head_values(values, stored, kv_head));
        PageOf { number, keys, values }
    }

    /// `R` rows from `first` on, over one page; meanwhile the `next` one is fetched into the cache.
    #[inline(always)]
    fn register_tile<S: Simd, T: Element, const R: usize>(
        &mut self,
        s: S,
        page: PageOf<'_, T>,
        next: Option<PageOf<'_, f16>>,
        first: usize,
    ) {
        if R > S::QUERY_ROWS {
            return; // Never asked for; spares compiling tiles that this instruction set has no registers for.
        }
        let (tile, attention) = (self.tile, self.tile.attention);
        let (layout, width) = (attention.layout, self.work.partial.width);
        let mut seen = [0; R];
        let mut any = 0;
        for r in 0..R {
            seen[r] = tile.seen(self.work.positions[first + r], page.number);
            any |= seen[r];
        }
        if any == 0 {
            return;
        }
        let queries = self.work.queries[first * layout.head_dim()..][..R * layout.head_dim()].as_chunks().0;
        let mut scores = scores::<S, T, R>(s, queries, page.keys, next);
        if let Some(slopes) = attention.alibi {
            for r in 0..R {
                let slope = slopes[tile.head(first + r) % attention.heads] * std::f32::consts::LOG2_E;
                let offset = (page.number * PAGE) as f32 - self.work.positions[first + r] as f32;
                for (half, score) in scores[r].iter_mut().enumerate() {
                    let distance = s.add(s.load(&COUNT), s.splat(offset + (half * LANES) as f32));
                    *score = s.fma(distance, s.splat(slope), *score);
                }
            }
        }
        let mut weights = [[0.0; PAGE]; R];
        for r in 0..R {
            if seen[r] != 0 {
                softmax(s, &mut self.work.partial, first + r, scores[r], seen[r], &mut weights[r]);
            }
        }
        // What no row sees may hold anything, so it is not even multiplied with zero.
        let keys = (any.trailing_zeros() as usize, PAGE - any.leading_zeros() as usize);
        let sums = &mut self.work.partial.weighted[first * width..][..R * width];
        let (pairs, odd) = page.values.as_chunks::<2>();
        for (i, pair) in pairs.iter().enumerate() {
            accumulate::<S, T, R, 2>(s, &weights, pair, keys, sums, 2 * i, next);
        }
        if let [single] = odd {
            accumulate::<S, T, R, 1>(
                s,
                &weights,
                std::array::from_ref(single),
                keys,
                sums,
                page.values.len() - 1,
                next,
            );
        }
    }
}

/// Turns the scores of one row with the keys of a page that it sees into weights, and brings what the row has
/// summed so far onto the same scale.
#[inline(always)]
fn softmax<S: Simd>(s: S, partial: &mut Partial, row: usize, scores: [S::F; 2], seen: u32, weights: &mut [f32; PAGE]) {
    let scores = if seen == u32::MAX { scores } else { select(s, scores, seen, f32::NEG_INFINITY) };
    let before = partial.largest[row];
    // Reducing lanes is slow, and soon the largest score is rarely exceeded.
    let both = s.max(scores[0], scores[1]);
    if s.any_greater(both, s.splat(before)) {
        let largest = s.maximum(both);
        let factor = s.exp2(s.splat(before - largest));
        let width = partial.width;
        for chunk in partial.weighted[row * width..][..width].as_chunks_mut().0 {
            s.store(s.mul(s.load(chunk), factor), chunk);
        }
        let lanes = &mut partial.lanes[row];
        s.store(s.mul(s.load(lanes), factor), lanes);
        partial.largest[row] = largest;
    }
    let largest = s.splat(partial.largest[row]);
    let powers = [s.exp2(s.sub(scores[0], largest)), s.exp2(s.sub(scores[1], largest))];
    let powers = if seen == u32::MAX { powers } else { select(s, powers, seen, 0.0) };
    let lanes = &mut partial.lanes[row];
    s.store(s.add(s.load(lanes), s.add(powers[0], powers[1])), lanes);
    let (low, high) = weights.split_at_mut(LANES);
    if let (Some(low), Some(high)) = (low.first_chunk_mut(), high.first_chunk_mut()) {
        s.store(powers[0], low);
        s.store(powers[1], high);
    }
}

/// Keys and values of one head in a page, as they are stored or in f32.
#[derive(Clone, Copy)]
struct PageOf<'a, T> {
    /// Which page of the sequence it is.
    number: usize,
    keys: &'a [[[T; LANES]; 2]],
    values: &'a [[[T; LANES]; PAGE]],
}

/// The number of each lane.
const COUNT: [f32; LANES] = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0];

/// Keeps the lanes of a page's worth of lanes that are set in `mask`.
#[inline(always)]
fn select<S: Simd>(s: S, x: [S::F; 2], mask: u32, fill: f32) -> [S::F; 2] {
    [s.select(x[0], mask as u16, fill), s.select(x[1], (mask >> LANES) as u16, fill)]
}
/// Scores of `R` queries with the 32 keys of a page.
#[inline(always)]
fn scores<S: Simd, T: Element, const R: usize>(
    s: S,
    queries: &[[f32; R]],
    keys: &[[[T; LANES]; 2]],
    next: Option<PageOf<'_, f16>>,
) -> [[S::F; 2]; R] {
    let mut sums = [[s.splat(0.0); 2]; R];
    for (d, (q, k)) in queries.iter().zip(keys).enumerate() {
        if let Some(next) = &next {
            s.prefetch(&next.keys[d]);
        }
        let (low, high) = (T::load(s, &k[0]), T::load(s, &k[1]));
        for r in 0..R {
            let q = s.splat(q[r]);
            sums[r] = [s.fma(low, q, sums[r][0]), s.fma(high, q, sums[r][1])];
        }
    }
    sums
}

/// Adds the weighted sum of `C` chunks of 16 dimensions, from chunk `chunk` on, over some keys of a page.
#[inline(always)]
fn accumulate<S: Simd, T: Element, const R: usize, const C: usize>(
    s: S,
    weights: &[[f32; PAGE]; R],
    values: &[[[T; LANES]; PAGE]; C],
    keys: (usize, usize),
    sums: &mut [f32],
    chunk: usize,
    next: Option<PageOf<'_, f16>>,
) {
    let sums = sums.as_chunks_mut::<LANES>().0;
    let chunks = sums.len() / R;
    let mut totals = [[s.splat(0.0); C]; R];
    for r in 0..R {
        for c in 0..C {
            totals[r][c] = s.load(&sums[r * chunks + chunk + c]);
        }
    }
    for key in keys.0..keys.1.min(PAGE) {
        if let Some(next) = &next {
            s.prefetch(&next.values.as_flattened()[chunk * PAGE + key * C]);
        }
        let mut row = [s.splat(0.0); C];
        for c in 0..C {
            row[c] = T::load(s, &values[c][key]);
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
