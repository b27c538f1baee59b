//! Rows to values. Every conversion that can only fail on a damaged file says so.

use edgewise_types::{ChunkId, Document, DocumentStatus, Generation, PageMap, Span};
use rusqlite::{Connection, Row};

use crate::{CatalogMeta, EmbedderIdentity, error::Fault};

/// A non-negative column.
pub(crate) fn unsigned(row: &Row<'_>, index: usize) -> Result<usize, Fault> {
    let value: i64 = row.get(index)?;
    usize::try_from(value).map_err(|_| Fault::Damaged(format!("negative number {value} in column {index}")))
}

/// A number as SQLite stores it.
pub(crate) fn signed(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// A chunk id column.
pub(crate) fn chunk_id(row: &Row<'_>, index: usize) -> Result<ChunkId, Fault> {
    Ok(ChunkId(unsigned(row, index)? as u64))
}

/// A text column holding JSON.
pub(crate) fn json<T: serde::de::DeserializeOwned>(row: &Row<'_>, index: usize) -> Result<T, Fault> {
    let text = row.get_ref(index)?.as_str().map_err(|error| Fault::Damaged(error.to_string()))?;
    serde_json::from_str(text).map_err(|error| Fault::Damaged(format!("unreadable JSON: {error}")))
}

/// A text column holding an id or a hash.
pub(crate) fn parsed<T: std::str::FromStr<Err = E>, E: std::fmt::Display>(
    row: &Row<'_>,
    index: usize,
) -> Result<T, Fault> {
    let text = row.get_ref(index)?.as_str().map_err(|error| Fault::Damaged(error.to_string()))?;
    text.parse().map_err(|error: E| Fault::Damaged(error.to_string()))
}

/// A blob column holding 32 bytes.
pub(crate) fn digest(row: &Row<'_>, index: usize) -> Result<[u8; 32], Fault> {
    let bytes = row.get_ref(index)?.as_blob().map_err(|error| Fault::Damaged(error.to_string()))?;
    bytes.try_into().map_err(|_| Fault::Damaged(format!("an id of {} bytes", bytes.len())))
}

/// Columns of [`document`], for a table or alias `d`; the first is the row's key.
pub(crate) const DOCUMENT_COLUMNS: &str = "d.key, d.id, d.uri, d.title, d.media_type, d.content_hash, d.text_bytes, \
     d.tokens, d.chunks, d.metadata, d.status, d.updated_at";

/// Key and document from a row of [`DOCUMENT_COLUMNS`].
pub(crate) fn document(row: &Row<'_>) -> Result<(i64, Document), Fault> {
    let status: String = row.get(10)?;
    if status != status_text(DocumentStatus::Ready) {
        return Err(Fault::Damaged(format!("unknown document status `{status}`")));
    }
    let document = Document {
        id: parsed(row, 1)?,
        uri: row.get(2)?,
        title: row.get(3)?,
        media_type: row.get(4)?,
        content_hash: parsed(row, 5)?,
        text_bytes: unsigned(row, 6)?,
        tokens: unsigned(row, 7)?,
        chunks: unsigned(row, 8)?,
        metadata: json(row, 9)?,
        status: DocumentStatus::Ready,
        updated_at: row.get(11)?,
    };
    Ok((row.get(0)?, document))
}

/// How a status is stored.
pub(crate) fn status_text(status: DocumentStatus) -> &'static str {
    match status {
        DocumentStatus::Ready => "ready",
    }
}

/// A chunk without document id and text.
#[derive(Debug)]
pub(crate) struct ChunkRow {
    pub(crate) id: ChunkId,
    pub(crate) document_key: i64,
    pub(crate) ordinal: usize,
    pub(crate) span: Span,
    /// `None`: the whole document.
    pub(crate) section: Option<Span>,
    pub(crate) heading_path: Vec<String>,
    pub(crate) embedder_tokens: usize,
    pub(crate) generator_tokens: usize,
}

/// Columns of [`chunk`], for a table or alias `c`.
pub(crate) const CHUNK_COLUMNS: &str = "c.id, c.document, c.ordinal, c.span_start, c.span_end, c.heading_path, \
     c.embedder_tokens, c.generator_tokens, c.section_start, c.section_end";

/// A chunk from a row of [`CHUNK_COLUMNS`].
pub(crate) fn chunk(row: &Row<'_>) -> Result<ChunkRow, Fault> {
    Ok(ChunkRow {
        id: chunk_id(row, 0)?,
        document_key: row.get(1)?,
        ordinal: unsigned(row, 2)?,
        span: Span::new(unsigned(row, 3)?, unsigned(row, 4)?),
        heading_path: json(row, 5)?,
        embedder_tokens: unsigned(row, 6)?,
        generator_tokens: unsigned(row, 7)?,
        section: section(row, 8)?,
    })
}

/// The section in the columns `index` and `index + 1`; `None` for the whole document.
pub(crate) fn section(row: &Row<'_>, index: usize) -> Result<Option<Span>, Fault> {
    match row.get::<_, Option<i64>>(index)? {
        Some(_) => Ok(Some(Span { start: unsigned(row, index)?, end: unsigned(row, index + 1)? })),
        None => Ok(None),
    }
}

/// The pages in a column of `texts`, checked against the length of the text.
pub(crate) fn pages(row: &Row<'_>, index: usize, text_bytes: usize) -> Result<PageMap, Fault> {
    if row.get_ref(index)? == rusqlite::types::ValueRef::Null {
        return Ok(PageMap::default());
    }
    let pages: PageMap = json(row, index)?;
    if !pages.fits(text_bytes) {
        return Err(Fault::Damaged("the pages of a document are not those of its text".to_owned()));
    }
    Ok(pages)
}

/// Little-endian `f32`s.
pub(crate) fn encode_vector(vector: &[f32]) -> Vec<u8> {
    vector.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Fills `vector` from a column of little-endian `f32`s.
pub(crate) fn decode_vector(row: &Row<'_>, index: usize, vector: &mut [f32]) -> Result<(), Fault> {
    let bytes = row.get_ref(index)?.as_blob().map_err(|error| Fault::Damaged(error.to_string()))?;
    let (values, rest) = bytes.as_chunks::<4>();
    if values.len() != vector.len() || !rest.is_empty() {
        return Err(Fault::Damaged(format!("an embedding of {} bytes, expected {}", bytes.len(), vector.len() * 4)));
    }
    for (value, bytes) in vector.iter_mut().zip(values) {
        *value = f32::from_le_bytes(*bytes);
    }
    Ok(())
}

/// The current generation.
pub(crate) fn generation(connection: &Connection) -> Result<Generation, Fault> {
    let mut statement = connection.prepare_cached("SELECT generation FROM meta")?;
    let mut rows = statement.query([])?;
    let row = rows.next()?.ok_or_else(|| Fault::Damaged("the meta table is empty".to_owned()))?;
    Ok(Generation(unsigned(row, 0)? as u64))
}

/// Id and creation data.
pub(crate) fn meta(connection: &Connection) -> Result<(String, CatalogMeta), Fault> {
    let found = connection.query_row_and_then(
        "SELECT id, collection, profile, profile_hash, embedder_model, embedder_digest, embedder_dimension, \
             generator_tokenizer FROM meta",
        [],
        |row| -> Result<_, Fault> {
            let meta = CatalogMeta {
                collection: parsed(row, 1)?,
                profile: row.get(2)?,
                embedder: EmbedderIdentity { model: row.get(4)?, digest: row.get(5)?, dimension: unsigned(row, 6)? },
                generator_tokenizer: row.get(7)?,
            };
            let hash: String = row.get(3)?;
            Ok((row.get::<_, String>(0)?, hash, meta))
        },
    )?;
    let (id, hash, meta) = found;
    if hash != meta.profile_hash().as_str() {
        return Err(Fault::Damaged("the index profile does not match its hash".to_owned()));
    }
    Ok((id, meta))
}
