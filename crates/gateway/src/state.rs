//! What handlers share, and how they run blocking work.
//!
//! Invariants:
//! - Nothing blocks a runtime thread: planner, retrieval and ledger calls go through [`AppState::read`],
//!   [`AppState::write`] or the answering job, each with its own limit, so that slow answers never keep the dashboard
//!   or a probe waiting.
//! - Once a shutdown began, the [`Lifecycle`] only moves forward, and everything that can take long watches it.
//!
//! Deliberately not here: anything about HTTP.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use utoipa::ToSchema;

use edgewise_access::AccessStore;
use edgewise_ledger::Retention;
use edgewise_planner::{Planner, ReadingMonitor};
use edgewise_retrieval::Collections;
use edgewise_telemetry::{
    MetricsHandle,
    names::{self, labels},
};

use crate::{
    ApiError, Recorder, Trees, batch, budgets, cache::Labels, caller::Caller, conversations::Busy,
    dialect::memory::Memory, etag::Order, events::Events, idempotency::InFlight, jobs::Jobs, keys::Keys,
    published::Published, store::Store, tenants::Tenants, tree,
};

/// Limits and times of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayOptions {
    /// Largest JSON body, in bytes.
    pub max_body_bytes: usize,
    /// Largest upload, in bytes; an upload is held in memory.
    pub max_upload_bytes: usize,
    /// Largest upload of many documents, packed and unpacked, in bytes; it is kept on disk until it is ingested.
    pub max_batch_bytes: usize,
    /// Longest an answer or an upload may take.
    pub request_timeout: Duration,
    /// Answers worked on at once; more are refused with 429.
    pub max_concurrent_requests: usize,
    /// Uploads worked on at once; more wait.
    pub max_concurrent_uploads: usize,
    /// How long running requests may finish after a shutdown was asked for.
    pub shutdown_grace: Duration,
    /// How long records are kept.
    pub retention: Retention,
    /// Host names this server answers for, besides `localhost` and every IP address.
    pub allowed_hosts: Vec<String>,
    /// Whether a key is needed even while none was made: wherever others than this machine's users can connect.
    pub keys_required: bool,
    /// Whether connections are encrypted by this server.
    pub tls: bool,
    /// How long the head of a request may take to arrive, and an idle connection is kept.
    pub header_timeout: Duration,
    /// How long nothing of a body may arrive.
    pub body_timeout: Duration,
    /// Connections at once; more wait.
    pub max_connections: usize,
}

impl Default for GatewayOptions {
    fn default() -> Self {
        Self::from(&edgewise_settings::Server::default())
    }
}

impl From<&edgewise_settings::Server> for GatewayOptions {
    fn from(server: &edgewise_settings::Server) -> Self {
        Self {
            max_body_bytes: server.max_body_bytes,
            max_upload_bytes: server.max_upload_bytes,
            max_batch_bytes: server.max_batch_bytes,
            request_timeout: Duration::from_secs(server.request_timeout_s),
            max_concurrent_requests: server.max_concurrent_requests,
            max_concurrent_uploads: 2,
            shutdown_grace: Duration::from_secs(server.shutdown_grace_s),
            retention: Retention::default(),
            allowed_hosts: server.allowed_hosts.clone(),
            keys_required: !server.is_private(),
            tls: server.tls_files().is_some(),
            header_timeout: Duration::from_secs(server.header_timeout_s),
            body_timeout: Duration::from_secs(server.body_timeout_s),
            max_connections: server.max_connections,
        }
    }
}

/// What this server is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ServerInfo {
    /// Version of Edgewise.
    #[schema(example = "0.1.0")]
    pub version: String,
    /// Registry name of the model that answers.
    #[schema(example = "smollm2-135m-instruct")]
    pub generator: String,
    /// Registry name of the model that embeds.
    #[schema(example = "all-minilm-l6-v2")]
    pub embedder: String,
}

/// What the server is made of.
#[derive(Clone)]
pub struct Parts {
    /// The collections of the tenant `local`; those of others are in folders below its own. Handlers take theirs from
    /// [`AppState::collections`].
    pub local_collections: Arc<Collections>,
    /// Keys, and who may do what.
    pub access: Arc<AccessStore>,
    /// Answers questions.
    pub planner: Arc<Planner>,
    /// Records them.
    pub recorder: Recorder,
    /// Builds summary trees.
    pub trees: Trees,
    /// Watches how well their prompts are read.
    pub reading: Arc<ReadingMonitor>,
    /// Renders `/metrics`.
    pub metrics: MetricsHandle,
    /// Limits and times.
    pub options: GatewayOptions,
    /// What the server says it is.
    pub info: ServerInfo,
}

/// Shared by all requests; cheap to clone.
#[derive(Clone)]
pub struct AppState(Arc<Shared>);

/// What is shared. Behind one pointer, since several layers and the handler each take a copy for every request.
struct Shared {
    parts: Arc<Parts>,
    lifecycle: Lifecycle,
    jobs: Jobs,
    answers: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    /// Uploads with an idempotency key whose bodies are being read.
    buffers: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    memory: Memory,
    events: Events,
    /// Set when something is recorded or a budget is set, for the thread that watches budgets.
    changed: Arc<AtomicBool>,
    store: Arc<Store>,
    busy: Busy,
    in_flight: InFlight,
    order: Order,
    labels: Labels,
    tenants: Tenants,
    keys: Keys,
    published: Published,
}

/// Short blocking calls, such as catalog reads, running at once; more wait.
const READS: usize = 16;

impl AppState {
    /// A server that is ready.
    pub fn new(parts: Parts) -> Self {
        crate::feedback::restore(&parts);
        metrics::gauge!(names::BUILD_INFO, labels::VERSION => parts.info.version.clone()).set(1.0);
        let lifecycle = Lifecycle::new();
        let (events, changed) = (Events::new(), Arc::new(AtomicBool::new(false)));
        parts.recorder.ledger.observe({
            let (events, changed) = (events.clone(), Arc::clone(&changed));
            move |record| {
                changed.store(true, Ordering::Release);
                events.request(record);
            }
        });
        budgets::watch(&parts.recorder.ledger, parts.options.retention, Arc::clone(&changed), events.clone());
        let state = Self(Arc::new(Shared {
            jobs: Jobs::new(lifecycle.clone()),
            lifecycle,
            answers: Arc::new(Semaphore::new(parts.options.max_concurrent_requests)),
            uploads: Arc::new(Semaphore::new(parts.options.max_concurrent_uploads.max(1))),
            buffers: Arc::new(Semaphore::new(parts.options.max_concurrent_uploads.max(1))),
            reads: Arc::new(Semaphore::new(READS)),
            memory: Memory::default(),
            events,
            changed,
            store: Arc::new(Store::of(parts.local_collections.root())),
            busy: Busy::default(),
            in_flight: InFlight::default(),
            order: Order::default(),
            labels: Labels::default(),
            published: Published::default(),
            tenants: Tenants::new(Arc::clone(&parts.local_collections)),
            keys: Keys::watch(Arc::clone(&parts.access), parts.options.keys_required),
            parts: Arc::new(parts),
        }));
        let uploads = batch::leftovers(state.tenants());
        // Nobody waits for it: a job that is not taken up yet is one that waits.
        let shared = state.clone();
        let thread = std::thread::Builder::new().name("jobs".to_owned());
        if let Err(error) = thread.spawn(move || {
            batch::take_up(&shared, uploads);
            tree::take_up(&shared);
        }) {
            tracing::warn!(%error, "unfinished jobs are left until the next start");
        }
        state
    }

    /// Background work.
    pub(crate) fn jobs(&self) -> &Jobs {
        &self.0.jobs
    }

    /// Where what happens is told.
    pub(crate) fn events(&self) -> &Events {
        &self.0.events
    }

    /// To be set when a budget is.
    pub(crate) fn budgets_changed(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0.changed)
    }

    /// The collections of the caller's tenant.
    pub(crate) fn collections(&self, caller: &Caller) -> Result<Arc<Collections>, ApiError> {
        Ok(self.0.tenants.of(&caller.tenant)?)
    }

    /// The collections of every tenant.
    pub(crate) fn tenants(&self) -> &Tenants {
        &self.0.tenants
    }

    /// Shared prefixes as tokens.
    pub(crate) fn published(&self) -> &Published {
        &self.0.published
    }

    /// Who may do what.
    pub(crate) fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// How far the server has come.
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.0.lifecycle
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.0.parts
    }

    pub(crate) fn shared_parts(&self) -> Arc<Parts> {
        Arc::clone(&self.0.parts)
    }

    /// Turns of conversations whose clients only send texts back.
    pub(crate) fn memory(&self) -> &Memory {
        &self.0.memory
    }

    /// What is kept between requests.
    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.0.store)
    }

    /// Conversations in which a question is being answered.
    pub(crate) fn busy(&self) -> &Busy {
        &self.0.busy
    }

    /// Idempotency keys that are being worked on.
    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.0.in_flight
    }

    /// Who may write to a collection.
    pub(crate) fn order(&self) -> &Order {
        &self.0.order
    }

    /// Which collections retained prefixes belong to.
    pub(crate) fn labels(&self) -> &Labels {
        &self.0.labels
    }

    pub(crate) fn options(&self) -> &GatewayOptions {
        &self.0.parts.options
    }

    /// A place among the answers worked on at once, or 429.
    pub(crate) fn answer_slot(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.0.answers).try_acquire_owned().map_err(|_| {
            let limit = self.options().max_concurrent_requests;
            ApiError::overloaded(
                format!("the server is working on {limit} questions already, which is its limit"),
                Duration::from_secs(1),
            )
            .hint("retry after the time in Retry-After, or raise server.max_concurrent_requests")
        })
    }

    /// A place among the uploads worked on at once; waits for one. Held while the body is read, so that uploads never
    /// take more memory than their number times `max_upload_bytes`.
    pub(crate) async fn upload_slot(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.0.uploads).acquire_owned().await.map_err(|_| ApiError::shutting_down())
    }

    /// A place among the uploads whose bodies are read before their handler; waits for one.
    pub(crate) async fn buffer_slot(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.0.buffers).acquire_owned().await.map_err(|_| ApiError::shutting_down())
    }

    /// Answers that could be begun now.
    pub fn free_answers(&self) -> usize {
        self.0.answers.available_permits()
    }

    /// Runs a short blocking call.
    pub(crate) async fn read<T, F>(&self, call: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&Parts) -> Result<T, ApiError> + Send + 'static,
    {
        let slot = Arc::clone(&self.0.reads).acquire_owned().await.map_err(|_| ApiError::shutting_down())?;
        self.blocking(slot, call).await
    }

    /// Runs a blocking call that holds `slot` until it returns, even if nobody waits for it any more.
    pub(crate) async fn blocking<T, F>(&self, slot: OwnedSemaphorePermit, call: F) -> Result<T, ApiError>
    where
        T: Send + 'static,
        F: FnOnce(&Parts) -> Result<T, ApiError> + Send + 'static,
    {
        let parts = Arc::clone(&self.0.parts);
        let span = tracing::Span::current();
        let job = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            span.in_scope(|| call(&parts))
        });
        job.await.map_err(|error| ApiError::internal(format!("a blocking call did not return: {error}")))?
    }
}

/// Where the server is in its life, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Models are being loaded or warmed up; `/readyz` says 503.
    Loading,
    /// Requests are answered.
    Ready,
    /// A shutdown was asked for: no new requests, running ones may finish.
    Draining,
    /// The grace period is over: running requests are ended.
    Cancelling,
}

/// The server's [`Phase`], shared. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lifecycle {
    phase: Arc<watch::Sender<Phase>>,
}

impl Lifecycle {
    fn new() -> Self {
        Self { phase: Arc::new(watch::Sender::new(Phase::Ready)) }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Says 503 until [`Self::ready`]; without effect once the server shuts down.
    pub fn loading(&self) {
        self.phase.send_if_modified(|phase| {
            let back = *phase == Phase::Ready;
            if back {
                *phase = Phase::Loading;
            }
            back
        });
    }

    /// Answers requests.
    pub fn ready(&self) {
        self.advance(Phase::Ready);
    }

    pub(crate) fn advance(&self, to: Phase) {
        self.phase.send_if_modified(|phase| {
            let forward = *phase < to;
            if forward {
                *phase = to;
            }
            forward
        });
    }

    /// Returns once the phase is `phase` or later.
    pub(crate) fn reached(&self, phase: Phase) -> impl Future<Output = ()> + Send + 'static {
        let mut receiver = self.phase.subscribe();
        async move {
            // The sender lives as long as any clone of the lifecycle; without one nothing is running that could end.
            if receiver.wait_for(|now| *now >= phase).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phase_never_goes_back_from_a_shutdown() {
        let lifecycle = Lifecycle::new();
        lifecycle.loading();
        assert_eq!(lifecycle.phase(), Phase::Loading);
        lifecycle.ready();
        assert_eq!(lifecycle.phase(), Phase::Ready);
        lifecycle.advance(Phase::Draining);
        lifecycle.loading();
        lifecycle.ready();
        assert_eq!(lifecycle.phase(), Phase::Draining);
    }
}
