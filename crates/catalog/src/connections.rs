//! Connections: one for writing behind a mutex, any number for reading, kept for reuse.
//!
//! A `rusqlite::Connection` may move between threads but not be shared, so a reader takes an idle one or opens another.
//! No connection holds a transaction while idle, so an idle reader never keeps the write-ahead log from being emptied.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::{CatalogError, error::Fault};

/// How long a connection waits for another process's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle readers beyond this many are closed.
const MAX_IDLE_READERS: usize = 8;

/// The connections of one catalog.
#[derive(Debug)]
pub(crate) struct Connections {
    path: PathBuf,
    // Dropped before the writer: the last connection to close empties the write-ahead log, which a reader can't.
    readers: Mutex<Vec<Connection>>,
    writer: Option<Mutex<Connection>>,
}

impl Connections {
    pub(crate) fn new(path: &Path, writer: Option<Connection>) -> Self {
        Self { path: path.to_owned(), writer: writer.map(Mutex::new), readers: Mutex::new(Vec::new()) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `body` in a read transaction: it sees one committed state.
    pub(crate) fn read<T>(&self, body: impl FnOnce(&Transaction<'_>) -> Result<T, Fault>) -> Result<T, CatalogError> {
        let idle = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => open_reader(&self.path)?,
        };
        let value = connection
            .transaction()
            .map_err(Fault::from)
            .and_then(|transaction| body(&transaction))
            // A connection that failed is closed rather than reused.
            .map_err(|fault| fault.at(&self.path))?;
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < MAX_IDLE_READERS {
            readers.push(connection);
        }
        Ok(value)
    }

    /// Runs `body` in a write transaction, which it must commit itself; otherwise it is rolled back.
    pub(crate) fn write<T>(&self, body: impl FnOnce(Transaction<'_>) -> Result<T, Fault>) -> Result<T, CatalogError> {
        let writer = self.writer.as_ref().ok_or_else(|| CatalogError::ReadOnly { path: self.path.clone() })?;
        // A panic inside a transaction rolled it back, so the connection behind a poisoned lock is still good.
        let mut connection = writer.lock().unwrap_or_else(PoisonError::into_inner);
        connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .map_err(Fault::from)
            .and_then(body)
            .map_err(|fault| fault.at(&self.path))
    }
}

impl Connections {
    /// Runs `body` on the writing connection, outside of a transaction.
    pub(crate) fn with_writer<T>(&self, body: impl FnOnce(&Connection) -> Result<T, Fault>) -> Result<T, CatalogError> {
        let writer = self.writer.as_ref().ok_or_else(|| CatalogError::ReadOnly { path: self.path.clone() })?;
        let connection = writer.lock().unwrap_or_else(PoisonError::into_inner);
        body(&connection).map_err(|fault| fault.at(&self.path))
    }
}

/// A connection that only reads.
pub(crate) fn open_reader(path: &Path) -> Result<Connection, CatalogError> {
    open(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// A connection that also writes; `create` makes the file if it is not there.
pub(crate) fn open_writer(path: &Path, create: bool) -> Result<Connection, CatalogError> {
    let create = if create { OpenFlags::SQLITE_OPEN_CREATE } else { OpenFlags::empty() };
    open(path, OpenFlags::SQLITE_OPEN_READ_WRITE | create)
}

fn open(path: &Path, flags: OpenFlags) -> Result<Connection, CatalogError> {
    let open = || -> Result<Connection, rusqlite::Error> {
        let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.pragma_update(None, "foreign_keys", true)?;
        // A commit that returned must survive a power cut: https://sqlite.org/pragma.html#pragma_synchronous
        connection.pragma_update(None, "synchronous", "FULL")?;
        // Don't let functions stored in a crafted file do anything: https://sqlite.org/security.html
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update(None, "cell_size_check", true)?;
        Ok(connection)
    };
    open().map_err(|error| Fault::from(error).at(path))
}
