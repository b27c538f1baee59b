//! What goes into the catalog and comes out of it, beyond the shared vocabulary. Plain data without behaviour.

use edgewise_types::{Chunk, ChunkId, CollectionName, ContentHash, DocumentId, Generation, Metadata, PageMap, Span};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The embedder whose vectors a catalog holds. Vectors of two embedders are never mixed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbedderIdentity {
    /// Registry name.
    pub model: String,
    /// BLAKE3 over the model's files, in hexadecimal.
    pub digest: String,
    /// Length of a vector.
    pub dimension: usize,
}

/// What a catalog was created with; fixed for its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CatalogMeta {
    /// The collection it belongs to.
    pub collection: CollectionName,
    /// The index profile, as TOML.
    pub profile: String,
    /// Whose vectors it holds.
    pub embedder: EmbedderIdentity,
    /// Name of the tokenizer that generator tokens were counted with.
    pub generator_tokenizer: String,
}

impl CatalogMeta {
    /// BLAKE3 of the profile's text.
    pub fn profile_hash(&self) -> ContentHash {
        ContentHash::of(self.profile.as_bytes())
    }
}

/// A document to add, or to put in the place of the one with the same URI.
#[derive(Debug, Clone, PartialEq)]
pub struct NewDocument {
    /// Where it came from; decides its [`DocumentId`].
    pub uri: String,
    /// Title.
    pub title: String,
    /// Media type it was parsed as.
    pub media_type: String,
    /// BLAKE3 of the source bytes.
    pub content_hash: ContentHash,
    /// Length of `text` in the generator's tokens.
    pub tokens: usize,
    /// Metadata. Numbers must be finite.
    pub metadata: Metadata,
    /// Time of this change.
    pub updated_at: Timestamp,
    /// The normalised text.
    pub text: String,
    /// Where pages begin in `text`; empty for formats without pages.
    pub pages: PageMap,
    /// Its chunks, in order.
    pub chunks: Vec<NewChunk>,
}

impl NewDocument {
    /// The id it will have.
    pub fn id(&self) -> DocumentId {
        DocumentId::from_uri(&self.uri)
    }
}

/// A chunk of a [`NewDocument`].
#[derive(Debug, Clone, PartialEq)]
pub struct NewChunk {
    /// A range of whole characters of the document's text.
    pub span: Span,
    /// The section around it: a range of whole characters of the document's text that holds `span`.
    pub section: Span,
    /// Titles of the sections it stands in, outermost first.
    pub heading_path: Vec<String>,
    /// Length of heading path and text in the embedder's tokens.
    pub embedder_tokens: usize,
    /// Length of the text in the generator's tokens.
    pub generator_tokens: usize,
    /// Vector of [`EmbedderIdentity::dimension`] floats and length 1.
    pub embedding: Vec<f32>,
}

/// Changes that happen together. Deletes come first, so a document in both is replaced.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Batch {
    /// Documents to add or replace; no URI twice.
    pub upserts: Vec<NewDocument>,
    /// Documents to delete. Unknown ones are skipped.
    pub deletes: Vec<DocumentId>,
}

/// What a commit did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The generation after it.
    pub generation: Generation,
    /// Ids of the new chunks, in the order of the batch.
    pub added: Vec<ChunkId>,
    /// Ids of the chunks that are gone, ascending.
    pub removed: Vec<ChunkId>,
}

/// What a derived index lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// The generation that applying them leads to.
    pub generation: Generation,
    /// Chunks to add, ascending.
    pub added: Vec<ChunkId>,
    /// Chunks to remove, ascending.
    pub removed: Vec<ChunkId>,
}

/// A chunk with all that an index of it needs.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkRecord {
    /// The chunk, text included.
    pub chunk: Chunk,
    /// Title of its document.
    pub title: String,
    /// Its unit vector.
    pub embedding: Vec<f32>,
}

/// Sizes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Current generation.
    pub generation: Generation,
    /// Documents.
    pub documents: usize,
    /// Live chunks.
    pub chunks: usize,
    /// Chunks that once were.
    pub tombstones: usize,
    /// Bytes of normalised text.
    pub text_bytes: usize,
    /// Length of all texts in the generator's tokens.
    pub generator_tokens: usize,
}

/// Hashes of what a catalog holds. Equal for two catalogs of equal content, whatever the order and number of batches,
/// the times and the row ids that led there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContentFingerprint {
    /// BLAKE3 over documents, texts, pages, spans, sections, heading paths and token counts.
    pub content: ContentHash,
    /// BLAKE3 over the embeddings, bit by bit. An embedder's rounding may depend on how texts were batched, so this one
    /// may differ where `content` does not.
    pub embeddings: ContentHash,
}
