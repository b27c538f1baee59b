//! How keys and values of one layer lie in memory: pages of 32 positions, each laid out for the attention kernel.
//!
//! A page of keys is `[kv_head][dimension][position 32]`, so that the scores of a query with 32 keys are sums of
//! broadcasts times rows, without a horizontal sum. A page of values is `[kv_head][dimension/16][position 32][16]`, so
//! that the weighted sum of 16 dimensions reads one contiguous run. Both are f16, saturated at its largest finite value:
//! an infinity would reach positions before its own through products with zero.
//!
//! Positions of a page beyond the sequence's end may hold anything; they are never read into a result.

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

impl KvLayout {
    /// A layer with `kv_heads` heads of `head_dim` dimensions.
    ///
    /// # Errors
    /// [`KernelError::Dimension`] when `head_dim` is not a positive multiple of 16.
    pub fn new(kv_heads: usize, head_dim: usize) -> Result<Self, KernelError> {
        if head_dim == 0 || !head_dim.is_multiple_of(LANES) {
            return Err(KernelError::Dimension {
                what: "the width of a head",
                actual: head_dim,
                rule: "a positive multiple of 16",
            });
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
        self.kv_heads * self.head_dim * PAGE
    }

    /// Elements of the pages that hold `positions` positions.
    pub fn elements(&self, positions: usize) -> usize {
        positions.div_ceil(PAGE) * self.page_elements()
    }

    /// Writes keys `k` and values `v`, both `[tokens, kv_heads, head_dim]`, at `position` and after into the pages of a
    /// sequence.
    ///
    /// # Errors
    /// [`KernelError::Length`] when shapes don't match or the pages are too few.
    pub fn write(
        &self,
        k: &[f32],
        v: &[f32],
        position: usize,
        keys: &mut [f16],
        values: &mut [f16],
    ) -> Result<(), KernelError> {
        let width = self.kv_heads * self.head_dim;
        let tokens = k.len().checked_div(width).unwrap_or(0);
        check_length("the keys to write", k.len(), tokens * width)?;
        check_length("the values to write", v.len(), k.len())?;
        let needed = self.elements(position + tokens);
        check_length("the pages of keys", keys.len().min(needed), needed)?;
        check_length("the pages of values", values.len().min(needed), needed)?;
        Isa::detect().run(Write { layout: *self, k, v, position, keys, values });
        Ok(())
    }

    /// Keys of one head in a page, `[head_dim][32]`.
    #[inline(always)]
    pub(crate) fn head_keys<'a>(&self, keys: &'a [f16], page: usize, kv_head: usize) -> &'a [[[f16; LANES]; 2]] {
        keys[page * self.page_elements() + kv_head * self.head_dim * PAGE..][..self.head_dim * PAGE]
            .as_chunks()
            .0
            .as_chunks()
            .0
    }

    /// Values of one head in a page, `[head_dim/16][32][16]`.
    #[inline(always)]
    pub(crate) fn head_values<'a>(&self, values: &'a [f16], page: usize, kv_head: usize) -> &'a [[[f16; LANES]; PAGE]] {
        values[page * self.page_elements() + kv_head * self.head_dim * PAGE..][..self.head_dim * PAGE]
            .as_chunks()
            .0
            .as_chunks()
            .0
    }
}

struct Write<'a> {
    layout: KvLayout,
    k: &'a [f32],
    v: &'a [f32],
    position: usize,
    keys: &'a mut [f16],
    values: &'a mut [f16],
}

impl Kernel for Write<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let KvLayout { kv_heads, head_dim } = self.layout;
        let heads = self.k.chunks_exact(head_dim).zip(self.v.chunks_exact(head_dim));
        for (i, (k, v)) in heads.enumerate() {
            let (position, kv_head) = (self.position + i / kv_heads, i % kv_heads);
            let (page, slot) = (position / PAGE, position % PAGE);
            let head = page * self.layout.page_elements() + kv_head * head_dim * PAGE;
            let keys = &mut self.keys[head..][..head_dim * PAGE];
            let values = &mut self.values[head..][..head_dim * PAGE];
            let chunks = k.as_chunks::<LANES>().0.iter().zip(v.as_chunks::<LANES>().0);
            for (chunk, (k, v)) in chunks.enumerate() {
                let column = keys[chunk * LANES * PAGE + slot..].iter_mut().step_by(PAGE);
                for (key, k) in column.zip(s.to_f16(saturate(s, s.load(k)))) {
                    *key = k;
                }
                let row = &mut values[(chunk * PAGE + slot) * LANES..][..LANES];
                row.copy_from_slice(&s.to_f16(saturate(s, s.load(v))));
            }
        }
    }
}

/// Clamps to the finite range of f16, letting NaN through so that it is noticed.
#[inline(always)]
fn saturate<S: Simd>(s: S, x: S::F) -> S::F {
    // The second operand is returned where one is NaN.
    s.min(s.splat(65504.0), s.max(s.splat(-65504.0), x))
}
