//! Trees are kept as they were committed, and never outlive the texts they are of.

use edgewise_catalog::{Batch, Catalog, CatalogError, NodeRow, OpenMode, TreeCommit, TreeVersion};
use edgewise_types::{ChunkId, DocumentId, Member, NodeId, TreeScope};

use super::{build, collection_part, document_part, meta, node, summary, versioned};

fn filled(path: &std::path::Path) -> Catalog {
    let catalog = Catalog::create(path, &meta()).unwrap();
    let upserts = vec![versioned("a", 1, 7), versioned("b", 1, 1), versioned("c", 1, 4), versioned("d", 1, 0)];
    catalog.commit(&Batch { upserts, deletes: Vec::new() }).unwrap();
    catalog
}

fn id(uri: &str) -> DocumentId {
    DocumentId::from_uri(uri)
}

fn scope(uri: &str) -> TreeScope {
    TreeScope::Document(id(uri))
}

/// All rows with whether they may be shown.
fn served(catalog: &Catalog) -> Vec<(NodeRow, Option<DocumentId>, bool)> {
    let rows: Vec<NodeRow> = catalog.tree_shape().unwrap().nodes.iter().map(|node| node.row).collect();
    let nodes = catalog.tree_nodes(&rows).unwrap();
    assert_eq!(nodes.len(), rows.len());
    nodes.into_iter().map(|node| (node.row, node.document, node.leaves.is_some())).collect()
}

#[test]
fn a_tree_comes_back_as_it_was_committed_and_leaves_the_generation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let catalog = filled(&path);
    assert_eq!(catalog.tree_part(&scope("a")).unwrap(), None);
    assert!(!catalog.tree_overview().unwrap().complete());
    build(&catalog);
    assert_eq!(catalog.generation().unwrap().0, 1);
    assert_eq!(catalog.tree_version().unwrap(), TreeVersion(5));
    assert_eq!(catalog.check().unwrap(), Vec::<String>::new());

    let expected = document_part(&catalog, &id("a"));
    let part = catalog.tree_part(&scope("a")).unwrap().unwrap();
    assert_eq!((&part.nodes, part.root, part.changed), (&expected.nodes, expected.root, expected.changed));
    assert_eq!((part.current, part.summariser.as_str()), (true, "test"));
    let alone = catalog.tree_part(&scope("b")).unwrap().unwrap();
    assert!(alone.nodes.is_empty() && matches!(alone.root, Some(Member::Leaf(_))));
    let empty = catalog.tree_part(&scope("d")).unwrap().unwrap();
    assert!(empty.nodes.is_empty() && empty.root.is_none() && empty.current);
    let overview = catalog.tree_overview().unwrap();
    assert!(overview.complete());
    assert_eq!(overview.nodes(), overview.documents.iter().map(|d| d.part.as_ref().unwrap().nodes).sum::<usize>() + 1);

    // The root of the collection has every chunk, in the order of documents and texts.
    let root = catalog.tree_part(&TreeScope::Collection).unwrap().unwrap().root;
    let Some(Member::Node(root)) = root else { panic!("{root:?}") };
    let row = catalog.tree_node_row(&root).unwrap().unwrap();
    let nodes = catalog.tree_nodes(&[row, NodeRow(1000)]).unwrap();
    let all: Vec<ChunkId> = catalog.chunk_documents().unwrap().into_iter().map(|(chunk, _)| chunk).collect();
    assert_eq!(nodes[0].leaves.as_ref(), Some(&all));
    assert_eq!((nodes.len(), &nodes[0].document, nodes[0].title.as_str()), (1, &None, ""));
    assert!(served(&catalog).iter().all(|(_, _, served)| *served));

    // Committed again as it is, nothing moves.
    let shape = catalog.tree_shape().unwrap();
    let again = vec![document_part(&catalog, &id("a")), collection_part(&catalog)];
    catalog.commit_tree(&TreeCommit { parts: again }).unwrap();
    assert_eq!(catalog.tree_shape().unwrap().nodes, shape.nodes);
    let changes = catalog.tree_changes_since(TreeVersion(5)).unwrap();
    assert!(changes.added.is_empty() && changes.removed.is_empty(), "{changes:?}");
    assert!(catalog.tree_overview().unwrap().complete());
    drop(catalog);
    let catalog = Catalog::open(&path, OpenMode::ReadOnly).unwrap();
    assert_eq!(catalog.tree_shape().unwrap().nodes, shape.nodes);
    assert!(matches!(
        catalog.commit_tree(&TreeCommit { parts: vec![collection_part_of(&catalog)] }),
        Err(CatalogError::ReadOnly { .. })
    ));
}

/// As it is kept.
fn collection_part_of(catalog: &Catalog) -> edgewise_catalog::NewTreePart {
    let part = catalog.tree_part(&TreeScope::Collection).unwrap().unwrap();
    edgewise_catalog::NewTreePart {
        scope: part.scope,
        leaves: Vec::new(),
        nodes: part.nodes,
        root: part.root,
        changed: part.changed,
        summariser: part.summariser,
    }
}

#[test]
fn a_tree_goes_with_the_text_it_is_of_and_is_remembered_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = filled(&folder.path().join("catalog.sqlite"));
    build(&catalog);
    let (before, former) = (catalog.tree_version().unwrap(), catalog.tree_part(&scope("a")).unwrap().unwrap());
    let replaced = Batch { upserts: vec![versioned("a", 2, 5)], deletes: vec![id("a")] };
    catalog.commit(&replaced).unwrap();
    assert_eq!(catalog.tree_version().unwrap().0, before.0 + 1);
    assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
    let remembered = catalog.tree_part(&scope("a")).unwrap().unwrap();
    assert!(!remembered.current);
    assert_eq!((remembered.nodes, remembered.root), (former.nodes.clone(), former.root));
    let overview = catalog.tree_overview().unwrap();
    assert!(
        !overview.collection_current && overview.documents[0].part.is_none() && overview.documents[1].part.is_some()
    );
    // What is above it may not be shown; the other documents' nodes may.
    let nodes = served(&catalog);
    assert!(nodes.iter().all(|(_, document, served)| *served == document.is_some()), "{nodes:?}");
    assert!(nodes.iter().all(|(_, document, _)| *document != Some(id("a"))));

    // Written once more before it was built: the tree it had is still the one remembered.
    catalog.commit(&Batch { upserts: vec![versioned("a", 3, 5)], deletes: Vec::new() }).unwrap();
    assert_eq!(catalog.tree_part(&scope("a")).unwrap().unwrap().nodes, former.nodes);
    // Its summaries are kept for it too.
    assert_eq!(catalog.sweep_summaries().unwrap(), 0);
    build(&catalog);
    assert!(catalog.tree_part(&scope("a")).unwrap().unwrap().current);
    assert!(catalog.tree_overview().unwrap().complete());
    assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
    assert!(catalog.sweep_summaries().unwrap() > 0);
    assert!(former.nodes.iter().all(|node| catalog.summary(&node.summary).unwrap().is_none()));

    // Deleted, nothing is remembered, also not for a document of the same name.
    catalog.commit(&Batch { upserts: Vec::new(), deletes: vec![id("a")] }).unwrap();
    assert_eq!(catalog.tree_part(&scope("a")).unwrap(), None);
    assert!(served(&catalog).iter().all(|(_, document, served)| *served == document.is_some()));
    catalog.commit(&Batch { upserts: vec![versioned("a", 1, 7)], deletes: Vec::new() }).unwrap();
    assert_eq!(catalog.tree_part(&scope("a")).unwrap(), None);
    // The collection's layers tell an update what belonged together.
    let above = catalog.tree_part(&TreeScope::Collection).unwrap().unwrap();
    assert!(!above.current && !above.nodes.is_empty());

    // A document that is only added leaves the layers above to be shown, but not current.
    build(&catalog);
    catalog.commit(&Batch { upserts: vec![versioned("e", 1, 2)], deletes: Vec::new() }).unwrap();
    assert!(!catalog.tree_overview().unwrap().collection_current);
    assert!(served(&catalog).iter().all(|(_, _, served)| *served));
    let version = catalog.tree_version().unwrap();
    catalog.commit(&Batch { upserts: vec![versioned("f", 1, 2)], deletes: Vec::new() }).unwrap();
    assert_eq!(catalog.tree_version().unwrap(), version, "nothing of the tree changed");

    catalog.clear_tree().unwrap();
    assert_eq!((catalog.tree_shape().unwrap().nodes.len(), catalog.tree_overview().unwrap().nodes()), (0, 0));
    assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
    assert!(catalog.sweep_summaries().unwrap() > 0);
    assert_eq!(catalog.tree_overview().unwrap().summaries, 0);
}

#[test]
fn a_part_of_other_chunks_is_refused_as_out_of_date() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = filled(&folder.path().join("catalog.sqlite"));
    let (a, c) = (document_part(&catalog, &id("a")), document_part(&catalog, &id("c")));
    catalog.commit_tree(&TreeCommit { parts: vec![a.clone(), c.clone()] }).unwrap();
    let above = collection_part(&catalog);
    catalog.commit(&Batch { upserts: vec![versioned("a", 2, 7)], deletes: vec![id("c")] }).unwrap();
    let shape = catalog.tree_shape().unwrap();
    for parts in [vec![a], vec![c], vec![above]] {
        let result = catalog.commit_tree(&TreeCommit { parts });
        assert!(matches!(result, Err(CatalogError::StaleTree { .. })), "{result:?}");
    }
    assert_eq!(catalog.tree_shape().unwrap(), shape);
}

#[test]
fn layers_that_lack_a_document_are_kept_but_not_current() {
    let folder = tempfile::tempdir().unwrap();
    let catalog = filled(&folder.path().join("catalog.sqlite"));
    for uri in ["a", "b", "d"] {
        catalog.commit_tree(&TreeCommit { parts: vec![document_part(&catalog, &id(uri))] }).unwrap();
    }
    let above = collection_part(&catalog);
    catalog.commit_tree(&TreeCommit { parts: vec![above.clone()] }).unwrap();
    assert!(!catalog.tree_overview().unwrap().collection_current, "`c` has no tree");
    let c = document_part(&catalog, &id("c"));
    catalog.commit_tree(&TreeCommit { parts: vec![c, above] }).unwrap();
    assert!(!catalog.tree_overview().unwrap().collection_current, "`c` is not below");
    catalog.commit_tree(&TreeCommit { parts: vec![collection_part(&catalog)] }).unwrap();
    assert!(catalog.tree_overview().unwrap().collection_current);
    // Another tree of a document, with another root, takes it away again.
    let mut flat = document_part(&catalog, &id("a"));
    let members = flat.leaves.iter().map(|(leaf, _)| Member::Leaf(*leaf)).collect();
    flat.nodes = vec![node(&catalog, &scope("a"), 1, members)];
    flat.root = Some(Member::Node(flat.nodes[0].id));
    catalog.commit_tree(&TreeCommit { parts: vec![flat] }).unwrap();
    assert!(!catalog.tree_overview().unwrap().collection_current);
    let hidden = served(&catalog).into_iter().filter(|(_, _, served)| !served).count();
    assert_eq!(hidden, 1, "the collection's root summarises a root that is gone");
    assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
}

#[test]
fn a_part_that_contradicts_itself_changes_nothing() {
    type Break = fn(&Catalog, &mut edgewise_catalog::NewTreePart);
    let folder = tempfile::tempdir().unwrap();
    let catalog = filled(&folder.path().join("catalog.sqlite"));
    build(&catalog);
    let shape = catalog.tree_shape().unwrap();
    let breaks: [(&str, Break); 10] = [
        ("level", |_, part| part.nodes[0].level = 2),
        ("no members", |_, part| part.nodes[0].members.clear()),
        ("a member twice", |_, part| {
            let member = part.nodes[0].members[0];
            part.nodes[0].members.push(member);
        }),
        ("unknown member", |_, part| part.nodes[0].members.push(Member::Node(NodeId::of([b"x".as_slice()])))),
        ("above its members", |_, part| part.nodes.reverse()),
        ("summary that is not kept", |_, part| part.nodes[0].summary = summary("never put").key),
        ("there twice", |_, part| part.nodes.push(part.nodes[0].clone())),
        ("root", |_, part| part.root = None),
        ("a leaf left out", |_, part| part.nodes[0].members.truncate(1)),
        ("in another scope", |catalog, part| {
            let other = catalog.tree_part(&scope("c")).unwrap().unwrap().nodes[0].id;
            let first = part.nodes[0].id;
            for node in &mut part.nodes {
                node.members.iter_mut().filter(|m| **m == Member::Node(first)).for_each(|m| *m = Member::Node(other));
            }
            part.nodes[0].id = other;
        }),
    ];
    for (name, change) in breaks {
        let mut part = document_part(&catalog, &id("a"));
        change(&catalog, &mut part);
        let result = catalog.commit_tree(&TreeCommit { parts: vec![part] });
        assert!(matches!(result, Err(CatalogError::InvalidTree { .. })), "{name}: {result:?}");
    }
    let (a, above) = (document_part(&catalog, &id("a")), collection_part(&catalog));
    for parts in [vec![a.clone(), a.clone()], vec![above, a]] {
        let result = catalog.commit_tree(&TreeCommit { parts });
        assert!(matches!(result, Err(CatalogError::InvalidTree { .. })), "{result:?}");
    }
    for embedding in [vec![1.0], vec![2.0, 0.0, 0.0]] {
        let result = catalog.put_summary(&edgewise_catalog::SummaryRecord { embedding, ..summary("wrong") });
        assert!(matches!(result, Err(CatalogError::InvalidTree { .. })), "{result:?}");
    }
    assert_eq!(catalog.tree_shape().unwrap(), shape);
    assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
}

#[test]
fn a_changed_letter_of_a_tree_is_found_wherever_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("catalog.sqlite");
    let catalog = filled(&path);
    build(&catalog);
    catalog.commit(&Batch { upserts: vec![versioned("c", 2, 4)], deletes: vec![id("b")] }).unwrap();
    drop(catalog);
    let sound = std::fs::read(&path).unwrap();
    for change in [
        "UPDATE summaries SET text = text || 'x' WHERE row = 2",
        "UPDATE summaries SET vector = x'0000803f0000000000000000' WHERE row = 1",
        "UPDATE summaries SET method = 'abstractive' WHERE row = 1",
        "UPDATE tree_nodes SET ordinal = ordinal + 1",
        "UPDATE tree_nodes SET level = 2 WHERE level = 1",
        "UPDATE tree_members SET ordinal = ordinal + 10",
        "UPDATE tree_members SET target = target + 1 WHERE ordinal = 0",
        "DELETE FROM tree_members WHERE ordinal = 1",
        "DELETE FROM tree_nodes WHERE row = 1",
        "UPDATE tree_parts SET changed = 5",
        "UPDATE tree_parts SET summariser = 'another'",
        "DELETE FROM tree_parts WHERE scope = 1",
        "UPDATE tree_former SET part = replace(part, 'test', 'fest')",
        "UPDATE tree_tombstones SET added_in = added_in - 1 WHERE added_in > 1",
        "DELETE FROM tree_tombstones",
        "UPDATE tree_state SET version = version + 1",
        "UPDATE tree_state SET collection_current = 1",
    ] {
        let connection = rusqlite::Connection::open(&path).unwrap();
        assert!(connection.execute(change, []).unwrap() > 0, "{change}");
        drop(connection);
        match Catalog::open(&path, OpenMode::ReadOnly).and_then(|catalog| catalog.check()) {
            Ok(findings) => assert!(!findings.is_empty(), "{change}"),
            Err(error) => assert!(matches!(error, CatalogError::Damaged { .. }), "{change}: {error}"),
        }
        std::fs::write(&path, &sound).unwrap();
    }
}

#[test]
fn copies_keep_the_tree() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let catalog = filled(&at("first"));
    build(&catalog);
    catalog.commit(&Batch { upserts: vec![versioned("c", 2, 4)], deletes: Vec::new() }).unwrap();
    let (shape, remembered) = (catalog.tree_shape().unwrap(), catalog.tree_part(&scope("c")).unwrap());
    assert!(catalog.compact().unwrap());
    assert_eq!(catalog.tree_shape().unwrap(), shape);
    catalog.export(&at("export")).unwrap();
    let second = Catalog::import(&at("export"), &at("second"), &"second".parse().unwrap()).unwrap();
    assert_eq!((second.tree_shape().unwrap(), second.tree_part(&scope("c")).unwrap()), (shape.clone(), remembered));
    catalog.rename(&"third".parse().unwrap()).unwrap();
    for catalog in [catalog, second] {
        assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
        assert_eq!(catalog.tree_shape().unwrap(), shape);
        build(&catalog);
        assert!(catalog.tree_overview().unwrap().complete());
    }
}
