//! Arguments of `feedback`.

use clap::Args;

use super::Place;

/// Arguments of `feedback`.
#[derive(Debug, Args)]
pub(crate) struct Feedback {
    /// The answer: its header x-request-id, its id in `edgewise usage --json`, or `last` for the newest
    #[arg(value_name = "ID", default_value = "last")]
    pub(crate) request: String,
    /// It was good
    #[arg(long, group = "how")]
    pub(crate) good: bool,
    /// It was bad
    #[arg(long, group = "how")]
    pub(crate) bad: bool,
    /// How good it was, from -1 to 1
    #[arg(long, group = "how", value_name = "RATING", allow_negative_numbers = true)]
    pub(crate) rating: Option<f64>,
    /// What to add, kept in the ledger
    #[arg(long, value_name = "TEXT", requires = "how")]
    pub(crate) comment: Option<String>,
    /// Delete every rating and all that was learned from them
    #[arg(long, conflicts_with = "how")]
    pub(crate) reset: bool,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Where the work is done.
    #[command(flatten)]
    pub(crate) place: Place,
}
