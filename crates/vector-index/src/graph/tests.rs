//! The graph itself, sound and broken.

use proptest::prelude::*;

use super::*;
use crate::testing::{clustered, least_recall};

fn flat(count: u64, seed: u64) -> Arc<Flat> {
    Arc::new(clustered(count, 24, seed).tail)
}

fn options() -> GraphOptions {
    GraphOptions { threshold: 1, neighbours: 8, ef_construction: 60, ef_search: 60 }
}

fn vector(flat: &Flat, row: u32) -> Vec<f32> {
    flat.vector(row as usize).collect()
}

fn rows(graph: &Graph, query: &[f32], k: usize, ef: usize) -> Vec<u32> {
    match graph.search(query, k, ef, &|_| true) {
        Walk::Rows(rows) => rows,
        Walk::GivenUp => panic!("a small graph is never too much"),
    }
}

#[test]
fn the_number_of_threads_does_not_change_the_graph() {
    let flat = flat(2000, 1);
    let build = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| Graph::build(Arc::clone(&flat), options())).unwrap()
    };
    let (one, three) = (build(1), build(3));
    assert!(one.layers.len() > 2);
    assert!(one.layers == three.layers && one.unreached == three.unreached);
}

/// The promise of the probe: whatever is stored is found by its own vector.
#[test]
fn every_row_finds_itself() {
    let flat = flat(3000, 2);
    let graph = Graph::build(Arc::clone(&flat), options()).unwrap();
    for row in 0..3000 {
        let best = flat.score(&pack(&vector(&flat, row)), row as usize);
        let found = rows(&graph, &vector(&flat, row), 1, PROBE_EF);
        let scores = found.iter().map(|found| flat.score(&pack(&vector(&flat, row)), *found as usize));
        assert!(found.contains(&row) || scores.into_iter().any(|score| score >= best - 1e-3), "row {row}");
    }
}

#[test]
fn copies_are_one_node_and_all_are_found() {
    let mut index = clustered(200, 24, 3);
    let copied = index.vector(edgewise_types::ChunkId(11)).unwrap();
    for chunk in 1000..1500 {
        index.insert(edgewise_types::ChunkId(chunk), &copied).unwrap();
    }
    let flat = Arc::new(index.tail);
    let graph = Graph::build(Arc::clone(&flat), options()).unwrap();
    assert_eq!(graph.layers[0].rows.len(), 200);
    assert_eq!(rows(&graph, &copied, 501, 10).len(), 501);
    // Only some of them wanted, and not the node's own.
    match graph.search(&copied, 5, 10, &|row| row > 600) {
        Walk::Rows(found) => assert!(found.len() >= 5 && found.iter().all(|row| *row > 600)),
        Walk::GivenUp => panic!("there are some"),
    }
}

/// Takes every link to and from some nodes away.
fn cut_off(mut graph: Graph, nodes: &[u32]) -> Graph {
    for layer in &mut graph.layers {
        for node in 0..layer.rows.len() as u32 {
            let cut = |node: u32, layer: &Layer| nodes.contains(&layer.rows[node as usize]);
            let kept: Vec<u32> = layer.links(node).iter().copied().filter(|link| !cut(*link, layer)).collect();
            let kept = if cut(node, layer) { Vec::new() } else { kept };
            layer.set_links(node, &kept);
        }
    }
    graph
}

#[test]
fn the_probe_refuses_a_broken_graph() {
    let flat = flat(1000, 4);
    let build = || Graph::build(Arc::clone(&flat), options()).unwrap();
    let broken = cut_off(build(), &(100..150).collect::<Vec<_>>());
    let error = broken.probe().unwrap_err();
    assert!(matches!(&error, VectorError::Graph { reason } if reason.contains("of 1000")), "{error}");
    // Links that lead to the wrong places.
    let mut shuffled = build();
    let layer = &mut shuffled.layers[0];
    for node in 0..1000 {
        layer.set_links(node, &[(node + 1) % 1000]);
    }
    assert!(matches!(shuffled.probe(), Err(VectorError::Graph { .. })));
    assert!(build().probe().is_ok());
}

#[test]
fn rows_out_of_reach_are_found_all_the_same() {
    let flat = flat(1000, 5);
    let lost = [17, 400, 999];
    let graph = cut_off(Graph::build(Arc::clone(&flat), options()).unwrap(), &lost).probe().unwrap();
    assert_eq!(graph.unreached, lost);
    for row in lost {
        assert!(rows(&graph, &vector(&flat, row), 1, 40).contains(&row));
    }
}

#[test]
fn tombstones_and_filters_cost_no_recall() {
    let flat = flat(2500, 6);
    let graph = Graph::build(Arc::clone(&flat), GraphOptions::default()).unwrap();
    let wanted: [&(dyn Fn(u32) -> bool + Sync); 3] = [&|row| row % 20 >= 3, &|row| row % 2 == 0, &|row| row % 10 == 7];
    for wanted in wanted {
        let (mut found, mut all) = (0, 0);
        for query in (0..2500).step_by(12) {
            let query = vector(&flat, query);
            let exact = flat.search_floats(&query, 10, Some(&|row| wanted(row as u32))).into_hits();
            let Walk::Rows(rows) = graph.search(&query, 10, 80, wanted) else { panic!("given up") };
            assert!(rows.iter().all(|row| wanted(*row)));
            found += exact.iter().filter(|hit| rows.iter().any(|row| flat.ids[*row as usize] == hit.chunk)).count();
            all += exact.len();
        }
        assert!(found as f64 >= least_recall(209) * all as f64, "{found} of {all}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever a file says, it is refused or harmless.
    #[test]
    fn numbers_from_a_file_never_lead_out_of_a_table(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u32>(), any::<bool>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let flat = flat(150, 7);
        let graph = Graph::build(Arc::clone(&flat), options()).unwrap();
        let mut numbers: Vec<u32> = graph.layers.iter().flat_map(Layer::to_numbers).collect();
        for (at, value, small) in changes {
            let at = at.index(numbers.len());
            numbers[at] = if small { value % 200 } else { value };
        }
        if let Some(cut) = cut {
            numbers.truncate(cut.index(numbers.len()));
        }
        let mut left = numbers.as_slice();
        let layers: Option<Vec<Layer>> = (0..graph.layers.len()).map(|_| Layer::from_numbers(&mut left)).collect();
        let Some(layers) = layers else { return Ok(()) };
        if let Ok(graph) = Graph::from_parts(Arc::clone(&flat), layers, Vec::new(), options()) {
            for row in 0..150 {
                prop_assert!(rows(&graph, &vector(&flat, row), 5, 20).iter().all(|row| *row < 150));
            }
        }
    }
}
