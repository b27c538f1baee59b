//! What the cache costs per request and per step: look-up, a request's life, a decode step, eviction.
//!
//! Pages of 32 tokens, as the CPU backend has them.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{hint::black_box, time::Duration};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use edgewise_kv_cache::{Boundary, CacheOptions, Identity, KvCache, OpenRequest, Reserved, Ttl};
use edgewise_types::TenantId;

const PAGE: usize = 32;

fn cache(pages: usize) -> KvCache {
    KvCache::new(CacheOptions {
        page_tokens: PAGE,
        pages,
        host_pages: 0,
        min_prefix_tokens: 0,
        identity: Identity::new(&[("model", b"bench")]),
        secret: [0; 32],
        reserved: Reserved { default: pages / 4, limit: pages / 2, ..Reserved::default() },
    })
    .unwrap()
}

/// `length` tokens, of which those from the `common`-th on depend on `kind`.
fn tokens(kind: u32, common: usize, length: usize) -> Vec<u32> {
    let token = |i: u32| {
        let kind = if (i as usize) < common { 0 } else { kind };
        i.wrapping_mul(0x9e37_79b1).wrapping_add(kind.wrapping_mul(0x85eb_ca6b)) >> 12
    };
    (0..length as u32).map(token).collect()
}

fn request<'a>(tenant: &'a TenantId, prompt: &'a [u32], boundaries: &'a [Boundary]) -> OpenRequest<'a> {
    OpenRequest { tenant, prompt, public_tokens: 0, boundaries }
}

/// A request from beginning to end, with a prefill in chunks of 512 tokens.
fn serve(cache: &mut KvCache, tenant: &TenantId, prompt: &[u32], boundaries: &[Boundary]) {
    let opened = cache.open(&request(tenant, prompt, boundaries), Duration::ZERO);
    let mut sequence = opened.sequence;
    for chunk in prompt[opened.resident..].chunks(512) {
        black_box(cache.reserve(&mut sequence, chunk.len(), Duration::ZERO).unwrap());
        cache.commit(&mut sequence, chunk, Duration::ZERO);
    }
    cache.close(sequence, true, Duration::ZERO);
}

fn look_up(c: &mut Criterion) {
    let tenant = TenantId::local();
    let mut group = c.benchmark_group("look-up");
    let prompt = tokens(0, 0, 32 * 1024);
    let mut alone = cache(4096);
    serve(&mut alone, &tenant, &prompt, &[]);
    group.bench_function("32k tokens, all resident", |b| {
        b.iter(|| alone.lookup(black_box(&request(&tenant, &prompt, &[])), Duration::ZERO));
    });
    // 500 conversations that part at 500 places, and as many that part in one.
    let mut crowded = cache(8192);
    serve(&mut crowded, &tenant, &prompt, &[]);
    for i in 0..500 {
        let common = 64 * i as usize;
        serve(&mut crowded, &tenant, &tokens(i + 2, common, common + 128), &[]);
        serve(&mut crowded, &tenant, &tokens(i + 1000, 1024, 1024 + 64), &[]);
    }
    group.bench_function("32k tokens, all resident, among 1000 others", |b| {
        b.iter(|| crowded.lookup(black_box(&request(&tenant, &prompt, &[])), Duration::ZERO));
    });
    let cold = tokens(9999, 1024, 32 * 1024);
    group.bench_function("32k tokens, 1k resident, among 1000 others", |b| {
        b.iter(|| crowded.lookup(black_box(&request(&tenant, &cold, &[])), Duration::ZERO));
    });
    group.finish();
}

fn requests(c: &mut Criterion) {
    let tenant = TenantId::local();
    let mut group = c.benchmark_group("request");
    let prompt = tokens(1, 0, 4096);
    let boundaries = [Boundary { at: 4000, ttl: Ttl::OneHour }];
    group.bench_function("4k tokens, cold: open, reserve, commit, close", |b| {
        b.iter_batched_ref(|| cache(256), |cache| serve(cache, &tenant, &prompt, &boundaries), BatchSize::LargeInput);
    });
    let mut warm = cache(1024);
    serve(&mut warm, &tenant, &prompt, &boundaries);
    group.bench_function("4k tokens, warm: open, reserve, commit, close", |b| {
        b.iter(|| serve(&mut warm, &tenant, &prompt, &boundaries));
    });
    let mut decoding = cache(16 * 1024);
    let opened = decoding.open(&request(&tenant, &prompt, &[]), Duration::ZERO);
    let mut sequence = Some(opened.sequence);
    group.bench_function("one token: reserve, commit", |b| {
        b.iter(|| {
            // Before the pool is full.
            if let Some(full) = sequence.take_if(|sequence| sequence.tokens() > 400_000) {
                decoding.close(full, false, Duration::ZERO);
            }
            let sequence =
                sequence.get_or_insert_with(|| decoding.open(&request(&tenant, &prompt, &[]), Duration::ZERO).sequence);
            black_box(decoding.reserve(sequence, 1, Duration::ZERO).unwrap());
            let next = sequence.tokens() as u32;
            decoding.commit(sequence, &[next], Duration::ZERO);
        });
    });
    if let Some(sequence) = sequence {
        decoding.close(sequence, false, Duration::ZERO);
    }
    group.finish();
}

fn pressure(c: &mut Criterion) {
    let tenant = TenantId::local();
    let mut group = c.benchmark_group("pressure");
    for (name, retained) in [("nothing retained", false), ("half of the pool retained", true)] {
        let mut full = cache(16 * 1024);
        let mut kind = 0;
        let mut next = || {
            kind += 1;
            tokens(kind, 0, 1024)
        };
        for _ in 0..600 {
            let boundaries = [Boundary { at: 1024, ttl: Ttl::OneHour }];
            let kept = retained && full.stats().retained < 8 * 1024;
            serve(&mut full, &tenant, &next(), &boundaries[..usize::from(kept)]);
        }
        assert!(full.stats().free < 32);
        group.bench_function(format!("1k tokens, cold, evicting 32 pages, {name}"), |b| {
            b.iter_batched(&mut next, |prompt| serve(&mut full, &tenant, &prompt, &[]), BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, look_up, requests, pressure);
criterion_main!(benches);
