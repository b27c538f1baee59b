//! Requests and results of a collection: plain data, serialisable, without behaviour.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::{Chunk, CollectionName, DocumentId, Generation};

use crate::Filter;

/// How the two arms are combined. Scores of one method can't be compared with those of the other.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "method", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fusion {
    /// Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): Σ 1 / (k + rank), ranks from 1.
    Rrf {
        /// Rank constant, 60 in the paper.
        k: f32,
    },
    /// Convex combination (Bruch, Gai and Ingber 2023): `w·lexical + (1−w)·vector` of scores normalised per query.
    Convex {
        /// Weight of the lexical arm, 0 to 1.
        lexical_weight: f32,
    },
}

/// A hybrid search.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchRequest {
    /// Question in natural language.
    pub query: String,
    /// Most hits to return, 1 to 1,000.
    pub limit: usize,
    /// Fusion to use instead of the profile's.
    pub fusion: Option<Fusion>,
    /// Search only in these documents; `None` searches all.
    pub documents: Option<Vec<DocumentId>>,
    /// Search only in documents that satisfy this; `None` searches all.
    pub filter: Option<Filter>,
    /// Suppress near-duplicates: 0 ranks by relevance alone, 1 by difference from the hits before alone (maximal marginal
    /// relevance). `None` is 0.
    pub diversity: Option<f32>,
    /// Whether the reranker reads the best hits once more: `Some(true)` wants it, `Some(false)` does without, `None` takes
    /// it if there is one ([`crate::RetrievalModels::reranker`]).
    pub rerank: Option<bool>,
}

impl SearchRequest {
    /// The first `limit` hits for `query`, fused as the profile says, among all documents.
    pub fn new(query: impl Into<String>, limit: usize) -> Self {
        Self { query: query.into(), limit, fusion: None, documents: None, filter: None, diversity: None, rerank: None }
    }
}

/// What one arm said of a hit.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ArmScore {
    /// Rank in the arm, from 1.
    pub rank: usize,
    /// The arm's own score: BM25, or cosine.
    pub score: f32,
}

/// A retrieved chunk with the scores that brought it up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Hit {
    /// The chunk.
    pub chunk: Chunk,
    /// Title of its document.
    pub title: String,
    /// URI of its document.
    pub uri: String,
    /// Fused score; higher is better; comparable only within one result.
    pub score: f32,
    /// The reranker's score, if it read the hit; higher is better; comparable only within one result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank: Option<f32>,
    /// BM25 arm, if the hit came up there.
    pub lexical: Option<ArmScore>,
    /// Vector arm (cosine), if the hit came up there.
    pub vector: Option<ArmScore>,
}

/// Hits, best first, and where the time went. Hits that a reranker read come first, in falling order of its scores; the
/// others are in falling order of fused score. Ties go by fused rank, then by chunk id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SearchResults {
    /// The hits.
    pub hits: Vec<Hit>,
    /// Embedding the query, in milliseconds.
    pub embed_ms: f64,
    /// Lexical arm, in milliseconds.
    pub lexical_ms: f64,
    /// Vector arm, in milliseconds.
    pub vector_ms: f64,
    /// Fusing and loading, in milliseconds.
    pub fuse_ms: f64,
    /// Reranking, in milliseconds; 0 without.
    #[serde(default)]
    pub rerank_ms: f64,
    /// Generation of the collection that was searched.
    pub generation: Generation,
    /// What the caller should know about how the search was done, one sentence each; normally empty.
    pub notes: Vec<String>,
}

/// A document to ingest.
#[derive(Debug, Clone)]
pub struct Source {
    /// Name that identifies the document in its collection: a path relative to the ingested root, with `/`.
    pub uri: String,
    /// Where its bytes come from.
    pub content: SourceContent,
    /// Media type if the caller knows it; otherwise by extension and content.
    pub media_type: Option<String>,
}

/// Bytes at hand, or a file that is read when its turn comes.
#[derive(Debug, Clone)]
pub enum SourceContent {
    /// Bytes in memory.
    Bytes(Vec<u8>),
    /// A file.
    File(std::path::PathBuf),
}

/// What became of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It was not in the collection.
    Added,
    /// It was, with other content.
    Changed,
    /// Same content: nothing was done.
    Unchanged,
    /// Deleted from the collection, because its source is gone.
    Removed,
    /// It could not be ingested. What the collection held of it before is kept.
    Failed {
        /// Why, and what to do.
        reason: String,
    },
}

/// One line of an ingest report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceReport {
    /// The document's name.
    pub uri: String,
    /// Its id.
    pub document: DocumentId,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Chunks it has now.
    pub chunks: usize,
}

/// What an ingest did, in order of URI.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct IngestReport {
    /// The collection.
    pub collection: CollectionName,
    /// Generation after the last commit.
    pub generation: Generation,
    /// One line a source.
    pub sources: Vec<SourceReport>,
    /// Chunks embedded by this ingest.
    pub chunks_embedded: usize,
    /// Embedder tokens of those chunks.
    pub tokens_embedded: usize,
    /// Wall time in seconds.
    pub seconds: f64,
}

/// Size and state of a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CollectionStats {
    /// Its name.
    pub name: CollectionName,
    /// Its version.
    pub generation: Generation,
    /// Number of documents.
    pub documents: usize,
    /// Number of chunks.
    pub chunks: usize,
    /// Normalised text in bytes.
    pub text_bytes: usize,
    /// Normalised text in the generator's tokens: what the `full` route would read.
    pub tokens: usize,
    /// Embedder of the collection.
    pub embedder: String,
    /// Generation the lexical index has reached.
    pub lexical_generation: Generation,
    /// Generation the vector index has reached.
    pub vector_generation: Generation,
    /// Vectors that are searched by a graph; 0 if all are scanned.
    pub graph_vectors: usize,
    /// Whether a graph is being built now.
    pub building_graph: bool,
}
