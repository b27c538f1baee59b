//! FlashAttention-2 for prompts, as the crate candle-flash-attn has it (feature `flash-attn`), beside our own kernel: over
//! rows of keys and values, or over pages of them.
//!
//! What is called is the crate's C entry point and not its functions on tensors. Those allocate an output on every call,
//! free the memory of the tensors they are given, and run on a stream of candle's; here memory is borrowed, results go
//! where they belong, and the one stream of a [`Device`] orders everything. The price is that no compiler holds the
//! declaration below against the crate's: the workspace asks for exactly [`FLASH_VERSION`], and must be changed together
//! with it.
//!
//! The crate drops the errors of its launches. Whoever uses it must see once that it computes ([`FlashAttention::probe`]).

use std::{
    ffi::{c_float, c_int, c_void},
    ptr::null,
};

// Only linked: its kernels come with it.
use candle_flash_attn as _;

use super::{CudaError, Device, DeviceMemory, Half, PagedShape, PinnedMemory, Slice, check, ffi, int, require};

/// The version of candle-flash-attn that is called.
pub const FLASH_VERSION: &str = "0.11.1";

const HALF: usize = 2;
const INT: usize = size_of::<c_int>();

unsafe extern "C" {
    /// As `src/ffi.rs` and `kernels/flash_api.cu` of candle-flash-attn 0.11.1 have it. Strides are in numbers, not bytes.
    fn run_mha(
        q: *const c_void,
        k: *const c_void,
        v: *const c_void,
        out: *mut c_void,
        softmax_lse: *mut c_void,
        alibi_slopes: *const c_void,
        cu_seqlens_q: *const c_int,
        cu_seqlens_k: *const c_int,
        q_batch_stride: u32,
        k_batch_stride: u32,
        v_batch_stride: u32,
        o_batch_stride: u32,
        alibi_slopes_batch_stride: u32,
        q_row_stride: u32,
        k_row_stride: u32,
        v_row_stride: u32,
        o_row_stride: u32,
        q_head_stride: u32,
        k_head_stride: u32,
        v_head_stride: u32,
        o_head_stride: u32,
        batch: u32,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        head_dim_rounded: u32,
        softmax_scale: c_float,
        seqlen_q: u32,
        seqlen_k: u32,
        seqlen_q_rounded: u32,
        seqlen_k_rounded: u32,
        total_q: u32,
        is_bf16: c_int,
        is_causal: c_int,
        unpadded_lse: c_int,
        window_size_left: c_int,
        window_size_right: c_int,
        softcap: c_float,
        block_table: *const c_int,
        block_table_batch_stride: u32,
        page_block_size: c_int,
        mm_prefix_ranges: *const c_int,
        mm_prefix_range_batch_stride: u32,
        max_mm_prefix_ranges: c_int,
        stream: *mut c_void,
    );
}

/// Where keys and values are.
#[derive(Debug, Clone, Copy)]
pub enum FlashKeys<'a> {
    /// In rows, `[rows, kv_heads, head_dim]`, those of the queries: sequences that begin with them.
    Rows {
        /// Rotated keys.
        keys: Slice<'a>,
        /// Values.
        values: Slice<'a>,
    },
    /// In pages, `[pages, page_tokens, kv_heads, head_dim]`.
    Pages {
        /// The layer's pool of keys.
        keys: Slice<'a>,
        /// The layer's pool of values.
        values: Slice<'a>,
        /// int32 `[batch, table_stride]`, the pages of each sequence.
        table: Slice<'a>,
        /// Entries of a row of the table.
        table_stride: usize,
        /// int32 `[batch + 1]`: differences of successive numbers are the positions that sequences hold, these rows
        /// included.
        ends: Slice<'a>,
    },
}

/// Causal attention of parts of prompts.
///
/// A row's result does not depend, bit for bit, on the other sequences; but rows and pages are computed by different
/// kernels, whose results differ by rounding.
#[derive(Debug, Clone, Copy)]
pub struct FlashAttention<'a> {
    /// The layer.
    pub shape: PagedShape,
    /// `[rows, heads, head_dim]`
    pub q: Slice<'a>,
    /// As `q`.
    pub out: Slice<'a>,
    /// Keys and values.
    pub keys: FlashKeys<'a>,
    /// int32 `[batch + 1]`, the first row of each sequence, and the end of the last.
    pub starts: Slice<'a>,
    /// f32 `[heads, rows]`, written.
    pub sums: Slice<'a>,
    /// Sequences.
    pub batch: usize,
    /// Rows of `q`, of which other sequences may hold some.
    pub rows: usize,
    /// Most rows of one of these sequences.
    pub longest: usize,
    /// Most positions one of them holds.
    pub deepest: usize,
    /// Positions a query sees, its own included; all without.
    pub window: Option<usize>,
}

fn unsigned(what: &'static str, value: usize) -> Result<u32, CudaError> {
    u32::try_from(value).map_err(|_| CudaError::Argument { what, actual: value, rule: "below 2^32" })
}

impl FlashAttention<'_> {
    /// Bytes of the sums for `rows` rows.
    pub fn sum_bytes(shape: &PagedShape, rows: usize) -> usize {
        rows * shape.heads * size_of::<f32>()
    }

    /// Issues it. That a launch failed is not told: see [`Self::probe`].
    ///
    /// # Errors
    /// [`CudaError::Argument`] when shapes don't match.
    ///
    /// # Safety
    /// `starts` ascends from at least 0 to at most `rows`; with pages, no sequence holds fewer positions than it has
    /// rows, and the first `⌈positions/page_tokens⌉` entries of a row of the table are pages of the pool.
    pub unsafe fn run(&self, device: &Device) -> Result<(), CudaError> {
        let &Self { shape, batch, rows, longest, deepest, .. } = self;
        shape.check()?;
        // The grid's second and third dimension.
        require((1..65_536).contains(&batch), "the number of sequences", batch, "1 to 65535")?;
        require((1..=rows).contains(&longest), "the rows of the longest sequence", longest, "1 to all rows")?;
        let (q_row, kv_row) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let bytes = rows * q_row * HALF;
        let (q, out) = (self.q.at_least("queries", bytes)?, self.out.at_least("attention's output", bytes)?);
        let sums = self.sums.at_least("the sums of attention", Self::sum_bytes(&shape, rows))?;
        // Not aligned like other arrays: a launch of some of its sequences begins anywhere in it.
        require(
            self.starts.bytes() >= (batch + 1) * INT,
            "first rows",
            self.starts.bytes(),
            "one for each and the end",
        )?;
        let starts: *const c_int = self.starts.pointer().cast();
        let (k, v, k_starts, table, table_stride, page, page_stride) = match self.keys {
            FlashKeys::Rows { keys, values } => {
                let bytes = rows * kv_row * HALF;
                let (k, v) = (keys.at_least("keys", bytes)?, values.at_least("values", bytes)?);
                (k, v, starts, null(), 0, -1, 0)
            }
            FlashKeys::Pages { keys, values, table, table_stride, ends } => {
                let k = keys.at_least("the pool of keys", shape.pool_bytes())?;
                let v = values.at_least("the pool of values", shape.pool_bytes())?;
                require(table.bytes() >= batch * table_stride * INT, "block tables", table.bytes(), "one for each")?;
                require(ends.bytes() >= (batch + 1) * INT, "contexts", ends.bytes(), "one for each and the first")?;
                let fits = deepest <= table_stride * shape.page_tokens;
                require(fits, "the positions of a sequence", deepest, "at most what its block table has room for")?;
                let page = shape.page_tokens;
                let (table, ends): (*const c_int, *const c_int) = (table.pointer().cast(), ends.pointer().cast());
                (k, v, ends, table, table_stride, int("the size of a page", page)?, page * kv_row)
            }
        };
        // A window that no sequence reaches is one all the same, so that its kernel does not follow from the batch.
        let (left, right) = match self.window {
            Some(window) => {
                require(window > 0, "the window", window, "positive")?;
                (int("the window", window - 1)?, 0)
            }
            None => (-1, 0),
        };
        let (q_stride, kv_stride) = (unsigned("the width of queries", q_row)?, unsigned("the width of keys", kv_row)?);
        let head = unsigned("the width of a head", shape.head_dim)?;
        let page_stride = unsigned("the size of a page", page_stride)?;
        let (longest, deepest) = (unsigned("the longest sequence", longest)?, unsigned("the deepest one", deepest)?);
        // SAFETY: every buffer is as long as the shape calls for, and the caller vouches for the indices. Slopes and
        // ranges are absent; the kernels with a window are those that are not causal.
        unsafe {
            run_mha(
                q,
                k,
                v,
                out,
                sums,
                null(),
                starts,
                k_starts,
                0,
                page_stride,
                page_stride,
                0,
                0,
                q_stride,
                kv_stride,
                kv_stride,
                q_stride,
                head,
                head,
                head,
                head,
                unsigned("the batch", batch)?,
                unsigned("heads", shape.heads)?,
                unsigned("heads", shape.kv_heads)?,
                head,
                head.next_multiple_of(32),
                shape.scale,
                longest,
                deepest,
                longest.next_multiple_of(128),
                deepest.next_multiple_of(128),
                unsigned("rows", rows)?,
                c_int::from(device.half() == Half::Bf16),
                c_int::from(self.window.is_none()),
                1,
                left,
                right,
                0.0,
                table,
                unsigned("the width of block tables", table_stride)?,
                page,
                null(),
                0,
                0,
                device.stream(),
            );
        }
        // SAFETY: takes nothing.
        check("candle-flash-attn", unsafe { ffi::cudaGetLastError() })
    }

    /// Sees that both kernels for layers of this shape run and write every row: attention to values that are all one is
    /// one. Waits for the device.
    ///
    /// # Errors
    /// [`CudaError::Call`] when they don't, or what making room fails with.
    pub fn probe(device: &Device, shape: &PagedShape, window: Option<usize>) -> Result<(), CudaError> {
        // Two blocks of rows of either kernel, and the second not full.
        const ROWS: usize = 150;
        let pages = ROWS.div_ceil(shape.page_tokens);
        let shape = PagedShape { pages, ..*shape };
        let zeros = |bytes: usize| -> Result<DeviceMemory, CudaError> {
            let memory = DeviceMemory::new(device, bytes)?;
            memory.fill(0)?;
            Ok(memory)
        };
        let bytes = ROWS * shape.heads * shape.head_dim * HALF;
        let (q, keys, out) = (zeros(bytes)?, zeros(shape.pool_bytes())?, zeros(bytes)?);
        let sums = zeros(Self::sum_bytes(&shape, ROWS))?;
        let one = device.half().to_le_bytes(1.0);
        let values = DeviceMemory::new(device, shape.pool_bytes())?;
        values.write(0, &one.repeat(shape.pool_bytes() / HALF))?;
        let numbers = |numbers: &[usize]| -> Result<DeviceMemory, CudaError> {
            let memory = DeviceMemory::new(device, numbers.len() * INT)?;
            let bytes = numbers.iter().map(|n| int("a number of the probe", *n).map(c_int::to_le_bytes));
            memory.write(0, &bytes.collect::<Result<Vec<_>, _>>()?.concat())?;
            Ok(memory)
        };
        let starts = numbers(&[0, ROWS])?;
        let table = numbers(&(0..pages).rev().collect::<Vec<_>>())?;
        let (k, v) = (keys.all(), values.all());
        let in_pages =
            FlashKeys::Pages { keys: k, values: v, table: table.all(), table_stride: pages, ends: starts.all() };
        let mut read = PinnedMemory::new(device, bytes)?;
        for (what, keys) in [("rows", FlashKeys::Rows { keys: k, values: v }), ("pages", in_pages)] {
            out.fill(0xff)?; // Not a number in either format.
            let attention = FlashAttention {
                shape,
                q: q.all(),
                out: out.all(),
                keys,
                starts: starts.all(),
                sums: sums.all(),
                batch: 1,
                rows: ROWS,
                longest: ROWS,
                deepest: ROWS,
                window,
            };
            // SAFETY: one sequence of all rows, whose pages are those of the pool.
            unsafe { attention.run(device) }?;
            out.all().download(device, &mut read)?;
            if !read.as_bytes().chunks_exact(HALF).all(|number| number == one) {
                let reason = format!(
                    "its kernel for {what} does not compute heads of {} on this device: set engine.device_attention = \
                     \"own\"",
                    shape.head_dim
                );
                return Err(CudaError::Call { call: "candle-flash-attn", reason });
            }
        }
        Ok(())
    }
}
