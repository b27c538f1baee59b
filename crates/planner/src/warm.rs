//! Warming: computing a collection's stable prefix before anybody asks.
//!
//! The prompt is that of a question, so that its beginning is the one every question has; only the end of the beginning is
//! marked to be kept. One token is generated, which nobody sees: an engine computes a prompt only to answer it.
//!
//! Deliberately not here: which collections are worth it.

use edgewise_model_api::{
    Boundary, GenerateRequest, GenerationEvent, GenerationTimings, ModelError, NextEvent, Prompt, Retention, Sampling,
};
use edgewise_retrieval::Collection;
use edgewise_types::{TenantId, Usage};

use std::time::Duration;

use crate::{
    Ceiling, Origin, Planner, PlannerError, PromptAnswers, Query, Route, SegmentKind,
    limits::Limits,
    planner::{collection_ceiling, scope},
};

/// How long to wait for an event before looking whether to go on.
const PATIENCE: Duration = Duration::from_millis(100);

/// What stands where a question will stand.
const QUESTION: &str = "What is this about?";

/// A prefix that was computed, or was there already.
#[derive(Debug, Clone, PartialEq)]
pub struct Warmed {
    /// Its length in tokens.
    pub tokens: usize,
    /// Tokens used: those read were there already.
    pub usage: Usage,
    /// Where the time went.
    pub timings: GenerationTimings,
}

impl Planner {
    /// Computes what all questions to `collection` on `route` begin with, and asks the engine to keep it: all documents for
    /// [`Route::Full`], the instructions and the collection's name for [`Route::Passages`]. Blocks; `go_on` is asked several
    /// times a second, and false cancels.
    ///
    /// # Errors
    /// [`PlannerError::InvalidQuery`] for the other routes, whose prompts depend on the question;
    /// [`PlannerError::DoesNotFit`] when a question would fail so; [`PlannerError::PromptOverBudget`] when it is over one of
    /// `ceilings`, the collection's or the server's;
    /// [`PlannerError::EmptyScope`]; [`PlannerError::Cancelled`]; what the engine fails with.
    pub fn warm(
        &self,
        collection: &Collection,
        route: Route,
        retention: Retention,
        tenant: &TenantId,
        ceilings: &[Ceiling],
        go_on: &dyn Fn() -> bool,
    ) -> Result<Warmed, PlannerError> {
        let (prompt, tokens) = self.beginning(collection, route, retention, tenant)?;
        let mut ceilings = ceilings.to_vec();
        ceilings.push(Ceiling { origin: Origin::Collection, budget: collection_ceiling(collection)? });
        self.admit_prompt(&prompt, PromptAnswers { max_tokens: 1, answers: 1 }, tenant, &ceilings)?;
        let mut stream = self.generator().generate(GenerateRequest {
            prompt,
            sampling: Sampling::default(),
            max_tokens: 1,
            stop: Vec::new(),
            tenant: tenant.clone(),
            n: 1,
            constraint: None,
        })?;
        loop {
            match stream.next_within(PATIENCE) {
                NextEvent::Event(GenerationEvent::Finished { usage, timings, .. }) => {
                    return Ok(Warmed { tokens, usage, timings });
                }
                NextEvent::Event(GenerationEvent::Failed(error)) => return Err(error.into()),
                NextEvent::Event(_) => {}
                NextEvent::NotYet if go_on() => {}
                NextEvent::NotYet => return Err(PlannerError::Cancelled),
                NextEvent::Ended => {
                    let error = "it ended without saying why: look for its failure in the log".to_owned();
                    return Err(ModelError::Stopped(error).into());
                }
            }
        }
    }

    /// The prompt of a question, and the length of the part of it that is to be kept.
    fn beginning(
        &self,
        collection: &Collection,
        route: Route,
        retention: Retention,
        tenant: &TenantId,
    ) -> Result<(Prompt, usize), PlannerError> {
        let last = match route {
            Route::Full => SegmentKind::Document,
            Route::Passages => SegmentKind::Preamble,
            Route::Tree | Route::Documents => {
                return Err(PlannerError::InvalidQuery(format!(
                    "the prompts of route `{route}` depend on the question and can't be computed beforehand: warm `full` or `passages`"
                )));
            }
        };
        let query = Query { max_output_tokens: Some(1), tenant: tenant.clone(), ..Query::new(QUESTION) };
        let window = self.generator().info().context_window;
        let limits = Limits::new(window, &self.options, &query, collection_ceiling(collection)?, 1)?;
        let drafter = self.drafter(collection, &query, limits, &[], None)?;
        let composed = match route {
            Route::Full => {
                let (scope, only) = scope(collection, &query)?;
                drafter.full(scope, only.as_deref(), &[])?.composed.map_err(|refusal| PlannerError::DoesNotFit {
                    route: Some(route),
                    reasons: vec![(route, refusal.reason)],
                })?
            }
            _ => drafter.composer.compose(crate::compose::SourceKind::Passages, &[])?,
        };
        let end = composed.segments.iter().rev().find(|segment| segment.kind == last).map_or(0, |segment| segment.end);
        let mut prompt = composed.prompt;
        prompt.boundaries.retain(|boundary| boundary.at < end);
        prompt.boundaries.push(Boundary { at: end, retention });
        Ok((prompt, end))
    }
}
