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
    /// The journal cannot be made, read or written.
    #[error("the ledger's journal cannot be written or read: {0}; check the folder of the ledger and its permissions")]
    Journal(std::io::Error),
    /// The database cannot be brought up to date. What was acknowledged is in the journal.
    #[error("the ledger's database is behind its journal: {reason}; nothing is lost, try again")]
    Behind {
        /// Why.
        reason: String,
    },
    /// A question to the ledger that has too large an answer.
    #[error(
        "the report would have more than {most} rows: choose a longer interval, a shorter time or fewer dimensions"
    )]
    TooManyGroups {
        /// Most rows of a report.
        most: usize,
    },
    /// A place in a list that the ledger did not give.
    #[error("`{cursor}` is not a place in the list of requests: pass on what came as `next`")]
    Cursor {
        /// The cursor.
        cursor: String,
    },
    /// There is no budget of this name.
    #[error("there is no budget `{name}`: `edgewise usage budgets list` shows those there are")]
    UnknownBudget {
        /// The name.
        name: String,
    },
    /// A budget that makes no sense.
    #[error("the budget `{name}` is not valid: {reason}")]
    Budget {
        /// Its name.
        name: String,
        /// What is wrong and what to do.
        reason: String,
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

impl LedgerError {
    pub(crate) fn journal(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::DiskFull,
            _ => Self::Journal(error),
        }
    }

    /// The thread of the ledger is gone, which only a defect does.
    pub(crate) fn ended() -> Self {
        Self::Behind { reason: "its thread has ended; restart the program".to_owned() }
    }
}
