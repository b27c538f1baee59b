//! What the kernels need to know of a batch: ids, positions, slots, block tables. Written into pinned memory, and copied
//! to the device at once.
//!
//! Rows fall into two kinds: those of prompts, and generated ones. Their attention is computed by different kernels, which
//! add in different orders, so a row's kind must follow from its sequence alone (`BatchEntry::generated_from`), never from
//! how many rows come along. Successive rows of one kind are issued together.
//!
//! A decoding step, one generated row for each sequence, is filled up to a power of two with rows that write no page and
//! whose results nobody reads, and its block tables to a power of two of pages: see [`super::steps`].

use std::ops::Range;

use super::PAGE;
use crate::step_model::BatchEntry;

/// Most generated rows of one launch of attention.
pub(super) const DECODE_ROWS: usize = 256;

/// Of rows that write no page.
const NO_SLOT: i32 = -1;

/// How rows are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Prompt,
    Generated,
}

/// A launch of attention. Places are indices of [`Batch::numbers`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Launch {
    pub(super) kind: Kind,
    pub(super) rows: Range<usize>,
    /// Sequences, or rows where they are generated.
    pub(super) batch: usize,
    pub(super) table: usize,
    pub(super) table_stride: usize,
    pub(super) starts: usize,
    pub(super) context: usize,
    /// Of prompts, running totals of the contexts, from 0 on; `context` where they are generated.
    #[cfg_attr(not(feature = "flash-attn"), allow(dead_code, reason = "read by candle-flash-attn alone"))]
    pub(super) ends: usize,
}

/// A batch as the kernels see it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Batch {
    /// Everything that goes to the device.
    pub(super) numbers: Vec<i32>,
    pub(super) rows: usize,
    pub(super) wanted: usize,
    pub(super) tokens: usize,
    pub(super) positions: usize,
    pub(super) slots: usize,
    pub(super) wanted_rows: usize,
    pub(super) launches: Vec<Launch>,
    /// Whether this is a decoding step, filled up.
    pub(super) is_step: bool,
}

/// Part of an entry, of one kind.
struct Segment<'a> {
    kind: Kind,
    first_row: usize,
    rows: usize,
    /// Position of its first row.
    position: usize,
    entry: &'a BatchEntry<'a>,
}

fn number(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

/// Where numbers of 16-byte aligned arrays begin.
const ALIGNED: usize = 4;

impl Batch {
    /// Of entries that were checked: every position has a page of the pool.
    pub(super) fn new(entries: &[BatchEntry<'_>]) -> Self {
        if let Some(rows) = step_rows(entries) {
            return Self::step(entries, rows);
        }
        let mut batch = Self::default();
        let segments = segments(entries);
        batch.rows = entries.iter().map(|entry| entry.tokens.len()).sum();
        batch.tokens = batch.array(entries.iter().flat_map(|e| e.tokens).map(|token| number(*token as usize)));
        let positions = entries.iter().flat_map(|e| (e.position..e.position + e.tokens.len()).map(number));
        batch.positions = batch.array(positions);
        batch.slots = batch.array(entries.iter().flat_map(|e| {
            let slot = |position: usize| number(e.pages[position / PAGE].0 as usize * PAGE + position % PAGE);
            (e.position..e.position + e.tokens.len()).map(slot)
        }));
        let mut end = 0;
        let mut wanted = Vec::new();
        for entry in entries {
            end += entry.tokens.len();
            if entry.logits {
                wanted.push(number(end - 1));
            }
        }
        batch.wanted = wanted.len();
        batch.wanted_rows = batch.array(wanted);
        let mut next = 0;
        while next < segments.len() {
            let kind = segments[next].kind;
            let count = segments[next..].iter().take_while(|segment| segment.kind == kind).count();
            match kind {
                Kind::Prompt => batch.add_prompts(&segments[next..next + count]),
                Kind::Generated => batch.add_generated(&segments[next..next + count]),
            }
            next += count;
        }
        batch
    }

    /// A decoding step, filled up to `rows` rows.
    fn step(entries: &[BatchEntry<'_>], rows: usize) -> Self {
        let mut batch = Self { rows, wanted: rows, is_step: true, ..Self::default() };
        let filled = |values: Vec<i32>, with: i32| {
            let missing = rows - values.len();
            values.into_iter().chain(std::iter::repeat_n(with, missing))
        };
        let each = |value: fn(&BatchEntry<'_>) -> usize| entries.iter().map(|e| number(value(e))).collect::<Vec<i32>>();
        let token = |e: &BatchEntry<'_>| e.tokens.first().map_or(0, |token| *token as usize);
        batch.tokens = batch.array(filled(each(token), 0));
        batch.positions = batch.array(filled(each(|e| e.position), 0));
        let slot = |e: &BatchEntry<'_>| e.pages[e.position / PAGE].0 as usize * PAGE + e.position % PAGE;
        batch.slots = batch.array(filled(each(slot), NO_SLOT));
        batch.wanted_rows = batch.array((0..rows).map(number));
        let stride = entries.iter().map(|e| (e.position + 1).div_ceil(PAGE)).max().unwrap_or(1).next_power_of_two();
        let mut tables = vec![0; rows * stride];
        for (entry, row) in entries.iter().zip(tables.chunks_exact_mut(stride)) {
            for (to, page) in row.iter_mut().zip(&entry.pages[..(entry.position + 1).div_ceil(PAGE)]) {
                *to = number(page.0 as usize);
            }
        }
        let table = batch.array(tables);
        // Rows that fill up see the first position of the first page, whatever is there.
        let context = batch.array(filled(each(|e| e.position + 1), 1));
        let kind = Kind::Generated;
        let (rows, batch_rows) = (0..rows, rows);
        batch.launches = vec![Launch {
            kind,
            rows,
            batch: batch_rows,
            table,
            table_stride: stride,
            starts: context,
            context,
            ends: context,
        }];
        batch
    }

    /// Appends an array; where it begins.
    fn array(&mut self, values: impl IntoIterator<Item = i32>) -> usize {
        self.numbers.resize(self.numbers.len().next_multiple_of(ALIGNED), 0);
        let first = self.numbers.len();
        self.numbers.extend(values);
        first
    }

    /// Appends block tables, each long enough for its positions.
    fn tables(&mut self, entries: &[(&BatchEntry<'_>, usize)]) -> (usize, usize) {
        let stride = entries.iter().map(|(_, positions)| positions.div_ceil(PAGE)).max().unwrap_or(0);
        let row = |(entry, positions): &(&BatchEntry<'_>, usize)| {
            let used = positions.div_ceil(PAGE);
            let pages: Vec<i32> = entry.pages[..used].iter().map(|page| number(page.0 as usize)).collect();
            pages.into_iter().chain(std::iter::repeat_n(0, stride - used))
        };
        (self.array(entries.iter().flat_map(row).collect::<Vec<i32>>()), stride)
    }

    fn add_prompts(&mut self, segments: &[Segment<'_>]) {
        let first = segments[0].first_row;
        let end = segments.last().map_or(first, |segment| segment.first_row + segment.rows);
        let held: Vec<_> = segments.iter().map(|s| (s.entry, s.position + s.rows)).collect();
        let (table, table_stride) = self.tables(&held);
        let starts = segments.iter().map(|s| number(s.first_row - first)).chain([number(end - first)]);
        let starts = self.array(starts.collect::<Vec<i32>>());
        let context = self.array(held.iter().map(|(_, positions)| number(*positions)).collect::<Vec<i32>>());
        let totals = held.iter().scan(0, |total, (_, positions)| {
            *total += positions;
            Some(number(*total))
        });
        let ends = self.array([0].into_iter().chain(totals).collect::<Vec<i32>>());
        let (batch, kind) = (segments.len(), Kind::Prompt);
        self.launches.push(Launch { kind, rows: first..end, batch, table, table_stride, starts, context, ends });
    }

    fn add_generated(&mut self, segments: &[Segment<'_>]) {
        let first = segments[0].first_row;
        let mut rows = Vec::new();
        for segment in segments {
            rows.extend((0..segment.rows).map(|row| (segment.entry, segment.position + row + 1)));
        }
        for (i, rows) in rows.chunks(DECODE_ROWS).enumerate() {
            let (table, table_stride) = self.tables(rows);
            let context = self.array(rows.iter().map(|(_, positions)| number(*positions)).collect::<Vec<i32>>());
            let first = first + i * DECODE_ROWS;
            let (kind, batch) = (Kind::Generated, rows.len());
            self.launches.push(Launch {
                kind,
                rows: first..first + batch,
                batch,
                table,
                table_stride,
                starts: context,
                context,
                ends: context,
            });
        }
    }
}

/// Rows of the step that the entries make, if they make one.
fn step_rows(entries: &[BatchEntry<'_>]) -> Option<usize> {
    let decodes = |e: &BatchEntry<'_>| e.tokens.len() == 1 && e.logits && e.position >= e.generated_from;
    let rows = entries.len().next_power_of_two();
    (!entries.is_empty() && rows <= DECODE_ROWS && entries.iter().all(decodes)).then_some(rows)
}

/// The entries, cut where generated tokens begin.
fn segments<'a>(entries: &'a [BatchEntry<'a>]) -> Vec<Segment<'a>> {
    let mut segments = Vec::with_capacity(entries.len());
    let mut first_row = 0;
    for entry in entries {
        let prompt = entry.generated_from.saturating_sub(entry.position).min(entry.tokens.len());
        let parts = [(Kind::Prompt, 0..prompt), (Kind::Generated, prompt..entry.tokens.len())];
        for (kind, part) in parts.into_iter().filter(|(_, part)| !part.is_empty()) {
            segments.push(Segment {
                kind,
                first_row: first_row + part.start,
                rows: part.len(),
                position: entry.position + part.start,
                entry,
            });
        }
        first_row += entry.tokens.len();
    }
    segments
}

#[cfg(test)]
mod tests {
    use edgewise_kv_cache::PageId;

    use super::*;

    fn rows(launches: &[Launch]) -> Vec<(Kind, Range<usize>)> {
        launches.iter().map(|launch| (launch.kind, launch.rows.clone())).collect()
    }

    #[test]
    fn a_row_is_of_the_kind_its_sequence_says() {
        let pages = [PageId(7), PageId(3), PageId(5)];
        let tokens: Vec<u32> = (0..100).collect();
        let entry = |position, count, generated_from, logits| BatchEntry {
            tokens: &tokens[..count],
            position,
            pages: &pages,
            logits,
            generated_from,
        };
        // A decode step, the end of a prompt of a single token, and a replay of a prompt with what was generated.
        let entries = [entry(70, 1, 60, true), entry(64, 1, 65, true), entry(60, 10, 66, true), entry(0, 5, 9, false)];
        let batch = Batch::new(&entries);
        assert_eq!((batch.rows, batch.wanted), (17, 3));
        assert_eq!(
            rows(&batch.launches),
            [(Kind::Generated, 0..1), (Kind::Prompt, 1..8), (Kind::Generated, 8..12), (Kind::Prompt, 12..17)]
        );
        let at = |first: usize, count: usize| &batch.numbers[first..first + count];
        assert_eq!(at(batch.wanted_rows, 3), [0, 1, 11]);
        assert_eq!(at(batch.slots, 3), [3 * 64 + 6, 3 * 64, 7 * 64 + 60]);
        let [decode, prompts, replay, rest] = &batch.launches[..] else { unreachable!("four runs") };
        assert_eq!((decode.batch, at(decode.context, 1), at(decode.table, 2)), (1, &[71][..], &[7, 3][..]));
        assert_eq!((prompts.batch, at(prompts.starts, 3)), (2, &[0, 1, 7][..]));
        assert_eq!(at(prompts.context, 2), [65, 66]);
        assert_eq!((replay.batch, at(replay.context, 4)), (4, &[67, 68, 69, 70][..]));
        assert_eq!((rest.rows.clone(), rest.table_stride), (12..17, 1));
    }

    #[test]
    fn a_decoding_step_is_filled_up() {
        let pages = [PageId(7), PageId(3), PageId(5)];
        let token = [9];
        let entry = |position| BatchEntry { tokens: &token, position, pages: &pages, logits: true, generated_from: 60 };
        let batch = Batch::new(&[entry(60), entry(64), entry(191)]);
        assert!(batch.is_step);
        assert_eq!((batch.rows, batch.wanted), (4, 4));
        let at = |first: usize, count: usize| &batch.numbers[first..first + count];
        assert_eq!(at(batch.tokens, 4), [9, 9, 9, 0]);
        assert_eq!(at(batch.positions, 4), [60, 64, 191, 0]);
        assert_eq!(at(batch.slots, 4), [7 * 64 + 60, 3 * 64, 5 * 64 + 63, -1]);
        let [launch] = &batch.launches[..] else { unreachable!("one run") };
        assert_eq!((launch.batch, launch.table_stride, launch.rows.clone()), (4, 4, 0..4));
        assert_eq!(at(launch.table, 16), [7, 0, 0, 0, 7, 3, 0, 0, 7, 3, 5, 0, 0, 0, 0, 0]);
        assert_eq!(at(launch.context, 4), [61, 65, 192, 1]);
        // With a prompt beside them, or a row whose logits nobody wants, entries are no step.
        assert!(!Batch::new(&[entry(60), entry(59)]).is_step);
        assert!(!Batch::new(&[BatchEntry { logits: false, ..entry(60) }]).is_step);
    }

    #[test]
    fn many_generated_rows_are_several_launches() {
        let pages: Vec<PageId> = (0..20).map(PageId).collect();
        let tokens = vec![1; 600];
        let entry = BatchEntry { tokens: &tokens, position: 0, pages: &pages, logits: false, generated_from: 0 };
        let batch = Batch::new(&[entry]);
        let launches: Vec<_> = batch.launches.iter().map(|launch| launch.rows.clone()).collect();
        assert_eq!(launches, [0..256, 256..512, 512..600]);
    }
}
