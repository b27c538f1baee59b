//! Arithmetic of the encoder on plain slices: matrix products through the `gemm` crate, and the row operations between
//! them, compiled for several instruction sets and chosen when called.
//!
//! Row operations sum in [`LANES`] independent lanes, a fixed order, so that a row's result does not depend on what else
//! is in a batch.

use gemm::Parallelism;

/// Independent partial sums; two AVX-512 registers' worth hides the latency of the additions.
const LANES: usize = 32;

/// A read-only matrix inside a slice.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows × columns` values, a row beginning every `row_stride` values.
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(columns <= row_stride && data.len() >= span(rows, columns, row_stride), "matrix outside its slice");
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Rows become columns.
    pub(super) fn transposed(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

fn span(rows: usize, columns: usize, row_stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns }
}

/// `out = scale · left · right + out` if `accumulate`, else without the old `out`, whose rows begin every `row_stride`
/// values.
pub(super) fn multiply(
    out: &mut [f32],
    row_stride: usize,
    left: Matrix<'_>,
    right: Matrix<'_>,
    scale: f32,
    accumulate: bool,
    parallelism: Parallelism,
) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    assert!(k == right.rows, "inner dimensions differ");
    assert!(n <= row_stride && out.len() >= span(m, n, row_stride), "product outside its slice");
    // SAFETY: `Matrix` and the assertions above guarantee that all elements the strides reach lie inside the slices;
    // `out` is borrowed mutably, so it overlaps neither operand.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            row_stride as isize,
            accumulate,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Defines a function whose body is compiled for AVX-512, AVX2 and the baseline.
macro_rules! for_each_instruction_set {
    ($(#[$doc:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),*) $body:block) => {
        $(#[$doc])*
        $visibility fn $name($($argument: $type),*) {
            #[inline(always)]
            fn body($($argument: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
                fn avx512($($argument: $type),*) { body($($argument),*) }
                #[target_feature(enable = "avx2,fma")]
                fn avx2($($argument: $type),*) { body($($argument),*) }
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
            body($($argument),*)
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

for_each_instruction_set! {
    /// Gaussian error linear unit in its exact form, `x/2 · (1 + erf(x/√2))` (Hendrycks and Gimpel 2016), in place.
    pub(super) fn gelu(values: &mut [f32]) {
        for x in values {
            *x = 0.5 * *x * (1.0 + erf(*x * std::f32::consts::FRAC_1_SQRT_2));
        }
    }
}

for_each_instruction_set! {
    /// Turns each row of `width` scores into probabilities, in place.
    pub(super) fn softmax_rows(values: &mut [f32], width: usize) {
        for row in values.chunks_exact_mut(width) {
            let largest = largest_of(row);
            for x in row.iter_mut() {
                *x = exp_of_non_positive(*x - largest);
            }
            let scale = 1.0 / sum_of(row, |x| x);
            for x in row.iter_mut() {
                *x *= scale;
            }
        }
    }
}

for_each_instruction_set! {
    /// Adds `residual` to `values`, then brings each row to mean 0 and variance 1, times `weight`, plus `bias`
    /// (layer normalisation, Ba et al. 2016). A row is as long as `weight`.
    pub(super) fn add_and_normalise(
        values: &mut [f32], residual: &[f32], weight: &[f32], bias: &[f32], epsilon: f32
    ) {
        let width = weight.len();
        for (row, added) in values.chunks_exact_mut(width).zip(residual.chunks_exact(width)) {
            for (x, a) in row.iter_mut().zip(added) {
                *x += a;
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
        fn products_match_their_definition(
            (m, n, k) in (1_usize..20, 1_usize..20, 1_usize..40), seed in values(2400), accumulate: bool, threaded: bool,
        ) {
            let (gap, stride) = (k + 3, n + 2);
            let left = Matrix::new(&seed[..m * gap], m, k, gap);
            let right = Matrix::new(&seed[1000..1000 + n * k], n, k, k).transposed();
            let mut out = vec![1.0; m * stride];
            let parallelism = if threaded { Parallelism::Rayon(0) } else { Parallelism::None };
            multiply(&mut out, stride, left, right, 0.5, accumulate, parallelism);
            for i in 0..m {
                for j in 0..stride {
                    let product: f32 = (0..k).map(|p| seed[i * gap + p] * seed[1000 + j.min(n - 1) * k + p]).sum();
                    let expected = if j >= n { 1.0 } else { 0.5 * product + if accumulate { 1.0 } else { 0.0 } };
                    prop_assert!((out[i * stride + j] - expected).abs() < 1e-3);
                }
            }
        }

        #[test]
        fn rows_match_their_definitions(width in 1_usize..80, seed in values(400)) {
            let rows = 2;
            let input = &seed[..rows * width];
            let mut soft = input.to_vec();
            softmax_rows(&mut soft, width);
            let mut normal = input.to_vec();
            let (residual, weight, bias) = (&seed[160..160 + rows * width], &seed[80..80 + width], &seed[90..90 + width]);
            add_and_normalise(&mut normal, residual, weight, bias, 1e-5);
            for r in 0..rows {
                let row: Vec<f64> = input[r * width..][..width].iter().map(|&x| f64::from(x)).collect();
                let total: f64 = row.iter().map(|x| x.exp()).sum();
                for (j, x) in row.iter().enumerate() {
                    prop_assert!((f64::from(soft[r * width + j]) - x.exp() / total).abs() < 1e-6);
                }
                let sums: Vec<f64> =
                    row.iter().zip(&residual[r * width..]).map(|(x, &a)| x + f64::from(a)).collect();
                let mean = sums.iter().sum::<f64>() / width as f64;
                let variance = sums.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
                for (j, x) in sums.iter().enumerate() {
                    let expected = (x - mean) / (variance + 1e-5).sqrt() * f64::from(weight[j]) + f64::from(bias[j]);
                    prop_assert!((f64::from(normal[r * width + j]) - expected).abs() < 2e-3);
                }
            }
        }
    }

    #[test]
    fn gelu_matches_its_definition() {
        let mut values: Vec<f32> = (-600..600).map(|i| i as f32 / 100.0).collect();
        let inputs = values.clone();
        gelu(&mut values);
        for (x, y) in inputs.into_iter().map(f64::from).zip(values) {
            let expected = 0.5 * x * (1.0 + erf_by_series(x / std::f64::consts::SQRT_2));
            assert!((f64::from(y) - expected).abs() < 2e-6, "gelu({x})");
        }
    }
}
