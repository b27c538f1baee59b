//! What the tests of several kernels share: repeatable random values and comparison within a tolerance.

use half::f16;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::WeightFormat;

/// `count` values spread evenly over `-scale..scale`.
pub(crate) fn values(count: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| (rng.random::<f32>() * 2.0 - 1.0) * scale).collect()
}

/// `count` random bytes.
pub(crate) fn bytes(count: usize, seed: u64) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..count).map(|_| rng.random()).collect()
}

/// `count` random weights as a file would hold them: random codes under scales and offsets of a sensible size.
pub(crate) fn encoded(format: WeightFormat, count: usize, seed: u64) -> Vec<u8> {
    let (weights, size) = format.block();
    let floats = values(count / weights * 2, 0.5, seed);
    let halves = |i: usize| f16::from_f32(floats[2 * i]).to_le_bytes();
    let mut encoded = bytes(count / weights * size, seed ^ 2);
    for (i, block) in encoded.chunks_exact_mut(size).enumerate() {
        match format {
            WeightFormat::F32 => block.copy_from_slice(&floats[i].to_le_bytes()),
            WeightFormat::F16 => block.copy_from_slice(&halves(i)),
            WeightFormat::BF16 => block.copy_from_slice(&floats[i].to_le_bytes()[2..]),
            WeightFormat::Q4_0 | WeightFormat::Q8_0 => block[..2].copy_from_slice(&halves(i)),
            WeightFormat::Q4_1 => {
                block[..2].copy_from_slice(&halves(i));
                block[2..4].copy_from_slice(&f16::from_f32(floats[2 * i + 1] * 8.0).to_le_bytes());
            }
        }
    }
    encoded
}

/// Fails unless every element is within `tolerance` of the expected one, relative to the largest expected magnitude.
#[track_caller]
pub(crate) fn assert_close(actual: &[f32], expected: &[f32], tolerance: f32, what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}: length");
    let scale = expected.iter().fold(1e-6f32, |largest, x| largest.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance * scale, "{what}: element {i} is {a}, expected {e} (scale {scale})");
    }
}
