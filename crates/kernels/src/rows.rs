//! Operations on each token by itself: RMS normalisation, the gate of the feed-forward layer, rotary positions.
//!
//! Large batches are spread over the current rayon pool, whole tokens at a time. A token's result depends on that token
//! only.

use rayon::prelude::*;

use crate::{
    KernelError,
    error::check_length,
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
    for_each_item(1, gate, |first, gate| {
        let up = &up[first..][..gate.len()];
        isa.run(SiluMul { gate, up });
    });
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

/// Rotary position embedding over adjacent pairs of dimensions, the pairing of GGUF's Llama family.
/// Source: Su et al., <https://arxiv.org/abs/2104.09864>.
#[derive(Debug, Clone)]
pub struct Rope {
    head_dim: usize,
    /// Radians per position, for each pair of rotated dimensions.
    frequencies: Vec<f64>,
}

impl Rope {
    /// Frequencies `theta^(-2i/rotary_dim)` for the leading `rotary_dim` of the `head_dim` dimensions of a head.
    ///
    /// # Errors
    /// [`KernelError::Dimension`] when `rotary_dim` is odd or exceeds `head_dim`.
    pub fn new(head_dim: usize, rotary_dim: usize, theta: f64) -> Result<Self, KernelError> {
        if !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
            return Err(KernelError::Dimension {
                what: "the number of rotated dimensions",
                actual: rotary_dim,
                rule: "even and at most the width of a head",
            });
        }
        let frequency = |i: usize| theta.powf(-2.0 * i as f64 / rotary_dim as f64);
        Ok(Self { head_dim, frequencies: (0..rotary_dim / 2).map(frequency).collect() })
    }

    /// The angles of `tokens` positions from `first_position` on, shared by the queries and keys of every layer.
    pub fn rotation(&self, first_position: usize, tokens: usize) -> Rotation {
        let mut angles = Vec::with_capacity(tokens * self.frequencies.len());
        for position in first_position..first_position + tokens {
            // In f64: at large positions, the product in f32 would be off by more than the angles it must tell apart.
            angles.extend(self.frequencies.iter().map(|frequency| {
                let (sin, cos) = (position as f64 * frequency).sin_cos();
                [cos as f32, sin as f32]
            }));
        }
        Rotation { head_dim: self.head_dim, pairs: self.frequencies.len(), angles }
    }
}

/// Cosines and sines of some successive positions.
#[derive(Debug, Clone)]
pub struct Rotation {
    head_dim: usize,
    pairs: usize,
    /// `[token][pair]`
    angles: Vec<[f32; 2]>,
}

impl Rotation {
    /// Rotates `x`, `[tokens, heads, head_dim]` for any number of heads in `width = heads·head_dim`, in place.
    ///
    /// # Errors
    /// [`KernelError`] when `width` is not whole heads or `x` has another number of tokens.
    pub fn apply(&self, x: &mut [f32], width: usize) -> Result<(), KernelError> {
        if width == 0 || !width.is_multiple_of(self.head_dim) {
            return Err(KernelError::Dimension {
                what: "the width of a token",
                actual: width,
                rule: "a multiple of the width of a head, and not 0",
            });
        }
        if self.pairs == 0 {
            return Ok(());
        }
        check_length("the tokens to rotate", x.len(), self.angles.len() / self.pairs * width)?;
        for_each_item(width, x, |first, x| {
            Isa::detect().run(Rotate { rotation: self, x, width, first_token: first / width });
        });
        Ok(())
    }
}

/// Calls `run` with parts of `out` that are whole multiples of `unit`, and the index of their first element.
fn for_each_item(unit: usize, out: &mut [f32], run: impl Fn(usize, &mut [f32]) + Sync + Send) {
    if out.len() < PARALLEL_FROM {
        run(0, out);
    } else {
        let item = ITEM.div_ceil(unit) * unit;
        out.par_chunks_mut(item).enumerate().for_each(|(i, out)| run(i * item, out));
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
    let power = s.exp2(s.mul(gate, s.splat(-std::f32::consts::LOG2_E)));
    s.mul(s.div(gate, s.add(s.splat(1.0), power)), up)
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

struct Rotate<'a> {
    rotation: &'a Rotation,
    x: &'a mut [f32],
    width: usize,
    first_token: usize,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let Rotation { head_dim, pairs, ref angles } = *self.rotation;
        let angles = angles.chunks_exact(pairs).skip(self.first_token);
        for (x, angles) in self.x.chunks_exact_mut(self.width).zip(angles) {
            for head in x.chunks_exact_mut(head_dim) {
                for (pair, [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    let [a, b] = *pair;
                    *pair = [a * cos - b * sin, a * sin + b * cos];
                }
            }
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
        fn rotation_matches_the_reference(
            tokens in 1usize..40, heads in 1usize..10, pairs in 1usize..33, rotated in 0usize..33, first in 0usize..9000,
            seed: u64,
        ) {
            let (head_dim, rotary_dim) = (2 * pairs, 2 * rotated.min(pairs));
            let x = values(tokens * heads * head_dim, 1.0, seed);
            let expected: Vec<f32> = x.chunks_exact(head_dim).enumerate()
                .flat_map(|(i, head)| reference::rope(head, rotary_dim, 1e5, first + i / heads))
                .collect();
            let mut out = x.clone();
            let rope = Rope::new(head_dim, rotary_dim, 1e5).unwrap();
            rope.rotation(first, tokens).apply(&mut out, heads * head_dim).unwrap();
            assert_close(&out, &expected, 1e-6, "rope");
        }
    }

    #[test]
    fn gates_far_from_zero_saturate() {
        for isa in Isa::available() {
            let mut gate = [1e4, -1e4, 0.0, 88.0, -88.0];
            silu_mul_with(isa, &mut gate, &[1.0; 5]).unwrap();
            assert_eq!((gate[0], gate[2], gate[3]), (1e4, 0.0, 88.0));
            assert!(gate[1].abs() < 1e-30 && gate[4].abs() < 1e-30, "{gate:?}");
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
        let rotation = Rope::new(64, 64, 1e4).unwrap().rotation(5, 10);
        assert!(rotation.apply(&mut to[..640], 64).is_ok());
        assert!(rotation.apply(&mut to[..639], 64).is_err());
        assert!(rotation.apply(&mut to[..640], 32).is_err());
        assert!(Rope::new(64, 3, 1e4).is_err());
        assert!(Rope::new(64, 66, 1e4).is_err());
    }
}
