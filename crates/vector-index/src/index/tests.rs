//! The index against a model of it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::flat::ROWS_PER_TASK;

const DIMENSION: usize = 19;

/// Few directions, so that scores are often equal.
fn direction(n: usize) -> Vec<f32> {
    let mut vector = vec![0.0; DIMENSION];
    let angle = (n / DIMENSION) as f32;
    vector[n % DIMENSION] = angle.cos();
    vector[(n + 1) % DIMENSION] = angle.sin();
    vector
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u64, usize),
    Remove(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let insert = (0u64..30, 0usize..60).prop_map(|(chunk, n)| Step::Insert(chunk, n));
    let step = prop_oneof![2 => insert, 1 => (0u64..30).prop_map(Step::Remove)];
    prop::collection::vec(step, 0..80)
}

fn run(steps: &[Step]) -> (VectorIndex, BTreeMap<ChunkId, usize>) {
    let (mut index, mut model) = (VectorIndex::new(DIMENSION, "test"), BTreeMap::new());
    for step in steps {
        match *step {
            Step::Insert(chunk, n) => {
                index.insert(ChunkId(chunk), &direction(n)).unwrap();
                model.insert(ChunkId(chunk), n);
            }
            Step::Remove(chunk) => {
                assert_eq!(index.remove(ChunkId(chunk)), model.remove(&ChunkId(chunk)).is_some());
            }
        }
    }
    (index, model)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

proptest! {
    #[test]
    fn a_search_finds_what_the_definition_says(steps in steps(), query in 0usize..60, k in 0usize..40, odd: bool) {
        let (index, model) = run(&steps);
        prop_assert_eq!(index.len(), model.len());
        let query = direction(query);
        let keep = |chunk: ChunkId| !odd || chunk.0 % 2 == 1;
        let hits = index.search(&query, k, odd.then_some(&keep)).unwrap();

        let mut exact: Vec<f64> =
            model.iter().filter(|(chunk, _)| keep(**chunk)).map(|(_, n)| cosine(&query, &direction(*n))).collect();
        exact.sort_by(|a, b| b.total_cmp(a));
        exact.truncate(k);
        prop_assert_eq!(hits.len(), exact.len());
        for (hit, exact) in hits.iter().zip(exact) {
            prop_assert!(keep(hit.chunk));
            prop_assert!((f64::from(hit.score) - cosine(&query, &direction(model[&hit.chunk]))).abs() < 1e-6);
            prop_assert!((f64::from(hit.score) - exact).abs() < 1e-6);
        }
        for pair in hits.windows(2) {
            let ordered =
                pair[0].score > pair[1].score || pair[0].score == pair[1].score && pair[0].chunk < pair[1].chunk;
            prop_assert!(ordered, "{:?}", pair);
        }

        // Another way to the same content gives the same bits.
        let mut rebuilt = VectorIndex::new(DIMENSION, "test");
        for (chunk, n) in model.iter().rev() {
            rebuilt.insert(*chunk, &direction(*n)).unwrap();
        }
        prop_assert_eq!(rebuilt.search(&query, k, odd.then_some(&keep)).unwrap(), hits);
    }
}

#[test]
fn threads_do_not_change_the_result() {
    let mut index = VectorIndex::new(DIMENSION, "test");
    for chunk in 0..3 * ROWS_PER_TASK as u64 + 17 {
        index.insert(ChunkId(chunk), &direction((chunk * 7919 % 1000) as usize)).unwrap();
    }
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    for k in [1, 10, 3000] {
        let query = direction(k);
        let one = pool(1).install(|| index.search(&query, k, None)).unwrap();
        let three = pool(3).install(|| index.search(&query, k, None)).unwrap();
        assert_eq!(one, three);
        // The sequential scan, reached by filtering a small copy.
        let mut small = VectorIndex::new(DIMENSION, "test");
        for hit in &one {
            small.insert(hit.chunk, &direction((hit.chunk.0 * 7919 % 1000) as usize)).unwrap();
        }
        assert_eq!(small.search(&query, k, None).unwrap(), one);
    }
}

#[test]
fn vectors_that_are_not_unit_are_refused() {
    let mut index = VectorIndex::new(2, "test");
    assert!(matches!(index.insert(ChunkId(1), &[1.0]), Err(VectorError::Dimension { expected: 2, found: 1 })));
    for bad in [[0.0, 0.0], [1.0, 1.0], [f32::NAN, 0.0], [f32::INFINITY, 0.0], [0.998, 0.0]] {
        assert!(matches!(index.insert(ChunkId(1), &bad), Err(VectorError::NotUnit { .. })), "{bad:?}");
        assert!(matches!(index.search(&bad, 1, None), Err(VectorError::NotUnit { .. })), "{bad:?}");
    }
    assert!(index.is_empty());
    index.insert(ChunkId(1), &[0.6, 0.8]).unwrap();
    assert_eq!(index.search(&[0.6, 0.8], 1, None).unwrap()[0].score, 1.0);
}

/// Share of the exact ten nearest that a search finds.
fn recall(index: &VectorIndex, queries: impl Iterator<Item = u64>) -> f64 {
    let (mut found, mut all) = (0, 0);
    for query in queries {
        let Some(query) = index.vector(ChunkId(query)) else { continue };
        let exact = index.search_exact(&query, 10, None).unwrap();
        let hits = index.search(&query, 10, None).unwrap();
        found += exact.iter().filter(|exact| hits.contains(exact)).count();
        all += exact.len();
    }
    found as f64 / all as f64
}

#[test]
fn a_graph_finds_what_the_scan_finds_through_removals_and_rebuilds() {
    let mut index = crate::testing::clustered(1000, 24, 1);
    let late = crate::testing::clustered(1300, 24, 2);
    assert!(index.rebuild_due());
    index.rebuild_now().unwrap();
    assert_eq!((index.graph_len(), index.rebuild_due()), (Some(1000), false));
    assert!(recall(&index, 0..200) > 0.97);

    // A rebuild during which chunks come, go, and change.
    for chunk in 0..200 {
        assert!(index.remove(ChunkId(chunk)));
    }
    assert!(index.rebuild_due(), "a fifth are tombstones");
    let rebuild = index.begin_rebuild();
    assert!(!index.rebuild_due(), "one at a time");
    for chunk in 1000..1100 {
        index.insert(ChunkId(chunk), &late.vector(ChunkId(chunk)).unwrap()).unwrap();
    }
    for chunk in 200..250 {
        index.remove(ChunkId(chunk));
    }
    for chunk in 250..300 {
        index.insert(ChunkId(chunk), &late.vector(ChunkId(chunk)).unwrap()).unwrap();
    }
    index.remove(ChunkId(1099));
    let before: Vec<_> = (250..1099).step_by(40).map(|n| exact(&index, n)).collect();
    index.install(rebuild.build().unwrap());
    assert_eq!((index.len(), index.graph_len()), (849, Some(700)));
    assert_eq!((250..1099).step_by(40).map(|n| exact(&index, n)).collect::<Vec<_>>(), before);
    let mut chunks: Vec<u64> = index.chunks().map(|chunk| chunk.0).collect();
    chunks.sort_unstable();
    assert_eq!(chunks, (250..1099).collect::<Vec<_>>());
    assert!(recall(&index, 250..450) > 0.97);
    assert_eq!(index.vector(ChunkId(260)), late.vector(ChunkId(260)));

    // Filters, wide and narrow, are kept.
    let query = index.vector(ChunkId(500)).unwrap();
    for modulus in [2, 40] {
        let filter = |chunk: ChunkId| chunk.0.is_multiple_of(modulus);
        let hits = index.search(&query, 10, Some(&filter)).unwrap();
        assert!(hits.len() == 10 && hits.iter().all(|hit| filter(hit.chunk)));
        if modulus == 40 {
            assert_eq!(hits, index.search_exact(&query, 10, Some(&filter)).unwrap());
        }
    }
}

fn exact(index: &VectorIndex, chunk: u64) -> Vec<VectorHit> {
    let query = index.vector(ChunkId(chunk)).unwrap();
    index.search_exact(&query, 10, None).unwrap()
}

#[test]
fn codes_do_not_change_the_scan() {
    // Above the size from which codes are read, and with ties.
    let mut index = VectorIndex::new(DIMENSION, "test");
    for chunk in 0..6000 {
        index.insert(ChunkId(chunk), &direction((chunk * 7919 % 3000) as usize)).unwrap();
    }
    for n in 0..60 {
        let query = direction(n);
        let hits = index.search(&query, 25, None).unwrap();
        let mut scores: Vec<VectorHit> = index.tail.hits(&query, 0..index.len());
        scores.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk)));
        scores.truncate(25);
        assert_eq!(hits, scores);
    }
}
