//! What is said of a summary tree and of building it: plain data, serialisable, without behaviour.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::{ChunkId, CollectionName, DocumentId, Money, NodeId, SummaryMethod, Usage};

/// Limits of one build; absent is none. A build that meets one ends cleanly, and the next goes on from there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TreeBudget {
    /// Most calls of the generator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_calls: Option<usize>,
    /// Most tokens of the generator, read and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Most it may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<Money>,
    /// Longest it may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<f64>,
}

/// What a build is at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TreeStage {
    /// Looking at what there is to do.
    #[default]
    Preparing,
    /// The trees of documents.
    Documents,
    /// The layers above documents.
    Collection,
    /// Sweeping, and bringing the indexes up to it.
    Finishing,
}

/// Work done by a build so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TreeWork {
    /// Documents whose trees are to be built.
    pub documents: usize,
    /// Of these, those that are.
    pub documents_done: usize,
    /// Summaries made.
    pub summaries_made: usize,
    /// Summaries of the built parts that were there already.
    pub summaries_kept: usize,
    /// Of those made, sentences of the members in place of generated text that did not pass the check.
    pub fallbacks: usize,
    /// Summaries that were generated again because a name or number in them is not in their members.
    pub regenerated: usize,
    /// Such names and numbers.
    pub unsupported: usize,
    /// Calls of the generator.
    pub calls: usize,
    /// Tokens of the generator.
    pub usage: Usage,
    /// What they cost.
    pub cost: Money,
}

/// How a build goes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreeProgress {
    /// What it is at.
    pub stage: TreeStage,
    /// URI of the document it is at.
    pub document: Option<String>,
    /// What it has done.
    #[serde(flatten)]
    pub work: TreeWork,
    /// Time it has taken, pauses left out, in seconds.
    pub seconds: f64,
    /// Estimated time left for what is expected, in seconds, from its rate so far.
    pub eta_seconds: Option<f64>,
}

/// What a build did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreeReport {
    /// The collection.
    pub collection: CollectionName,
    /// Who wrote the summaries.
    pub summariser: String,
    /// Whether the tree is that of all current documents now.
    pub complete: bool,
    /// Why it ended before that: a limit that was met, or documents that changed meanwhile.
    pub stopped: Option<String>,
    /// What it did.
    #[serde(flatten)]
    pub work: TreeWork,
    /// Documents that had a current tree.
    pub documents_kept: usize,
    /// Nodes of the whole tree now.
    pub nodes: usize,
    /// Its levels above the leaves.
    pub levels: u32,
    /// Summaries that no node uses any more and that were deleted.
    pub swept: usize,
    /// Time it took, pauses left out, in seconds.
    pub seconds: f64,
}

/// What a build would do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreePlan {
    /// The collection.
    pub collection: CollectionName,
    /// Who would write the summaries.
    pub summariser: String,
    /// Why all is built anew, if it is.
    pub anew: Option<String>,
    /// Documents in the collection.
    pub documents: usize,
    /// Of these, those that have a current tree.
    pub documents_kept: usize,
    /// Leaves: passages of all documents.
    pub leaves: usize,
    /// Summaries to make; those of the lowest layers exactly, those above by the size of what is below them.
    pub summaries: usize,
    /// Summaries of the parts to build that are there already.
    pub summaries_kept: usize,
    /// Calls of the generator expected, at least one for each summary; 0 for extractive summaries.
    pub calls: usize,
    /// Tokens it would read.
    pub prompt_tokens: usize,
    /// Tokens it would write at most.
    pub output_tokens: usize,
    /// What that would cost.
    pub cost: Money,
    /// Tokens of summaries to embed at most.
    pub tokens_to_embed: usize,
    /// Estimated time, from the measured speed of embedder and generator, in seconds.
    pub seconds: f64,
}

/// The state of a collection's tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreeStatus {
    /// The collection.
    pub collection: CollectionName,
    /// Whether there are any nodes.
    pub built: bool,
    /// Whether it is the tree of all current documents.
    pub current: bool,
    /// Who wrote its summaries.
    pub summariser: Option<String>,
    /// Documents in the collection.
    pub documents: usize,
    /// Documents whose trees are current.
    pub documents_current: usize,
    /// Documents that are new or changed since.
    pub documents_behind: usize,
    /// Whether the layers above documents are current.
    pub collection_current: bool,
    /// Nodes that are current.
    pub nodes: usize,
    /// Levels above the leaves.
    pub levels: u32,
    /// Nodes of each level, from 1 up.
    pub nodes_by_level: Vec<usize>,
    /// Current nodes by how their summary came about: extractive, abstractive, and extractive in place of one that failed
    /// its check.
    pub methods: TreeMethods,
}

/// Nodes by how their summary came about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TreeMethods {
    /// Sentences of the members.
    pub extractive: usize,
    /// Written by a generator.
    pub abstractive: usize,
    /// Sentences in place of generated text that did not pass the check.
    pub extractive_fallback: usize,
}

/// Something a node summarises, or the root that is shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum TreeItem {
    /// A passage.
    Leaf(TreeLeaf),
    /// A node.
    Node(Box<TreeNode>),
}

/// A leaf of the tree: a passage of a document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreeLeaf {
    /// The chunk.
    pub chunk: ChunkId,
    /// Its document.
    pub document: DocumentId,
    /// URI of that.
    pub uri: String,
    /// Titles of the sections it stands in.
    pub heading_path: Vec<String>,
    /// Length in the generator's tokens.
    pub tokens: usize,
    /// Its text, or the beginning where only that was asked for.
    pub text: String,
}

/// A node of the tree.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreeNode {
    /// Its id.
    #[schema(value_type = String)]
    pub id: NodeId,
    /// Height above the leaves, from 1.
    pub level: u32,
    /// The document it is of; absent above documents.
    pub document: Option<DocumentId>,
    /// URI of that.
    pub uri: Option<String>,
    /// Whether it is the root of its document or of the collection.
    pub root: bool,
    /// How its summary came about.
    pub method: SummaryMethod,
    /// Length of the summary in the generator's tokens.
    pub tokens: usize,
    /// Times it was generated again.
    pub regenerated: u32,
    /// Names and numbers that made it so.
    pub unsupported: Vec<String>,
    /// Its summary, or the beginning where only that was asked for.
    pub text: String,
    /// Passages below it.
    pub leaves: usize,
    /// Documents below it.
    pub documents: usize,
    /// How many members it has.
    pub member_count: usize,
    /// Its members, unless it is at the depth that was asked for.
    #[schema(no_recursion)]
    pub members: Option<Vec<TreeItem>>,
}

/// A tree, or the part of it that was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreeView {
    /// Its state.
    pub status: TreeStatus,
    /// Roots: the collection's if it is current and all was asked for; else those of documents.
    pub roots: Vec<TreeItem>,
    /// Current documents that are not below these roots because there is no current root above them.
    pub more_documents: usize,
}
