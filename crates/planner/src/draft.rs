//! One candidate prompt for each route, composed for real, or the reason why it cannot be.
//!
//! A route whose token counts in the catalog already exceed the limit is refused without loading a document.

use std::collections::HashMap;

use edgewise_retrieval::{Collection, Hit, RetrievalError, Section};
use edgewise_types::{ChunkId, Document, DocumentId, Span};

use crate::{
    Drop, Features, PlannerError, PlannerOptions, ReadingProfile, Route,
    compose::{Composed, Composer, ExcerptText, SourceKind, SourceText},
    features::Scope,
    limits::{Limits, Refusal, RefusedBy},
    place,
    select::{self, RankedDocument},
};

/// A document is left out when its evidence is below this share of the best document's.
const DOCUMENT_WEAK_SHARE: f32 = 0.25;

/// Tokens of documents from which on key excerpts are repeated behind them. Below, everything stands near the question;
/// Liu et al. 2023 find the middle of prompts of about this length, ten to twenty passages, read worse than the end.
const LONG_DOCUMENTS: usize = 2048;

/// Documents listed at a time.
const PAGE: usize = 500;

/// A route's prompt.
pub(crate) struct Draft {
    pub(crate) route: Route,
    pub(crate) composed: Result<Composed, Refusal>,
    /// What the prompt leaves out of what retrieval brought up.
    pub(crate) dropped: Vec<Drop>,
}

/// Makes the drafts for one question.
#[derive(Clone, Copy)]
pub(crate) struct Drafter<'a> {
    pub(crate) collection: &'a Collection,
    pub(crate) composer: Composer<'a>,
    pub(crate) options: &'a PlannerOptions,
    pub(crate) limits: Limits,
    /// How the model reads, if it was measured.
    pub(crate) profile: Option<&'a ReadingProfile>,
    /// Length of the prompt without sources.
    pub(crate) base_tokens: usize,
}

impl Drafter<'_> {
    /// The best passages, the very best where the model reads best.
    pub(crate) fn passages(&self, hits: &[Hit], features: &Features, top_k: usize) -> Result<Draft, PlannerError> {
        let (kept, mut dropped) = select::passages(hits, features, top_k, self.options.score_floor);
        let (ranked, members) = self.sections(&kept)?;
        if ranked.is_empty() {
            return Ok(self.refused(Route::Passages, dropped, "retrieval found nothing"));
        }
        let budget = self.options.passages_budget_tokens;
        let (composed, fitting) = self.fit(SourceKind::Passages, &ranked, budget, |ranked| {
            place::edges(ranked.len()).into_iter().filter_map(|rank| ranked.get(rank).cloned()).collect()
        })?;
        let composed = match composed {
            Ok(composed) => self.by_curve(composed, &ranked[..fitting], budget)?,
            Err(refusal) => return Ok(Draft { route: Route::Passages, composed: Err(refusal), dropped }),
        };
        let over = format!("over the budget of {} tokens of passages", self.room(budget));
        let left_out = members.iter().skip(fitting).flatten();
        dropped.extend(left_out.map(|hit| select::dropped_hit(hit, over.as_str())));
        Ok(Draft { route: Route::Passages, composed: Ok(composed), dropped })
    }

    /// The passages to place, best first, and the hits in each. Where hits are at least half of a short section, the
    /// section takes their place: it reads better than its pieces, and is at most twice as long.
    fn sections<'h>(&self, kept: &[(usize, &'h Hit)]) -> Result<(Vec<SourceText>, Vec<Vec<&'h Hit>>), PlannerError> {
        let hits: Vec<Hit> = kept.iter().map(|(_, hit)| (*hit).clone()).collect();
        let sections = match self.options.section_tokens {
            0 => Vec::new(),
            longest => self.collection.sections(&hits, 2, longest)?,
        };
        let tokens = |chunk: &ChunkId| {
            hits.iter().find(|hit| hit.chunk.id == *chunk).map_or(0, |hit| hit.chunk.generator_tokens)
        };
        let worthwhile =
            |section: &Section| 2 * section.hits.iter().map(tokens).sum::<usize>() >= section.generator_tokens;
        let sections: Vec<Section> = sections.into_iter().filter(worthwhile).collect();
        let (mut ranked, mut members): (Vec<SourceText>, Vec<Vec<&Hit>>) = Default::default();
        let mut placed: HashMap<usize, usize> = HashMap::new();
        for (rank, hit) in kept {
            let section = sections.iter().position(|section| section.hits.contains(&hit.chunk.id));
            if let Some(at) = section.and_then(|section| placed.get(&section)) {
                members.get_mut(*at).into_iter().for_each(|hits| hits.push(hit));
                ranked.get_mut(*at).into_iter().for_each(|source: &mut SourceText| source.passages += 1);
                continue;
            }
            let mut source = passage(*rank, hit);
            if let Some((at, section)) = section.and_then(|at| Some((at, sections.get(at)?))) {
                source.heading_path.clone_from(&section.heading_path);
                source.span = section.span;
                source.text = section.text.as_str().into();
                placed.insert(at, ranked.len());
            }
            ranked.push(source);
            members.push(vec![hit]);
        }
        Ok((ranked, members))
    }

    /// `composed` of all of `ranked` by the rule, or in the order that the model's measured position curve asks for.
    fn by_curve(&self, composed: Composed, ranked: &[SourceText], budget: usize) -> Result<Composed, PlannerError> {
        let order = |sources: &mut dyn Iterator<Item = usize>| -> Vec<usize> {
            sources.filter_map(|rank| ranked.iter().position(|source| source.rank == rank)).collect()
        };
        // A prompt that continues another holds that one's sources, which stay where they are.
        let earlier = composed.sources.len() - composed.source_tokens.len();
        let placed = order(&mut composed.sources.iter().skip(earlier).map(|source| source.rank));
        let mut tokens = vec![0; ranked.len()];
        for (index, length) in placed.iter().zip(&composed.source_tokens) {
            tokens.get_mut(*index).into_iter().for_each(|slot| *slot = *length);
        }
        let first = composed.segments.iter().find(|segment| segment.source == Some(earlier + 1));
        let before = first.map_or(0, |segment| segment.start);
        let after = composed.prompt.tokens.len().saturating_sub(before + tokens.iter().sum::<usize>());
        let wanted = place::arrange(self.profile, &tokens, before, after);
        if wanted == placed {
            return Ok(composed);
        }
        let arranged: Vec<SourceText> = wanted.into_iter().filter_map(|index| ranked.get(index).cloned()).collect();
        let moved = self.composer.compose(SourceKind::Passages, &arranged)?;
        // The same passages under other numbers: nearly always of the same length.
        let fits =
            moved.source_tokens.iter().sum::<usize>() <= budget && moved.prompt.tokens.len() <= self.limits.input();
        Ok(if fits { moved } else { composed })
    }

    /// `composed` of `sources` in this order, with the best passages in them repeated behind them, the very best last. As
    /// it is if the documents are short or there is no room: an excerpt says nothing that is not in the prompt anyway.
    fn with_excerpts(
        &self,
        composed: Composed,
        sources: &[SourceText],
        kept: &[(usize, &Hit)],
    ) -> Result<Composed, PlannerError> {
        if composed.source_tokens.iter().sum::<usize>() < LONG_DOCUMENTS {
            return Ok(composed);
        }
        let mut excerpts = Vec::new();
        let mut taken = 0;
        for (_, hit) in kept {
            let Some(at) = sources.iter().position(|source| source.document == hit.chunk.document) else { continue };
            taken += hit.chunk.generator_tokens;
            if taken > self.options.excerpts_budget_tokens {
                break;
            }
            let (title, text) = (hit.title.clone(), hit.chunk.text.clone());
            excerpts.push(ExcerptText { n: at + 1, title, text });
        }
        while !excerpts.is_empty() {
            let tail: Vec<ExcerptText> = excerpts.iter().rev().cloned().collect();
            let with = self.composer.compose_with(SourceKind::Documents, sources, &tail)?;
            let added = with.prompt.tokens.len().saturating_sub(composed.prompt.tokens.len());
            if with.prompt.tokens.len() <= self.limits.input() && added <= self.options.excerpts_budget_tokens {
                return Ok(with);
            }
            excerpts.pop();
        }
        Ok(composed)
    }

    /// The best documents, whole, in order of URI, with the passages in `kept` repeated behind long ones.
    pub(crate) fn documents(&self, hits: &[Hit], kept: &[(usize, &Hit)]) -> Result<Draft, PlannerError> {
        let ranked = select::documents(hits);
        let budget = self.options.documents_budget_tokens;
        let weak = ranked.first().map_or(0.0, |best| best.score * DOCUMENT_WEAK_SHARE);
        let (mut chosen, mut dropped) = (Vec::new(), Vec::new());
        let mut taken = 0;
        let mut shortest: Option<(usize, usize, &RankedDocument)> = None;
        for (i, document) in ranked.iter().enumerate() {
            let mut leave_out = |reason: String| dropped.push(dropped_document(document, reason));
            if document.score < weak {
                leave_out("far less evidence than in the best document".to_owned());
                continue;
            }
            let Some(Document { tokens, .. }) = present(self.collection.document(&document.document))? else {
                leave_out("deleted while the question was being planned".to_owned());
                continue;
            };
            if shortest.is_none_or(|(least, ..)| tokens < least) {
                shortest = Some((tokens, i + 1, document));
            }
            let room = self.room(budget);
            if chosen.len() >= self.options.max_documents {
                leave_out(format!(
                    "ranked {}, below the {} documents placed at most",
                    i + 1,
                    self.options.max_documents
                ));
            } else if taken + tokens > room {
                leave_out(format!("its {tokens} tokens do not fit beside {taken} of {room} tokens of documents"));
            } else {
                taken += tokens;
                chosen.push((i + 1, document));
            }
        }
        let Some((least, rank, document)) = shortest else {
            return Ok(self.refused(Route::Documents, dropped, "retrieval found nothing"));
        };
        let what = "the shortest relevant document";
        if let Some(refusal) = self.limits.refuse_unloaded(self.base_tokens + least, what) {
            return Ok(Draft { route: Route::Documents, composed: Err(refusal), dropped });
        }
        if chosen.is_empty() {
            // Too long for the room there is: composed alone, it tells by how much.
            dropped.retain(|drop| drop.document != document.document);
            chosen.push((rank, document));
        }
        let sources = chosen
            .iter()
            .filter_map(|(rank, document)| {
                self.whole(&document.document, &document.uri, &document.title, Some(document.score), *rank).transpose()
            })
            .collect::<Result<Vec<_>, _>>()?;
        if sources.len() < chosen.len() {
            chosen.retain(|(rank, document)| {
                let read = sources.iter().any(|source| source.rank == *rank);
                if !read {
                    dropped.push(dropped_document(document, "deleted while the question was being planned"));
                }
                read
            });
        }
        let canonical = |sources: &[SourceText]| {
            let mut canonical = sources.to_vec();
            canonical.sort_by(|a, b| a.uri.cmp(&b.uri));
            canonical
        };
        let (composed, fitting) = self.fit(SourceKind::Documents, &sources, budget, canonical)?;
        let composed = match composed {
            Ok(composed) => Ok(self.with_excerpts(composed, &canonical(&sources[..fitting]), kept)?),
            refused => refused,
        };
        if composed.is_ok() {
            let over = format!("over the budget of {} tokens of documents", self.room(budget));
            dropped.extend(chosen.iter().skip(fitting).map(|(_, document)| dropped_document(document, over.as_str())));
        }
        Ok(Draft { route: Route::Documents, composed, dropped })
    }

    /// Every document of the scope, in order of URI, with the passages in `kept` repeated behind long ones.
    pub(crate) fn full(
        &self,
        scope: Scope,
        only: Option<&[Document]>,
        kept: &[(usize, &Hit)],
    ) -> Result<Draft, PlannerError> {
        let refused = |refusal| Ok(Draft { route: Route::Full, composed: Err(refusal), dropped: Vec::new() });
        if let Some(refusal) = self.limits.refuse_unloaded(self.base_tokens + scope.tokens, "the whole scope") {
            return refused(refusal);
        }
        let mut documents = match only {
            Some(documents) => documents.to_vec(),
            None => self.every_document()?,
        };
        documents.sort_by(|a, b| a.uri.cmp(&b.uri));
        let sources = (1..)
            .zip(&documents)
            .filter_map(|(rank, document)| {
                self.whole(&document.id, &document.uri, &document.title, None, rank).transpose()
            })
            .collect::<Result<Vec<_>, _>>()?;
        let composed = self.composer.compose(SourceKind::Documents, &sources)?;
        match self.limits.refuse_input(&composed.prompt, "the whole scope") {
            Some(refusal) => refused(refusal),
            None => {
                let composed = self.with_excerpts(composed, &sources, kept)?;
                Ok(Draft { route: Route::Full, composed: Ok(composed), dropped: Vec::new() })
            }
        }
    }

    /// Composes as many of `ranked`, best first, as fit `budget` and the input limit, in the order that `arrange` makes,
    /// and says how many that are.
    pub(crate) fn fit(
        &self,
        kind: SourceKind,
        ranked: &[SourceText],
        budget: usize,
        arrange: impl Fn(&[SourceText]) -> Vec<SourceText>,
    ) -> Result<(Result<Composed, Refusal>, usize), PlannerError> {
        let mut count = ranked.len();
        loop {
            let arranged = arrange(&ranked[..count]);
            let composed = self.composer.compose(kind, &arranged)?;
            let used: usize = composed.source_tokens.iter().sum();
            let length = composed.prompt.tokens.len();
            if used <= budget && length <= self.limits.input() {
                return Ok((Ok(composed), count));
            }
            if count <= 1 {
                let refusal =
                    self.limits.refuse_input(&composed.prompt, "the best source alone").unwrap_or_else(|| Refusal {
                        by: RefusedBy::Model,
                        needed_tokens: length,
                        prompt: Some(composed.prompt.clone()),
                        reason: format!(
                            "the best source alone has {used} tokens, over the {budget} set for this route"
                        ),
                    });
                return Ok((Err(refusal), 0));
            }
            // As many of the best as fit by the lengths just measured: at least one fewer, so this ends.
            let by_rank = |rank: usize| {
                let at = arranged.iter().position(|source| source.rank == rank);
                at.and_then(|at| composed.source_tokens.get(at)).copied().unwrap_or(0)
            };
            let room = self.room(budget);
            let mut sum = 0;
            let fitting = ranked[..count]
                .iter()
                .take_while(|source| {
                    sum += by_rank(source.rank);
                    sum <= room
                })
                .count();
            count = fitting.clamp(1, count - 1);
        }
    }

    /// Tokens there are for sources: the route's budget, or what the input limit leaves if that is less.
    pub(crate) fn room(&self, budget: usize) -> usize {
        budget.min(self.limits.input().saturating_sub(self.base_tokens))
    }

    /// A whole document as a source; `None` if it was deleted since it was listed.
    fn whole(
        &self,
        id: &DocumentId,
        uri: &str,
        title: &str,
        score: Option<f32>,
        rank: usize,
    ) -> Result<Option<SourceText>, PlannerError> {
        let Some(text) = present(self.collection.document_text(id))? else { return Ok(None) };
        Ok(Some(SourceText {
            document: id.clone(),
            uri: uri.to_owned(),
            title: title.to_owned(),
            heading_path: Vec::new(),
            span: Span::new(0, text.len()),
            text,
            score,
            rank,
            passages: 0,
            summary: None,
        }))
    }

    pub(crate) fn every_document(&self) -> Result<Vec<Document>, PlannerError> {
        let mut documents = Vec::new();
        loop {
            let after = documents.last().map(|document: &Document| document.uri.clone());
            let page = self.collection.documents_after(after.as_deref(), PAGE)?;
            let last = page.len() < PAGE;
            documents.extend(page);
            if last {
                return Ok(documents);
            }
        }
    }

    pub(crate) fn refused(&self, route: Route, dropped: Vec<Drop>, reason: &str) -> Draft {
        let reason = reason.to_owned();
        let refusal = Refusal { by: RefusedBy::Model, needed_tokens: self.base_tokens, prompt: None, reason };
        Draft { route, composed: Err(refusal), dropped }
    }
}

/// What was read, or `None` if its document has been deleted meanwhile.
pub(crate) fn present<T>(read: Result<T, RetrievalError>) -> Result<Option<T>, PlannerError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(RetrievalError::UnknownDocument { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(crate) fn passage(rank: usize, hit: &Hit) -> SourceText {
    SourceText {
        document: hit.chunk.document.clone(),
        uri: hit.uri.clone(),
        title: hit.title.clone(),
        heading_path: hit.chunk.heading_path.clone(),
        span: hit.chunk.span,
        text: hit.chunk.text.as_str().into(),
        score: Some(hit.score),
        rank,
        passages: 1,
        summary: None,
    }
}

fn dropped_document(document: &RankedDocument, reason: impl Into<String>) -> Drop {
    Drop { document: document.document.clone(), uri: document.uri.clone(), span: None, reason: reason.into() }
}
