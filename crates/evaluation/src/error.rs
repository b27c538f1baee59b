//! What can go wrong in a measurement.

use std::{
    io,
    path::{Path, PathBuf},
};

use edgewise_retrieval::RetrievalError;

/// Failure of a measurement.
#[derive(Debug, thiserror::Error)]
pub enum EvaluationError {
    /// A file of the set can't be read.
    #[error("cannot read {path} ({source}): the folder must hold corpus.jsonl, queries.jsonl and qrels.tsv")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
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
    /// A folder for the collection can't be made.
    #[error("cannot make a temporary folder for the collection ({0}): free some space or set TMPDIR")]
    Folder(io::Error),
    /// Ingest or search failed.
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
}

impl EvaluationError {
    pub(crate) fn cache(path: &Path, reason: impl ToString) -> Self {
        Self::Cache { path: path.to_owned(), reason: reason.to_string() }
    }
}
