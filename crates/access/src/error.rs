//! What can go wrong with keys.

use std::path::PathBuf;

use crate::KeyId;

/// Failure of the store of keys.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The database cannot be opened or made.
    #[error("cannot open the keys in {path}: {source}; check paths.access and its permissions")]
    Open {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// Its folder or file cannot be made.
    #[error("cannot make {path}: {source}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The database was made by a newer version of the program.
    #[error(
        "the keys in {path} have schema version {found}, but this program knows versions up to {known}: upgrade the program"
    )]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// Version of the file.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// A value of a new key is not allowed.
    #[error("{0}")]
    Invalid(String),
    /// There is no such key.
    #[error("there is no key {id}: `edgewise keys list` shows those there are")]
    UnknownKey {
        /// Its id.
        id: KeyId,
    },
    /// The key was revoked before.
    #[error("key {id} was revoked already")]
    AlreadyRevoked {
        /// Its id.
        id: KeyId,
    },
    /// Nothing is published under this name.
    #[error("no shared prefix `{name}` is published")]
    UnknownPrefix {
        /// The name.
        name: String,
    },
    /// A stored row does not make sense.
    #[error("{what} of the key store is damaged: {reason}")]
    Damaged {
        /// Which row.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The disk is full. Nothing was changed.
    #[error("no space left for the keys: free some and try again; nothing was changed")]
    DiskFull,
    /// Another failure of the database.
    #[error("the keys cannot be read or written: {0}")]
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for AccessError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Database(error),
        }
    }
}
