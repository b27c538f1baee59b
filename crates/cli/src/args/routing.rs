//! Arguments of `eval routing`.

use std::path::PathBuf;

use clap::Args;

use super::Intervals;

/// Arguments of `eval routing`.
#[derive(Debug, Args)]
pub(crate) struct EvalRouting {
    /// Folder with queries.jsonl, scores.csv and docs/TYPE/FILE, as in LaRA
    #[arg(long, value_name = "DIR")]
    pub(crate) data: PathBuf,
    /// Questions of a known kind (local_fact, multi_hop, comparison, global), one JSON object a line, such as
    /// local_fact=queries.jsonl; with two kinds, as in global,multi_hop=stories.jsonl, the first question of each list is
    /// of the first and the others of the second; without one, each line gives its own as `kind` (may be repeated)
    #[arg(long, value_name = "[KIND[,KIND]=]FILE")]
    pub(crate) questions: Vec<String>,
    /// Have the configured generator judge so many of the questions of known kinds, as `planner.pre_route` does
    #[arg(long, value_name = "QUESTIONS", value_parser = positive)]
    pub(crate) pre_route: Option<usize>,
    /// Most long-context tokens, as a share of what always reading everything takes
    #[arg(long, value_name = "SHARE", default_value_t = 0.48)]
    pub(crate) share: f64,
    /// Fit on everything and write the router to this file, to be named in planner.router
    #[arg(long, value_name = "FILE")]
    pub(crate) train: Option<PathBuf>,
    /// Draw quality against share of long-context tokens to this file, as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) curve: Option<PathBuf>,
    /// Keep embeddings in this file, so that the next run embeds only what is new
    #[arg(long, value_name = "FILE")]
    pub(crate) embeddings_cache: Option<PathBuf>,
    /// Index profile [default: the default profile]
    #[arg(long, value_name = "FILE")]
    pub(crate) profile: Option<PathBuf>,
    /// Look at the hits of BM25 alone, without embedding anything
    #[arg(long)]
    pub(crate) lexical_only: bool,
    /// Keep the figures in the data folder, in place of earlier ones, for the page Quality
    #[arg(long)]
    pub(crate) save: bool,
    #[command(flatten)]
    pub(crate) intervals: Intervals,
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}
