//! The weights of a decoder, from the tensors of a GGUF file.
//!
//! Q4_0, Q4_1, Q8_0 and floating-point tensors are packed as they are. The other quantised formats are expanded to f32:
//! exact, but larger. Tensor names: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md#standardized-tensor-names>.

use candle_core::{
    Device,
    quantized::{GgmlDType, QStorage, QTensor},
};
use edgewise_kernels::{PackedMatrix, WeightFormat};

use super::{Arithmetic, DecoderConfig, DecoderError, GgufFile, gguf::GgufTensor};

/// Weights of a decoder.
#[derive(Debug)]
pub(super) struct Weights {
    /// `[vocab_size, hidden]`
    pub(super) embedding: PackedMatrix,
    pub(super) layers: Vec<LayerWeights>,
    pub(super) output_norm: Vec<f32>,
    /// `[vocab_size, hidden]`; `None` where the embedding serves for both.
    pub(super) output: Option<PackedMatrix>,
}

/// Weights of one layer; matrices are `[outputs, inputs]`.
#[derive(Debug)]
pub(super) struct LayerWeights {
    pub(super) attention_norm: Vec<f32>,
    pub(super) q: PackedMatrix,
    pub(super) k: PackedMatrix,
    pub(super) v: PackedMatrix,
    pub(super) attention_output: PackedMatrix,
    pub(super) feed_forward_norm: Vec<f32>,
    pub(super) gate: PackedMatrix,
    pub(super) up: PackedMatrix,
    pub(super) down: PackedMatrix,
}

impl Weights {
    pub(super) fn load(gguf: &GgufFile, config: &DecoderConfig, arithmetic: Arithmetic) -> Result<Self, DecoderError> {
        let &DecoderConfig { vocab_size, hidden, feed_forward, heads, kv_heads, head_dim, .. } = config;
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let matrix = |name: &str, rows, columns| matrix(gguf, arithmetic, name, rows, columns);
        let layer = |i: usize| {
            let name = |part: &str| format!("blk.{i}.{part}.weight");
            Ok(LayerWeights {
                attention_norm: vector(gguf, &name("attn_norm"), hidden)?,
                q: matrix(&name("attn_q"), q_width, hidden)?,
                k: matrix(&name("attn_k"), kv_width, hidden)?,
                v: matrix(&name("attn_v"), kv_width, hidden)?,
                attention_output: matrix(&name("attn_output"), hidden, q_width)?,
                feed_forward_norm: vector(gguf, &name("ffn_norm"), hidden)?,
                gate: matrix(&name("ffn_gate"), feed_forward, hidden)?,
                up: matrix(&name("ffn_up"), feed_forward, hidden)?,
                down: matrix(&name("ffn_down"), hidden, feed_forward)?,
            })
        };
        let output = "output.weight";
        Ok(Self {
            embedding: matrix("token_embd.weight", vocab_size, hidden)?,
            layers: (0..config.layers).map(layer).collect::<Result<_, DecoderError>>()?,
            output_norm: vector(gguf, "output_norm.weight", hidden)?,
            output: gguf.has_tensor(output).then(|| matrix(output, vocab_size, hidden)).transpose()?,
        })
    }

    /// The matrix that turns the last hidden state into logits.
    pub(super) fn output(&self) -> &PackedMatrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// Memory taken by the matrices, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let layer = |l: &LayerWeights| {
            [&l.q, &l.k, &l.v, &l.attention_output, &l.gate, &l.up, &l.down]
                .map(PackedMatrix::bytes)
                .iter()
                .sum::<usize>()
        };
        self.layers.iter().map(layer).sum::<usize>()
            + self.embedding.bytes()
            + self.output.as_ref().map_or(0, PackedMatrix::bytes)
    }
}

fn matrix(
    gguf: &GgufFile,
    arithmetic: Arithmetic,
    name: &str,
    rows: usize,
    columns: usize,
) -> Result<PackedMatrix, DecoderError> {
    let tensor = tensor(gguf, name, &[rows, columns])?;
    let format = match tensor.dtype {
        GgmlDType::F32 => Some(WeightFormat::F32),
        GgmlDType::F16 => Some(WeightFormat::F16),
        GgmlDType::BF16 => Some(WeightFormat::BF16),
        GgmlDType::Q4_0 => Some(WeightFormat::Q4_0),
        GgmlDType::Q4_1 => Some(WeightFormat::Q4_1),
        GgmlDType::Q8_0 => Some(WeightFormat::Q8_0),
        _ => None,
    };
    let packed = match format {
        Some(format) => PackedMatrix::from_rows(format, rows, columns, tensor.bytes)?,
        None => PackedMatrix::from_f32(rows, columns, &expand(name, tensor)?)?,
    };
    Ok(match arithmetic {
        Arithmetic::Quantized => packed,
        Arithmetic::F32 => packed.to_dense()?,
    })
}

fn vector(gguf: &GgufFile, name: &str, length: usize) -> Result<Vec<f32>, DecoderError> {
    expand(name, tensor(gguf, name, &[length])?)
}

fn tensor<'a>(gguf: &'a GgufFile, name: &str, dims: &[usize]) -> Result<GgufTensor<'a>, DecoderError> {
    let tensor = gguf.tensor(name)?;
    if tensor.dims == dims {
        Ok(tensor)
    } else {
        let problem = format!("has shape {:?} where the model's dimensions call for {dims:?}", tensor.dims);
        Err(DecoderError::Tensor { name: name.to_owned(), problem })
    }
}

/// Expands the blocks of a tensor to f32.
fn expand(name: &str, tensor: GgufTensor<'_>) -> Result<Vec<f32>, DecoderError> {
    if !tensor.bytes.as_ptr().cast::<f32>().is_aligned() {
        return Err(DecoderError::Tensor { name: name.to_owned(), problem: "is not aligned to 4 bytes".to_owned() });
    }
    let expand = || -> candle_core::Result<Vec<f32>> {
        let storage = QStorage::from_data(tensor.bytes.into(), &Device::Cpu, tensor.dtype)?;
        QTensor::new(storage, tensor.dims)?.dequantize(&Device::Cpu)?.flatten_all()?.to_vec1()
    };
    expand().map_err(|e| DecoderError::Tensor { name: name.to_owned(), problem: format!("can't be expanded: {e}") })
}
