//! A checkpoint of the BERT family from `config.json` and `model.safetensors`, as the transformers library names its keys
//! and tensors: an encoder alone, or one with a head that classifies sequences.
//!
//! BERT, RoBERTa and XLM-RoBERTa are one encoder. They differ in the first position (the two latter leave out as many as
//! the id of the padding token), in the number of segments, in what wraps a pair, and in the names of the head's layers.
//!
//! Every tensor's shape is checked against the configuration; what is not implemented is refused by name.

use std::{collections::BTreeMap, path::Path};

use edgewise_kernels::{PackedMatrix, WeightFormat};
use half::f16;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::{Bert, EncoderArithmetic, Layer, Linear, Norm, Shape};
use crate::EngineError;

/// Weights that share a scale in integer arithmetic.
const BLOCK: usize = 32;
/// The dimensions of an attention head are a multiple of this.
const HEAD: usize = 32;

/// The keys of `config.json` that matter.
#[derive(Deserialize)]
struct Config {
    model_type: String,
    #[serde(default)]
    architectures: Vec<String>,
    hidden_act: String,
    #[serde(default)]
    position_embedding_type: Option<String>,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "two_segments")]
    type_vocab_size: usize,
    #[serde(default)]
    pad_token_id: Option<usize>,
    hidden_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    intermediate_size: usize,
    layer_norm_eps: f32,
    /// Names of the classes; left out where there are two.
    #[serde(default)]
    id2label: Option<BTreeMap<String, String>>,
    #[serde(default)]
    num_labels: Option<usize>,
}

fn two_segments() -> usize {
    2
}

/// What a pair of texts is wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairing {
    /// `[CLS] a [SEP] b [SEP]`, the second text in a segment of its own.
    Bert,
    /// `<s> a </s></s> b </s>`, all in one segment.
    Roberta,
}

/// The layers after the encoder, on the state of the first token: `out · tanh(dense · state)`.
pub(crate) struct Head {
    /// `[hidden, hidden]`: BERT's pooler, or the dense layer of RoBERTa's head. In 32 bits: it is small.
    pub(crate) dense: Linear,
    /// `[labels, hidden]`.
    pub(crate) out: Linear,
}

/// An encoder with a head.
pub(crate) struct Classifier {
    pub(crate) bert: Bert,
    pub(crate) head: Head,
    pub(crate) labels: usize,
    pub(crate) pairing: Pairing,
}

/// Parses a JSON file.
pub(crate) fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, EngineError> {
    let bytes = std::fs::read(path).map_err(|e| EngineError::io(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| EngineError::BadFile { path: path.to_owned(), reason: e.to_string() })
}

/// Loads a BERT encoder, without what may follow it.
pub(crate) fn encoder(config: &Path, weights: &Path, arithmetic: EncoderArithmetic) -> Result<Bert, EngineError> {
    let parsed: Config = read_json(config)?;
    only("the model type", &parsed.model_type, &["bert"], config)?;
    let family = Family { prefix: "", first_position: 0 };
    let shape = shape(&parsed, &family, arithmetic, config)?;
    with_tensors(weights, arithmetic, &family, |tensors| tensors.bert(shape))
}

/// Loads an encoder with a head that classifies sequences, with one class or two.
pub(crate) fn classifier(
    config: &Path,
    weights: &Path,
    arithmetic: EncoderArithmetic,
) -> Result<Classifier, EngineError> {
    const ARCHITECTURES: [&str; 3] =
        ["BertForSequenceClassification", "RobertaForSequenceClassification", "XLMRobertaForSequenceClassification"];
    let parsed: Config = read_json(config)?;
    let architecture = parsed.architectures.first().map_or("", String::as_str);
    only("the architecture", architecture, &ARCHITECTURES, config)?;
    let bert = architecture == ARCHITECTURES[0];
    only("the model type", &parsed.model_type, if bert { &["bert"] } else { &["roberta", "xlm-roberta"] }, config)?;
    let family = if bert {
        Family { prefix: "bert.", first_position: 0 }
    } else {
        Family { prefix: "roberta.", first_position: parsed.pad_token_id.unwrap_or(1) + 1 }
    };
    let shape = shape(&parsed, &family, arithmetic, config)?;
    if bert && shape.segments < 2 {
        let reason = "its `type_vocab_size` leaves no segment for the second text of a pair".to_owned();
        return Err(EngineError::BadFile { path: config.to_owned(), reason });
    }
    let labels = parsed.num_labels.or(parsed.id2label.map(|labels| labels.len())).unwrap_or(2);
    if !(1..=2).contains(&labels) {
        return Err(EngineError::Unsupported {
            what: format!("a head of {labels} classes in {}", config.display()),
            supported: "a reranker has one class, whose logit is the score, or two, irrelevant and relevant".to_owned(),
        });
    }
    let hidden = shape.hidden;
    let (dense, out) =
        if bert { ("bert.pooler.dense", "classifier") } else { ("classifier.dense", "classifier.out_proj") };
    with_tensors(weights, arithmetic, &family, |tensors| {
        let linear =
            |name: &str, outputs| tensors.linear(&[(name.to_owned(), 1.0)], outputs, hidden, EncoderArithmetic::Exact);
        Ok(Classifier {
            head: Head { dense: linear(dense, hidden)?, out: linear(out, labels)? },
            bert: tensors.bert(shape)?,
            labels,
            pairing: if bert { Pairing::Bert } else { Pairing::Roberta },
        })
    })
}

/// How a family's checkpoints differ from BERT's.
struct Family {
    /// What the names of the encoder's tensors start with.
    prefix: &'static str,
    /// Rows of the position embeddings that no token has.
    first_position: usize,
}

/// Maps the weights for as long as `read` takes.
fn with_tensors<T>(
    weights: &Path,
    arithmetic: EncoderArithmetic,
    family: &Family,
    read: impl FnOnce(&Tensors<'_>) -> Result<T, EngineError>,
) -> Result<T, EngineError> {
    let file = std::fs::File::open(weights).map_err(|e| EngineError::io(weights, e))?;
    // SAFETY: the mapping is read once, here, and dropped. Model files are replaced by renaming, never written in place.
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| EngineError::io(weights, e))?;
    let bad = |reason: String| EngineError::BadFile { path: weights.to_owned(), reason };
    let tensors = SafeTensors::deserialize(&map).map_err(|e| bad(e.to_string()))?;
    read(&Tensors { tensors, path: weights, arithmetic, family })
}

/// Refuses what is none of `supported`.
fn only(what: &str, found: &str, supported: &[&str], path: &Path) -> Result<(), EngineError> {
    if supported.contains(&found) {
        return Ok(());
    }
    Err(EngineError::Unsupported {
        what: format!("{what} `{found}` in {}", path.display()),
        supported: format!("`{}` is implemented here", supported.join("`, `")),
    })
}

fn shape(config: &Config, family: &Family, arithmetic: EncoderArithmetic, path: &Path) -> Result<Shape, EngineError> {
    only("the activation", &config.hidden_act, &["gelu"], path)?;
    let positions = config.position_embedding_type.as_deref().unwrap_or("absolute");
    only("the position embedding", positions, &["absolute"], path)?;
    let shape = Shape {
        vocabulary: config.vocab_size,
        positions: config.max_position_embeddings.saturating_sub(family.first_position),
        segments: config.type_vocab_size,
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        layers: config.num_hidden_layers,
        intermediate: config.intermediate_size,
        epsilon: config.layer_norm_eps,
    };
    let sizes = [shape.vocabulary, shape.positions, shape.segments, shape.hidden, shape.heads, shape.intermediate];
    if sizes.contains(&0) || !shape.hidden.is_multiple_of(shape.heads) {
        let reason = format!("its dimensions contradict each other: {shape:?}");
        return Err(EngineError::BadFile { path: path.to_owned(), reason });
    }
    let dim = shape.hidden / shape.heads;
    if !dim.is_multiple_of(HEAD) {
        return Err(EngineError::Unsupported {
            what: format!("attention heads of {dim} dimensions in {}", path.display()),
            supported: format!("the encoder needs a multiple of {HEAD}"),
        });
    }
    if arithmetic == EncoderArithmetic::Integer8
        && !(shape.hidden.is_multiple_of(BLOCK) && shape.intermediate.is_multiple_of(BLOCK))
    {
        return Err(EngineError::Unsupported {
            what: format!("a width of {} and {} in {}", shape.hidden, shape.intermediate, path.display()),
            supported: format!("integer arithmetic needs multiples of {BLOCK}"),
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
    arithmetic: EncoderArithmetic,
    family: &'a Family,
}

impl Tensors<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        let bad = |reason: String| EngineError::BadFile { path: self.path.to_owned(), reason };
        let tensor = self.tensors.tensor(name).map_err(|_| bad(format!("the tensor `{name}` is missing")))?;
        if tensor.dtype() != Dtype::F32 {
            return Err(EngineError::Unsupported {
                what: format!("the type {:?} of the tensor `{name}` in {}", tensor.dtype(), self.path.display()),
                supported: "F32 is read here".to_owned(),
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
    fn linear(
        &self,
        parts: &[(String, f32)],
        outputs: usize,
        inputs: usize,
        arithmetic: EncoderArithmetic,
    ) -> Result<Linear, EngineError> {
        let (mut weight, mut bias) = (Vec::new(), Vec::new());
        for (name, factor) in parts {
            let scaled = |values: Vec<f32>| values.into_iter().map(move |x| x * factor);
            weight.extend(scaled(self.tensor(&format!("{name}.weight"), &[outputs, inputs])?));
            bias.extend(scaled(self.tensor(&format!("{name}.bias"), &[outputs])?));
        }
        let weight = match arithmetic {
            EncoderArithmetic::Exact => PackedMatrix::from_f32(bias.len(), inputs, &weight),
            EncoderArithmetic::Integer8 => {
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
        let Shape { hidden, segments, vocabulary, positions, .. } = shape;
        let (prefix, first) = (self.family.prefix, self.family.first_position);
        let embeddings = |which: &str, rows: usize| {
            self.tensor(&format!("{prefix}embeddings.{which}_embeddings.weight"), &[rows, hidden])
        };
        let (by_segment, by_position) =
            (embeddings("token_type", segments)?, embeddings("position", first + positions)?);
        let mut sums = Vec::with_capacity(segments * positions * hidden);
        for segment in by_segment.chunks_exact(hidden) {
            for position in by_position.chunks_exact(hidden).skip(first) {
                sums.extend(position.iter().zip(segment).map(|(p, s)| p + s));
            }
        }
        Ok(Bert {
            words: embeddings("word", vocabulary)?,
            positions: sums,
            norm: self.norm(&format!("{prefix}embeddings.LayerNorm"), hidden)?,
            no_bias: vec![0.0; hidden],
            layers: (0..shape.layers).map(|i| self.layer(i, &shape)).collect::<Result<_, _>>()?,
            shape,
        })
    }

    fn layer(&self, index: usize, shape: &Shape) -> Result<Layer, EngineError> {
        let (hidden, intermediate) = (shape.hidden, shape.intermediate);
        let name = |part: &str| format!("{}encoder.layer.{index}.{part}", self.family.prefix);
        // The factor of attention, taken out of the inner loop.
        let factor = 1.0 / ((hidden / shape.heads) as f32).sqrt();
        let qkv = [("query", factor), ("key", 1.0), ("value", 1.0)]
            .map(|(part, f)| (name(&format!("attention.self.{part}")), f));
        let linear = |part: &str, outputs, inputs| self.linear(&[(name(part), 1.0)], outputs, inputs, self.arithmetic);
        Ok(Layer {
            qkv: self.linear(&qkv, hidden, hidden, self.arithmetic)?,
            attention_output: linear("attention.output.dense", hidden, hidden)?,
            attention_norm: self.norm(&name("attention.output.LayerNorm"), hidden)?,
            intermediate: linear("intermediate.dense", intermediate, hidden)?,
            output: linear("output.dense", hidden, intermediate)?,
            output_norm: self.norm(&name("output.LayerNorm"), hidden)?,
        })
    }
}
