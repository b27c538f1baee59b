//! What the encoder does between its linear layers: activation, normalisation, attention. Plain loops over slices,
//! written so that the compiler turns them into vector instructions, compiled for several instruction sets and chosen
//! when called.
//!
//! Sums run over a fixed number of lanes in a fixed order, and rows are independent, so that a text's result does not
//! depend, bit for bit, on what else is in a batch.

/// Independent partial sums of a row, and the width of a register tile of attention: two AVX-512 registers.
pub(crate) const LANES: usize = 32;
/// Query rows of a register tile of attention: with two registers of columns, twelve accumulators.
const QUERIES: usize = 6;

/// Defines a function whose body is compiled for AVX-512, AVX2 and the baseline.
macro_rules! for_each_instruction_set {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),*) $body:block) => {
        $(#[$doc])*
        $visibility fn $name($($argument: $type),*) {
            /// `FUSED`: the processor multiplies and adds in one instruction.
            #[inline(always)]
            fn body<const FUSED: bool>($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn avx512($($argument: $type),*) { body::<true>($($argument),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) { body::<true>($($argument),*) }
                if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq") && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the processor has the features, as just found.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has the features, as just found.
                    return unsafe { avx2($($argument),*) };
                }
            }
            body::<false>($($argument),*)
        }
    };
}

/// `Σ f(x)` in lanes.
#[inline(always)]
fn sum_of(row: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += f(x);
        }
    }
    for (lane, &x) in lanes.iter_mut().zip(rest) {
        *lane += f(x);
    }
    lanes.iter().sum()
}

#[inline(always)]
fn largest_of(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in row.chunks(LANES) {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = if x > *lane { x } else { *lane };
        }
    }
    lanes.iter().copied().fold(f32::NEG_INFINITY, f32::max)
}

/// `e^x` for `x ≤ 0`, to about one unit in the last place: `2^n · e^r` with `|r| ≤ ln 2 / 2` and the minimax polynomial
/// of the Cephes library (`expf`). Below -87 the result is that at -87, about 1e-38.
#[inline(always)]
fn exp_of_non_positive(x: f32) -> f32 {
    // Adding 1.5 · 2^23 rounds to an integer, which then stands in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN_2_HIGH - n * LN_2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let power_of_two = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    (p * r * r + r + 1.0) * power_of_two
}

/// The error function, to about three units in the last place, by the rational minimax approximation of the Eigen
/// library (`generic_fast_erf`).
#[inline(always)]
fn erf(x: f32) -> f32 {
    let x = if x > 4.0 { 4.0 } else { x };
    let x = if x < -4.0 { -4.0 } else { x };
    let s = x * x;
    let mut p = -2.726_142_3e-10;
    p = p * s + 2.770_681_4e-8;
    p = p * s - 2.101_024e-6;
    p = p * s - 5.692_506_4e-5;
    p = p * s - 7.349_906_3e-4;
    p = p * s - 2.954_6e-3;
    p = p * s - 1.609_603_3e-2;
    let mut q = -1.456_607_2e-5;
    q = q * s - 2.133_740_6e-4;
    q = q * s - 1.682_827e-3;
    q = q * s - 7.373_329e-3;
    q = q * s - 1.426_473_9e-2;
    x * p / q
}

#[inline(always)]
fn multiply_add<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

#[inline(always)]
fn softmax(row: &mut [f32]) {
    let largest = largest_of(row);
    for x in row.iter_mut() {
        *x = exp_of_non_positive(*x - largest);
    }
    let scale = 1.0 / sum_of(row, |x| x);
    for x in row.iter_mut() {
        *x *= scale;
    }
}

/// `out = left · right` for `R` rows of `left` and all columns of `right`, whose number is a multiple of [`LANES`].
/// `inner` is the number of columns of `left` and rows of `right`; each matrix comes with the distance of its rows.
#[inline(always)]
// A row's sums are replaced as a whole array: so they stay in registers, in builds with checks too.
#[allow(clippy::needless_range_loop)]
fn tile<const R: usize, const FUSED: bool>(
    (left, left_stride): (&[f32], usize),
    (right, right_stride): (&[f32], usize),
    (out, out_stride): (&mut [f32], usize),
    inner: usize,
    columns: usize,
) {
    let rows: [&[f32]; R] = std::array::from_fn(|r| &left[r * left_stride..][..inner]);
    for column in (0..columns).step_by(LANES) {
        let mut sums = [[0.0_f32; LANES]; R];
        let mut lines = right[column..].chunks(right_stride);
        for i in 0..inner {
            let Some(line) = lines.next().and_then(|line| line.first_chunk::<LANES>()) else { break };
            for r in 0..R {
                let x = rows[r][i];
                let before = sums[r];
                sums[r] = std::array::from_fn(|lane| multiply_add::<FUSED>(x, line[lane], before[lane]));
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            out[r * out_stride + column..][..LANES].copy_from_slice(sums);
        }
    }
}

/// Buffers of [`attend`].
#[derive(Default)]
pub(crate) struct AttentionBuffers {
    /// Keys of a head, `[dim, tokens]`, padded to whole lanes.
    keys: Vec<f32>,
    /// Values of a head, `[tokens, dim]`.
    values: Vec<f32>,
    /// Scores of a few queries, `[queries, tokens]`, padded likewise.
    scores: Vec<f32>,
}

for_each_instruction_set! {
    /// Bidirectional attention of one text, `softmax(Q Kᵀ) V` for each head; the queries carry the factor `1/√dim`.
    /// `qkv` is `[tokens, 3, heads, dim]`, `out` is `[tokens, heads, dim]`; `dim` is a multiple of [`LANES`].
    pub(crate) fn attend(qkv: &[f32], heads: usize, dim: usize, out: &mut [f32], buffers: &mut AttentionBuffers) {
        let (hidden, stride) = (heads * dim, 3 * heads * dim);
        let tokens = qkv.len() / stride;
        let padded = tokens.next_multiple_of(LANES);
        let AttentionBuffers { keys, values, scores } = buffers;
        keys.clear();
        keys.resize(dim * padded, 0.0);
        values.resize(tokens * dim, 0.0);
        scores.resize(QUERIES * padded, 0.0);
        for head in 0..heads {
            for (token, row) in qkv.chunks_exact(stride).enumerate() {
                let key = &row[hidden + head * dim..][..dim];
                for (d, &x) in key.iter().enumerate() {
                    keys[d * padded + token] = x;
                }
                values[token * dim..][..dim].copy_from_slice(&row[2 * hidden + head * dim..][..dim]);
            }
            let mut query = 0;
            while query < tokens {
                let from = (&qkv[query * stride + head * dim..], stride);
                let to = &mut out[query * hidden + head * dim..];
                let rows = if tokens - query >= QUERIES { QUERIES } else { 1 };
                if rows == QUERIES {
                    tile::<QUERIES, FUSED>(from, (&keys[..], padded), (&mut scores[..], padded), dim, padded);
                } else {
                    tile::<1, FUSED>(from, (&keys[..], padded), (&mut scores[..], padded), dim, padded);
                }
                for row in scores.chunks_exact_mut(padded).take(rows) {
                    softmax(&mut row[..tokens]);
                }
                if rows == QUERIES {
                    tile::<QUERIES, FUSED>((&scores[..], padded), (&values[..], dim), (to, hidden), tokens, dim);
                } else {
                    tile::<1, FUSED>((&scores[..], padded), (&values[..], dim), (to, hidden), tokens, dim);
                }
                query += rows;
            }
        }
    }
}

for_each_instruction_set! {
    /// Adds `bias` to each row, in place. A row is as long as `bias`.
    pub(crate) fn add_bias(values: &mut [f32], bias: &[f32]) {
        for row in values.chunks_exact_mut(bias.len()) {
            for (x, b) in row.iter_mut().zip(bias) {
                *x += b;
            }
        }
    }
}

for_each_instruction_set! {
    /// Adds `bias` to each row, then applies the Gaussian error linear unit in its exact form, `x/2 · (1 + erf(x/√2))`
    /// (Hendrycks and Gimpel 2016), in place.
    pub(crate) fn add_bias_and_gelu(values: &mut [f32], bias: &[f32]) {
        for row in values.chunks_exact_mut(bias.len()) {
            for (x, b) in row.iter_mut().zip(bias) {
                let y = *x + b;
                *x = 0.5 * y * (1.0 + erf(y * std::f32::consts::FRAC_1_SQRT_2));
            }
        }
    }
}

/// Scale and shift after normalisation, and what is added to the variance before its root is taken.
#[derive(Clone, Copy)]
pub(crate) struct Normalisation<'a> {
    pub(crate) weight: &'a [f32],
    pub(crate) bias: &'a [f32],
    pub(crate) epsilon: f32,
}

for_each_instruction_set! {
    /// Adds the rows of `residual` and `residual_bias` to `values`, then brings each row to mean 0 and variance 1, times
    /// weight, plus bias (layer normalisation, Ba et al. 2016), in place.
    pub(crate) fn add_and_normalise(
        values: &mut [f32], residual: &[f32], residual_bias: &[f32], normalisation: Normalisation<'_>
    ) {
        let Normalisation { weight, bias, epsilon } = normalisation;
        let width = weight.len();
        for (row, added) in values.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
            for ((x, a), b) in row.iter_mut().zip(added).zip(residual_bias) {
                *x += a + b;
            }
            let mean = sum_of(row, |x| x) / width as f32;
            let variance = sum_of(row, |x| (x - mean) * (x - mean)) / width as f32;
            let scale = 1.0 / (variance + epsilon).sqrt();
            for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
                *x = (*x - mean) * scale * w + b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// erf by its Maclaurin series, which converges everywhere; enough terms for |x| ≤ 4.
    fn erf_by_series(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    #[test]
    fn erf_and_exp_keep_to_single_precision() {
        for i in -4000..=4000 {
            let x = i as f32 / 1000.0;
            assert!((f64::from(erf(x)) - erf_by_series(f64::from(x))).abs() < 4e-7, "erf({x})");
        }
        assert!((erf(50.0) - 1.0).abs() < 4e-7 && (erf(-50.0) + 1.0).abs() < 4e-7);
        for i in 0..8600 {
            let x = -(i as f32) / 100.0;
            let (ours, truth) = (f64::from(exp_of_non_positive(x)), f64::from(x).exp());
            assert!((ours / truth - 1.0).abs() < 3e-7, "exp({x})");
        }
        assert!(exp_of_non_positive(f32::NEG_INFINITY) < 1e-37);
    }

    fn values(n: usize) -> impl Strategy<Value = Vec<f32>> {
        prop::collection::vec(-4.0_f32..4.0, n)
    }

    proptest! {
        #[test]
        fn normalisation_matches_its_definition(width in 1_usize..80, seed in values(400)) {
            let rows = 2;
            let mut ours = seed[..rows * width].to_vec();
            let (residual, added) = (&seed[160..160 + rows * width], &seed[320..320 + width]);
            let (weight, bias) = (&seed[80..80 + width], &seed[90..90 + width]);
            add_and_normalise(&mut ours, residual, added, Normalisation { weight, bias, epsilon: 1e-5 });
            for r in 0..rows {
                let at = |i: usize| f64::from(seed[r * width + i]) + f64::from(residual[r * width + i]) + f64::from(added[i]);
                let sums: Vec<f64> = (0..width).map(at).collect();
                let mean = sums.iter().sum::<f64>() / width as f64;
                let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                for (j, x) in sums.iter().enumerate() {
                    let expected = (x - mean) / (variance + 1e-5).sqrt() * f64::from(weight[j]) + f64::from(bias[j]);
                    prop_assert!((f64::from(ours[r * width + j]) - expected).abs() < 4e-3);
                }
            }
        }

        #[test]
        fn attention_matches_its_definition(tokens in 1_usize..75, heads in 1_usize..4, seed in values(997)) {
            let dim = LANES;
            let (hidden, stride) = (heads * dim, 3 * heads * dim);
            let qkv: Vec<f32> = seed.iter().map(|x| x / 4.0).cycle().take(tokens * stride).collect();
            let mut out = vec![f32::NAN; tokens * hidden];
            // Left over from a longer text: nothing of it may show.
            let mut buffers = AttentionBuffers::default();
            attend(&vec![9.0; 80 * stride], heads, dim, &mut vec![0.0; 80 * hidden], &mut buffers);
            attend(&qkv, heads, dim, &mut out, &mut buffers);
            let at = |token: usize, which: usize, head: usize, d: usize| {
                f64::from(qkv[token * stride + which * hidden + head * dim + d])
            };
            for token in 0..tokens {
                for head in 0..heads {
                    let score = |other| (0..dim).map(|d| at(token, 0, head, d) * at(other, 1, head, d)).sum::<f64>().exp();
                    let scores: Vec<f64> = (0..tokens).map(score).collect();
                    let total: f64 = scores.iter().sum();
                    for d in (0..dim).step_by(5) {
                        let mixed = scores.iter().enumerate().map(|(other, s)| s / total * at(other, 2, head, d));
                        let ours = f64::from(out[token * hidden + head * dim + d]);
                        prop_assert!((ours - mixed.sum::<f64>()).abs() < 1e-5);
                    }
                }
            }
        }
    }

    #[test]
    fn gelu_matches_its_definition() {
        let mut values: Vec<f32> = (-600..600).map(|i| i as f32 / 100.0 - 1.0).collect();
        let inputs: Vec<f32> = values.iter().map(|x| x + 1.0).collect();
        add_bias_and_gelu(&mut values, &[1.0; 40]);
        for (x, y) in inputs.into_iter().map(f64::from).zip(values) {
            let expected = 0.5 * x * (1.0 + erf_by_series(x / std::f64::consts::SQRT_2));
            assert!((f64::from(y) - expected).abs() < 2e-6, "gelu({x})");
        }
    }
}
