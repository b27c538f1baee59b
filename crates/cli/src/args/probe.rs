//! Arguments of `probe`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use edgewise_planner::ReadingTask;
use edgewise_types::CollectionName;

/// Arguments of `probe`.
#[derive(Debug, Args)]
pub(crate) struct Probe {
    /// Ask enough for a curve at every length up to the model's window, instead of a few minutes' worth
    #[arg(long)]
    pub(crate) full: bool,
    /// What is asked [default: all]
    #[arg(long, value_enum, value_name = "TASK", value_delimiter = ',')]
    pub(crate) tasks: Vec<TaskArg>,
    /// Lengths of the prompts, in tokens [default: 512,1024,2048; with --full doubled up to the window]
    #[arg(long, value_name = "TOKENS", value_delimiter = ',')]
    pub(crate) lengths: Vec<usize>,
    /// Places of a prompt at which an answer is put [default: 5; with --full 7]
    #[arg(long, value_name = "N")]
    pub(crate) depths: Option<usize>,
    /// Questions of each task and length [default: 2; with --full 10]
    #[arg(long, value_name = "N")]
    pub(crate) questions: Option<usize>,
    /// Make prompts from the text of this collection [default: the guide]
    #[arg(short, long, value_name = "NAME")]
    pub(crate) collection: Option<CollectionName>,
    /// Take the questions over several documents from this folder, with lost_in_the_middle.jsonl and passages.jsonl
    /// [default: words left out of sentences of the text]
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Seed of the questions
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Keep what is measured in this file, and go on from it [default: beside the profiles]
    #[arg(long, value_name = "FILE")]
    pub(crate) rows: Option<PathBuf>,
    /// Show what would be asked and how long it would take, and ask nothing
    #[arg(long)]
    pub(crate) plan: bool,
    /// Show the profile there is, and ask nothing
    #[arg(long, conflicts_with = "plan")]
    pub(crate) show: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TaskArg {
    /// One sentence in text about other things
    Needle,
    /// The value of a key among many
    KeyValue,
    /// The passage that answers among passages that look like it
    MultiDocument,
}

impl From<TaskArg> for ReadingTask {
    fn from(task: TaskArg) -> Self {
        match task {
            TaskArg::Needle => Self::Needle,
            TaskArg::KeyValue => Self::KeyValue,
            TaskArg::MultiDocument => Self::MultiDocument,
        }
    }
}
