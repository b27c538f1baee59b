#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    reference,
    testing::{assert_close, values},
};

#[derive(Debug, Clone, Copy)]
struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
}

/// Random queries, keys and values of one sequence, and where it lies in a pool.
struct Sequence {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    pages: Vec<u32>,
}

/// Sequences of the given lengths whose pages are dealt at random. What they don't use of the pool is poison.
struct Pool {
    shape: Shape,
    layout: KvLayout,
    sequences: Vec<Sequence>,
    keys: Vec<f16>,
    values: Vec<f16>,
}

impl Pool {
    fn new(lengths: &[usize], shape: Shape, seed: u64) -> Self {
        let layout = KvLayout::new(shape.kv_heads, shape.head_dim).unwrap();
        let pages: usize = lengths.iter().map(|n| n.div_ceil(PAGE)).sum::<usize>() + 3;
        let mut free: Vec<u32> = (0..pages as u32).collect();
        free.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let elements = pages * layout.page_elements();
        let (mut keys, mut pool_values) = (vec![f16::NAN; elements], vec![f16::NAN; elements]);
        let mut sequences = Vec::new();
        for (i, length) in lengths.iter().enumerate() {
            let (seed, width) = (seed + 10 * i as u64, shape.kv_heads * shape.head_dim);
            let (k, v) = (values(length * width, 2.0, seed), values(length * width, 1.0, seed + 1));
            let q = values(length * shape.heads * shape.head_dim, 2.0, seed + 2);
            let pages: Vec<u32> = free.drain(..length.div_ceil(PAGE)).collect();
            // In two goes, so that one starts inside a page.
            for (from, to) in [(0, length / 2), (length / 2, *length)] {
                let entry = AttentionEntry { first_row: 0, rows: to - from, position: from, pages: &pages };
                let (k, v) = (&k[from * width..to * width], &v[from * width..to * width]);
                layout.write(k, v, &[entry], &mut keys, &mut pool_values).unwrap();
            }
            sequences.push(Sequence { q, k, v, pages });
        }
        Self { shape, layout, sequences, keys, values: pool_values }
    }

    /// Attention of positions `from..to` of some sequences, one after the other in one batch, with a row of padding
    /// before each.
    fn attend(&self, isa: Isa, mask: reference::Mask<'_>, batch: &[(usize, usize, usize)]) -> Vec<Vec<f32>> {
        let width = self.shape.heads * self.shape.head_dim;
        let (mut q, mut entries) = (Vec::new(), Vec::new());
        for (sequence, from, to) in batch {
            let sequence = &self.sequences[*sequence];
            q.extend(vec![f32::NAN; width]);
            let entry =
                AttentionEntry { first_row: q.len() / width, rows: to - from, position: *from, pages: &sequence.pages };
            entries.push(entry);
            q.extend(&sequence.q[from * width..to * width]);
        }
        let mut out = vec![f32::NAN; q.len()];
        let attention = PagedAttention {
            layout: self.layout,
            heads: self.shape.heads,
            scale: 0.3,
            q: &q,
            entries: &entries,
            keys: &self.keys,
            values: &self.values,
            window: mask.window,
            sinks: mask.sinks,
            alibi: mask.alibi,
        };
        attention.run_with(isa, &mut out).unwrap();
        assert!(entries.iter().all(|e| out[(e.first_row - 1) * width..][..width].iter().all(|x| x.is_nan())));
        entries.iter().map(|entry| out[entry.first_row * width..][..entry.rows * width].to_vec()).collect()
    }

    fn expected(&self, mask: reference::Mask<'_>, (sequence, from, to): (usize, usize, usize)) -> Vec<f32> {
        let Shape { heads, kv_heads, head_dim } = self.shape;
        let (s, width) = (&self.sequences[sequence], kv_heads * head_dim);
        let q = &s.q[from * heads * head_dim..to * heads * head_dim];
        reference::attention(q, (&s.k[..to * width], &s.v[..to * width]), (heads, kv_heads, head_dim), 0.3, mask)
    }
}

const HEAD_DIMS: [usize; 9] = [1, 8, 16, 20, 32, 64, 80, 96, 128];

fn assert_same(actual: &[f32], expected: &[f32], what: &str) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let differing = actual.iter().zip(expected).position(|(a, b)| a.to_bits() != b.to_bits());
    assert_eq!(differing, None, "{what}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn matches_the_reference(
        lengths in prop::collection::vec(1usize..150, 1..4), kv_heads in 1usize..4, group in 1usize..6, dim in 0usize..9,
        window in prop::option::of(1usize..100), sinks in 0usize..40, alibi: bool, seed: u64,
    ) {
        let shape = Shape { heads: kv_heads * group, kv_heads, head_dim: HEAD_DIMS[dim] };
        let pool = Pool::new(&lengths, shape, seed % 1000);
        let slopes = values(shape.heads, 0.5, seed ^ 5);
        let mask = reference::Mask { window, sinks, alibi: alibi.then_some(&slopes) };
        let batch: Vec<_> = lengths.iter().enumerate().map(|(i, length)| (i, length / (i + 2), *length)).collect();
        for isa in Isa::available() {
            for (actual, part) in pool.attend(isa, mask, &batch).iter().zip(&batch) {
                assert_close(actual, &pool.expected(mask, *part), 3e-5, isa.name());
            }
        }
    }

    #[test]
    fn a_result_does_not_depend_on_batch_chunks_pages_or_threads(
        length in 30usize..1200, other in 1usize..700, cut in 0.0..1.0f64, window in prop::option::of(1usize..900),
        sinks in 0usize..70, alibi: bool, seed: u64,
    ) {
        let shape = Shape { heads: 6, kv_heads: 2, head_dim: 16 };
        let slopes = values(shape.heads, 0.5, seed ^ 5);
        let mask = reference::Mask { window, sinks, alibi: alibi.then_some(&slopes) };
        let (alone, mixed) = (Pool::new(&[length], shape, seed % 99), Pool::new(&[length, other], shape, seed % 99));
        let cut = (length as f64 * cut) as usize;
        let single = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        let many = rayon::ThreadPoolBuilder::new().num_threads(5).build().unwrap();
        for isa in Isa::available() {
            let whole = &single.install(|| alone.attend(isa, mask, &[(0, 0, length)]))[0];
            let batch = [(1, other - 1, other), (0, 0, cut), (0, cut, length), (1, other / 2, other), (0, length - 1, length)];
            let parts = many.install(|| mixed.attend(isa, mask, &batch));
            let width = shape.heads * shape.head_dim;
            assert_same(&parts[1], &whole[..cut * width], isa.name());
            assert_same(&parts[2], &whole[cut * width..], isa.name());
            assert_same(&parts[4], &whole[(length - 1) * width..], isa.name());
            let last = many.install(|| mixed.attend(isa, mask, &[(0, length - 1, length)]));
            assert_same(&last[0], &parts[4], isa.name());
        }
    }
}

#[test]
fn long_sequences_match_the_reference_across_segments() {
    let positions = 2 * SEGMENT_PAGES * PAGE + 77;
    let pool = Pool::new(&[positions], Shape { heads: 3, kv_heads: 1, head_dim: 32 }, 7);
    for (window, sinks) in [(None, 0), (Some(700), 4), (Some(33), 1000)] {
        let mask = reference::Mask { window, sinks, alibi: None };
        let part = (0, positions - 40, positions);
        for isa in Isa::available() {
            assert_close(&pool.attend(isa, mask, &[part])[0], &pool.expected(mask, part), 2e-5, isa.name());
        }
    }
}

#[test]
fn huge_keys_saturate_instead_of_reaching_earlier_positions() {
    let layout = KvLayout::new(1, 16).unwrap();
    let (mut k, mut v) = (vec![0.5; 32], vec![0.5; 32]);
    k[20] = 1e9;
    v[20] = -1e9;
    let (mut keys, mut values) = (vec![f16::ZERO; 512], vec![f16::ZERO; 512]);
    let entries = [AttentionEntry { first_row: 0, rows: 2, position: 0, pages: &[0] }];
    layout.write(&k, &v, &entries, &mut keys, &mut values).unwrap();
    let mut out = vec![0.0; 32];
    let q = vec![0.0; 32];
    let (keys, values) = (&keys[..], &values[..]);
    let unmasked = PagedAttention {
        layout,
        heads: 1,
        scale: 0.25,
        q: &q,
        entries: &entries,
        keys,
        values,
        window: None,
        sinks: 0,
        alibi: None,
    };
    unmasked.run(&mut out).unwrap();
    assert!(out[..16].iter().all(|x| *x == 0.5), "{out:?}");
    assert_eq!(out[20], (0.5 - 65504.0) / 2.0);
}

#[test]
fn mismatched_shapes_are_refused() {
    let pool = Pool::new(&[33], Shape { heads: 4, kv_heads: 2, head_dim: 16 }, 3);
    let (s, mut out) = (&pool.sequences[0], vec![0.0; 33 * 64]);
    let entry = AttentionEntry { first_row: 0, rows: 33, position: 0, pages: &s.pages };
    let entries = [entry];
    let ok = PagedAttention {
        layout: pool.layout,
        heads: 4,
        scale: 1.0,
        q: &s.q,
        entries: &entries,
        keys: &pool.keys,
        values: &pool.values,
        window: None,
        sinks: 0,
        alibi: None,
    };
    assert!(ok.run(&mut out).is_ok());
    assert!(ok.run(&mut out[1..]).is_err());
    assert!(PagedAttention { heads: 3, ..ok }.run(&mut out).is_err());
    assert!(PagedAttention { window: Some(0), ..ok }.run(&mut out).is_err());
    assert!(PagedAttention { alibi: Some(&[1.0; 3]), ..ok }.run(&mut out).is_err());
    assert!(PagedAttention { values: &pool.values[1..], ..ok }.run(&mut out).is_err());
    let pool_pages = (pool.keys.len() / pool.layout.page_elements()) as u32;
    for wrong in [
        vec![AttentionEntry { position: 32, ..entry }],
        vec![AttentionEntry { first_row: 1, ..entry }],
        vec![AttentionEntry { pages: &s.pages[..1], ..entry }],
        vec![AttentionEntry { pages: &[0, pool_pages], ..entry }],
        vec![AttentionEntry { rows: 20, ..entry }, AttentionEntry { first_row: 19, rows: 2, ..entry }],
    ] {
        assert!(PagedAttention { entries: &wrong, ..ok }.run(&mut out).is_err(), "{wrong:?}");
        let (mut keys, mut values) = (pool.keys.clone(), pool.values.clone());
        assert!(pool.layout.write(&s.k, &s.v, &wrong, &mut keys, &mut values).is_err(), "{wrong:?}");
    }
    assert!(KvLayout::new(2, 0).is_err());
    assert!(KvLayout::new(0, 16).is_err());
}
