//! What the worker tells the metrics.

use edgewise_kv_cache::{Evicted, MissReason, Stats};
use edgewise_telemetry::names::{self, labels};

use super::{convert, work::Part};

/// A step.
pub(crate) fn step(parts: &[Part]) {
    let prefilled: usize = parts.iter().filter(|part| !part.decodes).map(|part| part.tokens).sum();
    metrics::counter!(names::PREFILL_TOKENS_TOTAL).increment(prefilled as u64);
    metrics::counter!(names::ENGINE_STEPS_TOTAL).increment(1);
    metrics::counter!(names::ENGINE_STEP_SEQUENCES_TOTAL).increment(parts.len() as u64);
    metrics::histogram!(names::ENGINE_BATCH_SEQUENCES).record(parts.len() as f64);
}

/// Sequences that gave back their pages to make room for older ones.
pub(crate) fn preempted(sequences: usize) {
    if sequences > 0 {
        metrics::counter!(names::ENGINE_PREEMPTIONS_TOTAL).increment(sequences as u64);
    }
}

/// Pages that were evicted.
pub(crate) fn evicted(pages: &[Evicted]) {
    for Evicted { idle, residency } in pages {
        metrics::histogram!(names::KV_IDLE_BEFORE_EVICTION_SECONDS).record(idle.as_secs_f64());
        metrics::histogram!(names::KV_RESIDENCY_SECONDS).record(residency.as_secs_f64());
    }
}

/// The cache as a whole, and how many sequences run and wait. Too much to be told after every step.
pub(crate) fn cache(stats: &Stats, (running, waiting): (usize, usize)) {
    let pages = [("free", stats.free), ("used", stats.used), ("cached", stats.cached), ("retained", stats.retained)];
    for (state, pages) in pages {
        metrics::gauge!(names::KV_PAGES, labels::STATE => state).set(pages as f64);
    }
    for (state, sequences) in [("running", running), ("waiting", waiting)] {
        metrics::gauge!(names::ENGINE_SEQUENCES, labels::STATE => state).set(sequences as f64);
    }
    for reason in MissReason::ALL {
        let missed = stats.missed(reason).tokens;
        metrics::counter!(names::KV_MISSED_TOKENS_TOTAL, labels::REASON => reason.name()).absolute(missed);
    }
    for (cause, pages) in convert::evictions(&stats.evictions) {
        metrics::counter!(names::KV_EVICTED_PAGES_TOTAL, labels::REASON => cause).absolute(pages);
    }
    metrics::counter!(names::KV_HIT_TOKENS_TOTAL).absolute(stats.hit_tokens);
}
