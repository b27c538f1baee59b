//! Launchers of what works on pages of keys and values: `[pages, page_tokens, kv_heads, head_dim]` in 16-bit numbers, or
//! in FP8 as [`KvFormat::Fp8`] says.

use std::{ffi::c_int, ptr::null_mut};

use super::{CudaError, Device, KvFormat, Slice, check, ffi, int, require};

const HALF: usize = 2;
const INT: usize = size_of::<c_int>();
/// Fewest tokens of a part of a context in decode attention.
const MIN_SPLIT: usize = 256;
/// Most parts of a context.
const MOST_SPLITS: usize = 64;
/// The kernel chooses how many rows it takes together.
const ANY_TILE: c_int = 0;

/// Shape of a layer's attention and of its pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PagedShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Pages of the pool.
    pub pages: usize,
    /// Positions of a page.
    pub page_tokens: usize,
    /// What scores are multiplied by.
    pub scale: f32,
    /// What keys and values are in pages.
    pub format: KvFormat,
}

impl PagedShape {
    /// Refuses what the kernels do not have.
    ///
    /// # Errors
    /// [`CudaError::Argument`].
    pub fn check(&self) -> Result<(), CudaError> {
        let &Self { heads, kv_heads, head_dim, page_tokens, pages, .. } = self;
        require(matches!(head_dim, 64 | 128), "the width of a head", head_dim, "64 or 128")?;
        require(kv_heads > 0 && heads.is_multiple_of(kv_heads), "the number of query heads", heads, {
            "a multiple of the key-value heads"
        })?;
        require(heads / kv_heads <= 64, "the number of query heads of a key-value head", heads / kv_heads, {
            "at most 64"
        })?;
        require(page_tokens > 0 && page_tokens.is_multiple_of(32), "the size of a page", page_tokens, {
            "a multiple of 32"
        })?;
        int("the number of positions in the pool", pages * page_tokens)?;
        Ok(())
    }

    /// Bytes of a page of a layer's keys, or values.
    pub fn page_bytes(&self) -> usize {
        self.page_tokens * self.kv_heads * self.format.head_bytes(self.head_dim)
    }

    /// Bytes of a layer's keys, or values.
    pub fn pool_bytes(&self) -> usize {
        self.pages * self.page_bytes()
    }

    /// Parts a context is cut into at most in decode attention: enough to keep the card busy with a single sequence.
    fn splits(&self) -> usize {
        (128 / self.kv_heads).clamp(1, MOST_SPLITS)
    }

    /// Bytes of the workspace for decode attention over `batch` rows.
    ///
    /// # Errors
    /// [`CudaError::Argument`] when the batch is absurd.
    pub fn decode_workspace(&self, batch: usize) -> Result<usize, CudaError> {
        let (heads, kv_heads) = (int("heads", self.heads)?, int("heads", self.kv_heads)?);
        let (head_dim, splits) = (int("the width of a head", self.head_dim)?, int("splits", self.splits())?);
        // SAFETY: computes a size from numbers.
        let bytes = unsafe {
            ffi::edgewise_attention_decode_workspace(int("the batch", batch)?, 1, heads, kv_heads, head_dim, splits)
        };
        Ok(usize::try_from(bytes).unwrap_or(0))
    }
}

/// Rotates queries and keys, after normalising their heads where norms are given, and writes keys and values to pages.
#[derive(Debug, Clone, Copy)]
pub struct RopePages<'a> {
    /// The layer.
    pub shape: PagedShape,
    /// `[tokens, heads, head_dim]`; rotated in place.
    pub q: Slice<'a>,
    /// `[tokens, kv_heads, head_dim]`
    pub k: Slice<'a>,
    /// `[tokens, kv_heads, head_dim]`
    pub v: Slice<'a>,
    /// The layer's pool of keys.
    pub keys: Slice<'a>,
    /// The layer's pool of values.
    pub values: Slice<'a>,
    /// f32 `[positions, rotary_dim/2]`
    pub cosines: Slice<'a>,
    /// f32 `[positions, rotary_dim/2]`
    pub sines: Slice<'a>,
    /// int32 `[tokens]`, rows of the tables of angles.
    pub positions: Slice<'a>,
    /// int32 `[tokens]`: `page·page_tokens + place in the page`, or -1 for a row whose key and value go nowhere.
    pub slots: Slice<'a>,
    /// Weights of the heads' norms, `[head_dim]`.
    pub norms: Option<[Slice<'a>; 2]>,
    /// Added to the mean square in these norms.
    pub eps: f32,
    /// Rows.
    pub tokens: usize,
    /// Leading dimensions of a head that are rotated.
    pub rotary_dim: usize,
    /// Whether adjacent dimensions are turned together, rather than halves of a head.
    pub adjacent: bool,
    /// Whether `k` is rotated in place, too, for attention that does not read it from the pages.
    pub rotates_keys: bool,
}

impl RopePages<'_> {
    /// Issues it.
    ///
    /// # Errors
    /// [`CudaError`] when shapes don't match.
    ///
    /// # Safety
    /// Every position is a row that the tables of angles have, every slot one of the pool or -1, and no slot is named
    /// twice.
    pub unsafe fn run(&self, device: &Device) -> Result<(), CudaError> {
        self.shape.check()?;
        let PagedShape { heads, kv_heads, head_dim, .. } = self.shape;
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let q = self.q.at_least("queries", self.tokens * q_width * HALF)?;
        let k = self.k.at_least("keys", self.tokens * kv_width * HALF)?;
        let v = self.v.at_least("values", self.tokens * kv_width * HALF)?;
        let keys = self.keys.at_least("the pool of keys", self.shape.pool_bytes())?;
        let values = self.values.at_least("the pool of values", self.shape.pool_bytes())?;
        let positions = self.positions.at_least("positions", self.tokens * INT)?;
        let slots = self.slots.at_least("slots", self.tokens * INT)?;
        require(self.sines.bytes() == self.cosines.bytes(), "the table of sines", self.sines.bytes(), {
            "as long as that of cosines"
        })?;
        let (cosines, sines) = (self.cosines.at_least("cosines", 0)?, self.sines.at_least("sines", 0)?);
        let norm = |slice: Option<Slice<'_>>| match slice {
            Some(slice) => slice.at_least("the weight of a head's norm", head_dim * HALF),
            None => Ok(null_mut()),
        };
        let (q_norm, k_norm) = (norm(self.norms.map(|[q, _]| q))?, norm(self.norms.map(|[_, k]| k))?);
        let [q_width, kv_width] = [int("the width of queries", q_width)?, int("the width of keys", kv_width)?];
        let (cosines, sines, positions, slots) = (cosines.cast(), sines.cast(), positions.cast(), slots.cast());
        let [heads, kv_heads] = [int("heads", heads)?, int("heads", kv_heads)?];
        let (tokens, eps) = (int("the number of tokens", self.tokens)?, self.eps);
        let head_dim = int("the width of a head", head_dim)?;
        let rotary_dim = int("the rotated dimensions", self.rotary_dim)?;
        let adjacent = c_int::from(self.adjacent);
        let page_tokens = int("the size of a page", self.shape.page_tokens)?;
        let (half, stream) = (device.half(), device.stream());
        let k_out = if self.rotates_keys { k } else { null_mut() };
        check(
            "rope_pages",
            match self.shape.format {
                // SAFETY: every buffer is as long as the shape calls for; the caller vouches for the indices. A head is read
                // wholly before it is written, by the same lanes.
                KvFormat::Half => unsafe {
                    half.edgewise_rope_pages(
                        q, k, v, q_width, kv_width, kv_width, q, k_out, keys, values, cosines, sines, positions, slots,
                        q_norm, k_norm, eps, tokens, heads, kv_heads, head_dim, rotary_dim, adjacent, stream,
                    )
                },
                // SAFETY: as above.
                KvFormat::Fp8 => unsafe {
                    half.edgewise_rope_pages_fp8(
                        q,
                        k,
                        v,
                        q_width,
                        kv_width,
                        kv_width,
                        q,
                        keys,
                        values,
                        cosines,
                        sines,
                        positions,
                        slots,
                        q_norm,
                        k_norm,
                        eps,
                        tokens,
                        heads,
                        kv_heads,
                        head_dim,
                        rotary_dim,
                        adjacent,
                        page_tokens,
                        stream,
                    )
                },
            },
        )
    }
}

/// Causal attention of parts of prompts over their pages.
#[derive(Debug, Clone, Copy)]
pub struct PrefillAttention<'a> {
    /// The layer.
    pub shape: PagedShape,
    /// `[rows, heads, head_dim]`, sequence after sequence.
    pub q: Slice<'a>,
    /// As `q`.
    pub out: Slice<'a>,
    /// The layer's pool of keys.
    pub keys: Slice<'a>,
    /// The layer's pool of values.
    pub values: Slice<'a>,
    /// int32 `[batch, table_stride]`, the pages of each sequence.
    pub table: Slice<'a>,
    /// int32 `[batch + 1]`, the first row of each sequence, and the end.
    pub starts: Slice<'a>,
    /// int32 `[batch]`, positions each sequence holds, these rows included.
    pub context: Slice<'a>,
    /// Sequences.
    pub batch: usize,
    /// Rows of all of them.
    pub rows: usize,
    /// Entries of a row of the table.
    pub table_stride: usize,
    /// Positions a query sees, its own included; all without.
    pub window: Option<usize>,
}

impl PrefillAttention<'_> {
    /// Issues it.
    ///
    /// # Errors
    /// [`CudaError`] when shapes don't match.
    ///
    /// # Safety
    /// `starts` ascends between 0 and `rows`, no context is smaller than its rows, and the first
    /// `⌈context/page_tokens⌉` entries of a row of the table are pages of the pool.
    pub unsafe fn run(&self, device: &Device) -> Result<(), CudaError> {
        let shape = self.shape;
        shape.check()?;
        require(
            shape.format == KvFormat::Half,
            "the width of numbers in pages of prompts",
            8,
            "16 bits: dequantise them",
        )?;
        let bytes = self.rows * shape.heads * shape.head_dim * HALF;
        let (q, out) = (self.q.at_least("queries", bytes)?, self.out.at_least("attention's output", bytes)?);
        let keys = self.keys.at_least("the pool of keys", shape.pool_bytes())?;
        let values = self.values.at_least("the pool of values", shape.pool_bytes())?;
        let table = self.table.ints("block tables", self.batch * self.table_stride)?;
        let starts = self.starts.ints("first rows", self.batch + 1)?;
        let context = self.context.ints("contexts", self.batch)?;
        // SAFETY: every buffer is as long as the shape calls for; the caller vouches for the indices.
        check("attention_prefill", unsafe {
            device.half().edgewise_attention_prefill(
                q,
                out,
                keys,
                values,
                table,
                starts,
                context,
                int("the batch", self.batch)?,
                int("the number of rows", self.rows)?,
                int("heads", shape.heads)?,
                int("heads", shape.kv_heads)?,
                int("the width of a head", shape.head_dim)?,
                int("pages", shape.pages)?,
                int("the size of a page", shape.page_tokens)?,
                int("the width of block tables", self.table_stride)?,
                int("the window", self.window.unwrap_or(0))?,
                ANY_TILE,
                shape.scale,
                device.stream(),
            )
        })
    }
}

/// Attention of single rows, each over the pages of its own sequence. A row's result depends on its sequence alone, bit
/// for bit.
#[derive(Debug, Clone, Copy)]
pub struct DecodeAttention<'a> {
    /// The layer.
    pub shape: PagedShape,
    /// `[batch, heads, head_dim]`
    pub q: Slice<'a>,
    /// As `q`.
    pub out: Slice<'a>,
    /// The layer's pool of keys.
    pub keys: Slice<'a>,
    /// The layer's pool of values.
    pub values: Slice<'a>,
    /// int32 `[batch, table_stride]`, the pages of each row's sequence.
    pub table: Slice<'a>,
    /// int32 `[batch]`, positions a row sees, its own included.
    pub context: Slice<'a>,
    /// As long as [`PagedShape::decode_workspace`] says.
    pub workspace: Slice<'a>,
    /// Rows, at most 512.
    pub batch: usize,
    /// Entries of a row of the table.
    pub table_stride: usize,
    /// Positions a query sees, its own included; all without.
    pub window: Option<usize>,
}

impl DecodeAttention<'_> {
    /// Issues it.
    ///
    /// # Errors
    /// [`CudaError`] when shapes don't match.
    ///
    /// # Safety
    /// Every context is positive, and the first `⌈context/page_tokens⌉` entries of a row of the table are pages of the
    /// pool.
    pub unsafe fn run(&self, device: &Device) -> Result<(), CudaError> {
        let shape = self.shape;
        shape.check()?;
        let bytes = self.batch * shape.heads * shape.head_dim * HALF;
        let (q, out) = (self.q.at_least("queries", bytes)?, self.out.at_least("attention's output", bytes)?);
        let keys = self.keys.at_least("the pool of keys", shape.pool_bytes())?;
        let values = self.values.at_least("the pool of values", shape.pool_bytes())?;
        let table = self.table.at_least("block tables", self.batch * self.table_stride * INT)?;
        let context = self.context.at_least("contexts", self.batch * INT)?;
        let workspace = self.workspace.at_least("attention's workspace", shape.decode_workspace(self.batch)?)?;
        let (table, context) = (table.cast(), context.cast());
        let [heads, kv_heads] = [int("heads", shape.heads)?, int("heads", shape.kv_heads)?];
        let (batch, q_len) = (int("the batch", self.batch)?, 1);
        let head_dim = int("the width of a head", shape.head_dim)?;
        let [pages, page_tokens] = [int("pages", shape.pages)?, int("the size of a page", shape.page_tokens)?];
        let table_stride = int("the width of block tables", self.table_stride)?;
        let [splits, min_split] = [int("splits", shape.splits())?, int("the shortest split", MIN_SPLIT)?];
        let (window, scale) = (int("the window", self.window.unwrap_or(0))?, shape.scale);
        let (half, stream) = (device.half(), device.stream());
        check(
            "attention_decode",
            match shape.format {
                // SAFETY: every buffer is as long as the shape calls for; the caller vouches for the indices.
                KvFormat::Half => unsafe {
                    half.edgewise_attention_decode(
                        q,
                        out,
                        keys,
                        values,
                        table,
                        context,
                        workspace,
                        batch,
                        q_len,
                        heads,
                        kv_heads,
                        head_dim,
                        pages,
                        page_tokens,
                        table_stride,
                        splits,
                        min_split,
                        window,
                        scale,
                        stream,
                    )
                },
                // SAFETY: as above.
                KvFormat::Fp8 => unsafe {
                    half.edgewise_attention_decode_fp8(
                        q,
                        out,
                        keys,
                        values,
                        table,
                        context,
                        workspace,
                        batch,
                        q_len,
                        heads,
                        kv_heads,
                        head_dim,
                        pages,
                        page_tokens,
                        table_stride,
                        splits,
                        min_split,
                        window,
                        scale,
                        stream,
                    )
                },
            },
        )
    }
}
