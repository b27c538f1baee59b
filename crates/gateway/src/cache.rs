//! The engine's prefix cache: `GET /v1/cache`, `DELETE /v1/cache/prefixes/{id}`.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};

use edgewise_model_api::CacheState;

use crate::{ApiError, ErrorBody, ErrorKind, state::AppState};

/// Pages, hits, misses by reason, evictions, and the prefixes that are kept, with the time they have left.
#[utoipa::path(
    get,
    path = "/v1/cache",
    tag = "server",
    responses(
        (status = 200, description = "The cache at this moment", body = CacheState),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn get(State(state): State<AppState>) -> Result<Json<CacheState>, ApiError> {
    state.read(|parts| Ok(Json(parts.planner.cache()))).await
}

/// End the retention of a prefix. Its pages stay until they are needed for something else.
#[utoipa::path(
    delete,
    path = "/v1/cache/prefixes/{id}",
    tag = "server",
    params(("id" = u64, Path, description = "Id of the prefix, from `GET /v1/cache`")),
    responses(
        (status = 204, description = "It is no longer kept"),
        (status = 400, description = "Malformed id", body = ErrorBody),
        (status = 404, description = "No such prefix", body = ErrorBody),
    )
)]
pub(crate) async fn release(
    State(state): State<AppState>,
    id: Result<Path<u64>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::new(ErrorKind::InvalidName, rejection.body_text()))?;
    state
        .read(move |parts| match parts.planner.release_prefix(id) {
            true => Ok(StatusCode::NO_CONTENT),
            false => {
                let message = format!("no prefix {id} is kept: it may have expired");
                Err(ApiError::new(ErrorKind::UnknownPrefix, message).hint("GET /v1/cache lists what is kept"))
            }
        })
        .await
}
