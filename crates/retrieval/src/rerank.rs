//! A second look at the best hits by a model that reads question and passage together ([`Reranker`]).
//!
//! - The hits are searched as always, deeper if need be; the model reads the first of them and its scores put those in
//!   order. Fused score and arm scores stay beside it. Hits beyond its reach follow as they were.
//! - Near-duplicates are suppressed after it, on its scores: before it, copies would come back together.
//! - A question longer than the model reads is cut for the model alone, and the notes say so.
//!
//! Deliberately not here: any such model, and thresholds on its scores.

use std::{collections::HashMap, time::Instant};

use edgewise_documents::embedding_text;
use edgewise_model_api::{ModelError, Reranker};
use edgewise_types::ChunkId;

use crate::{
    Collection, Hit, Reranking, RetrievalError, SearchRequest, SearchResults, fusion::Fused, mmr::diversified,
    search::MAX_LIMIT,
};

impl Collection {
    /// As [`Self::search`]; a reranker asks `cancelled` several times a second and gives up once it says yes.
    ///
    /// # Errors
    /// As of [`Self::search`]; [`RetrievalError::InvalidRequest`] if reranking was asked for and there is no reranker;
    /// [`RetrievalError::Model`] if it fails, is overloaded, or was cancelled.
    pub fn search_until(
        &self,
        request: &SearchRequest,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<SearchResults, RetrievalError> {
        match (request.rerank, &self.models.reranker) {
            (Some(true), None) => Err(RetrievalError::InvalidRequest(
                "there is no reranker: set `retrieval.reranker` in the settings to a reranker of the model registry, or \
                 do not ask for one"
                    .to_owned(),
            )),
            (Some(true) | None, Some(reranking)) => self.search_reranked(request, reranking, cancelled),
            (Some(false), _) | (None, None) => self.search_fused(request),
        }
    }

    fn search_reranked(
        &self,
        request: &SearchRequest,
        Reranking { model, depth }: &Reranking,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<SearchResults, RetrievalError> {
        let diversity = request.diversity.filter(|diversity| *diversity > 0.0);
        // A limit out of range is left as it is, to be refused.
        let limit = if request.limit == 0 { 0 } else { request.limit.max((*depth).min(MAX_LIMIT)) };
        // Diversity is left in to be validated where it has no effect.
        let plain = SearchRequest {
            limit,
            diversity: request.diversity.map(|d| if d > 0.0 && d <= 1.0 { 0.0 } else { d }),
            ..request.clone()
        };
        let mut results = self.search_fused(&plain)?;
        let start = Instant::now();
        let read = results.hits.len().min(*depth);
        // What was embedded, so that a chunk is read with its headings.
        let text = |hit: &Hit| embedding_text(&hit.chunk.heading_path, &hit.chunk.text);
        let passages: Vec<String> = results.hits.iter().take(read).map(text).collect();
        let passages: Vec<&str> = passages.iter().map(String::as_str).collect();
        let (query, note) = fit(model.as_ref(), &request.query)?;
        let scores = if passages.is_empty() { Vec::new() } else { model.score(query, &passages, cancelled)? };
        if scores.len() != read || scores.iter().any(|score| !score.is_finite()) {
            let reason =
                format!("the reranker gave {} scores, not all of them finite, for {read} passages", scores.len());
            return Err(ModelError::Internal(reason).into());
        }
        for (hit, score) in results.hits.iter_mut().zip(scores) {
            hit.rerank = Some(score);
        }
        // Stable, so that equal scores stay in fused order; and nothing is below what was not read.
        let place = |hit: &Hit| hit.rerank.unwrap_or(f32::NEG_INFINITY);
        results.hits.sort_by(|a, b| place(b).total_cmp(&place(a)));
        if let Some(diversity) = diversity {
            self.diversify(&mut results.hits, read, request.limit, diversity);
        }
        results.hits.truncate(request.limit);
        results.notes.extend(note);
        results.rerank_ms = start.elapsed().as_secs_f64() * 1000.0;
        Ok(results)
    }

    /// Chooses among the first `read` hits for the reranker's score and difference.
    fn diversify(&self, hits: &mut Vec<Hit>, read: usize, limit: usize, diversity: f32) {
        let state = self.state();
        let vectors = state.vectors();
        let rest = hits.split_off(read);
        let ranked = hits.iter().map(|hit| Fused {
            chunk: hit.chunk.id,
            score: hit.rerank.unwrap_or_default(),
            lexical: hit.lexical,
            vector: hit.vector,
        });
        let order = diversified(ranked.collect(), limit, diversity, |chunk| vectors.index().vector(chunk));
        let mut by_chunk: HashMap<ChunkId, Hit> = hits.drain(..).map(|hit| (hit.chunk.id, hit)).collect();
        hits.extend(order.iter().filter_map(|next| by_chunk.remove(&next.chunk)));
        hits.extend(rest);
    }
}

/// As much of `query` as the model reads, cut between tokens, and a note if that is not all.
fn fit<'q>(model: &dyn Reranker, query: &'q str) -> Result<(&'q str, Option<String>), RetrievalError> {
    let room = model.info().max_query_tokens;
    let offsets = model.tokenizer().offsets(query)?;
    if offsets.len() <= room {
        return Ok((query, None));
    }
    // A prefix may have more tokens than it had in the whole text, so count again.
    for kept in (1..=room).rev() {
        let prefix = offsets.get(kept - 1).and_then(|last| query.get(..last.end)).unwrap_or_default();
        if model.tokenizer().count(prefix)? <= room {
            let note = format!(
                "the query has {} tokens and the reranker reads {room}: it read the first {kept}",
                offsets.len()
            );
            return Ok((prefix, Some(note)));
        }
    }
    Ok(("", Some(format!("the reranker reads {room} tokens of a query, which is none of this one"))))
}
