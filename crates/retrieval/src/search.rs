//! Hybrid search: both arms side by side, fused, loaded from the catalog.
//!
//! - The arms are read deeper than asked for, since a chunk in the middle of both may belong on top.
//! - Chunks that are no longer live, or outside the documents asked for, are filtered inside both arms, so that they
//!   take no place of another.
//! - What the caller should know (a cut query, an index that lags) is in the notes of the result.
//!
//! Deliberately not here: rewriting of the query, and thresholds on scores.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};

use edgewise_documents::{FusionMethod, IndexProfile};
use edgewise_lexical_index::Bm25;
use edgewise_model_api::{Embedder, ModelError};
use edgewise_types::{ChunkId, DocumentId, Generation};

use crate::{
    Collection, Fusion, Hit, RetrievalError, SearchRequest, SearchResults,
    collections::SPECIAL_TOKENS,
    error::of,
    fusion::{Arm, Fused, fuse},
    mmr::diversified,
    state::State,
};

/// Most hits of one search.
pub const MAX_LIMIT: usize = 1000;
/// An arm is read to this multiple of the limit.
const DEPTH_FACTOR: usize = 4;
/// An arm is read at least this deep.
const LEAST_DEPTH: usize = 64;

/// How deep the arms are read for so many hits.
fn depth(limit: usize) -> usize {
    limit.saturating_mul(DEPTH_FACTOR).max(LEAST_DEPTH)
}

/// The fusion a profile asks for.
pub fn profile_fusion(profile: &IndexProfile) -> Fusion {
    match profile.fusion.method {
        FusionMethod::Convex => Fusion::Convex { lexical_weight: profile.fusion.lexical_weight as f32 },
        FusionMethod::Rrf => Fusion::Rrf { k: profile.fusion.rrf_k as f32 },
    }
}

/// What the two arms say of one question.
#[derive(Debug, Clone, PartialEq)]
pub struct Arms {
    /// BM25, best first.
    pub lexical: Arm,
    /// Cosine, best first.
    pub vector: Arm,
    /// Embedding the query, in milliseconds.
    pub embed_ms: f64,
    /// Lexical arm, in milliseconds.
    pub lexical_ms: f64,
    /// Vector arm, in milliseconds.
    pub vector_ms: f64,
    /// Generation of the collection that was searched.
    pub generation: Generation,
    /// As [`SearchResults::notes`].
    pub notes: Vec<String>,
}

impl Collection {
    /// The chunks that answer a question best.
    ///
    /// # Errors
    /// [`RetrievalError::EmptyQuery`], [`RetrievalError::InvalidRequest`], [`RetrievalError::EmbedderMismatch`], and
    /// [`RetrievalError::UnknownDocument`] for a document in the scope that is not in the collection.
    pub fn search(&self, request: &SearchRequest) -> Result<SearchResults, RetrievalError> {
        self.search_until(request, &|| false)
    }

    /// As [`Self::search`], without a reranker.
    pub(crate) fn search_fused(&self, request: &SearchRequest) -> Result<SearchResults, RetrievalError> {
        let state = self.ready(request)?;
        let Arms { lexical, vector, embed_ms, lexical_ms, vector_ms, generation, notes } =
            self.read_arms(&state, request)?.0;
        let start = Instant::now();
        let method = request.fusion.unwrap_or_else(|| profile_fusion(state.profile()));
        let mut fused = fuse(method, &lexical, &vector);
        if let Some(diversity) = request.diversity.filter(|diversity| *diversity > 0.0) {
            let vectors = state.vectors();
            fused = diversified(fused, request.limit, diversity, |chunk| vectors.index().vector(chunk));
        }
        let hits = self.load(&state, &fused, request.limit)?;
        let (fuse_ms, rerank_ms) = (milliseconds(start), 0.0);
        Ok(SearchResults { hits, embed_ms, lexical_ms, vector_ms, fuse_ms, rerank_ms, generation, notes })
    }

    /// What each arm says of a question, as deep as [`Self::search`] reads them, for fusing in several ways with
    /// [`fuse`]. Errors as of [`Self::search`].
    pub fn arms(&self, request: &SearchRequest) -> Result<Arms, RetrievalError> {
        let state = self.ready(request)?;
        Ok(self.read_arms(&state, request)?.0)
    }

    /// What the lexical arm alone says with other parameters of its score: for measuring them.
    ///
    /// # Errors
    /// As of [`Self::search`].
    pub fn lexical_with(&self, bm25: Bm25, request: &SearchRequest) -> Result<Arm, RetrievalError> {
        let state = self.ready(request)?;
        let scope = self.scope(&state, request)?;
        let depth = depth(request.limit);
        Ok(self.lexical_arm(&state, bm25, &request.query, depth, scope.as_deref())?.arm)
    }

    /// Makes `fusion` the collection's, for every search that names none; nothing is embedded or indexed again. It holds
    /// until another is set or the collection is ingested with another profile. A weight is kept to three decimals, a
    /// rank constant as a whole number.
    ///
    /// # Errors
    /// [`RetrievalError::InvalidRequest`] for a weight outside 0 to 1 or a negative constant;
    /// [`RetrievalError::Locked`] if another process writes.
    pub fn set_fusion(&self, fusion: Fusion) -> Result<(), RetrievalError> {
        validate_fusion(fusion)?;
        let mut slot = self.writer();
        let (state, _) = self.write(&mut slot)?;
        let mut profile = (**state.profile()).clone();
        match fusion {
            Fusion::Convex { lexical_weight } => {
                profile.fusion.method = FusionMethod::Convex;
                profile.fusion.lexical_weight = (f64::from(lexical_weight) * 1000.0).round() / 1000.0;
            }
            Fusion::Rrf { k } => {
                profile.fusion.method = FusionMethod::Rrf;
                profile.fusion.rrf_k = k.round().max(1.0) as u32;
            }
        }
        self.put_profile_in_force(state, &profile).map(drop)
    }

    /// The state a request is answered from, brought up to the catalog.
    pub(crate) fn ready(&self, request: &SearchRequest) -> Result<Arc<State>, RetrievalError> {
        validate(request)?;
        let state = self.current()?;
        self.check_embedder(&state)?;
        state.follow_as_reader()?;
        if state.lexical_behind()? {
            // A writer in another process died before its index had followed.
            self.repair(&state);
        }
        Ok(state)
    }

    /// What each arm says, and the vector of the query.
    pub(crate) fn read_arms(&self, state: &State, request: &SearchRequest) -> Result<(Arms, Embedded), RetrievalError> {
        let depth = depth(request.limit);
        let bm25 = Bm25::default();
        let scope = self.scope(state, request)?;
        let (lexical, vector) = std::thread::scope(|threads| {
            let lexical = threads.spawn(|| self.lexical_arm(state, bm25, &request.query, depth, scope.as_deref()));
            let vector = self.vector_arm(state, &request.query, depth, scope.as_deref());
            let lexical = lexical.join().unwrap_or_else(|_| {
                Err(RetrievalError::Model(ModelError::Internal("the lexical search panicked".to_owned())))
            });
            (lexical, vector)
        });
        let (lexical, vector) = (lexical?, vector?);
        let arms = Arms {
            lexical: lexical.arm,
            vector: vector.arm,
            embed_ms: vector.embed_ms,
            lexical_ms: lexical.ms,
            vector_ms: vector.ms,
            generation: vector.generation,
            notes: vector.note.into_iter().chain(lexical.note).collect(),
        };
        Ok((arms, vector.embedded))
    }

    /// Refuses an embedder other than the one the vectors are from.
    fn check_embedder(&self, state: &State) -> Result<(), RetrievalError> {
        let (stored, current) = (&state.catalog().meta().embedder, self.models.embedder.info());
        if stored.digest == current.digest && stored.dimension == current.dimension {
            return Ok(());
        }
        let describe = |model: &str, digest: &str| format!("`{model}` ({})", digest.get(..12).unwrap_or(digest));
        Err(RetrievalError::EmbedderMismatch {
            collection: self.name().clone(),
            stored: describe(&stored.model, &stored.digest),
            current: describe(&current.model, &current.digest),
        })
    }

    /// The chunks of the documents asked for; `None` if all are.
    pub(crate) fn scope(
        &self,
        state: &State,
        request: &SearchRequest,
    ) -> Result<Option<Arc<HashSet<ChunkId>>>, RetrievalError> {
        let filtered = request.filter.as_ref().map(|filter| state.filtered(filter)).transpose()?;
        let Some(documents) = request.documents.as_deref() else { return Ok(filtered) };
        for id in documents {
            if state.catalog().document(id).map_err(of(self.name()))?.is_none() {
                return Err(self.unknown_document(id));
            }
        }
        let mut chunks: HashSet<ChunkId> =
            state.catalog().chunk_ids_of(documents).map_err(of(self.name()))?.into_iter().collect();
        if let Some(filtered) = filtered {
            chunks.retain(|chunk| filtered.contains(chunk));
        }
        Ok(Some(Arc::new(chunks)))
    }

    fn lexical_arm(
        &self,
        state: &State,
        bm25: Bm25,
        query: &str,
        depth: usize,
        scope: Option<&HashSet<ChunkId>>,
    ) -> Result<LexicalArm, RetrievalError> {
        let start = Instant::now();
        let Some(index) = state.lexical() else {
            let note = "the lexical index is not built yet, so these hits are from the vector index alone";
            return Ok(LexicalArm {
                arm: Arm { hits: Vec::new(), exhausted: true },
                ms: 0.0,
                note: state.generation()?.0.gt(&0).then(|| note.to_owned()),
            });
        };
        let vectors = state.vectors();
        let wanted = |chunk: ChunkId| vectors.live(chunk) && scope.is_none_or(|scope| scope.contains(&chunk));
        let hits = index.search_with(bm25, query, depth, Some(&wanted)).map_err(of(self.name()))?;
        let behind = index.generation() < vectors.index().generation();
        Ok(LexicalArm {
            arm: Arm { exhausted: hits.len() < depth, hits: hits.iter().map(|h| (h.chunk, h.score)).collect() },
            ms: milliseconds(start),
            note: behind.then(|| {
                "the lexical index is catching up: the newest documents are found by the vector index alone".to_owned()
            }),
        })
    }

    fn vector_arm(
        &self,
        state: &State,
        query: &str,
        depth: usize,
        scope: Option<&HashSet<ChunkId>>,
    ) -> Result<VectorArm, RetrievalError> {
        let start = Instant::now();
        let (read, note) = fit(self.models.embedder.as_ref(), query)?;
        let embedded = self.models.embedder.embed(&[read])?;
        let Some(embedding) = embedded.first() else {
            return Err(ModelError::Internal("the embedder returned no vector".to_owned()).into());
        };
        let embed_ms = milliseconds(start);
        let start = Instant::now();
        let vectors = state.vectors();
        let in_scope = scope.map(|scope| move |chunk: ChunkId| scope.contains(&chunk));
        let filter = in_scope.as_ref().map(|filter| filter as &(dyn Fn(ChunkId) -> bool + Sync));
        let hits = vectors.index().search(embedding, depth, filter).map_err(of(self.name()))?;
        Ok(VectorArm {
            embedded: Embedded { vector: embedding.clone() },
            arm: Arm { exhausted: hits.len() < depth, hits: hits.iter().map(|h| (h.chunk, h.score)).collect() },
            embed_ms,
            ms: milliseconds(start),
            generation: vectors.index().generation(),
            note,
        })
    }

    /// The first `limit` of `fused` that are still in the catalog, with what a caller shows of them.
    fn load(&self, state: &State, fused: &[Fused], limit: usize) -> Result<Vec<Hit>, RetrievalError> {
        let mut owners: HashMap<DocumentId, (String, String)> = HashMap::new();
        let mut hits = Vec::with_capacity(limit.min(fused.len()));
        // More than one round only if chunks were deleted since the arms were read.
        let mut rest = fused;
        while hits.len() < limit && !rest.is_empty() {
            let (round, later) = rest.split_at(rest.len().min(limit - hits.len()));
            rest = later;
            let ids: Vec<ChunkId> = round.iter().map(|hit| hit.chunk).collect();
            let chunks = state.catalog().chunks(&ids).map_err(of(self.name()))?;
            let mut chunks: HashMap<ChunkId, _> = chunks.into_iter().map(|chunk| (chunk.id, chunk)).collect();
            for hit in round {
                let Some(chunk) = chunks.remove(&hit.chunk) else { continue };
                let (title, uri) = match owners.get(&chunk.document) {
                    Some(owner) => owner.clone(),
                    None => {
                        let document = state.catalog().document(&chunk.document).map_err(of(self.name()))?;
                        let Some(document) = document else { continue };
                        owners.entry(chunk.document.clone()).or_insert((document.title, document.uri)).clone()
                    }
                };
                let Fused { score, lexical, vector, .. } = *hit;
                hits.push(Hit { chunk, title, uri, score, rerank: None, lexical, vector });
            }
        }
        Ok(hits)
    }
}

struct LexicalArm {
    arm: Arm,
    ms: f64,
    note: Option<String>,
}

/// The query as the vector arm sees it.
pub(crate) struct Embedded {
    pub(crate) vector: Vec<f32>,
}

struct VectorArm {
    embedded: Embedded,
    arm: Arm,
    embed_ms: f64,
    ms: f64,
    generation: Generation,
    note: Option<String>,
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

fn validate(request: &SearchRequest) -> Result<(), RetrievalError> {
    let invalid = |reason: String| Err(RetrievalError::InvalidRequest(reason));
    if request.query.trim().is_empty() {
        return Err(RetrievalError::EmptyQuery);
    }
    if !(1..=MAX_LIMIT).contains(&request.limit) {
        return invalid(format!("limit is {}, but must be between 1 and {MAX_LIMIT}", request.limit));
    }
    if let Some(diversity) = request.diversity.filter(|diversity| !(0.0..=1.0).contains(diversity)) {
        return invalid(format!("diversity is {diversity}, but must be between 0 and 1"));
    }
    request.fusion.map_or(Ok(()), validate_fusion)
}

fn validate_fusion(fusion: Fusion) -> Result<(), RetrievalError> {
    let invalid = |reason: String| Err(RetrievalError::InvalidRequest(reason));
    match fusion {
        Fusion::Convex { lexical_weight } if !(0.0..=1.0).contains(&lexical_weight) => {
            invalid(format!("lexical_weight is {lexical_weight}, but must be between 0 and 1"))
        }
        Fusion::Rrf { k } if !(k.is_finite() && k >= 0.0) => {
            invalid(format!("k is {k}, but must be a number of at least 0"))
        }
        _ => Ok(()),
    }
}

/// As much of `query` as the embedder reads, cut between tokens, and a note if that is not all.
fn fit<'q>(embedder: &dyn Embedder, query: &'q str) -> Result<(&'q str, Option<String>), RetrievalError> {
    let room = embedder.info().max_tokens.saturating_sub(SPECIAL_TOKENS);
    let offsets = embedder.tokenizer().offsets(query)?;
    if offsets.len() <= room {
        return Ok((query, None));
    }
    // A prefix may have more tokens than it had in the whole text, so count again.
    let mut kept = room;
    loop {
        let end = kept.checked_sub(1).and_then(|last| offsets.get(last)).map_or(0, |range| range.end);
        let prefix = query.get(..end).unwrap_or_default();
        if kept == 0 || embedder.tokenizer().count(prefix)? <= room {
            let note = format!(
                "the query has {} tokens and the embedder reads {room}: the vector search used its first {}",
                offsets.len(),
                kept
            );
            return Ok((prefix, Some(note)));
        }
        kept -= 1;
    }
}
