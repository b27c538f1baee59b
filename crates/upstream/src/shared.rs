//! What all requests share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use edgewise_model_api::{GeneratorInfo, Prompt};
use edgewise_types::TenantId;

use crate::{
    ChatEncoder, ServerKind, UpstreamOptions,
    latency::LatencyFit,
    replica::Replica,
    residency::Chain,
    ring::{self, Key},
};

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) options: UpstreamOptions,
    pub(crate) client: reqwest::Client,
    pub(crate) encoder: Arc<dyn ChatEncoder>,
    pub(crate) info: GeneratorInfo,
    pub(crate) replicas: Vec<Replica>,
    latency: Mutex<LatencyFit>,
    pub(crate) requests: AtomicUsize,
    pub(crate) prefill_tokens: AtomicUsize,
    /// Cached prompt tokens that were reported.
    pub(crate) hit_tokens: AtomicU64,
    /// Keys the salts that keep tenants' prefixes apart on servers.
    salt: [u8; 32],
}

impl Shared {
    pub(crate) fn new(
        options: UpstreamOptions,
        bases: Vec<String>,
        client: reqwest::Client,
        encoder: Arc<dyn ChatEncoder>,
        info: GeneratorInfo,
    ) -> Self {
        let replicas = bases.into_iter().map(|base| Replica::new(base, &options)).collect();
        // The same for all gateways before the same servers, which share their caches; a tenant can't compute it without
        // the key the servers ask for.
        let secret = options.api_key.clone().unwrap_or_default();
        let salt = blake3::derive_key("edgewise 2026 upstream tenant salt 1", secret.as_bytes());
        Self {
            options,
            client,
            encoder,
            info,
            replicas,
            latency: Mutex::default(),
            requests: AtomicUsize::new(0),
            prefill_tokens: AtomicUsize::new(0),
            hit_tokens: AtomicU64::new(0),
            salt,
        }
    }

    pub(crate) fn latency(&self) -> MutexGuard<'_, LatencyFit> {
        self.latency.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blocks of a prompt.
    pub(crate) fn chain(&self, tenant: &TenantId, prompt: &Prompt) -> Chain {
        Chain::of(tenant, &prompt.tokens, self.options.block_tokens)
    }

    /// Replicas in the order in which a request with this key tries them.
    pub(crate) fn order(&self, key: &Key, now: Instant) -> Vec<usize> {
        let standings: Vec<_> = self.replicas.iter().map(|replica| replica.standing(now)).collect();
        ring::order(key, &standings, self.options.load_factor)
    }

    /// What keeps a tenant's prefixes apart from others' in a server's cache.
    pub(crate) fn salt_of(&self, tenant: &TenantId) -> String {
        blake3::keyed_hash(&self.salt, tenant.0.as_bytes()).to_hex().as_str().get(..32).unwrap_or_default().to_owned()
    }

    /// The kind of servers, as far as it is known.
    pub(crate) fn kind(&self) -> ServerKind {
        match self.options.kind {
            ServerKind::Auto => {
                self.replicas.iter().find_map(|r| r.state().profile).map_or(ServerKind::Auto, |profile| profile.kind)
            }
            kind => kind,
        }
    }

    /// Why there is no server to send to.
    pub(crate) fn nobody(&self) -> String {
        let refused = self.replicas.iter().find_map(|replica| replica.state().refused.clone());
        refused.unwrap_or_else(|| {
            let names: Vec<&str> = self.replicas.iter().map(|replica| replica.base.as_str()).collect();
            format!(
                "no upstream server can be used now ({}): see that they run; they are tried again by themselves",
                names.join(", ")
            )
        })
    }
}

/// A request in the queue's figures, until it is dropped.
pub(crate) struct Load {
    shared: Arc<Shared>,
    prefill: usize,
    ended: bool,
}

impl Load {
    /// Counts a request with `prefill` tokens to compute.
    pub(crate) fn new(shared: &Arc<Shared>, prefill: usize) -> Self {
        shared.requests.fetch_add(1, Ordering::Relaxed);
        shared.prefill_tokens.fetch_add(prefill, Ordering::Relaxed);
        Self { shared: Arc::clone(shared), prefill, ended: false }
    }

    /// Its prompt has been read.
    pub(crate) fn prefilled(&mut self) {
        self.shared.prefill_tokens.fetch_sub(std::mem::take(&mut self.prefill), Ordering::Relaxed);
    }
}

impl Load {
    /// It is over. To be called before its last event is sent, so that whoever hears of that finds the place free.
    pub(crate) fn end(&mut self) {
        self.prefilled();
        if !std::mem::replace(&mut self.ended, true) {
            self.shared.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}
