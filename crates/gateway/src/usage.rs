//! What was used and what it cost: `GET /v1/usage` and `GET /v1/usage/predictions`.

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use edgewise_access::Scope;
use edgewise_ledger::{
    Dimension, Interval, LedgerError, PredictionErrors, RequestQuery, RequestRecord, Sums, Totals, UsageFilter,
    UsageGroup, UsageQuery,
};

use crate::{ApiError, ErrorBody, ErrorKind, caller::Caller, extract::ApiQuery, state::AppState};

/// Most records of one report.
const MAX_RECENT: usize = 1000;

/// Sums and the newest records.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageReport {
    /// Sums over all records that were asked for, and by route.
    pub totals: Totals,
    /// The newest of these records, newest first.
    pub recent: Vec<RequestRecord>,
    /// The first moment that is counted, where one was given; earlier than that where single records of then are gone and
    /// only sums of full hours are kept.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub from: Option<jiff::Timestamp>,
    /// The first moment that is not counted any more, where one was given.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub to: Option<jiff::Timestamp>,
    /// Sums by group, in order of time and of the dimensions; empty without `by` and `interval`.
    #[serde(default)]
    pub groups: Vec<UsageGroup>,
    /// Over all groups.
    #[serde(default)]
    pub total: Sums,
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
    /// The same as `from`.
    #[param(value_type = Option<String>, format = DateTime)]
    since: Option<jiff::Timestamp>,
    /// First moment to count (RFC 3339); absent counts from the first record there was.
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<jiff::Timestamp>,
    /// First moment not to count any more (RFC 3339).
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<jiff::Timestamp>,
    /// What to group by, separated by commas: `tenant`, `key`, `collection`, `model`, `route`, `status`, `work`.
    #[param(example = "route,collection")]
    by: Option<String>,
    /// Steps of time to group by: `minute`, `hour` or `day` (UTC).
    #[param(value_type = Option<Interval>)]
    interval: Option<String>,
    /// Only this tenant's; an operator may ask for any, others see their own in any case.
    tenant: Option<String>,
    /// Only of requests with this key.
    key: Option<String>,
    /// Only of this collection.
    collection: Option<String>,
    /// Only of this model.
    model: Option<String>,
    /// Only of requests that took this route.
    route: Option<String>,
    /// Only of requests that ended this way.
    status: Option<String>,
    /// Only of work for this: `answer`, `summary`, `embedding`, `warming`.
    work: Option<String>,
    /// `json`, or `csv` for the groups alone.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

/// The form of a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Json,
    Csv,
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
            LedgerError::UnknownBudget { name } => {
                Self::new(ErrorKind::UnknownBudget, format!("there is no budget `{name}`"))
                    .hint("GET /v1/budgets lists those there are")
            }
            LedgerError::DiskFull => Self::new(ErrorKind::DiskFull, error.to_string()),
            LedgerError::TooManyGroups { .. } | LedgerError::Cursor { .. } | LedgerError::Budget { .. } => {
                Self::new(ErrorKind::InvalidRequest, error.to_string())
            }
            _ => Self::internal(error.to_string()),
        }
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::InvalidRequest, message)
}

impl UsageParams {
    fn query(&self, caller: &Caller) -> Result<UsageQuery, ApiError> {
        if self.since.is_some() && self.from.is_some() {
            return Err(invalid("since and from mean the same: give one of them"));
        }
        let (from, to) = (self.from.or(self.since), self.to);
        if from.zip(to).is_some_and(|(from, to)| from > to) {
            return Err(invalid("from must not be after to"));
        }
        let names = self.by.as_deref().unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
        let mut by: Vec<Dimension> = Vec::new();
        for name in names {
            let dimension = name.parse().map_err(|error| invalid(format!("by: {error}")))?;
            if !by.contains(&dimension) {
                by.push(dimension);
            }
        }
        let interval = self.interval.as_deref().map(str::parse::<Interval>).transpose();
        let UsageParams { key, collection, model, route, status, work, .. } = self.clone();
        Ok(UsageQuery {
            from,
            to,
            by,
            interval: interval.map_err(|error| invalid(format!("interval: {error}")))?,
            filter: UsageFilter {
                tenant: caller.shown(self.tenant.clone()),
                key,
                collection,
                model,
                route,
                status,
                work,
            },
        })
    }
}

/// Tokens and cost so far, by any dimensions and steps of time, and the newest requests.
///
/// Sums are exact, to the last nano-dollar, in every grouping. Records are kept for a while (`ledger.keep_days`), sums by hour
/// for good. Records need the scope admin; without it there are sums only. Work that is no question is counted too: summaries (`work` is `summary`), vectors (`embedding`) and
/// prompts computed ahead (`warming`).
#[utoipa::path(
    get,
    path = "/v1/usage",
    tag = "server",
    params(UsageParams),
    responses(
        (status = 200, description = "Sums and records; with `format=csv` the groups, one a line", content(
            (UsageReport = "application/json"),
            (String = "text/csv"),
        )),
        (status = 400, description = "Malformed parameters, or a report that would be too long", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn usage(
    State(state): State<AppState>,
    caller: Caller,
    ApiQuery(params): ApiQuery<UsageParams>,
) -> Result<Response, ApiError> {
    if params.recent > MAX_RECENT {
        return Err(ApiError::new(ErrorKind::InvalidRequest, format!("recent must be between 0 and {MAX_RECENT}")));
    }
    let query = params.query(&caller)?;
    // Records show what others of the tenant asked.
    let recent = if caller.scopes.has(Scope::Admin) { params.recent } else { 0 };
    if params.format == Format::Csv {
        let text = state
            .read(move |parts| {
                let table = parts.recorder.ledger.usage(&query)?;
                Ok(edgewise_ledger::csv(&table, &query.by, query.interval.is_some()))
            })
            .await?;
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
            (header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment; filename=\"edgewise-usage.csv\"")),
        ];
        return Ok((headers, text).into_response());
    }
    let report = state
        .read(move |parts| {
            let ledger = &parts.recorder.ledger;
            let table = ledger.usage(&query)?;
            let grouped = !query.by.is_empty() || query.interval.is_some();
            let groups = if grouped { table.groups } else { Vec::new() };
            let (from, to) = (query.from, query.to);
            let recent = match recent {
                0 => Vec::new(),
                limit => {
                    let listed = RequestQuery { filter: query.filter, from, to, limit, ..RequestQuery::default() };
                    ledger.requests(&listed)?.requests
                }
            };
            let (from, to, total) = (table.from, table.to, table.total.clone());
            let totals = Totals { all: table.total, by_route: table.by_route };
            Ok(UsageReport { totals, recent, from, to, groups, total })
        })
        .await?;
    Ok(Json(report).into_response())
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
