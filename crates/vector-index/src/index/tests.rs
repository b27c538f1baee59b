//! The index against a model of it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::{
    flat::{CODES_FROM, ROWS_PER_TASK},
    testing::{clustered, least_recall},
};

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
    let mut index = clustered(1000, 24, 1);
    let late = clustered(1300, 24, 2);
    assert!(index.rebuild_due());
    index.rebuild_now().unwrap();
    assert_eq!((index.graph_len(), index.rebuild_due()), (Some(1000), false));
    assert!(recall(&index, 0..200) >= least_recall(200));

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
    assert!(recall(&index, 250..450) >= least_recall(200));
    assert_eq!(index.vector(ChunkId(260)), late.vector(ChunkId(260)));

    // Filters, wide and narrow, are kept.
    let query = index.vector(ChunkId(500)).unwrap();
    for modulus in [2, 40] {
        let filter = |chunk: ChunkId| chunk.0.is_multiple_of(modulus);
        let hits = index.search(&query, 10, Some(&filter)).unwrap();
        assert_eq!(index.walk_pays(10, Some(&filter)), modulus == 2);
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

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Above the size from which codes are read, with ties, duplicates, removals and filters.
    #[test]
    fn codes_do_not_change_the_scan(
        count in CODES_FROM as u64..3 * ROWS_PER_TASK as u64, directions in 1usize..4000, removed in 0u64..500,
        modulus in 1u64..50, k in 1usize..200, query in 0usize..4000, threads in 1usize..4,
    ) {
        let mut index = VectorIndex::new(DIMENSION, "test");
        let direction_of = |chunk: u64| direction((chunk * 7919) as usize % directions);
        for chunk in 0..count {
            index.insert(ChunkId(chunk), &direction_of(chunk)).unwrap();
        }
        for chunk in 0..removed {
            index.remove(ChunkId(chunk * 31 % count));
        }
        let keep = |chunk: ChunkId| chunk.0.is_multiple_of(modulus);
        let query = direction(query);
        let rows = (0..index.len()).filter(|row| keep(index.tail.ids[*row]));
        let mut expected: Vec<VectorHit> = index.tail.hits(&query, rows);
        expected.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.cmp(&b.chunk)));
        expected.truncate(k);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let filter = (modulus > 1).then_some(&keep as &(dyn Fn(ChunkId) -> bool + Sync));
        for method in [Method::Auto, Method::Codes, Method::Floats] {
            let hits = pool.install(|| index.search_by(method, &query, k, filter)).unwrap();
            prop_assert_eq!(&hits, &expected);
        }
    }
}

#[derive(Debug, Clone)]
enum Change {
    Insert(u64, u64),
    Remove(u64),
    Begin,
    Finish,
    Reopen,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        10 => (0u64..500, 0u64..500).prop_map(|(chunk, vector)| Change::Insert(chunk, vector)),
        20 => (0u64..500).prop_map(Change::Remove),
        1 => Just(Change::Begin),
        1 => Just(Change::Finish),
        1 => Just(Change::Reopen),
    ];
    prop::collection::vec(change, 0..300)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_to_a_graph_it_answers_for_what_is_there(changes in changes(), modulus in 1u64..30) {
        let pool = clustered(500, 24, 9);
        let mut model: BTreeMap<ChunkId, u64> = (0..300).map(|chunk| (ChunkId(chunk), chunk)).collect();
        let mut index = clustered(300, 24, 9);
        index.rebuild_now().unwrap();
        let mut rebuilding = None;
        for change in changes {
            match change {
                Change::Insert(chunk, vector) => {
                    index.insert(ChunkId(chunk), &pool.vector(ChunkId(vector)).unwrap()).unwrap();
                    model.insert(ChunkId(chunk), vector);
                }
                Change::Remove(chunk) => {
                    prop_assert_eq!(index.remove(ChunkId(chunk)), model.remove(&ChunkId(chunk)).is_some());
                }
                Change::Begin if rebuilding.is_none() => rebuilding = Some(index.begin_rebuild()),
                Change::Finish => {
                    if let Some(rebuild) = rebuilding.take() {
                        index.install(rebuild.build().unwrap());
                    }
                }
                Change::Reopen => {
                    let folder = tempfile::tempdir().unwrap();
                    index.save(folder.path()).unwrap();
                    index = VectorIndex::load(folder.path(), 24, "test", index.options).unwrap().unwrap();
                    // A rebuild under way is lost with the process.
                    rebuilding = None;
                }
                Change::Begin => (),
            }
        }
        let held: Vec<ChunkId> = index.chunks().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
        prop_assert_eq!(index.len(), model.len());
        prop_assert_eq!(held, model.keys().copied().collect::<Vec<_>>());
        let mut same = VectorIndex::new(24, "test");
        for (chunk, vector) in &model {
            same.insert(*chunk, &pool.vector(ChunkId(*vector)).unwrap()).unwrap();
        }
        let keep = |chunk: ChunkId| chunk.0.is_multiple_of(modulus);
        let filter = (modulus > 1).then_some(&keep as &(dyn Fn(ChunkId) -> bool + Sync));
        let (mut found, mut all) = (0, 0);
        for query in (0..500).step_by(10) {
            let query = pool.vector(ChunkId(query)).unwrap();
            let exact = same.search_by(Method::Floats, &query, 10, filter).unwrap();
            prop_assert_eq!(&index.search_exact(&query, 10, filter).unwrap(), &exact);
            for method in [Method::Auto, Method::Graph { ef: 80 }] {
                let hits = index.search_by(method, &query, 10, filter).unwrap();
                prop_assert_eq!(hits.len(), exact.len());
                for hit in &hits {
                    prop_assert!(model.contains_key(&hit.chunk) && (modulus == 1 || keep(hit.chunk)));
                    let score = same.search_by(Method::Floats, &query, 1, Some(&|chunk| chunk == hit.chunk)).unwrap();
                    prop_assert_eq!(score, vec![*hit]);
                }
                found += exact.iter().filter(|hit| hits.contains(hit)).count();
                all += exact.len();
            }
        }
        prop_assert!(found as f64 >= least_recall(100) * all as f64, "{} of {}", found, all);
    }
}

#[test]
fn rebuilds_in_the_background_end_as_if_one_thing_happened_after_the_other() {
    use std::sync::{
        RwLock,
        atomic::{AtomicBool, Ordering},
    };
    let pool = clustered(1500, 24, 3);
    // Chunks come, go, and come back as something else.
    let steps: Vec<(u64, Option<u64>)> = (0..4000u64)
        .map(|n| {
            let chunk = n * 7919 % 1200;
            (chunk, (!n.is_multiple_of(3)).then_some((chunk + n) % 1500))
        })
        .collect();
    let apply = |index: &mut VectorIndex, (chunk, vector): (u64, Option<u64>)| match vector {
        Some(vector) => index.insert(ChunkId(chunk), &pool.vector(ChunkId(vector)).unwrap()).unwrap(),
        None => {
            index.remove(ChunkId(chunk));
        }
    };
    let mut alone = clustered(600, 24, 3);
    steps.iter().for_each(|step| apply(&mut alone, *step));

    let shared = RwLock::new(clustered(600, 24, 3));
    let done = AtomicBool::new(false);
    let (rebuilds, searches) = std::thread::scope(|scope| {
        let rebuilder = scope.spawn(|| {
            let mut rebuilds = 0;
            while !done.load(Ordering::Acquire) || rebuilds < 2 {
                let rebuild = shared.write().unwrap().begin_rebuild();
                let rebuilt = rebuild.build().unwrap();
                shared.write().unwrap().install(rebuilt);
                rebuilds += 1;
            }
            rebuilds
        });
        let searcher = scope.spawn(|| {
            let mut searches = 0;
            while !done.load(Ordering::Acquire) || searches < 10 {
                let query = pool.vector(ChunkId(searches % 1500)).unwrap();
                let index = shared.read().unwrap();
                let hits = index.search(&query, 10, None).unwrap();
                assert_eq!(hits.len(), 10);
                for hit in hits {
                    // No removed chunk is returned.
                    let vector = index.vector(hit.chunk).unwrap();
                    assert!((f64::from(hit.score) - cosine(&query, &vector)).abs() < 1e-5);
                }
                searches += 1;
            }
            searches
        });
        for step in &steps {
            apply(&mut shared.write().unwrap(), *step);
        }
        done.store(true, Ordering::Release);
        (rebuilder.join().unwrap(), searcher.join().unwrap())
    });
    assert!(rebuilds >= 2 && searches >= 10, "{rebuilds} rebuilds, {searches} searches");
    let index = shared.into_inner().unwrap();
    let content = |index: &VectorIndex| -> BTreeMap<ChunkId, Vec<u32>> {
        let bits = |chunk| index.vector(chunk).unwrap().iter().map(|value| value.to_bits()).collect();
        index.chunks().map(|chunk| (chunk, bits(chunk))).collect()
    };
    assert!(content(&index) == content(&alone), "they differ");
    assert_eq!(index.len(), alone.len());
    for query in (0..1500).step_by(30) {
        let query = pool.vector(ChunkId(query)).unwrap();
        assert_eq!(index.search_exact(&query, 10, None).unwrap(), alone.search_exact(&query, 10, None).unwrap());
    }
}

#[test]
fn an_index_that_shrinks_goes_back_to_a_scan() {
    let mut index = clustered(150, 24, 4);
    index.rebuild_now().unwrap();
    assert_eq!(index.graph_len(), Some(150));
    for chunk in 0..120 {
        index.remove(ChunkId(chunk));
    }
    assert!(index.rebuild_due(), "four fifths are tombstones");
    let rebuild = index.begin_rebuild();
    index.remove(ChunkId(149));
    let vector = index.vector(ChunkId(130)).unwrap();
    index.insert(ChunkId(5), &vector).unwrap();
    index.install(rebuild.build().unwrap());
    assert_eq!((index.graph_len(), index.len(), index.rebuild_due()), (None, 30, false));
    assert_eq!(index.stats().tombstones, 0);
    let hits: Vec<u64> = index.search(&vector, 2, None).unwrap().iter().map(|hit| hit.chunk.0).collect();
    assert_eq!(hits, [5, 130]);
}

#[test]
fn a_refused_graph_leaves_the_scan_and_is_not_tried_at_once_again() {
    let mut index = clustered(150, 24, 4);
    let before = exact(&index, 7);
    drop(index.begin_rebuild());
    index.abandon();
    assert!(!index.rebuild_due());
    assert_eq!((index.graph_len(), exact(&index, 7)), (None, before));
    let more = clustered(225, 24, 4);
    for chunk in 150..225 {
        index.insert(ChunkId(chunk), &more.vector(ChunkId(chunk)).unwrap()).unwrap();
    }
    assert!(index.rebuild_due(), "half as many more");
    index.rebuild_now().unwrap();
    assert_eq!(index.graph_len(), Some(225));
}
