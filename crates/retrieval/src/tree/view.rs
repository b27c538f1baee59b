//! Nodes with their texts and members, for people to look at.
//!
//! Only what is current is shown: a node that summarises a text that is gone must not quote it.

use std::collections::{BTreeSet, HashMap};

use edgewise_catalog::{Below, NodeRow, ShapeNode, TreeNodeRecord, TreeOverview};
use edgewise_types::{Chunk, ChunkId, DocumentId, Member, NodeId};

use crate::{Collection, RetrievalError, TreeItem, TreeLeaf, TreeNode, TreeView, error::of, state::State};

/// Roots of documents shown where there is no current root above them.
const MOST_ROOTS: usize = 500;

/// Which part of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TreeScopeView {
    /// All of it, from the collection's root.
    All,
    /// The tree of one document.
    Document(DocumentId),
    /// A node and what is below it.
    Node(NodeId),
}

impl Collection {
    /// A part of the tree: its roots and `depth` levels below them, texts cut after `text_chars` characters.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownDocument`]; [`RetrievalError::UnknownTreeNode`] if there is no such node, or it is of texts
    /// that are gone.
    pub fn tree(
        &self,
        scope: &TreeScopeView,
        depth: usize,
        text_chars: Option<usize>,
    ) -> Result<TreeView, RetrievalError> {
        let fail = of(self.name());
        let status = self.tree_status()?;
        let state = self.current()?;
        let overview = state.catalog().tree_overview().map_err(&fail)?;
        let shape = state.catalog().tree_shape().map_err(&fail)?;
        let view = Viewer {
            collection: self,
            state: &state,
            shape: shape.nodes.iter().map(|node| (node.row, node)).collect(),
            uris: overview.documents.iter().map(|tree| (&tree.document, tree.uri.as_str())).collect(),
            roots: roots(&overview),
            documents: match overview.collection {
                Some(_) => state.catalog().chunk_documents().map_err(&fail)?.into_iter().collect(),
                None => HashMap::new(),
            },
            text_chars,
        };
        let (below, more_documents) = match scope {
            TreeScopeView::All => view.top(&overview)?,
            TreeScopeView::Document(document) => {
                let tree = overview.documents.iter().find(|tree| tree.document == *document);
                let tree = tree.ok_or_else(|| self.unknown_document(document))?;
                let root = tree.part.as_ref().and_then(|part| part.root);
                (view.place(document, root)?.into_iter().collect(), 0)
            }
            TreeScopeView::Node(id) => {
                let row = state.catalog().tree_node_row(id).map_err(&fail)?;
                (row.map(Below::Node).into_iter().collect(), 0)
            }
        };
        let roots = view.items(&below, depth)?;
        match scope {
            TreeScopeView::Node(id) if roots.is_empty() => {
                Err(RetrievalError::UnknownTreeNode { collection: self.name().clone(), node: id.to_string() })
            }
            _ => Ok(TreeView { status, roots, more_documents }),
        }
    }

    /// The node whose id begins with `prefix`.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownTreeNode`] if there is none, or more than one.
    pub fn tree_node_id(&self, prefix: &str) -> Result<NodeId, RetrievalError> {
        let fail = of(self.name());
        let unknown = || RetrievalError::UnknownTreeNode { collection: self.name().clone(), node: prefix.to_owned() };
        if let Ok(id) = prefix.parse() {
            return Ok(id);
        }
        let state = self.current()?;
        let rows: Vec<NodeRow> =
            state.catalog().tree_shape().map_err(&fail)?.nodes.into_iter().map(|node| node.row).collect();
        let mut found = None;
        for batch in rows.chunks(500) {
            for node in state.catalog().tree_node_texts(batch).map_err(&fail)? {
                if node.id.to_string().starts_with(prefix) && found.replace(node.id).is_some() {
                    return Err(unknown());
                }
            }
        }
        found.ok_or_else(unknown)
    }
}

/// Ids of all roots.
fn roots(overview: &TreeOverview) -> BTreeSet<NodeId> {
    let parts = overview.documents.iter().filter_map(|tree| tree.part.as_ref()).chain(&overview.collection);
    let ids = parts.filter_map(|part| match part.root {
        Some(Member::Node(id)) => Some(id),
        _ => None,
    });
    ids.collect()
}

struct Viewer<'a> {
    collection: &'a Collection,
    state: &'a State,
    shape: HashMap<NodeRow, &'a ShapeNode>,
    uris: HashMap<&'a DocumentId, &'a str>,
    roots: BTreeSet<NodeId>,
    /// The document of each chunk; only filled where there are layers above documents.
    documents: HashMap<ChunkId, DocumentId>,
    text_chars: Option<usize>,
}

impl Viewer<'_> {
    /// Where the root of a document is kept.
    fn place(&self, document: &DocumentId, root: Option<Member>) -> Result<Option<Below>, RetrievalError> {
        let fail = of(self.collection.name());
        Ok(match root {
            None => None,
            Some(Member::Node(id)) => self.state.catalog().tree_node_row(&id).map_err(fail)?.map(Below::Node),
            // Only a document of a single chunk has a leaf as its root.
            Some(Member::Leaf(_)) => {
                let chunks = self.state.catalog().chunk_ids_of(std::slice::from_ref(document)).map_err(fail)?;
                chunks.first().copied().map(Below::Chunk)
            }
        })
    }

    /// The collection's root, or those of its documents, and how many of them are left out.
    fn top(&self, overview: &TreeOverview) -> Result<(Vec<Below>, usize), RetrievalError> {
        if let Some(part) = overview.collection.as_ref().filter(|_| overview.collection_current)
            && let Some(Member::Node(id)) = part.root
        {
            let row = self.state.catalog().tree_node_row(&id).map_err(of(self.collection.name()))?;
            return Ok((row.map(Below::Node).into_iter().collect(), 0));
        }
        let with_root: Vec<_> =
            overview.documents.iter().filter_map(|tree| Some((&tree.document, tree.part.as_ref()?.root?))).collect();
        let mut below = Vec::new();
        for (document, root) in with_root.iter().take(MOST_ROOTS) {
            below.extend(self.place(document, Some(*root))?);
        }
        Ok((below, with_root.len().saturating_sub(MOST_ROOTS)))
    }

    fn text(&self, text: &str) -> String {
        let end = self.text_chars.and_then(|most| text.char_indices().nth(most));
        end.map_or_else(|| text.to_owned(), |(end, _)| format!("{}…", text[..end].trim_end()))
    }

    /// Those of `below` that are current, with what is below them.
    fn items(&self, below: &[Below], depth: usize) -> Result<Vec<TreeItem>, RetrievalError> {
        let fail = of(self.collection.name());
        let catalog = self.state.catalog();
        let (mut rows, mut chunks) = (Vec::new(), Vec::new());
        for item in below {
            match item {
                Below::Node(row) => rows.push(*row),
                Below::Chunk(chunk) => chunks.push(*chunk),
            }
        }
        let nodes = catalog.tree_nodes(&rows).map_err(&fail)?;
        let mut nodes: HashMap<NodeRow, TreeNodeRecord> = nodes.into_iter().map(|node| (node.row, node)).collect();
        let chunks = catalog.chunks(&chunks).map_err(&fail)?;
        let mut chunks: HashMap<ChunkId, Chunk> = chunks.into_iter().map(|chunk| (chunk.id, chunk)).collect();
        let mut items = Vec::with_capacity(below.len());
        for item in below {
            match item {
                Below::Chunk(id) => items.extend(chunks.remove(id).map(|chunk| TreeItem::Leaf(self.leaf(chunk)))),
                Below::Node(row) => {
                    if let Some(node) = nodes.remove(row) {
                        items.extend(self.node(node, depth)?.map(|node| TreeItem::Node(Box::new(node))));
                    }
                }
            }
        }
        Ok(items)
    }

    fn leaf(&self, chunk: Chunk) -> TreeLeaf {
        TreeLeaf {
            chunk: chunk.id,
            uri: self.uris.get(&chunk.document).copied().unwrap_or_default().to_owned(),
            text: self.text(&chunk.text),
            document: chunk.document,
            heading_path: chunk.heading_path,
            tokens: chunk.generator_tokens,
        }
    }

    fn node(&self, node: TreeNodeRecord, depth: usize) -> Result<Option<TreeNode>, RetrievalError> {
        // Something below it is gone.
        let Some(leaves) = node.leaves else { return Ok(None) };
        let members = self.shape.get(&node.row).map_or(&[][..], |shape| &shape.members);
        let documents = match node.document {
            Some(_) => 1,
            None => leaves.iter().filter_map(|chunk| self.documents.get(chunk)).collect::<BTreeSet<_>>().len(),
        };
        let below = if depth > 0 { Some(self.items(members, depth - 1)?) } else { None };
        Ok(Some(TreeNode {
            id: node.id,
            level: node.level,
            uri: node.document.as_ref().and_then(|id| self.uris.get(id)).map(|uri| (*uri).to_owned()),
            document: node.document,
            root: self.roots.contains(&node.id),
            method: node.summary.method,
            tokens: node.summary.tokens,
            regenerated: node.summary.regenerated,
            text: self.text(&node.summary.text),
            unsupported: node.summary.unsupported,
            leaves: leaves.len(),
            documents,
            member_count: members.len(),
            members: below,
        }))
    }
}
