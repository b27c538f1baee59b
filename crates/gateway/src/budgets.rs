//! Budgets of money: `/v1/budgets`, and the refusal of work that a spent one no longer pays for.
//!
//! A thread beside the requests counts anew what was spent, notices when a share of a budget is reached, posts alerts to their
//! webhooks, and once an hour deletes what the ledger need not keep any longer. It never holds a request up: a request looks
//! only at sums in memory. An alert that cannot be posted is tried again, ever more seldom, also after a restart.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_ledger::{Alert, BudgetStatus, DueAlert, Exhausted, Ledger, LedgerError, MoneyBudget, Retention};
use edgewise_telemetry::names::{self, labels};
use edgewise_types::{CollectionName, TenantId};

use crate::{
    ApiError, ErrorBody, ErrorKind,
    caller::Caller,
    events::Events,
    extract::ApiJson,
    state::{AppState, Parts},
};

/// How soon a spent share is noticed after the record that spent it.
const TICK: Duration = Duration::from_millis(500);

/// How often what was spent is counted anew when nothing is recorded here: other processes may spend too.
const RECOUNT: Duration = Duration::from_secs(5);

/// How often old records are looked for.
const MAINTAIN: Duration = Duration::from_secs(3600);

/// How long a webhook may take.
const POST_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait after the first time that an alert could not be posted; twice as long after each further time.
const FIRST_WAIT: Duration = Duration::from_secs(2);

/// How often posting an alert is tried; the last time some two hours after the first.
const MOST_ATTEMPTS: u32 = 12;

/// The budgets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BudgetList {
    /// In order of their names.
    pub budgets: Vec<BudgetStatus>,
}

/// Refuses work that a hard budget no longer pays for.
pub(crate) fn admit(parts: &Parts, caller: &Caller, collection: Option<&CollectionName>) -> Result<(), ApiError> {
    let (now, key) = (jiff::Timestamp::now(), caller.key_name());
    let collection = collection.map(CollectionName::as_str);
    let spent = parts.recorder.ledger.exhausted(now, &caller.tenant.0, key.as_deref(), collection);
    let Some(Exhausted { name, limit, period, until }) = spent else { return Ok(()) };
    let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
    let message = format!("the budget `{name}` of ${limit} a {} is spent until {until}", period.as_str());
    Err(ApiError::new(ErrorKind::BudgetExhausted, message)
        .hint("wait until it begins anew, or raise it: PUT /v1/budgets/{name}")
        .retry_after(wait))
}

/// List budgets, with what was spent of them and what is expected to be.
#[utoipa::path(
    get,
    path = "/v1/budgets",
    tag = "server",
    responses(
        (status = 200, description = "The budgets", body = BudgetList),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<BudgetList>, ApiError> {
    let owner = caller.shown(None);
    let budgets =
        state.read(move |parts| Ok(parts.recorder.ledger.budgets(jiff::Timestamp::now(), owner.as_deref())?));
    Ok(Json(BudgetList { budgets: budgets.await? }))
}

type Name = Result<Path<String>, PathRejection>;

fn name_of(path: Name) -> Result<String, ApiError> {
    let Path(name) = path.map_err(|rejection| ApiError::new(ErrorKind::InvalidName, rejection.body_text()))?;
    Ok(name)
}

fn named(parts: &Parts, owner: &TenantId, name: &str) -> Result<BudgetStatus, ApiError> {
    let all = parts.recorder.ledger.budgets(jiff::Timestamp::now(), Some(&owner.0))?;
    let found = all.into_iter().find(|budget| budget.name == name);
    found.ok_or_else(|| LedgerError::UnknownBudget { name: name.to_owned() }.into())
}

/// A budget, with what was spent of it and what is expected to be.
#[utoipa::path(
    get,
    path = "/v1/budgets/{name}",
    tag = "server",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 200, description = "The budget", body = BudgetStatus),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such budget", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    name: Name,
) -> Result<Json<BudgetStatus>, ApiError> {
    let name = name_of(name)?;
    state.read(move |parts| Ok(Json(named(parts, &caller.tenant, &name)?))).await
}

/// Set a budget, in place of one of the same name.
///
/// When a share of the limit in `alert_at` is reached, an `alert` event is sent to `/v1/events` and, if there is a webhook, the
/// same JSON is posted to it. A `hard` budget refuses new work once it is spent, with status 429 and type `budget_exhausted`;
/// work that is under way by then is finished and paid for.
#[utoipa::path(
    put,
    path = "/v1/budgets/{name}",
    tag = "server",
    params(("name" = String, Path, description = "Its name: 1 to 64 letters, digits, `-`, `_` or `.`")),
    request_body = MoneyBudget,
    responses(
        (status = 200, description = "The budget now in force", body = BudgetStatus),
        (status = 400, description = "Malformed name or budget", body = ErrorBody),
        (status = 403, description = "Of another tenant", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn put(
    State(state): State<AppState>,
    caller: Caller,
    name: Name,
    ApiJson(mut budget): ApiJson<MoneyBudget>,
) -> Result<Json<BudgetStatus>, ApiError> {
    let name = name_of(name)?;
    let own = caller.tenant.0.to_string();
    if !caller.is_operator() && *budget.scope.tenant.get_or_insert_with(|| own.clone()) != own {
        return Err(ApiError::new(ErrorKind::Forbidden, "this key sets budgets of its own tenant only")
            .hint("leave out scope.tenant"));
    }
    let changed = state.budgets_changed();
    state
        .read(move |parts| {
            parts.recorder.ledger.set_budget(&caller.tenant.0, &name, &budget, jiff::Timestamp::now())?;
            changed.store(true, Ordering::Release);
            Ok(Json(named(parts, &caller.tenant, &name)?))
        })
        .await
}

/// Delete a budget.
#[utoipa::path(
    delete,
    path = "/v1/budgets/{name}",
    tag = "server",
    params(("name" = String, Path, description = "Its name")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such budget", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn delete(State(state): State<AppState>, caller: Caller, name: Name) -> Result<StatusCode, ApiError> {
    let name = name_of(name)?;
    state
        .read(move |parts| {
            parts.recorder.ledger.delete_budget(&caller.tenant.0, &name, jiff::Timestamp::now())?;
            Ok(StatusCode::NO_CONTENT)
        })
        .await
}

/// Starts the thread; it ends soon after the ledger's last user. `changed` says that something was recorded or set.
pub(crate) fn watch(ledger: &Arc<Ledger>, keep: Retention, changed: Arc<AtomicBool>, events: Events) {
    let now = jiff::Timestamp::now();
    // Before the first request: a budget that was spent before the start stays spent.
    if let Err(error) = ledger.recount(now) {
        tracing::error!(%error, "budgets cannot be read: they do not limit anything until they can");
    }
    let mut watch = Watch {
        ledger: Arc::downgrade(ledger),
        keep,
        changed,
        events,
        counted: None,
        maintained: None,
        next: HashMap::new(),
    };
    let run = move || {
        while watch.tick() {
            std::thread::sleep(TICK)
        }
    };
    if let Err(error) = std::thread::Builder::new().name("budgets".to_owned()).spawn(run) {
        tracing::error!(%error, "no thread watches budgets: there will be no alerts, and old records stay");
    }
}

struct Watch {
    ledger: Weak<Ledger>,
    keep: Retention,
    changed: Arc<AtomicBool>,
    events: Events,
    counted: Option<Instant>,
    maintained: Option<Instant>,
    /// When an alert that could not be posted is tried again.
    next: HashMap<(String, String, jiff::Timestamp, u64), Instant>,
}

impl Watch {
    /// Whether to go on.
    fn tick(&mut self) -> bool {
        let Some(ledger) = self.ledger.upgrade() else { return false };
        let due = |last: Option<Instant>, every| last.is_none_or(|last| last.elapsed() >= every);
        if self.changed.swap(false, Ordering::AcqRel) || due(self.counted, RECOUNT) {
            self.counted = Some(Instant::now());
            match ledger.new_alerts(jiff::Timestamp::now()) {
                Ok(alerts) => alerts.into_iter().for_each(|alert| self.tell(alert)),
                Err(error) => tracing::warn!(%error, "what was spent of budgets cannot be counted; it is tried again"),
            }
        }
        match ledger.due_alerts() {
            Ok(due) => due.iter().for_each(|due| self.post(&ledger, due)),
            Err(error) => tracing::warn!(%error, "alerts cannot be read; it is tried again"),
        }
        if due(self.maintained, MAINTAIN) {
            self.maintained = Some(Instant::now());
            match ledger.maintain(jiff::Timestamp::now(), &self.keep) {
                Ok(deleted) if deleted != Default::default() => tracing::info!(?deleted, "old records were deleted"),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "old records cannot be deleted; it is tried again in an hour"),
            }
        }
        true
    }

    fn tell(&self, alert: Alert) {
        let percent = (alert.share * 100.0).round();
        tracing::warn!(budget = alert.budget, spent = %alert.spent, limit = %alert.limit, "{percent} % of a budget is spent");
        metrics::counter!(names::BUDGET_ALERTS_TOTAL).increment(1);
        self.events.alert(alert);
    }

    fn post(&mut self, ledger: &Ledger, due: &DueAlert) {
        let Alert { owner, budget, from, share, .. } = &due.alert;
        let key = (owner.clone(), budget.clone(), *from, share.to_bits());
        if self.next.get(&key).is_some_and(|next| *next > Instant::now()) {
            return;
        }
        let error = send(&due.webhook, &due.alert).err();
        let outcome = if error.is_none() { "told" } else { "failed" };
        metrics::counter!(names::WEBHOOK_POSTS_TOTAL, labels::OUTCOME => outcome).increment(1);
        if let Some(error) = &error {
            tracing::warn!(budget, attempt = due.attempts + 1, error, "an alert could not be posted to its webhook");
            self.next.insert(key, Instant::now() + FIRST_WAIT * 2u32.saturating_pow(due.attempts.min(MOST_ATTEMPTS)));
        } else {
            self.next.remove(&key);
        }
        if let Err(error) = ledger.posted(due, error.as_deref(), MOST_ATTEMPTS) {
            tracing::warn!(%error, "what became of an alert cannot be noted");
        }
    }
}

/// Posts an alert as JSON; anything but a success is a failure.
fn send(webhook: &str, alert: &Alert) -> Result<(), String> {
    let agent = ureq::Agent::config_builder().timeout_global(Some(POST_TIMEOUT)).max_redirects(0).build().new_agent();
    // The address may hold a secret: it is not repeated.
    agent.post(webhook).send_json(alert).map(drop).map_err(|error| match error {
        ureq::Error::StatusCode(status) => format!("it answered with status {status}"),
        ureq::Error::Timeout(_) => format!("it did not answer within {} s", POST_TIMEOUT.as_secs()),
        _ => "it cannot be reached".to_owned(),
    })
}
