//! What can go wrong in a measurement.

use std::{
    io,
    path::{Path, PathBuf},
};

use edgewise_model_api::ModelError;
use edgewise_planner::PlannerError;
use edgewise_prompts::PromptError;
use edgewise_retrieval::RetrievalError;

/// Failure of a measurement.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// A file of the set can't be read.
    #[error("cannot read {path} ({source}): expected {expected}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
        /// What should be there.
        expected: &'static str,
    },
    /// A line of a file of the set is not what its format asks for.
    #[error("{path}, line {line}: {reason}")]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// The set as a whole can't be measured.
    #[error("the set {name} cannot be measured: {reason}")]
    Dataset {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// The file of embeddings can't be used.
    #[error("cannot use the embeddings file {path} ({reason}): name another, or delete it to embed anew")]
    Cache {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A ranking can't be written.
    #[error("cannot write {path} ({source}): name another folder for the rankings, or free some space")]
    Runs {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Queries for a collection can't be used.
    #[error("{0}")]
    Queries(String),
    /// A folder for the collection can't be made.
    #[error("cannot make a temporary folder for the collection ({0}): free some space or set TMPDIR")]
    Folder(io::Error),
    /// The file of answers can't be used.
    #[error("cannot use the answers file {path} ({reason}): name another, or delete it to answer anew")]
    Answers {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Rows of a long measurement can't be kept, or are of another.
    #[error("cannot keep rows in {path} ({reason}): name another file, or delete it to measure anew")]
    Rows {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A simulation can't be set up as asked for.
    #[error("the simulation cannot be set up: {0}")]
    Simulation(String),
    /// A summary tree could not be completed.
    #[error("the summary tree could not be built to its end: {0}")]
    Tree(String),
    /// The caller asked to stop; what was measured before is kept.
    #[error("interrupted")]
    Interrupted,
    /// The generator refused a prompt or failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A prompt template failed.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// A question could not be planned or answered.
    #[error(transparent)]
    Planner(#[from] PlannerError),
    /// Ingest or search failed.
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
}

impl EvaluationError {
    /// A file that can't be read, of those in `expected`.
    pub(crate) fn read(path: &Path, expected: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source, expected }
    }

    pub(crate) fn cache(path: &Path, reason: impl ToString) -> Self {
        Self::Cache { path: path.to_owned(), reason: reason.to_string() }
    }
}
