//! Building summary trees: upkeep, determinism, two at once, and a full disk.

use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use edgewise_retrieval::{
    Collection, IngestOptions, RetrievalError, Silent, TreeBuildOptions, TreeControl, TreeHalt, TreeItem,
    TreeScopeView, check,
};

use crate::support::*;

const SMALL_DISK: &str = "EDGEWISE_TEST_SMALL_DISK";

fn options() -> TreeBuildOptions {
    TreeBuildOptions::extractive(60)
}

/// A text of `n` paragraphs, each of its own.
fn tale(of: &str, n: usize) -> String {
    let paragraph = |at: usize| {
        format!(
            "# Day {at} of {of}\n\nOn day {at} the surveyor of {of} measured {} metres of coast, wrote down {} birds and \
             slept at mile {}. {}\n\n",
            at * 17,
            at * 3,
            at * 5,
            format!("The weather in {of} on day {at} was that of the season and is told nowhere else. ").repeat(6)
        )
    };
    (1..=n).map(paragraph).collect()
}

fn put(collection: &Collection, documents: &[(&str, String)]) {
    let sources = documents.iter().map(|(uri, text)| source(uri, text)).collect();
    collection.ingest(sources, &IngestOptions::default(), &Silent).unwrap();
}

fn tales(root: &Path) -> Arc<Collection> {
    let collection = open(root).get_or_create_default(&name()).unwrap();
    put(&collection, &[("a.md", tale("Arran", 24)), ("b.md", tale("Bute", 24)), ("c.md", tale("Coll", 24))]);
    collection
}

/// Ids of all nodes that are current.
fn nodes(collection: &Collection) -> BTreeSet<String> {
    fn collect(item: &TreeItem, found: &mut BTreeSet<String>) {
        if let TreeItem::Node(node) = item {
            found.insert(node.id.to_string());
            node.members.iter().flatten().for_each(|member| collect(member, found));
        }
    }
    let view = collection.tree(&TreeScopeView::All, 32, None).unwrap();
    let mut found = BTreeSet::new();
    view.roots.iter().for_each(|root| collect(root, &mut found));
    found
}

/// Ends a build at its n-th step.
struct EndAt(AtomicUsize, usize);

impl TreeControl for EndAt {
    fn check(&self) -> Result<(), TreeHalt> {
        if self.0.fetch_add(1, Ordering::Relaxed) < self.1 { Ok(()) } else { Err(TreeHalt) }
    }
}

#[test]
fn equal_collections_have_equal_trees_wherever_their_builds_were_ended() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (one, two) = (tales(one.path()), tales(two.path()));
    let undisturbed = one.build_tree(&options(), &Silent).unwrap();
    assert!(undisturbed.complete && undisturbed.work.summaries_made > 6, "{undisturbed:?}");
    let mut ended = 0;
    let report = (1..).step_by(7).find_map(|at| match two.build_tree(&options(), &EndAt(AtomicUsize::new(0), at)) {
        Ok(report) => Some(report),
        Err(RetrievalError::Cancelled) => {
            ended += 1;
            None
        }
        Err(error) => panic!("{error}"),
    });
    assert!(report.unwrap().complete && ended > 2, "{ended}");
    assert_eq!(nodes(&one), nodes(&two));
    assert_eq!(one.tree_status().unwrap().nodes, nodes(&one).len());
}

#[test]
fn an_edit_costs_its_path_only_and_a_deletion_no_summary_of_documents() {
    let folder = tempfile::tempdir().unwrap();
    let collection = tales(folder.path());
    let full = collection.build_tree(&options(), &Silent).unwrap().work.summaries_made;
    assert_eq!(collection.tree_behind().unwrap(), Some(0));
    put(&collection, &[("b.md", tale("Bute", 24).replacen("measured", "walked", 1))]);
    assert_eq!(collection.tree_behind().unwrap(), Some(1));
    assert!(!collection.tree_status().unwrap().current);
    let plan = collection.plan_tree(&options()).unwrap();
    assert_eq!((plan.documents, plan.documents_kept), (3, 2));
    let edited = collection.build_tree(&options(), &Silent).unwrap();
    assert_eq!((edited.documents_kept, edited.work.documents_done, edited.complete), (2, 1, true));
    assert!(edited.work.summaries_made * 2 < full, "{} of {full}", edited.work.summaries_made);
    assert!(plan.summaries >= edited.work.summaries_made, "{plan:?} {edited:?}");

    let document = collection.documents(0, 1).unwrap().remove(0);
    collection.delete_document(&document.id).unwrap();
    let left = collection.build_tree(&options(), &Silent).unwrap();
    assert_eq!((left.complete, left.work.documents_done, left.documents_kept), (true, 0, 2));
    let view = collection.tree(&TreeScopeView::All, 32, None).unwrap();
    let said = serde_json::to_string(&view.roots).unwrap();
    assert!(!said.contains("Arran") && said.contains("Bute"), "text that is gone is quoted");
}

#[test]
fn a_second_build_is_refused_and_a_plan_writes_nothing() {
    struct Second(Arc<Collection>);
    impl TreeControl for Second {
        fn check(&self) -> Result<(), TreeHalt> {
            let refused = self.0.build_tree(&options(), &Silent).unwrap_err();
            assert!(matches!(refused, RetrievalError::TreeBusy { .. }), "{refused}");
            assert!(matches!(self.0.delete_tree().unwrap_err(), RetrievalError::TreeBusy { .. }));
            Ok(())
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let collection = tales(folder.path());
    let plan = collection.plan_tree(&options()).unwrap();
    assert!(plan.summaries > 0 && plan.calls == 0 && plan.seconds > 0.0, "{plan:?}");
    assert!(!collection.tree_status().unwrap().built);
    assert!(collection.build_tree(&options(), &Second(Arc::clone(&collection))).unwrap().complete);
    // A build that ended gives its place back, also one that failed.
    assert!(collection.build_tree(&options(), &EndAt(AtomicUsize::new(0), 0)).is_err());
    collection.delete_tree().unwrap();
    assert!(!collection.tree_status().unwrap().built);
}

/// On a small disk of its own, which `scripts/fault-run` mounts.
#[test]
#[ignore = "needs a small disk: scripts/fault-run mounts one"]
fn a_full_disk_keeps_what_a_build_made() {
    let disk = PathBuf::from(std::env::var_os(SMALL_DISK).expect("the folder of a small disk"));
    let elsewhere = tempfile::tempdir().unwrap();
    let expected = tales(elsewhere.path());
    let total = expected.build_tree(&options(), &Silent).unwrap().work.summaries_made;
    let mut full = 0;
    for free in [0u64, 8 << 10, 32 << 10, 64 << 10, 100 << 10, 150 << 10, 200 << 10] {
        let root = disk.join("data");
        let collection = tales(&root);
        let filler = fill(&disk, free);
        let before = match collection.build_tree(&options(), &Silent) {
            Ok(report) => report.work.summaries_made,
            Err(error) => {
                assert!(error.to_string().contains("free some"), "{error}");
                full += 1;
                0
            }
        };
        assert!(check(&root, &name()).unwrap().findings.is_empty());
        fs::remove_file(&filler).unwrap();
        let report = collection.build_tree(&options(), &Silent).unwrap();
        assert!(report.complete && before + report.work.summaries_made <= total, "{report:?}");
        assert_eq!(nodes(&collection), nodes(&expected));
        drop(collection);
        fs::remove_dir_all(&root).unwrap();
    }
    assert!(full > 1, "the disk was full only {full} times");
}

/// Fills the disk but for about `free` bytes.
fn fill(disk: &Path, free: u64) -> PathBuf {
    let path = disk.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for block in [1 << 16, 1 << 12, 1] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
    let length = file.metadata().unwrap().len();
    file.set_len(length.saturating_sub(free)).unwrap();
    path
}
