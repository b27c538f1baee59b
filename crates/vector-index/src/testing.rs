//! Vectors for tests.

use edgewise_types::ChunkId;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::{GraphOptions, VectorIndex};

/// An index of `count` unit vectors around a few centres, chunks from 0, that asks for a graph from 100 vectors on.
pub(crate) fn clustered(count: u64, dimension: usize, seed: u64) -> VectorIndex {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut uniform = move || rng.random_range(-1.0f32..1.0);
    let centres: Vec<Vec<f32>> = (0..12).map(|_| (0..dimension).map(|_| uniform()).collect()).collect();
    let options = GraphOptions { threshold: 100, ..GraphOptions::default() };
    let mut index = VectorIndex::with_options(dimension, "test", options);
    for chunk in 0..count {
        let centre = &centres[chunk as usize % centres.len()];
        let mut vector: Vec<f32> = centre.iter().map(|value| value + 0.5 * uniform()).collect();
        let norm = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|value| *value /= norm);
        index.insert(ChunkId(chunk), &vector).ok();
    }
    index
}

/// The share of the nearest that a graph must find in a test with so many queries: the aim of 0.98, less three standard
/// errors of a share measured on them (hits of one query are taken to be found or missed together).
pub(crate) fn least_recall(queries: usize) -> f64 {
    0.98 - 3.0 * (0.98f64 * 0.02 / queries as f64).sqrt()
}
