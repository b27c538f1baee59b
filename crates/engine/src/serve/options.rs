//! What an engine may use, and the pool of pages that follows from it.

use std::{path::PathBuf, time::Duration};

use edgewise_kv_cache::{CacheOptions, Identity, Reserved};

use crate::EngineError;

/// Where a generator computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Placement {
    /// On the GPU where the program was built for one and finds one, else on the CPU.
    #[default]
    Auto,
    /// On the CPU.
    Cpu,
    /// On the first visible NVIDIA GPU.
    Cuda,
}

/// The 16-bit numbers a GPU computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// Half precision for models published in it and for quantised GGUF files of Llama's architecture, which are known to
    /// stay within its range; else bfloat16.
    #[default]
    Auto,
    /// bfloat16: 8 significant bits.
    Bf16,
    /// IEEE half precision: 11 significant bits, up to 65504.
    F16,
}

/// What computes the attention of prompts on a GPU. Generated tokens go through the engine's own kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PromptAttention {
    /// The engine's own kernel, with which a cached prompt gives the logits of a cold one bit for bit.
    #[default]
    Own,
    /// FlashAttention-2, by candle-flash-attn (feature `flash-attn`), with which it gives them within rounding.
    FlashAttn,
}

/// What a GPU keeps keys and values in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvPrecision {
    /// The 16-bit numbers it computes with.
    #[default]
    Half,
    /// 8 bits, e4m3 with a scale for each token and head: half of the memory, so twice the tokens, and less exact.
    Fp8,
}

/// Limits of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Where the generator computes.
    pub device: Placement,
    /// What a GPU computes with.
    pub device_precision: Precision,
    /// What computes the attention of prompts on a GPU.
    pub device_attention: PromptAttention,
    /// What a GPU keeps keys and values in.
    pub device_kv_precision: KvPrecision,
    /// Share of a GPU's memory for weights, activations, keys and values together, between 0 and 1. On a GPU, keys and
    /// values take what the others leave of it, instead of `cache_bytes`.
    pub device_memory_share: f64,
    /// Memory for keys and values on a GPU, in bytes; absent: what that share leaves.
    pub device_cache_bytes: Option<usize>,
    /// Most prompt tokens of a forward pass on a GPU, instead of `prefill_chunk`.
    pub device_prefill_chunk: usize,
    /// Most tokens of prompt and output together; absent: what the model was trained for. Cut to that, and to what the
    /// pages hold.
    pub context_window: Option<usize>,
    /// Memory for keys and values, those of running requests and those kept for reuse, in bytes. Taken at start, in whole
    /// pages.
    pub cache_bytes: usize,
    /// Host memory below a device's for pages that had to go, in bytes; 0 does without. Of no use on a CPU.
    pub host_cache_bytes: usize,
    /// Prompts of fewer tokens are neither cached nor looked up.
    pub min_prefix_tokens: usize,
    /// Share of the pages that the retained prefixes of one tenant may hold safe from eviction, between 0 and 1. All
    /// tenants together get at most three quarters.
    pub retained_share: f64,
    /// Most prompt tokens of a forward pass. A cancelled prefill ends after at most this many.
    pub prefill_chunk: usize,
    /// Most sequences computed together.
    pub max_sequences: usize,
    /// New requests are refused while the prompts ahead of them take longer than this to prefill. One that finds the
    /// engine idle is always taken.
    pub target_ttft: Duration,
    /// Longest forward pass, as predicted, while sequences wait for their next token; prompts get smaller chunks then.
    pub target_itl: Duration,
    /// Folder for retained prefixes, which are put back from there at start; absent: they are lost at the end.
    pub durable_dir: Option<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            device: Placement::Auto,
            device_precision: Precision::Auto,
            device_attention: PromptAttention::Own,
            device_kv_precision: KvPrecision::Half,
            device_memory_share: 0.9,
            device_cache_bytes: None,
            device_prefill_chunk: 4096,
            context_window: None,
            cache_bytes: 1 << 30,
            host_cache_bytes: 0,
            min_prefix_tokens: 64,
            retained_share: 0.5,
            prefill_chunk: 256,
            max_sequences: 64,
            target_ttft: Duration::from_secs(30),
            target_itl: Duration::from_millis(250),
            durable_dir: None,
        }
    }
}

/// Share of the pages that may be retained safe from eviction by all tenants together; the rest stays for requests.
const RETAINED_LIMIT: f64 = 0.75;

impl EngineOptions {
    /// The pool for a model with pages of `page_tokens` positions and `page_bytes` bytes.
    pub(crate) fn plan(
        &self,
        page_tokens: usize,
        page_bytes: usize,
        identity: Identity,
        secret: [u8; 32],
    ) -> Result<CacheOptions, EngineError> {
        let pages = self.cache_bytes / page_bytes.max(1);
        if pages < 2 {
            return Err(EngineError::Unsupported {
                what: format!("a cache of {} bytes for keys and values", self.cache_bytes),
                supported: format!("pages of this model take {page_bytes} bytes: give it at least two"),
            });
        }
        let share = |share: f64| (pages as f64 * share.clamp(0.0, RETAINED_LIMIT)) as usize;
        Ok(CacheOptions {
            page_tokens,
            pages,
            host_pages: self.host_cache_bytes / page_bytes.max(1),
            min_prefix_tokens: self.min_prefix_tokens,
            identity,
            secret,
            reserved: Reserved {
                public: 0,
                tenants: Default::default(),
                default: share(self.retained_share),
                limit: share(RETAINED_LIMIT),
            },
        })
    }
}
