//! The engine's prefix cache: `/v1/cache` and `/v1/cache/prefixes`.
//!
//! The engine knows tokens and tenants, not collections. Which collection a retained prefix belongs to is noted here when
//! it appears ([`Labels`]); one that was there before, or that another program made, has none.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_ledger::{RequestRecord, Work};
use edgewise_model_api::{CacheState, RetainedPrefix, Retention};
use edgewise_planner::{Answer, Route, Warmed};
use edgewise_types::{CollectionName, Money, TenantId, Timings, Usage};

use crate::{
    ApiError, ErrorBody, ErrorKind, RouteChoice, Whose, budgets,
    caller::Caller,
    extract::{ApiJson, ApiPath, ApiQuery},
    figures,
    middleware::RequestId,
    page::{self, PageParams},
    state::{AppState, Parts},
};

/// How warming is named where routes are.
const ROUTE: &str = "warm";

/// Pages, hits, misses by reason, evictions, and the prefixes that are kept, with the time they have left.
///
/// A tenant that is not the operator sees its own prefixes; figures of the whole cache are 0.
#[utoipa::path(
    get,
    path = "/v1/cache",
    tag = "cache",
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
    let own = |tenant: &TenantId| *tenant == caller.tenant || caller.is_operator();
    cache.prefixes.iter().any(|prefix| prefix.id == id && own(&prefix.tenant))
}

/// A prefix the engine keeps.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CachedPrefix {
    /// What the engine says of it.
    #[serde(flatten)]
    pub prefix: RetainedPrefix,
    /// The collection it belongs to, if that is known.
    pub collection: Option<CollectionName>,
}

/// A part of the list of prefixes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PrefixList {
    /// The prefixes, oldest first.
    pub prefixes: Vec<CachedPrefix>,
    /// Where the list goes on, if it does.
    pub next: Option<String>,
}

/// List the prefixes that are kept, with the time they have left.
///
/// `parent` names the longest other prefix that one begins with: with it, the list is a tree.
#[utoipa::path(
    get,
    path = "/v1/cache/prefixes",
    tag = "cache",
    params(PageParams),
    responses(
        (status = 200, description = "The prefixes", body = PrefixList),
        (status = 400, description = "Malformed parameters", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn prefixes(
    State(state): State<AppState>,
    caller: Caller,
    ApiQuery(asked): ApiQuery<PageParams>,
) -> Result<Json<PrefixList>, ApiError> {
    let limit = page::limit(asked.limit, page::MAX_LIMIT)?;
    let wrong = |_| ApiError::new(ErrorKind::InvalidRequest, "this is not a cursor of this list");
    let after = asked.after::<1>()?.map(|[id]| id.parse::<u64>().map_err(wrong)).transpose()?;
    let labels = state.labels().clone();
    let list = move |parts: &Parts| {
        let mut prefixes = visible(parts.planner.cache(), &caller).prefixes;
        prefixes.sort_by_key(|prefix| prefix.id);
        prefixes.retain(|prefix| after.is_none_or(|after| prefix.id > after));
        prefixes.truncate(limit + 1);
        let (prefixes, next) = page::cut(prefixes, limit, |prefix| page::cursor(&[&prefix.id.to_string()]));
        let labelled = |prefix: RetainedPrefix| CachedPrefix { collection: labels.of(prefix.id), prefix };
        Ok(Json(PrefixList { prefixes: prefixes.into_iter().map(labelled).collect(), next }))
    };
    state.read(list).await
}

/// How long to keep a prefix after each use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum PrefixTtl {
    /// Five minutes.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// One hour.
    #[default]
    #[serde(rename = "1h")]
    OneHour,
}

impl From<PrefixTtl> for Retention {
    fn from(ttl: PrefixTtl) -> Self {
        match ttl {
            PrefixTtl::FiveMinutes => Self::FiveMinutes,
            PrefixTtl::OneHour => Self::OneHour,
        }
    }
}

/// A prefix to compute before anybody asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WarmRequest {
    /// The collection.
    #[schema(value_type = CollectionName)]
    pub collection: String,
    /// Whose prompts: `full`, which begin with all documents, or `passages`, which begin with the instructions alone; absent
    /// is `full`. The prompts of other routes depend on the question.
    #[serde(default)]
    pub route: Option<RouteChoice>,
    /// How long to keep it after each use; absent is an hour.
    #[serde(default)]
    pub ttl: PrefixTtl,
}

/// A prefix that is computed and kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct WarmReport {
    /// Its length in tokens.
    pub tokens: usize,
    /// Tokens used; those read were there already.
    pub usage: Usage,
    /// What it cost.
    pub cost: Money,
    /// The prefix, unless it is too short to be kept or the engine doesn't say.
    pub prefix: Option<CachedPrefix>,
}

/// Compute what all questions to a collection begin with, and keep it.
#[utoipa::path(
    post,
    path = "/v1/cache/prefixes",
    tag = "cache",
    request_body = WarmRequest,
    responses(
        (status = 201, description = "It is kept", body = WarmReport),
        (status = 200, description = "It is too short to be kept, or the engine keeps none", body = WarmReport),
        (status = 400, description = "Malformed or invalid request", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 422, description = "It does not fit the window or the collection's budget, or there is nothing", body = ErrorBody),
        (status = 429, description = "Too much work is queued; see Retry-After", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn warm(
    State(state): State<AppState>,
    caller: Caller,
    id: RequestId,
    ApiJson(request): ApiJson<WarmRequest>,
) -> Result<Response, ApiError> {
    let collections = state.collections(&caller)?;
    let name: CollectionName = request.collection.parse()?;
    budgets::admit(state.parts(), &caller, Some(&name))?;
    let whose = caller.pays(Some(&name));
    let ceilings = caller.ceilings();
    let tenant = caller.tenant;
    let route = request.route.and_then(RouteChoice::forced).unwrap_or(Route::Full);
    let retention = Retention::from(request.ttl);
    let slot = state.answer_slot()?;
    let labels = state.labels().clone();
    // A closed connection drops this future, and the guard with it.
    let gone = Arc::new(AtomicBool::new(false));
    let _guard = SetOnDrop(Arc::clone(&gone));
    let report = state
        .blocking(slot, move |parts| {
            let collection = collections.get(&name)?;
            let (before, at) = (labels.newest(parts), jiff::Timestamp::now());
            let started = std::time::Instant::now();
            let go_on = || !gone.load(Ordering::Relaxed);
            let warmed = parts.planner.warm(&collection, route, retention, &tenant, &ceilings, &go_on)?;
            let worked = warmed.timings.prefill_ms + warmed.timings.decode_ms;
            let cost = parts.recorder.prices.of(&parts.recorder.model, at).cost_of(&warmed.usage, worked);
            let record = record(parts, &id, at, whose, &warmed, started.elapsed().as_secs_f64() * 1e3);
            let record = RequestRecord { cost, ..record };
            figures::worked(&record);
            parts.recorder.write(&record);
            labels.note(parts, before, &tenant, &name, &[warmed.tokens]);
            let of = |prefix: &RetainedPrefix| prefix.tenant == tenant && prefix.tokens == warmed.tokens;
            let found = parts.planner.cache().prefixes.into_iter().find(of);
            let prefix = found.map(|prefix| CachedPrefix { collection: labels.of(prefix.id), prefix });
            Ok(WarmReport { tokens: warmed.tokens, usage: warmed.usage, cost, prefix })
        })
        .await?;
    let status = if report.prefix.is_some() { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(report)).into_response())
}

/// What the ledger keeps of a warming.
fn record(
    parts: &Parts,
    id: &RequestId,
    at: jiff::Timestamp,
    whose: Whose,
    warmed: &Warmed,
    total_ms: f64,
) -> RequestRecord {
    let timings = Timings {
        queue_ms: warmed.timings.queue_ms,
        prefill_ms: warmed.timings.prefill_ms,
        decode_ms: warmed.timings.decode_ms,
        total_ms,
        ..Timings::default()
    };
    let id = format!("{}-{}", at.as_microsecond(), id.0);
    RequestRecord {
        key: whose.key,
        collection: whose.collection,
        work: Work::Warming,
        template_hash: parts.recorder.template_hash.to_string(),
        forced: true,
        usage: warmed.usage,
        timings,
        ..RequestRecord::begun(id, at, whose.tenant, &parts.recorder.model, ROUTE)
    }
}

/// Says that nobody waits any more.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// End the retention of a prefix. Its pages stay until they are needed for something else.
#[utoipa::path(
    delete,
    path = "/v1/cache/prefixes/{id}",
    tag = "cache",
    params(("id" = u64, Path, description = "Id of the prefix, from `GET /v1/cache/prefixes`")),
    responses(
        (status = 204, description = "It is no longer kept"),
        (status = 400, description = "Malformed id", body = ErrorBody),
        (status = 404, description = "No such prefix", body = ErrorBody),
    )
)]
pub(crate) async fn release(
    State(state): State<AppState>,
    caller: Caller,
    ApiPath(id): ApiPath<u64>,
) -> Result<StatusCode, ApiError> {
    state
        .read(move |parts| match owns(&parts.planner.cache(), &caller, id) && parts.planner.release_prefix(id) {
            true => Ok(StatusCode::NO_CONTENT),
            false => {
                let message = format!("no prefix {id} is kept: it may have expired");
                let error = ApiError::new(ErrorKind::UnknownPrefix, message);
                Err(error.hint("GET /v1/cache/prefixes lists what is kept"))
            }
        })
        .await
}

/// Which collections retained prefixes belong to. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Labels(Arc<Mutex<HashMap<u64, CollectionName>>>);

impl Labels {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<u64, CollectionName>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn of(&self, id: u64) -> Option<CollectionName> {
        self.with(|labels| labels.get(&id).cloned())
    }

    /// The newest prefix there is: ids grow.
    pub(crate) fn newest(&self, parts: &Parts) -> u64 {
        parts.planner.cache().prefixes.iter().map(|prefix| prefix.id).max().unwrap_or(0)
    }

    /// Notes that the prefixes of `tenant` that are newer than `before` and end at one of `lengths` are of `collection`. Only
    /// another question of the same tenant, at the same time, with a prefix of the same length, could be mistaken for it.
    fn note(&self, parts: &Parts, before: u64, tenant: &TenantId, collection: &CollectionName, lengths: &[usize]) {
        let prefixes = parts.planner.cache().prefixes;
        self.with(|labels| {
            labels.retain(|id, _| prefixes.iter().any(|prefix| prefix.id == *id));
            let new = prefixes.iter().filter(|prefix| prefix.id > before && prefix.tenant == *tenant);
            for prefix in new.filter(|prefix| lengths.contains(&prefix.tokens)) {
                labels.entry(prefix.id).or_insert_with(|| collection.clone());
            }
        });
    }

    /// Notes the prefixes that an answer left behind, the engine having had `before` as its newest.
    pub(crate) fn answered(&self, parts: &Parts, before: u64, tenant: &TenantId, answer: &Answer) {
        // The prompt is kept up to the last segment of each time to live.
        let map = &answer.prompt_map;
        let ends = map.iter().enumerate().filter(|(at, segment)| {
            segment.retention.is_some() && map.get(at + 1).map(|next| next.retention) != Some(segment.retention)
        });
        let lengths: Vec<usize> = ends.map(|(_, segment)| segment.end).collect();
        self.note(parts, before, tenant, &answer.explanation.collection, &lengths);
    }
}
