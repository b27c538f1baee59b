//! The shape of a decoder, read from GGUF metadata.

use super::{DecoderError, GgufFile};

/// Shape and constants of a Llama-family decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderConfig {
    /// Number of tokens the model knows, which is the length of its logits.
    pub vocab_size: usize,
    /// Number of transformer layers.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the gated feed-forward layer.
    pub feed_forward: usize,
    /// Query heads per layer.
    pub heads: usize,
    /// Key and value heads per layer; divides [`Self::heads`].
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Leading dimensions of each head that are rotated; even, at most [`Self::head_dim`].
    pub rotary_dim: usize,
    /// Most positions the model was trained for.
    pub context_window: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Added to the mean square in RMS normalisation.
    pub rms_eps: f32,
}

impl DecoderConfig {
    /// Reads and checks the `llama.*` keys.
    ///
    /// # Errors
    /// [`DecoderError::Metadata`] for a missing or malformed key, [`DecoderError::Unsupported`] for another
    /// architecture or a RoPE scaling.
    pub fn from_gguf(gguf: &GgufFile) -> Result<Self, DecoderError> {
        let architecture = gguf.string("general.architecture")?;
        if architecture != "llama" {
            return Err(DecoderError::Unsupported {
                reason: format!("its architecture is `{architecture}`, and only `llama` is implemented"),
            });
        }
        if let Ok(kind) = gguf.string("llama.rope.scaling.type")
            && kind != "none"
        {
            return Err(DecoderError::Unsupported { reason: format!("it needs RoPE scaling of type `{kind}`") });
        }
        for (tensor, what) in
            [("rope_freqs.weight", "RoPE frequency factors"), ("blk.0.attn_q.bias", "attention biases")]
        {
            if gguf.has_tensor(tensor) {
                return Err(DecoderError::Unsupported { reason: format!("it has {what} (`{tensor}`)") });
            }
        }
        let heads = gguf.integer("llama.attention.head_count")?;
        let hidden = gguf.integer("llama.embedding_length")?;
        let or = |key: &str, default: usize| if gguf.value(key).is_some() { gguf.integer(key) } else { Ok(default) };
        let head_dim = or("llama.attention.key_length", hidden.checked_div(heads).unwrap_or(0))?;
        let rope_theta = "llama.rope.freq_base";
        let config = Self {
            vocab_size: gguf.tensor("token_embd.weight")?.dims.first().copied().unwrap_or(0),
            layers: gguf.integer("llama.block_count")?,
            hidden,
            feed_forward: gguf.integer("llama.feed_forward_length")?,
            heads,
            kv_heads: or("llama.attention.head_count_kv", heads)?,
            head_dim,
            rotary_dim: or("llama.rope.dimension_count", head_dim)?,
            context_window: gguf.integer("llama.context_length")?,
            rope_theta: if gguf.value(rope_theta).is_some() { gguf.float(rope_theta)? } else { 10_000.0 },
            rms_eps: gguf.float("llama.attention.layer_norm_rms_epsilon")? as f32,
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), DecoderError> {
        let positive = [self.vocab_size, self.layers, self.hidden, self.feed_forward, self.heads, self.kv_heads]
            .into_iter()
            .chain([self.head_dim, self.context_window])
            .all(|n| n > 0);
        let consistent = positive
            && self.heads.is_multiple_of(self.kv_heads)
            && self.rotary_dim.is_multiple_of(2)
            && self.rotary_dim <= self.head_dim
            && self.rope_theta > 0.0;
        if consistent {
            Ok(())
        } else {
            Err(DecoderError::Unsupported { reason: format!("its dimensions contradict each other: {self:?}") })
        }
    }

    /// Bytes of keys and values one token takes in a sequence's state.
    pub fn kv_bytes_per_token(&self) -> usize {
        2 * self.layers * self.kv_heads * self.head_dim * size_of::<half::f16>()
    }
}
