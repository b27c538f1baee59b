//! Attention of every token of a text to every token of it, as in encoders: `softmax(Q Kᵀ) V` for each head, in f32.
//!
//! A head's keys are packed so that thirty-two tokens lie side by side, its values as they are. A register tile is up to
//! twelve queries by thirty-two tokens of scores, and later by thirty-two dimensions of the weighted sum; the scores of a
//! tile stay in the first-level cache between the two. Division by the softmax's sum is left to the end, where there are
//! fewer numbers to divide.
//!
//! Invariant: the result of a text depends on nothing but the text.

use crate::{
    KernelError,
    activations::Tiling,
    error::check_length,
    simd::{Isa, Kernel, LANES, Simd, with_tile},
};

/// Tokens or dimensions of a register tile: two vectors.
const WIDTH: usize = 2 * LANES;

/// Attention of encoders, with buffers to be reused from call to call.
#[derive(Debug, Default)]
pub struct EncoderAttention {
    /// Keys of a head, `[groups, dim, WIDTH]`; lanes beyond the last token are 0.
    keys: Vec<f32>,
    /// Values of a head, `[tokens, dim]`.
    values: Vec<f32>,
    /// Queries of a tile, `[dim, queries]`.
    queries: Vec<f32>,
    /// Scores of a tile, `[queries, groups · WIDTH]`.
    scores: Vec<f32>,
}

impl EncoderAttention {
    /// Attention of one text. `qkv` is `[tokens, 3, heads, dim]`, the queries with the factor `1/√dim`; `out` is
    /// `[tokens, heads, dim]`.
    ///
    /// # Errors
    /// [`KernelError`] when `dim` is not a multiple of 32 or shapes don't match.
    pub fn run(&mut self, qkv: &[f32], heads: usize, dim: usize, out: &mut [f32]) -> Result<(), KernelError> {
        self.run_with(Isa::detect(), qkv, heads, dim, out)
    }

    fn run_with(
        &mut self,
        isa: Isa,
        qkv: &[f32],
        heads: usize,
        dim: usize,
        out: &mut [f32],
    ) -> Result<(), KernelError> {
        if dim == 0 || !dim.is_multiple_of(WIDTH) {
            let what = "the dimension of a head of an encoder";
            return Err(KernelError::Dimension { what, actual: dim, rule: "a multiple of 32" });
        }
        let stride = 3 * heads * dim;
        let tokens = qkv.len().checked_div(stride).unwrap_or(0);
        check_length("queries, keys and values", qkv.len(), tokens * stride)?;
        check_length("the result of attention", out.len(), tokens * heads * dim)?;
        if tokens > 0 {
            isa.run(Attend {
                qkv,
                tokens,
                heads,
                dim,
                tiling: Tiling::new(tokens, isa.query_rows()),
                out,
                buffers: self,
            });
        }
        Ok(())
    }
}

struct Attend<'a> {
    qkv: &'a [f32],
    tokens: usize,
    heads: usize,
    dim: usize,
    tiling: Tiling,
    out: &'a mut [f32],
    buffers: &'a mut EncoderAttention,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let padded = self.tokens.next_multiple_of(WIDTH);
        let EncoderAttention { keys, values, queries, scores } = &mut *self.buffers;
        keys.clear();
        keys.resize(self.dim * padded, 0.0);
        values.resize(self.dim * self.tokens, 0.0);
        queries.resize(self.dim * S::QUERY_ROWS, 0.0);
        scores.resize(S::QUERY_ROWS * padded, 0.0);
        for head in 0..self.heads {
            self.pack(head);
            for tile in 0..self.tiling.tiles() {
                let first = self.tiling.first_token(tile);
                with_tile!(self.tiling.width(tile), W => self.tile::<S, W>(s, head, first));
            }
        }
    }
}

impl Attend<'_> {
    /// Packs the keys and values of a head.
    #[inline(always)]
    fn pack(&mut self, head: usize) {
        let (dim, hidden) = (self.dim, self.heads * self.dim);
        let EncoderAttention { keys, values, .. } = &mut *self.buffers;
        for (token, row) in self.qkv.chunks_exact(3 * hidden).enumerate() {
            let key = &row[hidden + head * dim..][..dim];
            let lines = &mut keys[token / WIDTH * dim * WIDTH..][..dim * WIDTH];
            for (line, x) in lines.as_chunks_mut::<WIDTH>().0.iter_mut().zip(key) {
                line[token % WIDTH] = *x;
            }
            values[token * dim..][..dim].copy_from_slice(&row[2 * hidden + head * dim..][..dim]);
        }
    }

    /// The result of `W` queries from `first` on.
    #[inline(always)]
    fn tile<S: Simd, const W: usize>(&mut self, s: S, head: usize, first: usize) {
        if W > S::QUERY_ROWS {
            return; // Never asked for; spares compiling tiles that this instruction set has no registers for.
        }
        let (tokens, dim, hidden) = (self.tokens, self.dim, self.heads * self.dim);
        let padded = tokens.next_multiple_of(WIDTH);
        let EncoderAttention { keys, values, queries, scores } = &mut *self.buffers;
        let queries = &mut queries.as_chunks_mut::<W>().0[..dim];
        for r in 0..W {
            let query = &self.qkv[(first + r) * 3 * hidden + head * dim..][..dim];
            for (column, x) in queries.iter_mut().zip(query) {
                column[r] = *x;
            }
        }
        for (group, keys) in keys.chunks_exact(dim * WIDTH).enumerate() {
            let mut sums = [[s.splat(0.0); 2]; W];
            let lines = keys.as_chunks::<LANES>().0.as_chunks::<2>().0;
            for (line, query) in lines.iter().zip(&*queries) {
                let (low, high) = (s.load(&line[0]), s.load(&line[1]));
                for r in 0..W {
                    let x = s.splat(query[r]);
                    sums[r] = [s.fma(x, low, sums[r][0]), s.fma(x, high, sums[r][1])];
                }
            }
            let there = tokens - group * WIDTH;
            for r in 0..W {
                let to = scores[r * padded + group * WIDTH..][..WIDTH].as_chunks_mut::<LANES>().0;
                for half in 0..2 {
                    let masked = if there < (half + 1) * LANES {
                        let mask = (1_u32 << there.saturating_sub(half * LANES).min(LANES)) - 1;
                        s.select(sums[r][half], mask as u16, f32::MIN)
                    } else {
                        sums[r][half]
                    };
                    s.store(masked, &mut to[half]);
                }
            }
        }
        let mut inverse = [0.0_f32; W];
        for r in 0..W {
            inverse[r] = 1.0 / exponentials(s, scores[r * padded..][..padded].as_chunks_mut::<LANES>().0);
        }
        let mut weights: [&[f32]; W] = [&[]; W];
        for r in 0..W {
            weights[r] = &scores[r * padded..][..tokens];
        }
        for column in (0..dim).step_by(WIDTH) {
            let mut sums = [[s.splat(0.0); 2]; W];
            for (token, value) in values.chunks_exact(dim).enumerate() {
                let value = value[column..][..WIDTH].as_chunks::<LANES>().0;
                let (low, high) = (s.load(&value[0]), s.load(&value[1]));
                for r in 0..W {
                    // SAFETY: there are `tokens` weights in each row, and as many values.
                    let x = s.splat(unsafe { *weights[r].get_unchecked(token) });
                    sums[r] = [s.fma(x, low, sums[r][0]), s.fma(x, high, sums[r][1])];
                }
            }
            for r in 0..W {
                let to = self.out[(first + r) * hidden + head * dim + column..][..WIDTH].as_chunks_mut::<LANES>().0;
                s.store(s.mul(sums[r][0], s.splat(inverse[r])), &mut to[0]);
                s.store(s.mul(sums[r][1], s.splat(inverse[r])), &mut to[1]);
            }
        }
    }
}

/// Replaces each score by `e` to the power of its distance to the largest; the sum of all. What was masked becomes about
/// 1e-38, which is lost in a sum of at least 1.
#[inline(always)]
fn exponentials<S: Simd>(s: S, scores: &mut [[f32; LANES]]) -> f32 {
    let mut largest = s.splat(f32::MIN);
    for line in &*scores {
        largest = s.max(s.load(line), largest);
    }
    let largest = s.splat(s.maximum(largest));
    let log2_e = s.splat(std::f32::consts::LOG2_E);
    let mut sum = s.splat(0.0);
    for line in scores {
        let power = s.exp2(s.mul(s.sub(s.load(line), largest), log2_e));
        sum = s.add(sum, power);
        s.store(power, line);
    }
    s.sum(sum)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::values;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn it_matches_its_definition(tokens in 1_usize..110, heads in 1_usize..4, blocks in 1_usize..3, seed: u64) {
            let dim = blocks * WIDTH;
            let (hidden, stride) = (heads * dim, 3 * heads * dim);
            let qkv = values(tokens * stride, 1.0, seed);
            let at = |token: usize, which: usize, head: usize, d: usize| {
                f64::from(qkv[token * stride + which * hidden + head * dim + d])
            };
            for isa in Isa::available() {
                let mut attention = EncoderAttention::default();
                // Left over from a longer text: nothing of it may show.
                let longer = vec![9.0; 120 * stride];
                attention.run_with(isa, &longer, heads, dim, &mut vec![0.0; 120 * hidden]).unwrap();
                let mut out = vec![f32::NAN; tokens * hidden];
                attention.run_with(isa, &qkv, heads, dim, &mut out).unwrap();
                for token in (0..tokens).step_by(3) {
                    for head in 0..heads {
                        let score =
                            |other| (0..dim).map(|d| at(token, 0, head, d) * at(other, 1, head, d)).sum::<f64>().exp();
                        let scores: Vec<f64> = (0..tokens).map(score).collect();
                        let total: f64 = scores.iter().sum();
                        for d in (0..dim).step_by(5) {
                            let mixed: f64 =
                                scores.iter().enumerate().map(|(other, s)| s / total * at(other, 2, head, d)).sum();
                            let ours = f64::from(out[token * hidden + head * dim + d]);
                            prop_assert!((ours - mixed).abs() < 2e-5, "{}: {ours} against {mixed}", isa.name());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn scores_far_apart_are_kept_finite() {
        // One key far ahead of all others: its value is the result.
        let (tokens, dim) = (40, WIDTH);
        let mut qkv = vec![0.0; tokens * 3 * dim];
        for (token, row) in qkv.chunks_exact_mut(3 * dim).enumerate() {
            row[0] = 1.0;
            row[dim] = if token == 37 { 3e4 } else { -3e4 };
            row[2 * dim..].fill(token as f32);
        }
        let mut out = vec![f32::NAN; tokens * dim];
        EncoderAttention::default().run(&qkv, 1, dim, &mut out).unwrap();
        assert!(out.iter().all(|x| *x == 37.0));
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let mut attention = EncoderAttention::default();
        assert!(attention.run(&[0.0; 3 * 16], 1, 16, &mut [0.0; 16]).is_err());
        assert!(attention.run(&[0.0; 3 * 32 + 1], 1, 32, &mut [0.0; 32]).is_err());
        assert!(attention.run(&[0.0; 3 * 32], 1, 32, &mut [0.0; 31]).is_err());
        assert!(attention.run(&[], 1, 32, &mut []).is_ok());
    }
}
