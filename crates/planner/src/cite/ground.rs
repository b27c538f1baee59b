//! What an answer may be quoted from: texts with their place in a document.
//!
//! A passage or a document is its own ground. A summary is none: its grounds are the chunks it is of, under the summary's
//! number, so that a statement taken from a summary is cited from the document that says so, or not at all.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use edgewise_retrieval::{Collection, SearchRequest};
use edgewise_types::{ChunkId, Document, DocumentId, Span};

use crate::{PlannerError, compose::Composed, draft::present};

/// Chunks of one summary that an answer is compared with.
const MOST_LEAVES: usize = 200;

/// A text that may be quoted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ground {
    /// Number of the source it stands for.
    pub(crate) n: usize,
    pub(crate) document: DocumentId,
    pub(crate) uri: String,
    pub(crate) title: String,
    pub(crate) heading_path: Vec<String>,
    /// Where the text stands.
    pub(crate) span: Span,
    pub(crate) text: Arc<str>,
}

/// The grounds of an answer to `composed`, which was `raw`. Of a summary of very many chunks, those that are nearest to the
/// answer.
pub(crate) fn grounds(collection: &Collection, composed: &Composed, raw: &str) -> Result<Vec<Ground>, PlannerError> {
    let mut grounds = Vec::with_capacity(composed.sources.len());
    let mut documents: HashMap<DocumentId, Option<Document>> = HashMap::new();
    // Read once, if any summary needs it.
    let mut nearest: Option<HashSet<ChunkId>> = None;
    for ((source, text), summary) in composed.sources.iter().zip(&composed.texts).zip(&composed.summaries) {
        let Some(summary) = summary else {
            grounds.push(Ground {
                n: source.n,
                document: source.document.clone(),
                uri: source.uri.clone(),
                title: source.title.clone(),
                heading_path: source.heading_path.clone(),
                span: source.span,
                text: Arc::clone(text),
            });
            continue;
        };
        let leaves: Vec<ChunkId> = if summary.leaves.len() <= MOST_LEAVES {
            summary.leaves.clone()
        } else {
            let near = match &nearest {
                Some(near) => near,
                None => nearest.insert(near_to(collection, raw)?),
            };
            summary.leaves.iter().filter(|leaf| near.contains(leaf)).copied().collect()
        };
        for chunk in collection.chunks(&leaves)? {
            if !documents.contains_key(&chunk.document) {
                documents.insert(chunk.document.clone(), present(collection.document(&chunk.document))?);
            }
            let Some(Some(document)) = documents.get(&chunk.document) else { continue };
            grounds.push(Ground {
                n: source.n,
                uri: document.uri.clone(),
                title: document.title.clone(),
                document: chunk.document,
                heading_path: chunk.heading_path,
                span: chunk.span,
                text: chunk.text.into(),
            });
        }
    }
    Ok(grounds)
}

fn near_to(collection: &Collection, raw: &str) -> Result<HashSet<ChunkId>, PlannerError> {
    if raw.trim().is_empty() {
        return Ok(HashSet::new());
    }
    let found = collection.search(&SearchRequest { rerank: Some(false), ..SearchRequest::new(raw, MOST_LEAVES) })?;
    Ok(found.hits.into_iter().map(|hit| hit.chunk.id).collect())
}
