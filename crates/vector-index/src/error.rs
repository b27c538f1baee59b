//! Errors of the vector index.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the index could not do something.
#[derive(Debug, thiserror::Error)]
pub enum VectorError {
    /// A vector of another length.
    #[error(
        "the vector has {found} dimensions, the index has {expected}: use the embedder the collection was made with"
    )]
    Dimension {
        /// Dimension of the index.
        expected: usize,
        /// Dimension of the vector.
        found: usize,
    },
    /// A vector that is not finite or not of length 1.
    #[error("the vector has length {norm}, expected 1: normalise it first")]
    NotUnit {
        /// Its length.
        norm: f64,
    },
    /// A graph was built that is not sound, or can't be written.
    #[error("the graph over the vectors is not used ({reason}): searches scan all vectors instead")]
    Graph {
        /// What is wrong with it.
        reason: String,
    },
    /// The snapshot is damaged, or of another format, dimension or catalog. Nothing is lost: rebuild it from the catalog.
    #[error("the vector snapshot {path} must be rebuilt from the catalog: {reason}")]
    NeedsRebuild {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// No space left. The snapshot before is still in place.
    #[error("the disk of {path} is full: free some space and try again")]
    DiskFull {
        /// Folder of the snapshots.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("cannot read or write the vector snapshot {path} ({detail}): check the folder's permissions and the disk")]
    Io {
        /// Path of the file or folder.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
}

impl VectorError {
    pub(crate) fn rebuild(path: &Path, reason: impl Into<String>) -> Self {
        Self::NeedsRebuild { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), detail: error.to_string() },
        }
    }
}
