//! Operations on each token by itself: normalisation and addition.
//!
//! Large batches are spread over the current rayon pool, whole tokens at a time. A token's result depends on that token
//! only.

use crate::{
    KernelError,
    error::check_length,
    parallel::{self, SharedSlice},
    simd::{Isa, Kernel, LANES, Simd},
};

/// Below this many elements an operation is not spread over threads.
const PARALLEL_FROM: usize = 16 * 1024;
/// Elements of a work item.
const ITEM: usize = 8 * 1024;

/// Root-mean-square normalisation of each token: `out = x / √(mean(x²) + eps) · weight`. `x` and `out` are
/// `[tokens, weight.len()]`. Source: Zhang and Sennrich, <https://arxiv.org/abs/1910.07467>.
///
/// # Errors
/// [`KernelError::Length`] when shapes don't match.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<(), KernelError> {
    rms_norm_with(Isa::detect(), x, weight, eps, out)
}

pub(crate) fn rms_norm_with(isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> Result<(), KernelError> {
    let width = weight.len().max(1);
    check_length("the normalised tokens", out.len(), x.len())?;
    check_length("the tokens to normalise", x.len(), x.len() / width * weight.len())?;
    for_each_item(width, out, |first, out| isa.run(RmsNorm { x: &x[first..][..out.len()], weight, eps, out }));
    Ok(())
}

/// Layer normalisation of each token: `out = (x - mean) / √(variance + eps) · weight + bias`. `x` and `out` are
/// `[tokens, weight.len()]`. Source: Ba et al., <https://arxiv.org/abs/1607.06450>.
///
/// # Errors
/// [`KernelError::Length`] when shapes don't match.
pub fn layer_norm(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    layer_norm_with(Isa::detect(), x, weight, bias, eps, out)
}

pub(crate) fn layer_norm_with(
    isa: Isa,
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    eps: f32,
    out: &mut [f32],
) -> Result<(), KernelError> {
    let width = weight.len().max(1);
    check_length("the normalised tokens", out.len(), x.len())?;
    check_length("the tokens to normalise", x.len(), x.len() / width * weight.len())?;
    check_length("the bias of a normalisation", bias.map_or(weight.len(), <[f32]>::len), weight.len())?;
    for_each_item(width, out, |first, out| isa.run(LayerNorm { x: &x[first..][..out.len()], weight, bias, eps, out }));
    Ok(())
}

/// Adds `x` to `to`, element by element.
///
/// # Errors
/// [`KernelError::Length`] when shapes don't match.
pub fn add(to: &mut [f32], x: &[f32]) -> Result<(), KernelError> {
    check_length("the values to add", x.len(), to.len())?;
    for_each_item(1, to, |first, to| Isa::detect().run(Add { x: &x[first..][..to.len()], to }));
    Ok(())
}

/// Calls `run` with parts of `out` that are whole multiples of `unit`, and the index of their first element.
pub(crate) fn for_each_item(unit: usize, out: &mut [f32], run: impl Fn(usize, &mut [f32]) + Sync + Send) {
    if out.len() < PARALLEL_FROM {
        run(0, out);
    } else {
        let (item, len, out) = (ITEM.div_ceil(unit) * unit, out.len(), SharedSlice::new(out));
        parallel::for_each(len.div_ceil(item), |i| {
            // SAFETY: the items cover disjoint ranges.
            run(i * item, unsafe { out.part(i * item, item.min(len - i * item)) });
        });
    }
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let width = self.weight.len().max(1);
        let (weights, weights_tail) = self.weight.as_chunks::<LANES>();
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let (x, x_tail) = x.as_chunks::<LANES>();
            let (out, out_tail) = out.as_chunks_mut::<LANES>();
            let mut squares = s.splat(0.0);
            for x in x {
                squares = s.fma(s.load(x), s.load(x), squares);
            }
            let squares = s.sum(squares) + x_tail.iter().map(|x| x * x).sum::<f32>();
            let factor = 1.0 / (squares / width as f32 + self.eps).sqrt();
            for ((x, w), out) in x.iter().zip(weights).zip(out) {
                s.store(s.mul(s.mul(s.load(x), s.splat(factor)), s.load(w)), out);
            }
            for ((x, w), out) in x_tail.iter().zip(weights_tail).zip(out_tail) {
                *out = x * factor * w;
            }
        }
    }
}

struct LayerNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for LayerNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let width = self.weight.len().max(1);
        for (x, out) in self.x.chunks_exact(width).zip(self.out.chunks_exact_mut(width)) {
            let (chunks, tail) = x.as_chunks::<LANES>();
            let mut sum = s.splat(0.0);
            for x in chunks {
                sum = s.add(s.load(x), sum);
            }
            let mean = (s.sum(sum) + tail.iter().sum::<f32>()) / width as f32;
            // Around the mean, in a second pass: the mean of squares less the square of the mean would cancel.
            let mut squares = s.splat(0.0);
            for x in chunks {
                let x = s.sub(s.load(x), s.splat(mean));
                squares = s.fma(x, x, squares);
            }
            let squares = s.sum(squares) + tail.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
            let factor = 1.0 / (squares / width as f32 + self.eps).sqrt();
            for ((x, w), out) in x.iter().zip(self.weight).zip(out.iter_mut()) {
                *out = (x - mean) * factor * w;
            }
            for (out, bias) in out.iter_mut().zip(self.bias.unwrap_or(&[])) {
                *out += bias;
            }
        }
    }
}

struct Add<'a> {
    to: &'a mut [f32],
    x: &'a [f32],
}

impl Kernel for Add<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        for (to, x) in self.to.iter_mut().zip(self.x) {
            *to += x;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        reference,
        testing::{assert_close, values},
    };

    proptest! {
        #[test]
        fn normalisation_matches_the_reference(tokens in 1usize..60, width in 1usize..700, seed: u64) {
            let (x, weight) = (values(tokens * width, 4.0, seed), values(width, 1.0, seed ^ 1));
            let expected = reference::rms_norm(&x, &weight, 1e-5);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; x.len()];
                rms_norm_with(isa, &x, &weight, 1e-5, &mut out).unwrap();
                assert_close(&out, &expected, 1e-6, isa.name());
            }
        }

        #[test]
        fn layer_normalisation_matches_the_reference(
            tokens in 1usize..60, width in 1usize..700, biased: bool, shift in -3.0..3.0f32, seed: u64,
        ) {
            let x: Vec<f32> = values(tokens * width, 2.0, seed).iter().map(|x| x + shift).collect();
            let (weight, bias) = (values(width, 1.0, seed ^ 1), values(width, 1.0, seed ^ 2));
            let bias = biased.then_some(&bias[..]);
            let expected = reference::layer_norm(&x, &weight, bias, 1e-3);
            for isa in Isa::available() {
                let mut out = vec![f32::NAN; x.len()];
                layer_norm_with(isa, &x, &weight, bias, 1e-3, &mut out).unwrap();
                assert_close(&out, &expected, 2e-5, isa.name());
            }
        }
    }

    #[test]
    fn a_token_does_not_depend_on_its_batch() {
        let (width, x) = (579, values(579 * 50, 3.0, 1));
        let (weight, bias) = (values(width, 1.0, 2), values(width, 1.0, 3));
        for isa in Isa::available() {
            let (mut rms, mut layer) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            rms_norm_with(isa, &x, &weight, 1e-5, &mut rms).unwrap();
            layer_norm_with(isa, &x, &weight, Some(&bias), 1e-5, &mut layer).unwrap();
            for at in [0, 17, 49] {
                let (one, mut out) = (at * width..(at + 1) * width, vec![0.0; width]);
                rms_norm_with(isa, &x[one.clone()], &weight, 1e-5, &mut out).unwrap();
                assert!(out.iter().zip(&rms[one.clone()]).all(|(a, b)| a.to_bits() == b.to_bits()));
                layer_norm_with(isa, &x[one.clone()], &weight, Some(&bias), 1e-5, &mut out).unwrap();
                assert!(out.iter().zip(&layer[one]).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }

    #[test]
    fn addition_is_elementwise_and_shapes_are_checked() {
        let mut to = values(20_000, 1.0, 1);
        let (before, x) = (to.clone(), values(20_000, 1.0, 2));
        add(&mut to, &x).unwrap();
        assert!(to.iter().zip(before.iter().zip(&x)).all(|(sum, (a, b))| *sum == a + b));
        assert!(add(&mut to, &x[1..]).is_err());
        assert!(rms_norm(&x, &x[..3], 0.0, &mut to).is_err());
        assert!(layer_norm(&x, &x[..3], None, 0.0, &mut to).is_err());
        assert!(layer_norm(&x, &x[..4], Some(&x[..3]), 0.0, &mut to).is_err());
    }
}
