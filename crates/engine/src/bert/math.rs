//! What the encoder does between its linear layers: activation and normalisation. Plain loops over slices,
//! written so that the compiler turns them into vector instructions, compiled for several instruction sets and chosen
//! when called.
//!
//! Sums run over a fixed number of lanes in a fixed order, and rows are independent, so that a text's result does not
//! depend, bit for bit, on what else is in a batch.

/// Independent partial sums of a row.
const LANES: usize = 32;

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
    fn erf_keeps_to_single_precision() {
        for i in -4000..=4000 {
            let x = i as f32 / 1000.0;
            assert!((f64::from(erf(x)) - erf_by_series(f64::from(x))).abs() < 4e-7, "erf({x})");
        }
        assert!((erf(50.0) - 1.0).abs() < 4e-7 && (erf(-50.0) + 1.0).abs() < 4e-7);
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
