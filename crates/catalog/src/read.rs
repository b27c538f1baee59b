//! Reading documents, chunks, embeddings and changes.

use std::collections::{BTreeMap, HashMap};

use edgewise_types::{Chunk, ChunkId, ContentHash, Document, DocumentId, Generation, PageMap, Span};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::{
    Catalog, CatalogError, Changes, ChunkRecord, Stats,
    error::Fault,
    rows::{self, CHUNK_COLUMNS, ChunkRow, DOCUMENT_COLUMNS, chunk_id, decode_vector, signed, unsigned},
};

impl Catalog {
    /// Up to `limit` documents ordered by URI, those after the URI `after` if given: the URI of the last one leads to
    /// the next page.
    pub fn documents(&self, after: Option<&str>, limit: usize) -> Result<Vec<Document>, CatalogError> {
        let sql = format!(
            "SELECT {DOCUMENT_COLUMNS} FROM documents d WHERE ?1 IS NULL OR d.uri > ?1 ORDER BY d.uri LIMIT ?2"
        );
        self.connections.read(|transaction| {
            let mut statement = transaction.prepare_cached(&sql)?;
            let mut rows = statement.query(params![after, signed(limit)])?;
            let mut documents = Vec::new();
            while let Some(row) = rows.next()? {
                documents.push(rows::document(row)?.1);
            }
            Ok(documents)
        })
    }

    /// The document with this id, or `None`.
    pub fn document(&self, id: &DocumentId) -> Result<Option<Document>, CatalogError> {
        self.connections.read(|transaction| Ok(find_document(transaction, "d.id", id.as_str())?.map(|(_, d)| d)))
    }

    /// The document from this source, or `None`.
    pub fn document_by_uri(&self, uri: &str) -> Result<Option<Document>, CatalogError> {
        self.connections.read(|transaction| Ok(find_document(transaction, "d.uri", uri)?.map(|(_, d)| d)))
    }

    /// The normalised text of a document, or `None` if it is not there.
    pub fn document_text(&self, id: &DocumentId) -> Result<Option<String>, CatalogError> {
        self.connections.read(|transaction| {
            let mut statement = transaction
                .prepare_cached("SELECT t.text FROM texts t JOIN documents d ON d.key = t.document WHERE d.id = ?1")?;
            Ok(statement.query_row([id.as_str()], |row| row.get(0)).optional()?)
        })
    }

    /// Where pages begin in the text of a document, empty if it has none, or `None` if it is not there.
    pub fn document_pages(&self, id: &DocumentId) -> Result<Option<PageMap>, CatalogError> {
        self.connections.read(|transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT t.pages, d.text_bytes FROM texts t JOIN documents d ON d.key = t.document WHERE d.id = ?1",
            )?;
            let mut rows = statement.query([id.as_str()])?;
            rows.next()?.map(|row| rows::pages(row, 0, unsigned(row, 1)?)).transpose()
        })
    }

    /// Hash of the source bytes by URI, of every document: what an ingest compares with.
    pub fn content_hashes(&self) -> Result<BTreeMap<String, ContentHash>, CatalogError> {
        self.connections.read(|transaction| {
            let mut statement = transaction.prepare_cached("SELECT uri, content_hash FROM documents")?;
            let mut rows = statement.query([])?;
            let mut hashes = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let hash: String = row.get(1)?;
                let hash = hash.parse().map_err(|error| Fault::Damaged(format!("{error}")))?;
                hashes.insert(row.get(0)?, hash);
            }
            Ok(hashes)
        })
    }

    /// Chunks by id, in the order asked for; ids that are not live are left out.
    pub fn chunks(&self, ids: &[ChunkId]) -> Result<Vec<Chunk>, CatalogError> {
        self.connections.read(|transaction| {
            let sql = format!(
                "SELECT {CHUNK_COLUMNS} FROM chunks c WHERE c.id IN (SELECT value FROM json_each(?1)) \
                 ORDER BY c.document, c.ordinal"
            );
            let mut found: HashMap<ChunkId, Chunk> = HashMap::with_capacity(ids.len());
            for_each_chunk(transaction, &sql, &id_list(ids), |chunk, _| {
                found.insert(chunk.id, chunk);
                Ok(())
            })?;
            Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
        })
    }

    /// The chunks of a document in order; none if the document is not there.
    pub fn chunks_of(&self, document: &DocumentId) -> Result<Vec<Chunk>, CatalogError> {
        self.connections.read(|transaction| {
            let sql = format!(
                "SELECT {CHUNK_COLUMNS} FROM chunks c JOIN documents d ON d.key = c.document WHERE d.id = ?1 \
                 ORDER BY c.ordinal"
            );
            let mut chunks = Vec::new();
            for_each_chunk(transaction, &sql, document.as_str(), |chunk, _| {
                chunks.push(chunk);
                Ok(())
            })?;
            Ok(chunks)
        })
    }

    /// Chunks with title and embedding, by id, in the order asked for; ids that are not live are left out. What a
    /// derived index needs for [`Changes::added`]; ask for a few hundred at a time.
    pub fn chunk_records(&self, ids: &[ChunkId]) -> Result<Vec<ChunkRecord>, CatalogError> {
        self.connections.read(|transaction| {
            let sql = format!(
                "SELECT {CHUNK_COLUMNS} FROM chunks c WHERE c.id IN (SELECT value FROM json_each(?1)) \
                 ORDER BY c.document, c.ordinal"
            );
            let mut vectors = transaction.prepare_cached("SELECT vector FROM embeddings WHERE chunk = ?1")?;
            let mut found: HashMap<ChunkId, ChunkRecord> = HashMap::with_capacity(ids.len());
            for_each_chunk(transaction, &sql, &id_list(ids), |chunk, title| {
                let mut embedding = vec![0.0; self.meta().embedder.dimension];
                let mut rows = vectors.query([signed(chunk.id.0 as usize)])?;
                let row = rows.next()?.ok_or_else(|| Fault::Damaged(format!("chunk {} has no embedding", chunk.id)))?;
                decode_vector(row, 0, &mut embedding)?;
                found.insert(chunk.id, ChunkRecord { title: title.to_owned(), embedding, chunk });
                Ok(())
            })?;
            Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
        })
    }

    /// Every live chunk's id with its document's, ascending: what a filter over documents is turned into.
    pub fn chunk_documents(&self) -> Result<Vec<(ChunkId, DocumentId)>, CatalogError> {
        self.connections.read(|transaction| {
            let mut names: HashMap<i64, DocumentId> = HashMap::new();
            let mut statement = transaction.prepare_cached("SELECT key, id FROM documents")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let id: String = row.get(1)?;
                names.insert(row.get(0)?, id.parse().map_err(|error| Fault::Damaged(format!("{error}")))?);
            }
            let mut statement = transaction.prepare_cached("SELECT id, document FROM chunks ORDER BY id")?;
            let mut rows = statement.query([])?;
            let mut pairs = Vec::new();
            while let Some(row) = rows.next()? {
                let name = names.get(&row.get::<_, i64>(1)?);
                let name = name.ok_or_else(|| Fault::Damaged("a chunk without a document".to_owned()))?;
                pairs.push((chunk_id(row, 0)?, name.clone()));
            }
            Ok(pairs)
        })
    }

    /// The documents of chunks; chunks that are not live are left out.
    pub fn documents_of(&self, chunks: &[ChunkId]) -> Result<Vec<(ChunkId, DocumentId)>, CatalogError> {
        self.connections.read(|transaction| {
            let mut statement = transaction
                .prepare_cached("SELECT d.id FROM chunks c JOIN documents d ON d.key = c.document WHERE c.id = ?1")?;
            let mut pairs = Vec::with_capacity(chunks.len());
            for chunk in chunks {
                let mut rows = statement.query([signed(chunk.0 as usize)])?;
                if let Some(row) = rows.next()? {
                    pairs.push((*chunk, rows::parsed(row, 0)?));
                }
            }
            Ok(pairs)
        })
    }

    /// Ids of the chunks of `documents`, ascending; unknown documents have none.
    pub fn chunk_ids_of(&self, documents: &[DocumentId]) -> Result<Vec<ChunkId>, CatalogError> {
        self.connections.read(|transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT c.id FROM chunks c JOIN documents d ON d.key = c.document \
                 WHERE d.id IN (SELECT value FROM json_each(?1)) ORDER BY c.id",
            )?;
            let names = serde_json::json!(documents).to_string();
            collect_ids(statement.query([names])?)
        })
    }

    /// Calls `visit` with every live chunk's vector, by ascending id, and returns the generation they belong to: what a
    /// vector index is rebuilt from.
    pub fn for_each_embedding(&self, mut visit: impl FnMut(ChunkId, &[f32])) -> Result<Generation, CatalogError> {
        self.connections.read(|transaction| {
            let mut vector = vec![0.0; self.meta().embedder.dimension];
            let mut statement = transaction.prepare_cached("SELECT chunk, vector FROM embeddings ORDER BY chunk")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                decode_vector(row, 1, &mut vector)?;
                visit(chunk_id(row, 0)?, &vector);
            }
            rows::generation(transaction)
        })
    }

    /// What an index that has reached generation `since` lacks: chunks added after it that are still live, and chunks
    /// it holds that are gone.
    ///
    /// # Errors
    /// [`CatalogError::UnknownGeneration`] if `since` lies ahead.
    pub fn changes_since(&self, since: Generation) -> Result<Changes, CatalogError> {
        self.connections.read(|transaction| {
            let current = rows::generation(transaction)?;
            if since > current {
                return Err(CatalogError::UnknownGeneration { asked: since, current }.into());
            }
            let since = signed(since.0 as usize);
            let added = collect_ids(
                transaction.prepare_cached("SELECT id FROM chunks WHERE added_in > ?1 ORDER BY id")?.query([since])?,
            )?;
            let removed = collect_ids(
                transaction
                    .prepare_cached(
                        "SELECT chunk FROM tombstones WHERE removed_in > ?1 AND added_in <= ?1 ORDER BY chunk",
                    )?
                    .query([since])?,
            )?;
            Ok(Changes { generation: current, added, removed })
        })
    }

    /// Sizes, of one committed state.
    pub fn stats(&self) -> Result<Stats, CatalogError> {
        self.connections.read(|transaction| {
            let mut statement = transaction.prepare_cached(
                "SELECT count(*), coalesce(sum(chunks), 0), coalesce(sum(text_bytes), 0), coalesce(sum(tokens), 0), \
                 (SELECT count(*) FROM tombstones) FROM documents",
            )?;
            let generation = rows::generation(transaction)?;
            let mut rows = statement.query([])?;
            let row = rows.next()?.ok_or_else(|| Fault::Damaged("an aggregate without a row".to_owned()))?;
            Ok(Stats {
                generation,
                documents: unsigned(row, 0)?,
                chunks: unsigned(row, 1)?,
                text_bytes: unsigned(row, 2)?,
                generator_tokens: unsigned(row, 3)?,
                tombstones: unsigned(row, 4)?,
            })
        })
    }
}

/// A list of ids as one SQL parameter for `json_each`.
fn id_list(ids: &[ChunkId]) -> String {
    serde_json::json!(ids).to_string()
}

fn collect_ids(mut rows: rusqlite::Rows<'_>) -> Result<Vec<ChunkId>, Fault> {
    let mut ids = Vec::new();
    while let Some(row) = rows.next()? {
        ids.push(chunk_id(row, 0)?);
    }
    Ok(ids)
}

fn find_document(transaction: &Transaction<'_>, column: &str, value: &str) -> Result<Option<(i64, Document)>, Fault> {
    let sql = format!("SELECT {DOCUMENT_COLUMNS} FROM documents d WHERE {column} = ?1");
    let mut statement = transaction.prepare_cached(&sql)?;
    let mut rows = statement.query([value])?;
    rows.next()?.map(rows::document).transpose()
}

/// Calls `visit` with each chunk `sql` selects, text filled in, and its document's title. `sql` yields
/// [`CHUNK_COLUMNS`] ordered by document, so that each text is read once.
pub(crate) fn for_each_chunk(
    transaction: &Transaction<'_>,
    sql: &str,
    parameter: &str,
    mut visit: impl FnMut(Chunk, &str) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut owner = transaction.prepare_cached(
        "SELECT d.id, d.title, t.text, t.pages FROM documents d JOIN texts t ON t.document = d.key WHERE d.key = ?1",
    )?;
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query([parameter])?;
    let mut current: Option<(i64, DocumentId, String, String, PageMap)> = None;
    while let Some(row) = rows.next()? {
        let ChunkRow { id, document_key, ordinal, span, section, heading_path, embedder_tokens, generator_tokens } =
            rows::chunk(row)?;
        let (_, document, title, text, pages) = match current.take() {
            Some(owner) if owner.0 == document_key => current.insert(owner),
            _ => {
                let mut rows = owner.query([document_key])?;
                let row = rows.next()?.ok_or_else(|| Fault::Damaged(format!("chunk {id} has no document")))?;
                let name: String = row.get(0)?;
                let name = name.parse().map_err(|error| Fault::Damaged(format!("{error}")))?;
                let text: String = row.get(2)?;
                let pages = rows::pages(row, 3, text.len())?;
                current.insert((document_key, name, row.get(1)?, text, pages))
            }
        };
        let section = section.unwrap_or(Span::new(0, text.len()));
        let pages = pages.pages(span);
        let text = span.slice(text).map_err(|error| Fault::Damaged(format!("chunk {id}: {error}")))?.to_owned();
        let document = document.clone();
        let chunk = Chunk {
            id,
            document,
            ordinal,
            span,
            heading_path,
            section,
            pages,
            text,
            embedder_tokens,
            generator_tokens,
        };
        visit(chunk, title)?;
    }
    Ok(())
}
