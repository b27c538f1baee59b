//! From a plan to an answer: generation, citations, accounts.

use std::{
    ops::ControlFlow,
    time::{Duration, Instant},
};

use edgewise_model_api::{GenerateRequest, GenerationEvent, ModelError, NextEvent};
use edgewise_retrieval::Collection;
use edgewise_types::{DocumentId, Span};

use crate::{
    Answer, AnswerEvent, Citation, CitationMethod, PlannerError, Query,
    cite::{self, Cited},
    compose::{self, Composed},
    draft,
    planner::{Planned, Planner, elapsed_ms},
};

/// How often a caller is asked whether to go on while nothing comes.
const PATIENCE: Duration = Duration::from_millis(50);

/// Generates the answer to a planned prompt, telling `sink` of it, and checks its citations.
pub(crate) fn carry_out(
    planner: &Planner,
    collection: &Collection,
    query: &Query,
    planned: Planned,
    started: Instant,
    sink: &mut dyn FnMut(AnswerEvent) -> ControlFlow<()>,
) -> Result<Answer, PlannerError> {
    let Planned { explanation, composed, limits, mut timings, .. } = planned;
    let Composed { prompt, sources, texts, segments, .. } = composed;
    let mut tell = |event| match sink(event) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(PlannerError::Cancelled),
    };
    // Started before anything is told, so that a refusal of the engine comes as the first thing the caller hears.
    // Leaving this function by `?` drops the stream, which cancels the generation.
    let mut stream = planner.generator.generate(GenerateRequest {
        prompt,
        sampling: query.sampling.clone(),
        max_tokens: limits.max_output,
        stop: query.stop.clone(),
        tenant: query.tenant.clone(),
        n: 1,
        constraint: None,
    })?;
    tell(AnswerEvent::Plan(Box::new(explanation.clone())))?;
    tell(AnswerEvent::Sources(sources.clone()))?;
    let mut raw = String::new();
    let mut cached = 0;
    let (reason, usage, generation) = loop {
        match stream.next_within(PATIENCE) {
            NextEvent::Event(GenerationEvent::Started { cached_tokens, .. }) => cached = cached_tokens,
            NextEvent::Event(GenerationEvent::Token { text, .. }) => {
                if timings.ttft_ms == 0.0 {
                    timings.ttft_ms = elapsed_ms(started);
                }
                raw.push_str(&text);
                tell(AnswerEvent::Token(text))?;
            }
            NextEvent::Event(GenerationEvent::Finished { reason, text, usage, timings, .. }) => {
                raw.push_str(&text);
                if !text.is_empty() {
                    tell(AnswerEvent::Token(text))?;
                }
                break (reason, usage, timings);
            }
            NextEvent::Event(GenerationEvent::Failed(error)) => return Err(error.into()),
            NextEvent::NotYet => tell(AnswerEvent::Waiting)?,
            NextEvent::Ended => {
                let error = "its answer ended without saying why: look for its failure in the log".to_owned();
                return Err(ModelError::Stopped(error).into());
            }
        }
    };
    if timings.ttft_ms == 0.0 {
        // An answer without a token: the engine's word that it ends is what came first.
        timings.ttft_ms = elapsed_ms(started);
    }
    timings.queue_ms = generation.queue_ms;
    timings.prefill_ms = generation.prefill_ms;
    timings.decode_ms = generation.decode_ms;

    let (cite_started, cite_begun) = (Instant::now(), planner.now());
    let mut verify = |document: &DocumentId, span: Span, quote: &str| {
        // The document may have changed or gone since it was read: then it does not say this any more.
        let text = draft::present(collection.document_text(document))?;
        Ok(text.is_some_and(|text| span.slice(&text).is_ok_and(|found| found == quote)))
    };
    let Cited { text, sentences, citations } =
        cite::cite(&raw, &sources, &texts, planner.embedder.as_ref(), &mut verify)?;
    let mut answer = Answer {
        unanswerable: false,
        text,
        sentences,
        citations,
        sources,
        prompt_map: compose::mark_cached(segments, cached),
        finish_reason: reason,
        model: planner.generator.info().model.clone(),
        cost: planner.prices.cost(&planner.generator.info().model, &usage),
        usage,
        explanation,
        timings,
    };
    settle_refusal(planner, &mut answer);
    for citation in &mut answer.citations {
        if citation.heading_path.is_empty() {
            fill_heading_path(collection, citation)?;
        }
        let pages = draft::present(collection.document_pages(&citation.document))?;
        citation.pages = pages.and_then(|pages| pages.pages(citation.span));
    }
    answer.timings.cite_ms = elapsed_ms(cite_started);
    answer.timings.total_ms = elapsed_ms(started);
    planner.observed.note(answer.explanation.chosen, answer.usage.output_tokens, planner.since_ms(cite_begun));
    Ok(answer)
}

/// Decides whether the answer says that the sources do not hold one. It does if it says so and cites nothing for it:
/// an answer that goes on to give a fact with a valid marker is an answer. A refusal has no citations.
fn settle_refusal(planner: &Planner, answer: &mut Answer) {
    let templates = planner.prompts.answer();
    let first = answer.sentences.first().and_then(|sentence| sentence.span.slice(&answer.text).ok()).unwrap_or("");
    let marked = answer.citations.iter().any(|citation| citation.method == CitationMethod::Marker);
    let refuses =
        templates.says_unanswerable(first) || answer.citations.is_empty() && templates.says_unanswerable(&answer.text);
    answer.unanswerable = refuses && !marked;
    if answer.unanswerable {
        answer.citations.clear();
        for sentence in &mut answer.sentences {
            sentence.citations.clear();
            sentence.supported = false;
        }
    }
}

/// A quote from a whole document stands in the sections of the chunk it begins in.
fn fill_heading_path(collection: &Collection, citation: &mut Citation) -> Result<(), PlannerError> {
    let Some(chunks) = draft::present(collection.chunks_of(&citation.document))? else { return Ok(()) };
    let at = citation.span.start;
    let chunk = chunks.into_iter().find(|chunk| chunk.span.start <= at && at < chunk.span.end);
    citation.heading_path = chunk.map(|chunk| chunk.heading_path).unwrap_or_default();
    Ok(())
}
