//! Leaves, summaries, nodes, and the trees they make.

use std::collections::HashMap;

use edgewise_types::{DocumentId, LeafId, Member, NodeId, SummaryKey, SummaryMethod, TreeScope, Usage};

/// A chunk, at the bottom of a tree.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaf {
    /// Its id, of [`leaf_ids`].
    pub id: LeafId,
    /// Titles of the sections it stands in, outermost first.
    pub heading_path: Vec<String>,
    /// Its text, without headings.
    pub text: String,
    /// Its embedding: finite, as long as the embedder's.
    pub embedding: Vec<f32>,
    /// Length of the text in the generator's tokens.
    pub tokens: usize,
}

/// The leaves of a document, in its order.
#[derive(Debug, Clone, PartialEq)]
pub struct DocumentLeaves {
    /// The document.
    pub document: DocumentId,
    /// Its title.
    pub title: String,
    /// Its chunks.
    pub leaves: Vec<Leaf>,
}

/// Ids of the chunks of a document from their heading paths and texts, given in the order of the document.
pub fn leaf_ids<'a>(document: &DocumentId, chunks: impl IntoIterator<Item = (&'a [String], &'a str)>) -> Vec<LeafId> {
    let mut seen: HashMap<(String, &str), u64> = HashMap::new();
    let id = |(headings, text): (&[String], &'a str)| {
        let headings = serde_json::Value::from(headings.to_vec()).to_string();
        let occurrence = seen.entry((headings.clone(), text)).or_default();
        let number = occurrence.to_le_bytes();
        *occurrence += 1;
        LeafId::of([document.as_str().as_bytes(), headings.as_bytes(), text.as_bytes(), &number])
    };
    chunks.into_iter().map(id).collect()
}

/// A summary, as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// What it was made from and by.
    pub key: SummaryKey,
    /// Its text.
    pub text: String,
    /// How it came about.
    pub method: SummaryMethod,
    /// Length of the text in the generator's tokens.
    pub tokens: usize,
    /// Embedding of the members' common headings and the text.
    pub embedding: Vec<f32>,
    /// What the generator used for it, rejected attempts included; nothing for an extractive one.
    pub usage: Usage,
    /// Attempts of the generator that were rejected.
    pub regenerated: u32,
    /// Names, numbers and dates that rejected attempts held and no member does.
    pub unsupported: Vec<String>,
    /// Different names, numbers and dates in the members.
    pub facts: u32,
    /// How many of them the summary leaves out.
    pub facts_left_out: u32,
}

/// A node: a summary of its members at a place in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id: scope, members and summary.
    pub id: NodeId,
    /// Whose it is.
    pub scope: TreeScope,
    /// One more than the largest level of its members; leaves are of level 0.
    pub level: u32,
    /// What it summarises, in the order of the document or the collection; at least two, no two alike.
    pub members: Vec<Member>,
    /// Its summary.
    pub summary: SummaryKey,
}

impl Node {
    /// The node of these members and this summary.
    pub(crate) fn new(scope: TreeScope, level: u32, members: Vec<Member>, summary: SummaryKey) -> Self {
        let owner = match &scope {
            TreeScope::Document(document) => document.as_str().as_bytes().to_vec(),
            TreeScope::Collection => Vec::new(),
        };
        let parts: Vec<(&[u8], &[u8; 32])> = members
            .iter()
            .map(|member| match member {
                Member::Leaf(id) => (b"leaf".as_slice(), &id.0),
                Member::Node(id) => (b"node".as_slice(), &id.0),
            })
            .collect();
        let members_of = parts.iter().flat_map(|(kind, id)| [*kind, id.as_slice()]);
        let id = NodeId::of([owner.as_slice()].into_iter().chain(members_of).chain([summary.0.as_slice()]));
        Self { id, scope, level, members, summary }
    }
}

/// The tree of one scope.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TreePart {
    /// Its nodes by level, then id: members stand before what summarises them. None where there is only one leaf.
    pub nodes: Vec<Node>,
    /// Its root; `None` if there is nothing.
    pub root: Option<Member>,
    /// Members of the lowest layer that came or went since it was last clustered from nothing.
    pub changed: usize,
}

/// The root of a document's tree, as a member of the layers above documents.
#[derive(Debug, Clone, PartialEq)]
pub struct RootMember {
    /// The document.
    pub document: DocumentId,
    /// Its title.
    pub title: String,
    /// The root of its tree.
    pub member: Member,
    /// The root that this document had in the former tree, where it is another one and known: the document then keeps its
    /// place among the others. Without it, it is placed as if it were new.
    pub former: Option<Member>,
    /// Level of the root.
    pub level: u32,
    /// Text of the root: of its summary, or of the one chunk.
    pub text: String,
    /// Its embedding.
    pub embedding: Vec<f32>,
    /// Length of the text in the generator's tokens.
    pub tokens: usize,
}
