//! What a question to a collection may use at most: `/v1/collections/{collection}/budget`.

use axum::{Json, extract::State};

use edgewise_planner::Budget;
use edgewise_retrieval::Ceiling;
use edgewise_types::CollectionName;

use crate::{
    ApiError, ErrorBody,
    caller::Caller,
    extract::{ApiJson, InCollection},
    state::AppState,
};

/// The limits of every question to a collection. Absent ones do not limit.
#[utoipa::path(
    get,
    path = "/v1/collections/{collection}/budget",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    responses(
        (status = 200, description = "The limits", body = Budget),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
) -> Result<Json<Budget>, ApiError> {
    let collections = state.collections(&caller)?;
    state
        .read(move |_| {
            let Ceiling { max_cost, max_input_tokens, max_latency_ms } = collections.get(&name)?.ceiling()?;
            Ok(Json(Budget { max_cost, max_input_tokens, max_latency_ms }))
        })
        .await
}

/// Set the limits of every question to a collection, in place of those before. They hold beside a request's own budget
/// and the server's; the tightest counts.
#[utoipa::path(
    put,
    path = "/v1/collections/{collection}/budget",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    request_body = Budget,
    responses(
        (status = 200, description = "The limits now in force", body = Budget),
        (status = 400, description = "Malformed name or limits", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 409, description = "Another process writes to it", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
    )
)]
pub(crate) async fn put(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    ApiJson(budget): ApiJson<Budget>,
) -> Result<Json<Budget>, ApiError> {
    let collections = state.collections(&caller)?;
    state
        .read(move |_| {
            let Budget { max_cost, max_input_tokens, max_latency_ms } = budget;
            collections.get(&name)?.set_ceiling(Ceiling { max_cost, max_input_tokens, max_latency_ms })?;
            Ok(Json(budget))
        })
        .await
}
