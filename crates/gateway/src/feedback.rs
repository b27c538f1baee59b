//! Ratings of answers: `POST /v1/feedback` and `DELETE /v1/feedback`.
//!
//! What ratings teach is recomputed from all of them after each, in the order of the requests, so that it is the same after
//! a restart, and a rating that is replaced leaves no trace.
//!
//! Deliberately not here: what is learned, which is the planner's, and where ratings are kept, which is the ledger's.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_ledger::{Decided, Ledger, LedgerError, Rating};
use edgewise_planner::{Corrections, Explanation, Feedback};
use edgewise_types::TenantId;

use crate::{
    ApiError, ErrorBody, ErrorKind,
    caller::Caller,
    extract::ApiJson,
    state::{AppState, Parts},
};

/// Ratings that are learned from: the newest.
const MOST_RATINGS: usize = 5000;

/// Longest comment, in characters.
const MOST_COMMENT: usize = 2000;

/// How good an answer was. Either `rating` or `good`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeedbackRequest {
    /// Id of the answer's request: its header `x-request-id`, or its id in `GET /v1/usage`; `last` is the newest answer.
    pub request_id: String,
    /// From -1 (bad) to 1 (good).
    #[serde(default)]
    #[schema(minimum = -1, maximum = 1)]
    pub rating: Option<f64>,
    /// Good (1) or bad (-1).
    #[serde(default)]
    pub good: Option<bool>,
    /// What to add, at most 2,000 characters. Kept in the ledger; nothing is learned from it.
    #[serde(default)]
    pub comment: Option<String>,
}

/// A rating was stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackStored {
    /// Id of the request's record in the ledger.
    pub request_id: String,
    /// The rating.
    pub rating: f64,
    /// Whether the request had a rating before, which this one replaces.
    pub replaced: bool,
    /// Ratings that routes are now corrected by.
    pub ratings: usize,
}

/// Ratings were deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeedbackForgotten {
    /// How many.
    pub forgotten: usize,
}

/// The rating that `rating` or `good` mean, or why they mean none.
pub fn check_rating(rating: Option<f64>, good: Option<bool>, comment: Option<&str>) -> Result<f64, String> {
    if comment.is_some_and(|comment| comment.chars().count() > MOST_COMMENT) {
        return Err(format!("the comment is longer than {MOST_COMMENT} characters: shorten it"));
    }
    match (rating, good) {
        (Some(rating), None) if (-1.0..=1.0).contains(&rating) => Ok(rating),
        (Some(rating), None) => Err(format!("rating must be between -1 (bad) and 1 (good), not {rating}")),
        (None, Some(good)) => Ok(if good { 1.0 } else { -1.0 }),
        _ => Err("give either `rating`, from -1 to 1, or `good`, true or false".to_owned()),
    }
}

/// What all ratings in the ledger teach.
pub fn learned(ledger: &Ledger) -> Result<Corrections, LedgerError> {
    let rated = ledger.ratings(MOST_RATINGS)?;
    let feedback = rated.iter().filter_map(|(decision, rating)| match serde_json::from_str::<Feedback>(decision) {
        Ok(decision) => Some(Feedback { rating: *rating, ..decision }),
        Err(error) => {
            tracing::warn!(%error, "a rated decision in the ledger cannot be read and teaches nothing");
            None
        }
    });
    Ok(Corrections::replay(feedback))
}

/// Puts in force what was learned before the start.
pub(crate) fn restore(parts: &Parts) {
    if let Err(error) = parts.planner.correct_with(|| learned(&parts.recorder.ledger)) {
        tracing::error!(%error, "ratings of answers cannot be read: routes are chosen without them");
    }
}

/// What a rating of this answer would need: measures of the question, none of its text.
pub(crate) fn decided(request_id: &str, tenant: &TenantId, explanation: &Explanation) -> Option<Decided> {
    let decision = explanation.rated(tenant, 0.0)?;
    match serde_json::to_string(&decision) {
        Ok(decision) => Some(Decided { request_id: request_id.to_owned(), decision }),
        Err(error) => {
            tracing::error!(%error, request_id, "the decision of a request cannot be kept: its answer cannot be rated");
            None
        }
    }
}

/// Rate an answer. Later choices of a route take it into account, a little; a second rating replaces the first.
#[utoipa::path(
    post,
    path = "/v1/feedback",
    tag = "questions",
    request_body = FeedbackRequest,
    responses(
        (status = 200, description = "Stored", body = FeedbackStored),
        (status = 400, description = "Malformed or invalid rating", body = ErrorBody),
        (status = 404, description = "No answered request of this id", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn rate(
    State(state): State<AppState>,
    caller: Caller,
    ApiJson(request): ApiJson<FeedbackRequest>,
) -> Result<Json<FeedbackStored>, ApiError> {
    let rating = check_rating(request.rating, request.good, request.comment.as_deref())
        .map_err(|message| ApiError::new(ErrorKind::InvalidRequest, message))?;
    state
        .read(move |parts| {
            let ledger = &parts.recorder.ledger;
            let rated = ledger.rate(&Rating {
                tenant: &caller.tenant,
                request: &request.request_id,
                rating,
                comment: request.comment.as_deref(),
                at: jiff::Timestamp::now(),
            })?;
            let ratings = parts.planner.correct_with(|| learned(ledger))?;
            Ok(Json(FeedbackStored { request_id: rated.id, rating, replaced: rated.replaced, ratings }))
        })
        .await
}

/// Delete every rating, and with them everything that was learned from them.
#[utoipa::path(
    delete,
    path = "/v1/feedback",
    tag = "questions",
    responses(
        (status = 200, description = "Deleted", body = FeedbackForgotten),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn forget(State(state): State<AppState>, caller: Caller) -> Result<Json<FeedbackForgotten>, ApiError> {
    caller.require_operator()?;
    state
        .read(|parts| {
            let forgotten = parts.recorder.ledger.forget_ratings()?;
            parts.planner.correct_with(|| learned(&parts.recorder.ledger))?;
            Ok(Json(FeedbackForgotten { forgotten }))
        })
        .await
}
