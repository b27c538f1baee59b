//! The BERT encoder (Devlin et al. 2019) on packed batches.
//!
//! Layout: the tokens of all texts of a batch stand one after the other, `[tokens, hidden]`, without padding. Linear
//! layers see one tall matrix; attention runs text by text. So nothing is computed that isn't needed, and a text's
//! vector does not depend on its neighbours.
//!
//! Queries, keys and values are one product with the three weights stacked: `[3 · hidden, hidden]`.

use edgewise_kernels::{KernelError, PackedMatrix, Product, matmul};

use super::math::{AttentionBuffers, Normalisation, add_and_normalise, add_bias, add_bias_and_gelu, attend};

/// Shape of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Shape {
    pub(super) vocabulary: usize,
    pub(super) positions: usize,
    pub(super) hidden: usize,
    pub(super) heads: usize,
    pub(super) layers: usize,
    pub(super) intermediate: usize,
    pub(super) epsilon: f32,
}

/// `y = x · weightᵀ + bias`; the bias is added by whatever comes next, to save a pass over the memory.
pub(super) struct Linear {
    /// `[output, input]`.
    pub(super) weight: PackedMatrix,
    /// `[output]`.
    pub(super) bias: Vec<f32>,
}

/// Scale and shift after normalisation.
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

/// Weights of a layer.
pub(super) struct Layer {
    /// Queries (with the factor `1/√dim` of attention), keys and values.
    pub(super) qkv: Linear,
    pub(super) attention_output: Linear,
    pub(super) attention_norm: Norm,
    pub(super) intermediate: Linear,
    pub(super) output: Linear,
    pub(super) output_norm: Norm,
}

/// Weights of an encoder.
pub(super) struct Bert {
    pub(super) shape: Shape,
    /// `[vocabulary, hidden]`.
    pub(super) words: Vec<f32>,
    /// `[positions, hidden]`.
    pub(super) positions: Vec<f32>,
    /// `[hidden]`: the embedding of the first segment; there is only one.
    pub(super) segment: Vec<f32>,
    pub(super) norm: Norm,
    pub(super) layers: Vec<Layer>,
}

/// Buffers of one thread.
#[derive(Default)]
pub(super) struct Workspace {
    x: Vec<f32>,
    y: Vec<f32>,
    qkv: Vec<f32>,
    context: Vec<f32>,
    inner: Vec<f32>,
    attention: AttentionBuffers,
    kernels: edgewise_kernels::Workspace,
}

impl Linear {
    /// The product, without the bias.
    fn apply(
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
    /// One unit vector per text. Texts are token ids with their special tokens, none empty, none longer than there are
    /// positions, all ids within the vocabulary.
    pub(super) fn run(&self, texts: &[&[u32]], workspace: &mut Workspace) -> Result<Vec<Vec<f32>>, KernelError> {
        let Shape { hidden, heads, epsilon, .. } = self.shape;
        let Workspace { x, y, qkv, context, inner, attention, kernels } = workspace;
        let norm = |Norm { weight, bias }: &'_ Norm, x: &mut [f32], residual: &[f32], residual_bias: &[f32]| {
            add_and_normalise(x, residual, residual_bias, Normalisation { weight, bias, epsilon });
        };
        x.clear();
        y.clear();
        for text in texts {
            for (position, &id) in text.iter().enumerate() {
                x.extend_from_slice(&self.words[id as usize * hidden..][..hidden]);
                y.extend_from_slice(&self.positions[position * hidden..][..hidden]);
            }
        }
        norm(&self.norm, x, y, &self.segment);
        context.resize(x.len(), 0.0);
        for layer in &self.layers {
            layer.qkv.apply(x, qkv, kernels)?;
            add_bias(qkv, &layer.qkv.bias);
            let mut first = 0;
            for text in texts {
                let end = first + text.len();
                let rows = &qkv[3 * first * hidden..3 * end * hidden];
                attend(rows, heads, hidden / heads, &mut context[first * hidden..end * hidden], attention);
                first = end;
            }
            layer.attention_output.apply(context, y, kernels)?;
            norm(&layer.attention_norm, x, y, &layer.attention_output.bias);
            layer.intermediate.apply(x, inner, kernels)?;
            add_bias_and_gelu(inner, &layer.intermediate.bias);
            layer.output.apply(inner, y, kernels)?;
            norm(&layer.output_norm, x, y, &layer.output.bias);
        }
        let mut rest = &x[..];
        let vectors = texts.iter().map(|text| {
            let (rows, after) = rest.split_at(text.len() * hidden);
            rest = after;
            unit_mean(rows, hidden)
        });
        Ok(vectors.collect())
    }
}

/// The mean over the rows of `x`, divided by its length.
fn unit_mean(x: &[f32], width: usize) -> Vec<f32> {
    let mut mean = vec![0.0_f32; width];
    for row in x.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(m, v)| *m += v);
    }
    // Dividing by the number of rows would cancel out.
    let length = mean.iter().map(|m| m * m).sum::<f32>().sqrt();
    mean.iter_mut().for_each(|m| *m /= length);
    mean
}
