//! The tables, and the checks that a file is a catalog this program can read.
//!
//! Schema versions only grow. A catalog of an earlier version is brought to this one when it is opened, in place and in
//! one transaction; see [`migrate`].
//!
//! - Version 1 is the first.
//! - Version 2 adds the section of each chunk, the pages of each document, and the checksums of `seals`.
//! - Version 3 adds summary trees and jobs.

use rusqlite::{Connection, TransactionBehavior};

use crate::{CatalogMeta, error::Fault, seals, tree};

/// Marks the file as ours (`EDGW`): https://sqlite.org/pragma.html#pragma_application_id
pub(crate) const APPLICATION_ID: i64 = 0x4544_4757;

/// The version this program writes and the newest it reads.
pub(crate) const SCHEMA_VERSION: i64 = 3;

const TABLES: &str = "
CREATE TABLE meta (
    one                 INTEGER PRIMARY KEY CHECK (one = 1),
    id                  TEXT    NOT NULL,
    collection          TEXT    NOT NULL,
    profile             TEXT    NOT NULL,
    profile_hash        TEXT    NOT NULL,
    embedder_model      TEXT    NOT NULL,
    embedder_digest     TEXT    NOT NULL,
    embedder_dimension  INTEGER NOT NULL CHECK (embedder_dimension > 0),
    generator_tokenizer TEXT    NOT NULL,
    generation          INTEGER NOT NULL CHECK (generation >= 0)
) STRICT;

CREATE TABLE documents (
    key          INTEGER PRIMARY KEY,
    id           TEXT    NOT NULL UNIQUE,
    uri          TEXT    NOT NULL UNIQUE,
    title        TEXT    NOT NULL,
    media_type   TEXT    NOT NULL,
    content_hash TEXT    NOT NULL,
    text_bytes   INTEGER NOT NULL CHECK (text_bytes >= 0),
    tokens       INTEGER NOT NULL CHECK (tokens >= 0),
    chunks       INTEGER NOT NULL CHECK (chunks >= 0),
    metadata     TEXT    NOT NULL,
    status       TEXT    NOT NULL,
    updated_at   TEXT    NOT NULL
) STRICT;

-- Apart from documents, so that listing those does not read texts.
CREATE TABLE texts (
    document INTEGER PRIMARY KEY REFERENCES documents (key) ON DELETE CASCADE,
    text     TEXT    NOT NULL,
    pages    TEXT                -- JSON: where pages begin; NULL: it has none
) STRICT;

-- AUTOINCREMENT: an id is never handed out twice, even after the row with the largest one is gone.
CREATE TABLE chunks (
    id               INTEGER PRIMARY KEY AUTOINCREMENT,
    document         INTEGER NOT NULL REFERENCES documents (key) ON DELETE CASCADE,
    ordinal          INTEGER NOT NULL CHECK (ordinal >= 0),
    span_start       INTEGER NOT NULL CHECK (span_start >= 0),
    span_end         INTEGER NOT NULL CHECK (span_end >= span_start),
    heading_path     TEXT    NOT NULL,
    embedder_tokens  INTEGER NOT NULL CHECK (embedder_tokens >= 0),
    generator_tokens INTEGER NOT NULL CHECK (generator_tokens >= 0),
    added_in         INTEGER NOT NULL,
    section_start    INTEGER,    -- NULL: the whole document
    section_end      INTEGER,
    UNIQUE (document, ordinal)
) STRICT;
CREATE INDEX chunks_by_generation ON chunks (added_in);

CREATE TABLE embeddings (
    chunk  INTEGER PRIMARY KEY REFERENCES chunks (id) ON DELETE CASCADE,
    vector BLOB    NOT NULL
) STRICT;

CREATE TABLE tombstones (
    chunk      INTEGER PRIMARY KEY,
    added_in   INTEGER NOT NULL,
    removed_in INTEGER NOT NULL
) STRICT;
CREATE INDEX tombstones_by_generation ON tombstones (removed_in);
";

/// From version 1 to 2. Neither sections nor pages can be told without the source: a chunk's section is the document,
/// and no document has pages, until they are ingested again. Adding a column rewrites no row, see
/// <https://sqlite.org/lang_altertable.html#alter_table_add_column>; sealing reads them all.
const FROM_1: &str = "
ALTER TABLE texts ADD COLUMN pages TEXT;
ALTER TABLE chunks ADD COLUMN section_start INTEGER;
ALTER TABLE chunks ADD COLUMN section_end INTEGER;
";

/// What a file turns out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// A database without tables: new, or its creation was interrupted.
    Empty,
    /// A catalog of the given schema version.
    Catalog(i64),
    /// Something else; what it looks like.
    Foreign(&'static str),
}

/// Looks at a file without changing it.
pub(crate) fn file_kind(connection: &Connection) -> Result<FileKind, Fault> {
    let pragma = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if pragma("application_id")? == APPLICATION_ID {
        return Ok(FileKind::Catalog(pragma("user_version")?));
    }
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables > 0 {
        return Ok(FileKind::Foreign("a database of another program"));
    }
    // SQLite takes any file that is shorter than a header for an empty database, and would overwrite it.
    let bytes = connection.path().and_then(|path| std::fs::metadata(path).ok()).map_or(0, |file| file.len());
    if pragma("page_count")? == 0 && bytes > 0 {
        return Ok(FileKind::Foreign("too short for a database"));
    }
    Ok(FileKind::Empty)
}

/// Creates the tables in an [`FileKind::Empty`] file. Interrupted at any point, the file is still empty; when two
/// processes try, one finds it is too late and gets `false`.
pub(crate) fn initialise(connection: &mut Connection, meta: &CatalogMeta) -> Result<bool, Fault> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    if !mode.eq_ignore_ascii_case("wal") {
        return Err(Fault::Damaged(format!("the file system does not support a write-ahead log (mode `{mode}`)")));
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    if file_kind(&transaction)? != FileKind::Empty {
        return Ok(false);
    }
    transaction.execute_batch(TABLES)?;
    transaction.execute_batch(seals::TABLES)?;
    transaction.execute_batch(tree::TABLES)?;
    let dimension = i64::try_from(meta.embedder.dimension).unwrap_or(i64::MAX);
    transaction.execute(
        "INSERT INTO meta VALUES (1, lower(hex(randomblob(16))), ?1, ?2, ?3, ?4, ?5, ?6, ?7, 0)",
        rusqlite::params![
            meta.collection.as_str(),
            meta.profile,
            meta.profile_hash().as_str(),
            meta.embedder.model,
            meta.embedder.digest,
            dimension,
            meta.generator_tokenizer
        ],
    )?;
    seals::seal_meta(&transaction)?;
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    transaction.commit()?;
    Ok(true)
}

/// Brings a catalog of an earlier version to [`SCHEMA_VERSION`]. Interrupted at any point it is as it was, and when two
/// processes try, the second finds nothing left to do.
pub(crate) fn migrate(connection: &mut Connection) -> Result<(), Fault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    match file_kind(&transaction)? {
        FileKind::Catalog(1) => {
            transaction.execute_batch(FROM_1)?;
            transaction.execute_batch(seals::TABLES)?;
            transaction.execute_batch(tree::TABLES)?;
            seals::seal_all(&transaction)?;
        }
        FileKind::Catalog(2) => {
            let sound = seals::version_2_is_sound(&transaction)?;
            transaction.execute_batch(tree::TABLES)?;
            // Left as it is, a wrong checksum stays wrong: sealing anew would hide what happened before.
            if sound {
                seals::seal_meta(&transaction)?;
            }
        }
        // Another process was faster.
        _ => return Ok(()),
    }
    transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    Ok(transaction.commit()?)
}
