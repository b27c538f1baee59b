//! Pages of keys and values in 8 bits: their format, and the way back to 16 bits that attention of prompts takes.

use super::{CudaError, Device, PagedShape, PrefillAttention, Slice, check, int, require};

const HALF: usize = 2;

/// What keys and values are in pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KvFormat {
    /// The 16-bit numbers the device computes with, `[page_tokens, kv_heads, head_dim]`.
    #[default]
    Half,
    /// e4m3, `[kv_heads, page_tokens, head_dim]`, with an f32 scale for each token and head: the largest magnitude there
    /// over 448. A head's scales follow its codes.
    Fp8,
}

impl KvFormat {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Fp8 => "fp8",
        }
    }

    /// Bytes of a head of `head_dim` dimensions of one token, its scale included.
    pub fn head_bytes(self, head_dim: usize) -> usize {
        match self {
            Self::Half => head_dim * HALF,
            Self::Fp8 => head_dim + size_of::<f32>(),
        }
    }
}

/// Writes the FP8 pages that a launch of prompt attention reads as pages of 16-bit numbers.
#[derive(Debug, Clone, Copy)]
pub struct DequantisePages<'a> {
    /// The launch, on pools of FP8 pages.
    pub attention: PrefillAttention<'a>,
    /// 16-bit pages `[pages, page_tokens, kv_heads, head_dim]`: page `j` of sequence `b` becomes `b·out_stride + j`.
    pub keys: Slice<'a>,
    /// As `keys`.
    pub values: Slice<'a>,
    /// Pages of the longest of the launch's contexts, at least.
    pub out_stride: usize,
}

impl DequantisePages<'_> {
    /// Issues it.
    ///
    /// # Errors
    /// [`CudaError`] when shapes don't match, or the pools' pages are not FP8.
    ///
    /// # Safety
    /// As [`PrefillAttention::run`], and no context is longer than `out_stride` pages.
    pub unsafe fn run(&self, device: &Device) -> Result<(), CudaError> {
        let PrefillAttention { shape, batch, table_stride, window, .. } = self.attention;
        shape.check()?;
        require(shape.format == KvFormat::Fp8, "the width of numbers in pages", 16, "8 bits")?;
        require(self.out_stride <= table_stride, "pages of a context", self.out_stride, "in the block table")?;
        let bytes = batch * self.out_stride * PagedShape { format: KvFormat::Half, ..shape }.page_bytes();
        let keys = self.attention.keys.at_least("the pool of keys", shape.pool_bytes())?;
        let values = self.attention.values.at_least("the pool of values", shape.pool_bytes())?;
        let out_keys = self.keys.at_least("the room for keys of 16 bits", bytes)?;
        let out_values = self.values.at_least("the room for values of 16 bits", bytes)?;
        let table = self.attention.table.ints("block tables", batch * table_stride)?;
        let starts = self.attention.starts.ints("first rows", batch + 1)?;
        let context = self.attention.context.ints("contexts", batch)?;
        // SAFETY: every buffer is as long as the shape calls for; the caller vouches for the indices.
        check("dequantise_pages", unsafe {
            device.half().edgewise_dequantise_pages(
                keys,
                values,
                out_keys,
                out_values,
                table,
                starts,
                context,
                int("the batch", batch)?,
                int("heads", shape.kv_heads)?,
                int("the width of a head", shape.head_dim)?,
                int("the size of a page", shape.page_tokens)?,
                int("the width of block tables", table_stride)?,
                int("pages of a context", self.out_stride)?,
                int("the window", window.unwrap_or(0))?,
                device.stream(),
            )
        })
    }
}
