//! What can go wrong: with points, a summariser, a store, a tree.

use edgewise_model_api::ModelError;
use edgewise_prompts::PromptError;

/// Failure of [`crate::cluster`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    /// The values do not make whole rows.
    #[error("{values} values do not make {rows} points of {dims} dimensions")]
    Shape {
        /// Number of values.
        values: usize,
        /// Number of points.
        rows: usize,
        /// Dimensions of each.
        dims: usize,
    },
    /// A value is infinite or not a number: the embedding it is from is damaged.
    #[error("point {row} has a value that is not finite: embed it again")]
    NotFinite {
        /// The point.
        row: usize,
    },
    /// An option is out of range.
    #[error("{0}")]
    Options(&'static str),
}

/// Why a build ended before it was done, on purpose. What was made until then is kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Halt {
    /// Somebody cancelled it.
    #[error("the build of the summary tree was cancelled; the summaries made so far are kept")]
    Cancelled,
    /// A budget is used up.
    #[error("the build of the summary tree reached its budget: {0}; the summaries made so far are kept")]
    Budget(String),
}

/// Failure of a [`crate::Summariser`].
#[derive(Debug, thiserror::Error)]
pub enum SummariseError {
    /// The generator failed, again and again where trying again could help.
    #[error("the generator failed while it wrote a summary, tried {attempts} times: {source}")]
    Model {
        /// Times it was tried.
        attempts: u32,
        /// Its last failure.
        source: ModelError,
    },
    /// The tokenizer failed.
    #[error("the text to summarise cannot be counted: {0}")]
    Tokenizer(ModelError),
    /// A template can't be rendered.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// The generator's window or the limit of a summary is too small for any.
    #[error("{0}")]
    Limits(String),
    /// The build was told to end.
    #[error(transparent)]
    Halted(#[from] Halt),
}

/// Failure of a [`crate::SummaryStore`].
#[derive(Debug, thiserror::Error)]
#[error("kept summaries cannot be read or written: {0}")]
pub struct StoreError(#[from] pub Box<dyn std::error::Error + Send + Sync>);

/// Failure of [`crate::TreeBuilder`]. All summaries that were stored before it are found again by the next build.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Embeddings or options can't be clustered.
    #[error("the summary tree cannot be clustered: {0}")]
    Cluster(#[from] ClusterError),
    /// No summary.
    #[error(transparent)]
    Summarise(SummariseError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The embedder failed.
    #[error("a summary cannot be embedded: {0}")]
    Embed(#[from] ModelError),
    /// A member's embedding is not of this embedder.
    #[error("an embedding has {found} dimensions where the embedder gives {expected}: ingest the documents again")]
    Dimension {
        /// Those of the embedder.
        expected: usize,
        /// Those found.
        found: usize,
    },
    /// The build was told to end.
    #[error(transparent)]
    Halted(#[from] Halt),
}

impl From<SummariseError> for TreeError {
    fn from(error: SummariseError) -> Self {
        match error {
            SummariseError::Halted(halt) => Self::Halted(halt),
            other => Self::Summarise(other),
        }
    }
}
