//! A collection with more chunks than are scanned.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use edgewise_documents::{GraphProfile, IndexProfile};
use edgewise_retrieval::{Collection, IngestOptions, Silent, Source, check, compact};

use crate::support::*;

const THRESHOLD: usize = 150;

fn profile() -> IndexProfile {
    IndexProfile { graph: GraphProfile { threshold: THRESHOLD, ..GraphProfile::default() }, ..IndexProfile::default() }
}

fn large(root: &Path) -> Arc<Collection> {
    open(root).get_or_create(&name(), &profile()).unwrap()
}

fn text(n: usize) -> String {
    format!("Item{n} stands on shelf{} in room{} beside {}.", n / 7, n / 40, n % 11)
}

/// Short documents, one chunk each, of words they share with a few others.
fn documents(numbers: std::ops::Range<usize>) -> Vec<Source> {
    numbers.map(|n| source(&format!("{n:04}.txt"), &text(n))).collect()
}

fn add(collection: &Collection, numbers: std::ops::Range<usize>) {
    let report = collection.ingest(documents(numbers.clone()), &IngestOptions::default(), &Silent).unwrap();
    assert!(outcomes(&report).iter().all(|(_, outcome)| *outcome == "added"), "{:?}", outcomes(&report));
}

fn wait_for(what: &str, reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Bytes of the graph on disk, if there is one.
fn graph_on_disk(root: &Path) -> Option<u64> {
    let folders = fs::read_dir(root.join("guide").join("vectors")).ok()?;
    folders.flatten().find_map(|folder| fs::metadata(folder.path().join("graph")).ok()).map(|file| file.len())
}

/// Every document of `numbers` is the best hit for its own words.
fn assert_found(collection: &Collection, numbers: impl Iterator<Item = usize>) {
    for n in numbers {
        let uris = found(collection, &text(n));
        assert_eq!(uris.first().map(String::as_str), Some(format!("{n:04}.txt").as_str()), "{uris:?}");
    }
}

#[test]
fn a_graph_is_built_while_searches_and_ingests_go_on_and_is_there_again_after_a_restart() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let collection = large(root);
    add(&collection, 0..100);
    let stats = collection.stats().unwrap();
    assert_eq!((stats.chunks, stats.graph_vectors, stats.building_graph), (100, 0, false));
    let done = AtomicBool::new(false);
    let searches = std::thread::scope(|scope| {
        let searcher = scope.spawn(|| {
            let mut searches = 0;
            while !done.load(Ordering::Acquire) {
                assert_found(&collection, std::iter::once(searches % 100));
                searches += 1;
            }
            searches
        });
        for start in (100..400).step_by(60) {
            add(&collection, start..start + 60);
        }
        wait_for("a graph serves", || collection.stats().unwrap().graph_vectors >= THRESHOLD);
        wait_for("no further one is due", || !collection.stats().unwrap().building_graph);
        done.store(true, Ordering::Release);
        searcher.join().unwrap()
    });
    assert!(searches > 0);
    assert_found(&collection, (0..400).step_by(13));
    // Published by the thread that built it; nobody asked for it.
    wait_for("the graph is saved", || graph_on_disk(root).is_some());
    collection.flush().unwrap();
    let held = collection.stats().unwrap().graph_vectors;
    drop(collection);

    let again = large(root);
    let stats = again.stats().unwrap();
    assert_eq!((stats.chunks, stats.graph_vectors, stats.building_graph), (400, held, false));
    assert_found(&again, (0..400).step_by(13));
    let report = check(root, &name()).unwrap();
    assert!(report.findings.is_empty() && report.notes.is_empty(), "{report:?}");
}

#[test]
fn deletions_make_a_new_graph_and_compaction_leaves_no_tombstones() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    let collection = large(root);
    add(&collection, 0..400);
    collection.flush().unwrap();
    assert_eq!(collection.stats().unwrap().graph_vectors, 400);
    let first = graph_on_disk(root).unwrap();
    let delete = |collection: &Collection, numbers: std::ops::Range<usize>| {
        let documents = collection.documents(0, 1000).unwrap();
        for n in numbers {
            let uri = format!("{n:04}.txt");
            let id = &documents.iter().find(|document| document.uri == uri).unwrap().id;
            collection.delete_document(id).unwrap();
        }
    };
    // A quarter: at a fifth, a new one is begun.
    delete(&collection, 0..100);
    wait_for("the graph is built again", || !collection.stats().unwrap().building_graph);
    collection.flush().unwrap();
    assert!(graph_on_disk(root).unwrap() < first);
    assert_eq!(collection.stats().unwrap().graph_vectors, 300);
    for n in 0..10 {
        assert!(!found(&collection, &format!("item{n} shelf0 room0")).contains(&format!("{n:04}.txt")));
    }
    // A few tombstones are left alone, but for a compaction.
    delete(&collection, 100..110);
    drop(collection);
    let before = graph_on_disk(root).unwrap();
    compact(root, &name()).unwrap();
    assert!(graph_on_disk(root).unwrap() < before);
    let collection = large(root);
    assert_eq!(collection.stats().unwrap().graph_vectors, 290);
    assert_found(&collection, (110..400).step_by(17));
}

#[test]
fn a_graph_that_a_kill_kept_from_being_built_is_built_by_the_next_writer() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    // As after a kill: everything is in the catalog, no graph was due under the profile then in force.
    let scanned = open(root).get_or_create(&name(), &IndexProfile::default()).unwrap();
    add(&scanned, 0..200);
    assert_eq!(scanned.stats().unwrap().graph_vectors, 0);
    let options = IngestOptions { profile: Some(profile()), ..IngestOptions::default() };
    scanned.ingest(documents(0..200), &options, &Silent).unwrap();
    scanned.flush().unwrap();
    assert_eq!(scanned.stats().unwrap().graph_vectors, 200);
    assert!(graph_on_disk(root).is_some());
    // And a reader of a collection without one builds it for itself.
    drop(scanned);
    fs::remove_dir_all(root.join("guide").join("vectors")).unwrap();
    let reader = large(root);
    wait_for("the reader has a graph", || reader.stats().unwrap().graph_vectors == 200);
    assert_found(&reader, (0..200).step_by(13));
}
