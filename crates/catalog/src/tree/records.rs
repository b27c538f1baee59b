//! What goes into the tree tables and comes out of them. Plain data without behaviour.

use std::fmt;

use edgewise_types::{ChunkId, DocumentId, LeafId, Member, NodeId, SummaryKey, SummaryMethod, TreeScope, Usage};
use serde::{Deserialize, Serialize};

/// A version of the tree: 0 when there never was one, plus one for each commit that adds or removes a node, or makes the
/// layers above documents current or not. Apart from the generation: a tree changes nothing in any document.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TreeVersion(pub u64);

impl fmt::Display for TreeVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A row of the node table: what derived indexes call a node. Never used twice. A node that is committed again as it was
/// keeps its row; one whose members are other chunks or rows, though equal in content, gets another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeRow(pub u64);

/// A summary, kept by what decides its text.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryRecord {
    /// What decides its text.
    pub key: SummaryKey,
    /// The text.
    pub text: String,
    /// How it came about.
    pub method: SummaryMethod,
    /// Its length in the generator's tokens.
    pub tokens: usize,
    /// Its unit vector, of the catalog's dimension.
    pub embedding: Vec<f32>,
    /// What making it took of a generator.
    pub usage: Usage,
    /// How often it was made again because of what the check found.
    pub regenerated: u32,
    /// What the check found on the way: numbers and names the members do not have.
    pub unsupported: Vec<String>,
}

/// A node of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TreeNode {
    /// Its id.
    pub id: NodeId,
    /// One more than the largest level of its members; chunks have 0.
    pub level: u32,
    /// What it summarises, in order.
    pub members: Vec<Member>,
    /// Its summary, which is kept before the node is committed.
    pub summary: SummaryKey,
}

/// The tree of one scope, to put in the place of what there was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTreePart {
    /// Whose tree it is.
    pub scope: TreeScope,
    /// For a document: each of its chunks by content, in order. For the collection: empty.
    pub leaves: Vec<(LeafId, ChunkId)>,
    /// Members before those that summarise them. Of a document, all leaves and all nodes but the root are members.
    pub nodes: Vec<TreeNode>,
    /// The node or leaf that stands for all of the scope; `None` if there is nothing.
    pub root: Option<Member>,
    /// Members changed since the lowest layer was last clustered in full.
    pub changed: usize,
    /// Who made the summaries.
    pub summariser: String,
}

/// Parts that are committed together; no scope twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeCommit {
    /// The parts, those of documents before the collection's.
    pub parts: Vec<NewTreePart>,
}

/// A part as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreePartRecord {
    /// Whose tree it is.
    pub scope: TreeScope,
    /// Members before those that summarise them.
    pub nodes: Vec<TreeNode>,
    /// The node or leaf that stands for all of the scope.
    pub root: Option<Member>,
    /// As [`NewTreePart::changed`].
    pub changed: usize,
    /// Who made the summaries.
    pub summariser: String,
    /// Whether it is of the documents as they are. If not, nothing of it is served: it names members that are gone and
    /// lacks others, and tells an update where the members belong that are still there.
    pub current: bool,
    /// The version in which it was committed.
    pub version: TreeVersion,
}

/// What there is of a document's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentTree {
    /// The document.
    pub document: DocumentId,
    /// Its URI.
    pub uri: String,
    /// How many chunks it has.
    pub chunks: usize,
    /// Its part; `None`: none was committed since the document was last written.
    pub part: Option<PartOverview>,
}

/// The size of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartOverview {
    /// How many nodes it has.
    pub nodes: usize,
    /// The level of its highest node; 0 without nodes.
    pub level: u32,
    /// The node or leaf that stands for all of it.
    pub root: Option<Member>,
    /// As [`NewTreePart::changed`].
    pub changed: usize,
    /// Who made the summaries.
    pub summariser: String,
}

/// What there is of a collection's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeOverview {
    /// The version.
    pub version: TreeVersion,
    /// Every document, in order of URI.
    pub documents: Vec<DocumentTree>,
    /// The layers above documents, if they were ever committed.
    pub collection: Option<PartOverview>,
    /// Whether the layers above documents are of the documents as they are, all of them. False without such layers.
    pub collection_current: bool,
    /// How many summaries are kept, those that no node has included.
    pub summaries: usize,
}

impl TreeOverview {
    /// Whether every document has its tree and the layers above are of these.
    pub fn complete(&self) -> bool {
        self.collection_current && self.documents.iter().all(|document| document.part.is_some())
    }

    /// All nodes.
    pub fn nodes(&self) -> usize {
        let documents: usize = self.documents.iter().filter_map(|d| d.part.as_ref()).map(|part| part.nodes).sum();
        documents + self.collection.as_ref().map_or(0, |part| part.nodes)
    }
}

/// In brief, what there is of a collection's tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TreeStanding {
    /// The version.
    pub version: TreeVersion,
    /// All nodes.
    pub nodes: usize,
    /// Documents without a part.
    pub without: usize,
    /// As [`TreeOverview::collection_current`].
    pub collection_current: bool,
}

/// What a derived index of nodes lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeChanges {
    /// The version that applying them leads to.
    pub version: TreeVersion,
    /// Nodes to add, ascending.
    pub added: Vec<NodeRow>,
    /// Nodes to remove, ascending.
    pub removed: Vec<NodeRow>,
}

/// Something below a node, by where it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Below {
    /// A chunk.
    Chunk(ChunkId),
    /// Another node.
    Node(NodeRow),
}

/// A node's place, without its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShapeNode {
    /// Its row.
    pub row: NodeRow,
    /// The document it is of; `None` above documents.
    pub document: Option<DocumentId>,
    /// Its level.
    pub level: u32,
    /// Its members in order, also those that are gone.
    pub members: Vec<Below>,
}

/// All nodes, lower ones before those that have them as members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreeShape {
    /// The version it is of.
    pub version: TreeVersion,
    /// The nodes, by level, then by row.
    pub nodes: Vec<ShapeNode>,
}

/// A node with all that an index or an answer needs of it.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeNodeRecord {
    /// Its row.
    pub row: NodeRow,
    /// Its id.
    pub id: NodeId,
    /// The document it is of; `None` above documents.
    pub document: Option<DocumentId>,
    /// Title of that document; empty above documents.
    pub title: String,
    /// Its level.
    pub level: u32,
    /// Its summary.
    pub summary: SummaryRecord,
    /// Every chunk below it once, by document in order of URI, then in order of the text. `None` if one of them, or a
    /// node between, is gone: what the summary says is then no longer in the collection, and must not be shown.
    pub leaves: Option<Vec<ChunkId>>,
}
