//! How keys and values of one layer lie in memory: a pool of pages of 32 positions, each laid out for the attention
//! kernel.
//!
//! A page of keys is `[kv_head][dimension][position 32]`, so that the scores of a query with 32 keys are sums of
//! broadcasts times rows, without a horizontal sum. A page of values is `[kv_head][dimension/16][position 32][16]`, so
//! that the weighted sum of 16 dimensions reads one contiguous run. Both are f16, saturated at its largest finite value:
//! an infinity would reach positions before its own through products with zero. A head whose width is not a multiple of
//! 16 is stored as wide as the next one.
//!
//! A sequence's positions `32·i..32·(i + 1)` lie in the page its block table names at `i`. Positions of a page beyond
//! the sequence's end may hold anything; they are never read into a result.

use half::f16;

use crate::{
    KernelError,
    error::check_length,
    simd::{Isa, Kernel, LANES, Simd},
};

/// Positions in a page.
pub const PAGE: usize = 32;

/// Shape of the keys and values of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    kv_heads: usize,
    head_dim: usize,
}

/// One sequence in a batch: successive rows that are successive positions of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionEntry<'a> {
    /// The first of them.
    pub first_row: usize,
    /// How many they are.
    pub rows: usize,
    /// Position of the first one in its sequence.
    pub position: usize,
    /// The sequence's block table: the pages of positions `0..position + rows`. More pages may follow.
    pub pages: &'a [u32],
}

impl KvLayout {
    /// A layer with `kv_heads` heads of `head_dim` dimensions.
    ///
    /// # Errors
    /// [`KernelError::Dimension`] when either is 0.
    pub fn new(kv_heads: usize, head_dim: usize) -> Result<Self, KernelError> {
        for (what, actual) in [("the number of key-value heads", kv_heads), ("the width of a head", head_dim)] {
            if actual == 0 {
                return Err(KernelError::Dimension { what, actual, rule: "positive" });
            }
        }
        Ok(Self { kv_heads, head_dim })
    }

    /// Heads of keys and values.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads
    }

    /// Dimensions of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Elements of a page of keys; a page of values has as many.
    pub fn page_elements(&self) -> usize {
        self.kv_heads * self.head_elements()
    }

    /// Elements of the pages that hold `positions` positions.
    pub fn elements(&self, positions: usize) -> usize {
        positions.div_ceil(PAGE) * self.page_elements()
    }

    /// Dimensions of a head as stored.
    pub(crate) fn stored_dim(&self) -> usize {
        self.head_dim.next_multiple_of(LANES)
    }

    fn head_elements(&self) -> usize {
        self.stored_dim() * PAGE
    }

    /// Writes keys `k` and values `v`, both `[rows, kv_heads, head_dim]`, of every entry of the batch into the pool.
    ///
    /// # Errors
    /// [`KernelError`] when shapes don't match, a block table is too short or names a page that the pool does not have.
    pub fn write(
        &self,
        k: &[f32],
        v: &[f32],
        entries: &[AttentionEntry<'_>],
        keys: &mut [f16],
        values: &mut [f16],
    ) -> Result<(), KernelError> {
        let width = self.kv_heads * self.head_dim;
        check_length("the keys to write", k.len(), k.len() / width * width)?;
        check_length("the values to write", v.len(), k.len())?;
        self.check_entries(entries, k.len() / width, keys, values)?;
        for entry in entries {
            Isa::detect().run(Write { layout: *self, k, v, entry, keys, values });
        }
        Ok(())
    }

    /// Refuses entries that overlap or reach beyond the batch, their block tables or the pool.
    pub(crate) fn check_entries(
        &self,
        entries: &[AttentionEntry<'_>],
        rows: usize,
        keys: &[f16],
        values: &[f16],
    ) -> Result<(), KernelError> {
        let elements = self.page_elements();
        let pool = keys.len() / elements;
        check_length("the pool of keys", keys.len(), pool * elements)?;
        check_length("the pool of values", values.len(), keys.len())?;
        let mut end = 0;
        for entry in entries {
            if entry.first_row < end {
                return Err(KernelError::Dimension {
                    what: "the first row of a sequence in a batch",
                    actual: entry.first_row,
                    rule: "at or after the end of the sequence before it",
                });
            }
            end = entry.first_row.saturating_add(entry.rows);
            if end > rows {
                return Err(KernelError::Dimension {
                    what: "the end of a sequence in a batch",
                    actual: end,
                    rule: "at most the rows of the batch",
                });
            }
            let needed = (entry.position + entry.rows).div_ceil(PAGE);
            check_length("the block table of a sequence", entry.pages.len().min(needed), needed)?;
            if let Some(page) = entry.pages[..needed].iter().find(|page| **page as usize >= pool) {
                return Err(KernelError::Dimension {
                    what: "a page in a block table",
                    actual: *page as usize,
                    rule: "one that the pool of keys and values has",
                });
            }
        }
        Ok(())
    }

    /// Keys of one head in a page, `[head_dim][32]`.
    #[inline(always)]
    pub(crate) fn head_keys<'a>(&self, keys: &'a [f16], page: u32, kv_head: usize) -> &'a [[[f16; LANES]; 2]] {
        let first = page as usize * self.page_elements() + kv_head * self.head_elements();
        keys[first..][..self.head_dim * PAGE].as_chunks().0.as_chunks().0
    }

    /// Values of one head in a page, `[stored_dim/16][32][16]`.
    #[inline(always)]
    pub(crate) fn head_values<'a>(&self, values: &'a [f16], page: u32, kv_head: usize) -> &'a [[[f16; LANES]; PAGE]] {
        let first = page as usize * self.page_elements() + kv_head * self.head_elements();
        values[first..][..self.head_elements()].as_chunks().0.as_chunks().0
    }
}

struct Write<'a> {
    layout: KvLayout,
    k: &'a [f32],
    v: &'a [f32],
    entry: &'a AttentionEntry<'a>,
    keys: &'a mut [f16],
    values: &'a mut [f16],
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let KvLayout { kv_heads, head_dim } = self.layout;
        let width = kv_heads * head_dim;
        let (first, count) = (self.entry.first_row * width, self.entry.rows * width);
        let heads =
            self.k[first..][..count].chunks_exact(head_dim).zip(self.v[first..][..count].chunks_exact(head_dim));
        for (i, (k, v)) in heads.enumerate() {
            let (position, kv_head) = (self.entry.position + i / kv_heads, i % kv_heads);
            let (page, slot) = (self.entry.pages[position / PAGE] as usize, position % PAGE);
            let head = page * self.layout.page_elements() + kv_head * self.layout.head_elements();
            let keys = &mut self.keys[head..][..head_dim * PAGE];
            let values = &mut self.values[head..][..self.layout.head_elements()];
            for (chunk, (k, v)) in k.chunks(LANES).zip(v.chunks(LANES)).enumerate() {
                let column = keys[chunk * LANES * PAGE + slot..].iter_mut().step_by(PAGE);
                for (key, k) in column.zip(s.to_f16(saturate(s, load_part(s, k)))) {
                    *key = k;
                }
                let row = &mut values[(chunk * PAGE + slot) * LANES..][..LANES];
                row.copy_from_slice(&s.to_f16(saturate(s, load_part(s, v))));
            }
        }
    }
}

/// Loads up to sixteen elements, and zeros for the rest.
#[inline(always)]
fn load_part<S: Simd>(s: S, x: &[f32]) -> S::F {
    match x.first_chunk() {
        Some(x) => s.load(x),
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..x.len()].copy_from_slice(x);
            s.load(&lanes)
        }
    }
}

/// Clamps to the finite range of f16, letting NaN through so that it is noticed.
#[inline(always)]
fn saturate<S: Simd>(s: S, x: S::F) -> S::F {
    // The second operand is returned where one is NaN.
    s.min(s.splat(65504.0), s.max(s.splat(-65504.0), x))
}
