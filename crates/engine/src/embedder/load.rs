//! A BERT checkpoint from `config.json` and `model.safetensors`.
//!
//! Every tensor's shape is checked against the configuration; what the encoder does not implement is refused by name.

use std::path::Path;

use edgewise_kernels::{PackedMatrix, WeightFormat};
use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{
    EmbedderArithmetic,
    bert::{Bert, Layer, Linear, Norm, Shape},
    math::LANES,
};
use crate::EngineError;

/// Weights that share a scale in integer arithmetic.
const BLOCK: usize = 32;

/// The keys of `config.json` that matter.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    hidden_act: String,
    #[serde(default)]
    position_embedding_type: Option<String>,
    vocab_size: usize,
    max_position_embeddings: usize,
    hidden_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    intermediate_size: usize,
    layer_norm_eps: f32,
}

/// Parses a JSON file.
pub(super) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, EngineError> {
    let bytes = std::fs::read(path).map_err(|e| EngineError::io(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| EngineError::BadFile { path: path.to_owned(), reason: e.to_string() })
}

/// Loads both files.
pub(super) fn load(config: &Path, weights: &Path, arithmetic: EmbedderArithmetic) -> Result<Bert, EngineError> {
    let shape = shape(read_json(config)?, config)?;
    if arithmetic == EmbedderArithmetic::Integer8
        && !(shape.hidden.is_multiple_of(BLOCK) && shape.intermediate.is_multiple_of(BLOCK))
    {
        return Err(EngineError::Unsupported {
            what: format!("a width of {} and {} in {}", shape.hidden, shape.intermediate, config.display()),
            supported: format!("integer arithmetic needs multiples of {BLOCK}"),
        });
    }
    let file = std::fs::File::open(weights).map_err(|e| EngineError::io(weights, e))?;
    // SAFETY: the mapping is read once, here, and dropped. Model files are replaced by renaming, never written in place.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| EngineError::io(weights, e))?;
    let bad = |reason: String| EngineError::BadFile { path: weights.to_owned(), reason };
    let tensors = SafeTensors::deserialize(&map).map_err(|e| bad(e.to_string()))?;
    Tensors { tensors, path: weights, arithmetic }.bert(shape)
}

fn shape(config: Config, path: &Path) -> Result<Shape, EngineError> {
    let only = |what: &str, found: &str, supported: &str| match found == supported {
        true => Ok(()),
        false => Err(EngineError::Unsupported {
            what: format!("{what} `{found}` in {}", path.display()),
            supported: format!("the embedder implements `{supported}`"),
        }),
    };
    only("the model type", &config.model_type, "bert")?;
    only("the activation", &config.hidden_act, "gelu")?;
    only("the position embedding", config.position_embedding_type.as_deref().unwrap_or("absolute"), "absolute")?;
    let shape = Shape {
        vocabulary: config.vocab_size,
        positions: config.max_position_embeddings,
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        layers: config.num_hidden_layers,
        intermediate: config.intermediate_size,
        epsilon: config.layer_norm_eps,
    };
    let sizes = [shape.vocabulary, shape.positions, shape.hidden, shape.heads, shape.intermediate];
    if sizes.contains(&0) || !shape.hidden.is_multiple_of(shape.heads) {
        let reason = format!("its dimensions contradict each other: {shape:?}");
        return Err(EngineError::BadFile { path: path.to_owned(), reason });
    }
    let dim = shape.hidden / shape.heads;
    if !dim.is_multiple_of(LANES) {
        return Err(EngineError::Unsupported {
            what: format!("attention heads of {dim} dimensions in {}", path.display()),
            supported: format!("the embedder needs a multiple of {LANES}"),
        });
    }
    Ok(shape)
}

/// Weights as GGML's Q8_0: for each 32 a scale in f16, the largest magnitude over 127, and the rounded quotients. A
/// factor of a whole row only changes its scales.
fn quantise(weights: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(weights.len() / BLOCK * (2 + BLOCK));
    for block in weights.chunks_exact(BLOCK) {
        let largest = block.iter().fold(0.0_f32, |m, x| m.max(x.abs()));
        let scale = f16::from_f32(largest / 127.0);
        let inverse = if scale.to_f32() > 0.0 { scale.to_f32().recip() } else { 0.0 };
        bytes.extend_from_slice(&scale.to_le_bytes());
        // The cast saturates; the scale's own rounding can push the largest value to 127.06.
        bytes.extend(block.iter().map(|x| (x * inverse).round().clamp(-127.0, 127.0) as i8 as u8));
    }
    bytes
}

struct Tensors<'a> {
    tensors: SafeTensors<'a>,
    path: &'a Path,
    arithmetic: EmbedderArithmetic,
}

impl Tensors<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        let bad = |reason: String| EngineError::BadFile { path: self.path.to_owned(), reason };
        let tensor = self.tensors.tensor(name).map_err(|_| bad(format!("the tensor `{name}` is missing")))?;
        if tensor.dtype() != Dtype::F32 {
            return Err(EngineError::Unsupported {
                what: format!("the type {:?} of the tensor `{name}` in {}", tensor.dtype(), self.path.display()),
                supported: "the embedder reads F32".to_owned(),
            });
        }
        if tensor.shape() != shape {
            return Err(bad(format!(
                "the tensor `{name}` has shape {:?}, but the configuration asks for {shape:?}",
                tensor.shape()
            )));
        }
        let (values, _) = tensor.data().as_chunks::<4>();
        Ok(values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    /// Linear layers with the same input, stacked, each with all its weights times a factor.
    fn linear(&self, parts: &[(String, f32)], outputs: usize, inputs: usize) -> Result<Linear, EngineError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for (name, factor) in parts {
            let scaled = |values: Vec<f32>| values.into_iter().map(move |x| x * factor);
            weight.extend(scaled(self.tensor(&format!("{name}.weight"), &[outputs, inputs])?));
            bias.extend(scaled(self.tensor(&format!("{name}.bias"), &[outputs])?));
        }
        let weight = match self.arithmetic {
            EmbedderArithmetic::Exact => PackedMatrix::from_f32(bias.len(), inputs, &weight),
            EmbedderArithmetic::Integer8 => {
                PackedMatrix::from_rows(WeightFormat::Q8_0, bias.len(), inputs, &quantise(&weight))
            }
        };
        Ok(Linear { weight: weight.map_err(|e| EngineError::Decoder(e.to_string()))?, bias })
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, EngineError> {
        Ok(Norm {
            weight: self.tensor(&format!("{name}.weight"), &[width])?,
            bias: self.tensor(&format!("{name}.bias"), &[width])?,
        })
    }

    fn bert(&self, shape: Shape) -> Result<Bert, EngineError> {
        let hidden = shape.hidden;
        let mut segment = self.tensor("embeddings.token_type_embeddings.weight", &[2, hidden])?;
        segment.truncate(hidden);
        Ok(Bert {
            words: self.tensor("embeddings.word_embeddings.weight", &[shape.vocabulary, hidden])?,
            positions: self.tensor("embeddings.position_embeddings.weight", &[shape.positions, hidden])?,
            segment,
            norm: self.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..shape.layers).map(|i| self.layer(i, &shape)).collect::<Result<_, _>>()?,
            shape,
        })
    }

    fn layer(&self, index: usize, shape: &Shape) -> Result<Layer, EngineError> {
        let (hidden, intermediate) = (shape.hidden, shape.intermediate);
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        // The factor of attention, taken out of the inner loop.
        let factor = 1.0 / ((hidden / shape.heads) as f32).sqrt();
        let qkv = [("query", factor), ("key", 1.0), ("value", 1.0)]
            .map(|(part, f)| (name(&format!("attention.self.{part}")), f));
        let linear = |part: &str, outputs, inputs| self.linear(&[(name(part), 1.0)], outputs, inputs);
        Ok(Layer {
            qkv: self.linear(&qkv, hidden, hidden)?,
            attention_output: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), hidden)?,
            intermediate: linear("intermediate.dense", intermediate, hidden)?,
            output: linear("output.dense", hidden, intermediate)?,
            output_norm: self.norm(&name("output.LayerNorm"), hidden)?,
        })
    }
}
