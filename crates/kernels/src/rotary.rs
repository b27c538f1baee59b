//! Rotary positions: queries and keys are turned by angles proportional to their position.
//! Source: Su et al., <https://arxiv.org/abs/2104.09864>.
//!
//! The frequencies are a plain table, so that every scaling of them (linear, NTK-aware, YaRN, Llama 3) is the caller's
//! affair. Angles are computed in f64: at large positions, the product in f32 would be off by more than the angles it
//! must tell apart.

use crate::{
    KernelError,
    error::check_length,
    rows::for_each_item,
    simd::{Isa, Kernel, LANES, Simd},
};

/// Which dimensions of a head are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// `2·i` and `2·i + 1`, as in the paper and in GGUF files of the Llama family.
    Adjacent,
    /// `i` and `i + rotary_dim/2`, as in GPT-NeoX and the models of the transformers library.
    Half,
}

/// Frequencies `theta^(-2i/rotary_dim)` of the pairs of `rotary_dim` dimensions, in radians per position.
pub fn rope_frequencies(rotary_dim: usize, theta: f64) -> Vec<f64> {
    (0..rotary_dim / 2).map(|i| theta.powf(-2.0 * i as f64 / rotary_dim as f64)).collect()
}

/// Rotary position embedding of heads of one width.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    head_dim: usize,
    pairing: Pairing,
    frequencies: Vec<f64>,
    attention_factor: f64,
}

impl Rope {
    /// Rotates the leading `2·frequencies.len()` of `head_dim` dimensions, and multiplies them with `attention_factor`,
    /// which is 1 but for YaRN (Peng et al., <https://arxiv.org/abs/2309.00071>). Frequencies are in radians per
    /// position.
    ///
    /// # Errors
    /// [`KernelError::Dimension`] when there are more pairs than `head_dim` has.
    pub fn new(
        head_dim: usize,
        pairing: Pairing,
        frequencies: Vec<f64>,
        attention_factor: f64,
    ) -> Result<Self, KernelError> {
        if frequencies.len() * 2 > head_dim {
            return Err(KernelError::Dimension {
                what: "the number of rotated dimensions",
                actual: frequencies.len() * 2,
                rule: "at most the width of a head",
            });
        }
        Ok(Self { head_dim, pairing, frequencies, attention_factor })
    }

    /// The angles of the rows of a batch at the given positions, shared by the queries and keys of every layer.
    pub fn rotation(&self, positions: impl IntoIterator<Item = usize>) -> Rotation {
        let mut angles = Vec::new();
        for position in positions {
            let of_pair = |frequency: &f64| (position as f64 * frequency).sin_cos();
            angles.extend(self.frequencies.iter().map(|f| (of_pair(f).1 * self.attention_factor) as f32));
            angles.extend(self.frequencies.iter().map(|f| (of_pair(f).0 * self.attention_factor) as f32));
        }
        Rotation { head_dim: self.head_dim, pairing: self.pairing, pairs: self.frequencies.len(), angles }
    }
}

/// Cosines and sines for the rows of a batch.
#[derive(Debug, Clone)]
pub struct Rotation {
    head_dim: usize,
    pairing: Pairing,
    pairs: usize,
    /// `[row][{cosine, sine}][pair]`
    angles: Vec<f32>,
}

impl Rotation {
    /// Adds the rows of another rotation behind its own: for a batch whose sequences have different frequencies.
    ///
    /// # Errors
    /// [`KernelError::Dimension`] when the other rotates heads of another shape.
    pub fn append(&mut self, other: &Self) -> Result<(), KernelError> {
        if (self.head_dim, self.pairing, self.pairs) != (other.head_dim, other.pairing, other.pairs) {
            return Err(KernelError::Dimension {
                what: "the number of rotated pairs",
                actual: other.pairs,
                rule: "that of the rotation it is added to, with the same pairing and width of a head",
            });
        }
        self.angles.extend(&other.angles);
        Ok(())
    }

    /// Rotates `x`, `[rows, heads, head_dim]` for any number of heads in `width = heads·head_dim`, in place.
    ///
    /// # Errors
    /// [`KernelError`] when `width` is not whole heads or `x` has another number of rows.
    pub fn apply(&self, x: &mut [f32], width: usize) -> Result<(), KernelError> {
        self.apply_with(Isa::detect(), x, width)
    }

    pub(crate) fn apply_with(&self, isa: Isa, x: &mut [f32], width: usize) -> Result<(), KernelError> {
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
        check_length("the tokens to rotate", x.len(), self.angles.len() / (2 * self.pairs) * width)?;
        for_each_item(width, x, |first, x| isa.run(Rotate { rotation: self, x, width, first_row: first / width }));
        Ok(())
    }
}

struct Rotate<'a> {
    rotation: &'a Rotation,
    x: &'a mut [f32],
    width: usize,
    first_row: usize,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Rotation { head_dim, pairing, pairs, ref angles } = *self.rotation;
        let angles = angles.chunks_exact(2 * pairs).skip(self.first_row);
        for (x, angles) in self.x.chunks_exact_mut(self.width).zip(angles) {
            let (cos, sin) = angles.split_at(pairs);
            for head in x.chunks_exact_mut(head_dim) {
                match pairing {
                    Pairing::Adjacent => adjacent(head, cos, sin),
                    Pairing::Half => {
                        let (first, second) = head[..2 * pairs].split_at_mut(pairs);
                        halves(s, first, second, cos, sin);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn adjacent(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
        let [a, b] = *pair;
        *pair = [a * cos - b * sin, a * sin + b * cos];
    }
}

#[inline(always)]
fn halves<S: Simd>(s: S, first: &mut [f32], second: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, first_tail) = first.as_chunks_mut::<LANES>();
    let (second, second_tail) = second.as_chunks_mut::<LANES>();
    let ((cos, cos_tail), (sin, sin_tail)) = (cos.as_chunks::<LANES>(), sin.as_chunks::<LANES>());
    for (((first, second), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        let (a, b, cos, sin) = (s.load(first), s.load(second), s.load(cos), s.load(sin));
        s.store(s.sub(s.mul(a, cos), s.mul(b, sin)), first);
        s.store(s.add(s.mul(a, sin), s.mul(b, cos)), second);
    }
    for (((first, second), cos), sin) in first_tail.iter_mut().zip(second_tail).zip(cos_tail).zip(sin_tail) {
        let (a, b) = (*first, *second);
        (*first, *second) = (a * cos - b * sin, a * sin + b * cos);
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
        fn rotation_matches_the_reference(
            rows in 1usize..40, heads in 1usize..10, pairs in 1usize..50, rotated in 0usize..50, first in 0usize..9000,
            half: bool, factor in 0.5..2.0f64, seed: u64,
        ) {
            let (head_dim, rotated) = (2 * pairs, rotated.min(pairs));
            let x = values(rows * heads * head_dim, 1.0, seed);
            let frequencies = rope_frequencies(2 * rotated, 1e5);
            // Two sequences in one batch.
            let position = |row: usize| if row < rows / 2 { first + row } else { row };
            let expected: Vec<f32> = x.chunks_exact(head_dim).enumerate().flat_map(|(i, head)| {
                let angles: Vec<f64> = frequencies.iter().map(|f| f * position(i / heads) as f64).collect();
                reference::rope(head, &angles, factor, half)
            }).collect();
            let pairing = if half { Pairing::Half } else { Pairing::Adjacent };
            let rope = Rope::new(head_dim, pairing, frequencies.clone(), factor).unwrap();
            let mut rotation = rope.rotation((0..rows / 2).map(position));
            rotation.append(&rope.rotation((rows / 2..rows).map(position))).unwrap();
            for isa in Isa::available() {
                let mut out = x.clone();
                rotation.apply_with(isa, &mut out, heads * head_dim).unwrap();
                assert_close(&out, &expected, 1e-6, isa.name());
            }
        }

        #[test]
        fn rotation_does_not_depend_on_the_batch(rows in 2usize..400, at in 0usize..400, half: bool, seed: u64) {
            let (at, pairing) = (at % rows, if half { Pairing::Half } else { Pairing::Adjacent });
            let rope = Rope::new(64, pairing, rope_frequencies(48, 1e4), 1.0).unwrap();
            for isa in Isa::available() {
                let mut whole = values(rows * 128, 1.0, seed);
                let mut alone = whole[at * 128..][..128].to_vec();
                rope.rotation(7..7 + rows).apply_with(isa, &mut whole, 128).unwrap();
                rope.rotation([7 + at]).apply_with(isa, &mut alone, 128).unwrap();
                prop_assert!(alone.iter().zip(&whole[at * 128..]).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
        }
    }

    #[test]
    fn shapes_are_checked() {
        let rope = |head_dim, rotary_dim| Rope::new(head_dim, Pairing::Half, rope_frequencies(rotary_dim, 1e4), 1.0);
        let mut rotation = rope(64, 64).unwrap().rotation(5..15);
        let mut x = vec![0.0; 640];
        assert!(rotation.apply(&mut x, 64).is_ok());
        assert!(rotation.apply(&mut x[..639], 64).is_err());
        assert!(rotation.apply(&mut x, 32).is_err());
        assert!(rotation.append(&rope(64, 32).unwrap().rotation(0..1)).is_err());
        assert!(rope(64, 66).is_err());
    }
}
