//! One wider look, when the sources seem not to hold the answer.
//!
//! After an answer, the planner's judge says how likely it is that the sources do not hold what was asked. Above a
//! threshold, the next wider route that adds something and fits is taken: `documents` after `passages` or `tree`, then `full`. Its
//! prompt goes on from the first one, with the first answer as the assistant's turn, so that all of the first prompt is
//! in the cache; where that does not fit, a fresh one is made. Once only: what the second answer says stands.
//!
//! The budget is that of the request: money and time of both answers together are held against it, and the prompt's
//! length, in which a continued first prompt is counted once and a separate one is added.
//!
//! A route that the caller forced is left only if the caller asks for that too.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_model_api::Prompt;
use edgewise_retrieval::Collection;
use edgewise_types::{Money, Usage};

use crate::{
    Candidate, Drop, Explanation, PlannerError, Query, Route,
    compose::{Composed, Recap, SourceText, Step},
    draft::{Draft, Drafter},
    extend::{self, Material, Placed},
    planner::{Planned, Planner},
    pricing::Pricing,
};

/// Routes that may follow, narrowest first. Not `tree`: what passages lack is a detail as a rule, and summaries leave out
/// just those.
const WIDER: [Route; 2] = [Route::Documents, Route::Full];

/// A wider route that was taken after a first answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Escalation {
    /// The first route.
    pub from: Route,
    /// The second.
    pub to: Route,
    /// Why, in one sentence.
    pub why: String,
    /// How likely it was that the first sources did not hold the answer.
    pub probability: f64,
    /// The first answer, as streamed.
    pub first_answer: String,
    /// Tokens used by the first answer.
    pub usage: Usage,
    /// What they cost.
    pub cost: Money,
    /// The second decision.
    pub explanation: Box<Explanation>,
}

/// What would follow an answer that seems not to be in the sources.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct EscalationPlan {
    /// Whether a wider route would be taken at all.
    pub enabled: bool,
    /// Probability that the sources do not hold the answer above which it would.
    pub above: f64,
    /// The route, if one fits.
    pub route: Option<Route>,
    /// Whether its prompt would go on from the first one.
    pub extends: bool,
    /// Length of that prompt, with an answer of the expected length in it.
    pub prompt_tokens: usize,
    /// How many of its tokens would be in the cache.
    pub resident_tokens: usize,
    /// What it would cost on top.
    pub cost: Money,
    /// How long it would take on top, in milliseconds.
    pub latency_ms: f64,
    /// Why this route, or why none, in one sentence.
    pub why: String,
}

/// What a request has used before its next prompt.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Spent {
    pub(crate) cost: Money,
    pub(crate) ms: f64,
    /// Length of the prompt before.
    pub(crate) prompt_tokens: usize,
}

/// The first prompt with its answer.
pub(crate) struct First<'a> {
    pub(crate) route: Route,
    pub(crate) continues: usize,
    /// The exchanges before it in its prompt, and its own.
    pub(crate) steps: Vec<Step>,
    /// What a fresh prompt repeats of the turn before.
    pub(crate) recap: Option<&'a Recap>,
}

/// A wider prompt.
pub(crate) struct Wider {
    pub(crate) route: Route,
    pub(crate) composed: Composed,
    /// Whether the first prompt is a prefix of it.
    pub(crate) extends: bool,
    /// The chosen one first.
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) dropped: Vec<Drop>,
}

/// Whether this query may be answered from a wider route, or why not.
pub(crate) fn allowed(planner: &Planner, query: &Query) -> Result<(), &'static str> {
    match (query.escalate, query.route) {
        (Some(true), _) => Ok(()),
        (Some(false), _) => Err("the caller asked for one answer only"),
        (None, Some(_)) => Err("the caller asked for this route"),
        (None, None) if planner.options.escalate => Ok(()),
        (None, None) => Err("planner.escalate is off"),
    }
}

/// The exchange that a composed prompt and its answer make, for prompts that go on from it.
pub(crate) fn step_of(query: &Query, composed: &Composed, recap: Option<&Recap>, answer: &str) -> Step {
    let added = composed.sources.len() - composed.source_tokens.len();
    let sources = composed.sources.iter().zip(&composed.texts).zip(&composed.summaries).skip(added).map(
        |((source, text), summary)| {
            let source = SourceText {
                document: source.document.clone(),
                uri: source.uri.clone(),
                title: source.title.clone(),
                heading_path: source.heading_path.clone(),
                span: source.span,
                text: text.clone(),
                score: source.score,
                rank: source.rank,
                passages: source.passages,
                summary: summary.clone(),
            };
            (composed.kind, source)
        },
    );
    Step {
        turn: query.history.len() + 1,
        sources: sources.collect(),
        recap: recap.cloned(),
        question: query.question.clone(),
        answer: answer.to_owned(),
    }
}

/// The next wider prompt that adds something and fits beside what was spent, or why there is none.
pub(crate) fn wider(
    planner: &Planner,
    collection: &Collection,
    query: &Query,
    material: &Material,
    first: &First<'_>,
    spent: Spent,
) -> Result<Result<Wider, String>, PlannerError> {
    let placed = Placed::of(&first.steps);
    let profile = material.profile.as_deref();
    let going_on = Drafter { profile, ..planner.drafter(collection, query, material.limits, &first.steps, None)? };
    let pricing = planner.pricing(collection, query, material, 0.0, spent);
    let mut refused: Vec<Candidate> = Vec::new();
    for route in WIDER.into_iter().filter(|route| *route > first.route) {
        let mut draft = extend::draft(&going_on, route, material, &placed)?;
        let adds = draft.composed.as_ref().map_or(true, |composed| !composed.source_tokens.is_empty());
        let mut candidate = planner.price(&draft, first.continues, &pricing).0.candidate;
        if !adds {
            candidate.feasible = false;
            candidate.reason = "adds nothing that was not read already".to_owned();
            refused.push(candidate);
            continue;
        }
        let mut extends = true;
        if !candidate.feasible {
            refused.push(candidate);
            extends = false;
            (draft, candidate) = afresh(planner, collection, query, first, route, &pricing)?;
        }
        let Draft { composed: Ok(composed), dropped, .. } = draft else {
            refused.push(candidate);
            continue;
        };
        if !candidate.feasible {
            refused.push(candidate);
            continue;
        }
        candidate.reason = match extends {
            true => "the next wider route that fits; its prompt goes on from the first".to_owned(),
            false => "the next wider route that fits; its prompt starts afresh".to_owned(),
        };
        let candidates = std::iter::once(candidate).chain(refused).collect();
        return Ok(Ok(Wider { route, composed, extends, candidates, dropped }));
    }
    let reasons: Vec<String> =
        refused.iter().map(|candidate| format!("{}: {}", candidate.route, candidate.reason)).collect();
    Ok(Err(match reasons.is_empty() {
        true => "the widest route was taken already".to_owned(),
        false => format!("no wider route fits ({})", reasons.join("; ")),
    }))
}

/// The route's prompt without the first one.
fn afresh(
    planner: &Planner,
    collection: &Collection,
    query: &Query,
    first: &First<'_>,
    route: Route,
    pricing: &Pricing<'_>,
) -> Result<(Draft, Candidate), PlannerError> {
    let material = pricing.material;
    let profile = material.profile.as_deref();
    let drafter = Drafter { profile, ..planner.drafter(collection, query, material.limits, &[], first.recap)? };
    let draft = extend::fresh(&drafter, route, material)?;
    let mut candidate = planner.price(&draft, 0, pricing).0.candidate;
    let both = pricing.spent.prompt_tokens + candidate.prompt_tokens;
    if let Some((most, whose)) = material.limits.input_ceiling().filter(|(most, _)| candidate.feasible && both > *most)
    {
        candidate.feasible = false;
        candidate.reason = format!("both prompts together have {both} tokens, over {most} ({whose})");
    }
    Ok((draft, candidate))
}

/// Number of tokens that two prompts begin with alike.
fn common_prefix(a: &Prompt, b: &Prompt) -> usize {
    a.tokens.iter().zip(&b.tokens).take_while(|(a, b)| a == b).count()
}

/// What would follow the planned answer if it seemed not to be in the sources.
pub(crate) fn preview(
    planner: &Planner,
    collection: &Collection,
    query: &Query,
    planned: &Planned,
) -> Result<EscalationPlan, PlannerError> {
    let above = planner.options.escalate_above;
    let none = |enabled: bool, why: String| EscalationPlan {
        enabled,
        above,
        route: None,
        extends: false,
        prompt_tokens: 0,
        resident_tokens: 0,
        cost: Money::ZERO,
        latency_ms: 0.0,
        why,
    };
    if let Err(why) = allowed(planner, query) {
        return Ok(none(false, why.to_owned()));
    }
    let Planned { explanation, composed, material, steps, continues, recap, .. } = planned;
    let mut steps = steps.clone();
    steps.push(step_of(query, composed, recap.as_ref(), ""));
    let first = First { route: explanation.chosen, continues: *continues, steps, recap: recap.as_ref() };
    let planned_first = explanation.candidates.first();
    let spent = Spent {
        cost: planned_first.map_or(Money::ZERO, |candidate| candidate.cost),
        ms: planned_first.map_or(0.0, |candidate| candidate.latency_ms),
        prompt_tokens: composed.prompt.tokens.len(),
    };
    let wider = match wider(planner, collection, query, material, &first, spent)? {
        Ok(wider) => wider,
        Err(why) => return Ok(none(true, why)),
    };
    // The first answer is not there yet: it is counted at its expected length, and as resident with the prompt it goes on
    // from.
    let (resident, answer) = match wider.extends {
        true => (common_prefix(&composed.prompt, &wider.composed.prompt), material.limits.expected_output),
        false => (wider.candidates.first().map_or(0, |candidate| candidate.resident_tokens), 0),
    };
    let pricing = planner.pricing(collection, query, material, 0.0, spent);
    let (cost, latency_ms) = planner.foresee(wider.route, &wider.composed.prompt, [resident, answer], &pricing);
    Ok(EscalationPlan {
        enabled: true,
        above,
        route: Some(wider.route),
        extends: wider.extends,
        prompt_tokens: wider.composed.prompt.tokens.len() + answer,
        resident_tokens: resident + answer,
        cost,
        latency_ms,
        why: wider.candidates.first().map_or_else(String::new, |candidate| candidate.reason.clone()),
    })
}
