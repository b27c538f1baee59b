//! From a plan to an answer: generation, citations, judgement, one wider look if it is called for, accounts.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use edgewise_model_api::{
    FinishReason, GenerateRequest, GenerationEvent, GenerationStream, GenerationTimings, MissReason, ModelError,
    NextEvent, Prompt,
};
use edgewise_retrieval::Collection;
use edgewise_types::{DocumentId, Money, Span, Timings, Usage};

use crate::{
    Answer, AnswerEvent, Attempt, Citation, CitationMethod, Escalated, Escalation, Explanation, Judgement,
    PlannerError, Query, Turn, TurnSource,
    cite::{self, Cited},
    compose::{self, Composed},
    draft,
    escalate::{self, First, Spent, Wider},
    extend::Material,
    history,
    planner::{Planned, Planner, elapsed_ms},
};

/// How often a caller is asked whether to go on while nothing comes.
const PATIENCE: Duration = Duration::from_millis(50);

/// Whom to tell of an answer's progress.
type Sink<'s> = dyn FnMut(AnswerEvent) -> ControlFlow<()> + 's;

/// What a generation said.
struct Heard {
    raw: String,
    logprobs: Vec<f32>,
    /// Prompt tokens that were resident.
    cached: usize,
    /// Why not more were.
    miss: Option<MissReason>,
    reason: FinishReason,
    stop: Option<String>,
    usage: Usage,
    timings: GenerationTimings,
    /// When its first token came, since the request began.
    ttft_ms: f64,
}

/// An answer with its citations checked.
struct Settled {
    cited: Cited,
    unanswerable: bool,
    judgement: Judgement,
    probability: f64,
    ms: f64,
    /// The same by the planner's clock.
    clock_ms: f64,
}

/// Everything that stays the same through one request.
struct Request<'a> {
    planner: &'a Planner,
    collection: &'a Collection,
    query: &'a Query,
    material: &'a Material,
    started: Instant,
}

/// Generates the answer to a planned prompt, telling `sink` of it, checks its citations, and widens once if the sources
/// seem not to hold it.
pub(crate) fn carry_out(
    planner: &Planner,
    collection: &Collection,
    query: &Query,
    planned: Planned,
    started: Instant,
    sink: &mut Sink<'_>,
) -> Result<Answer, PlannerError> {
    let Planned { explanation, mut composed, material, mut steps, continues, recap, mut timings, .. } = planned;
    let request = Request { planner, collection, query, material: &material, started };
    // Started before anything is told, so that a refusal of the engine comes as the first thing the caller hears.
    // Leaving this function by `?` drops the stream, which cancels the generation.
    let stream = request.generate(composed.prompt.clone())?;
    tell(sink, AnswerEvent::Plan(Box::new(explanation.clone())))?;
    tell(sink, AnswerEvent::Sources(composed.sources.clone()))?;
    let mut heard = request.listen(stream, sink)?;
    timings.ttft_ms = heard.ttft_ms;
    add_timings(&mut timings, &heard.timings);
    let mut settled = request.settle(&composed, &heard)?;
    timings.cite_ms += settled.ms;

    let mut turn = Turn {
        question: query.question.clone(),
        answer: heard.raw.clone(),
        route: explanation.chosen,
        sources: added(&composed),
        generation: explanation.generation,
        continues,
        recap: recap.is_some(),
        attempt: None,
    };
    let (mut usage, mut cost) = (heard.usage, request.cost(&heard));
    let first_miss = heard.miss;
    let mut escalation = None;
    if settled.probability > planner.options.escalate_above {
        let judging = explanation.pre_route.as_ref().map_or(Money::ZERO, |judged| judged.cost);
        let prompt_tokens = composed.prompt.tokens.len();
        let spent = Spent { cost: cost + judging, ms: elapsed_ms(started), prompt_tokens };
        steps.push(escalate::step_of(query, &composed, recap.as_ref(), &heard.raw));
        let first = First { route: explanation.chosen, continues, steps, recap: recap.as_ref() };
        match request.widen(&first, spent)? {
            Err(why) => settled.judgement.not_escalated = Some(why),
            Ok((wider, stream)) => {
                let why = reason(&settled, planner.options.escalate_above);
                let second = second_explanation(&explanation, &wider, continues);
                tell(
                    sink,
                    AnswerEvent::Escalated(Box::new(Escalated {
                        reason: why.clone(),
                        explanation: second.clone(),
                        usage,
                        cost,
                    })),
                )?;
                tell(sink, AnswerEvent::Sources(wider.composed.sources.clone()))?;
                let first_heard = std::mem::replace(&mut heard, request.listen(stream, sink)?);
                composed = wider.composed;
                add_timings(&mut timings, &heard.timings);
                escalation = Some(Escalation {
                    from: explanation.chosen,
                    to: wider.route,
                    why,
                    probability: settled.probability,
                    first_answer: settled.cited.text,
                    usage,
                    cost,
                    explanation: Box::new(second),
                });
                settled = request.settle(&composed, &heard)?;
                timings.cite_ms += settled.ms;
                usage = usage.plus(&heard.usage);
                cost += request.cost(&heard);
                let attempt = Attempt { answer: first_heard.raw, sources: std::mem::take(&mut turn.sources) };
                turn = Turn {
                    answer: heard.raw.clone(),
                    route: wider.route,
                    sources: added(&composed),
                    continues: if wider.extends { continues } else { 0 },
                    attempt: wider.extends.then_some(attempt),
                    ..turn
                };
            }
        }
    }

    let answered_tokens = heard.usage.output_tokens;
    let Settled { cited, unanswerable, judgement, probability, clock_ms, .. } = settled;
    let Cited { text, sentences, citations } = cited;
    let mut answer = Answer {
        unanswerable,
        unanswerable_probability: probability,
        judgement,
        escalation,
        text,
        sentences,
        citations,
        prompt_map: compose::mark_cached(composed.segments, heard.cached),
        sources: composed.sources,
        finish_reason: heard.reason,
        // A second prompt goes on from the first: what the first did not find is what there was to be missed.
        miss: first_miss.or(heard.miss),
        stop_sequence: heard.stop.clone(),
        model: planner.generator.info().model.clone(),
        cost,
        usage,
        explanation,
        timings,
        turn,
    };
    if let Some(judged) = &answer.explanation.pre_route {
        answer.usage = judged.with(&answer.usage);
        answer.cost += judged.cost;
    }
    let finishing = Instant::now();
    for citation in &mut answer.citations {
        if citation.heading_path.is_empty() {
            fill_heading_path(collection, citation)?;
        }
        let pages = draft::present(collection.document_pages(&citation.document))?;
        citation.pages = pages.and_then(|pages| pages.pages(citation.span));
    }
    answer.timings.cite_ms += elapsed_ms(finishing);
    answer.timings.total_ms = elapsed_ms(started);
    if answer.escalation.is_none() {
        planner.observed.note(answer.explanation.chosen, answered_tokens, clock_ms);
    }
    Ok(answer)
}

impl Request<'_> {
    fn generate(&self, prompt: Prompt) -> Result<GenerationStream, ModelError> {
        self.planner.generator.generate(GenerateRequest {
            prompt,
            sampling: self.query.sampling.clone(),
            max_tokens: self.material.limits.max_output,
            stop: self.query.stop.clone(),
            tenant: self.query.tenant.clone(),
            n: 1,
            constraint: None,
        })
    }

    fn cost(&self, heard: &Heard) -> Money {
        let GenerationTimings { prefill_ms, decode_ms, .. } = heard.timings;
        self.planner.model_prices().cost_of(&heard.usage, prefill_ms + decode_ms)
    }

    /// Passes a generation on to `sink` until it ends.
    fn listen(&self, mut stream: GenerationStream, sink: &mut Sink<'_>) -> Result<Heard, PlannerError> {
        let (mut raw, mut logprobs, mut found, mut ttft_ms) = (String::new(), Vec::new(), (0, None), None);
        let mut phases = edgewise_telemetry::Phases::queued();
        loop {
            match stream.next_within(PATIENCE) {
                NextEvent::Event(GenerationEvent::Started { cached_tokens, miss }) => {
                    phases.started(cached_tokens);
                    found = (cached_tokens, miss);
                }
                NextEvent::Event(GenerationEvent::Token { text, logprob, .. }) => {
                    phases.token();
                    ttft_ms.get_or_insert_with(|| elapsed_ms(self.started));
                    logprobs.push(logprob);
                    raw.push_str(&text);
                    tell(sink, AnswerEvent::Token(text))?;
                }
                NextEvent::Event(GenerationEvent::Finished { reason, stop, text, usage, timings, .. }) => {
                    raw.push_str(&text);
                    if !text.is_empty() {
                        tell(sink, AnswerEvent::Token(text))?;
                    }
                    // An answer without a token: the engine's word that it ends is what came first.
                    let ttft_ms = ttft_ms.unwrap_or_else(|| elapsed_ms(self.started));
                    let (cached, miss) = found;
                    return Ok(Heard { raw, logprobs, cached, miss, reason, stop, usage, timings, ttft_ms });
                }
                NextEvent::Event(GenerationEvent::Failed(error)) => return Err(error.into()),
                NextEvent::NotYet => tell(sink, AnswerEvent::Waiting)?,
                NextEvent::Ended => {
                    let error = "its answer ended without saying why: look for its failure in the log".to_owned();
                    return Err(ModelError::Stopped(error).into());
                }
            }
        }
    }

    /// Checks the citations of what was said, and judges whether the sources hold the answer.
    fn settle(&self, composed: &Composed, heard: &Heard) -> Result<Settled, PlannerError> {
        let (started, begun) = (Instant::now(), self.planner.now());
        let mut verify = |document: &DocumentId, span: Span, quote: &str| {
            // The document may have changed or gone since it was read: then it does not say this any more.
            let text = draft::present(self.collection.document_text(document))?;
            Ok(text.is_some_and(|text| span.slice(&text).is_ok_and(|found| found == quote)))
        };
        let embedder = self.planner.embedder.as_ref();
        let grounds = cite::grounds(self.collection, composed, &heard.raw)?;
        let mut cited = cite::cite(&heard.raw, &grounds, embedder, &mut verify)?;
        let unanswerable = settle_refusal(self.planner, &mut cited);
        let features = &self.material.features;
        let judgement =
            Judgement::of(&self.query.question, &cited.text, unanswerable, &cited.sentences, &heard.logprobs, features);
        let probability = self.planner.judge.probability(&judgement);
        let (ms, clock_ms) = (elapsed_ms(started), self.planner.since_ms(begun));
        Ok(Settled { cited, unanswerable, judgement, probability, ms, clock_ms })
    }

    /// Starts the next wider prompt, or says why none is taken.
    fn widen(
        &self,
        first: &First<'_>,
        spent: Spent,
    ) -> Result<Result<(Wider, GenerationStream), String>, PlannerError> {
        if let Err(why) = escalate::allowed(self.planner, self.query) {
            return Ok(Err(why.to_owned()));
        }
        let wider = escalate::wider(self.planner, self.collection, self.query, self.material, first, spent)?;
        let wider = match wider {
            Ok(wider) => wider,
            Err(why) => return Ok(Err(why)),
        };
        // There is an answer already: an engine that is too busy for a second one takes nothing away from it.
        match self.generate(wider.composed.prompt.clone()) {
            Ok(stream) => Ok(Ok((wider, stream))),
            Err(error) => Ok(Err(format!("the engine refused a second answer: {error}"))),
        }
    }
}

fn tell(sink: &mut Sink<'_>, event: AnswerEvent) -> Result<(), PlannerError> {
    match sink(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(PlannerError::Cancelled),
    }
}

/// Why the sources seem not to hold the answer.
fn reason(settled: &Settled, above: f64) -> String {
    let said = match (settled.unanswerable, settled.judgement.unsupported >= 1.0) {
        (true, _) => "the model found no answer in them",
        (false, true) => "they support nothing it said",
        (false, false) => "the answer and the search look doubtful",
    };
    format!(
        "the sources probably do not hold the answer (probability {:.2}, above {above:.2}): {said}",
        settled.probability
    )
}

fn second_explanation(first: &Explanation, wider: &Wider, continues: usize) -> Explanation {
    let note = match (wider.extends, continues) {
        (false, 1..) => vec!["the earlier turns are not in this prompt: none that continues them fits".to_owned()],
        _ => Vec::new(),
    };
    Explanation {
        chosen: wider.route,
        escalated_from: Some(first.chosen),
        forced: false,
        candidates: wider.candidates.clone(),
        dropped: wider.dropped.clone(),
        notes: note,
        ..first.clone()
    }
}

/// The sources that this question added to its prompt, as its turn keeps them.
fn added(composed: &Composed) -> Vec<TurnSource> {
    let before = composed.sources.len() - composed.source_tokens.len();
    let new = composed.sources.iter().zip(&composed.texts).skip(before);
    new.map(|(source, text)| history::turn_source(source, text, composed.kind)).collect()
}

fn add_timings(timings: &mut Timings, generation: &GenerationTimings) {
    timings.queue_ms += generation.queue_ms;
    timings.prefill_ms += generation.prefill_ms;
    timings.decode_ms += generation.decode_ms;
}

/// Decides whether the answer says that the sources do not hold one. It does if it says so and cites nothing for it:
/// an answer that goes on to give a fact with a valid marker is an answer. A refusal has no citations.
fn settle_refusal(planner: &Planner, cited: &mut Cited) -> bool {
    let templates = planner.prompts.answer();
    let first = cited.sentences.first().and_then(|sentence| sentence.span.slice(&cited.text).ok()).unwrap_or("");
    let marked = cited.citations.iter().any(|citation| citation.method == CitationMethod::Marker);
    let refuses =
        templates.says_unanswerable(first) || cited.citations.is_empty() && templates.says_unanswerable(&cited.text);
    let unanswerable = refuses && !marked;
    if unanswerable {
        cited.citations.clear();
        for sentence in &mut cited.sentences {
            sentence.citations.clear();
            sentence.supported = false;
        }
    }
    unanswerable
}

/// A quote from a whole document stands in the sections of the chunk it begins in.
fn fill_heading_path(collection: &Collection, citation: &mut Citation) -> Result<(), PlannerError> {
    let Some(chunks) = draft::present(collection.chunks_of(&citation.document))? else { return Ok(()) };
    let at = citation.span.start;
    let chunk = chunks.into_iter().find(|chunk| chunk.span.start <= at && at < chunk.span.end);
    citation.heading_path = chunk.map(|chunk| chunk.heading_path).unwrap_or_default();
    Ok(())
}
