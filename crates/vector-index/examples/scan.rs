//! Measures the scan: `cargo run --release -p edgewise-vector-index --example scan [vectors] [dimension]`.
#![allow(clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use edgewise_types::ChunkId;
use edgewise_vector_index::{VectorError, VectorIndex};

/// Repeats of each measurement; the median is printed.
const REPEATS: usize = 101;

/// Deterministic unit vectors (SplitMix64, Steele et al. 2014).
fn unit_vector(seed: &mut u64, dimension: usize) -> Vec<f32> {
    let mut vector: Vec<f32> = (0..dimension)
        .map(|_| {
            *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = *seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect();
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
    vector.iter_mut().for_each(|x| *x /= norm);
    vector
}

fn main() -> Result<(), VectorError> {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let vectors = arguments.next().unwrap_or(20_000);
    let dimension = arguments.next().unwrap_or(384);
    let mut seed = 7;
    let mut index = VectorIndex::new(dimension, "example");
    for chunk in 0..vectors {
        index.insert(ChunkId(chunk as u64), &unit_vector(&mut seed, dimension))?;
    }
    let query = unit_vector(&mut seed, dimension);
    let bytes = (vectors * dimension * 4) as f64;
    for (name, threads) in [("1 thread", 1), ("all threads", 0)] {
        let Ok(pool) = rayon::ThreadPoolBuilder::new().num_threads(threads).build() else { continue };
        let mut seconds = Vec::with_capacity(REPEATS);
        for _ in 0..REPEATS {
            let start = Instant::now();
            black_box(pool.install(|| index.search(black_box(&query), 50, None))?);
            seconds.push(start.elapsed().as_secs_f64());
        }
        seconds.sort_by(f64::total_cmp);
        let median = seconds[REPEATS / 2];
        println!(
            "{vectors} x {dimension}, {name} of {}: {:.3} ms, {:.1} M vectors/s, {:.1} GB/s",
            pool.current_num_threads(),
            median * 1e3,
            vectors as f64 / median / 1e6,
            bytes / median / 1e9
        );
    }
    Ok(())
}
