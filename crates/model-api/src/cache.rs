//! What a generator tells of its prefix cache.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::TenantId;

use crate::Retention;

/// Why the tokens behind the resident prefix of a prompt were not resident, as far as its tenant may know: nothing here
/// depends on what other tenants sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum MissReason {
    /// The prompt is shorter than what is worth keeping.
    BelowMinimum,
    /// A prompt like it is cached up to here.
    DivergedAt {
        /// The first token that differs.
        token: usize,
        /// The segment it is in: the number of boundaries of the prompt at or before it.
        segment: usize,
    },
    /// It was retained, and its time is over.
    Expired,
    /// It was cached, and its pages were needed for something else.
    Evicted,
    /// Nothing like it was ever cached.
    NeverWritten,
    /// Another request computes it right now.
    InFlight,
}

impl MissReason {
    /// Its name without details, for labels of metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::BelowMinimum => "below_minimum",
            Self::DivergedAt { .. } => "diverged_at",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
            Self::NeverWritten => "never_written",
            Self::InFlight => "in_flight",
        }
    }
}

/// What the engine's cache holds of a prompt right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PrefixState {
    /// Leading tokens whose keys and values are resident. At most the prompt's length minus one: the last token is
    /// always computed, since its logits are needed.
    pub resident_tokens: usize,
    /// How many of these are in host memory and have to be brought to the device first.
    pub host_tokens: usize,
    /// Why there are not more; `None` when all that can be resident is, or when the engine does not say.
    pub miss: Option<MissReason>,
}

/// A prefix the engine was asked to keep.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RetainedPrefix {
    /// Its name, never used twice by one engine.
    pub id: u64,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its length.
    pub tokens: usize,
    /// Pages it takes, those it shares with others included.
    pub pages: usize,
    /// How long it is kept after each use.
    pub retention: Retention,
    /// Seconds until it expires, unless it is used before.
    pub expires_in_s: f64,
    /// Requests that read it.
    pub hits: u64,
}

/// The cache of keys and values as a whole. Pages free, used and cached add up to the total.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CacheState {
    /// Tokens a page holds.
    pub page_tokens: usize,
    /// Bytes of a page, keys and values of all layers.
    pub page_bytes: usize,
    /// Pages planned at start.
    pub pages_total: usize,
    /// Pages that hold nothing.
    pub pages_free: usize,
    /// Pages of requests that run.
    pub pages_used: usize,
    /// Pages no request uses, kept for reuse.
    pub pages_cached: usize,
    /// Pages, used or cached, of retained prefixes.
    pub pages_retained: usize,
    /// Page-sized slots of host memory.
    pub host_pages_total: usize,
    /// Those that hold something.
    pub host_pages_used: usize,
    /// Prompt tokens found resident since the start.
    pub hit_tokens: u64,
    /// Prompt tokens not found, by the name of the reason. For the operator: here is also `other_tenant`, which no
    /// tenant is told.
    pub miss_tokens: BTreeMap<String, u64>,
    /// Pages evicted, by cause.
    pub evicted_pages: BTreeMap<String, u64>,
    /// What is retained.
    pub prefixes: Vec<RetainedPrefix>,
}
