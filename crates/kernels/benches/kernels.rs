//! The kernels at the shapes of a 135M-parameter Llama: `cargo bench -p edgewise-kernels`.
#![allow(missing_docs, clippy::unwrap_used)]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use edgewise_kernels::{
    AttentionEntry, KvLayout, PAGE, PackedMatrix, PagedAttention, Product, WeightFormat, Workspace, matmul, rms_norm,
    silu_mul, with_team,
};
use half::f16;

fn values(count: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + 13) % 1000) as f32 / 500.0 - 1.0).collect()
}

/// Multiply-adds per second.
fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul 3072x576");
    for format in [WeightFormat::Q4_1, WeightFormat::Q8_0, WeightFormat::BF16, WeightFormat::F32] {
        let (weights, size) = format.block();
        let bytes = vec![0x11; 3072 * 576 / weights * size];
        let weights = PackedMatrix::from_rows(format, 3072, 576, &bytes).unwrap();
        for tokens in [1, 16, 256] {
            let (x, mut out, mut workspace) = (values(tokens * 576), vec![0.0; tokens * 3072], Workspace::default());
            group.throughput(Throughput::Elements((tokens * 3072 * 576) as u64));
            group.bench_function(BenchmarkId::new(format!("{format:?}"), tokens), |b| {
                let mut run = || matmul(&x, &mut [Product { weights: &weights, out: &mut out }], &mut workspace);
                with_team(|| b.iter(|| run().unwrap()));
            });
        }
    }
}

/// Bytes of keys and values per second.
fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention 9 heads on 3, 64 wide");
    let layout = KvLayout::new(3, 64).unwrap();
    for (depth, queries) in [(512, 1), (8192, 1), (2048, 256)] {
        let pages: Vec<u32> = (0..depth / PAGE as u32).rev().collect();
        let pool = vec![f16::from_f32(0.5); layout.elements(depth as usize)];
        let (q, mut out) = (values(queries * 576), vec![0.0; queries * 576]);
        let position = depth as usize - queries;
        let entries = [AttentionEntry { first_row: 0, rows: queries, position, pages: &pages }];
        let attention = PagedAttention {
            layout,
            heads: 9,
            scale: 0.125,
            q: &q,
            entries: &entries,
            keys: &pool,
            values: &pool,
            window: None,
            sinks: 0,
            alibi: None,
        };
        group.throughput(Throughput::Bytes((pool.len() * 4) as u64));
        group.bench_function(BenchmarkId::new(format!("{queries} queries"), depth), |b| {
            with_team(|| b.iter(|| attention.run(&mut out).unwrap()));
        });
    }
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("256 tokens");
    let (x, mut out, weight) = (values(256 * 576), vec![0.0; 256 * 576], values(576));
    group.bench_function("rms_norm 576", |b| b.iter(|| rms_norm(&x, &weight, 1e-5, &mut out).unwrap()));
    let (mut gate, up) = (vec![-1.0; 256 * 1536], vec![-3.718_282; 256 * 1536]);
    group.bench_function("silu_mul 1536", |b| b.iter(|| silu_mul(&mut gate, &up).unwrap()));
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(10).warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800));
    targets = products, attention, rows
}
criterion_main!(kernels);
