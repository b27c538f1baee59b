//! What can go wrong with prices and records.

use std::path::PathBuf;

/// Failure of the ledger.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The price file cannot be read.
    #[error("cannot read the price file {file}: {source}")]
    ReadPrices {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The price file is not of the form it must have.
    #[error("{file} is not a valid price file: {message}")]
    Prices {
        /// The file, or what the text is called.
        file: String,
        /// What is wrong, with the line.
        message: String,
    },
    /// The database cannot be opened or made.
    #[error("cannot open the ledger {path}: {source}; check the path and its permissions")]
    Open {
        /// The database file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// The database was made by a newer version of the program.
    #[error(
        "the ledger {path} has schema version {found}, but this program knows versions up to {known}: upgrade the program, or move the file away to start a new ledger"
    )]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// Version of the file.
        found: i64,
        /// Newest version known here.
        known: i64,
    },
    /// A record with this id exists.
    #[error("the ledger already has a record `{id}`: every request needs its own id")]
    DuplicateId {
        /// The id.
        id: String,
    },
    /// No answered request has this id.
    #[error(
        "no answered request `{id}` is known: its id is in the header x-request-id of the answer, and in `edgewise usage --json`"
    )]
    UnknownRequest {
        /// The id.
        id: String,
    },
    /// The disk is full. Earlier records are kept.
    #[error("no space left for the ledger: free some; the records written so far are kept")]
    DiskFull,
    /// A stored record does not make sense.
    #[error("record `{id}` of the ledger is damaged: {reason}")]
    Damaged {
        /// The record's id.
        id: String,
        /// What is wrong.
        reason: String,
    },
    /// Another failure of the database.
    #[error("the ledger cannot be read or written: {0}")]
    Database(rusqlite::Error),
}

impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Database(error),
        }
    }
}
