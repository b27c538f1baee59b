//! Arguments of `tree`.

use clap::{Args, Subcommand, ValueEnum};

use edgewise_types::{CollectionName, DocumentId, Money};

use super::Place;
use crate::error::CliError;

/// What to do with a summary tree.
#[derive(Debug, Subcommand)]
pub(crate) enum Tree {
    /// Show what building a tree would take: calls, tokens, cost and time. Nothing is built
    Plan(TreePlanArgs),
    /// Build a collection's tree, or bring it up to date; one that was interrupted goes on from where it was
    Build(TreeBuild),
    /// Show whether a collection has a tree and whether it is current
    Status(TreeStatusArgs),
    /// Show a tree as text
    Show(TreeShow),
    /// Delete a collection's tree; its documents stay
    Delete(TreeDelete),
}

/// The collection whose tree is meant.
#[derive(Debug, Args)]
pub(crate) struct TreeName {
    /// Collection
    #[arg(value_name = "NAME", required_unless_present = "collection")]
    name: Option<CollectionName>,
    /// Collection, as an option
    #[arg(short, long, value_name = "NAME", conflicts_with = "name")]
    collection: Option<CollectionName>,
}

impl TreeName {
    /// It.
    pub(crate) fn get(&self) -> Result<&CollectionName, CliError> {
        let named = self.name.as_ref().or(self.collection.as_ref());
        named.ok_or_else(|| CliError::Usage("name a collection".to_owned()))
    }
}

/// Who writes summaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SummariserArg {
    /// Sentences of the documents, word for word
    Extractive,
    /// The configured generator
    Abstractive,
}

/// What to build.
#[derive(Debug, Args)]
pub(crate) struct TreeWhat {
    /// Which.
    #[command(flatten)]
    pub(crate) tree: TreeName,
    /// Who writes the summaries [default: that of the tree, else tree.summariser]
    #[arg(long, value_enum)]
    pub(crate) summariser: Option<SummariserArg>,
    /// Cluster everything anew instead of keeping up what there is; unchanged summaries are still not made twice
    #[arg(long)]
    pub(crate) full: bool,
}

/// Arguments of `tree plan`.
#[derive(Debug, Args)]
pub(crate) struct TreePlanArgs {
    /// What to build.
    #[command(flatten)]
    pub(crate) what: TreeWhat,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the work is done.
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Arguments of `tree build`.
#[derive(Debug, Args)]
pub(crate) struct TreeBuild {
    /// What to build.
    #[command(flatten)]
    pub(crate) what: TreeWhat,
    /// Most the build may cost, in dollars, such as 0.50 [default: tree.max_cost]
    #[arg(long, value_name = "DOLLARS")]
    pub(crate) max_cost: Option<Money>,
    /// Most calls of the generator [default: tree.max_calls]
    #[arg(long, value_name = "N")]
    pub(crate) max_calls: Option<usize>,
    /// Most tokens of the generator, read and written [default: tree.max_tokens]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) max_tokens: Option<usize>,
    /// Longest the build may take, in seconds [default: tree.max_seconds]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) max_seconds: Option<u64>,
    /// Do not ask before the generator is called
    #[arg(short, long)]
    pub(crate) yes: bool,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the work is done.
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Arguments of `tree status`.
#[derive(Debug, Args)]
pub(crate) struct TreeStatusArgs {
    /// Which.
    #[command(flatten)]
    pub(crate) tree: TreeName,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `tree show`.
#[derive(Debug, Args)]
pub(crate) struct TreeShow {
    /// Which.
    #[command(flatten)]
    pub(crate) tree: TreeName,
    /// Show the node whose id begins so in full, with its members
    #[arg(long, value_name = "ID", conflicts_with_all = ["document", "depth"])]
    pub(crate) node: Option<String>,
    /// Levels to show below the root [default: all but the passages]
    #[arg(long, value_name = "N")]
    pub(crate) depth: Option<usize>,
    /// Only the tree of this document, by id or URI
    #[arg(long, value_name = "DOCUMENT")]
    pub(crate) document: Option<String>,
    /// Print as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Arguments of `tree delete`.
#[derive(Debug, Args)]
pub(crate) struct TreeDelete {
    /// Which.
    #[command(flatten)]
    pub(crate) tree: TreeName,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// The document meant by an id or a URI.
pub(crate) fn document_of(named: &str) -> DocumentId {
    named.parse().unwrap_or_else(|_| DocumentId::from_uri(named))
}
