//! What a model takes of the device's memory, and what is left for pages.
//!
//! Memory is planned once: weights are placed while loading, activations and workspaces have their size from the largest
//! pass the engine makes, and pages get the rest of the share that was allowed.

use edgewise_kernels::cuda::{Half, KvFormat};

use super::{Cuda, device_error, fp8};
use crate::{
    PromptAttention,
    decoder::{Activation, DecoderConfig, DecoderError, NormKind, Positions},
};

/// Left free for the driver, code that is loaded late, and alignment.
const RESERVE: usize = 512 << 20;
const HALF: usize = 2;
/// Widest residual stream the normalisation has registers for.
const WIDEST: usize = 16_384;

/// What an engine asks of the device.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CudaOptions {
    /// Most rows of a pass that memory is planned for; more work, and are allocated when they come.
    pub max_rows: usize,
    /// Most sequences whose logits are wanted in a pass, planned likewise.
    pub max_sequences: usize,
    /// Share of the device's memory that may be used, between 0 and 1.
    pub memory_share: f64,
    /// The 16-bit numbers it computes with.
    pub half: Half,
    /// What computes the attention of prompts.
    pub attention: PromptAttention,
    /// What keys and values are in pages.
    pub kv_format: KvFormat,
}

impl Default for CudaOptions {
    fn default() -> Self {
        Self {
            max_rows: 4096 + 64,
            max_sequences: 64,
            memory_share: 0.9,
            half: Half::Bf16,
            attention: PromptAttention::Own,
            kv_format: KvFormat::Half,
        }
    }
}

/// Bytes of a model's weights in 16-bit numbers.
pub(super) fn weight_bytes(config: &DecoderConfig) -> usize {
    let &DecoderConfig { vocab_size, layers, hidden, feed_forward, heads, kv_heads, head_dim, tied, .. } = config;
    let attention = hidden * head_dim * (2 * heads + 2 * kv_heads);
    let embeddings = vocab_size * hidden * if tied { 1 } else { 2 };
    HALF * (embeddings + layers * (attention + 3 * hidden * feed_forward + 2 * hidden) + hidden)
}

/// Bytes of the activations of the largest pass.
pub(super) fn activation_bytes(config: &DecoderConfig, options: &CudaOptions) -> usize {
    let &DecoderConfig { vocab_size, hidden, feed_forward, heads, kv_heads, head_dim, .. } = config;
    let tensors = 16 * 256; // Each begins at a multiple of 256.
    let row = HALF * (4 * hidden + 2 * (heads + kv_heads) * head_dim + 2 * feed_forward);
    let wanted = HALF * (2 * hidden + heads * head_dim) + size_of::<f32>() * vocab_size;
    options.max_rows * row + options.max_sequences * wanted + tensors
}

/// Refuses a model that the kernels can't run.
pub(super) fn check(config: &DecoderConfig) -> Result<(), DecoderError> {
    let refuse = |what: String| {
        let reason = format!("{what}, which the GPU's kernels do not have: set engine.device = \"cpu\"");
        Err(DecoderError::Unsupported { reason })
    };
    let Positions::Rotary(rope) = &config.positions else { return refuse("it uses ALiBi".to_owned()) };
    if !matches!(config.head_dim, 64 | 128) {
        return refuse(format!("its heads have {} dimensions instead of 64 or 128", config.head_dim));
    }
    if !rope.rotary_dim.is_multiple_of(16) || rope.rotary_dim == 0 {
        return refuse(format!("it rotates {} dimensions, not a multiple of 16", rope.rotary_dim));
    }
    if config.norm != NormKind::Rms || config.activation != Activation::GatedSilu || config.clip.is_some() {
        return refuse("it is not of the Llama, Mistral or Qwen kind".to_owned());
    }
    if config.heads / config.kv_heads > 64 {
        return refuse(format!("{} query heads share a key-value head", config.heads / config.kv_heads));
    }
    if !config.hidden.is_multiple_of(8) || config.hidden > WIDEST || !config.feed_forward.is_multiple_of(8) {
        return refuse(format!("it is {} and {} values wide", config.hidden, config.feed_forward));
    }
    Ok(())
}

impl Cuda {
    /// Bytes of the device that may still be used, out of all of it.
    pub(super) fn available(&self) -> Result<(usize, usize), DecoderError> {
        let (free, total) = self.device().memory().map_err(device_error)?;
        let share = self.options().memory_share.clamp(0.05, 1.0);
        let withheld = ((1.0 - share) * total as f64) as usize;
        Ok((free.saturating_sub(withheld.max(RESERVE)), total))
    }

    /// Bytes planned for the activations of the largest pass, and for what prompts read FP8 pages through.
    pub fn activation_bytes(&self, config: &DecoderConfig) -> usize {
        activation_bytes(config, self.options()) + fp8::scratch_bytes(config, self.options())
    }

    /// Refuses a model that has no room.
    pub(super) fn check_room(&self, config: &DecoderConfig) -> Result<(), DecoderError> {
        let (weights, activations) = (weight_bytes(config), self.activation_bytes(config));
        let (free, total) = self.available()?;
        let needed = weights + activations;
        if needed <= free {
            return Ok(());
        }
        let copies = fp8::scratch_bytes(config, self.options());
        let remedy = if needed - copies <= free {
            format!(
                "{copies} of them are what prompts read FP8 pages through: set engine.device_kv_precision = \"half\", or \
                 raise engine.device_memory_share"
            )
        } else if weights < free {
            "lower engine.device_prefill_chunk or engine.max_sequences, or raise engine.device_memory_share".to_owned()
        } else {
            let parameters = free / HALF / 1_000_000_000;
            format!(
                "in 16 bits each, some {parameters} billion parameters fit; choose a smaller model or a larger card"
            )
        };
        Err(DecoderError::DeviceMemory { what: "the model".to_owned(), needed, free, total, remedy })
    }

    /// Bytes for pages, once weights and workspaces are in place; says in the log what everything takes.
    ///
    /// # Errors
    /// [`DecoderError::DeviceMemory`] when not even a few pages fit.
    pub fn plan_pages(&self, config: &DecoderConfig, page_bytes: usize) -> Result<usize, DecoderError> {
        let (free, total) = self.available()?;
        let free = free.saturating_sub(super::pages::staging_bytes(page_bytes));
        if free < 16 * page_bytes {
            return Err(DecoderError::DeviceMemory {
                what: "a cache of keys and values".to_owned(),
                needed: 16 * page_bytes,
                free,
                total,
                remedy:
                    "lower engine.device_prefill_chunk, raise engine.device_memory_share, or choose a smaller model"
                        .to_owned(),
            });
        }
        let mib = |bytes: usize| bytes >> 20;
        tracing::info!(
            precision = self.options().half.name(),
            kv_precision = self.options().kv_format.name(),
            total_mib = mib(total),
            weights_mib = mib(weight_bytes(config)),
            activations_mib = mib(self.activation_bytes(config)),
            pages_mib = mib(free / page_bytes * page_bytes),
            tokens = free / page_bytes * super::PAGE,
            "memory of the GPU is planned"
        );
        Ok(free / page_bytes * page_bytes)
    }
}
