//! The shape of a decoder, whatever family and file it comes from.
//!
//! Invariant: a [`DecoderConfig`] that leaves this module's readers has dimensions that fit each other and are small
//! enough that products of two of them do not overflow. Deliberately not here: how files name things (`config_gguf`,
//! `config_json`).

use super::{DecoderError, rope::RopeConfig};

/// Largest value any dimension may have: far beyond any model, and small enough to multiply.
const LARGEST: usize = 1 << 30;

/// Shape and constants of a decoder-only transformer.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// The architecture as its file names it.
    pub architecture: String,
    /// Number of tokens the model knows, which is the length of its logits.
    pub vocab_size: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward layer.
    pub feed_forward: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key and value heads per layer; divides [`Self::heads`].
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Most positions a sequence may have.
    pub context_window: usize,
    /// How positions enter.
    pub positions: Positions,
    /// What normalises the residual stream.
    pub norm: NormKind,
    /// Added to the mean square, or the variance, in normalisation.
    pub norm_eps: f32,
    /// What the feed-forward layer computes.
    pub activation: Activation,
    /// What scores are multiplied by, usually `1/√head_dim`.
    pub attention_scale: f32,
    /// Queries, keys and values are clipped to `±clip` (MPT's `clip_qkv`).
    pub clip: Option<f32>,
    /// How many positions each layer sees, its own included; `None` sees all.
    pub windows: Vec<Option<usize>>,
    /// Whether queries and keys are normalised head by head before rotation (Qwen3).
    pub head_norms: bool,
    /// Which projections have biases.
    pub biases: Biases,
    /// Whether the embedding is also the output matrix.
    pub tied: bool,
}

/// How a decoder knows positions.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Rotary embedding of queries and keys.
    Rotary(RopeConfig),
    /// A linear penalty on distance, `slope·(key − query)`, for each head. Press et al.,
    /// <https://arxiv.org/abs/2108.12409>.
    Alibi {
        /// Slope of each head.
        slopes: Vec<f32>,
    },
}

/// What normalises the residual stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square, <https://arxiv.org/abs/1910.07467>.
    Rms,
    /// Mean and variance, without a bias, <https://arxiv.org/abs/1607.06450>.
    Layer,
}

/// What the feed-forward layer computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `down(silu(gate(x))·up(x))`, <https://arxiv.org/abs/2002.05202>.
    GatedSilu,
    /// `down(gelu(up(x)))` with the exact GELU, <https://arxiv.org/abs/1606.08415>.
    Gelu,
}

/// Which projections have biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Biases {
    /// Queries, keys and values.
    pub qkv: bool,
    /// The projection after attention.
    pub attention_output: bool,
    /// The feed-forward layer.
    pub feed_forward: bool,
}

impl DecoderConfig {
    pub(super) fn check(&self) -> Result<(), DecoderError> {
        let dimensions = [self.vocab_size, self.layers, self.hidden, self.feed_forward, self.heads, self.kv_heads]
            .into_iter()
            .chain([self.head_dim, self.context_window])
            .chain(self.windows.iter().copied().flatten());
        let sound = dimensions.into_iter().all(|n| (1..=LARGEST).contains(&n))
            && self.heads.is_multiple_of(self.kv_heads)
            && self.heads.checked_mul(self.head_dim).is_some_and(|width| width <= LARGEST)
            && self.windows.len() == self.layers
            && self.norm_eps.is_finite()
            && self.norm_eps >= 0.0
            && self.attention_scale.is_finite()
            && self.clip.is_none_or(|clip| clip > 0.0)
            && match &self.positions {
                Positions::Rotary(rope) => rope.rotary_dim.is_multiple_of(2) && rope.rotary_dim <= self.head_dim,
                Positions::Alibi { slopes } => slopes.len() == self.heads && slopes.iter().all(|s| s.is_finite()),
            };
        if !sound {
            let Self { vocab_size, layers, hidden, feed_forward, heads, kv_heads, head_dim, context_window, .. } = self;
            return Err(DecoderError::Unsupported {
                reason: format!(
                    "its dimensions contradict each other: vocabulary {vocab_size}, layers {layers}, width {hidden}, \
                     feed-forward width {feed_forward}, heads {heads}, key-value heads {kv_heads}, width of a head \
                     {head_dim}, window {context_window}"
                ),
            });
        }
        if !self.head_dim.is_multiple_of(16) {
            return Err(DecoderError::Unsupported {
                reason: format!("its heads have {} dimensions, which is not a multiple of 16", self.head_dim),
            });
        }
        Ok(())
    }

    /// The window to serve where `wanted` is configured: at most what the model and its RoPE scaling can reach.
    pub(super) fn with_window(mut self, wanted: Option<usize>) -> Self {
        let trained = self.context_window;
        let (default, most) = match &self.positions {
            Positions::Rotary(rope) => rope.windows(trained),
            Positions::Alibi { .. } => (trained, trained),
        };
        self.context_window = wanted.map_or(default, |wanted| wanted.clamp(1, most));
        if let Positions::Rotary(rope) = &mut self.positions {
            rope.served = self.context_window;
        }
        self
    }

    /// Bytes of keys and values one token takes: `2·layers·kv_heads·head_dim·2`.
    pub fn kv_bytes_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * size_of::<half::f16>()
    }
}

/// ALiBi slopes as MPT computes them: `2^(-bias·i/n)` for `i` in `1..=n`, with `n` the power of two at or above the
/// number of heads; where that is above, every second one first.
/// Source: <https://huggingface.co/mosaicml/mpt-7b/blob/main/attention.py> (`gen_slopes`).
pub(super) fn alibi_slopes(heads: usize, largest_bias: f64) -> Vec<f32> {
    let n = heads.next_power_of_two();
    let slope = |i: usize| (-largest_bias * i as f64 / n as f64).exp2() as f32;
    if n == heads {
        (1..=n).map(slope).collect()
    } else {
        (2..=n).step_by(2).chain((1..=n).step_by(2)).take(heads).map(slope).collect()
    }
}
