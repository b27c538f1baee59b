//! What a step of the scheduler costs besides the forward pass: planning, reserving pages, publishing them.

#![allow(missing_docs, clippy::expect_used)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use edgewise_engine::SteadyBatch;

/// Steps measured on one batch; two of its pages' worth, so that new pages are in proportion.
const STEPS: usize = 64;

fn step(c: &mut Criterion) {
    let mut group = c.benchmark_group("scheduler");
    for sequences in [1, 16, 64] {
        let batch = || SteadyBatch::new(sequences, 1024, STEPS + 1).expect("the cache takes these sizes");
        group.bench_function(format!("{STEPS} steps of {sequences} sequences"), |b| {
            b.iter_batched_ref(
                batch,
                |batch| (0..STEPS).map(|_| black_box(batch.step())).sum::<usize>(),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, step);
criterion_main!(benches);
