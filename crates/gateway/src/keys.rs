//! The keys as a running server sees them: a thread notices what other processes change, several times a second, and tells
//! those whose answers must end with their key.
//!
//! What a key that is revoked, or expires, means for what it already asked: an answer, streamed or not, ends within a
//! second with an error, its generation is cancelled, and what was produced until then is recorded and charged. Other
//! streams end without an error. Uploads that were accepted are completed, and jobs go on: they belong to the tenant.
//!
//! Refusals are logged through here too, counted together, so that nobody can make the server write for each bad request.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::watch;

use edgewise_access::{AccessStore, AuditEvent};
use edgewise_types::Usage;
use jiff::Timestamp;

use crate::{
    ApiError, ErrorKind,
    caller::Caller,
    limits::{Counters, Place},
};

/// How often the file of keys is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// Different entries of the audit log that wait to be written at most; more are counted together.
const MOST_PENDING: usize = 256;

/// Keys, and who is to hear of changes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keys(Arc<Inner>);

struct Inner {
    store: Arc<AccessStore>,
    required: bool,
    /// Goes up with every change of the keys that work.
    changes: watch::Sender<u64>,
    counters: Counters,
    /// By a text that tells them apart.
    pending: Mutex<HashMap<String, (AuditEvent, u64)>>,
}

impl Keys {
    /// Begins to watch `store`, until the last clone is gone. `required`: a key is needed even while there are none.
    pub(crate) fn watch(store: Arc<AccessStore>, required: bool) -> Self {
        let (changes, counters, pending) = (watch::Sender::new(0), Counters::default(), Mutex::default());
        let inner = Inner { store, required, changes, counters, pending };
        let keys = Self(Arc::new(inner));
        let watched = Arc::downgrade(&keys.0);
        if let Err(error) = std::thread::Builder::new().name("keys".to_owned()).spawn(move || look(&watched)) {
            tracing::error!(%error, "changes of keys are only noticed at the next start");
        }
        keys
    }

    pub(crate) fn store(&self) -> &Arc<AccessStore> {
        &self.0.store
    }

    /// Whether requests need a key. Once one was made they do, whatever becomes of it.
    pub(crate) fn needed(&self) -> bool {
        self.0.required || self.0.store.has_keys()
    }

    /// Resolves when the caller's key does not work any more, with what to tell.
    pub(crate) fn ended(&self, caller: &Caller) -> impl Future<Output = ApiError> + Send + 'static {
        let (store, mut changes, key) = (Arc::clone(&self.0.store), self.0.changes.subscribe(), caller.key.clone());
        async move {
            let Some(key) = key else { return std::future::pending().await };
            while store.works(&key, Timestamp::now()) {
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
            ApiError::new(ErrorKind::Unauthorized, format!("the key {key} was revoked or has expired"))
                .hint("what was produced until now is charged; use another key")
        }
    }

    /// Lets a request in, or refuses it for what its key has used. `spends`: it may use tokens.
    pub(crate) fn admit(&self, caller: &Caller, spends: bool) -> Result<Option<Place>, ApiError> {
        self.0.counters.admit(&self.0.store, caller, spends, Timestamp::now())
    }

    /// Counts the tokens an answer used.
    pub(crate) fn spent(&self, caller: &Caller, usage: &Usage) {
        if let Some(key) = &caller.key {
            let tokens = usage.prompt_tokens().saturating_add(usage.output_tokens);
            self.0.store.used_tokens(key, tokens as u64, Timestamp::now());
        }
    }

    /// Logs an event soon, together with equal ones.
    pub(crate) fn audit(&self, event: AuditEvent) {
        let mut pending = self.0.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let name = |event: &AuditEvent| {
            format!("{:?} {:?} {:?} {} {}", event.action, event.key, event.tenant, event.actor, event.detail)
        };
        let mut named = name(&event);
        let mut event = event;
        if pending.len() >= MOST_PENDING && !pending.contains_key(&named) {
            event = AuditEvent { actor: "others".to_owned(), key: None, tenant: None, detail: Value::Null, ..event };
            named = name(&event);
        }
        pending.entry(named).or_insert((event, 0)).1 += 1;
    }
}

impl Inner {
    fn write_audit(&self) {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        for (event, count) in pending.into_values() {
            if let Err(error) = self.store.audit(Timestamp::now(), &event, count) {
                tracing::error!(%error, action = event.action.as_str(), "the audit log can't be written");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.write_audit();
        if let Err(error) = self.store.refresh(Timestamp::now()) {
            tracing::warn!(%error, "what keys used last could not be written");
        }
    }
}

fn look(watched: &Weak<Inner>) {
    let mut failing = false;
    loop {
        std::thread::sleep(LOOK);
        let Some(inner) = watched.upgrade() else { return };
        match inner.store.refresh(Timestamp::now()) {
            Ok(refreshed) => {
                failing = false;
                if refreshed.keys {
                    inner.changes.send_modify(|changes| *changes += 1);
                }
            }
            Err(error) if !failing => {
                failing = true;
                tracing::error!(%error, "the keys can't be read: those known so far stay in force");
            }
            Err(_) => {}
        }
        inner.write_audit();
    }
}
