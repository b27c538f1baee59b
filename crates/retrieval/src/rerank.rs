//! A second look at the best hits by a model that reads question and passage together (a cross-encoder; Nogueira and Cho,
//! "Passage Re-ranking with BERT", 2019).
//!
//! Deliberately not here: any such model. It is given as a [`Reranker`].

use edgewise_documents::embedding_text;
use edgewise_model_api::ModelError;

use crate::{Collection, RetrievalError, SearchRequest, SearchResults, search::MAX_LIMIT};

/// Scores how well passages answer a question.
pub trait Reranker: Send + Sync {
    /// One finite score a passage, in order; higher is better, comparable only within one call.
    fn score(&self, query: &str, passages: &[&str]) -> Result<Vec<f32>, ModelError>;
}

impl Collection {
    /// As [`Self::search`], with the first `depth` hits put in the order of `reranker`'s scores. [`crate::Hit::score`] is
    /// then the reranker's; what the arms said stays beside it. Hits of equal score keep their order.
    ///
    /// # Errors
    /// As of [`Self::search`]; [`RetrievalError::Model`] if the reranker fails or does not score every passage.
    pub fn search_reranked(
        &self,
        request: &SearchRequest,
        reranker: &dyn Reranker,
        depth: usize,
    ) -> Result<SearchResults, RetrievalError> {
        let limit = depth.clamp(request.limit, MAX_LIMIT.max(request.limit));
        let mut results = self.search(&SearchRequest { limit, ..request.clone() })?;
        // What was embedded, so that a chunk is read with its headings.
        let passages: Vec<String> =
            results.hits.iter().map(|hit| embedding_text(&hit.chunk.heading_path, &hit.chunk.text)).collect();
        let passages: Vec<&str> = passages.iter().map(String::as_str).collect();
        let scores = if passages.is_empty() { Vec::new() } else { reranker.score(&request.query, &passages)? };
        if scores.len() != passages.len() || scores.iter().any(|score| !score.is_finite()) {
            let reason = format!("the reranker gave {} usable scores for {} passages", scores.len(), passages.len());
            return Err(ModelError::Internal(reason).into());
        }
        for (hit, score) in results.hits.iter_mut().zip(scores) {
            hit.score = score;
        }
        results.hits.sort_by(|a, b| b.score.total_cmp(&a.score));
        results.hits.truncate(request.limit);
        Ok(results)
    }
}
