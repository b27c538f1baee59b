//! The planner: from a question to a chosen, composed prompt, and from there to an answer.

use std::{collections::BTreeSet, ops::ControlFlow, sync::Arc, time::Instant};

use edgewise_ledger::PriceBook;
use edgewise_model_api::{CacheState, Embedder, Generator};
use edgewise_prompts::Prompts;
use edgewise_retrieval::{Collection, SearchRequest, SearchResults};
use edgewise_types::{Document, Timings, Usage};

use crate::{
    Answer, AnswerEvent, Candidate, Explanation, Features, PlannerError, PlannerOptions, Query, Route, answer,
    choose::{self, Priced},
    compose::{Composed, Composer, SourceKind},
    cost,
    draft::{Draft, Drafter},
    features::{self, Scope},
    learned::Learned,
    limits::{Limits, RefusedBy},
};

/// Fewest hits to search for: enough to see the shape of a result, whatever number of passages is placed.
const MIN_HITS: usize = 16;

/// Most passages a query may ask for.
const MAX_TOP_K: usize = 200;

/// Chooses a route for a question and answers it. Share it in an `Arc`: every method takes `&self`.
pub struct Planner {
    pub(crate) generator: Arc<dyn Generator>,
    pub(crate) embedder: Arc<dyn Embedder>,
    pub(crate) prompts: Prompts,
    pub(crate) prices: PriceBook,
    pub(crate) options: PlannerOptions,
    pub(crate) learned: Learned,
}

/// A decision with everything needed to carry it out.
pub(crate) struct Planned {
    pub(crate) explanation: Explanation,
    pub(crate) composed: Composed,
    pub(crate) limits: Limits,
    pub(crate) timings: Timings,
}

impl Planner {
    /// A planner over these models, prompts and prices. Fails if an option is out of range.
    pub fn new(
        generator: Arc<dyn Generator>,
        embedder: Arc<dyn Embedder>,
        prompts: Prompts,
        prices: PriceBook,
        options: PlannerOptions,
    ) -> Result<Self, PlannerError> {
        options.validate()?;
        Ok(Self { generator, embedder, prompts, prices, options, learned: Learned::embedded()? })
    }

    /// The state of the generator's prefix cache.
    pub fn cache(&self) -> CacheState {
        self.generator.cache()
    }

    /// Ends the retention of a prefix of [`Self::cache`]; whether there was one of this id.
    pub fn release_prefix(&self, id: u64) -> bool {
        self.generator.release_prefix(id)
    }

    /// The route that would be taken now, and why. Searches and composes, but generates nothing.
    pub fn explain(&self, collection: &Collection, query: &Query) -> Result<Explanation, PlannerError> {
        Ok(self.plan(collection, query)?.explanation)
    }

    /// Answers a question. Blocks until the answer is complete; `sink` is told of the plan, of the sources and of each
    /// token. When it returns `Break`, the generation is cancelled and the result is [`PlannerError::Cancelled`].
    /// Everything that can be known before is refused without generating.
    pub fn answer(
        &self,
        collection: &Collection,
        query: &Query,
        sink: &mut dyn FnMut(AnswerEvent) -> ControlFlow<()>,
    ) -> Result<Answer, PlannerError> {
        let started = Instant::now();
        let planned = self.plan(collection, query)?;
        answer::carry_out(self, collection, query, planned, started, sink)
    }

    fn plan(&self, collection: &Collection, query: &Query) -> Result<Planned, PlannerError> {
        let started = Instant::now();
        let top_k = self.check(query)?;
        let limits = Limits::new(self.generator.info().context_window, &self.options, query)?;
        let (scope, only) = scope(collection, query)?;

        let composer = Composer {
            generator: self.generator.as_ref(),
            prompts: &self.prompts,
            collection: collection.name().as_str(),
            question: &query.question,
        };
        let base_tokens = composer.compose(SourceKind::Passages, &[])?.prompt.tokens.len();
        if base_tokens > limits.input() {
            return Err(PlannerError::QuestionTooLong {
                prompt_tokens: base_tokens,
                limit: limits.input(),
                why: limits.input_origin(),
            });
        }

        let search_started = Instant::now();
        let results = collection.search(&SearchRequest {
            documents: query.documents.clone(),
            filter: query.filter.clone(),
            ..SearchRequest::new(&query.question, (2 * top_k).max(MIN_HITS))
        })?;
        let search_ms = elapsed_ms(search_started);

        let mut features = features::measure(&results.hits, scope, self.generator.queue());
        let (pre_route, notes) = self.learn_features(&mut features, query, &results)?;
        let drafter = Drafter { collection, composer, options: &self.options, limits, base_tokens };
        let drafts = vec![
            drafter.passages(&results.hits, &features, top_k)?,
            drafter.documents(&results.hits)?,
            drafter.full(scope, only.as_deref())?,
        ];
        let priced = drafts.iter().map(|draft| self.price(collection, draft, &features, &limits, query)).collect();
        let candidates = choose::choose(priced, query.route, query.objective)?;
        let chosen = candidates.first().map_or(Route::Passages, |candidate| candidate.route);
        let (composed, dropped) = drafts
            .into_iter()
            .find(|draft| draft.route == chosen)
            .and_then(|draft| Some((draft.composed.ok()?, draft.dropped)))
            .ok_or_else(|| PlannerError::DoesNotFit { route: Some(chosen), reasons: Vec::new() })?;

        tracing::debug!(collection = %collection.name(), %chosen, prompt_tokens = composed.prompt.tokens.len(), "route chosen");
        let explanation = Explanation {
            collection: collection.name().clone(),
            generation: results.generation,
            chosen,
            forced: query.route.is_some(),
            objective: query.objective,
            features,
            pre_route,
            candidates,
            dropped,
            notes,
        };
        let timings = timings(&results, elapsed_ms(started) - search_ms);
        Ok(Planned { explanation, composed, limits, timings })
    }

    /// Checks what can be checked of a query alone, and gives the number of passages to place at most.
    fn check(&self, query: &Query) -> Result<usize, PlannerError> {
        if query.question.trim().is_empty() {
            return Err(PlannerError::EmptyQuestion);
        }
        query.sampling.validate()?;
        let invalid = |message: &str| Err(PlannerError::InvalidQuery(message.to_owned()));
        if query.stop.iter().any(String::is_empty) {
            return invalid("a stop string is empty and would end every answer at once: remove it");
        }
        if query.documents.as_ref().is_some_and(Vec::is_empty) {
            return invalid("the list of documents is empty: name at least one, or leave it out to ask all of them");
        }
        let top_k = query.top_k.unwrap_or(self.options.top_k);
        if !(1..=MAX_TOP_K).contains(&top_k) {
            return Err(PlannerError::InvalidQuery(format!("top_k must be between 1 and {MAX_TOP_K}, not {top_k}")));
        }
        Ok(top_k)
    }

    /// Predicts cost, time and quality of a draft, and checks them against the budget.
    fn price(
        &self,
        collection: &Collection,
        draft: &Draft,
        features: &Features,
        limits: &Limits,
        query: &Query,
    ) -> Priced {
        let prices = self.prices.of(&self.generator.info().model);
        let output = limits.expected_output;
        let (prompt, sources, refusal) = match &draft.composed {
            Ok(composed) => (Some(&composed.prompt), composed.sources.len(), None),
            Err(refusal) => (refusal.prompt.as_ref(), 0, Some(refusal)),
        };
        let usage = match (prompt, refusal) {
            (Some(prompt), _) => {
                let resident = self.generator.prefix_state(&query.tenant, prompt).resident_tokens;
                cost::expected_usage(prompt, resident, output)
            }
            (None, refusal) => Usage {
                input_tokens: refusal.map_or(0, |refusal| refusal.needed_tokens),
                output_tokens: output,
                ..Usage::default()
            },
        };
        let prompt_tokens = usage.prompt_tokens();
        let forecast = cost::forecast(&usage, prices, self.generator.latency(), self.generator.queue());
        let worst_cost = prices.cost(&Usage { output_tokens: limits.max_output, ..usage });
        let refused = match refusal {
            Some(refusal) => Some((refusal.by, refusal.reason.clone())),
            None => limits.over_budget(worst_cost, forecast.latency_ms).map(|reason| (RefusedBy::Budget, reason)),
        };
        let tokens = prompt_tokens + output;
        let (quality, feedback_shift) =
            self.learned.expected(collection.name(), draft.route, features, tokens, limits.window);
        Priced {
            refused: refused.as_ref().map(|(by, _)| *by),
            worst_cost,
            candidate: Candidate {
                route: draft.route,
                feasible: refused.is_none(),
                prompt_tokens,
                resident_tokens: usage.cache_read_tokens,
                output_tokens: output,
                cost: forecast.cost,
                ttft_ms: forecast.ttft_ms,
                latency_ms: forecast.latency_ms,
                quality,
                feedback_shift,
                score: 0.0,
                sources,
                reason: refused.map(|(_, reason)| reason).unwrap_or_default(),
            },
        }
    }
}

/// The documents a query may draw on: how many, how long, and which, if it names them.
fn scope(collection: &Collection, query: &Query) -> Result<(Scope, Option<Vec<Document>>), PlannerError> {
    let only = match (&query.filter, &query.documents) {
        (Some(filter), ids) => {
            let documents = collection.matching(filter, ids.as_deref())?;
            if documents.is_empty() {
                let (collection, filter) = (collection.name().clone(), filter.to_string());
                return Err(PlannerError::NothingMatches { collection, filter });
            }
            Some(documents)
        }
        (None, Some(ids)) => {
            let ids: BTreeSet<_> = ids.iter().collect();
            Some(ids.into_iter().map(|id| collection.document(id)).collect::<Result<Vec<_>, _>>()?)
        }
        (None, None) => None,
    };
    let scope = match &only {
        Some(documents) => {
            Scope { documents: documents.len(), tokens: documents.iter().map(|document| document.tokens).sum() }
        }
        None => {
            let stats = collection.stats()?;
            Scope { documents: stats.documents, tokens: stats.tokens }
        }
    };
    if scope.documents == 0 {
        return Err(PlannerError::EmptyScope { collection: collection.name().clone() });
    }
    Ok((scope, only))
}

fn timings(results: &SearchResults, plan_ms: f64) -> Timings {
    Timings {
        embed_ms: results.embed_ms,
        lexical_ms: results.lexical_ms,
        vector_ms: results.vector_ms,
        fuse_ms: results.fuse_ms,
        plan_ms,
        ..Timings::default()
    }
}

pub(crate) fn elapsed_ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
