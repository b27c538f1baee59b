//! The planner: from a question to a chosen, composed prompt, and from there to an answer.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant},
};

use edgewise_ledger::PriceBook;
use edgewise_model_api::{Ahead, CacheState, Embedder, Generator, LatencyCurve};
use edgewise_prompts::Prompts;
use edgewise_retrieval::{Collection, SearchRequest, SearchResults};
use edgewise_types::{CollectionName, Document, Money, Timings, Usage};

use crate::{
    Answer, AnswerEvent, Budget, Candidate, Explanation, Features, PlannerError, PlannerOptions, Query, Route, answer,
    choose::{self, Priced},
    compose::{Composed, Composer, SourceKind},
    cost::{self, Conditions, Forecast},
    draft::{Draft, Drafter},
    features::{self, Scope},
    limits::{Exceeded, Limits, RefusedBy},
    narrow::{self, Excess, Narrowed},
    observed::Observed,
    quality,
    reuse::{Prefix, Reuse},
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
    pub(crate) observed: Observed,
    reuse: Reuse,
    clock: Clock,
}

/// Time since some fixed start.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// A decision with everything needed to carry it out.
pub(crate) struct Planned {
    pub(crate) explanation: Explanation,
    pub(crate) composed: Composed,
    pub(crate) limits: Limits,
    pub(crate) timings: Timings,
    /// Stable prefixes of all candidate prompts.
    prefixes: Vec<Prefix>,
}

/// What all candidates of one question are priced by.
struct Pricing<'a> {
    query: &'a Query,
    features: &'a Features,
    limits: Limits,
    collection: &'a CollectionName,
    curve: LatencyCurve,
    ahead: Ahead,
    before_ms: f64,
    now: Duration,
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
        let start = Instant::now();
        let clock: Clock = Box::new(move || start.elapsed());
        let (observed, reuse) = (Observed::default(), Reuse::default());
        Ok(Self { generator, embedder, prompts, prices, options, observed, reuse, clock })
    }

    /// Takes the time by which it counts how soon prefixes are asked for again, and how long it takes itself, from
    /// `clock`, which gives the time since any fixed start.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// Registry name of the generator.
    pub fn model(&self) -> &str {
        &self.generator.info().model
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
        self.reuse.note(&planned.prefixes, planned.explanation.chosen, self.now());
        answer::carry_out(self, collection, query, planned, started, sink)
    }

    /// The time by its clock.
    pub(crate) fn now(&self) -> Duration {
        (self.clock)()
    }

    /// Milliseconds since `begun` by its clock.
    pub(crate) fn since_ms(&self, begun: Duration) -> f64 {
        self.now().saturating_sub(begun).as_secs_f64() * 1e3
    }

    fn plan(&self, collection: &Collection, query: &Query) -> Result<Planned, PlannerError> {
        let (started, begun) = (Instant::now(), self.now());
        let top_k = self.check(query)?;
        let max_output = query.max_output_tokens.unwrap_or(self.options.default_max_output_tokens);
        let expected_output = self.observed.output_tokens(self.options.expected_output_tokens, max_output);
        let (window, ceiling) = (self.generator.info().context_window, collection_ceiling(collection)?);
        let limits = Limits::new(window, &self.options, query, ceiling, expected_output)?;
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

        let features = features::measure(&results.hits, scope, self.generator.queue());
        let drafter = Drafter { collection, composer, options: &self.options, limits, base_tokens };
        let pricing = Pricing {
            query,
            features: &features,
            limits,
            collection: collection.name(),
            curve: self.generator.latency(),
            ahead: self.generator.ahead(),
            before_ms: self.observed.planning_ms().unwrap_or_else(|| self.since_ms(begun)),
            now: begun,
        };
        let excess = |draft: &Draft| self.excess(draft, &pricing);
        let passages = |limits| Drafter { limits, ..drafter }.passages(&results.hits, &features, top_k);
        let documents = |limits| Drafter { limits, ..drafter }.documents(&results.hits);
        let full = |limits| Drafter { limits, ..drafter }.full(scope, only.as_deref());
        let narrowed = [
            narrow::narrowed(limits, "passages", passages, excess)?,
            narrow::narrowed(limits, "documents", documents, excess)?,
            // All or nothing.
            Narrowed { draft: full(limits)?, note: None },
        ];
        let (mut priced, mut prefixes, mut notes) = (Vec::new(), Vec::new(), Vec::new());
        for Narrowed { draft, note } in &narrowed {
            let (candidate, prefix) = self.price(draft, &pricing);
            notes.extend(note.as_ref().map(|note| (draft.route, note.clone())));
            prefixes.extend(prefix);
            priced.push(candidate);
        }
        self.observed.note_planning(self.since_ms(begun));
        let drafts = narrowed.into_iter().map(|narrowed| narrowed.draft);
        let mut candidates = choose::choose(priced, query.route, query.objective)?;
        for candidate in candidates.iter_mut().filter(|candidate| candidate.feasible) {
            let note = notes.iter().find(|(route, _)| *route == candidate.route);
            candidate.reason.extend(note.map(|(_, note)| format!("; {note}")));
        }
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
            candidates,
            dropped,
            notes: results.notes.clone(),
        };
        let timings = timings(&results, elapsed_ms(started) - search_ms);
        Ok(Planned { explanation, composed, limits, timings, prefixes })
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

    /// How the tokens of a draft are going to be counted.
    fn usage(&self, draft: &Draft, pricing: &Pricing<'_>) -> (Usage, Option<Prefix>) {
        let output = pricing.limits.expected_output;
        let (prompt, needed) = match &draft.composed {
            Ok(composed) => (Some(&composed.prompt), 0),
            Err(refusal) => (refusal.prompt.as_ref(), refusal.needed_tokens),
        };
        let Some(prompt) = prompt else {
            return (Usage { input_tokens: needed, output_tokens: output, ..Usage::default() }, None);
        };
        let resident = self.generator.prefix_state(&pricing.query.tenant, prompt).resident_tokens;
        let min_prefix = self.generator.min_prefix_tokens();
        let tenant = &pricing.query.tenant;
        let prefix = Prefix::of(draft.route, tenant, pricing.collection, prompt, min_prefix, resident);
        (cost::expected_usage(prompt, resident, min_prefix, output), prefix)
    }

    fn forecast(&self, route: Route, usage: &Usage, pricing: &Pricing<'_>) -> (Forecast, Money) {
        let prices = self.prices.of(&self.generator.info().model);
        let Pricing { curve, ahead, before_ms, .. } = *pricing;
        let conditions = Conditions { curve, ahead, before_ms, after_ms: self.observed.after_ms(route) };
        let worst = prices.cost(&Usage { output_tokens: pricing.limits.max_output, ..*usage });
        (cost::forecast(usage, prices, &conditions), worst)
    }

    /// How far a draft is over a limit of money or time.
    fn excess(&self, draft: &Draft, pricing: &Pricing<'_>) -> Option<Excess> {
        let (usage, _) = self.usage(draft, pricing);
        let (forecast, worst) = self.forecast(draft.route, &usage, pricing);
        let limit = pricing.limits.exceeded(worst, forecast.latency_ms)?;
        let prices = self.prices.of(&self.generator.info().model);
        let tokens = match limit {
            Exceeded::Cost(most, _) => {
                let each = [prices.input, prices.cache_write_5m, prices.cache_write_1h];
                let each = each.iter().map(|price| price.cost(1)).max().unwrap_or(Money::ZERO);
                (worst - most).nanos() as f64 / (each.nanos() as f64).max(1.0)
            }
            Exceeded::Latency(most, _) => {
                let each = pricing.curve.b + 2.0 * pricing.curve.c * usage.prompt_tokens() as f64;
                (forecast.latency_ms - most as f64) / each.max(1e-9)
            }
        };
        Some(Excess { limit, tokens })
    }

    /// Predicts cost, time and quality of a draft, and checks them against the budget. Also gives its stable prefix.
    fn price(&self, draft: &Draft, pricing: &Pricing<'_>) -> (Priced, Option<Prefix>) {
        let Pricing { features, limits, now, .. } = pricing;
        let (usage, prefix) = self.usage(draft, pricing);
        let (forecast, worst_cost) = self.forecast(draft.route, &usage, pricing);
        let (prompt, sources, refusal) = match &draft.composed {
            Ok(composed) => (Some(&composed.prompt), composed.sources.len(), None),
            Err(refusal) => (refusal.prompt.as_ref(), 0, Some(refusal)),
        };
        let refused = match refusal {
            Some(refusal) => Some((refusal.by, refusal.reason.clone())),
            None => limits.over_budget(worst_cost, forecast.latency_ms).map(|reason| (RefusedBy::Budget, reason)),
        };
        let expected = prefix.as_ref().filter(|_| self.options.amortise);
        let expected_follow_ups = expected.map_or(0.0, |prefix| self.reuse.follow_ups(prefix, *now));
        let (min_prefix, output) = (self.generator.min_prefix_tokens(), limits.expected_output);
        let prices = self.prices.of(&self.generator.info().model);
        let amortised_cost = match prompt {
            Some(prompt) if expected_follow_ups > 0.0 => {
                cost::amortised(prompt, forecast.cost, min_prefix, output, prices, expected_follow_ups)
            }
            _ => forecast.cost,
        };
        let prompt_tokens = usage.prompt_tokens();
        let priced = Priced {
            refused: refused.as_ref().map(|(by, _)| *by),
            worst_cost,
            candidate: Candidate {
                route: draft.route,
                feasible: refused.is_none(),
                prompt_tokens,
                resident_tokens: usage.cache_read_tokens,
                output_tokens: output,
                usage,
                cost: forecast.cost,
                expected_follow_ups,
                amortised_cost,
                ttft_ms: forecast.ttft_ms,
                latency_ms: forecast.latency_ms,
                quality: quality::expected(draft.route, features, prompt_tokens + output, limits.window),
                score: 0.0,
                sources,
                reason: refused.map(|(_, reason)| reason).unwrap_or_default(),
            },
        };
        (priced, prefix)
    }
}

/// The ceiling that is stored with a collection.
fn collection_ceiling(collection: &Collection) -> Result<Budget, PlannerError> {
    let edgewise_retrieval::Ceiling { max_cost, max_input_tokens, max_latency_ms } = collection.ceiling()?;
    Ok(Budget { max_cost, max_input_tokens, max_latency_ms })
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
