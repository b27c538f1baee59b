//! Time of clustering by the number of points: `cargo run --release -p edgewise-summary-tree --example scale -- 5000 20000`.
//!
//! The points are made, 384 dimensions each, around centres that are themselves around fewer centres, as chunks are
//! around documents and documents around subjects.

#![allow(clippy::print_stdout)]

use std::{io, time::Instant};

use edgewise_summary_tree::{ClusterOptions, Points, cluster};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const DIMS: usize = 384;

fn points(rows: usize) -> Vec<f64> {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut near = |centre: &[f64], spread: f64| -> Vec<f64> {
        centre.iter().map(|c| c + spread * random.random_range(-1.0..1.0)).collect()
    };
    let origin = vec![0.0; DIMS];
    let subjects: Vec<Vec<f64>> = (0..rows.div_ceil(1000)).map(|_| near(&origin, 1.0)).collect();
    let documents: Vec<Vec<f64>> = (0..rows.div_ceil(20)).map(|d| near(&subjects[d % subjects.len()], 0.7)).collect();
    (0..rows).flat_map(|row| near(&documents[row % documents.len()], 0.5)).collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sizes: Vec<usize> = std::env::args().skip(1).map(|arg| arg.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        return Err(io::Error::other("name at least one number of points").into());
    }
    println!("{:>8} {:>9} {:>10} {:>9} {:>12}", "points", "clusters", "mean size", "seconds", "us a point");
    for rows in sizes {
        let data = Points::new(points(rows), rows, DIMS)?;
        let begun = Instant::now();
        let clusters = cluster(&data, &vec![150; rows], &ClusterOptions::default())?;
        let seconds = begun.elapsed().as_secs_f64();
        let members: usize = clusters.iter().map(|cluster| cluster.members.len()).sum();
        let mean = members as f64 / clusters.len().max(1) as f64;
        println!("{rows:>8} {:>9} {mean:>10.1} {seconds:>9.2} {:>12.1}", clusters.len(), seconds * 1e6 / rows as f64);
    }
    Ok(())
}
