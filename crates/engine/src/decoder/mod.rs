//! The decoder-only transformer: weights from GGUF or safetensors, and a batched forward pass over paged keys and
//! values.
//!
//! Families: Llama, Mistral, Qwen2, Qwen3 and MPT, from what transformers saves or from GGUF; every combination of
//! grouped heads, biases, head norms, sliding windows and RoPE scalings these have. The pass is written once
//! (`forward`), over the operations of a [`Backend`].
//!
//! Invariants:
//! - Weights are immutable after loading and shared: a [`Decoder`] is cheap to clone, `Send` and `Sync`.
//! - A token's keys, values and logits depend only on the tokens before it, bit for bit: not on the batch, on how its
//!   sequence was cut into [`Decoder::forward`] calls, nor on the pages that hold it. Prefix reuse rests on this.
//! - Files are never trusted: what is missing, truncated, of a wrong shape or absurd size is refused in one sentence.
//!
//! Deliberately not here: tokenisation, sampling, scheduling, which pages a sequence has.

mod config;
mod config_gguf;
mod config_json;
mod error;
mod forward;
mod gguf;
mod load;
mod random;
mod rope;
mod safetensors_files;
mod step;
mod weights;

use std::sync::Arc;

pub use config::{Activation, Biases, DecoderConfig, NormKind, Positions};
pub use edgewise_kernels::Pairing;
pub use error::DecoderError;
pub use gguf::GgufFile;
pub use load::LoadOptions;
pub use rope::{RopeConfig, RopeScaling};
pub use safetensors_files::SafetensorsFiles;

pub use crate::backend::{Activations, Backend, Cpu, CpuKv, HostMatrix, Norm};
#[cfg(feature = "cuda")]
pub use crate::backend::{Ceilings, Cuda, CudaKv, CudaOptions, PassTimes};
pub use crate::step_model::{BatchEntry, Demand, Likeliest, Meanwhile, Scores};
#[cfg(feature = "cuda")]
pub use edgewise_kernels::cuda::{Half, KvFormat};

/// How weight matrices are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arithmetic {
    /// Where weights are quantised, activations are rounded to 8 bits per block of 32 and multiplied with the weights'
    /// own integers.
    #[default]
    Quantized,
    /// Weights are expanded to f32 and activations are not rounded: several times slower and larger, for checking.
    F32,
}

/// A loaded decoder-only transformer. Immutable, `Send` and `Sync`; cloning shares the weights.
#[derive(Debug)]
pub struct Decoder<B: Backend = Cpu> {
    inner: Arc<Inner<B>>,
}

#[derive(Debug)]
struct Inner<B: Backend> {
    backend: B,
    config: DecoderConfig,
    attention: B::Attention,
    weights: weights::Weights<B>,
}

impl<B: Backend> Clone for Decoder<B> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<B: Backend> Decoder<B> {
    /// Its shape.
    pub fn config(&self) -> &DecoderConfig {
        &self.inner.config
    }

    /// Memory the weights take, in bytes.
    pub fn weight_bytes(&self) -> usize {
        self.inner.weights.bytes()
    }

    /// What, besides weights and tokens, the contents of a page depend on: how positions enter (dynamic NTK scaling,
    /// with the window it was fixed for), the precision and the layout of pages. To be part of a cache's identity.
    pub fn kv_identity(&self) -> String {
        let DecoderConfig { positions, windows, .. } = self.config();
        format!("{positions:?} windows {windows:?} {}", self.inner.backend.kv_format())
    }

    /// Positions in a page.
    pub fn page_tokens(&self) -> usize {
        self.inner.backend.page_tokens()
    }

    /// Bytes of one page over all layers, keys and values.
    pub fn page_bytes(&self) -> usize {
        self.inner.backend.page_bytes(&self.inner.attention)
    }

    /// Room for `pages` pages.
    ///
    /// # Errors
    /// [`DecoderError::OutOfMemory`] when there is not enough memory.
    pub fn allocate(&self, pages: usize) -> Result<B::Kv, DecoderError> {
        self.inner.backend.allocate(&self.inner.attention, pages)
    }
}
