//! What can go wrong with a question, and what the caller should do about it.

use edgewise_model_api::ModelError;
use edgewise_prompts::PromptError;
use edgewise_retrieval::RetrievalError;
use edgewise_types::{CollectionName, Money};

use crate::Route;

/// Failure of [`crate::Planner::explain`] or [`crate::Planner::answer`]. Everything up to [`Self::BudgetTooSmall`] is
/// known before the engine does any work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlannerError {
    /// The question has no text. Ask one.
    #[error("the question is empty: ask one")]
    EmptyQuestion,
    /// A parameter of the query is out of range. Correct it.
    #[error("{0}")]
    InvalidQuery(String),
    /// The collection, or the named part of it, holds no documents. Ingest some.
    #[error("collection `{collection}` holds no documents to answer from: ingest some first")]
    EmptyScope {
        /// The collection.
        collection: CollectionName,
    },
    /// The filter lets no document through. Widen it.
    #[error("no document of collection `{collection}` satisfies the filter `{filter}`: widen it or leave it out")]
    NothingMatches {
        /// The collection.
        collection: CollectionName,
        /// The filter.
        filter: String,
    },
    /// The question alone is too long. Shorten it, or lower `max_output_tokens`.
    #[error(
        "the question makes a prompt of {prompt_tokens} tokens before any source is added, but at most {limit} fit ({why}): shorten the question or ask for fewer output tokens"
    )]
    QuestionTooLong {
        /// Length in tokens of the prompt with the question and no source.
        prompt_tokens: usize,
        /// Most tokens a prompt may have.
        limit: usize,
        /// Where the limit comes from.
        why: String,
    },
    /// No route, or not the one asked for, fits the model's window. Take another route, name fewer documents, or use a
    /// model with a longer window.
    #[error("{}", does_not_fit(*route, reasons))]
    DoesNotFit {
        /// The route asked for, if one was.
        route: Option<Route>,
        /// Each route that was considered, with the reason it does not fit and the least number of tokens it needs.
        reasons: Vec<(Route, String)>,
    },
    /// No route, or not the one asked for, stays inside the caller's budget. Raise the budget to what is named.
    #[error("{}", budget_too_small(*route, reasons, *needed_tokens, *needed_cost, *needed_latency_ms))]
    BudgetTooSmall {
        /// The route asked for, if one was.
        route: Option<Route>,
        /// Each route that was considered, and the reason it is over the budget.
        reasons: Vec<(Route, String)>,
        /// Prompt tokens the cheapest of these routes needs.
        needed_tokens: usize,
        /// What it may cost at most.
        needed_cost: Money,
        /// How long it is predicted to take, in milliseconds.
        needed_latency_ms: u64,
    },
    /// A prompt that comes as it is goes over a limit. Shorten it, ask for a shorter answer, or raise the limit.
    #[error(
        "the prompt is over a limit ({reason}): allow at least {needed_tokens} input tokens, ${needed_cost} and {needed_latency_ms} ms"
    )]
    PromptOverBudget {
        /// What it is over.
        reason: String,
        /// Tokens of the prompt.
        needed_tokens: usize,
        /// What it may cost at most.
        needed_cost: Money,
        /// How long it is predicted to take, in milliseconds.
        needed_latency_ms: u64,
    },
    /// The caller's sink asked to stop. The generation was cancelled.
    #[error("cancelled by the caller")]
    Cancelled,
    /// An option the planner was built with is out of range. Correct the configuration.
    #[error("invalid planner option: {0}")]
    InvalidOptions(String),
    /// The collection could not be read or searched.
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
    /// The model refused the request or failed while answering.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A prompt template failed.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

/// What kind of failure it is: enough to choose a status or exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlannerErrorKind {
    /// The request itself is wrong: correct it (HTTP 400).
    InvalidRequest,
    /// Something named does not exist (HTTP 404).
    NotFound,
    /// The request is well-formed but too long for the model (HTTP 413).
    TooLarge,
    /// The caller's own budget rules every route out: raise it (HTTP 422).
    Budget,
    /// Too much work is queued: come back later (HTTP 429).
    Overloaded,
    /// The engine is shutting down or the collection is locked (HTTP 503).
    Unavailable,
    /// The caller went away.
    Cancelled,
    /// Our fault, or the machine's (HTTP 500).
    Internal,
}

impl PlannerError {
    /// The kind of failure.
    pub fn kind(&self) -> PlannerErrorKind {
        match self {
            Self::EmptyQuestion | Self::InvalidQuery(_) | Self::EmptyScope { .. } | Self::NothingMatches { .. } => {
                PlannerErrorKind::InvalidRequest
            }
            Self::QuestionTooLong { .. } | Self::DoesNotFit { .. } => PlannerErrorKind::TooLarge,
            Self::BudgetTooSmall { .. } | Self::PromptOverBudget { .. } => PlannerErrorKind::Budget,
            Self::Cancelled => PlannerErrorKind::Cancelled,
            Self::Retrieval(error) => match error {
                RetrievalError::UnknownCollection { .. } | RetrievalError::UnknownDocument { .. } => {
                    PlannerErrorKind::NotFound
                }
                RetrievalError::EmptyQuery | RetrievalError::InvalidRequest(_) | RetrievalError::Filter(_) => {
                    PlannerErrorKind::InvalidRequest
                }
                RetrievalError::Locked { .. } => PlannerErrorKind::Unavailable,
                RetrievalError::Model(error) => model_kind(error),
                _ => PlannerErrorKind::Internal,
            },
            Self::Model(error) => model_kind(error),
            Self::InvalidOptions(_) | Self::Prompt(_) => PlannerErrorKind::Internal,
        }
    }
}

fn model_kind(error: &ModelError) -> PlannerErrorKind {
    match error {
        ModelError::InvalidSampling(_) | ModelError::InvalidConstraint(_) => PlannerErrorKind::InvalidRequest,
        ModelError::WindowExceeded { .. } => PlannerErrorKind::TooLarge,
        ModelError::Overloaded { .. } => PlannerErrorKind::Overloaded,
        ModelError::Stopped(_) => PlannerErrorKind::Unavailable,
        _ => PlannerErrorKind::Internal,
    }
}

fn listed(reasons: &[(Route, String)]) -> String {
    let lines: Vec<String> = reasons.iter().map(|(route, reason)| format!("{route}: {reason}")).collect();
    lines.join("; ")
}

fn subject(route: Option<Route>) -> String {
    route.map_or_else(|| "no route".to_owned(), |route| format!("route `{route}`"))
}

fn does_not_fit(route: Option<Route>, reasons: &[(Route, String)]) -> String {
    let verb = if route.is_some() { "cannot be taken" } else { "can be taken" };
    format!(
        "{} {verb} ({}): choose another route, name fewer documents, or use a model with a longer window",
        subject(route),
        listed(reasons)
    )
}

fn budget_too_small(
    route: Option<Route>,
    reasons: &[(Route, String)],
    tokens: usize,
    cost: Money,
    latency_ms: u64,
) -> String {
    let verb = if route.is_some() { "does not stay" } else { "stays" };
    format!(
        "{} {verb} inside the budget ({}): allow at least {tokens} input tokens, ${cost} and {latency_ms} ms",
        subject(route),
        listed(reasons)
    )
}
