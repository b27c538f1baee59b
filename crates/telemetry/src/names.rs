//! Every metric: name, type, unit, labels and meaning.
//!
//! Names follow the Prometheus conventions (prometheus.io/docs/practices/naming): a prefix, the base unit as suffix,
//! `_total` for counters. One exception: cost is counted in nano-dollars, not dollars, because money is an integer here
//! and a counter of integers stays exact, while dollars would need fractions that are rounded. Queries divide by 1e9.
//!
//! Values of labels are constants of [`labels`] or closed sets of the crate that records them.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Label names.
pub mod labels {
    /// Path pattern of the API, such as `/v1/collections/{name}`; never a concrete path.
    pub const PATH: &str = "path";
    /// HTTP method.
    pub const METHOD: &str = "method";
    /// HTTP status code.
    pub const STATUS: &str = "status";
    /// Route of the planner: `passages`, `tree`, `documents`, `full`.
    pub const ROUTE: &str = "route";
    /// What pages, sequences or upstream servers are doing: `free`, `used`, `cached`, `retained`; `running`, `waiting`;
    /// `ready`, `down`.
    pub const STATE: &str = "state";
    /// Why something was not there or had to go, in the words of the key-value cache; the limit of a key that was met:
    /// `requests_per_minute`, `concurrent_requests`, `tokens_per_day`.
    pub const REASON: &str = "reason";
    /// What a prompt found in the cache: `hit`, `partial`, `miss`; what became of an alert: `told`, `failed`; of a document:
    /// `added`, `changed`, `unchanged`, `removed`, `failed`; of the file of a prefix: `written`, `extended`, `expired`,
    /// `restored`, `refused`, `left`, `failed`; of a request to upstream servers: `answered`, `failed` after a token,
    /// `refused` before any, `cancelled`.
    pub const OUTCOME: &str = "outcome";
    /// Third of a prompt: `beginning`, `middle`, `end`.
    pub const REGION: &str = "region";
    /// Where a figure of reading comes from: `probes`, `citations`; what was predicted: `cost`, `ttft`, `latency`.
    pub const SIGNAL: &str = "signal";
    /// Which index of a collection: `lexical`, `vector`.
    pub const INDEX: &str = "index";
    /// Version of the program.
    pub const VERSION: &str = "version";
}

/// Type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Distribution over buckets.
    Histogram,
}

/// A metric's declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Name.
    pub name: &'static str,
    /// Type.
    pub kind: MetricKind,
    /// Unit.
    pub unit: Unit,
    /// Names of its labels.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($constant:ident = $name:literal, $kind:ident, $unit:ident, [$($label:ident),*], $help:literal;)*) => {
        $(#[doc = $help] pub const $constant: &str = $name;)*

        /// All metrics.
        pub const ALL: &[Metric] = &[$(Metric {
            name: $constant,
            kind: MetricKind::$kind,
            unit: Unit::$unit,
            labels: &[$(labels::$label),*],
            help: $help,
        }),*];
    };
}

metrics! {
    BUILD_INFO = "edgewise_build_info", Gauge, Count, [VERSION], "Always 1; the version is in the label.";
    REQUESTS_REFUSED_TOTAL = "edgewise_requests_refused_total", Counter, Count, [REASON],
        "Requests refused for what their key has used.";
    HTTP_REQUESTS_TOTAL = "edgewise_http_requests_total", Counter, Count, [PATH, METHOD, STATUS],
        "HTTP requests answered.";
    HTTP_REQUEST_DURATION_SECONDS = "edgewise_http_request_duration_seconds", Histogram, Seconds, [PATH, METHOD],
        "Time from a request's arrival to the end of its response, streams included.";
    HTTP_REQUESTS_IN_FLIGHT = "edgewise_http_requests_in_flight", Gauge, Count, [],
        "HTTP requests being worked on.";
    QUERY_DURATION_SECONDS = "edgewise_query_duration_seconds", Histogram, Seconds, [ROUTE],
        "Time from a question to the end of its answer, by the route that gave it.";
    TTFT_SECONDS = "edgewise_ttft_seconds", Histogram, Seconds, [],
        "Time from a question to the first token of its answer.";
    ROUTE_DECISIONS_TOTAL = "edgewise_route_decisions_total", Counter, Count, [ROUTE],
        "Questions by the route the planner chose first.";
    PREFILL_TOKENS_TOTAL = "edgewise_prefill_tokens_total", Counter, Count, [],
        "Prompt tokens whose keys and values were computed.";
    CACHED_TOKENS_TOTAL = "edgewise_cached_tokens_total", Counter, Count, [],
        "Prompt tokens whose keys and values were already resident.";
    OUTPUT_TOKENS_TOTAL = "edgewise_output_tokens_total", Counter, Count, [], "Tokens generated.";
    INTER_TOKEN_SECONDS = "edgewise_inter_token_seconds", Histogram, Seconds, [],
        "Mean time between two tokens of an answer.";
    PREFIX_REQUESTS_TOTAL = "edgewise_prefix_requests_total", Counter, Count, [OUTCOME],
        "Answered requests by what their prompt found in the cache: all it could, a part, nothing.";
    PREFIX_MISSES_TOTAL = "edgewise_prefix_misses_total", Counter, Count, [REASON],
        "Answered requests whose prompt was not as resident as it could have been, by reason.";
    PREDICTION_ERROR_RATIO = "edgewise_prediction_error_ratio", Histogram, Count, [SIGNAL],
        "Relative error of what was predicted of an answer: its cost, its time to the first token, its whole time.";
    BUDGET_ALERTS_TOTAL = "edgewise_budget_alerts_total", Counter, Count, [],
        "Times that a share of a budget was reached that somebody is told of.";
    WEBHOOK_POSTS_TOTAL = "edgewise_webhook_posts_total", Counter, Count, [OUTCOME],
        "Alerts posted to webhooks, by whether they were taken.";
    COST_NANODOLLARS_TOTAL = "edgewise_cost_nanodollars_total", Counter, Count, [ROUTE],
        "Cost of answered questions in billionths of a dollar.";
    INDEX_COLLECTIONS = "edgewise_index_collections", Gauge, Count, [STATE],
        "Collections that can be opened, and those that are damaged.";
    INDEX_DOCUMENTS = "edgewise_index_documents", Gauge, Count, [], "Documents of all collections.";
    INDEX_CHUNKS = "edgewise_index_chunks", Gauge, Count, [], "Chunks of all collections.";
    INDEX_BEHIND_GENERATIONS = "edgewise_index_behind_generations", Gauge, Count, [INDEX],
        "Commits that an index has not taken in yet, of the collection where that is most.";
    INDEX_GRAPHS_BUILDING = "edgewise_index_graphs_building", Gauge, Count, [],
        "Collections whose graph of vectors is being built.";
    INGEST_DOCUMENTS_TOTAL = "edgewise_ingest_documents_total", Counter, Count, [OUTCOME],
        "Documents seen by ingestion, by what became of them.";
    INGEST_CHUNKS_TOTAL = "edgewise_ingest_chunks_total", Counter, Count, [], "Chunks stored.";
    EMBED_TOKENS_TOTAL = "edgewise_embed_tokens_total", Counter, Count, [], "Tokens embedded.";
    ENGINE_QUEUE_REQUESTS = "edgewise_engine_queue_requests", Gauge, Count, [],
        "Generations waiting or running in the engine.";
    ENGINE_QUEUE_PREFILL_TOKENS = "edgewise_engine_queue_prefill_tokens", Gauge, Count, [],
        "Prompt tokens of accepted generations that are not prefilled yet.";
    PREFIX_STORE_TOTAL = "edgewise_prefix_store_total", Counter, Count, [OUTCOME],
        "Files of retained prefixes by what became of them.";
    ENGINE_SEQUENCES = "edgewise_engine_sequences", Gauge, Count, [STATE],
        "Sequences running and waiting; a generation has one for each sample.";
    ENGINE_STEPS_TOTAL = "edgewise_engine_steps_total", Counter, Count, [], "Forward passes.";
    ENGINE_STEP_SEQUENCES_TOTAL = "edgewise_engine_step_sequences_total", Counter, Count, [],
        "Sequences in all forward passes; divided by the passes, the mean size of a batch.";
    ENGINE_BATCH_SEQUENCES = "edgewise_engine_batch_sequences", Histogram, Count, [],
        "Sequences of a forward pass.";
    ENGINE_PREEMPTIONS_TOTAL = "edgewise_engine_preemptions_total", Counter, Count, [],
        "Sequences that gave back their pages to older ones and were computed again later.";
    KV_PAGES = "edgewise_kv_pages", Gauge, Count, [STATE],
        "Pages of keys and values: free, used and cached ones are all there are; retained ones are used or cached.";
    KV_HIT_TOKENS_TOTAL = "edgewise_kv_hit_tokens_total", Counter, Count, [],
        "Prompt tokens found resident by the cache, those of sequences computed again included.";
    KV_MISSED_TOKENS_TOTAL = "edgewise_kv_missed_tokens_total", Counter, Count, [REASON],
        "Tokens of stable prefixes not found resident, by reason.";
    KV_EVICTED_PAGES_TOTAL = "edgewise_kv_evicted_pages_total", Counter, Count, [REASON],
        "Pages of keys and values evicted, by reason.";
    KV_RESIDENCY_SECONDS = "edgewise_kv_residency_seconds", Histogram, Seconds, [],
        "Time from the publication of a page of keys and values to its eviction.";
    KV_IDLE_BEFORE_EVICTION_SECONDS = "edgewise_kv_idle_before_eviction_seconds", Histogram, Seconds, [],
        "Time from the last use of a page of keys and values to its eviction.";
    UPSTREAM_REQUESTS_TOTAL = "edgewise_upstream_requests_total", Counter, Count, [OUTCOME],
        "Generations by upstream servers, by what became of them.";
    UPSTREAM_RETRIES_TOTAL = "edgewise_upstream_retries_total", Counter, Count, [],
        "Further attempts of generations of which no token had come.";
    UPSTREAM_REPLICAS = "edgewise_upstream_replicas", Gauge, Count, [STATE],
        "Upstream servers that answer when looked at, and those that do not.";
    EMBED_QUEUE_TOKENS = "edgewise_embed_queue_tokens", Gauge, Count, [],
        "Tokens of texts waiting for the embedder or being embedded.";
    RERANK_QUEUE_TOKENS = "edgewise_rerank_queue_tokens", Gauge, Count, [],
        "Tokens of questions and passages waiting for the reranker or being read by it.";
    RERANK_TOKENS_TOTAL = "edgewise_rerank_tokens_total", Counter, Count, [],
        "Tokens of questions and passages read by the reranker.";
    EMBED_CACHE_HITS_TOTAL = "edgewise_embed_cache_hits_total", Counter, Count, [],
        "Texts whose vectors were in the embedder's cache.";
    EMBED_CACHE_MISSES_TOTAL = "edgewise_embed_cache_misses_total", Counter, Count, [],
        "Texts whose vectors had to be computed, or were refused.";
    REGION_RECALL = "edgewise_region_recall", Gauge, Count, [REGION, SIGNAL],
        "Share of what stood in a region of prompts that was found or cited, corrected for its ranks; 0 to 1.";
    REGION_ALERT = "edgewise_region_alert", Gauge, Count, [REGION, SIGNAL],
        "1 while a region of prompts is read significantly worse than its baseline, else 0.";
}

/// Tells the installed recorder type, unit and meaning of every metric. [`crate::install_metrics`] does this.
pub fn describe_all() {
    for Metric { name, kind, unit, help, .. } in ALL {
        match kind {
            MetricKind::Counter => describe_counter!(*name, *unit, *help),
            MetricKind::Gauge => describe_gauge!(*name, *unit, *help),
            MetricKind::Histogram => describe_histogram!(*name, *unit, *help),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_conventions_and_are_unique() {
        let mut seen = HashSet::new();
        for metric in ALL {
            let Metric { name, kind, unit, help, .. } = metric;
            assert!(seen.insert(*name), "{name} twice");
            assert!(name.starts_with("edgewise_"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            assert_eq!(name.ends_with("_seconds"), *unit == Unit::Seconds, "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
        }
    }
}
