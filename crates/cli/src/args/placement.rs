//! Arguments of `eval placement`.

use std::path::PathBuf;

use clap::Args;

use super::Intervals;

/// Arguments of `eval placement`.
#[derive(Debug, Args)]
pub(crate) struct EvalPlacement {
    /// Folder with lost_in_the_middle.jsonl and passages.jsonl
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Numbers of passages in a prompt
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "10,20,40")]
    pub(crate) documents: Vec<usize>,
    /// Questions, drawn from the set with the seed
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub(crate) questions: usize,
    /// Places at which the passage that answers is put, from the first to the last
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub(crate) positions: usize,
    /// Keep every answer in this file, and go on from it
    #[arg(long, value_name = "FILE")]
    pub(crate) rows: Option<PathBuf>,
    /// Ask nothing: report on the questions whose answers are all in the file of --rows
    #[arg(long, requires = "rows", conflicts_with = "plan")]
    pub(crate) recorded: bool,
    /// Show how many prompts and tokens this is, and ask nothing
    #[arg(long)]
    pub(crate) plan: bool,
    #[command(flatten)]
    pub(crate) intervals: Intervals,
}
