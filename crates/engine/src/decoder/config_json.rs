//! The shape of a decoder from the `config.json` that transformers writes.
//!
//! Field names and defaults follow transformers' configuration classes (`models/<family>/configuration_<family>.py`);
//! RoPE is read from `rope_parameters` (since version 5) or `rope_scaling` and `rope_theta` (before). What would change
//! the results and is not implemented is refused by name. Deliberately not here: training-only fields.

use edgewise_kernels::Pairing;
use serde_json::Value;

use super::{
    DecoderConfig, DecoderError,
    config::{Activation, Biases, NormKind, Positions, alibi_slopes},
    rope::{RopeConfig, RopeScaling, yarn_magnitude},
};

impl DecoderConfig {
    /// Reads and checks the text of a `config.json`.
    ///
    /// # Errors
    /// [`DecoderError::Metadata`] for a missing or malformed field, [`DecoderError::Unsupported`] for a family, a RoPE
    /// scaling or dimensions that are not implemented.
    pub fn from_json(text: &str) -> Result<Self, DecoderError> {
        let value: Value = serde_json::from_str(text).map_err(|e| DecoderError::Metadata {
            key: "config.json".to_owned(),
            problem: format!("is not JSON ({e})"),
        })?;
        let fields = Fields { value: &value, path: "" };
        let config = match fields.text("model_type")? {
            family @ ("llama" | "mistral" | "qwen2" | "qwen3") => rotary_family(family, &fields)?,
            "mpt" => mpt(&fields)?,
            other => {
                return Err(DecoderError::Unsupported {
                    reason: format!(
                        "its family is `{other}`; `llama`, `mistral`, `qwen2`, `qwen3` and `mpt` are implemented"
                    ),
                });
            }
        };
        fields.refuse_unless("quantization_config", Value::is_null)?;
        config.check()?;
        Ok(config)
    }
}

fn rotary_family(family: &str, fields: &Fields<'_>) -> Result<DecoderConfig, DecoderError> {
    fields.refuse_unless("hidden_act", |act| act == "silu")?;
    let (heads, hidden) = (fields.integer("num_attention_heads")?, fields.integer("hidden_size")?);
    let layers = fields.integer("num_hidden_layers")?;
    let head_dim = match (fields.optional_integer("head_dim")?, family) {
        (Some(head_dim), _) => head_dim,
        (None, "qwen3") => 128,
        (None, _) => hidden.checked_div(heads).unwrap_or(0),
    };
    let trained = fields.integer("max_position_embeddings")?;
    let flag = |name| fields.flag_or(name, false);
    Ok(DecoderConfig {
        architecture: family.to_owned(),
        vocab_size: fields.integer("vocab_size")?,
        layers,
        hidden,
        feed_forward: fields.integer("intermediate_size")?,
        heads,
        kv_heads: fields.optional_integer("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        context_window: trained,
        positions: Positions::Rotary(rope(fields, head_dim, trained)?),
        norm: NormKind::Rms,
        norm_eps: fields.float_or("rms_norm_eps", 1e-6)? as f32,
        activation: Activation::GatedSilu,
        attention_scale: (1.0 / (head_dim as f64).sqrt()) as f32,
        clip: None,
        windows: windows(family, fields, layers.min(1 << 16))?,
        head_norms: family == "qwen3",
        biases: Biases {
            qkv: family == "qwen2" || flag("attention_bias")?,
            attention_output: family != "qwen2" && flag("attention_bias")?,
            feed_forward: family == "llama" && flag("mlp_bias")?,
        },
        tied: flag("tie_word_embeddings")?,
    })
}

/// How many positions each layer sees.
fn windows(family: &str, fields: &Fields<'_>, layers: usize) -> Result<Vec<Option<usize>>, DecoderError> {
    let window = match family {
        "mistral" if fields.get("sliding_window").is_none() => Some(4096),
        "mistral" => fields.optional_integer("sliding_window")?,
        "qwen2" | "qwen3" if fields.flag_or("use_sliding_window", false)? => {
            Some(fields.optional_integer("sliding_window")?.unwrap_or(4096))
        }
        _ => None,
    };
    let Some(kinds) = fields.get("layer_types").filter(|kinds| !kinds.is_null() && window.is_some()) else {
        let first = if family == "mistral" { 0 } else { fields.optional_integer("max_window_layers")?.unwrap_or(28) };
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= first)).collect());
    };
    let kind = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(window),
        Some("full_attention") => Ok(None),
        _ => Err(DecoderError::Unsupported { reason: format!("it has a layer of type {kind}") }),
    };
    let kinds = kinds.as_array().ok_or_else(|| fields.wrong("layer_types", "should be an array"))?;
    kinds.iter().take(1 << 16).map(kind).collect()
}

fn rope(fields: &Fields<'_>, head_dim: usize, trained: usize) -> Result<RopeConfig, DecoderError> {
    let nothing = Value::Object(serde_json::Map::new());
    let present = |name: &str| fields.get(name).filter(|value| !value.is_null());
    let (path, parameters) = match (present("rope_parameters"), present("rope_scaling")) {
        (Some(parameters), _) => ("rope_parameters.", parameters),
        (None, Some(parameters)) => ("rope_scaling.", parameters),
        (None, None) => ("", &nothing),
    };
    let scaled = Fields { value: parameters, path };
    if parameters.get("full_attention").is_some() || parameters.get("sliding_attention").is_some() {
        return Err(DecoderError::Unsupported { reason: "its RoPE differs from layer to layer".to_owned() });
    }
    for fields in [fields, &scaled] {
        fields.refuse_unless("partial_rotary_factor", |v| v.is_null() || v.as_f64() == Some(1.0))?;
    }
    let kind = match (scaled.get("rope_type"), scaled.get("type")) {
        (Some(kind), _) | (None, Some(kind)) => kind.as_str().unwrap_or("(not a string)"),
        (None, None) => "default",
    };
    let theta = scaled.float_or("rope_theta", fields.float_or("rope_theta", 10_000.0)?)?;
    let name = "original_max_position_embeddings";
    let outer = fields.optional_integer(name)?;
    let original = outer.or(scaled.optional_integer(name)?).unwrap_or(trained);
    let scaling = match kind {
        "default" | "none" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: scaled.float("factor")? },
        "ntk" | "dynamic" if scaled.get("alpha").is_some() => RopeScaling::Ntk { alpha: scaled.float("alpha")? },
        "ntk" => RopeScaling::Ntk { alpha: scaled.float("factor")? },
        "dynamic" => RopeScaling::Dynamic { factor: scaled.float("factor")?, trained },
        "yarn" => yarn(&scaled, original, trained)?,
        "llama3" => RopeScaling::Llama3 {
            factor: scaled.float("factor")?,
            low: scaled.float("low_freq_factor")?,
            high: scaled.float("high_freq_factor")?,
            original,
        },
        other => {
            return Err(DecoderError::Unsupported {
                reason: format!(
                    "it needs RoPE scaling of type `{other}`; `linear`, `ntk`, `dynamic`, `yarn` and `llama3` are \
                     implemented"
                ),
            });
        }
    };
    let rope = RopeConfig {
        rotary_dim: head_dim,
        theta,
        pairing: Pairing::Half,
        scaling,
        factors: Vec::new(),
        served: trained,
    };
    rope.check()?;
    Ok(rope)
}

fn yarn(scaled: &Fields<'_>, original: usize, trained: usize) -> Result<RopeScaling, DecoderError> {
    let implied = trained as f64 / original.max(1) as f64;
    let factor = scaled.float_or("factor", implied)?;
    let attention_factor = match scaled.optional_float("attention_factor")? {
        Some(given) => given,
        None => match (scaled.optional_float("mscale")?, scaled.optional_float("mscale_all_dim")?) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => {
                yarn_magnitude(factor, mscale) / yarn_magnitude(factor, all)
            }
            _ => yarn_magnitude(factor, 1.0),
        },
    };
    Ok(RopeScaling::Yarn {
        factor,
        original,
        attention_factor,
        beta_fast: scaled.float_or("beta_fast", 32.0)?,
        beta_slow: scaled.float_or("beta_slow", 1.0)?,
        truncate: scaled.flag_or("truncate", true)?,
    })
}

fn mpt(fields: &Fields<'_>) -> Result<DecoderConfig, DecoderError> {
    let nothing = Value::Object(serde_json::Map::new());
    let attention = Fields { value: fields.get("attn_config").unwrap_or(&nothing), path: "attn_config." };
    let absent = |v: &Value| v.is_null() || *v == Value::Bool(false);
    attention.refuse_unless("attn_type", |v| v == "multihead_attention")?;
    attention.refuse_unless("alibi", |v| *v == Value::Bool(true))?;
    attention.refuse_unless("prefix_lm", absent)?;
    attention.refuse_unless("qk_ln", absent)?;
    fields.refuse_unless("no_bias", |v| *v == Value::Bool(true))?;
    fields.refuse_unless("logit_scale", Value::is_null)?;
    let (heads, hidden) = (fields.integer("n_heads")?, fields.integer("d_model")?);
    let layers = fields.integer("n_layers")?;
    let head_dim = hidden.checked_div(heads).unwrap_or(0);
    let usual_scale = 1.0 / (head_dim as f64).sqrt();
    Ok(DecoderConfig {
        architecture: "mpt".to_owned(),
        vocab_size: fields.integer("vocab_size")?,
        layers,
        hidden,
        feed_forward: hidden.saturating_mul(fields.optional_integer("expansion_ratio")?.unwrap_or(4)),
        heads,
        kv_heads: heads,
        head_dim,
        context_window: fields.integer("max_seq_len")?,
        positions: Positions::Alibi {
            slopes: alibi_slopes(heads.min(1 << 16), attention.float_or("alibi_bias_max", 8.0)?),
        },
        norm: NormKind::Layer,
        norm_eps: fields.float_or("layer_norm_epsilon", 1e-5)? as f32,
        activation: Activation::Gelu,
        attention_scale: attention.float_or("softmax_scale", usual_scale)? as f32,
        clip: attention.optional_float("clip_qkv")?.filter(|clip| *clip != 0.0).map(|clip| clip as f32),
        windows: vec![None; layers.min(1 << 16)],
        head_norms: false,
        biases: Biases::default(),
        tied: fields.flag_or("tie_word_embeddings", true)?,
    })
}

/// An object of the file, and its name for messages.
struct Fields<'a> {
    value: &'a Value,
    path: &'static str,
}

impl<'a> Fields<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name)
    }

    fn wrong(&self, name: &str, problem: &str) -> DecoderError {
        DecoderError::Metadata { key: format!("{}{name}", self.path), problem: problem.to_owned() }
    }

    fn present(&self, name: &str) -> Option<&'a Value> {
        self.get(name).filter(|value| !value.is_null())
    }

    fn text(&self, name: &str) -> Result<&'a str, DecoderError> {
        let value = self.present(name).ok_or_else(|| self.wrong(name, "is missing"))?;
        value.as_str().ok_or_else(|| self.wrong(name, "should be a string"))
    }

    fn optional_integer(&self, name: &str) -> Result<Option<usize>, DecoderError> {
        let integer = |value: &Value| value.as_u64().and_then(|v| usize::try_from(v).ok());
        let parse = |value| integer(value).ok_or_else(|| self.wrong(name, "should be a non-negative integer"));
        self.present(name).map(parse).transpose()
    }

    fn integer(&self, name: &str) -> Result<usize, DecoderError> {
        self.optional_integer(name)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn optional_float(&self, name: &str) -> Result<Option<f64>, DecoderError> {
        let parse = |value: &Value| value.as_f64().ok_or_else(|| self.wrong(name, "should be a number"));
        self.present(name).map(parse).transpose()
    }

    fn float(&self, name: &str) -> Result<f64, DecoderError> {
        self.optional_float(name)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn float_or(&self, name: &str, default: f64) -> Result<f64, DecoderError> {
        Ok(self.optional_float(name)?.unwrap_or(default))
    }

    fn flag_or(&self, name: &str, default: bool) -> Result<bool, DecoderError> {
        let parse = |value: &Value| value.as_bool().ok_or_else(|| self.wrong(name, "should be true or false"));
        Ok(self.present(name).map(parse).transpose()?.unwrap_or(default))
    }

    /// Refuses a field that is there but not as the implementation assumes it to be.
    fn refuse_unless(&self, name: &str, assumed: impl Fn(&Value) -> bool) -> Result<(), DecoderError> {
        match self.get(name) {
            Some(value) if !assumed(value) => {
                let shown: String = value.to_string().chars().take(80).collect();
                Err(DecoderError::Unsupported { reason: format!("its `{}{name}` is {shown}", self.path) })
            }
            _ => Ok(()),
        }
    }
}
