//! Causal attention of a batch of sequences over paged keys and values, with grouped query heads.
//!
//! Blocked online softmax (Milakov and Gimelshein, <https://arxiv.org/abs/1805.02867>; Dao et al.,
//! <https://arxiv.org/abs/2205.14135>) over block tables (Kwon et al., <https://arxiv.org/abs/2309.06180>): scores exist
//! only for one page of 32 keys at a time, so memory beyond the operands does not grow with the length, but for one
//! partial sum per query and 512 keys where a long sequence is shared out among threads. A register tile is up to twelve
//! query rows by 32 keys; the rows are the query heads that share a key-value head, at successive positions.
//!
//! Keys are cut into segments of 512 at absolute positions. Each segment has its own running maximum and sum, and
//! segments are merged in order.
//!
//! Invariant: the result for a position depends on its query and on the keys and values it sees, and on nothing else,
//! bit for bit: not on the batch, how a prompt was cut into chunks, which pages hold it, or how many threads there are.

use half::f16;

use crate::{
    AttentionEntry, KernelError, KvLayout,
    error::check_length,
    kv_layout::PAGE,
    parallel::{self, SharedSlice},
    simd::Isa,
};

mod segment;
#[cfg(test)]
mod tests;

use segment::{Partial, Tile};

/// Pages in a segment.
const SEGMENT_PAGES: usize = 16;
/// Register tiles of query rows that go over a page once it is converted to f32, in the first-level cache.
const TILES_PER_TASK: usize = 8;
/// Work items per thread that are aimed at, so that a thread that is held up does not hold up the others.
const ITEMS_PER_THREAD: usize = 4;

/// One attention operation.
#[derive(Debug, Clone, Copy)]
pub struct PagedAttention<'a> {
    /// Shape of keys and values.
    pub layout: KvLayout,
    /// Query heads, a multiple of the key-value heads; head `h` reads key-value head `h·kv_heads/heads`.
    pub heads: usize,
    /// What scores are multiplied with, usually `1/√head_dim`.
    pub scale: f32,
    /// Queries, `[rows, heads, head_dim]`, already rotated.
    pub q: &'a [f32],
    /// The sequences of the batch, in order of rows. The keys and values of their rows have been written.
    pub entries: &'a [AttentionEntry<'a>],
    /// Pool of pages of keys.
    pub keys: &'a [f16],
    /// Pool of pages of values.
    pub values: &'a [f16],
    /// Sliding window: the query at position `p` sees the `window` positions that end with `p`, itself among them. Without
    /// one it sees positions `0..=p`. Source: Beltagy et al., <https://arxiv.org/abs/2004.05150>.
    pub window: Option<usize>,
    /// The first positions of a sequence, which are seen from beyond the window too: attention sinks.
    /// Source: Xiao et al., <https://arxiv.org/abs/2309.17453>.
    pub sinks: usize,
    /// A slope for each query head: `slope·(key position - query position)` is added to its scaled scores.
    /// Source: Press et al., <https://arxiv.org/abs/2108.12409>.
    pub alibi: Option<&'a [f32]>,
}

impl PagedAttention<'_> {
    /// Writes the result, `[rows, heads, head_dim]`, using the threads of the current rayon pool. Rows that belong to
    /// no entry are left as they are.
    ///
    /// # Errors
    /// [`KernelError`] when shapes don't match, entries overlap, a block table is too short or names a page that the
    /// pool does not have.
    pub fn run(&self, out: &mut [f32]) -> Result<(), KernelError> {
        self.run_with(Isa::detect(), out)
    }

    pub(crate) fn run_with(&self, isa: Isa, out: &mut [f32]) -> Result<(), KernelError> {
        self.check(out)?;
        let tiles = self.tiles(isa.query_rows() * TILES_PER_TASK);
        let items = Items::new(&tiles);
        let out = SharedSlice::new(out);
        let mut partials: Vec<Option<Partial>> = Vec::new();
        partials.resize_with(items.partials, || None);
        let shared = SharedSlice::new(&mut partials);
        parallel::for_each(items.list.len(), |i| match items.list[i] {
            Item::Whole { tile } => tiles[tile].attend(isa, out),
            Item::Segment { tile, segment, slot } => {
                // SAFETY: each slot belongs to one item.
                let slot = unsafe { shared.part(slot, 1) };
                slot[0] = Some(tiles[tile].segment(isa, segment));
            }
        });
        for (tile, slots) in items.split {
            tiles[tile].gather(&partials[slots], out);
        }
        Ok(())
    }

    fn check(&self, out: &[f32]) -> Result<(), KernelError> {
        let (kv_heads, head_dim) = (self.layout.kv_heads(), self.layout.head_dim());
        if self.heads == 0 || !self.heads.is_multiple_of(kv_heads) {
            return Err(KernelError::Dimension {
                what: "the number of query heads",
                actual: self.heads,
                rule: "a positive multiple of the number of key-value heads",
            });
        }
        if self.window == Some(0) {
            return Err(KernelError::Dimension {
                what: "the sliding window",
                actual: 0,
                rule: "at least 1, as a position sees itself",
            });
        }
        let width = self.heads * head_dim;
        check_length("the queries", self.q.len(), self.q.len() / width * width)?;
        check_length("the result of attention", out.len(), self.q.len())?;
        if let Some(slopes) = self.alibi {
            check_length("the slopes of heads", slopes.len(), self.heads)?;
        }
        self.layout.check_entries(self.entries, self.q.len() / width, self.keys, self.values)
    }

    /// Query heads that share a key-value head.
    fn group(&self) -> usize {
        self.heads / self.layout.kv_heads()
    }

    /// Cuts the rows of every sequence and key-value head into tiles of at most `rows_each`.
    fn tiles(&self, rows_each: usize) -> Vec<Tile<'_>> {
        let mut tiles = Vec::new();
        for entry in self.entries {
            let rows = entry.rows * self.group();
            for kv_head in 0..self.layout.kv_heads() {
                for first in (0..rows).step_by(rows_each) {
                    tiles.push(Tile::new(self, entry, kv_head, first, rows_each.min(rows - first)));
                }
            }
        }
        tiles
    }
}

/// What is claimed by a thread.
enum Item {
    /// All that the rows of a tile see.
    Whole { tile: usize },
    /// One segment of it, whose partial sum goes to a slot.
    Segment { tile: usize, segment: usize, slot: usize },
}

/// Work of about equal size: tiles that see much are cut into segments.
struct Items {
    list: Vec<Item>,
    /// Tiles that were cut, and the slots of their segments in order.
    split: Vec<(usize, std::ops::Range<usize>)>,
    /// Number of slots.
    partials: usize,
}

impl Items {
    fn new(tiles: &[Tile<'_>]) -> Self {
        let rows = |tile: &Tile<'_>| tile.rows().div_ceil(4);
        let total: usize = tiles.iter().map(|tile| tile.pages() * rows(tile)).sum();
        let threads = parallel::threads();
        let most = if threads == 1 { usize::MAX } else { total / (threads * ITEMS_PER_THREAD) };
        let mut items = Self { list: Vec::with_capacity(tiles.len()), split: Vec::new(), partials: 0 };
        // From the last positions on, which see most: what is claimed last should be small.
        for (i, tile) in tiles.iter().enumerate().rev() {
            if tile.pages() * rows(tile) <= most || tile.pages() <= SEGMENT_PAGES {
                items.list.push(Item::Whole { tile: i });
                continue;
            }
            let first = items.partials;
            for segment in tile.segments() {
                items.list.push(Item::Segment { tile: i, segment, slot: items.partials });
                items.partials += 1;
            }
            items.split.push((i, first..items.partials));
        }
        items
    }
}
