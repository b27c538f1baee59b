//! The BERT encoder (Devlin et al. 2019) on packed batches.
//!
//! Layout: the tokens of all texts of a batch stand one after the other, `[tokens, hidden]`, without padding. Linear
//! layers see one tall matrix; attention runs text by text, head by head. So nothing is computed that isn't needed, and
//! a text's vector does not depend on its neighbours, beyond the rounding of matrix products of another height.
//!
//! Queries, keys and values are one product with the three weights stacked: `[3 · hidden, hidden]`.

use std::ops::Range;

use gemm::Parallelism;

use super::math::{Matrix, add_and_normalise, gelu, multiply, softmax_rows};

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

/// `y = x · weightᵀ + bias`.
pub(super) struct Linear {
    /// `[output, input]`, row by row.
    pub(super) weight: Vec<f32>,
    /// `[output]`.
    pub(super) bias: Vec<f32>,
}

/// Scale and shift after normalisation.
pub(super) struct Norm {
    pub(super) weight: Vec<f32>,
    pub(super) bias: Vec<f32>,
}

pub(super) struct Layer {
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
    /// `[positions, hidden]`, with the embedding of the first segment added: there is only one.
    pub(super) positions: Vec<f32>,
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
    scores: Vec<f32>,
}

impl Linear {
    fn apply(&self, x: &[f32], y: &mut Vec<f32>, parallelism: Parallelism) {
        let outputs = self.bias.len();
        let inputs = self.weight.len() / outputs;
        let rows = x.len() / inputs;
        y.clear();
        (0..rows).for_each(|_| y.extend_from_slice(&self.bias));
        let weight = Matrix::new(&self.weight, outputs, inputs, inputs).transposed();
        multiply(y, outputs, Matrix::new(x, rows, inputs, inputs), weight, 1.0, true, parallelism);
    }
}

impl Norm {
    fn apply(&self, x: &mut [f32], residual: &[f32], epsilon: f32) {
        add_and_normalise(x, residual, &self.weight, &self.bias, epsilon);
    }
}

impl Bert {
    /// One unit vector per text. Texts are token ids with their special tokens, none empty, none longer than there are
    /// positions, all ids within the vocabulary.
    pub(super) fn embed(&self, texts: &[&[u32]], workspace: &mut Workspace, parallelism: Parallelism) -> Vec<Vec<f32>> {
        let Shape { hidden, epsilon, .. } = self.shape;
        let Workspace { x, y, qkv, context, inner, scores } = workspace;
        let ranges: Vec<Range<usize>> = texts
            .iter()
            .scan(0, |end, text| {
                let start = *end;
                *end += text.len();
                Some(start..*end)
            })
            .collect();

        x.clear();
        y.clear();
        for text in texts {
            for (position, &id) in text.iter().enumerate() {
                x.extend_from_slice(&self.words[id as usize * hidden..][..hidden]);
                y.extend_from_slice(&self.positions[position * hidden..][..hidden]);
            }
        }
        self.norm.apply(x, y, epsilon);
        for layer in &self.layers {
            layer.qkv.apply(x, qkv, parallelism);
            context.resize(x.len(), 0.0);
            for range in &ranges {
                self.attend(qkv, range.clone(), context, scores, parallelism);
            }
            layer.attention_output.apply(context, y, parallelism);
            layer.attention_norm.apply(x, y, epsilon);
            layer.intermediate.apply(x, inner, parallelism);
            gelu(inner);
            layer.output.apply(inner, y, parallelism);
            layer.output_norm.apply(x, y, epsilon);
        }
        ranges.into_iter().map(|range| unit_mean(&x[range.start * hidden..range.end * hidden], hidden)).collect()
    }

    /// Attention of one text: `softmax(Q Kᵀ / √d) V` for each head.
    fn attend(
        &self,
        qkv: &[f32],
        tokens: Range<usize>,
        context: &mut [f32],
        scores: &mut Vec<f32>,
        parallelism: Parallelism,
    ) {
        let Shape { hidden, heads, .. } = self.shape;
        let (n, stride, dim) = (tokens.len(), 3 * hidden, hidden / heads);
        let rows = &qkv[tokens.start * stride..tokens.end * stride];
        let scale = 1.0 / (dim as f32).sqrt();
        scores.resize(n * n, 0.0);
        for head in 0..heads {
            let part = |which: usize| Matrix::new(&rows[which * hidden + head * dim..], n, dim, stride);
            multiply(scores, n, part(0), part(1).transposed(), scale, false, parallelism);
            softmax_rows(scores, n);
            let out = &mut context[tokens.start * hidden + head * dim..];
            multiply(out, hidden, Matrix::new(scores, n, n, n), part(2), 1.0, false, parallelism);
        }
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
