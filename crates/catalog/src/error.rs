//! Errors of the catalog, and the mapping from SQLite's.

use std::path::{Path, PathBuf};

use edgewise_types::Generation;
use rusqlite::ErrorCode;

use crate::TreeVersion;

/// Why the catalog could not do something. After any of them the file holds what it held before.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// There is no catalog at the path.
    #[error("there is no catalog at {path}: create the collection by ingesting documents into it")]
    Missing {
        /// Path of the catalog.
        path: PathBuf,
    },
    /// There is one already.
    #[error("there is a catalog at {path} already: open it, or delete the collection first")]
    AlreadyExists {
        /// Path of the catalog.
        path: PathBuf,
    },
    /// The file is something else.
    #[error("{path} is not an Edgewise catalog ({detail}): move it away or choose another data folder")]
    NotACatalog {
        /// Path of the file.
        path: PathBuf,
        /// What it looks like.
        detail: String,
    },
    /// Written by a newer version.
    #[error(
        "the catalog {path} has schema version {found}, this program reads up to {supported}: use a newer Edgewise"
    )]
    NewerSchema {
        /// Path of the catalog.
        path: PathBuf,
        /// Version in the file.
        found: i64,
        /// Newest version this program knows.
        supported: i64,
    },
    /// Written by an earlier version, and can't be brought to this one.
    #[error(
        "the catalog {path} has schema version {found} and cannot be brought to version {wanted} ({detail}): \
         make it writable, or ingest the documents again"
    )]
    CannotMigrate {
        /// Path of the catalog.
        path: PathBuf,
        /// Version in the file.
        found: i64,
        /// Version of this program.
        wanted: i64,
        /// What went wrong.
        detail: String,
    },
    /// The content contradicts itself or the file format.
    #[error(
        "the catalog {path} is damaged ({detail}): restore it from a backup, or delete the collection and ingest again"
    )]
    Damaged {
        /// Path of the catalog.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// No space left.
    #[error("the disk of {path} is full: free some space and try again; what was committed before is safe")]
    DiskFull {
        /// Path of the catalog.
        path: PathBuf,
    },
    /// Another process kept the write lock for longer than the time-out.
    #[error("the catalog {path} is locked by another process: let it finish, or stop it, and try again")]
    Busy {
        /// Path of the catalog.
        path: PathBuf,
    },
    /// A write to a catalog that was opened for reading, or whose file is write-protected.
    #[error("the catalog {path} is open for reading only: open it for writing and check the file's permissions")]
    ReadOnly {
        /// Path of the catalog.
        path: PathBuf,
    },
    /// The file can't be opened.
    #[error("cannot open the catalog {path} ({detail}): check that the folder exists and its permissions")]
    CannotOpen {
        /// Path of the catalog.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// Reading or writing failed.
    #[error("cannot read or write the catalog {path} ({detail}): check the space left on the disk and its health")]
    Io {
        /// Path of the catalog.
        path: PathBuf,
        /// What the system says.
        detail: String,
    },
    /// A batch breaks an invariant; nothing of it was written.
    #[error("the batch is refused: document `{uri}`: {reason}")]
    InvalidBatch {
        /// The offending document.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of a summary tree, or a summary, breaks an invariant; nothing was written.
    #[error("the tree is refused: {part}: {reason}")]
    InvalidTree {
        /// What was refused.
        part: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A part of a summary tree is of documents as they were before; nothing was written.
    #[error("the tree is out of date: {part}: {reason}: build it again")]
    StaleTree {
        /// What was refused.
        part: String,
        /// What changed.
        reason: String,
    },
    /// A catalog can't be created like this.
    #[error("the catalog cannot be created: {reason}")]
    InvalidMeta {
        /// What is wrong.
        reason: String,
    },
    /// An index claims a generation the catalog has not reached: it belongs to another catalog.
    #[error("generation {asked} is ahead of the catalog's {current}: the index belongs to another catalog, rebuild it")]
    UnknownGeneration {
        /// The generation asked for.
        asked: Generation,
        /// The catalog's.
        current: Generation,
    },
    /// An index of nodes claims a version the catalog has not reached: it belongs to another catalog.
    #[error("version {asked} of the tree is ahead of the catalog's {current}: the index belongs to another catalog")]
    UnknownTreeVersion {
        /// The version asked for.
        asked: TreeVersion,
        /// The catalog's.
        current: TreeVersion,
    },
    /// Anything else from SQLite.
    #[error("the catalog {path} failed: {detail}")]
    Sqlite {
        /// Path of the catalog.
        path: PathBuf,
        /// SQLite's message.
        detail: String,
    },
}

/// An error inside a transaction, before it is known which file it is about.
#[derive(Debug)]
pub(crate) enum Fault {
    Sqlite(rusqlite::Error),
    Damaged(String),
    Catalog(CatalogError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<CatalogError> for Fault {
    fn from(error: CatalogError) -> Self {
        Self::Catalog(error)
    }
}

impl Fault {
    /// The error of the catalog at `path`.
    pub(crate) fn at(self, path: &Path) -> CatalogError {
        match self {
            Self::Sqlite(error) => from_sqlite(path, &error),
            Self::Damaged(detail) => CatalogError::Damaged { path: path.to_owned(), detail },
            Self::Catalog(error) => error,
        }
    }
}

fn from_sqlite(path: &Path, error: &rusqlite::Error) -> CatalogError {
    use rusqlite::Error as E;
    let (path, detail) = (path.to_owned(), error.to_string());
    let failure = match error {
        E::SqliteFailure(failure, _) => failure,
        // A value of the wrong type or range: the schema is strict, so the file was changed by someone else.
        E::FromSqlConversionFailure(..)
        | E::IntegralValueOutOfRange(..)
        | E::InvalidColumnType(..)
        | E::Utf8Error(..)
        | E::QueryReturnedNoRows
        // Our statements never change: one that does not compile meets a schema that is not ours.
        | E::SqlInputError { .. } => return CatalogError::Damaged { path, detail },
        _ => return CatalogError::Sqlite { path, detail },
    };
    match failure.code {
        ErrorCode::DatabaseCorrupt => CatalogError::Damaged { path, detail },
        ErrorCode::NotADatabase => CatalogError::NotACatalog { path, detail },
        ErrorCode::DiskFull => CatalogError::DiskFull { path },
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => CatalogError::Busy { path },
        ErrorCode::ReadOnly => CatalogError::ReadOnly { path },
        ErrorCode::PermissionDenied | ErrorCode::CannotOpen => CatalogError::CannotOpen { path, detail },
        ErrorCode::SystemIoFailure => match failure.extended_code {
            rusqlite::ffi::SQLITE_IOERR_SHORT_READ | rusqlite::ffi::SQLITE_IOERR_CORRUPTFS => {
                CatalogError::Damaged { path, detail }
            }
            // The log's shared memory can't grow: SQLite tells that apart from other failures, but not as a full disk.
            rusqlite::ffi::SQLITE_IOERR_SHMSIZE => CatalogError::DiskFull { path },
            _ => CatalogError::Io { path, detail },
        },
        _ => CatalogError::Sqlite { path, detail },
    }
}
