//! The planner: from a question to a chosen, composed prompt, and from there to an answer.

use std::{
    collections::BTreeSet,
    ops::ControlFlow,
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use edgewise_ledger::{ModelPrices, PriceBook};
use edgewise_model_api::{CacheState, Embedder, Generator};
use edgewise_prompts::Prompts;
use edgewise_retrieval::{Collection, SearchRequest, SearchResults};
use edgewise_types::{Document, Timings};

use crate::{
    Answer, AnswerEvent, Budget, Candidate, Drop, Explanation, JudgeCoefficients, JudgeFile, PlannerError,
    PlannerOptions, Query, ReadingProfile, Route, answer, choose,
    compose::{self, Composed, Composer, Recap, SourceKind, Step},
    draft::{Draft, Drafter},
    escalate::{self, Spent},
    extend::{self, Material, Placed},
    features::{self, Scope},
    history,
    learned::Learned,
    limits::Limits,
    narrow::{self, Narrowed},
    observed::Observed,
    prepared::{Prepared, Variant},
    pricing::Pricing,
    reuse::{Prefix, Reuse},
    tree::{self, Offer},
};

/// Fewest hits to search for: enough to see the shape of a result, whatever number of passages is placed.
const MIN_HITS: usize = 16;

/// Most passages a query may ask for.
const MAX_TOP_K: usize = 200;

/// Longest instructions of a question, in bytes.
const MAX_INSTRUCTIONS: usize = 16 << 10;

/// Every route, narrowest first.
pub(crate) const ROUTES: [Route; 4] = [Route::Passages, Route::Tree, Route::Documents, Route::Full];

/// What a follow-up that leans on the conversation is expected to lose when its prompt holds only a recap of it. A prior,
/// about the difference between adjacent routes; not a measurement.
const CONTEXT_LOST: f64 = 0.05;

/// Chooses a route for a question and answers it. Share it in an `Arc`: every method takes `&self`.
pub struct Planner {
    pub(crate) generator: Arc<dyn Generator>,
    pub(crate) embedder: Arc<dyn Embedder>,
    pub(crate) prompts: Prompts,
    pub(crate) prices: PriceBook,
    pub(crate) options: PlannerOptions,
    pub(crate) judge: JudgeCoefficients,
    pub(crate) observed: Observed,
    pub(crate) reuse: Reuse,
    clock: Clock,
    /// How the generator reads, if it was measured.
    reading: RwLock<Option<Arc<ReadingProfile>>>,
    pub(crate) learned: Learned,
}

/// Time since some fixed start.
type Clock = Box<dyn Fn() -> Duration + Send + Sync>;

/// A decision with everything needed to carry it out.
pub(crate) struct Planned {
    pub(crate) explanation: Explanation,
    pub(crate) composed: Composed,
    pub(crate) material: Arc<Material>,
    /// The exchanges that the prompt continues.
    pub(crate) steps: Vec<Step>,
    /// The turns they are of.
    pub(crate) continues: usize,
    /// What a fresh prompt repeats of the turn before.
    pub(crate) recap: Option<Recap>,
    pub(crate) timings: Timings,
    /// Stable prefixes of the candidate prompts that continue as many turns.
    prefixes: Vec<Prefix>,
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
        let judge = JudgeFile::embedded()?.of(&generator.info().digest).clone();
        let start = Instant::now();
        let clock: Clock = Box::new(move || start.elapsed());
        let (observed, reuse, reading) = (Observed::default(), Reuse::default(), RwLock::default());
        let learned = Learned::embedded()?;
        Ok(Self { generator, embedder, prompts, prices, options, judge, observed, reuse, clock, reading, learned })
    }

    /// What its work costs now.
    pub(crate) fn model_prices(&self) -> ModelPrices {
        self.prices.of(&self.generator.info().model, jiff::Timestamp::now())
    }

    /// The model that answers.
    pub fn generator(&self) -> &Arc<dyn Generator> {
        &self.generator
    }

    /// The model that embeds.
    pub fn embedder(&self) -> &Arc<dyn Embedder> {
        &self.embedder
    }

    /// Takes the time by which it counts how soon prefixes are asked for again, and how long it takes itself, from
    /// `clock`, which gives the time since any fixed start.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { clock: Box::new(clock), ..self }
    }

    /// The time by its clock.
    pub(crate) fn now(&self) -> Duration {
        (self.clock)()
    }

    /// Milliseconds since `begun` by its clock.
    pub(crate) fn since_ms(&self, begun: Duration) -> f64 {
        self.now().saturating_sub(begun).as_secs_f64() * 1e3
    }

    /// Places and judges prompts by `profile` from now on, questions being planned excepted. A profile of another model is
    /// not used; whether it was taken.
    pub fn set_reading_profile(&self, profile: Arc<ReadingProfile>) -> bool {
        let ours = profile.is_of(self.generator.info());
        if ours {
            *self.reading.write().unwrap_or_else(PoisonError::into_inner) = Some(profile);
        }
        ours
    }

    /// How the generator reads, if it was measured.
    pub fn reading_profile(&self) -> Option<Arc<ReadingProfile>> {
        self.reading.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Registry name of the model that answers.
    pub fn model(&self) -> &str {
        &self.generator.info().model
    }

    /// Digest of the model that answers.
    pub fn model_digest(&self) -> &str {
        &self.generator.info().digest
    }

    /// The state of the generator's prefix cache.
    pub fn cache(&self) -> CacheState {
        self.generator.cache()
    }

    /// Ends the retention of a prefix of [`Self::cache`]; whether there was one of this id.
    pub fn release_prefix(&self, id: u64) -> bool {
        self.generator.release_prefix(id)
    }

    /// The route that would be taken now, and why; its prompt, part by part; and what would follow an answer that seems
    /// not to be in the sources. Searches and composes, but generates nothing.
    pub fn explain(&self, collection: &Collection, query: &Query) -> Result<Explanation, PlannerError> {
        self.explained(collection, query, self.plan(collection, query)?)
    }

    /// The same of a question that was prepared before, with the route and objective of `query`.
    pub fn explain_prepared(
        &self,
        collection: &Collection,
        query: &Query,
        prepared: &Prepared,
    ) -> Result<Explanation, PlannerError> {
        prepared.check(query)?;
        self.explained(collection, query, self.decide(collection, query, prepared)?)
    }

    fn explained(
        &self,
        collection: &Collection,
        query: &Query,
        mut planned: Planned,
    ) -> Result<Explanation, PlannerError> {
        let resident = self.generator.prefix_state(&query.tenant, &planned.composed.prompt).resident_tokens;
        planned.explanation.prompt_map = compose::mark_cached(planned.composed.segments.clone(), resident);
        planned.explanation.escalation = Some(escalate::preview(self, collection, query, &planned)?);
        Ok(planned.explanation)
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
        self.answered(collection, query, self.plan(collection, query)?, started, sink)
    }

    /// The same of a question that was prepared before, perhaps by another planner with the same prompts and tokenizer,
    /// with the route and objective of `query`. The answer's time of planning includes that of the preparation.
    pub fn answer_prepared(
        &self,
        collection: &Collection,
        query: &Query,
        prepared: &Prepared,
        sink: &mut dyn FnMut(AnswerEvent) -> ControlFlow<()>,
    ) -> Result<Answer, PlannerError> {
        let started = Instant::now();
        prepared.check(query)?;
        self.answered(collection, query, self.decide(collection, query, prepared)?, started, sink)
    }

    fn answered(
        &self,
        collection: &Collection,
        query: &Query,
        planned: Planned,
        started: Instant,
        sink: &mut dyn FnMut(AnswerEvent) -> ControlFlow<()>,
    ) -> Result<Answer, PlannerError> {
        let kept = planned.explanation.candidates.first().filter(|candidate| candidate.kept);
        self.reuse.note(&planned.prefixes, kept.map(|candidate| candidate.route), self.now());
        answer::carry_out(self, collection, query, planned, started, sink)
    }

    fn plan(&self, collection: &Collection, query: &Query) -> Result<Planned, PlannerError> {
        let _span = tracing::info_span!("plan").entered();
        self.decide(collection, query, &self.prepare(collection, query)?)
    }

    /// Prices what was prepared by the engine as it is now, and chooses.
    fn decide(&self, collection: &Collection, query: &Query, prepared: &Prepared) -> Result<Planned, PlannerError> {
        let (started, begun) = (Instant::now(), self.now());
        let Prepared { material, variants, steps, leans, recap, search_notes, .. } = prepared;
        let (limits, leans) = (material.limits, *leans);
        let mut notes = prepared.notes.clone();
        let planning_ms = self.observed.planning_ms().unwrap_or_else(|| prepared.ms + self.since_ms(begun));
        let pricing = self.pricing(collection, query, material, planning_ms, Spent::default());
        let (mut priced, mut prefixes) = (Vec::new(), Vec::new());
        for variant in variants {
            let (mut candidate, prefix) = self.price(&variant.draft, variant.turns, &pricing);
            if leans && !steps.is_empty() && variant.turns == 0 {
                candidate.candidate.quality = (candidate.candidate.quality - CONTEXT_LOST).max(0.0);
            }
            prefixes.extend(prefix.map(|prefix| (variant.turns, prefix)));
            priced.push(candidate);
        }
        self.observed.note_planning(prepared.ms + self.since_ms(begun));
        let mut candidates = choose::choose(priced, query.route, query.objective)?;
        let (chosen, turns) =
            candidates.first().map_or((Route::Passages, 0), |candidate| (candidate.route, candidate.turns));
        if query.route.is_some() {
            let taken = if turns > 0 { "continuing the conversation" } else { "a fresh prompt" };
            for other in candidates.iter_mut().skip(1).filter(|other| other.route == chosen && other.feasible) {
                other.reason = format!("the same route, but {taken} scores better");
            }
        }
        for candidate in candidates.iter_mut().filter(|candidate| candidate.feasible) {
            let same = |variant: &&Variant| variant.draft.route == candidate.route && variant.turns == candidate.turns;
            let note = variants.iter().find(same).and_then(|variant| variant.note.as_ref());
            candidate.reason.extend(note.map(|note| format!("; {note}")));
        }
        let (composed, mut dropped, without) = variants
            .iter()
            .find(|variant| variant.draft.route == chosen && variant.turns == turns)
            .and_then(|Variant { draft, without, .. }| {
                Some((draft.composed.as_ref().ok()?.clone(), draft.dropped.clone(), *without))
            })
            .ok_or_else(|| PlannerError::DoesNotFit { route: Some(chosen), reasons: Vec::new() })?;
        let composed = match candidates.first() {
            Some(candidate) if !candidate.kept => composed.without_last_prefix(),
            _ => composed,
        };
        let left_out = steps.get(..without).unwrap_or_default();
        if let Some(note) = left_out_note(left_out, turns, recap.is_some(), &candidates) {
            notes.push(note);
        }
        if turns > 0 {
            dropped.extend(left_out.iter().flat_map(dropped_step));
        }
        notes.extend(search_notes.iter().cloned());

        tracing::debug!(collection = %collection.name(), %chosen, turns, prompt_tokens = composed.prompt.tokens.len(), "route chosen");
        let explanation = Explanation {
            collection: collection.name().clone(),
            generation: prepared.generation,
            chosen,
            escalated_from: None,
            forced: query.route.is_some(),
            objective: query.objective,
            budget: query.budget,
            limits: limits.in_force(),
            searched: prepared.searched.clone(),
            features: material.features.clone(),
            pre_route: prepared.pre_route.clone(),
            candidates,
            dropped,
            notes,
            prompt_map: Vec::new(),
            escalation: None,
        };
        let steps = steps.get(without..).unwrap_or_default().to_vec();
        let recap = recap.clone().filter(|_| turns == 0);
        let timings = Timings { plan_ms: prepared.timings.plan_ms + elapsed_ms(started), ..prepared.timings };
        let prefixes = prefixes.into_iter().filter(|(of, _)| *of == turns).map(|(_, prefix)| prefix).collect();
        let material = Arc::clone(material);
        Ok(Planned { explanation, composed, material, steps, continues: turns, recap, timings, prefixes })
    }

    /// Searches, and composes the prompt of every route: everything of a plan that the state of the engine, the objective
    /// and the route asked for do not change, apart from what is narrowed to stay under a limit of money or time.
    ///
    /// # Errors
    /// Those of [`Self::explain`] that do not depend on these.
    pub fn prepare(&self, collection: &Collection, query: &Query) -> Result<Prepared, PlannerError> {
        let (started, begun) = (Instant::now(), self.now());
        let top_k = self.check(query)?;
        let max_output = query.max_output_tokens.unwrap_or(self.options.default_max_output_tokens);
        let expected_output = self.observed.output_tokens(self.options.expected_output_tokens, max_output);
        let (window, ceiling) = (self.generator.info().context_window, collection_ceiling(collection)?);
        let profile = self.reading_profile();
        let effective = profile.as_ref().and_then(|profile| profile.effective_window);
        let limits = Limits::new(window, &self.options, query, ceiling, expected_output)?
            .reading_to(effective, self.options.respect_effective_window);
        let (scope, only) = scope(collection, query)?;
        let conversation = history::rebuild(collection, &query.history, only.as_deref())?;
        let (steps, mut notes) = (conversation.steps, conversation.notes);

        let bare = self.drafter(collection, query, limits, &[], None)?;
        if bare.base_tokens > limits.input() {
            return Err(PlannerError::QuestionTooLong {
                prompt_tokens: bare.base_tokens,
                limit: limits.input(),
                why: limits.input_origin(),
            });
        }
        let leans = history::leans_on_history(&query.question);
        let recap = query.history.last().filter(|_| leans).map(history::recap_of);
        let with_recap = self.drafter(collection, query, limits, &[], recap.as_ref())?;
        // Half of the room is for sources.
        let (fresh, recap_fits) = match with_recap.base_tokens <= limits.input() / 2 {
            true => (with_recap, true),
            false => (bare, recap.is_none()),
        };

        let search_started = Instant::now();
        let searched = history::search_text(query);
        let results = search(collection, query, &searched, top_k)?;
        let search_ms = elapsed_ms(search_started);

        let mut features = features::measure(&results.hits, scope, self.generator.queue());
        features.effective_window = effective;
        let (pre_route, search_notes) = self.learn_features(&mut features, query, &results)?;
        let timings = timings(&results, 0.0);
        let SearchResults { hits, generation, .. } = results;
        let room = limits.input().saturating_sub(fresh.base_tokens).min(self.options.passages_budget_tokens);
        let (tree, tree_notes) = tree::offer(collection, query, &searched, &features.kind, room)?;
        notes.extend(tree_notes);
        let material = Material { limits, scope, only, hits, features, top_k, tree, profile };
        let planning_ms = self.observed.planning_ms().unwrap_or_else(|| self.since_ms(begun));
        let pricing = self.pricing(collection, query, &material, planning_ms, Spent::default());
        let composing = tracing::info_span!("compose").entered();
        let mut variants = Vec::new();
        for route in ROUTES {
            let draft = |limits| {
                extend::fresh(&Drafter { limits, profile: material.profile.as_deref(), ..fresh }, route, &material)
            };
            let Narrowed { draft, note } = self.narrowed(route, &pricing, limits, draft)?;
            variants.push(Variant { draft, note, without: steps.len(), turns: 0 });
        }
        variants.extend(self.continued(collection, query, &material, &steps, &pricing)?);
        drop(composing);

        let searched = (searched != query.question).then(|| searched.into_owned());
        Ok(Prepared {
            question: query.question.clone(),
            variants,
            steps,
            leans,
            recap: recap.filter(|_| recap_fits),
            notes,
            search_notes,
            pre_route,
            searched,
            generation,
            timings: Timings { plan_ms: elapsed_ms(started) - search_ms, ..timings },
            ms: self.since_ms(begun),
            material: Arc::new(material),
        })
    }

    /// The draft of `route` with as many sources as the limits of money and time allow. The whole scope is all or nothing.
    fn narrowed(
        &self,
        route: Route,
        pricing: &Pricing<'_>,
        limits: Limits,
        mut draft: impl FnMut(Limits) -> Result<Draft, PlannerError>,
    ) -> Result<Narrowed, PlannerError> {
        match route {
            Route::Passages | Route::Tree | Route::Documents => {
                narrow::narrowed(limits, route.as_str(), draft, |draft| self.excess(draft, pricing))
            }
            Route::Full => Ok(Narrowed { draft: draft(limits)?, note: None }),
        }
    }

    /// Drafts that continue the conversation of `steps`, with as many of its turns as fit.
    fn continued(
        &self,
        collection: &Collection,
        query: &Query,
        material: &Material,
        steps: &[Step],
        pricing: &Pricing<'_>,
    ) -> Result<Vec<Variant>, PlannerError> {
        let mut without = 0;
        while let Some(oldest) = steps.get(without) {
            let kept = steps.get(without..).unwrap_or_default();
            let turns = kept.iter().map(|step| step.turn).collect::<BTreeSet<_>>().len();
            let profile = material.profile.as_deref();
            let drafter = Drafter { profile, ..self.drafter(collection, query, material.limits, kept, None)? };
            let placed = Placed::of(kept);
            let narrowed = ROUTES
                .into_iter()
                // That there is no tree is said once.
                .filter(|route| *route != Route::Tree || matches!(material.tree, Offer::Picks { .. }))
                .map(|route| {
                    let draft = |limits| extend::draft(&Drafter { limits, ..drafter }, route, material, &placed);
                    self.narrowed(route, pricing, material.limits, draft)
                })
                .collect::<Result<Vec<_>, _>>()?;
            // Turns are dropped whole, oldest first, while that helps.
            if turns == 1 || narrowed.iter().any(|narrowed| narrowed.draft.composed.is_ok()) {
                let variant = |Narrowed { draft, note }| Variant { draft, note, without, turns };
                return Ok(narrowed.into_iter().map(variant).collect());
            }
            without += kept.iter().take_while(|step| step.turn == oldest.turn).count();
        }
        Ok(Vec::new())
    }

    /// Makes drafts that continue `steps`, as yet without regard to how the model reads.
    pub(crate) fn drafter<'a>(
        &'a self,
        collection: &'a Collection,
        query: &'a Query,
        limits: Limits,
        steps: &'a [Step],
        recap: Option<&'a Recap>,
    ) -> Result<Drafter<'a>, PlannerError> {
        let composer = Composer {
            generator: self.generator.as_ref(),
            prompts: &self.prompts,
            collection: collection.name().as_str(),
            question: &query.question,
            turn: query.history.len() + 1,
            steps,
            recap,
            instruction: query.instructions.as_deref(),
        };
        let base_tokens = composer.compose(SourceKind::Passages, &[])?.prompt.tokens.len();
        Ok(Drafter { collection, composer, options: &self.options, limits, profile: None, base_tokens })
    }

    /// Checks what can be checked of a query alone, and gives the number of passages to place at most.
    pub(crate) fn check(&self, query: &Query) -> Result<usize, PlannerError> {
        if query.question.trim().is_empty() {
            return Err(PlannerError::EmptyQuestion);
        }
        query.sampling.validate()?;
        history::check(&query.history)?;
        let invalid = |message: &str| Err(PlannerError::InvalidQuery(message.to_owned()));
        if query.stop.iter().any(String::is_empty) {
            return invalid("a stop string is empty and would end every answer at once: remove it");
        }
        if query.instructions.as_ref().is_some_and(|text| text.len() > MAX_INSTRUCTIONS) {
            return Err(PlannerError::InvalidQuery(format!(
                "the instructions are longer than {MAX_INSTRUCTIONS} bytes: shorten them"
            )));
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
}

/// The ceiling that is stored with a collection.
pub(crate) fn collection_ceiling(collection: &Collection) -> Result<Budget, PlannerError> {
    let edgewise_retrieval::Ceiling { max_cost, max_input_tokens, max_latency_ms } = collection.ceiling()?;
    Ok(Budget { max_cost, max_input_tokens, max_latency_ms })
}

/// The best passages for `text` in the scope of `query`.
pub(crate) fn search(
    collection: &Collection,
    query: &Query,
    text: &str,
    top_k: usize,
) -> Result<SearchResults, PlannerError> {
    let request = SearchRequest {
        documents: query.documents.clone(),
        filter: query.filter.clone(),
        ..SearchRequest::new(text, (2 * top_k).max(MIN_HITS))
    };
    Ok(tracing::info_span!("retrieve").in_scope(|| collection.search(&request))?)
}

/// The documents a query may draw on: how many, how long, and which, if it names them.
pub(crate) fn scope(collection: &Collection, query: &Query) -> Result<(Scope, Option<Vec<Document>>), PlannerError> {
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

/// What to say of the turns that the prompt leaves out.
fn left_out_note(left_out: &[Step], turns: usize, recap: bool, candidates: &[Candidate]) -> Option<String> {
    let (first, last) = (left_out.first()?.turn, left_out.last()?.turn);
    let which = if first == last { format!("turn {first} is") } else { format!("turns {first} to {last} are") };
    if turns > 0 {
        return Some(format!("{which} left out of the prompt, which would be too long with all of the conversation"));
    }
    let better = candidates.iter().any(|candidate| candidate.turns > 0 && candidate.feasible);
    let why = if better { "a fresh prompt scored better" } else { "no prompt that continues the conversation fits" };
    let instead = if recap { "; the last question and answer are repeated in short" } else { "" };
    Some(format!("{which} not in the prompt: {why}{instead}"))
}

fn dropped_step(step: &Step) -> Vec<Drop> {
    let reason = format!("with turn {} of the conversation, which no longer fits the prompt", step.turn);
    let dropped = |(_, source): &(SourceKind, compose::SourceText)| Drop {
        document: source.document.clone(),
        uri: source.uri.clone(),
        span: Some(source.span),
        reason: reason.clone(),
    };
    step.sources.iter().map(dropped).collect()
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
