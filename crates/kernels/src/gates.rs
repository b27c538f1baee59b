//! The non-linear functions of feed-forward layers: the SiLU gate and GELU, element by element.
//!
//! Large batches are spread over the current rayon pool. An element's result depends on that element only: the last,
//! partial vector of a buffer is computed like the others.

use crate::{
    KernelError,
    error::check_length,
    rows::for_each_item,
    simd::{Isa, Kernel, LANES, Simd},
};

/// `gate ← silu(gate)·up` with `silu(x) = x / (1 + e⁻ˣ)`, element by element.
/// Source: Shazeer, <https://arxiv.org/abs/2002.05202>.
///
/// # Errors
/// [`KernelError::Length`] when shapes don't match.
pub fn silu_mul(gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
    silu_mul_with(Isa::detect(), gate, up)
}

pub(crate) fn silu_mul_with(isa: Isa, gate: &mut [f32], up: &[f32]) -> Result<(), KernelError> {
    check_length("the gated values", up.len(), gate.len())?;
    for_each_item(LANES, gate, |first, gate| {
        let up = &up[first..][..gate.len()];
        isa.run(SiluMul { gate, up });
    });
    Ok(())
}

/// The two forms of the Gaussian error linear unit. Source: Hendrycks and Gimpel, <https://arxiv.org/abs/1606.08415>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gelu {
    /// `x·Φ(x)`, with the error function to 1.5·10⁻⁷ (Abramowitz and Stegun, formula 7.1.26).
    Exact,
    /// `x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`.
    Tanh,
}

/// `x ← gelu(x)`, element by element.
pub fn gelu(form: Gelu, x: &mut [f32]) {
    gelu_with(Isa::detect(), form, x);
}

pub(crate) fn gelu_with(isa: Isa, form: Gelu, x: &mut [f32]) {
    for_each_item(LANES, x, |_, x| isa.run(ApplyGelu { form, x }));
}

struct SiluMul<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (gates, gates_tail) = self.gate.as_chunks_mut::<LANES>();
        let (ups, ups_tail) = self.up.as_chunks::<LANES>();
        for (gate, up) in gates.iter_mut().zip(ups) {
            s.store(silu_mul_lanes(s, s.load(gate), s.load(up)), gate);
        }
        let (mut gate, mut up) = ([0.0; LANES], [0.0; LANES]);
        gate[..gates_tail.len()].copy_from_slice(gates_tail);
        up[..ups_tail.len()].copy_from_slice(ups_tail);
        let product = silu_mul_lanes(s, s.load(&gate), s.load(&up));
        s.store(product, &mut gate);
        gates_tail.copy_from_slice(&gate[..gates_tail.len()]);
    }
}

#[inline(always)]
fn silu_mul_lanes<S: Simd>(s: S, gate: S::F, up: S::F) -> S::F {
    s.mul(times_logistic(s, gate, gate), up)
}

/// `x / (1 + e^-t)`
#[inline(always)]
fn times_logistic<S: Simd>(s: S, x: S::F, t: S::F) -> S::F {
    let power = s.exp2(s.mul(t, s.splat(-std::f32::consts::LOG2_E)));
    s.div(x, s.add(s.splat(1.0), power))
}

struct ApplyGelu<'a> {
    form: Gelu,
    x: &'a mut [f32],
}

impl Kernel for ApplyGelu<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (chunks, tail) = self.x.as_chunks_mut::<LANES>();
        for x in chunks {
            s.store(gelu_lanes(s, self.form, s.load(x)), x);
        }
        let mut x = [0.0; LANES];
        x[..tail.len()].copy_from_slice(tail);
        let lanes = gelu_lanes(s, self.form, s.load(&x));
        s.store(lanes, &mut x);
        tail.copy_from_slice(&x[..tail.len()]);
    }
}

#[inline(always)]
fn gelu_lanes<S: Simd>(s: S, form: Gelu, x: S::F) -> S::F {
    match form {
        Gelu::Exact => {
            // With z = |x|/√2 and c = erfc(z): gelu(x) = max(x, 0) - |x|·c/2, without cancellation on either side.
            const COEFFICIENTS: [f32; 4] = [-1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6];
            let z = s.mul(s.abs(x), s.splat(std::f32::consts::FRAC_1_SQRT_2));
            let t = s.div(s.splat(1.0), s.fma(z, s.splat(0.327_591_1), s.splat(1.0)));
            let mut p = s.splat(1.061_405_4);
            for c in COEFFICIENTS {
                p = s.fma(p, t, s.splat(c));
            }
            let power = s.exp2(s.mul(s.mul(z, z), s.splat(-std::f32::consts::LOG2_E)));
            let half = s.mul(s.mul(s.mul(p, t), power), s.splat(0.5));
            s.sub(s.max(x, s.splat(0.0)), s.mul(s.abs(x), half))
        }
        Gelu::Tanh => {
            // (1 + tanh(u))/2 = 1/(1 + e^-2u)
            let root = 2.0 * (2.0 / std::f64::consts::PI).sqrt();
            let square = s.fma(s.mul(x, x), s.splat((root * 0.044_715) as f32), s.splat(root as f32));
            times_logistic(s, x, s.mul(x, square))
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
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn gating_matches_the_reference(count in 0usize..40_000, seed: u64) {
            let (gate, up) = (values(count, 30.0, seed), values(count, 2.0, seed ^ 1));
            let expected = reference::silu_mul(&gate, &up);
            for isa in Isa::available() {
                let mut out = gate.clone();
                silu_mul_with(isa, &mut out, &up).unwrap();
                assert_close(&out, &expected, 1e-6, isa.name());
            }
        }

        #[test]
        fn gelu_matches_the_reference(count in 1usize..200, scale in 0.01..9.0f32, seed: u64) {
            let x = values(count, scale, seed);
            for form in [Gelu::Exact, Gelu::Tanh] {
                let reference = if form == Gelu::Exact { reference::gelu_erf } else { reference::gelu_tanh };
                for isa in Isa::available() {
                    let mut out = x.clone();
                    gelu_with(isa, form, &mut out);
                    for (x, out) in x.iter().zip(out) {
                        let (expected, tolerance) = (reference(*x), 5e-7 * x.abs());
                        prop_assert!((out - expected).abs() <= tolerance, "{form:?}({x}) = {out}, not {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn an_element_does_not_depend_on_its_place() {
        let (x, up) = (values(50_003, 5.0, 1), values(50_003, 2.0, 2));
        for isa in Isa::available() {
            let (mut silu, mut exact, mut tanh) = (x.clone(), x.clone(), x.clone());
            silu_mul_with(isa, &mut silu, &up).unwrap();
            gelu_with(isa, Gelu::Exact, &mut exact);
            gelu_with(isa, Gelu::Tanh, &mut tanh);
            for at in [0, 1, 15, 16, 8191, 8192, 33_333, 50_002] {
                let [mut a, mut b, mut c] = [[x[at]]; 3];
                silu_mul_with(isa, &mut a, &up[at..=at]).unwrap();
                gelu_with(isa, Gelu::Exact, &mut b);
                gelu_with(isa, Gelu::Tanh, &mut c);
                assert_eq!([a[0], b[0], c[0]].map(f32::to_bits), [silu[at], exact[at], tanh[at]].map(f32::to_bits));
            }
        }
    }

    #[test]
    fn far_from_zero_they_saturate() {
        for isa in Isa::available() {
            let mut gate = [1e4, -1e4, 0.0, 88.0, -88.0];
            silu_mul_with(isa, &mut gate, &[1.0; 5]).unwrap();
            assert_eq!((gate[0], gate[2], gate[3]), (1e4, 0.0, 88.0));
            assert!(gate[1].abs() < 1e-30 && gate[4].abs() < 1e-30, "{gate:?}");
            for form in [Gelu::Exact, Gelu::Tanh] {
                let mut x = [1e4, -1e4, 0.0, 88.0, -88.0];
                gelu_with(isa, form, &mut x);
                assert_eq!((x[0], x[2], x[3]), (1e4, 0.0, 88.0), "{form:?}");
                assert!(x[1].abs() < 1e-30 && x[4].abs() < 1e-30, "{form:?} {x:?}");
            }
        }
    }
}
