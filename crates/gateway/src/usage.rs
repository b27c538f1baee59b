//! What was used and what it cost: `GET /v1/usage`.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use edgewise_ledger::{LedgerError, PredictionErrors, RequestRecord, Totals};

use crate::{ApiError, ErrorBody, ErrorKind, caller::Caller, extract::ApiQuery, state::AppState};

/// Most records of one report.
const MAX_RECENT: usize = 1000;

/// Sums and the newest records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageReport {
    /// Sums over all records, or those since the time asked for.
    pub totals: Totals,
    /// The newest records, newest first.
    pub recent: Vec<RequestRecord>,
}

/// What to report.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageParams {
    /// Newest records to return, 0 to 1,000.
    #[serde(default = "default_recent")]
    #[param(default = 50, maximum = 1000)]
    recent: usize,
    /// Sum up records since this time (RFC 3339); absent sums up all.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<jiff::Timestamp>,
}

fn default_recent() -> usize {
    50
}

impl From<LedgerError> for ApiError {
    fn from(error: LedgerError) -> Self {
        match error {
            LedgerError::UnknownRequest { id } => {
                Self::new(ErrorKind::UnknownRequest, format!("no answered request `{id}` is known"))
                    .hint("take the id from the header x-request-id of the answer or from GET /v1/usage, or say `last`")
            }
            LedgerError::DiskFull => Self::new(ErrorKind::DiskFull, error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}

/// Tokens and cost so far, and the newest requests.
#[utoipa::path(
    get,
    path = "/v1/usage",
    tag = "server",
    params(UsageParams),
    responses(
        (status = 200, description = "Sums and records", body = UsageReport),
        (status = 400, description = "Malformed parameters", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn usage(
    State(state): State<AppState>,
    caller: Caller,
    ApiQuery(params): ApiQuery<UsageParams>,
) -> Result<Json<UsageReport>, ApiError> {
    caller.require_operator()?;
    if params.recent > MAX_RECENT {
        return Err(ApiError::new(ErrorKind::InvalidRequest, format!("recent must be between 0 and {MAX_RECENT}")));
    }
    state
        .read(move |parts| {
            let totals = parts.recorder.ledger.totals(params.since)?;
            Ok(Json(UsageReport { totals, recent: parts.recorder.ledger.recent(params.recent)? }))
        })
        .await
}

/// Predictions against what became of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PredictionReport {
    /// By route, cold before warm; of the newest 10,000 records at most.
    pub routes: Vec<PredictionErrors>,
}

/// Which records to compare.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct PredictionParams {
    /// Compare records since this time (RFC 3339); absent compares all.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<jiff::Timestamp>,
}

/// How good predictions of tokens, cost and time were.
#[utoipa::path(
    get,
    path = "/v1/usage/predictions",
    tag = "server",
    params(PredictionParams),
    responses(
        (status = 200, description = "Errors by route", body = PredictionReport),
        (status = 400, description = "Malformed parameters", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn predictions(
    State(state): State<AppState>,
    caller: Caller,
    ApiQuery(params): ApiQuery<PredictionParams>,
) -> Result<Json<PredictionReport>, ApiError> {
    caller.require_operator()?;
    state
        .read(move |parts| Ok(Json(PredictionReport { routes: parts.recorder.ledger.predictions(params.since)? })))
        .await
}
