//! The schema, and how older files are brought to it.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::AccessError;

/// Steps from each version to the next; version 0 is an empty file. The version is in `PRAGMA user_version`.
const STEPS: &[&str] = &[
    "
CREATE TABLE keys (
    id TEXT PRIMARY KEY NOT NULL,
    digest BLOB NOT NULL,
    name TEXT NOT NULL,
    tenant TEXT NOT NULL,
    scopes TEXT NOT NULL,
    limits TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    expires_us INTEGER,
    revoked_us INTEGER,
    last_used_us INTEGER
) STRICT;
CREATE TABLE sessions (
    digest BLOB PRIMARY KEY NOT NULL,
    key TEXT NOT NULL REFERENCES keys (id),
    expires_us INTEGER NOT NULL
) STRICT;
CREATE TABLE tokens (
    key TEXT NOT NULL,
    day TEXT NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (key, day)
) STRICT;
CREATE TABLE audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_us INTEGER NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    key TEXT,
    tenant TEXT,
    detail TEXT NOT NULL,
    count INTEGER NOT NULL
) STRICT;
CREATE TABLE published (
    name TEXT PRIMARY KEY NOT NULL,
    text TEXT NOT NULL,
    published_us INTEGER NOT NULL
) STRICT;
",
    // `limits` may name what a request may use, which versions before this one can't read.
    "",
];

/// Brings a file to the newest version.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), AccessError> {
    let open = |source| AccessError::Open { path: path.to_owned(), source };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(open)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(open)?;
    let known = STEPS.len() as i64;
    if found > known {
        return Err(AccessError::NewerSchema { path: path.to_owned(), found, known });
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step).map_err(open)?;
    }
    if found < known {
        transaction.pragma_update(None, "user_version", known).map_err(open)?;
    }
    transaction.commit().map_err(open)
}
