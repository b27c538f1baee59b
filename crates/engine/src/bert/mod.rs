//! The BERT encoder (Devlin et al. 2019) on packed batches, for embedders and rerankers.
//!
//! Layout: the tokens of all texts of a batch stand one after the other, `[tokens, hidden]`, without padding. Linear
//! layers see one tall matrix; attention runs text by text. So nothing is computed that isn't needed, and a text's
//! vector does not depend on its neighbours.
//!
//! Queries, keys and values are one product with the three weights stacked: `[3 · hidden, hidden]`.
//!
//! Deliberately not here: what is made of the states of the last layer.

pub(crate) mod batches;
pub(crate) mod load;
pub(crate) mod math;
pub(crate) mod worker;

use edgewise_kernels::{EncoderAttention, KernelError, PackedMatrix, Product, matmul};

use math::{Normalisation, add_and_normalise, add_bias, add_bias_and_gelu};

/// In what arithmetic the linear layers are computed. Part of a model's digest, since results differ.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EncoderArithmetic {
    /// Weights and activations as integers of 8 bits with a scale for each 32 of them, sums in 32 bits: several times as
    /// fast where the processor has instructions for it, at a cosine with the exact vectors above 0.999.
    #[default]
    Integer8,
    /// 32-bit floating point throughout.
    Exact,
}

impl EncoderArithmetic {
    /// As it enters the digest; the exact one does not, so that it names the files alone.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Integer8 => "integer8",
            Self::Exact => "",
        }
    }
}

/// Shape of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shape {
    pub(crate) vocabulary: usize,
    /// Longest text in tokens.
    pub(crate) positions: usize,
    /// Kinds of text in one input.
    pub(crate) segments: usize,
    pub(crate) hidden: usize,
    pub(crate) heads: usize,
    pub(crate) layers: usize,
    pub(crate) intermediate: usize,
    pub(crate) epsilon: f32,
}

/// `y = x · weightᵀ + bias`; the bias is added by whatever comes next, to save a pass over the memory.
pub(crate) struct Linear {
    /// `[output, input]`.
    pub(crate) weight: PackedMatrix,
    /// `[output]`.
    pub(crate) bias: Vec<f32>,
}

/// Scale and shift after normalisation.
pub(crate) struct Norm {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

/// Weights of a layer.
pub(crate) struct Layer {
    /// Queries (with the factor `1/√dim` of attention), keys and values.
    pub(crate) qkv: Linear,
    pub(crate) attention_output: Linear,
    pub(crate) attention_norm: Norm,
    pub(crate) intermediate: Linear,
    pub(crate) output: Linear,
    pub(crate) output_norm: Norm,
}

/// Weights of an encoder.
pub(crate) struct Bert {
    pub(crate) shape: Shape,
    /// `[vocabulary, hidden]`.
    pub(crate) words: Vec<f32>,
    /// Position plus segment: `[segments, positions, hidden]`.
    pub(crate) positions: Vec<f32>,
    pub(crate) norm: Norm,
    /// `[hidden]` zeros.
    pub(crate) no_bias: Vec<f32>,
    pub(crate) layers: Vec<Layer>,
}

/// A text: token ids with their special tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    /// Not empty, not longer than there are positions, all within the vocabulary.
    pub(crate) ids: &'a [u32],
    /// How many of them are in the first segment; the others are in the second.
    pub(crate) first_segment: usize,
}

/// Whose states of the last layer are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum States {
    /// All tokens'.
    All,
    /// Each text's first token's, which spares most of the last layer.
    First,
}

/// Buffers of one thread.
#[derive(Default)]
pub(crate) struct Workspace {
    x: Vec<f32>,
    y: Vec<f32>,
    qkv: Vec<f32>,
    context: Vec<f32>,
    inner: Vec<f32>,
    attention: EncoderAttention,
    kernels: edgewise_kernels::Workspace,
}

impl Linear {
    /// The product, without the bias.
    pub(crate) fn apply(
        &self,
        x: &[f32],
        y: &mut Vec<f32>,
        workspace: &mut edgewise_kernels::Workspace,
    ) -> Result<(), KernelError> {
        y.resize(x.len() / self.weight.columns() * self.weight.rows(), 0.0);
        matmul(x, &mut [Product { weights: &self.weight, out: y }], workspace)
    }
}

impl Bert {
    /// States of the last layer: `[tokens of all texts, hidden]`, or `[texts, hidden]` for [`States::First`].
    pub(crate) fn run<'w>(
        &self,
        texts: &[Text<'_>],
        states: States,
        workspace: &'w mut Workspace,
    ) -> Result<&'w [f32], KernelError> {
        let Shape { hidden, heads, positions, epsilon, .. } = self.shape;
        let Workspace { x, y, qkv, context, inner, attention, kernels } = workspace;
        let norm = |Norm { weight, bias }: &'_ Norm, x: &mut [f32], residual: &[f32], residual_bias: &[f32]| {
            add_and_normalise(x, residual, residual_bias, Normalisation { weight, bias, epsilon });
        };
        x.clear();
        y.clear();
        for text in texts {
            for (position, &id) in text.ids.iter().enumerate() {
                let row = if position < text.first_segment { position } else { positions + position };
                x.extend_from_slice(&self.words[id as usize * hidden..][..hidden]);
                y.extend_from_slice(&self.positions[row * hidden..][..hidden]);
            }
        }
        norm(&self.norm, x, y, &self.no_bias);
        for (index, layer) in self.layers.iter().enumerate() {
            context.resize(x.len(), 0.0);
            layer.qkv.apply(x, qkv, kernels)?;
            add_bias(qkv, &layer.qkv.bias);
            let mut first = 0;
            for text in texts {
                let end = first + text.ids.len();
                let rows = &qkv[3 * first * hidden..3 * end * hidden];
                attention.run(rows, heads, hidden / heads, &mut context[first * hidden..end * hidden])?;
                first = end;
            }
            if states == States::First && index + 1 == self.layers.len() {
                keep_first(texts, x, hidden);
                keep_first(texts, context, hidden);
            }
            layer.attention_output.apply(context, y, kernels)?;
            norm(&layer.attention_norm, x, y, &layer.attention_output.bias);
            layer.intermediate.apply(x, inner, kernels)?;
            add_bias_and_gelu(inner, &layer.intermediate.bias);
            layer.output.apply(inner, y, kernels)?;
            norm(&layer.output_norm, x, y, &layer.output.bias);
        }
        Ok(x)
    }
}

/// Leaves of the rows of each text the first.
fn keep_first(texts: &[Text<'_>], rows: &mut Vec<f32>, width: usize) {
    let mut from = 0;
    for (to, text) in texts.iter().enumerate() {
        rows.copy_within(from * width..(from + 1) * width, to * width);
        from += text.ids.len();
    }
    rows.truncate(texts.len() * width);
}
