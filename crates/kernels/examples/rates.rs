//! Rates of the kernels on this machine, at the shapes of a 135M-parameter Llama.
//!
//! `cargo run -p edgewise-kernels --example rates` (`RAYON_NUM_THREADS=1` for one thread).
//!
//! Each figure is the best of many runs. Weights are cycled through copies larger than the last-level cache where
//! `memory` is said, as in decoding; otherwise they stay in cache, as in the chunks of a prefill.
#![allow(clippy::print_stdout)]

use std::{error::Error, hint::black_box, time::Instant};

use edgewise_kernels::{
    AttentionEntry, KernelError, KvLayout, PAGE, PackedMatrix, PagedAttention, Pairing, Product, Rope, WeightFormat,
    Workspace, add, instruction_set, matmul, rms_norm, rope_frequencies, silu_mul,
};
use half::f16;

/// Seconds of the fastest of some runs.
fn best(mut run: impl FnMut() -> Result<(), KernelError>) -> Result<f64, KernelError> {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while runs < 5 || start.elapsed().as_secs_f64() < 0.4 {
        let start = Instant::now();
        run()?;
        best = best.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    Ok(best)
}

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + 13) % 1000) as f32 / 500.0 - 1.0).collect()
}

fn matrix(format: WeightFormat, rows: usize, columns: usize) -> Result<PackedMatrix, KernelError> {
    let (weights, size) = format.block();
    PackedMatrix::from_rows(format, rows, columns, &vec![0x11; rows * columns / weights * size])
}

fn products() -> Result<(), Box<dyn Error>> {
    println!("matrix products                         tokens        GMAC/s      GB/s of weights");
    let mut workspace = Workspace::default();
    let shapes = [(960, 576), (576, 576), (3072, 576), (576, 1536)];
    for format in [WeightFormat::Q4_1, WeightFormat::Q8_0, WeightFormat::F32] {
        for (rows, columns) in shapes {
            for tokens in [1, 12, 256] {
                let weights = matrix(format, rows, columns)?;
                let (x, mut out) = (values(tokens * columns), vec![0.0; tokens * rows]);
                let seconds = best(|| matmul(&x, &mut [Product { weights: &weights, out: &mut out }], &mut workspace))?;
                let macs = (tokens * rows * columns) as f64;
                let bytes = weights.bytes() as f64;
                println!(
                    "{:<32} {tokens:>12} {:>13.1} {:>12.1}",
                    format!("{format:?} {rows}×{columns}"),
                    macs / seconds / 1e9,
                    bytes / seconds / 1e9
                );
            }
        }
    }
    // Sixty-four copies of a feed-forward matrix are read in turn: more than the caches hold.
    let copies: Vec<PackedMatrix> = (0..64).map(|_| matrix(WeightFormat::Q4_1, 3072, 576)).collect::<Result<_, _>>()?;
    let (x, mut out) = (values(576), vec![0.0; 3072]);
    let seconds = best(|| {
        copies.iter().try_for_each(|weights| matmul(&x, &mut [Product { weights, out: &mut out }], &mut workspace))
    })?;
    let bytes: usize = copies.iter().map(PackedMatrix::bytes).sum();
    println!("{:<32} {:>12} {:>13} {:>12.1}", "Q4_1 3072×576, memory", 1, "", bytes as f64 / seconds / 1e9);
    let head = matrix(WeightFormat::Q8_0, 49152, 576)?;
    let mut out = vec![0.0; 49152];
    let seconds = best(|| matmul(&x, &mut [Product { weights: &head, out: &mut out }], &mut workspace))?;
    println!("{:<32} {:>12} {:>13} {:>12.1}", "Q8_0 49152×576", 1, "", head.bytes() as f64 / seconds / 1e9);
    Ok(())
}

fn attention() -> Result<(), Box<dyn Error>> {
    println!("attention, 9 heads on 3, 64 wide        depth       GMAC/s   GB/s of keys and values");
    let layout = KvLayout::new(3, 64)?;
    for depth in [256, 2048, 8192] {
        let pages = vec![f16::from_f32(0.5); layout.elements(depth)];
        let table: Vec<u32> = (0..depth.div_ceil(PAGE) as u32).collect();
        for queries in [1, 256] {
            let q = values(queries * 576);
            let mut out = vec![0.0; q.len()];
            let position = depth - queries;
            let entries = [AttentionEntry { first_row: 0, rows: queries, position, pages: &table }];
            let attention = PagedAttention {
                layout,
                heads: 9,
                scale: 0.125,
                q: &q,
                entries: &entries,
                keys: &pages,
                values: &pages,
                window: None,
                sinks: 0,
                alibi: None,
            };
            let seconds = best(|| attention.run(&mut out))?;
            let pairs: usize = (position..depth).map(|p| p + 1).sum();
            println!(
                "{:<32} {depth:>12} {:>13.1} {:>12.1}",
                format!("{queries} queries"),
                (pairs * 9 * 64 * 2) as f64 / seconds / 1e9,
                (pages.len() * 4) as f64 / seconds / 1e9
            );
        }
    }
    Ok(())
}

fn rows() -> Result<(), Box<dyn Error>> {
    println!("operations on 256 tokens            microseconds   elements/ns");
    let (x, mut out, weight) = (values(256 * 576), vec![0.0; 256 * 576], values(576));
    let report = |name: &str, elements: usize, seconds: f64| {
        println!("{name:<32} {:>12.1} {:>13.2}", seconds * 1e6, elements as f64 / seconds / 1e9);
    };
    report("rms_norm 576", x.len(), best(|| rms_norm(&x, &weight, 1e-5, &mut out))?);
    report("add 576", x.len(), best(|| add(&mut out, &x))?);
    let rotation = Rope::new(64, Pairing::Adjacent, rope_frequencies(64, 1e5), 1.0)?.rotation(1000..1256);
    report("rope 576", x.len(), best(|| rotation.apply(&mut out, 576))?);
    let (mut gate, up) = (values(256 * 1536), values(256 * 1536));
    gate.fill(-1.0);
    let up: Vec<f32> = up.iter().map(|up| up.signum() * -3.718_282).collect();
    report("silu_mul 1536", up.len(), best(|| silu_mul(black_box(&mut gate), &up))?);
    let layout = KvLayout::new(3, 64)?;
    let mut pages = vec![f16::ZERO; layout.elements(256)];
    let mut more = pages.clone();
    let k = &x[..256 * 192];
    let entries = [AttentionEntry { first_row: 0, rows: 256, position: 0, pages: &[0, 1, 2, 3, 4, 5, 6, 7] }];
    report("write keys and values 192", k.len(), best(|| layout.write(k, k, &entries, &mut pages, &mut more))?);
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    println!("{}, {} threads", instruction_set(), rayon::current_num_threads());
    // As in a decoder, the operations are called from inside the pool.
    rayon::scope(|_| products().and_then(|()| attention()).and_then(|()| rows()).map_err(|e| e.to_string()))?;
    Ok(())
}
