//! The weights of a decoder, from the tensors of its files.
//!
//! Q4_0, Q4_1, Q8_0 and floating-point tensors are handed to the backend as they are. The other quantised formats are
//! expanded to f32: exact, but larger. A projection of queries, keys and values in one matrix is cut into three, whose
//! rows lie one after the other. Tensor names: GGUF's
//! (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-tensor-names>) or transformers' modules.

use std::borrow::Cow;

use candle_core::{
    Device,
    quantized::{GgmlDType, QStorage, QTensor},
};
use edgewise_kernels::WeightFormat;

use super::{DecoderConfig, DecoderError, GgufFile, SafetensorsFiles, config::Activation, gguf::GgufTensor, random};
use crate::backend::{Backend, HostMatrix, Norm};

/// Weights of a decoder.
#[derive(Debug)]
pub(super) struct Weights<B: Backend> {
    /// `[vocab_size, hidden]`
    pub(super) embedding: B::Matrix,
    pub(super) layers: Vec<LayerWeights<B>>,
    pub(super) output_norm: Norm<B>,
    /// `[vocab_size, hidden]`; `None` where the embedding serves for both.
    pub(super) output: Option<B::Matrix>,
}

/// Weights of one layer; matrices are `[outputs, inputs]`.
#[derive(Debug)]
pub(super) struct LayerWeights<B: Backend> {
    pub(super) attention_norm: Norm<B>,
    pub(super) q: B::Matrix,
    pub(super) k: B::Matrix,
    pub(super) v: B::Matrix,
    /// Normalisation of each head of the queries and of the keys.
    pub(super) head_norms: Option<[Norm<B>; 2]>,
    pub(super) attention_output: B::Matrix,
    pub(super) feed_forward_norm: Norm<B>,
    /// `None` where the feed-forward layer has no gate.
    pub(super) gate: Option<B::Matrix>,
    pub(super) up: B::Matrix,
    pub(super) down: B::Matrix,
}

/// Where weights come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Gguf(&'a GgufFile),
    Safetensors(&'a SafetensorsFiles),
    /// Numbers made up from this seed, for measurements and tests without a checkpoint.
    Random(u64),
}

/// What the tensors of a kind of file are called.
struct Names {
    embedding: &'static str,
    output_norm: &'static str,
    output: &'static str,
    /// Before the number of the layer; a full stop and a part follow it.
    layer: &'static str,
    attention_norm: &'static str,
    /// Queries, keys and values.
    projections: [&'static str; 3],
    /// All three in one.
    fused: &'static str,
    head_norms: [&'static str; 2],
    attention_output: &'static str,
    feed_forward_norm: &'static str,
    gate: &'static str,
    up: &'static str,
    down: &'static str,
}

const GGUF: Names = Names {
    embedding: "token_embd",
    output_norm: "output_norm",
    output: "output",
    layer: "blk.",
    attention_norm: "attn_norm",
    projections: ["attn_q", "attn_k", "attn_v"],
    fused: "attn_qkv",
    head_norms: ["attn_q_norm", "attn_k_norm"],
    attention_output: "attn_output",
    feed_forward_norm: "ffn_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    down: "ffn_down",
};

const TRANSFORMERS: Names = Names {
    embedding: "model.embed_tokens",
    output_norm: "model.norm",
    output: "lm_head",
    layer: "model.layers.",
    attention_norm: "input_layernorm",
    projections: ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    fused: "self_attn.qkv_proj",
    head_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    attention_output: "self_attn.o_proj",
    feed_forward_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};

const MPT: Names = Names {
    embedding: "transformer.wte",
    output_norm: "transformer.norm_f",
    output: "lm_head",
    layer: "transformer.blocks.",
    attention_norm: "norm_1",
    projections: ["attn.q_proj", "attn.k_proj", "attn.v_proj"],
    fused: "attn.Wqkv",
    head_norms: ["attn.q_ln", "attn.k_ln"],
    attention_output: "attn.out_proj",
    feed_forward_norm: "norm_2",
    gate: "ffn.gate_proj",
    up: "ffn.up_proj",
    down: "ffn.down_proj",
};

impl<B: Backend> Weights<B> {
    /// Loads every weight that `config` calls for; with `compact`, floating-point matrices are rounded to Q8_0.
    pub(super) fn load(
        source: Source<'_>,
        config: &DecoderConfig,
        backend: &B,
        compact: bool,
    ) -> Result<Self, DecoderError> {
        let names = match source {
            Source::Gguf(_) => &GGUF,
            Source::Random(_) => &TRANSFORMERS,
            Source::Safetensors(_) if config.architecture == "mpt" => &MPT,
            Source::Safetensors(_) => &TRANSFORMERS,
        };
        let loader = Loader { source, config, backend, compact, names };
        let &DecoderConfig { vocab_size, hidden, .. } = config;
        let weight = |name: &str| format!("{name}.weight");
        let matrix = |name: &str| loader.place(&loader.host(&weight(name), vocab_size, hidden)?, None);
        Ok(Self {
            embedding: matrix(names.embedding)?,
            layers: (0..config.layers).map(|i| loader.layer(i)).collect::<Result<_, DecoderError>>()?,
            output_norm: loader.norm(names.output_norm, hidden)?,
            output: (!config.tied).then(|| matrix(names.output)).transpose()?,
        })
    }

    /// The matrix that turns the last hidden state into logits.
    pub(super) fn output(&self) -> &B::Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Memory taken by the matrices, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let layer = |l: &LayerWeights<B>| {
            let matrices = [&l.q, &l.k, &l.v, &l.attention_output, &l.up, &l.down].into_iter().chain(&l.gate);
            matrices.map(B::matrix_bytes).sum::<usize>()
        };
        self.layers.iter().map(layer).sum::<usize>()
            + B::matrix_bytes(&self.embedding)
            + self.output.as_ref().map_or(0, B::matrix_bytes)
    }
}

struct Loader<'a, B> {
    source: Source<'a>,
    config: &'a DecoderConfig,
    backend: &'a B,
    compact: bool,
    names: &'a Names,
}

impl<'a, B: Backend> Loader<'a, B> {
    fn layer(&self, layer: usize) -> Result<LayerWeights<B>, DecoderError> {
        let &DecoderConfig { hidden, feed_forward, heads, kv_heads, head_dim, biases, .. } = self.config;
        let names = self.names;
        let name = |part: &str| format!("{}{layer}.{part}", names.layer);
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let linear = |part: &str, rows: usize, columns: usize, bias: bool| -> Result<B::Matrix, DecoderError> {
            let weights = self.host(&format!("{}.weight", name(part)), rows, columns)?;
            let bias = bias.then(|| self.vector(&format!("{}.bias", name(part)), rows)).transpose()?;
            self.place(&weights, bias.as_deref())
        };
        let fused = format!("{}.weight", name(names.fused));
        let [q, k, v] = if self.source.has_tensor(&fused) {
            let rows = q_width + 2 * kv_width;
            let whole = self.host(&fused, rows, hidden)?;
            let bias = format!("{}.bias", name(names.fused));
            let bias = biases.qkv.then(|| self.vector(&bias, rows)).transpose()?;
            let part = |first: usize, rows: usize| {
                self.place(&whole.rows(first, rows), bias.as_ref().map(|bias| &bias[first..first + rows]))
            };
            [part(0, q_width)?, part(q_width, kv_width)?, part(q_width + kv_width, kv_width)?]
        } else {
            let [q, k, v] = names.projections;
            [
                linear(q, q_width, hidden, biases.qkv)?,
                linear(k, kv_width, hidden, biases.qkv)?,
                linear(v, kv_width, hidden, biases.qkv)?,
            ]
        };
        let head_norms = || -> Result<_, DecoderError> {
            let [q, k] = names.head_norms.map(name);
            Ok([self.norm(&q, head_dim)?, self.norm(&k, head_dim)?])
        };
        let gate = || linear(names.gate, feed_forward, hidden, biases.feed_forward);
        Ok(LayerWeights {
            attention_norm: self.norm(&name(names.attention_norm), hidden)?,
            q,
            k,
            v,
            head_norms: self.config.head_norms.then(head_norms).transpose()?,
            attention_output: linear(names.attention_output, hidden, q_width, biases.attention_output)?,
            feed_forward_norm: self.norm(&name(names.feed_forward_norm), hidden)?,
            gate: (self.config.activation == Activation::GatedSilu).then(gate).transpose()?,
            up: linear(names.up, feed_forward, hidden, biases.feed_forward)?,
            down: linear(names.down, hidden, feed_forward, biases.feed_forward)?,
        })
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm<B>, DecoderError> {
        let weight = self.backend.vector(self.vector(&format!("{name}.weight"), width)?)?;
        Ok(Norm { kind: self.config.norm, weight, eps: self.config.norm_eps })
    }

    /// Places a matrix with its bias.
    fn place(&self, weights: &HostMatrix<'_>, bias: Option<&[f32]>) -> Result<B::Matrix, DecoderError> {
        if self.compact { self.backend.matrix(&weights.compacted(), bias) } else { self.backend.matrix(weights, bias) }
    }

    /// A matrix as it lies in the file, or expanded.
    fn host(&self, name: &str, rows: usize, columns: usize) -> Result<HostMatrix<'a>, DecoderError> {
        let (format, bytes) = match self.source {
            Source::Random(seed) => (WeightFormat::BF16, Cow::Owned(random::matrix(seed, name, rows, columns))),
            Source::Safetensors(files) => {
                let (format, dims, bytes) = files.tensor(name)?;
                check_dims(name, dims, &[rows, columns])?;
                (format, Cow::Borrowed(bytes))
            }
            Source::Gguf(gguf) => {
                let tensor = gguf.tensor(name)?;
                check_dims(name, tensor.dims, &[rows, columns])?;
                match weight_format(tensor.dtype) {
                    Some(format) => (format, Cow::Borrowed(tensor.bytes)),
                    None => {
                        let values = dequantized(name, tensor)?;
                        (WeightFormat::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect())
                    }
                }
            }
        };
        Ok(HostMatrix { rows, columns, format, bytes })
    }

    fn vector(&self, name: &str, length: usize) -> Result<Vec<f32>, DecoderError> {
        match self.source {
            Source::Random(seed) => Ok(random::vector(seed, name, length)),
            Source::Safetensors(files) => {
                let (format, dims, bytes) = files.tensor(name)?;
                check_dims(name, dims, &[length])?;
                Ok(HostMatrix { rows: 1, columns: length, format, bytes: Cow::Borrowed(bytes) }.to_f32())
            }
            Source::Gguf(gguf) => {
                let tensor = gguf.tensor(name)?;
                check_dims(name, tensor.dims, &[length])?;
                dequantized(name, tensor)
            }
        }
    }
}

impl Source<'_> {
    fn has_tensor(&self, name: &str) -> bool {
        match self {
            Self::Random(_) => false,
            Self::Gguf(gguf) => gguf.has_tensor(name),
            Self::Safetensors(files) => files.has_tensor(name),
        }
    }
}

fn check_dims(name: &str, dims: &[usize], expected: &[usize]) -> Result<(), DecoderError> {
    if dims == expected {
        return Ok(());
    }
    let problem = format!("has shape {dims:?} where the model's dimensions call for {expected:?}");
    Err(DecoderError::Tensor { name: name.to_owned(), problem })
}

fn weight_format(dtype: GgmlDType) -> Option<WeightFormat> {
    match dtype {
        GgmlDType::F32 => Some(WeightFormat::F32),
        GgmlDType::F16 => Some(WeightFormat::F16),
        GgmlDType::BF16 => Some(WeightFormat::BF16),
        GgmlDType::Q4_0 => Some(WeightFormat::Q4_0),
        GgmlDType::Q4_1 => Some(WeightFormat::Q4_1),
        GgmlDType::Q8_0 => Some(WeightFormat::Q8_0),
        _ => None,
    }
}

/// Expands the blocks of a tensor to f32.
pub(super) fn dequantized(name: &str, tensor: GgufTensor<'_>) -> Result<Vec<f32>, DecoderError> {
    if !tensor.bytes.as_ptr().cast::<f32>().is_aligned() {
        return Err(DecoderError::Tensor { name: name.to_owned(), problem: "is not aligned to 4 bytes".to_owned() });
    }
    let expand = || -> candle_core::Result<Vec<f32>> {
        let storage = QStorage::from_data(tensor.bytes.into(), &Device::Cpu, tensor.dtype)?;
        QTensor::new(storage, tensor.dims)?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
    };
    expand().map_err(|e| DecoderError::Tensor { name: name.to_owned(), problem: format!("can't be expanded: {e}") })
}
