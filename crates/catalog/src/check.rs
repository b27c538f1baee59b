//! Verification: is the file sound, and do two catalogs hold the same?

use std::collections::HashMap;

use edgewise_types::{ContentHash, DocumentId, Span};
use rusqlite::Transaction;

use crate::{
    Catalog, CatalogError, ContentFingerprint,
    error::Fault,
    rows::{self, DOCUMENT_COLUMNS, decode_vector, unsigned},
    seals, tree,
};

/// `integrity_check` stops after this many findings, and so do we.
const MAX_FINDINGS: usize = 100;

impl Catalog {
    /// Checks the file format, foreign keys, every invariant of this crate and the checksums of all content, and returns
    /// one sentence per finding (at most about 100): none if the catalog is sound. Reads everything.
    pub fn check(&self) -> Result<Vec<String>, CatalogError> {
        let mut findings = self.check_content()?;
        if findings.is_empty() {
            let mode: String = self
                .connections
                .read(|transaction| Ok(transaction.pragma_query_value(None, "journal_mode", |row| row.get(0))?))?;
            if !mode.eq_ignore_ascii_case("wal") {
                findings.push(format!("it is in journal mode `{mode}`, expected `wal`"));
            }
        }
        Ok(findings)
    }

    /// As [`Self::check`], for a catalog that may be a copy: without what makes it fit for use in place.
    pub(crate) fn check_content(&self) -> Result<Vec<String>, CatalogError> {
        self.connections.read(|transaction| {
            let mut findings = Vec::new();
            file_findings(transaction, &mut findings)?;
            if findings.is_empty() {
                self.content_findings(transaction, &mut findings)?;
                let dimension = self.meta().embedder.dimension;
                tree::content_findings(transaction, dimension, MAX_FINDINGS, &mut findings)?;
            }
            if findings.is_empty() {
                findings = seals::findings(transaction, MAX_FINDINGS)?;
            }
            findings.truncate(MAX_FINDINGS);
            Ok(findings)
        })
    }

    fn content_findings(&self, transaction: &Transaction<'_>, findings: &mut Vec<String>) -> Result<(), Fault> {
        // Each query selects offenders; the sentence says what they are.
        const RULES: [(&str, &str); 6] = [
            (
                "a chunk without an embedding",
                "SELECT c.id FROM chunks c LEFT JOIN embeddings e ON e.chunk = c.id WHERE e.chunk IS NULL",
            ),
            ("a live chunk with a tombstone", "SELECT c.id FROM chunks c JOIN tombstones t ON t.chunk = c.id"),
            (
                "a chunk from a generation to come",
                "SELECT c.id FROM chunks c, meta m WHERE c.added_in NOT BETWEEN 1 AND m.generation",
            ),
            (
                "a tombstone of an impossible generation",
                "SELECT t.chunk FROM tombstones t, meta m \
                 WHERE t.added_in < 1 OR t.removed_in <= t.added_in OR t.removed_in > m.generation",
            ),
            (
                "a document without text, or of another length",
                "SELECT d.key FROM documents d LEFT JOIN texts t ON t.document = d.key \
                 WHERE t.text IS NULL OR d.text_bytes <> octet_length(t.text)",
            ),
            (
                "a document whose chunks are not numbered 0, 1, 2, …",
                "SELECT d.key FROM documents d LEFT JOIN chunks c ON c.document = d.key GROUP BY d.key \
                 HAVING count(c.id) <> d.chunks OR coalesce(max(c.ordinal), -1) <> d.chunks - 1",
            ),
        ];
        for (what, sql) in RULES {
            let mut statement = transaction.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()?
                && findings.len() < MAX_FINDINGS
            {
                findings.push(format!("{what} (row {})", row.get::<_, i64>(0)?));
            }
        }

        let mut documents = transaction.prepare(&format!(
            "SELECT {DOCUMENT_COLUMNS}, t.text, t.pages FROM documents d JOIN texts t ON t.document = d.key"
        ))?;
        let mut spans = transaction.prepare(
            "SELECT ordinal, span_start, span_end, section_start, section_end FROM chunks WHERE document = ?1",
        )?;
        let mut rows = documents.query([])?;
        while let Some(row) = rows.next()? {
            let (key, document) = rows::document(row)?;
            if document.id != DocumentId::from_uri(&document.uri) {
                findings.push(format!("document `{}` has the id of another", document.uri));
            }
            let text: String = row.get(12)?;
            if let Err(Fault::Damaged(detail)) = rows::pages(row, 13, text.len()) {
                findings.push(format!("document `{}`: {detail}", document.uri));
            }
            let mut spans = spans.query([key])?;
            while let Some(row) = spans.next()? {
                let span = Span { start: unsigned(row, 1)?, end: unsigned(row, 2)? };
                let section = rows::section(row, 3)?.unwrap_or(Span::new(0, text.len()));
                let wrong = match span.slice(&text).and_then(|_| section.slice(&text)) {
                    Err(error) => error.to_string(),
                    Ok(_) if !section.contains(span) => "it is not in its section".to_owned(),
                    Ok(_) => continue,
                };
                findings.push(format!("document `{}`, chunk {}: {wrong}", document.uri, row.get::<_, i64>(0)?));
            }
        }

        let mut vector = vec![0.0f32; self.meta().embedder.dimension];
        let mut statement = transaction.prepare("SELECT chunk, vector FROM embeddings")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            match decode_vector(row, 1, &mut vector) {
                Ok(()) if vector.iter().all(|value| value.is_finite()) => {}
                Ok(()) => findings.push(format!("chunk {}: its embedding is not finite", row.get::<_, i64>(0)?)),
                Err(Fault::Damaged(detail)) => findings.push(format!("chunk {}: {detail}", row.get::<_, i64>(0)?)),
                Err(fault) => return Err(fault),
            }
        }
        Ok(())
    }

    /// Hashes of the content, for comparing two catalogs. Reads everything.
    pub fn content_fingerprint(&self) -> Result<ContentFingerprint, CatalogError> {
        self.connections.read(|transaction| {
            let (mut content, mut embeddings) = (Hasher::new(), Hasher::new());
            let mut documents = transaction.prepare(&format!(
                "SELECT {DOCUMENT_COLUMNS}, t.text, coalesce(t.pages, '') \
                 FROM documents d JOIN texts t ON t.document = d.key ORDER BY d.uri"
            ))?;
            let mut chunks = transaction.prepare(
                "SELECT c.span_start, c.span_end, c.embedder_tokens, c.generator_tokens, coalesce(c.section_start, 0), \
                 coalesce(c.section_end, d.text_bytes), c.heading_path, e.vector \
                 FROM chunks c JOIN embeddings e ON e.chunk = c.id JOIN documents d ON d.key = c.document \
                 WHERE c.document = ?1 ORDER BY c.ordinal",
            )?;
            let mut rows = documents.query([])?;
            while let Some(row) = rows.next()? {
                let (key, document) = rows::document(row)?;
                content.text(&document.uri);
                content.text(&document.title);
                content.text(&document.media_type);
                content.text(document.content_hash.as_str());
                content.number(document.tokens);
                content.text(&row.get::<_, String>(9)?);
                content.text(&row.get::<_, String>(12)?);
                content.text(&row.get::<_, String>(13)?);
                content.number(document.chunks);
                embeddings.text(&document.uri);
                let mut rows = chunks.query([key])?;
                while let Some(row) = rows.next()? {
                    for column in 0..6 {
                        content.number(unsigned(row, column)?);
                    }
                    content.text(&row.get::<_, String>(6)?);
                    embeddings.bytes(&row.get::<_, Vec<u8>>(7)?);
                }
            }
            Ok(ContentFingerprint { content: content.finish()?, embeddings: embeddings.finish()? })
        })
    }
}

/// Findings of SQLite itself.
fn file_findings(transaction: &Transaction<'_>, findings: &mut Vec<String>) -> Result<(), Fault> {
    let mut statement = transaction.prepare("PRAGMA integrity_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let line: String = row.get(0)?;
        if line != "ok" {
            findings.push(line);
        }
    }
    let mut counts: HashMap<String, usize> = HashMap::new();
    let mut statement = transaction.prepare("PRAGMA foreign_key_check")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        *counts.entry(row.get(0)?).or_default() += 1;
    }
    findings.extend(counts.into_iter().map(|(table, rows)| format!("{rows} rows of `{table}` point nowhere")));
    Ok(())
}

/// BLAKE3 over length-prefixed fields, so that no two different sequences of fields give the same bytes.
struct Hasher(blake3::Hasher);

impl Hasher {
    fn new() -> Self {
        Self(blake3::Hasher::new())
    }

    fn number(&mut self, number: usize) {
        self.0.update(&(number as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn finish(self) -> Result<ContentHash, Fault> {
        self.0.finalize().to_hex().parse().map_err(|error| Fault::Damaged(format!("{error}")))
    }
}
