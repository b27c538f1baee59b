//! One server: its requests, its circuit, what it holds and how it wants its prompts.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{ServerKind, UpstreamOptions, breaker::Breaker, residency::Residency, ring::Standing};

/// How a server takes prompts, found by a short trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As token ids.
    Tokens,
    /// As text.
    Text {
        /// Whether the server puts the token for the beginning of a text before it, so that ours is left out.
        server_writes_bos: bool,
    },
}

/// What is known of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Profile {
    pub(crate) kind: ServerKind,
    pub(crate) form: Form,
}

/// A server.
#[derive(Debug)]
pub(crate) struct Replica {
    /// Its address, without `/v1`.
    pub(crate) base: String,
    in_flight: AtomicUsize,
    ready: AtomicBool,
    state: Mutex<State>,
    /// Held by whoever finds out how it takes prompts, so that a burst of requests finds out once.
    pub(crate) probing: tokio::sync::Mutex<()>,
}

/// What changes together.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) breaker: Breaker,
    pub(crate) residency: Residency,
    /// It has asked to be spared until then.
    pub(crate) busy_until: Option<Instant>,
    pub(crate) profile: Option<Profile>,
    /// Why it can't be used as it is, such as another tokenizer.
    pub(crate) refused: Option<String>,
    /// Whether a prompt length that differs from ours was told already.
    pub(crate) told_lengths: bool,
}

impl Replica {
    pub(crate) fn new(base: String, options: &UpstreamOptions) -> Self {
        let blocks = options.cache_tokens / options.block_tokens.max(1);
        let state = State {
            breaker: Breaker::new(options.breaker_failures, options.breaker_pause),
            residency: Residency::new(blocks, options.cache_ttl),
            busy_until: None,
            profile: None,
            refused: None,
            told_lengths: false,
        };
        Self {
            base,
            in_flight: AtomicUsize::new(0),
            ready: AtomicBool::new(true),
            state: Mutex::new(state),
            probing: tokio::sync::Mutex::default(),
        }
    }

    /// Its state. Nothing that can panic runs under the lock.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the choice sees it.
    pub(crate) fn standing(&self, now: Instant) -> Standing<'_> {
        let state = self.state();
        let spared = state.busy_until.is_some_and(|until| now < until);
        Standing {
            name: &self.base,
            in_flight: self.in_flight(),
            usable: state.refused.is_none() && state.breaker.would_pass(now),
            ready: self.is_ready() && !spared,
        }
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn enter(&self) -> InFlight<'_> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { replica: self, alone: before == 0 }
    }

    /// Whether it answered when last looked at.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// It answers, or does not. Whether that is new. One that comes back may have been restarted: what it held is gone, and
    /// how it takes prompts is asked again.
    pub(crate) fn set_ready(&self, ready: bool) -> bool {
        let changed = self.ready.swap(ready, Ordering::Relaxed) != ready;
        if changed {
            let mut state = self.state();
            state.residency.forget_all();
            state.profile = None;
            state.refused = None;
        }
        changed
    }

    /// A request failed, and it was the server's fault.
    pub(crate) fn failed(&self, now: Instant) {
        if self.state().breaker.failed(now) {
            tracing::warn!(
                replica = self.base,
                "an upstream server failed repeatedly and gets no requests for a while"
            );
        }
    }

    /// It asked to be spared for a while.
    pub(crate) fn busy(&self, now: Instant, pause: Duration) {
        self.state().busy_until = Some(now + pause);
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    replica: &'a Replica,
    /// Whether it met no other.
    pub(crate) alone: bool,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.replica.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
