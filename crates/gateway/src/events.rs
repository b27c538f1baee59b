//! What happens in the server, as it happens: `GET /v1/events`.
//!
//! Records and alerts come from their makers; the cache and the jobs are looked at while somebody listens, and told when they
//! changed. A listener that reads too slowly misses events and is told how many.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response, Sse, sse},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use edgewise_ledger::{Alert, RequestRecord};
use edgewise_model_api::CacheState;
use edgewise_retrieval::Job;

use crate::{
    ApiError, ErrorBody, cache,
    caller::Caller,
    state::{AppState, Phase},
};

/// Events that a slow listener may be behind.
const MOST_BEHIND: usize = 1024;

/// How often cache and jobs are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// A comment is sent this often while nothing else is.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
enum Happened {
    Request(Arc<RequestRecord>),
    Alert(Arc<Alert>),
}

/// Where events are told. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Events(broadcast::Sender<Happened>);

impl Events {
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(MOST_BEHIND))
    }

    /// Something was recorded.
    pub(crate) fn request(&self, record: &RequestRecord) {
        // Copied only for those who listen.
        if self.0.receiver_count() > 0 {
            let _ = self.0.send(Happened::Request(Arc::new(record.clone())));
        }
    }

    /// A share of a budget is spent.
    pub(crate) fn alert(&self, alert: Alert) {
        let _ = self.0.send(Happened::Alert(Arc::new(alert)));
    }
}

/// Data of a `missed` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MissedEvents {
    /// Events that were not sent, because the client read too slowly.
    pub missed: u64,
}

/// Follow what happens in the server, as server-sent events.
///
/// Events: `request`, a request as it is recorded (RequestRecord); `cache`, the engine's cache without its prefixes, when it
/// has changed, at most every two seconds (CacheState); `jobs`, a job that has changed (Job); `alert`, a share of a budget is
/// spent (Alert); `missed`, events were left out because they were read too slowly (MissedEvents). Everybody hears of
/// the own tenant's; the operator of everybody's requests and alerts.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "server",
    responses(
        (status = 200, description = "The events", body = String, content_type = "text/event-stream"),
        (status = 503, description = "Loading or shutting down", body = ErrorBody),
    )
)]
pub(crate) async fn events(State(state): State<AppState>, caller: Caller) -> Result<Response, ApiError> {
    let happened = state.events().0.subscribe();
    let (sender, events) = mpsc::channel::<Result<sse::Event, Infallible>>(64);
    tokio::spawn(follow(state, caller, happened, sender));
    let stream = Sse::new(ReceiverStream::new(events)).keep_alive(sse::KeepAlive::new().interval(KEEP_ALIVE));
    let mut response = stream.into_response();
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

async fn follow(
    state: AppState,
    caller: Caller,
    mut happened: broadcast::Receiver<Happened>,
    sender: mpsc::Sender<Result<sse::Event, Infallible>>,
) {
    let whose = caller.shown(None);
    let mine = |tenant: &str| whose.as_deref().is_none_or(|whose| whose == tenant);
    let ending = state.lifecycle().reached(Phase::Draining);
    tokio::pin!(ending);
    let mut look = tokio::time::interval(LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = Seen::default();
    loop {
        let events = tokio::select! {
            () = &mut ending => return,
            () = sender.closed() => return,
            event = happened.recv() => match event {
                Ok(Happened::Request(record)) if mine(&record.tenant.0) => vec![crate::sse::event("request", &*record)],
                Ok(Happened::Alert(alert)) if mine(&alert.owner) => vec![crate::sse::event("alert", &*alert)],
                Ok(_) => Vec::new(),
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    vec![crate::sse::event("missed", &MissedEvents { missed })]
                }
                // The state that this task holds has a sender.
                Err(broadcast::error::RecvError::Closed) => return,
            },
            _ = look.tick() => seen.changes(&state, &caller).await,
        };
        for event in events {
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
        }
    }
}

/// What a listener was told of cache and jobs.
#[derive(Default)]
struct Seen {
    cache: Option<CacheState>,
    jobs: HashMap<String, Job>,
}

impl Seen {
    async fn changes(&mut self, state: &AppState, caller: &Caller) -> Vec<sse::Event> {
        let mut events = Vec::new();
        let asker = caller.clone();
        if let Ok(mut cache) = state.read(move |parts| Ok(cache::visible(parts.planner.cache(), &asker))).await {
            cache.prefixes.clear();
            if self.cache.as_ref() != Some(&cache) {
                events.push(crate::sse::event("cache", &cache));
                self.cache = Some(cache);
            }
        }
        let jobs = state.jobs().list(&caller.tenant).into_iter();
        let jobs: HashMap<String, Job> = jobs.map(|job| (job.id.clone(), job)).collect();
        let changed = jobs.values().filter(|job| self.jobs.get(&job.id) != Some(*job));
        events.extend(changed.map(|job| crate::sse::event("jobs", job)));
        self.jobs = jobs;
        events
    }
}
