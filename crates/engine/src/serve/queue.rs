//! Requests on their way to the worker, and the counters admission and the planner read.
//!
//! Invariants:
//! - Once closed, nothing is accepted and every waiting request has been handed back to be failed: none is forgotten.
//! - The counters cover exactly the requests accepted and not ended: whoever takes a [`Job`] ends it by dropping it.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use edgewise_model_api::{Ahead, GenerateRequest, GenerationSender, LatencyCurve, QueueState};
use edgewise_telemetry::names;

use crate::constraint::TokenConstraint;

/// Locks, also after another thread panicked: whoever panicked inside the engine has ended it.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request and where its events go.
pub(crate) struct Call {
    pub(crate) request: GenerateRequest,
    /// The request's constraint, compiled.
    pub(crate) constraint: Option<Box<dyn TokenConstraint>>,
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
    /// Pairs of positions still to attend to, as the latency curve counts them.
    prefill_pairs: AtomicU64,
    decoding: Mutex<Decoding>,
}

/// What decodes, as of the last step.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Decoding {
    /// Sequences.
    pub(crate) sequences: usize,
    /// Their tokens held, together.
    pub(crate) held: usize,
    /// Prompt tokens of a step beside them.
    pub(crate) chunk: usize,
    /// Most tokens one of them may still write.
    pub(crate) left: usize,
}

impl Counters {
    /// A snapshot.
    pub(crate) fn state(&self) -> QueueState {
        QueueState { requests: self.requests.load(Relaxed), prefill_tokens: self.prefill_tokens.load(Relaxed) }
    }

    /// Milliseconds until all prompts accepted so far are prefilled.
    pub(crate) fn prefill_ms(&self, curve: LatencyCurve) -> f64 {
        let tokens = self.prefill_tokens.load(Relaxed) as f64;
        curve.b * tokens + curve.c * self.prefill_pairs.load(Relaxed) as f64
    }

    /// Says what decodes.
    pub(crate) fn set_decoding(&self, decoding: Decoding) {
        *lock(&self.decoding) = decoding;
    }

    /// What a new request finds before and beside itself.
    pub(crate) fn ahead(&self, curve: LatencyCurve) -> Ahead {
        let Decoding { sequences, held, chunk, left } = *lock(&self.decoding);
        let prefill_ms = self.prefill_ms(curve);
        if sequences == 0 {
            return Ahead::of_prompts(prefill_ms);
        }
        // Those that decode together read the weights once.
        let token_ms = curve.e * held as f64;
        let chunk_ms = curve.b * chunk as f64;
        Ahead { prefill_ms, step_ms: curve.d + token_ms, chunk_ms, steps: left, token_ms }
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
    prompt: usize,
    tokens: usize,
    pairs: u64,
}

impl Load {
    /// Enters a request with a prompt of `prompt` tokens, `held` of them resident.
    pub(crate) fn new(counters: Arc<Counters>, prompt: usize, held: usize) -> Self {
        counters.requests.fetch_add(1, Relaxed);
        let mut load = Self { counters, prompt, tokens: 0, pairs: 0 };
        load.set_held(held);
        load
    }

    /// Corrects what is left to prefill.
    pub(crate) fn set_held(&mut self, held: usize) {
        let tokens = self.prompt.saturating_sub(held);
        let square = |n: usize| (n as u64).saturating_mul(n as u64);
        self.set(tokens, square(self.prompt) - square(self.prompt - tokens));
    }

    fn set(&mut self, tokens: usize, pairs: u64) {
        if (tokens, pairs) == (self.tokens, self.pairs) {
            return;
        }
        self.counters.prefill_tokens.fetch_add(tokens, Relaxed);
        self.counters.prefill_tokens.fetch_sub(self.tokens, Relaxed);
        self.counters.prefill_pairs.fetch_add(pairs, Relaxed);
        self.counters.prefill_pairs.fetch_sub(self.pairs, Relaxed);
        (self.tokens, self.pairs) = (tokens, pairs);
        self.counters.publish();
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.set(0, 0);
        self.counters.requests.fetch_sub(1, Relaxed);
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
    /// Something else the worker is to look at.
    called: bool,
    /// Why nothing more is accepted.
    closed: Option<String>,
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

    /// Wakes the worker if it waits.
    pub(crate) fn call(&self) {
        lock(&self.inner).called = true;
        self.changed.notify_one();
    }

    /// All jobs that came, waiting at most `patience` for the first; or why the queue is closed.
    pub(crate) fn take(&self, patience: Duration) -> Result<VecDeque<Job>, String> {
        let inner = lock(&self.inner);
        let waiting = |inner: &mut Inner| inner.jobs.is_empty() && inner.closed.is_none() && !inner.called;
        let (mut inner, _) =
            self.changed.wait_timeout_while(inner, patience, waiting).unwrap_or_else(PoisonError::into_inner);
        inner.called = false;
        match &inner.closed {
            Some(reason) => Err(reason.clone()),
            None => Ok(std::mem::take(&mut inner.jobs)),
        }
    }

    /// Closes the queue and hands back what was waiting. The first reason stays.
    pub(crate) fn close(&self, reason: &str) -> VecDeque<Job> {
        let mut inner = lock(&self.inner);
        inner.closed.get_or_insert_with(|| reason.to_owned());
        self.changed.notify_all();
        std::mem::take(&mut inner.jobs)
    }
}
