//! Where the time of a forward pass goes: every operation of a 135M-parameter Llama on made-up weights, timed by itself.
//!
//! `cargo run -p edgewise-kernels --example pass -- [depth] [rows] [sequences]`: passes of `sequences` sequences with
//! `rows` new positions each behind `depth` others. By default one decode step at depth 512.
#![allow(clippy::print_stdout)]

use std::{error::Error, time::Instant};

use edgewise_kernels::{
    AttentionEntry, KernelError, KvLayout, PAGE, PackedMatrix, PagedAttention, Pairing, Product, Rope, WeightFormat,
    Workspace, add, instruction_set, matmul, rms_norm, rope_frequencies, silu_mul, with_team,
};
use half::f16;

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const KV: usize = 192;
const FEED_FORWARD: usize = 1536;
const VOCABULARY: usize = 49_152;
const OPERATIONS: [&str; 10] =
    ["norm", "qkv", "rope", "write", "attention", "output", "add", "gate, up", "silu", "down"];

struct Layer {
    qkv: [PackedMatrix; 3],
    output: PackedMatrix,
    gated: [PackedMatrix; 2],
    down: PackedMatrix,
    keys: Vec<f16>,
    values: Vec<f16>,
}

fn matrix(format: WeightFormat, rows: usize, columns: usize) -> Result<PackedMatrix, KernelError> {
    let (weights, size) = format.block();
    PackedMatrix::from_rows(format, rows, columns, &vec![0x11; rows * columns / weights * size])
}

fn main() -> Result<(), Box<dyn Error>> {
    let numbers: Vec<usize> = std::env::args().skip(1).map(|a| a.parse()).collect::<Result<_, _>>()?;
    let number = |i: usize, default| numbers.get(i).copied().unwrap_or(default);
    let (depth, new, sequences) = (number(0, 512), number(1, 1), number(2, 1));
    let (rows, layout) = (new * sequences, KvLayout::new(3, 64)?);
    let pages_each = (depth + new).div_ceil(PAGE);
    let q4 = |rows, columns| matrix(WeightFormat::Q4_1, rows, columns);
    let layer = |_| -> Result<Layer, KernelError> {
        Ok(Layer {
            qkv: [q4(HIDDEN, HIDDEN)?, q4(KV, HIDDEN)?, q4(KV, HIDDEN)?],
            output: q4(HIDDEN, HIDDEN)?,
            gated: [q4(FEED_FORWARD, HIDDEN)?, q4(FEED_FORWARD, HIDDEN)?],
            down: q4(HIDDEN, FEED_FORWARD)?,
            keys: vec![f16::from_f32(0.01); pages_each * sequences * layout.page_elements()],
            values: vec![f16::from_f32(0.01); pages_each * sequences * layout.page_elements()],
        })
    };
    let mut layers: Vec<Layer> = (0..LAYERS).map(layer).collect::<Result<_, _>>()?;
    let head = matrix(WeightFormat::Q8_0, VOCABULARY, HIDDEN)?;
    let tables: Vec<Vec<u32>> =
        (0..sequences).map(|s| (0..pages_each).map(|p| (p * sequences + s) as u32).collect()).collect();
    let entry = |(s, pages)| AttentionEntry { first_row: s * new, rows: new, position: depth, pages };
    let entries: Vec<AttentionEntry<'_>> = tables.iter().map(|table| &table[..]).enumerate().map(entry).collect();
    let rotation = Rope::new(64, Pairing::Adjacent, rope_frequencies(64, 1e5), 1.0)?
        .rotation((0..rows).map(|row| depth + row % new));

    let zeros = |width: usize| vec![0.0f32; rows * width];
    let (mut residual, mut normed, mut q, mut k, mut v) =
        (zeros(HIDDEN), zeros(HIDDEN), zeros(HIDDEN), zeros(KV), zeros(KV));
    let (mut attended, mut gate, mut up) = (zeros(HIDDEN), zeros(FEED_FORWARD), zeros(FEED_FORWARD));
    let mut logits = vec![0.0; sequences * VOCABULARY];
    let mut workspace = Workspace::default();
    let norm = vec![1.0; HIDDEN];

    let mut best = ([f64::INFINITY; OPERATIONS.len()], f64::INFINITY, f64::INFINITY);
    let mut passes = Vec::new();
    let began = Instant::now();
    while passes.len() < 3 || (began.elapsed().as_secs_f64() < 2.0 && passes.len() < 200) {
        residual.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 17) as f32 / 17.0 - 0.5);
        let pass = with_team(|| -> Result<_, KernelError> {
            let (start, mut times) = (Instant::now(), [0.0; OPERATIONS.len()]);
            let mut last = start;
            let mut lap = |operation: usize| {
                let now = Instant::now();
                times[operation] += (now - last).as_secs_f64();
                last = now;
            };
            for layer in &mut layers {
                rms_norm(&residual, &norm, 1e-5, &mut normed)?;
                lap(0);
                let [wq, wk, wv] = &layer.qkv;
                let mut qkv = [
                    Product { weights: wq, out: &mut q },
                    Product { weights: wk, out: &mut k },
                    Product { weights: wv, out: &mut v },
                ];
                matmul(&normed, &mut qkv, &mut workspace)?;
                lap(1);
                rotation.apply(&mut q, HIDDEN)?;
                rotation.apply(&mut k, KV)?;
                lap(2);
                layout.write(&k, &v, &entries, &mut layer.keys, &mut layer.values)?;
                lap(3);
                PagedAttention {
                    layout,
                    heads: 9,
                    scale: 0.125,
                    q: &q,
                    entries: &entries,
                    keys: &layer.keys,
                    values: &layer.values,
                    window: None,
                    sinks: 0,
                    alibi: None,
                }
                .run(&mut attended)?;
                lap(4);
                matmul(&attended, &mut [Product { weights: &layer.output, out: &mut normed }], &mut workspace)?;
                lap(5);
                add(&mut residual, &normed)?;
                lap(6);
                rms_norm(&residual, &norm, 1e-5, &mut normed)?;
                lap(0);
                let [wg, wu] = &layer.gated;
                let mut gated = [Product { weights: wg, out: &mut gate }, Product { weights: wu, out: &mut up }];
                matmul(&normed, &mut gated, &mut workspace)?;
                lap(7);
                silu_mul(&mut gate, &up)?;
                lap(8);
                matmul(&gate, &mut [Product { weights: &layer.down, out: &mut normed }], &mut workspace)?;
                lap(9);
                add(&mut residual, &normed)?;
                lap(6);
            }
            let before = Instant::now();
            let last = &residual[..sequences * HIDDEN];
            matmul(last, &mut [Product { weights: &head, out: &mut logits }], &mut workspace)?;
            Ok((times, before.elapsed().as_secs_f64(), start.elapsed().as_secs_f64()))
        })?;
        passes.push(pass.2);
        if pass.2 < best.2 {
            best = pass;
        }
    }
    passes.sort_by(f64::total_cmp);
    println!(
        "{}, {} threads, {sequences} × {new} tokens at depth {depth}: fastest {:.2} ms, median {:.2} ms; {:.0} tokens/s",
        instruction_set(),
        rayon::current_num_threads(),
        best.2 * 1e3,
        passes[passes.len() / 2] * 1e3,
        rows as f64 / best.2,
    );
    for (operation, seconds) in OPERATIONS.iter().zip(best.0).chain([(&"logits", best.1)]) {
        println!("{operation:>10} {:>9.3} ms", seconds * 1e3);
    }
    Ok(())
}
