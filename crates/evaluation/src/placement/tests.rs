//! Models that read by depth, and rows that are there already.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::cell::Cell;

use edgewise_test_support::HashEmbedder;

use super::*;
use crate::{probe::tests::Reads, rows::Other};

struct Silent;

impl Progress for Silent {
    fn ingested(&self, _: usize, _: usize) {}
    fn answered(&self, _: usize, _: usize) {}
}

fn options() -> PlacementOptions {
    PlacementOptions {
        documents: vec![5, 10],
        questions: 12,
        positions: 5,
        seed: 1,
        recorded: false,
        bootstrap: Bootstrap { resamples: 200, ..Bootstrap::default() },
    }
}

fn report(by_depth: fn(f64) -> f64, rows: &mut Rows<PlacementRow>) -> PlacementReport {
    let (generator, embedder) = (Reads::new(by_depth), HashEmbedder::with_dimension(512));
    let (prompts, set) = (Prompts::load(None).unwrap(), set::tests::made(20, 12, 30));
    let placement = Placement::new(&generator, &embedder, &prompts, &set, options()).unwrap();
    placement.run(rows, &Silent, &|| false).unwrap()
}

#[test]
fn a_model_that_reads_the_beginning_is_placed_for_by_the_curve_of_other_questions() {
    let report = report(|depth| 0.95 - 0.9 * depth, &mut Rows::in_memory());
    let part = &report.parts[1];
    assert_eq!((part.documents, part.questions, part.too_long), (10, 12, 0));
    assert!(part.curve.as_ref().unwrap().distinct);
    let likely: Vec<f64> = part.positions.iter().map(|p| p.gold_logprob.unwrap().mean).collect();
    assert!(likely.windows(2).all(|pair| pair[0] > pair[1]), "{likely:?}");
    assert!(part.positions[0].accuracy.mean > part.positions[4].accuracy.mean);
    let [random, ranked, edges, curve] = &part.orders[..] else { panic!("{:?}", part.orders) };
    assert_eq!([&random.name, &ranked.name, &edges.name, &curve.name], ["random", "ranked", "edges", "curve"]);
    // The rule puts the best last, where this model reads worst; its curve puts it first.
    assert!(part.gold_first > 0.7 && part.curve_differs == 1.0, "{part:?}");
    assert!(curve.logprob_over_edges.unwrap().low > 0.0 && curve.depth < edges.depth);
    assert_eq!(edges.accuracy_over_edges.unwrap().mean, 0.0);
    assert_eq!((part.ordered, part.expected.len()), (12, 4));
    // As by order, but for the questions' own luck.
    for (order, expected) in part.orders.iter().zip(&part.expected) {
        assert!((order.accuracy.mean - expected.accuracy.mean).abs() < 0.35, "{order:?} {expected:?}");
    }
    assert_eq!([0, 3, 4, 8].map(|place| between(&[0, 4, 8], &[1.0, 0.0, 0.5], place)), [1.0, 0.25, 0.0, 0.5]);
}

#[test]
fn what_was_recorded_is_reported_without_asking() {
    let (generator, embedder) = (Reads::new(|depth| 0.95 - 0.9 * depth), HashEmbedder::with_dimension(512));
    let (prompts, set) = (Prompts::load(None).unwrap(), set::tests::made(20, 12, 30));
    let placement = |options| Placement::new(&generator, &embedder, &prompts, &set, options).unwrap();
    let recorded = PlacementOptions { recorded: true, ..options() };
    let mut rows = Rows::in_memory();
    let never = || -> bool { panic!("nothing is asked") };
    let empty = placement(recorded.clone()).run(&mut rows, &Silent, &never).unwrap();
    assert!(empty.parts.iter().all(|part| (part.questions, part.ordered) == (0, 0)));
    let few = PlacementOptions { questions: 5, ..options() };
    let whole = placement(few).run(&mut rows, &Silent, &|| false).unwrap();
    let again = placement(recorded).run(&mut rows, &Silent, &never).unwrap();
    for (part, whole) in again.parts.iter().zip(&whole.parts) {
        assert_eq!((part.questions, part.ordered), (5, 5));
        assert_eq!((&part.positions, &part.orders), (&whole.positions, &whole.orders));
    }
}

#[test]
fn a_model_that_reads_everything_alike_is_placed_for_by_the_rule() {
    let mut rows = Rows::in_memory();
    let report = report(|_| 0.7, &mut rows);
    for part in &report.parts {
        assert_eq!(part.curve_differs, 0.0);
        let (edges, curve) = (&part.orders[2], &part.orders[3]);
        assert_eq!((edges.depth, edges.accuracy), (curve.depth, curve.accuracy));
    }
    assert!(rows.rows().len() <= 12 * 2 * (5 + 3), "what comes to the same is asked once");
}

#[test]
fn an_interrupted_measurement_goes_on_and_comes_to_the_same() {
    let (generator, embedder) = (Reads::new(|depth| 0.95 - 0.9 * depth), HashEmbedder::with_dimension(512));
    let (prompts, set) = (Prompts::load(None).unwrap(), set::tests::made(20, 12, 30));
    let placement = Placement::new(&generator, &embedder, &prompts, &set, options()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rows");
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() > 200
    };
    let mut rows = Rows::open(&path, "x", Other::Refuse).unwrap();
    assert!(matches!(placement.run(&mut rows, &Silent, &stop), Err(EvaluationError::Interrupted)));
    let kept = rows.rows().len();
    assert!(kept > 5, "{kept}");
    drop(rows);
    let mut rows = Rows::open(&path, "x", Other::Refuse).unwrap();
    assert_eq!(rows.rows().len(), kept);
    let resumed = placement.run(&mut rows, &Silent, &|| false).unwrap();
    assert_eq!(resumed, placement.run(&mut Rows::in_memory(), &Silent, &|| false).unwrap());
    assert!(placement.plan().unwrap().prompts >= rows.rows().len());
}

#[test]
fn options_out_of_range_are_refused() {
    let (generator, embedder) = (Reads::new(|_| 0.7), HashEmbedder::new());
    let (prompts, set) = (Prompts::load(None).unwrap(), set::tests::made(3, 12, 30));
    for bad in [
        PlacementOptions { documents: vec![14], ..options() },
        PlacementOptions { documents: vec![1], ..options() },
        PlacementOptions { documents: vec![], ..options() },
        PlacementOptions { questions: 0, ..options() },
        PlacementOptions { positions: 1, ..options() },
    ] {
        assert!(Placement::new(&generator, &embedder, &prompts, &set, bad).is_err());
    }
}
