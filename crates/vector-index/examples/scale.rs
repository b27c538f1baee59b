//! Measures a graph against the exact scan:
//! `cargo run --release -p edgewise-vector-index --example scale [vectors] [dimension] [queries]`.
//!
//! The vectors are synthetic but shaped like embeddings: points of a 32-dimensional space around 200 centres, mapped into
//! the full dimension by a fixed random matrix, plus noise in every direction. Queries are made the same way, so none is
//! in the index. Independent random vectors would say nothing: all are equally far from each other.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use edgewise_types::ChunkId;
use edgewise_vector_index::{GraphOptions, VectorError, VectorIndex};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const LATENT: usize = 32;
const CENTRES: usize = 200;
const HITS: usize = 10;

/// About normal, by the sum of four uniform numbers.
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>() * 0.866
}

struct Source {
    rng: ChaCha8Rng,
    centres: Vec<[f32; LATENT]>,
    mixing: Vec<[f32; LATENT]>,
}

impl Source {
    fn new(dimension: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        let mut rows = |count: usize| -> Vec<[f32; LATENT]> {
            (0..count).map(|_| std::array::from_fn(|_| normal(&mut rng))).collect()
        };
        let (centres, mixing) = (rows(CENTRES), rows(dimension));
        Self { rng, centres, mixing }
    }

    fn vector(&mut self) -> Vec<f32> {
        let centre = self.centres[self.rng.random_range(0..CENTRES)];
        let point: [f32; LATENT] = std::array::from_fn(|at| centre[at] + 0.7 * normal(&mut self.rng));
        let mut vector: Vec<f32> = self
            .mixing
            .iter()
            .map(|row| row.iter().zip(&point).map(|(a, b)| a * b).sum::<f32>() + 1.5 * normal(&mut self.rng))
            .collect();
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        vector.iter_mut().for_each(|x| *x /= norm);
        vector
    }
}

/// Resident memory in megabytes, where the system says (Linux).
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3
}

fn percentiles(mut seconds: Vec<f64>) -> (f64, f64) {
    seconds.sort_by(f64::total_cmp);
    let at = |share: f64| seconds[((seconds.len() - 1) as f64 * share) as usize] * 1e3;
    (at(0.5), at(0.99))
}

fn main() -> Result<(), VectorError> {
    let mut arguments = std::env::args().skip(1).filter_map(|argument| argument.parse::<usize>().ok());
    let vectors = arguments.next().unwrap_or(100_000);
    let dimension = arguments.next().unwrap_or(384);
    let queries = arguments.next().unwrap_or(500).max(1);
    let mut source = Source::new(dimension);
    let mut index = VectorIndex::with_options(dimension, "example", GraphOptions::default());
    for chunk in 0..vectors {
        index.insert(ChunkId(chunk as u64), &source.vector())?;
    }
    println!("{vectors} x {dimension}: {:.0} MB resident, scanned", resident());
    let start = Instant::now();
    index.rebuild_now()?;
    println!(
        "graph built and probed in {:.1} s with {} threads, {:.0} MB resident",
        start.elapsed().as_secs_f64(),
        rayon::current_num_threads(),
        resident()
    );
    let (mut scans, mut walks, mut found) = (Vec::new(), Vec::new(), 0);
    for _ in 0..queries {
        let query = source.vector();
        let start = Instant::now();
        let exact = index.search_exact(&query, HITS, None)?;
        scans.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let near = index.search(&query, HITS, None)?;
        walks.push(start.elapsed().as_secs_f64());
        found += exact.iter().filter(|hit| near.contains(hit)).count();
    }
    let ((scan, scan_tail), (walk, walk_tail)) = (percentiles(scans), percentiles(walks));
    println!("exact scan: p50 {scan:.2} ms, p99 {scan_tail:.2} ms");
    println!("graph:      p50 {walk:.2} ms, p99 {walk_tail:.2} ms");
    println!("recall@{HITS} of the graph: {:.4} over {queries} queries", found as f64 / (queries * HITS) as f64);
    Ok(())
}
