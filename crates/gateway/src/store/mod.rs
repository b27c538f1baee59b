//! What the server keeps between requests besides collections and the ledger: conversations, and replies to requests that
//! may be repeated. One SQLite file in the data folder, made when it is first needed.
//!
//! Invariants:
//! - What was acknowledged survives a killed process: write-ahead log with `synchronous=FULL`.
//! - Every statement names a tenant: nothing of one is found by another.
//!
//! Deliberately not here: HTTP, and what a turn or a reply means.

mod conversations;
mod replies;

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rusqlite::Connection;

use crate::{ApiError, ErrorKind};

pub(crate) use conversations::{Head, Placed, Stored};
pub(crate) use replies::{Fingerprint, Kept};

/// Name of the file. No collection name starts with an underscore.
const FILE: &str = "_conversations.sqlite";

/// Layout of the tables.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY,
        tenant TEXT NOT NULL,
        collection TEXT NOT NULL,
        title TEXT,
        created INTEGER NOT NULL,
        updated INTEGER NOT NULL,
        turns INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX conversations_by_use ON conversations (tenant, updated DESC, id DESC);
    CREATE TABLE turns (
        conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        n INTEGER NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (conversation, n)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE replies (
        tenant TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint BLOB NOT NULL,
        request TEXT NOT NULL,
        status INTEGER NOT NULL,
        headers TEXT NOT NULL,
        body BLOB NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (tenant, key)
    ) STRICT;
    CREATE INDEX replies_by_age ON replies (at);
";

/// Why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The disk is full.
    #[error("no space left on the disk of the server: free some and send the request again")]
    DiskFull,
    /// The file is of a later version.
    #[error(
        "{path} was written by a later version of Edgewise (layout {found}, this one reads {VERSION}): use that one"
    )]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
    },
    /// Anything else.
    #[error("{path}: {source}")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// What is stored can't be read back.
    #[error("{path}: a stored record can't be read: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::DiskFull => Self::new(ErrorKind::DiskFull, error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}

/// The file. Blocks.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    connection: Mutex<Option<Connection>>,
}

impl Store {
    /// The store in a data folder. Nothing is opened yet.
    pub(crate) fn of(data: &Path) -> Self {
        Self { path: data.join(FILE), connection: Mutex::new(None) }
    }

    /// Runs `act` on the open file.
    fn with<T>(&self, act: impl FnOnce(&mut Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        let connection = match slot.take() {
            Some(connection) => slot.insert(connection),
            None => slot.insert(self.open()?),
        };
        act(connection).map_err(|error| self.failed(error))
    }

    fn open(&self) -> Result<Connection, StoreError> {
        let failed = |error| self.failed(error);
        let mut connection = Connection::open(&self.path).map_err(failed)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
        let change = connection.transaction().map_err(failed)?;
        let found: i64 = change.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
        match found {
            VERSION => {}
            0 => {
                change.execute_batch(SCHEMA).map_err(failed)?;
                change.pragma_update(None, "user_version", VERSION).map_err(failed)?;
            }
            found => return Err(StoreError::TooNew { path: self.path.clone(), found }),
        }
        change.commit().map_err(failed)?;
        Ok(connection)
    }

    fn failed(&self, source: rusqlite::Error) -> StoreError {
        match source.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => StoreError::DiskFull,
            _ => StoreError::Database { path: self.path.clone(), source },
        }
    }

    fn damaged(&self, reason: impl std::fmt::Display) -> StoreError {
        StoreError::Damaged { path: self.path.clone(), reason: reason.to_string() }
    }
}

/// A time as the file has it.
fn micros(at: jiff::Timestamp) -> i64 {
    at.as_microsecond()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_a_later_version_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 9).unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = Store::of(folder.path()).with(|_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("later version"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap().len(), before.len());
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), "this is not a database, however long one looks at it".repeat(40))
            .unwrap();
        assert!(Store::of(folder.path()).with(|_| Ok(())).is_err());
        assert!(folder.path().join(FILE).exists());
    }
}
