//! What the unit tests of this crate share.

use edgewise_retrieval::{ArmScore, Hit};
use edgewise_types::{Chunk, ChunkId, DocumentId, Span};

/// A hit of chunk `id` in the document `uri`, with a fused score, BM25 and cosine. Its text is twelve words.
pub(crate) fn hit(uri: &str, id: u64, score: f32, bm25: Option<f32>, cosine: Option<f32>) -> Hit {
    let text = format!("Chunk {id} of a document holds these twelve words and no more.");
    let arm = |score: f32| ArmScore { rank: 1, score };
    Hit {
        chunk: Chunk {
            id: ChunkId(id),
            document: DocumentId::from_uri(uri),
            ordinal: 0,
            span: Span::new(0, text.len()),
            heading_path: vec!["Heading".to_owned()],
            section: Span::new(0, text.len()),
            pages: None,
            embedder_tokens: 14,
            generator_tokens: 13,
            text,
        },
        title: uri.to_owned(),
        uri: uri.to_owned(),
        score,
        rerank: None,
        lexical: bm25.map(arm),
        vector: cosine.map(arm),
    }
}
