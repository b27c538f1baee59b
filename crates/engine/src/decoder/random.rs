//! Made-up weights: the same for the same seed and name, on any number of threads.
//!
//! A matrix is uniform with the variance `1/columns`, so that activations keep their size from layer to layer; weights of
//! norms are near one, biases near zero. Deliberately not here: anything that could pass for a trained model.

use half::bf16;
use rayon::prelude::*;

/// A number that looks random, of each `n`: SplitMix64, Steele et al., <https://doi.org/10.1145/2714064.2660195>.
fn mixed(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of its own for every tensor: FNV-1a over the name.
fn stream(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
    mixed(hash ^ mixed(seed.wrapping_add(1)))
}

/// Four numbers in `-1..1` of one draw.
fn signed(draw: u64) -> [f32; 4] {
    let part = |i: u32| f32::from((draw >> (16 * i)) as u16 as i16) / 32768.0;
    [part(0), part(1), part(2), part(3)]
}

/// A matrix `[rows, columns]` in bf16, little-endian.
pub(super) fn matrix(seed: u64, name: &str, rows: usize, columns: usize) -> Vec<u8> {
    const CHUNK: usize = 1 << 16;
    let (stream, scale) = (stream(seed, name), (3.0 / columns as f32).sqrt());
    let mut bytes = vec![0; rows * columns * size_of::<bf16>()];
    bytes.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, bytes)| {
        let first = (chunk * CHUNK / (4 * size_of::<bf16>())) as u64;
        for (i, four) in bytes.chunks_mut(4 * size_of::<bf16>()).enumerate() {
            let values = signed(mixed(stream.wrapping_add(first + i as u64)));
            for (to, value) in four.as_chunks_mut().0.iter_mut().zip(values) {
                *to = bf16::from_f32(value * scale).to_le_bytes();
            }
        }
    });
    bytes
}

/// A vector: a bias in `-0.1..0.1`, or the weight of a norm in `0.9..1.1`.
pub(super) fn vector(seed: u64, name: &str, length: usize) -> Vec<f32> {
    let (stream, centre) = (stream(seed, name), if name.ends_with("bias") { 0.0 } else { 1.0 });
    let value = |i: usize| bf16::from_f32(centre + 0.1 * signed(mixed(stream.wrapping_add(i as u64)))[0]).to_f32();
    (0..length).map(value).collect()
}
