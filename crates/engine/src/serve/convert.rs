//! The cache's terms in those of the model API, and back.

use std::{collections::BTreeMap, time::Duration};

use edgewise_kv_cache::{self as kv, KvCache, MissReason as Kind, Ttl};
use edgewise_model_api::{Boundary, CacheState, MissReason, RetainedPrefix, Retention};

/// Boundaries as the cache wants them.
pub(crate) fn boundaries(boundaries: &[Boundary]) -> Vec<kv::Boundary> {
    let ttl = |retention| match retention {
        Retention::FiveMinutes => Ttl::FiveMinutes,
        Retention::OneHour => Ttl::OneHour,
    };
    boundaries.iter().map(|b| kv::Boundary { at: b.at, ttl: ttl(b.retention) }).collect()
}

/// A miss as callers see it.
pub(crate) fn miss(miss: kv::Miss) -> MissReason {
    match miss {
        kv::Miss::BelowMinimum => MissReason::BelowMinimum,
        kv::Miss::DivergedAt { token, segment } => MissReason::DivergedAt { token, segment },
        kv::Miss::Expired => MissReason::Expired,
        kv::Miss::Evicted => MissReason::Evicted,
        kv::Miss::NeverWritten => MissReason::NeverWritten,
        kv::Miss::InFlight => MissReason::InFlight,
    }
}

/// Pages evicted, by the name of the cause.
pub(crate) fn evictions(evictions: &kv::Evictions) -> [(&'static str, u64); 4] {
    let kv::Evictions { unretained, expired, over_budget, within_budget } = *evictions;
    [("unretained", unretained), ("expired", expired), ("over_budget", over_budget), ("within_budget", within_budget)]
}

/// The cache as callers see it. Holds the cache only for counting, so the caller should not hold it longer either.
pub(crate) fn state(cache: &KvCache, page_tokens: usize, page_bytes: usize, now: Duration) -> CacheState {
    let stats = cache.stats();
    let retention = |ttl| match ttl {
        Ttl::FiveMinutes => Retention::FiveMinutes,
        Ttl::OneHour => Retention::OneHour,
    };
    let prefix = |prefix: kv::PrefixInfo| RetainedPrefix {
        id: prefix.id.0,
        parent: prefix.parent.map(|parent| parent.0),
        tenant: prefix.tenant,
        tokens: prefix.tokens,
        pages: prefix.pages + prefix.host_pages,
        retention: retention(prefix.ttl),
        expires_in_s: prefix.left.as_secs_f64(),
        hits: prefix.hits,
    };
    let misses: BTreeMap<String, u64> =
        Kind::ALL.iter().map(|kind| (kind.name().to_owned(), stats.missed(*kind).tokens)).collect();
    CacheState {
        page_tokens,
        page_bytes,
        pages_total: stats.total,
        pages_free: stats.free,
        pages_used: stats.used,
        pages_cached: stats.cached,
        pages_retained: stats.retained,
        host_pages_total: stats.host_total,
        host_pages_used: stats.host_used,
        hit_tokens: stats.hit_tokens,
        miss_tokens: misses,
        evicted_pages: evictions(&stats.evictions).map(|(cause, pages)| (cause.to_owned(), pages)).into(),
        prefixes: cache.prefixes(now).into_iter().map(prefix).collect(),
    }
}
