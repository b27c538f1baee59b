//! The catalog against a model, against bad files, and against being killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod crash;
mod faults;
mod jobs;
mod migrate;
mod model;
mod tree;

use std::collections::BTreeMap;

use edgewise_catalog::{
    Catalog, CatalogMeta, EmbedderIdentity, NewChunk, NewDocument, NewTreePart, SummaryRecord, TreeCommit, TreeNode,
};
use edgewise_types::{
    Chunk, ChunkId, ContentHash, DocumentId, LeafId, Member, Metadata, MetadataValue, NodeId, PageMap, Span,
    SummaryKey, SummaryMethod, TreeScope, Usage,
};
use jiff::Timestamp;

const DIMENSION: usize = 3;

/// What a test does to a sound document.
type Change = fn(&mut NewDocument);

fn meta() -> CatalogMeta {
    CatalogMeta {
        collection: "test".parse().unwrap(),
        profile: "language = \"english\"\n".to_owned(),
        embedder: EmbedderIdentity { model: "tiny".to_owned(), digest: "00".to_owned(), dimension: DIMENSION },
        generator_tokenizer: "tiny".to_owned(),
    }
}

/// A document whose chunks are `chunk_chars` characters each.
fn document(uri: &str, text: &str, chunk_chars: usize) -> NewDocument {
    let mut bounds: Vec<usize> = text.char_indices().map(|(at, _)| at).step_by(chunk_chars).collect();
    bounds.push(text.len());
    bounds.dedup();
    let chunks = bounds
        .windows(2)
        .enumerate()
        .map(|(ordinal, pair)| {
            let angle = (ordinal + text.len()) as f32;
            NewChunk {
                span: Span::new(pair[0], pair[1]),
                section: Span::new(if ordinal % 2 == 0 { 0 } else { pair[0] }, text.len()),
                heading_path: vec![uri.to_uppercase(); ordinal % 3],
                embedder_tokens: ordinal + 3,
                generator_tokens: ordinal + 2,
                embedding: vec![angle.cos(), angle.sin(), 0.0],
            }
        })
        .collect();
    NewDocument {
        uri: uri.to_owned(),
        title: format!("Title of {uri}"),
        media_type: "text/plain".to_owned(),
        content_hash: ContentHash::of(text.as_bytes()),
        tokens: text.chars().count(),
        metadata: Metadata::from([("length".to_owned(), MetadataValue::Integer(text.len() as i64))]),
        updated_at: Timestamp::from_second(1_700_000_000 + text.len() as i64).unwrap(),
        text: text.to_owned(),
        // Every other document has pages, as long as a chunk and a half.
        pages: PageMap::new((0..text.len() * (text.len() % 2)).step_by(chunk_chars + chunk_chars / 2).collect()),
        chunks,
    }
}

/// The document `uri` at its version `version`, of `chunks` chunks.
fn versioned(uri: &str, version: usize, chunks: usize) -> NewDocument {
    document(uri, &"xyz".repeat(chunks).replace('y', &version.to_string()), 2 + version.to_string().len())
}

/// A summary made by nobody in particular.
fn summary(text: &str) -> SummaryRecord {
    SummaryRecord {
        key: SummaryKey::of([text.as_bytes()]),
        text: text.to_owned(),
        method: SummaryMethod::Extractive,
        tokens: text.len(),
        embedding: vec![0.6, 0.8, 0.0],
        usage: Usage::default(),
        regenerated: 0,
        unsupported: Vec::new(),
    }
}

/// A node over `members`, whose summary is kept first.
fn node(catalog: &Catalog, scope: &TreeScope, level: u32, members: Vec<Member>) -> TreeNode {
    let summary = summary(&format!("{scope:?} {members:?}"));
    catalog.put_summary(&summary).unwrap();
    let id = NodeId::of([format!("{scope:?}").as_bytes(), format!("{members:?}").as_bytes(), &summary.key.0]);
    TreeNode { id, level, members, summary: summary.key }
}

/// A tree over the document as it is: pairs of leaves that overlap by one, pairs of these, and so on to the root.
fn document_part(catalog: &Catalog, id: &DocumentId) -> NewTreePart {
    let scope = TreeScope::Document(id.clone());
    let chunks = catalog.chunks_of(id).unwrap();
    let leaf = |chunk: &Chunk| {
        let same = chunks[..chunk.ordinal].iter().filter(|before| before.text == chunk.text).count();
        LeafId::of([id.as_str().as_bytes(), chunk.text.as_bytes(), &[same as u8]])
    };
    let leaves: Vec<(LeafId, ChunkId)> = chunks.iter().map(|chunk| (leaf(chunk), chunk.id)).collect();
    let members = leaves.iter().map(|(leaf, _)| Member::Leaf(*leaf)).collect();
    let (nodes, root) = layers(catalog, &scope, 0, members);
    NewTreePart { scope, leaves, nodes, root, changed: 0, summariser: "test".to_owned() }
}

/// The layers above the documents that have a part.
fn collection_part(catalog: &Catalog) -> NewTreePart {
    let overview = catalog.tree_overview().unwrap();
    let parts = overview.documents.iter().filter_map(|document| document.part.as_ref());
    let level = parts.clone().map(|part| part.level).max().unwrap_or(0);
    let (nodes, root) = layers(catalog, &TreeScope::Collection, level, parts.filter_map(|part| part.root).collect());
    NewTreePart {
        scope: TreeScope::Collection,
        leaves: Vec::new(),
        nodes,
        root,
        changed: 0,
        summariser: "test".to_owned(),
    }
}

/// Windows of three members, moved by two, until one is left. The lowest layer's level is wrong where members of different
/// levels meet, so levels are counted.
fn layers(
    catalog: &Catalog,
    scope: &TreeScope,
    highest: u32,
    mut members: Vec<Member>,
) -> (Vec<TreeNode>, Option<Member>) {
    let mut levels: BTreeMap<Member, u32> = BTreeMap::new();
    if *scope == TreeScope::Collection {
        for document in catalog.tree_overview().unwrap().documents {
            let Some(part) = document.part else { continue };
            levels.extend(part.root.map(|root| (root, part.level)));
        }
    }
    assert!(levels.values().all(|level| *level <= highest));
    let mut nodes = Vec::new();
    while members.len() > 1 {
        let windows: Vec<Vec<Member>> =
            (0..members.len() - 1).step_by(2).map(|at| members[at..(at + 3).min(members.len())].to_vec()).collect();
        members.clear();
        for window in windows {
            let level = 1 + window.iter().map(|member| levels.get(member).copied().unwrap_or(0)).max().unwrap();
            let node = node(catalog, scope, level, window);
            levels.insert(Member::Node(node.id), level);
            members.push(Member::Node(node.id));
            nodes.push(node);
        }
    }
    (nodes, members.first().copied())
}

/// Commits the trees of all documents that have none, then the layers above.
fn build(catalog: &Catalog) {
    for document in catalog.tree_overview().unwrap().documents {
        if document.part.is_none() {
            let part = document_part(catalog, &document.document);
            catalog.commit_tree(&TreeCommit { parts: vec![part] }).unwrap();
        }
    }
    catalog.commit_tree(&TreeCommit { parts: vec![collection_part(catalog)] }).unwrap();
}
