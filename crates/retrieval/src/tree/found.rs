//! What a search over the tree is asked, and what it finds: plain data.

use edgewise_types::{Chunk, ChunkId, DocumentId, Generation, NodeId, SummaryMethod};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ArmScore, Filter};

/// How the tree is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(tag = "mode", rename_all = "snake_case", deny_unknown_fields)]
pub enum TreeMode {
    /// All levels at once.
    #[default]
    Collapsed,
    /// From the highest nodes down.
    Traversal {
        /// How many nodes of each layer are gone on from, 1 to 64.
        beam: usize,
    },
}

/// A search over chunks and summaries.
#[derive(Debug, Clone, PartialEq)]
pub struct TreeSearchRequest {
    /// Question in natural language.
    pub query: String,
    /// Most tokens of the texts that are returned, counted by the generator's tokenizer.
    pub budget_tokens: usize,
    /// How the tree is searched.
    pub mode: TreeMode,
    /// How much the question is about the whole: 0 for one fact in one place, 1 for a summary of everything.
    pub breadth: f32,
    /// Search only in documents that satisfy this. A node counts only if all its chunks are of such documents.
    pub filter: Option<Filter>,
    /// Search only in these documents. A node counts only if all its chunks are of these.
    pub documents: Option<Vec<DocumentId>>,
    /// Suppress texts that are like those before them, as [`crate::SearchRequest::diversity`]; `None` goes by the breadth.
    pub diversity: Option<f32>,
    /// Whether a node may be returned together with what is above or below it.
    pub allow_ancestors: bool,
}

impl TreeSearchRequest {
    /// The collapsed tree among all documents, for a question that is neither about a detail nor about the whole.
    pub fn new(query: impl Into<String>, budget_tokens: usize) -> Self {
        Self {
            query: query.into(),
            budget_tokens,
            mode: TreeMode::default(),
            breadth: 0.5,
            filter: None,
            documents: None,
            diversity: None,
            allow_ancestors: false,
        }
    }
}

/// What was picked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Picked {
    /// A chunk.
    Chunk {
        /// It.
        chunk: Chunk,
    },
    /// A node, by its summary.
    Node {
        /// Its id.
        node: NodeId,
        /// How the summary came about.
        method: SummaryMethod,
    },
}

/// A text that was picked, and where it comes from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreePick {
    /// What it is.
    #[serde(flatten)]
    pub picked: Picked,
    /// Its level: 0 for chunks.
    pub level: u32,
    /// How well it matches the question, 0 to 1 among all that was considered. What was picked because it covers a part of
    /// the whole may match little.
    pub score: f32,
    /// BM25 arm, if it came up there.
    pub lexical: Option<ArmScore>,
    /// Vector arm (cosine), if it came up there.
    pub vector: Option<ArmScore>,
    /// The text.
    pub text: String,
    /// Its length in the generator's tokens.
    pub tokens: usize,
    /// Every chunk it is of, by document in order of URI, then in order of the text.
    pub leaves: Vec<ChunkId>,
    /// The documents of these chunks, in order of URI.
    pub documents: Vec<DocumentId>,
    /// The document, if it is of one.
    pub document: Option<DocumentId>,
    /// Title of that document; empty above documents.
    pub title: String,
    /// URI of that document; empty above documents.
    pub uri: String,
}

/// What a search over the tree found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreeResults {
    /// The picks, best match first.
    pub picks: Vec<TreePick>,
    /// Tokens of all their texts together.
    pub tokens: usize,
    /// What there was of a tree.
    pub standing: TreeStanding,
    /// Embedding the query, in milliseconds.
    pub embed_ms: f64,
    /// Lexical arm, in milliseconds.
    pub lexical_ms: f64,
    /// Vector arm, in milliseconds.
    pub vector_ms: f64,
    /// Fusing, choosing and loading, in milliseconds.
    pub select_ms: f64,
    /// Generation of the collection that was searched.
    pub generation: Generation,
    /// What the caller should know about how the search was done, one sentence each; normally empty.
    pub notes: Vec<String>,
}

/// What there is of a tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TreeStanding {
    /// Grows with each change of the tree.
    pub version: u64,
    /// How many nodes there are.
    pub nodes: usize,
    /// How many documents have no tree, or one of a text they no longer have.
    pub without: usize,
    /// Whether the layers above documents are of the documents as they are.
    pub collection_current: bool,
}

impl TreeStanding {
    /// Whether there is a tree, and every document is in it as it is.
    pub fn current(&self) -> bool {
        self.nodes > 0 && self.without == 0 && self.collection_current
    }

    /// What is to be said of a tree that is not current.
    pub fn note(&self, collection: &str) -> Option<String> {
        if self.nodes == 0 && self.without == 0 && self.collection_current {
            return Some("the summary tree has no summaries: one passage is all there is".to_owned());
        }
        if self.nodes == 0 {
            return Some(format!("no summary tree: build one with `edgewise tree build {collection}`"));
        }
        if self.current() {
            return None;
        }
        let what = match self.without {
            0 => "its layers above documents are".to_owned(),
            1 => "one document is not in it, and its layers above documents are".to_owned(),
            n => format!("{n} documents are not in it, and its layers above documents are"),
        };
        Some(format!(
            "the summary tree is out of date: {what} not used where they lack text: run `edgewise tree build {collection}`"
        ))
    }
}
