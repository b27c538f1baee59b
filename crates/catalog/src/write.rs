//! Committing a batch.

use std::collections::{BTreeMap, BTreeSet};

use edgewise_types::{ChunkId, DocumentId, DocumentStatus};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::{
    Batch, Catalog, CatalogError, Committed, NewDocument,
    error::Fault,
    rows::{chunk_id, encode_vector, generation, signed, status_text},
    seals::{seal_document, seal_generation},
    tree,
};

/// How far from 1 the length of a unit vector may be: room for `f32` rounding, none for a missing normalisation.
const UNIT_TOLERANCE: f64 = 1e-3;

impl Catalog {
    /// Commits all of `batch` in one transaction, or nothing. When it returns, the change is on disk.
    ///
    /// A replaced document loses all its chunks, which get tombstones, and its new chunks get new ids. Its summary tree
    /// goes with them, and the layers above are no longer current. The generation
    /// grows by one, except when nothing changes: an empty batch, or one that only deletes unknown documents.
    ///
    /// # Errors
    /// [`CatalogError::InvalidBatch`] if a span cuts a character or leaves the text or its section, pages leave the text,
    /// an embedding has the wrong dimension or length, a number in the metadata is not finite, or a URI comes twice or is empty;
    /// [`CatalogError::ReadOnly`], [`CatalogError::DiskFull`], [`CatalogError::Busy`].
    pub fn commit(&self, batch: &Batch) -> Result<Committed, CatalogError> {
        self.validate(batch)?;
        self.connections.write(|transaction| {
            let before = generation(&transaction)?;
            let next = before.0 + 1;
            let next_tree = tree::next_version(&transaction)?;
            let (mut added, mut removed, mut changed) = (Vec::new(), Vec::new(), false);
            let mut former: BTreeMap<DocumentId, String> = BTreeMap::new();
            let written: BTreeSet<DocumentId> = batch.upserts.iter().map(NewDocument::id).collect();
            let mut take_away = |id: &DocumentId, removed: &mut Vec<ChunkId>| -> Result<bool, Fault> {
                let Some(key) = document_key(&transaction, id)? else { return Ok(false) };
                if let Some(part) = tree::remove_document(&transaction, key, written.contains(id), next_tree)? {
                    former.insert(id.clone(), part);
                }
                remove(&transaction, key, next, removed)?;
                Ok(true)
            };
            for id in &batch.deletes {
                changed |= take_away(id, &mut removed)?;
            }
            for document in &batch.upserts {
                take_away(&document.id(), &mut removed)?;
                insert(&transaction, document, next, &mut added)?;
                changed = true;
            }
            if !changed {
                return Ok(Committed { generation: before, added, removed });
            }
            transaction.prepare_cached("UPDATE meta SET generation = ?1")?.execute([signed(next as usize)])?;
            tree::documents_changed(&transaction, &former, next_tree)?;
            seal_generation(&transaction, next)?;
            transaction.commit()?;
            removed.sort_unstable();
            Ok(Committed { generation: edgewise_types::Generation(next), added, removed })
        })
    }

    fn validate(&self, batch: &Batch) -> Result<(), CatalogError> {
        let mut uris = BTreeSet::new();
        for document in &batch.upserts {
            let refuse = |reason: String| Err(CatalogError::InvalidBatch { uri: document.uri.clone(), reason });
            if document.uri.is_empty() {
                return refuse("its URI is empty".to_owned());
            }
            if !uris.insert(document.uri.as_str()) {
                return refuse("it is in the batch twice".to_owned());
            }
            if let Some(key) = non_finite_metadata(document) {
                return refuse(format!("the number in metadata `{key}` is not finite"));
            }
            if !document.pages.fits(document.text.len()) {
                return refuse("its pages are not those of its text".to_owned());
            }
            for (ordinal, chunk) in document.chunks.iter().enumerate() {
                if let Err(error) = chunk.span.slice(&document.text).and_then(|_| chunk.section.slice(&document.text)) {
                    return refuse(format!("chunk {ordinal}: {error}"));
                }
                if !chunk.section.contains(chunk.span) {
                    return refuse(format!("chunk {ordinal}: it is not in its section"));
                }
                if let Err(reason) = unit_vector(&chunk.embedding, self.meta().embedder.dimension) {
                    return refuse(format!("chunk {ordinal}: its {reason}"));
                }
            }
        }
        Ok(())
    }
}

/// Refuses what is no unit vector of so many dimensions, with a reason that goes on from "its".
pub(crate) fn unit_vector(vector: &[f32], dimension: usize) -> Result<(), String> {
    if vector.len() != dimension {
        return Err(format!("embedding has {} dimensions, expected {dimension}", vector.len()));
    }
    let norm = vector.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let unit = (norm - 1.0).abs() <= UNIT_TOLERANCE;
    if unit { Ok(()) } else { Err(format!("embedding has length {norm}, expected 1")) }
}

fn non_finite_metadata(document: &NewDocument) -> Option<&str> {
    document.metadata.iter().find_map(|(key, value)| match value {
        edgewise_types::MetadataValue::Float(number) if !number.is_finite() => Some(key.as_str()),
        _ => None,
    })
}

/// The row of a document, if it is there.
fn document_key(transaction: &Transaction<'_>, id: &DocumentId) -> Result<Option<i64>, Fault> {
    let mut statement = transaction.prepare_cached("SELECT key FROM documents WHERE id = ?1")?;
    Ok(statement.query_row([id.as_str()], |row| row.get(0)).optional()?)
}

/// Removes the document in the row `key` and its chunks, leaving tombstones.
fn remove(transaction: &Transaction<'_>, key: i64, generation: u64, removed: &mut Vec<ChunkId>) -> Result<(), Fault> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO tombstones (chunk, added_in, removed_in) \
         SELECT id, added_in, ?2 FROM chunks WHERE document = ?1 RETURNING chunk",
    )?;
    let mut rows = statement.query(params![key, signed(generation as usize)])?;
    while let Some(row) = rows.next()? {
        removed.push(chunk_id(row, 0)?);
    }
    // Text, chunks and embeddings go with it.
    transaction.prepare_cached("DELETE FROM documents WHERE key = ?1")?.execute([key])?;
    Ok(())
}

fn insert(
    transaction: &Transaction<'_>,
    document: &NewDocument,
    generation: u64,
    added: &mut Vec<ChunkId>,
) -> Result<(), Fault> {
    let refuse = |error: serde_json::Error| {
        Fault::from(CatalogError::InvalidBatch { uri: document.uri.clone(), reason: error.to_string() })
    };
    transaction
        .prepare_cached(
            "INSERT INTO documents \
             (id, uri, title, media_type, content_hash, text_bytes, tokens, chunks, metadata, status, updated_at) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            document.id().as_str(),
            document.uri,
            document.title,
            document.media_type,
            document.content_hash.as_str(),
            signed(document.text.len()),
            signed(document.tokens),
            signed(document.chunks.len()),
            serde_json::to_string(&document.metadata).map_err(refuse)?,
            status_text(DocumentStatus::Ready),
            document.updated_at.to_string(),
        ])?;
    let key = transaction.last_insert_rowid();
    let pages = (!document.pages.is_empty()).then(|| serde_json::to_string(&document.pages));
    transaction.prepare_cached("INSERT INTO texts (document, text, pages) VALUES (?1, ?2, ?3)")?.execute(params![
        key,
        document.text,
        pages.transpose().map_err(refuse)?
    ])?;
    let mut insert_chunk = transaction.prepare_cached(
        "INSERT INTO chunks \
         (document, ordinal, span_start, span_end, heading_path, embedder_tokens, generator_tokens, added_in, \
         section_start, section_end) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?;
    let mut insert_embedding = transaction.prepare_cached("INSERT INTO embeddings (chunk, vector) VALUES (?1, ?2)")?;
    for (ordinal, chunk) in document.chunks.iter().enumerate() {
        insert_chunk.execute(params![
            key,
            signed(ordinal),
            signed(chunk.span.start),
            signed(chunk.span.end),
            serde_json::to_string(&chunk.heading_path).map_err(refuse)?,
            signed(chunk.embedder_tokens),
            signed(chunk.generator_tokens),
            signed(generation as usize),
            signed(chunk.section.start),
            signed(chunk.section.end),
        ])?;
        let id = transaction.last_insert_rowid();
        insert_embedding.execute(params![id, encode_vector(&chunk.embedding)])?;
        added.push(ChunkId(id.unsigned_abs()));
    }
    seal_document(transaction, key)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use edgewise_types::{ContentHash, Metadata, PageMap};
    use jiff::Timestamp;

    use super::*;
    use crate::{CatalogMeta, EmbedderIdentity};

    fn document(uri: &str, text: String) -> NewDocument {
        NewDocument {
            uri: uri.to_owned(),
            title: String::new(),
            media_type: "text/plain".to_owned(),
            content_hash: ContentHash::of(text.as_bytes()),
            tokens: 0,
            metadata: Metadata::new(),
            updated_at: Timestamp::UNIX_EPOCH,
            text,
            pages: PageMap::default(),
            chunks: Vec::new(),
        }
    }

    #[test]
    fn a_full_disk_refuses_the_batch_and_keeps_the_rest() {
        let folder = tempfile::tempdir().unwrap();
        let meta = CatalogMeta {
            collection: "test".parse().unwrap(),
            profile: String::new(),
            embedder: EmbedderIdentity { model: String::new(), digest: String::new(), dimension: 1 },
            generator_tokenizer: String::new(),
        };
        let catalog = Catalog::create(&folder.path().join("catalog.sqlite"), &meta).unwrap();
        let small = Batch { upserts: vec![document("small", "text".to_owned())], deletes: Vec::new() };
        let large = Batch {
            upserts: vec![document("large", "text ".repeat(100_000))],
            deletes: vec![document("small", String::new()).id()],
        };
        catalog.commit(&small).unwrap();
        // SQLite answers with the same code as for a device without space: https://sqlite.org/rescode.html#full
        let limit = |pages: i64| {
            catalog
                .connections
                .write(|transaction| Ok(transaction.pragma_update(None, "max_page_count", pages)?))
                .unwrap();
        };
        limit(40);
        assert!(matches!(catalog.commit(&large), Err(CatalogError::DiskFull { .. })));
        assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
        assert_eq!((catalog.stats().unwrap().documents, catalog.generation().unwrap().0), (1, 1));
        limit(100_000);
        catalog.commit(&large).unwrap();
        assert_eq!(catalog.documents(None, 9).unwrap()[0].uri, "large");
    }
}
