//! Checksums of what the tables hold, so that a letter that flipped on the disk is found.
//!
//! SQLite checks the structure of its pages and not what is written in them. So every document is sealed with a BLAKE3
//! of its rows, texts and vectors included, each generation's tombstones likewise, and the rest (the only row of `meta`,
//! the schema, the counter of chunk ids) with each commit. Seals are written in the transaction of what they seal, from
//! what the database gives back.
//!
//! Deliberately not here: verifying on every read, which would cost more than the read. [`crate::Catalog::check`] does.

use edgewise_types::Generation;
use rusqlite::{Connection, OptionalExtension, Transaction, params, types::ValueRef};

use crate::{error::Fault, rows::signed, tree};

/// The tables of schema version 2.
pub(crate) const TABLES: &str = "
CREATE TABLE document_seals (
    document INTEGER PRIMARY KEY REFERENCES documents (key) ON DELETE CASCADE,
    hash     BLOB    NOT NULL
) STRICT;

CREATE TABLE tombstone_seals (
    removed_in INTEGER PRIMARY KEY,
    hash       BLOB    NOT NULL
) STRICT;

CREATE TABLE meta_seal (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    hash BLOB    NOT NULL
) STRICT;
";

const DOCUMENT: [&str; 4] = [
    "SELECT key, id, uri, title, media_type, content_hash, text_bytes, tokens, chunks, metadata, status, updated_at \
     FROM documents WHERE key = ?1",
    "SELECT text, pages FROM texts WHERE document = ?1",
    "SELECT id, ordinal, span_start, span_end, heading_path, embedder_tokens, generator_tokens, added_in, \
     section_start, section_end FROM chunks WHERE document = ?1 ORDER BY ordinal",
    "SELECT e.chunk, e.vector FROM chunks c JOIN embeddings e ON e.chunk = c.id WHERE c.document = ?1 \
     ORDER BY c.ordinal",
];

const TOMBSTONES: [&str; 1] = ["SELECT chunk, added_in FROM tombstones WHERE removed_in = ?1 ORDER BY chunk"];

/// `?1` is 1, the key of the only row.
const META: [&str; 4] = [
    "SELECT id, collection, profile, profile_hash, embedder_model, embedder_digest, embedder_dimension, \
     generator_tokenizer, generation FROM meta WHERE one = ?1",
    "SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE ?1 ORDER BY type, name",
    "SELECT name, seq FROM sqlite_sequence WHERE ?1 ORDER BY name",
    tree::VERSION,
];

/// BLAKE3 over all rows of `queries`, lengths included, so that no two different contents give the same bytes.
pub(crate) fn hash(connection: &Connection, queries: &[&str], key: i64) -> Result<[u8; 32], Fault> {
    let mut hasher = blake3::Hasher::new();
    let mut field = |kind: u8, bytes: &[u8]| {
        hasher.update(&[kind]);
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for sql in queries {
        let mut statement = connection.prepare_cached(sql)?;
        let columns = statement.column_count();
        let mut rows = statement.query([key])?;
        while let Some(row) = rows.next()? {
            for column in 0..columns {
                match row.get_ref(column)? {
                    ValueRef::Null => field(0, &[]),
                    ValueRef::Integer(value) => field(1, &value.to_le_bytes()),
                    ValueRef::Real(value) => field(2, &value.to_le_bytes()),
                    ValueRef::Text(bytes) => field(3, bytes),
                    ValueRef::Blob(bytes) => field(4, bytes),
                }
            }
            field(5, &[]);
        }
        field(6, &[]);
    }
    Ok(*hasher.finalize().as_bytes())
}

/// Seals the document in the row `key`, which has none yet.
pub(crate) fn seal_document(transaction: &Transaction<'_>, key: i64) -> Result<(), Fault> {
    let hash = hash(transaction, &DOCUMENT, key)?;
    transaction
        .prepare_cached("INSERT INTO document_seals (document, hash) VALUES (?1, ?2)")?
        .execute(params![key, hash])?;
    Ok(())
}

/// Seals the tombstones of `generation`, if there are any, and the rest as it is now: last in a transaction.
pub(crate) fn seal_generation(transaction: &Transaction<'_>, generation: u64) -> Result<(), Fault> {
    seal_tombstones(transaction, signed(generation as usize))?;
    seal_meta(transaction)
}

fn seal_tombstones(transaction: &Transaction<'_>, removed_in: i64) -> Result<(), Fault> {
    let any = transaction
        .prepare_cached("SELECT 1 FROM tombstones WHERE removed_in = ?1 LIMIT 1")?
        .query_row([removed_in], |_| Ok(()))
        .optional()?;
    if any.is_some() {
        let hash = hash(transaction, &TOMBSTONES, removed_in)?;
        transaction
            .prepare_cached("INSERT INTO tombstone_seals (removed_in, hash) VALUES (?1, ?2)")?
            .execute(params![removed_in, hash])?;
    }
    Ok(())
}

/// Seals what is neither document nor tombstone.
pub(crate) fn seal_meta(transaction: &Transaction<'_>) -> Result<(), Fault> {
    let hash = hash(transaction, &META, 1)?;
    transaction.prepare_cached("INSERT OR REPLACE INTO meta_seal (one, hash) VALUES (1, ?1)")?.execute([hash])?;
    Ok(())
}

/// Seals the part of the tree of a scope: last in a change of it.
pub(crate) fn seal_part(transaction: &Transaction<'_>, scope: i64) -> Result<(), Fault> {
    let hash = hash(transaction, &tree::PART_SEAL, scope)?;
    transaction.prepare_cached("UPDATE tree_parts SET seal = ?2 WHERE scope = ?1")?.execute(params![scope, hash])?;
    Ok(())
}

/// Whether the description of the collection is as version 2 sealed it.
pub(crate) fn version_2_is_sound(transaction: &Transaction<'_>) -> Result<bool, Fault> {
    let sealed: Option<Vec<u8>> =
        transaction.query_row("SELECT hash FROM meta_seal", [], |row| row.get(0)).optional()?;
    let [description, schema, counters, _] = META;
    Ok(sealed.is_some_and(|sealed| hash(transaction, &[description, schema, counters], 1).is_ok_and(|h| sealed == h)))
}

/// Seals all there is, as it is; the tables are new.
pub(crate) fn seal_all(transaction: &Transaction<'_>) -> Result<(), Fault> {
    for key in keys(transaction, "SELECT key FROM documents")? {
        seal_document(transaction, key)?;
    }
    for generation in keys(transaction, "SELECT DISTINCT removed_in FROM tombstones")? {
        seal_tombstones(transaction, generation)?;
    }
    seal_meta(transaction)
}

fn keys(transaction: &Transaction<'_>, sql: &str) -> Result<Vec<i64>, Fault> {
    let mut statement = transaction.prepare(sql)?;
    let keys = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(keys)
}

/// What is not as it was committed: one sentence each, up to a limit.
pub(crate) struct Findings {
    pub(crate) sentences: Vec<String>,
    limit: usize,
}

impl Findings {
    /// Compares the rows of `queries` with their seal.
    pub(crate) fn check(
        &mut self,
        connection: &Connection,
        queries: &[&str],
        key: i64,
        sealed: Option<Vec<u8>>,
        what: &dyn Fn() -> String,
    ) -> Result<(), Fault> {
        if self.sentences.len() >= self.limit {
            return Ok(());
        }
        match sealed {
            None => self.sentences.push(format!("{} has lost its checksum", what())),
            Some(sealed) if sealed != hash(connection, queries, key)? => {
                self.sentences.push(format!("{} is not as it was committed: its checksum differs", what()));
            }
            Some(_) => {}
        }
        Ok(())
    }
}

/// One sentence for each thing that is not as it was committed, at most `limit`.
pub(crate) fn findings(transaction: &Transaction<'_>, limit: usize) -> Result<Vec<String>, Fault> {
    let mut findings = Findings { sentences: Vec::new(), limit };
    let sealed = transaction.query_row("SELECT hash FROM meta_seal", [], |row| row.get(0)).optional()?;
    findings.check(transaction, &META, 1, sealed, &|| "the description of the collection".to_owned())?;

    let mut statement = transaction
        .prepare("SELECT d.key, d.uri, s.hash FROM documents d LEFT JOIN document_seals s ON s.document = d.key")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let uri: String = row.get(1)?;
        findings.check(transaction, &DOCUMENT, row.get(0)?, row.get(2)?, &|| format!("document `{uri}`"))?;
    }

    let mut statement = transaction.prepare(
        "SELECT g.removed_in, s.hash FROM (SELECT removed_in FROM tombstones UNION SELECT removed_in FROM tombstone_seals) g \
         LEFT JOIN tombstone_seals s ON s.removed_in = g.removed_in",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let generation: i64 = row.get(0)?;
        let what = || format!("the list of chunks removed in generation {}", Generation(generation.unsigned_abs()));
        findings.check(transaction, &TOMBSTONES, generation, row.get(1)?, &what)?;
    }
    tree::seal_findings(transaction, &mut findings)?;
    Ok(findings.sentences)
}
