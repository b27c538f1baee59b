//! The shape of a decoder from GGUF metadata.
//!
//! Keys: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md> and llama.cpp's converter. Architectures `llama`
//! (which Mistral is exported as, too), `qwen2`, `qwen3` and `mpt`.

use edgewise_kernels::Pairing;

use super::{
    DecoderConfig, DecoderError, GgufFile,
    config::{Activation, Biases, NormKind, Positions, alibi_slopes},
    rope::{RopeConfig, RopeScaling, yarn_magnitude},
    weights::dequantized,
};

impl DecoderConfig {
    /// Reads and checks the keys of the file's architecture.
    ///
    /// # Errors
    /// [`DecoderError::Metadata`] for a missing or malformed key, [`DecoderError::Unsupported`] for an architecture, a
    /// RoPE scaling or dimensions that are not implemented.
    pub fn from_gguf(gguf: &GgufFile) -> Result<Self, DecoderError> {
        let architecture = gguf.string("general.architecture")?;
        if !["llama", "qwen2", "qwen3", "mpt"].contains(&architecture) {
            return Err(DecoderError::Unsupported {
                reason: format!(
                    "its architecture is `{architecture}`; `llama`, `qwen2`, `qwen3` and `mpt` are implemented"
                ),
            });
        }
        let keys = Keys { gguf, architecture };
        if keys.integer_or("expert_count", 0)? > 0 {
            return Err(DecoderError::Unsupported { reason: "it is a mixture of experts".to_owned() });
        }
        let mpt = architecture == "mpt";
        let (heads, hidden) = (keys.integer("attention.head_count")?, keys.integer("embedding_length")?);
        let layers = keys.integer("block_count")?;
        let head_dim = keys.integer_or("attention.key_length", hidden.checked_div(heads).unwrap_or(0))?;
        if keys.integer_or("attention.value_length", head_dim)? != head_dim {
            return Err(DecoderError::Unsupported { reason: "its keys and values differ in width".to_owned() });
        }
        let bias = |part: &str| gguf.has_tensor(&format!("blk.0.{part}.bias"));
        let (norm, eps) = if mpt {
            (NormKind::Layer, "attention.layer_norm_epsilon")
        } else {
            (NormKind::Rms, "attention.layer_norm_rms_epsilon")
        };
        let window = match keys.integer_or("attention.sliding_window", 0)? {
            0 => None,
            window => Some(window),
        };
        let context_window = keys.integer("context_length")?;
        let config = Self {
            architecture: architecture.to_owned(),
            vocab_size: gguf.tensor("token_embd.weight")?.dims.first().copied().unwrap_or(0),
            layers,
            hidden,
            feed_forward: keys.integer("feed_forward_length")?,
            heads,
            kv_heads: keys.integer_or("attention.head_count_kv", heads)?,
            head_dim,
            context_window,
            positions: if mpt {
                let largest = keys.float_or("attention.max_alibi_bias", 8.0)?;
                Positions::Alibi { slopes: alibi_slopes(heads.min(1 << 16), largest) }
            } else {
                Positions::Rotary(keys.rope(head_dim, context_window)?)
            },
            norm,
            norm_eps: keys.float(eps)? as f32,
            activation: if mpt { Activation::Gelu } else { Activation::GatedSilu },
            attention_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            clip: match keys.float_or("attention.clamp_kqv", 0.0)? {
                0.0 => None,
                clip => Some(clip as f32),
            },
            windows: vec![window; layers.min(1 << 16)],
            head_norms: architecture == "qwen3",
            biases: Biases {
                qkv: architecture == "qwen2" || bias("attn_q") || bias("attn_qkv"),
                attention_output: bias("attn_output"),
                feed_forward: bias("ffn_down"),
            },
            tied: !gguf.has_tensor("output.weight"),
        };
        config.check()?;
        Ok(config)
    }
}

/// The keys under the name of the architecture.
struct Keys<'a> {
    gguf: &'a GgufFile,
    architecture: &'a str,
}

impl Keys<'_> {
    fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn has(&self, key: &str) -> bool {
        self.gguf.value(&self.name(key)).is_some()
    }

    fn integer(&self, key: &str) -> Result<usize, DecoderError> {
        self.gguf.integer(&self.name(key))
    }

    fn integer_or(&self, key: &str, default: usize) -> Result<usize, DecoderError> {
        if self.has(key) { self.integer(key) } else { Ok(default) }
    }

    fn float(&self, key: &str) -> Result<f64, DecoderError> {
        self.gguf.float(&self.name(key))
    }

    fn float_or(&self, key: &str, default: f64) -> Result<f64, DecoderError> {
        if self.has(key) { self.float(key) } else { Ok(default) }
    }

    fn rope(&self, head_dim: usize, trained: usize) -> Result<RopeConfig, DecoderError> {
        let rotary_dim = self.integer_or("rope.dimension_count", head_dim)?;
        let scaling = if self.has("rope.scaling.type") {
            self.scaling(self.gguf.string(&self.name("rope.scaling.type"))?, trained)?
        } else if self.has("rope.scale_linear") {
            RopeScaling::Linear { factor: self.float("rope.scale_linear")? }
        } else {
            RopeScaling::None
        };
        let factors = if self.gguf.has_tensor("rope_freqs.weight") {
            dequantized("rope_freqs.weight", self.gguf.tensor("rope_freqs.weight")?)?
        } else {
            Vec::new()
        };
        let theta = self.float_or("rope.freq_base", 10_000.0)?;
        // Llama's queries and keys are permuted on export so that adjacent dimensions are pairs; the others are not.
        let pairing = if self.architecture == "llama" { Pairing::Adjacent } else { Pairing::Half };
        let rope = RopeConfig { rotary_dim, theta, pairing, scaling, factors, served: trained };
        rope.check()?;
        Ok(rope)
    }

    fn scaling(&self, kind: &str, trained: usize) -> Result<RopeScaling, DecoderError> {
        match kind {
            "none" => Ok(RopeScaling::None),
            "linear" => Ok(RopeScaling::Linear { factor: self.float("rope.scaling.factor")? }),
            "yarn" => {
                let factor = self.float("rope.scaling.factor")?;
                let attention = ["rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"];
                let attention = attention.into_iter().find(|key| self.has(key));
                let attention = attention.map_or(Ok(1.0), |key| self.float(key))?;
                // Both change what llama.cpp computes in ways no exporter of these architectures asks for.
                for (key, usual) in [("yarn_ext_factor", 1.0), ("yarn_log_multiplier", 0.0)] {
                    let key = format!("rope.scaling.{key}");
                    let value = self.float_or(&key, usual)?;
                    if value != usual {
                        return Err(DecoderError::Unsupported { reason: format!("its `{key}` is {value}") });
                    }
                }
                Ok(RopeScaling::Yarn {
                    factor,
                    original: self.integer_or("rope.scaling.original_context_length", trained)?,
                    attention_factor: attention * yarn_magnitude(factor, 1.0),
                    beta_fast: self.float_or("rope.scaling.yarn_beta_fast", 32.0)?,
                    beta_slow: self.float_or("rope.scaling.yarn_beta_slow", 1.0)?,
                    truncate: true,
                })
            }
            other => Err(DecoderError::Unsupported {
                reason: format!("it needs RoPE scaling of type `{other}`; `none`, `linear` and `yarn` are implemented"),
            }),
        }
    }
}
