//! Documents and the chunks they are cut into.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{ChunkId, ContentHash, DocumentId, Metadata, PageRange, Span};

/// How far a document has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DocumentStatus {
    /// Committed to the catalog with its chunks and embeddings.
    Ready,
}

/// A document as the catalog knows it, without its text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Document {
    /// Id, derived from [`Self::uri`].
    pub id: DocumentId,
    /// Where it came from: a path relative to the ingested folder, or a name given on upload. Unique in a collection.
    pub uri: String,
    /// Title: from metadata, the first heading, or the file name.
    pub title: String,
    /// Media type it was parsed as, such as `text/markdown`.
    pub media_type: String,
    /// BLAKE3 of the source bytes.
    pub content_hash: ContentHash,
    /// Length of the normalised text in bytes.
    pub text_bytes: usize,
    /// Length of the normalised text in the generator's tokens; what the `documents` and `full` routes would read.
    pub tokens: usize,
    /// Number of chunks.
    pub chunks: usize,
    /// Typed metadata.
    pub metadata: Metadata,
    /// State.
    pub status: DocumentStatus,
    /// RFC 3339 time of the last change.
    pub updated_at: String,
}

/// A chunk: the unit of retrieval.
///
/// What is embedded and indexed is its heading path followed by its text; what is cited is its span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Chunk {
    /// Key in the catalog.
    pub id: ChunkId,
    /// The document it is cut from.
    pub document: DocumentId,
    /// Position among the chunks of its document, from 0.
    pub ordinal: usize,
    /// Where it stands in the normalised text.
    pub span: Span,
    /// Titles of the sections it stands in, outermost first.
    pub heading_path: Vec<String>,
    /// The smallest section, subsections included, that holds this chunk and more; the whole text where there is none.
    /// Chunks of one section have the same span here and follow each other by [`Self::ordinal`].
    pub section: Span,
    /// Pages it stands on; absent for formats without pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<PageRange>,
    /// The text of the span.
    pub text: String,
    /// Length of heading path and text in the embedder's tokens.
    pub embedder_tokens: usize,
    /// Length of the text in the generator's tokens.
    pub generator_tokens: usize,
}
