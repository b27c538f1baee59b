//! From several hits of one section to the section itself.
//!
//! A section is a run of neighbouring chunks of a document under the same headings. Not those of the same parent
//! ([`Chunk::section`]): the first chunk of a document often begins with its title, so its parent is the document. Where several of its chunks came up,
//! its whole text often answers better than the pieces (parent-document retrieval), if it is not too long.
//!
//! Deliberately not here: deciding between a section and its chunks; the planner knows the budget.

use std::collections::BTreeMap;

use edgewise_types::{Chunk, ChunkId, DocumentId, Span};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Collection, Hit, RetrievalError};

/// A section of which several chunks came up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Section {
    /// Its document.
    pub document: DocumentId,
    /// URI of its document.
    pub uri: String,
    /// Title of its document.
    pub title: String,
    /// Titles of the sections it stands in and its own, outermost first.
    pub heading_path: Vec<String>,
    /// Where it stands in the normalised text.
    pub span: Span,
    /// Its text.
    pub text: String,
    /// Sum of its chunks' lengths in the generator's tokens.
    pub generator_tokens: usize,
    /// The chunks that came up, best first.
    pub hits: Vec<ChunkId>,
    /// Fused score of the best of them.
    pub score: f32,
}

impl Collection {
    /// The sections of which at least `least_hits` chunks are among `hits`, in order of their best hit; those of more than
    /// `max_tokens` generator tokens are left out, as are documents deleted since.
    ///
    /// # Errors
    /// [`RetrievalError::Part`] if the catalog can't be read.
    pub fn sections(&self, hits: &[Hit], least_hits: usize, max_tokens: usize) -> Result<Vec<Section>, RetrievalError> {
        let mut by_document: BTreeMap<&DocumentId, Vec<&Hit>> = BTreeMap::new();
        for hit in hits {
            by_document.entry(&hit.chunk.document).or_default().push(hit);
        }
        let mut found = Vec::new();
        for (document, hits) in by_document {
            if hits.len() < least_hits.max(1) {
                continue;
            }
            let (chunks, text) = match (self.chunks_of(document), self.document_text(document)) {
                (Ok(chunks), Ok(text)) => (chunks, text),
                (Err(RetrievalError::UnknownDocument { .. }), _) | (_, Err(RetrievalError::UnknownDocument { .. })) => {
                    continue;
                }
                (Err(error), _) | (_, Err(error)) => return Err(error),
            };
            for section in chunks.chunk_by(|a, b| a.heading_path == b.heading_path) {
                found.extend(gather(section, &hits, &text, least_hits, max_tokens));
            }
        }
        found.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.hits.cmp(&b.hits)));
        Ok(found)
    }
}

fn gather(section: &[Chunk], hits: &[&Hit], text: &str, least_hits: usize, max_tokens: usize) -> Option<Section> {
    let (first, last) = (section.first()?, section.last()?);
    let mut inside: Vec<&&Hit> =
        hits.iter().filter(|hit| section.iter().any(|chunk| chunk.id == hit.chunk.id)).collect();
    inside.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.chunk.id.cmp(&b.chunk.id)));
    let best = inside.first()?;
    let generator_tokens = section.iter().map(|chunk| chunk.generator_tokens).sum();
    if inside.len() < least_hits || generator_tokens > max_tokens {
        return None;
    }
    let span = Span::new(first.span.start, last.span.end);
    Some(Section {
        document: best.chunk.document.clone(),
        uri: best.uri.clone(),
        title: best.title.clone(),
        heading_path: first.heading_path.clone(),
        span,
        text: span.slice(text).ok()?.to_owned(),
        generator_tokens,
        hits: inside.iter().map(|hit| hit.chunk.id).collect(),
        score: best.score,
    })
}
