//! Errors of the lexical index, and the mapping from tantivy's.

use std::{
    io,
    path::{Path, PathBuf},
};

use tantivy::{
    TantivyError,
    directory::error::{LockError, OpenDirectoryError, OpenReadError, OpenWriteError},
};

/// Why the index could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LexicalError {
    /// There is no index in the folder.
    #[error("there is no lexical index in {path}: build it from the catalog")]
    Missing {
        /// Its folder.
        path: PathBuf,
    },
    /// The index is damaged, of another format, analyser or catalog. Nothing is lost: rebuild it from the catalog.
    #[error("the lexical index {path} must be rebuilt from the catalog: {reason}")]
    NeedsRebuild {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process is writing.
    #[error("the lexical index {path} is locked by another process: let it finish, or stop it, and try again")]
    Locked {
        /// Its folder.
        path: PathBuf,
    },
    /// No space left. The index is as it was after the last update.
    #[error("the disk of {path} is full: free some space and try again")]
    DiskFull {
        /// Its folder.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("cannot read or write the lexical index {path} ({detail}): check the folder's permissions and the disk")]
    Io {
        /// Its folder.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// Anything else from tantivy.
    #[error("the lexical index {path} failed: {detail}")]
    Failed {
        /// Its folder.
        path: PathBuf,
        /// What tantivy says.
        detail: String,
    },
    /// No such language.
    #[error("`{language}` is not a supported language: use one of {}", crate::Language::NAMES.join(", "))]
    UnsupportedLanguage {
        /// The name as given.
        language: String,
    },
}

/// ENOSPC and EDQUOT as the standard library prints them: tantivy turns the errors of its threads into text.
const OUT_OF_SPACE: [&str; 2] = ["(os error 28)", "(os error 122)"];

impl LexicalError {
    pub(crate) fn rebuild(path: &Path, reason: impl Into<String>) -> Self {
        Self::NeedsRebuild { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn io(path: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), detail: error.to_string() },
        }
    }

    /// The error of the index in `path`.
    pub(crate) fn tantivy(path: &Path, error: &TantivyError) -> Self {
        use TantivyError as T;
        match error {
            T::IoError(error)
            | T::OpenDirectoryError(OpenDirectoryError::IoError { io_error: error, .. })
            | T::OpenReadError(OpenReadError::IoError { io_error: error, .. })
            | T::OpenWriteError(OpenWriteError::IoError { io_error: error, .. })
            | T::LockFailure(LockError::IoError(error), _) => match error.kind() {
                // What tantivy reports for files that are shorter than they claim.
                io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => Self::rebuild(path, error.to_string()),
                _ => Self::io(path, error),
            },
            T::LockFailure(LockError::LockBusy, _) => Self::Locked { path: path.to_owned() },
            T::DataCorruption(_)
            | T::OpenReadError(_)
            | T::IncompatibleIndex(_)
            | T::SchemaError(_)
            | T::FieldNotFound(_)
            | T::DeserializeError(_) => Self::rebuild(path, error.to_string()),
            _ => {
                let detail = error.to_string();
                if OUT_OF_SPACE.iter().any(|code| detail.contains(code)) {
                    return Self::DiskFull { path: path.to_owned() };
                }
                Self::Failed { path: path.to_owned(), detail }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_recognised_through_the_layers_of_tantivy() {
        let path = Path::new("index");
        let full = || io::Error::from_raw_os_error(28);
        for error in [
            TantivyError::from(full()),
            TantivyError::from(OpenWriteError::wrap_io_error(full(), path.to_owned())),
            TantivyError::InternalError(full().to_string()),
        ] {
            assert!(matches!(LexicalError::tantivy(path, &error), LexicalError::DiskFull { .. }), "{error:?}");
        }
        let other = TantivyError::InternalError(io::Error::from_raw_os_error(13).to_string());
        assert!(matches!(LexicalError::tantivy(path, &other), LexicalError::Failed { .. }));
    }
}
