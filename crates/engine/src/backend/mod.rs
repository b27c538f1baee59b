//! Where a decoder computes: the few coarse operations its forward pass is made of, over tensors and pages that only
//! the backend can look into.
//!
//! Invariants every backend keeps:
//! - A row's result depends, bit for bit, only on that row and, in attention, on the keys and values of the positions
//!   it sees: not on the batch, nor on which pages hold them. (With candle-flash-attn also on where its prompt was first
//!   cut: see [`crate::PromptAttention`].)
//! - Operations are issued in order and need not have finished on return; [`Backend::read`] waits for what it reads.
//!
//! Deliberately not here: the order of the operations (`decoder::forward`), schedules, files.

mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod host_matrix;

use std::fmt::Debug;

pub use cpu::{Cpu, CpuKv};
#[cfg(feature = "cuda")]
pub use cuda::{Ceilings, Cuda, CudaKv, CudaOptions, PassTimes};
pub use host_matrix::HostMatrix;

use crate::{
    decoder::{DecoderConfig, DecoderError, NormKind},
    step_model::{BatchEntry, Demand, Meanwhile, Scores},
};

/// A normalisation over the width of a row, or of a head.
#[derive(Debug)]
pub struct Norm<B: Backend> {
    /// Which one.
    pub kind: NormKind,
    /// What the normalised values are multiplied with; its length is the width.
    pub weight: B::Vector,
    /// Added to the mean square, or the variance.
    pub eps: f32,
}

/// What a pass computes in; `[rows, …]` but for the logits.
#[derive(Debug)]
pub struct Activations<B: Backend> {
    /// The residual stream, `[rows, hidden]`.
    pub residual: B::Tensor,
    /// Its normalised rows.
    pub normed: B::Tensor,
    /// What a sublayer adds to it.
    pub projected: B::Tensor,
    /// Queries, keys and values, `[rows, heads·head_dim]`.
    pub qkv: [B::Tensor; 3],
    /// Attention's output, as the queries.
    pub attended: B::Tensor,
    /// `[rows, feed_forward]`
    pub gate: B::Tensor,
    /// As `gate`.
    pub up: B::Tensor,
    /// `[wanted, vocab_size]`
    pub logits: B::Tensor,
}

/// The operations of a forward pass. Tensors are `[rows, width]`; a row is a token of the batch.
pub trait Backend: Debug + Clone + Send + Sync + 'static {
    /// Whether a pass that was issued runs by itself, so that the thread that issued it can do other things until it
    /// waits for the results.
    const IS_DEVICE: bool = false;

    /// A weight matrix `[outputs, inputs]`, with its bias where it has one.
    type Matrix: Debug + Send + Sync;
    /// A vector of weights.
    type Vector: Debug + Send + Sync;
    /// Activations.
    type Tensor: Debug;
    /// What a model's attention always needs: the shape of its pages, frequencies or slopes.
    type Attention: Debug + Send + Sync;
    /// What every layer of one pass needs: token ids, angles of positions, block tables, buffers.
    type Pass<'a>;
    /// Keys and values of all layers, in pages.
    type Kv: Send;

    /// Places a weight matrix.
    ///
    /// # Errors
    /// [`DecoderError`] when its shape is not one the kernels work with, or memory is short.
    fn matrix(&self, weights: &HostMatrix<'_>, bias: Option<&[f32]>) -> Result<Self::Matrix, DecoderError>;

    /// Memory a matrix takes, in bytes.
    fn matrix_bytes(matrix: &Self::Matrix) -> usize;

    /// Places a vector of weights.
    ///
    /// # Errors
    /// [`DecoderError`] when memory is short.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector, DecoderError>;

    /// Prepares what attention needs of a model.
    ///
    /// # Errors
    /// [`DecoderError`] when its shape is not one the kernels work with.
    fn attention(&self, config: &DecoderConfig) -> Result<Self::Attention, DecoderError>;

    /// Whether a generated token is computed as it would be in a prompt, bit for bit. Where it is not, what a row
    /// depends on includes which tokens before it were generated ([`BatchEntry::generated_from`]), and pages that hold
    /// generated tokens are not shared with prompts.
    fn shares_generated(&self) -> bool {
        true
    }

    /// Names precision and layout of keys and values, and whatever else of the backend they depend on.
    fn kv_format(&self) -> String;

    /// Positions in a page.
    fn page_tokens(&self) -> usize;

    /// Bytes of one page over all layers, keys and values.
    fn page_bytes(&self, attention: &Self::Attention) -> usize;

    /// Room for `pages` pages.
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`].
    fn allocate(&self, attention: &Self::Attention, pages: usize) -> Result<Self::Kv, DecoderError>;

    /// Number of pages.
    fn pages(kv: &Self::Kv) -> usize;

    /// Copies at least the first `tokens` positions of page `from` to page `to`; both exist.
    fn copy_page(&self, kv: &mut Self::Kv, from: usize, to: usize, tokens: usize);

    /// Appends the bytes of a page that exists to `out`.
    fn read_page(&self, kv: &Self::Kv, page: usize, out: &mut Vec<u8>);

    /// Puts back what [`Self::read_page`] gave, which is [`Self::page_bytes`] long.
    fn write_page(&self, kv: &mut Self::Kv, page: usize, bytes: &[u8]);

    /// Runs a whole pass where the backend's operations start fastest.
    fn run<T: Send>(&self, pass: impl FnOnce() -> T + Send) -> T {
        pass()
    }

    /// Prepares a pass over `batch`, whose tokens and pages have been checked. Rows are the tokens of the entries, one
    /// entry after the other.
    ///
    /// # Errors
    /// [`DecoderError`] when memory is short. The same holds for the operations below, and a kernel's refusal.
    fn begin<'a>(
        &self,
        attention: &Self::Attention,
        batch: &'a [BatchEntry<'a>],
    ) -> Result<Self::Pass<'a>, DecoderError>;

    /// Rows that a pass over `batch` is computed with, and of how many of them logits: at least those of the batch,
    /// which come first.
    fn rows(&self, _pass: &Self::Pass<'_>, batch: &[BatchEntry<'_>]) -> (usize, usize) {
        (batch.iter().map(|entry| entry.tokens.len()).sum(), batch.iter().filter(|entry| entry.logits).count())
    }

    /// Issues a pass, which computes in `tensors` and none beside them: by calling `issue`, or as an earlier pass was
    /// issued that only differed in what [`Self::begin`] hands over.
    ///
    /// # Errors
    /// What `issue` fails with, or a failure of the device.
    fn issue(
        &self,
        _attention: &Self::Attention,
        pass: &mut Self::Pass<'_>,
        kv: &mut Self::Kv,
        tensors: &mut Activations<Self>,
        issue: impl FnOnce(&mut Self::Pass<'_>, &mut Self::Kv, &mut Activations<Self>) -> Result<(), DecoderError>,
    ) -> Result<(), DecoderError> {
        issue(pass, kv, tensors)
    }

    /// Room for activations, with unspecified contents.
    fn tensor(&self, rows: usize, width: usize) -> Result<Self::Tensor, DecoderError>;

    /// Room for the residual stream, which may be kept in a higher precision than other activations.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    fn residual(&self, rows: usize, width: usize) -> Result<Self::Tensor, DecoderError> {
        self.tensor(rows, width)
    }

    /// Room for logits, in the precision they are drawn from.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    fn logits(&self, rows: usize, width: usize) -> Result<Self::Tensor, DecoderError> {
        self.tensor(rows, width)
    }

    /// The rows of `table` that the tokens of the batch name.
    fn embed(&self, pass: &Self::Pass<'_>, table: &Self::Matrix, out: &mut Self::Tensor) -> Result<(), DecoderError>;

    /// `out = norm(x)`
    fn norm(&self, x: &Self::Tensor, norm: &Norm<Self>, out: &mut Self::Tensor) -> Result<(), DecoderError>;

    /// Multiplies `x` with each of the matrices.
    fn project(
        &self,
        pass: &mut Self::Pass<'_>,
        x: &Self::Tensor,
        products: &mut [(&Self::Matrix, &mut Self::Tensor)],
    ) -> Result<(), DecoderError>;

    /// `gate ← silu(x·gateᵀ)·(x·upᵀ)`. What `up`'s tensor holds afterwards is unspecified.
    fn project_gated(
        &self,
        pass: &mut Self::Pass<'_>,
        x: &Self::Tensor,
        gate: (&Self::Matrix, &mut Self::Tensor),
        up: (&Self::Matrix, &mut Self::Tensor),
    ) -> Result<(), DecoderError>;

    /// `residual += x·matrixᵀ; out = norm(residual)`. What the matrix's tensor holds afterwards is unspecified.
    fn project_add_norm(
        &self,
        pass: &mut Self::Pass<'_>,
        x: &Self::Tensor,
        product: (&Self::Matrix, &mut Self::Tensor),
        residual: &mut Self::Tensor,
        norm: &Norm<Self>,
        out: &mut Self::Tensor,
    ) -> Result<(), DecoderError>;

    /// Clips queries, keys and values where the model does, normalises the heads of `q` and `k` where norms are given,
    /// rotates both, and writes keys and values to the pages of a layer.
    fn write_kv(
        &self,
        attention: &Self::Attention,
        pass: &Self::Pass<'_>,
        layer: (&mut Self::Kv, usize),
        head_norms: Option<&[Norm<Self>; 2]>,
        qkv: [&mut Self::Tensor; 3],
    ) -> Result<(), DecoderError>;

    /// Attention of every row over the positions of its sequence up to its own, the last `window` of them where one is
    /// given. Their keys and values have been written; `qkv` are what [`Self::write_kv`] left.
    fn attend(
        &self,
        attention: &Self::Attention,
        pass: &Self::Pass<'_>,
        layer: (&Self::Kv, usize),
        window: Option<usize>,
        qkv: [&Self::Tensor; 3],
        out: &mut Self::Tensor,
    ) -> Result<(), DecoderError>;

    /// `x ← gelu(x)`, the exact one.
    fn gelu(&self, x: &mut Self::Tensor) -> Result<(), DecoderError>;

    /// Keeps only the rows whose logits are wanted, in order.
    fn keep_wanted(&self, pass: &Self::Pass<'_>, x: &mut Self::Tensor) -> Result<(), DecoderError>;

    /// Makes a tensor `rows` high, at most what it was; its contents become unspecified.
    fn shrink(&self, x: &mut Self::Tensor, rows: usize);

    /// The rows of a tensor.
    fn read(&self, x: &Self::Tensor) -> Result<Vec<Vec<f32>>, DecoderError>;

    /// What tokens are drawn from, for each row of `logits` at least as much as its demand: the whole rows, unless the
    /// backend can select in less time than it takes to read them. Backends that are devices call `meanwhile` when
    /// everything was issued, and wait afterwards.
    ///
    /// # Errors
    /// A kernel's refusal, or what failed on the device.
    fn scores(
        &self,
        logits: &Self::Tensor,
        _demands: &[Demand],
        _meanwhile: &mut Meanwhile<'_>,
    ) -> Result<Vec<Scores>, DecoderError> {
        Ok(self.read(logits)?.into_iter().map(Scores::Whole).collect())
    }
}
