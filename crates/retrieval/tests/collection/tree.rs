//! Summaries are found beside chunks, and never outlive the texts they are of.

use std::{
    collections::{BTreeSet, HashSet},
    path::Path,
};

use edgewise_catalog::{Catalog, NewTreePart, OpenMode, SummaryRecord, TreeCommit, TreeNode};
use edgewise_documents::IndexProfile;
use edgewise_model_api::Embedder;
use edgewise_retrieval::{
    Collection, Filter, IngestOptions, Picked, RetrievalError, Silent, TreeMode, TreeResults, TreeSearchRequest,
};
use edgewise_test_support::HashEmbedder;
use edgewise_types::{ChunkId, DocumentId, LeafId, Member, NodeId, SummaryKey, SummaryMethod, TreeScope, Usage};

use crate::support::{guide, ingest, name, open, source};

const ANIMALS: &[(&str, &str)] = &[
    (
        "whales.md",
        "# Whales\n\nWhales sing under water in long songs that carry for hundreds of kilometres through the sea.\n\n## Food\n\nThey eat krill which they filter from the water in very large amounts on every single day.\n\n## Travel\n\nEvery year they travel from the poles to warm seas and back again to raise their calves.",
    ),
    (
        "owls.md",
        "# Owls\n\nOwls hunt at night and hear a mouse under snow from far away without seeing it at all.\n\n## Flight\n\nTheir feathers make no sound in flight because the edges of their wings are soft like combs.",
    ),
    ("note.txt", "A single remark on badgers."),
];

fn profile() -> IndexProfile {
    let mut profile = IndexProfile::default();
    profile.chunk.max_tokens = 24;
    profile.chunk.target_tokens = 20;
    profile.chunk.overlap_tokens = 0;
    profile
}

fn filled(root: &Path) -> std::sync::Arc<Collection> {
    let collection = open(root).get_or_create(&name(), &profile()).unwrap();
    ingest(&collection, ANIMALS);
    collection
}

fn catalog(root: &Path) -> Catalog {
    Catalog::open(&root.join("guide/catalog.sqlite"), OpenMode::ReadWrite).unwrap()
}

fn node(catalog: &Catalog, scope: &TreeScope, level: u32, members: Vec<Member>, text: &str) -> TreeNode {
    let key = SummaryKey::of([text.as_bytes()]);
    let embedding = HashEmbedder::new().embed(&[text]).unwrap().remove(0);
    let summary = SummaryRecord {
        key,
        text: text.to_owned(),
        method: SummaryMethod::Extractive,
        tokens: text.split_whitespace().count(),
        embedding,
        usage: Usage::default(),
        regenerated: 0,
        unsupported: Vec::new(),
    };
    catalog.put_summary(&summary).unwrap();
    let id = NodeId::of([format!("{scope:?} {members:?}").as_bytes(), &key.0]);
    TreeNode { id, level, members, summary: key }
}

/// A tree in which each document of several chunks has one node, and all documents one root.
fn grow(root: &Path) {
    let catalog = catalog(root);
    let mut roots = Vec::new();
    for document in catalog.documents(None, 100).unwrap() {
        let scope = TreeScope::Document(document.id.clone());
        let chunks = catalog.chunks_of(&document.id).unwrap();
        let leaves: Vec<(LeafId, ChunkId)> = chunks
            .iter()
            .map(|chunk| (LeafId::of([document.uri.as_bytes(), &chunk.ordinal.to_le_bytes()]), chunk.id))
            .collect();
        let members: Vec<Member> = leaves.iter().map(|(leaf, _)| Member::Leaf(*leaf)).collect();
        let nodes = match members.as_slice() {
            [_] => Vec::new(),
            _ => {
                vec![node(&catalog, &scope, 1, members.clone(), &format!("Overview of what {} says.", document.title))]
            }
        };
        let top = nodes.last().map_or(members[0], |node| Member::Node(node.id));
        roots.push(top);
        let part = NewTreePart { scope, leaves, nodes, root: Some(top), changed: 0, summariser: "test".to_owned() };
        catalog.commit_tree(&TreeCommit { parts: vec![part] }).unwrap();
    }
    let level = if roots.iter().all(|root| matches!(root, Member::Leaf(_))) { 1 } else { 2 };
    let top = node(&catalog, &TreeScope::Collection, level, roots, "Overview of all animals of the guide.");
    let root = Some(Member::Node(top.id));
    let part = NewTreePart {
        scope: TreeScope::Collection,
        leaves: Vec::new(),
        nodes: vec![top],
        root,
        changed: 0,
        summariser: "test".to_owned(),
    };
    catalog.commit_tree(&TreeCommit { parts: vec![part] }).unwrap();
}

fn request(query: &str, budget: usize, breadth: f32) -> TreeSearchRequest {
    TreeSearchRequest { breadth, ..TreeSearchRequest::new(query, budget) }
}

fn find(collection: &Collection, query: &str, budget: usize, breadth: f32) -> TreeResults {
    collection.search_tree(&request(query, budget, breadth)).unwrap()
}

fn levels(results: &TreeResults) -> Vec<u32> {
    results.picks.iter().map(|pick| pick.level).collect()
}

fn leaves(results: &TreeResults) -> BTreeSet<ChunkId> {
    results.picks.iter().flat_map(|pick| pick.leaves.iter().copied()).collect()
}

#[test]
fn the_whole_is_told_by_summaries_and_a_detail_by_its_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let collection = filled(folder.path());
    let standing = collection.tree_standing().unwrap();
    assert_eq!((standing.nodes, standing.current()), (0, false));
    let without = find(&collection, "krill", 200, 1.0);
    assert!(levels(&without).iter().all(|level| *level == 0));
    assert!(without.notes.iter().any(|note| note.contains("edgewise tree build guide")), "{:?}", without.notes);

    grow(folder.path());
    assert!(collection.tree_standing().unwrap().current());
    let all: BTreeSet<ChunkId> = collection.chunk_documents().unwrap().into_iter().map(|(chunk, _)| chunk).collect();
    // So little that one summary of everything fits, then each document's, then all of the texts.
    let note = collection.chunks_of(&DocumentId::from_uri("note.txt")).unwrap()[0].generator_tokens;
    for (budget, expected) in [(7, vec![2]), (2 * 5 + note, vec![1, 1, 0]), (500, vec![0; all.len()])] {
        let results = find(&collection, "What is it all about?", budget, 1.0);
        let mut found = levels(&results);
        found.sort_by(|a, b| b.cmp(a));
        assert_eq!((found, leaves(&results)), (expected, all.clone()), "{budget}");
        assert!(results.tokens <= budget && results.notes.is_empty(), "{results:?}");
        assert_eq!(results.tokens, results.picks.iter().map(|pick| pick.tokens).sum::<usize>());
    }
    let detail = find(&collection, "Which krill do they filter from the water?", 24, 0.0);
    assert!(levels(&detail).iter().all(|level| *level == 0), "{detail:?}");
    assert!(detail.picks[0].text.contains("krill"), "{:?}", detail.picks[0]);
    assert_eq!(detail.picks[0].uri, "whales.md");

    // A summary says where it comes from.
    let whole = find(&collection, "overview of owls", 7, 0.5);
    let owls = &whole.picks[0];
    assert!(matches!(owls.picked, Picked::Node { .. }), "{owls:?}");
    assert_eq!((owls.title.as_str(), owls.level), ("Owls", 1));
    let chunks: Vec<ChunkId> =
        collection.chunks_of(&DocumentId::from_uri("owls.md")).unwrap().iter().map(|c| c.id).collect();
    assert_eq!((&owls.leaves, &owls.documents), (&chunks, &vec![DocumentId::from_uri("owls.md")]));
    assert!(owls.lexical.is_some() && owls.vector.is_some());
    let json = serde_json::to_value(&whole).unwrap();
    assert_eq!(json["picks"][0]["kind"], "node");
    assert_eq!(serde_json::from_value::<TreeResults>(json).unwrap(), whole);
}

#[test]
fn a_summary_goes_with_the_first_of_its_texts() {
    let folder = tempfile::tempdir().unwrap();
    let collection = filled(folder.path());
    grow(folder.path());
    // Another process reads what this one writes.
    let reader = guide(folder.path());
    for process in [&collection, &reader] {
        assert_eq!(levels(&find(process, "overview", 7, 1.0)), [2]);
    }
    collection.delete_document(&DocumentId::from_uri("owls.md")).unwrap();
    for process in [&collection, &reader] {
        for breadth in [0.0, 0.5, 1.0] {
            for mode in [TreeMode::Collapsed, TreeMode::Traversal { beam: 3 }] {
                let request = TreeSearchRequest { mode, ..request("overview of owls and animals", 500, breadth) };
                let results = process.search_tree(&TreeSearchRequest { allow_ancestors: true, ..request }).unwrap();
                assert!(results.picks.iter().all(|pick| pick.level < 2 && pick.uri != "owls.md"), "{results:?}");
                assert!(results.notes.iter().any(|note| note.contains("out of date")), "{:?}", results.notes);
            }
        }
    }
    // Written again with the same text, it is another document to the tree.
    ingest(&collection, ANIMALS);
    let results = find(&reader, "overview of owls", 500, 0.5);
    assert!(results.picks.iter().all(|pick| pick.level == 0 || pick.uri == "whales.md"), "{results:?}");
    assert_eq!(reader.tree_standing().unwrap().without, 1);
    grow(folder.path());
    for process in [&collection, &reader] {
        assert!(process.tree_standing().unwrap().current());
        assert_eq!(levels(&find(process, "overview", 7, 1.0)), [2]);
    }
    let again = guide(folder.path());
    assert_eq!(levels(&find(&again, "overview", 7, 1.0)), [2]);
}

#[test]
fn filters_hold_for_all_of_a_summary_and_budgets_and_kinship_for_all_picks() {
    let folder = tempfile::tempdir().unwrap();
    let collection = filled(folder.path());
    grow(folder.path());
    let whales = DocumentId::from_uri("whales.md");
    let filter: Filter = r#"uri = "whales.md""#.parse().unwrap();
    let inside: HashSet<ChunkId> = collection.chunks_of(&whales).unwrap().iter().map(|chunk| chunk.id).collect();
    for (filter, documents) in [(Some(filter), None), (None, Some(vec![whales]))] {
        for tenth in 0..=10 {
            for mode in [TreeMode::Collapsed, TreeMode::Traversal { beam: 1 }] {
                for budget in [1, 7, 20, 60] {
                    let request = TreeSearchRequest {
                        filter: filter.clone(),
                        documents: documents.clone(),
                        mode,
                        ..request("overview of what they eat", budget, tenth as f32 / 10.0)
                    };
                    let results = collection.search_tree(&request).unwrap();
                    assert!(results.tokens <= budget);
                    assert!(leaves(&results).iter().all(|chunk| inside.contains(chunk)), "{results:?}");
                    assert!(levels(&results).iter().all(|level| *level < 2));
                    let count: usize = results.picks.iter().map(|pick| pick.leaves.len()).sum();
                    assert_eq!(count, leaves(&results).len(), "nothing comes twice, and these nodes share no chunks");
                    assert_eq!(results, TreeResults { embed_ms: results.embed_ms, ..results.clone() });
                }
            }
        }
    }
    let whole = TreeSearchRequest { allow_ancestors: true, ..request("overview of animals", 500, 0.5) };
    // Every chunk, the nodes of two documents, and the root.
    let everything = collection.chunk_documents().unwrap().len() + 3;
    assert_eq!(collection.search_tree(&whole).unwrap().picks.len(), everything);
    for wrong in [
        request(" ", 10, 0.5),
        request("x", 0, 0.5),
        request("x", 10, 1.5),
        request("x", 10, f32::NAN),
        TreeSearchRequest { diversity: Some(2.0), ..request("x", 10, 0.5) },
        TreeSearchRequest { mode: TreeMode::Traversal { beam: 0 }, ..request("x", 10, 0.5) },
        TreeSearchRequest { mode: TreeMode::Traversal { beam: 1000 }, ..request("x", 10, 0.5) },
    ] {
        let error = collection.search_tree(&wrong).unwrap_err();
        assert!(matches!(error, RetrievalError::EmptyQuery | RetrievalError::InvalidRequest(_)), "{error}");
    }
}

#[test]
fn chunks_score_the_same_with_and_without_a_tree() {
    let folder = tempfile::tempdir().unwrap();
    let collection = filled(folder.path());
    let before = collection.search(&crate::support::request("krill in warm seas")).unwrap().hits;
    grow(folder.path());
    find(&collection, "krill in warm seas", 100, 0.5);
    assert_eq!(collection.search(&crate::support::request("krill in warm seas")).unwrap().hits, before);
}

#[test]
fn a_collection_made_anew_keeps_its_summaries() {
    let folder = tempfile::tempdir().unwrap();
    let collection = filled(folder.path());
    grow(folder.path());
    let summaries = catalog(folder.path()).tree_overview().unwrap().summaries;
    let mut other = profile();
    other.chunk.max_tokens = 40;
    other.chunk.target_tokens = 36;
    let options = IngestOptions { profile: Some(other), ..IngestOptions::default() };
    let sources = ANIMALS.iter().map(|(uri, text)| source(uri, text)).collect();
    collection.ingest(sources, &options, &Silent).unwrap();
    let overview = catalog(folder.path()).tree_overview().unwrap();
    assert_eq!((overview.summaries, overview.nodes()), (summaries, 0));
    assert!(find(&collection, "overview", 500, 1.0).picks.iter().all(|pick| pick.level == 0));
    grow(folder.path());
    assert!(collection.tree_standing().unwrap().current());
}
