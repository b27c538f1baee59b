//! The engine's prefix cache: `GET /v1/cache`, `DELETE /v1/cache/prefixes/{id}`.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};

use edgewise_model_api::CacheState;

use crate::{ApiError, ErrorBody, ErrorKind, caller::Caller, state::AppState};

/// Pages, hits, misses by reason, evictions, and the prefixes that are kept, with the time they have left.
///
/// A tenant that is not the operator sees its own prefixes; figures of the whole cache are 0.
#[utoipa::path(
    get,
    path = "/v1/cache",
    tag = "server",
    responses(
        (status = 200, description = "The cache at this moment", body = CacheState),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn get(State(state): State<AppState>, caller: Caller) -> Result<Json<CacheState>, ApiError> {
    state.read(move |parts| Ok(Json(visible(parts.planner.cache(), &caller)))).await
}

/// What a caller may see of the cache. The operator sees all of it; a tenant its own prefixes and what the pages are like,
/// since every other figure moves with what others send.
pub(crate) fn visible(cache: CacheState, caller: &Caller) -> CacheState {
    if caller.is_operator() {
        return cache;
    }
    let CacheState { page_tokens, page_bytes, mut prefixes, .. } = cache;
    prefixes.retain(|prefix| prefix.tenant == caller.tenant);
    let pages_retained = prefixes.iter().map(|prefix| prefix.pages).sum();
    CacheState { page_tokens, page_bytes, pages_retained, prefixes, ..CacheState::default() }
}

/// Whether there is such a prefix and the caller may end it.
pub(crate) fn owns(cache: &CacheState, caller: &Caller, id: u64) -> bool {
    let own = |tenant: &edgewise_types::TenantId| *tenant == caller.tenant || caller.is_operator();
    cache.prefixes.iter().any(|prefix| prefix.id == id && own(&prefix.tenant))
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
    caller: Caller,
    id: Result<Path<u64>, PathRejection>,
) -> Result<StatusCode, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::new(ErrorKind::InvalidName, rejection.body_text()))?;
    state
        .read(move |parts| match owns(&parts.planner.cache(), &caller, id) && parts.planner.release_prefix(id) {
            true => Ok(StatusCode::NO_CONTENT),
            false => {
                let message = format!("no prefix {id} is kept: it may have expired");
                Err(ApiError::new(ErrorKind::UnknownPrefix, message).hint("GET /v1/cache lists what is kept"))
            }
        })
        .await
}
