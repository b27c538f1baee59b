//! Arguments of `edgewise eval tree`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Intervals, SummariserArg};

/// Arguments of `eval tree`.
#[derive(Debug, Args)]
pub(crate) struct EvalTree {
    /// File of stories with questions, or a folder with squality.jsonl
    #[arg(long, value_name = "PATH", required_unless_present_any = ["hops", "documents"])]
    pub(crate) data: Option<PathBuf>,
    /// Most tokens of a context, by the configured generator's tokenizer
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "512,1024,2048")]
    pub(crate) budgets: Vec<usize>,
    /// Who writes the summaries
    #[arg(long, value_enum, default_value = "extractive")]
    pub(crate) summariser: SummariserArg,
    /// Longest summary, in the embedder's tokens [default: tree.summary_tokens]
    #[arg(long, value_name = "TOKENS")]
    pub(crate) summary_tokens: Option<usize>,
    /// Which of the stories: all, a half to choose settings by, or the other half, to report them
    #[arg(long, value_enum, default_value = "all")]
    pub(crate) half: Half,
    /// Stories at most
    #[arg(long, value_name = "N")]
    pub(crate) stories: Option<usize>,
    /// Take every question to be about the whole this much, 0 to 1, too (may be repeated) [default: by its words alone]
    #[arg(long, value_name = "SHARE", value_delimiter = ',')]
    pub(crate) breadth: Vec<f32>,
    /// Nodes of a layer that a traversal goes on from; 0 measures none
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(0..=64))]
    pub(crate) beam: u16,
    /// Keep collection and tree in this folder, so that a build that was stopped goes on
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Build a second tree from nothing, and say whether the two are equal
    #[arg(long)]
    pub(crate) twice: bool,
    /// Also: labelled set in the format of BEIR whose questions need several documents, with and without summaries
    #[arg(long, value_name = "DIR")]
    pub(crate) hops: Option<PathBuf>,
    /// Edit documents one by one, keep the tree up, and compare it with one built from nothing: the stories, or those of
    /// --documents
    #[arg(long)]
    pub(crate) upkeep: bool,
    /// With --upkeep: folder with .md and .txt files to edit
    #[arg(long, value_name = "DIR", requires = "upkeep", conflicts_with_all = ["data", "hops"])]
    pub(crate) documents: Option<PathBuf>,
    /// With --upkeep: edits
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub(crate) edits: u64,
    /// With --documents: documents to begin with; the others are kept back, to be added
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(2..))]
    pub(crate) collection_size: u64,
    /// Keep embeddings in this file, so that the next run embeds only what is new
    #[arg(long, value_name = "FILE")]
    pub(crate) embeddings_cache: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) intervals: Intervals,
}

/// Which of the stories.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Half {
    /// All of them
    All,
    /// One half, to choose settings by
    Tuning,
    /// The other half
    HeldOut,
}
