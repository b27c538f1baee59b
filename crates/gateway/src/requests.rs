//! Single requests: `GET /v1/requests` and `GET /v1/requests/{id}`.

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use edgewise_ledger::{RequestPage, RequestQuery, RequestRecord, UsageFilter};

use crate::{
    ApiError, ErrorBody, ErrorKind, caller::Caller, detail::RequestDetail, extract::ApiQuery, state::AppState,
};

/// Most requests of a page.
const MAX_PAGE: usize = 500;

/// Longest text to search for, in bytes.
const MAX_TEXT: usize = 1000;

/// Which requests to list.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RequestParams {
    /// The beginning of an id, or a part of the question where questions are kept.
    q: Option<String>,
    /// Only those that took this route.
    route: Option<String>,
    /// Only those that ended this way: `answered`, `unanswerable`, `cancelled`, `failed`.
    status: Option<String>,
    /// Only those to this collection; empty for those to none.
    collection: Option<String>,
    /// Only those of this model.
    model: Option<String>,
    /// Only those with this key.
    key: Option<String>,
    /// Only work for this: `answer`, `summary`, `embedding`, `warming`.
    work: Option<String>,
    /// Only this tenant's; an operator may ask for any, others see their own in any case.
    tenant: Option<String>,
    /// First moment (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<jiff::Timestamp>,
    /// First moment that is not listed any more (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<jiff::Timestamp>,
    /// Most to list, 1 to 500.
    #[serde(default = "default_limit")]
    #[param(default = 50, minimum = 1, maximum = 500)]
    limit: usize,
    /// `next` of the page before.
    cursor: Option<String>,
}

fn default_limit() -> usize {
    50
}

/// List requests, newest first.
#[utoipa::path(
    get,
    path = "/v1/requests",
    tag = "server",
    params(RequestParams),
    responses(
        (status = 200, description = "A page of requests", body = RequestPage),
        (status = 400, description = "Malformed parameters", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    ApiQuery(params): ApiQuery<RequestParams>,
) -> Result<Json<RequestPage>, ApiError> {
    let RequestParams { q, route, status, collection, model, key, work, tenant, from, to, limit, cursor } = params;
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(ApiError::new(ErrorKind::InvalidRequest, format!("limit must be between 1 and {MAX_PAGE}")));
    }
    if q.as_ref().is_some_and(|q| q.len() > MAX_TEXT) {
        return Err(ApiError::new(ErrorKind::InvalidRequest, format!("q must have at most {MAX_TEXT} bytes")));
    }
    let filter = UsageFilter { tenant: caller.shown(tenant), key, collection, model, route, status, work };
    let query = RequestQuery { filter, from, to, text: q, limit, cursor };
    state.read(move |parts| Ok(Json(parts.recorder.ledger.requests(&query)?))).await
}

/// One request, as it was recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestView {
    /// Its record.
    pub record: RequestRecord,
    /// Question, answer, sources, decision and prompt; absent once they are deleted (`ledger.texts_days`), and for work that
    /// had none.
    pub detail: Option<RequestDetail>,
}

/// One request: its record, and while it is kept, question, answer, sources, decision and prompt.
#[utoipa::path(
    get,
    path = "/v1/requests/{id}",
    tag = "server",
    params(("id" = String, Path, description = "Id of the record, or of the request: its header x-request-id")),
    responses(
        (status = 200, description = "The request", body = RequestView),
        (status = 400, description = "Malformed id", body = ErrorBody),
        (status = 404, description = "No such request, or its record is deleted", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<RequestView>, ApiError> {
    let Path(id) = id.map_err(|rejection| ApiError::new(ErrorKind::InvalidName, rejection.body_text()))?;
    let tenant = caller.shown(None);
    state
        .read(move |parts| {
            let Some((record, detail)) = parts.recorder.ledger.request(&id, tenant.as_deref())? else {
                return Err(ApiError::new(
                    ErrorKind::UnknownRequest,
                    format!("there is no record of a request `{id}`"),
                )
                .hint("GET /v1/requests lists those there are; old ones are deleted after ledger.keep_days"));
            };
            let read = |text: String| match serde_json::from_str(&text) {
                Ok(detail) => Some(detail),
                Err(error) => {
                    tracing::warn!(%error, id = record.id, "what was kept of a request cannot be read by this version");
                    None
                }
            };
            let detail = detail.and_then(read);
            Ok(Json(RequestView { record, detail }))
        })
        .await
}
