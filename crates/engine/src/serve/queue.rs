//! Requests waiting for the worker, and the counters admission and the planner read.
//!
//! Invariants:
//! - Once closed, nothing is accepted and every waiting request has been handed back to be failed: none is forgotten.
//! - The counters cover exactly the requests accepted and not ended: whoever takes a [`Job`] ends it by dropping it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use edgewise_model_api::{GenerateRequest, GenerationSender, QueueState};
use edgewise_telemetry::names;

/// Locks, also after another thread panicked: no lock of this engine is held across a step that can leave its contents
/// inconsistent.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request and where its events go.
pub(crate) struct Call {
    pub(crate) request: GenerateRequest,
    pub(crate) sender: GenerationSender,
    pub(crate) accepted: Instant,
}

/// A call with its share of the counters.
pub(crate) struct Job {
    pub(crate) call: Call,
    pub(crate) load: Load,
}

/// Work accepted and not finished.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: AtomicUsize,
    prefill_tokens: AtomicUsize,
}

impl Counters {
    /// A snapshot.
    pub(crate) fn state(&self) -> QueueState {
        QueueState { requests: self.requests.load(Relaxed), prefill_tokens: self.prefill_tokens.load(Relaxed) }
    }

    fn publish(&self) {
        let QueueState { requests, prefill_tokens } = self.state();
        metrics::gauge!(names::ENGINE_QUEUE_REQUESTS).set(requests as f64);
        metrics::gauge!(names::ENGINE_QUEUE_PREFILL_TOKENS).set(prefill_tokens as f64);
    }
}

/// One request's share of the counters; leaves them when dropped.
#[derive(Debug)]
pub(crate) struct Load {
    counters: Arc<Counters>,
    prefill_tokens: usize,
}

impl Load {
    /// Enters a request with `prefill_tokens` tokens to compute.
    pub(crate) fn new(counters: Arc<Counters>, prefill_tokens: usize) -> Self {
        counters.requests.fetch_add(1, Relaxed);
        counters.prefill_tokens.fetch_add(prefill_tokens, Relaxed);
        counters.publish();
        Self { counters, prefill_tokens }
    }

    /// Corrects what is left to prefill.
    pub(crate) fn set_prefill_tokens(&mut self, left: usize) {
        self.counters.prefill_tokens.fetch_add(left, Relaxed);
        self.counters.prefill_tokens.fetch_sub(self.prefill_tokens, Relaxed);
        self.prefill_tokens = left;
        self.counters.publish();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.counters.requests.fetch_sub(1, Relaxed);
        self.counters.prefill_tokens.fetch_sub(self.prefill_tokens, Relaxed);
        self.counters.publish();
    }
}

/// First in, first out.
#[derive(Default)]
pub(crate) struct Queue {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    jobs: VecDeque<Job>,
    /// Why nothing more is accepted.
    closed: Option<String>,
}

/// What the worker finds.
pub(crate) enum Next {
    /// A request.
    Job(Box<Job>),
    /// None came for the given time.
    Idle,
    /// The queue is closed.
    Closed,
}

impl Queue {
    /// Appends a job, or says why the queue is closed.
    pub(crate) fn push(&self, job: Job) -> Result<(), String> {
        let mut inner = lock(&self.inner);
        if let Some(reason) = &inner.closed {
            return Err(reason.clone());
        }
        inner.jobs.push_back(job);
        self.changed.notify_one();
        Ok(())
    }

    /// Waits at most `patience` for the next job.
    pub(crate) fn next(&self, patience: Duration) -> Next {
        let inner = lock(&self.inner);
        let waiting = |inner: &mut Inner| inner.jobs.is_empty() && inner.closed.is_none();
        let (mut inner, _) =
            self.changed.wait_timeout_while(inner, patience, waiting).unwrap_or_else(PoisonError::into_inner);
        if inner.closed.is_some() {
            return Next::Closed;
        }
        inner.jobs.pop_front().map_or(Next::Idle, |job| Next::Job(Box::new(job)))
    }

    /// Closes the queue and hands back what was waiting. The first reason stays.
    pub(crate) fn close(&self, reason: &str) -> Vec<Job> {
        let mut inner = lock(&self.inner);
        inner.closed.get_or_insert_with(|| reason.to_owned());
        self.changed.notify_all();
        inner.jobs.drain(..).collect()
    }

    /// Why the queue is closed, if it is.
    pub(crate) fn closed(&self) -> Option<String> {
        lock(&self.inner).closed.clone()
    }
}
