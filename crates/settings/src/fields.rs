//! The table of keys: type, range and what to say when a value is not allowed. One entry per key of
//! `config/edgewise.toml`; every layer is checked against it before a value is accepted.

use toml::Value;

use crate::{
    upstream::is_url,
    values::{parse_amount, parse_host},
};

/// What a key holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// A whole number in a closed range.
    Integer {
        /// Least.
        min: i64,
        /// Most.
        max: i64,
    },
    /// A number in a closed range.
    Float {
        /// Least.
        min: f64,
        /// Most.
        max: f64,
    },
    /// True or false.
    Switch,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Any text; empty where that has a meaning.
    Text {
        /// Whether it may be empty.
        optional: bool,
    },
    /// An IP address or `localhost`.
    Host,
    /// A list of host names, without port; as text, joined by commas.
    Hosts,
    /// An amount in dollars above 0, as text, so that it is exact; empty where none is meant.
    Amount,
    /// A path; empty where that has a meaning.
    Path {
        /// Whether it may be empty.
        optional: bool,
    },
    /// A list of addresses of servers; in variables and flags separated by commas.
    Urls,
}

/// A key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Field {
    /// Section and name, joined by a dot.
    pub key: &'static str,
    /// What it holds.
    pub kind: Kind,
}

const fn integer(key: &'static str, min: i64, max: i64) -> Field {
    Field { key, kind: Kind::Integer { min, max } }
}

const MIB: i64 = 1 << 20;
const TIB: i64 = 1 << 40;

/// All keys, in the order of `config/edgewise.toml`.
pub const FIELDS: &[Field] = &[
    Field { key: "server.host", kind: Kind::Host },
    integer("server.port", 0, 65_535),
    integer("server.max_body_bytes", 1024, 1024 * MIB),
    integer("server.max_upload_bytes", 1024, 1024 * 1024 * MIB),
    integer("server.max_batch_bytes", 1024, 1024 * 1024 * MIB),
    integer("server.request_timeout_s", 1, 86_400),
    integer("server.shutdown_grace_s", 0, 3_600),
    integer("server.max_concurrent_requests", 1, 65_536),
    Field { key: "server.allowed_hosts", kind: Kind::Hosts },
    integer("server.header_timeout_s", 1, 3_600),
    integer("server.body_timeout_s", 1, 3_600),
    integer("server.max_connections", 1, 1_048_576),
    Field { key: "server.tls_cert", kind: Kind::Path { optional: true } },
    Field { key: "server.tls_key", kind: Kind::Path { optional: true } },
    Field { key: "paths.data", kind: Kind::Path { optional: false } },
    Field { key: "paths.models", kind: Kind::Path { optional: true } },
    Field { key: "paths.prompts", kind: Kind::Path { optional: true } },
    Field { key: "paths.ledger", kind: Kind::Path { optional: true } },
    Field { key: "paths.registry", kind: Kind::Path { optional: true } },
    Field { key: "paths.prefixes", kind: Kind::Path { optional: true } },
    Field { key: "paths.profiles", kind: Kind::Path { optional: true } },
    Field { key: "paths.passwords", kind: Kind::Path { optional: true } },
    Field { key: "paths.prices", kind: Kind::Path { optional: true } },
    Field { key: "paths.access", kind: Kind::Path { optional: true } },
    Field { key: "models.generator", kind: Kind::Text { optional: false } },
    Field { key: "models.embedder", kind: Kind::Text { optional: false } },
    Field { key: "retrieval.reranker", kind: Kind::Text { optional: true } },
    integer("retrieval.rerank_depth", 1, 1_000),
    Field { key: "engine.device", kind: Kind::Choice(&["auto", "cpu", "cuda"]) },
    Field { key: "engine.device_precision", kind: Kind::Choice(&["auto", "bf16", "f16"]) },
    Field { key: "engine.device_attention", kind: Kind::Choice(&["own", "flash-attn"]) },
    Field { key: "engine.device_kv_precision", kind: Kind::Choice(&["half", "fp8"]) },
    Field { key: "engine.device_memory_share", kind: Kind::Float { min: 0.05, max: 1.0 } },
    integer("engine.device_prefill_chunk", 64, 65_536),
    integer("engine.threads", 0, 4_096),
    integer("engine.prefill_chunk", 1, 65_536),
    integer("engine.max_sequences", 1, 65_536),
    integer("engine.target_ttft_ms", 1, 86_400_000),
    integer("engine.target_itl_ms", 1, 86_400_000),
    integer("engine.cache_bytes", MIB, 16 * TIB),
    integer("engine.host_cache_bytes", 0, 16 * TIB),
    integer("engine.min_prefix_tokens", 1, 1_000_000),
    Field { key: "engine.retained_share", kind: Kind::Float { min: 0.0, max: 0.75 } },
    Field { key: "engine.prefix_store", kind: Kind::Switch },
    integer("engine.default_max_tokens", 1, 1_000_000),
    Field { key: "upstream.urls", kind: Kind::Urls },
    Field { key: "upstream.model", kind: Kind::Text { optional: true } },
    Field { key: "upstream.tokenizer", kind: Kind::Text { optional: true } },
    Field { key: "upstream.api_key_env", kind: Kind::Text { optional: true } },
    Field {
        key: "upstream.server",
        kind: Kind::Choice(&["auto", "vllm", "sglang", "llama-cpp", "llama-cpp-python", "openai"]),
    },
    Field { key: "upstream.prompt", kind: Kind::Choice(&["auto", "tokens", "text"]) },
    integer("upstream.context_window", 0, 100_000_000),
    integer("upstream.connect_timeout_ms", 1, 3_600_000),
    integer("upstream.first_token_timeout_ms", 1, 86_400_000),
    integer("upstream.idle_timeout_ms", 1, 86_400_000),
    integer("upstream.retries", 0, 100),
    integer("upstream.backoff_ms", 1, 3_600_000),
    integer("upstream.breaker_failures", 1, 1_000),
    integer("upstream.breaker_pause_ms", 1, 3_600_000),
    integer("upstream.health_interval_ms", 10, 3_600_000),
    Field { key: "upstream.load_factor", kind: Kind::Float { min: 1.0, max: 100.0 } },
    integer("upstream.max_in_flight", 0, 1_000_000),
    integer("upstream.block_tokens", 1, 65_536),
    integer("upstream.cache_tokens", 1, 1_000_000_000),
    integer("upstream.cache_ttl_s", 1, 31_536_000),
    Field { key: "planner.objective", kind: Kind::Choice(&["cheapest", "balanced", "best"]) },
    integer("planner.max_input_tokens", 0, 1_000_000_000),
    Field { key: "planner.max_cost", kind: Kind::Amount },
    integer("planner.max_latency_ms", 0, 86_400_000),
    integer("planner.passages_budget_tokens", 1, 1_000_000_000),
    integer("planner.section_tokens", 0, 1_000_000_000),
    integer("planner.documents_budget_tokens", 1, 1_000_000_000),
    integer("planner.top_k", 1, 200),
    Field { key: "planner.score_floor", kind: Kind::Float { min: -1.0, max: 1.0 } },
    integer("planner.excerpts_budget_tokens", 0, 1_000_000_000),
    Field { key: "planner.respect_effective_window", kind: Kind::Choice(&["ignore", "penalise", "refuse"]) },
    Field { key: "planner.escalate", kind: Kind::Switch },
    Field { key: "planner.router", kind: Kind::Path { optional: true } },
    Field { key: "planner.pre_route", kind: Kind::Choice(&["off", "model"]) },
    Field { key: "tree.summariser", kind: Kind::Choice(&["extractive", "abstractive"]) },
    Field { key: "tree.auto", kind: Kind::Switch },
    integer("tree.summary_tokens", 32, 8_192),
    integer("tree.max_calls", 0, 1_000_000_000),
    integer("tree.max_tokens", 0, 1_000_000_000_000),
    Field { key: "tree.max_cost", kind: Kind::Amount },
    integer("tree.max_seconds", 0, 31_536_000),
    integer("monitor.probe_every_h", 0, 8_760),
    Field { key: "ledger.durability", kind: Kind::Choice(&["process", "power"]) },
    integer("ledger.keep_days", 0, 36_500),
    integer("ledger.minutes_days", 1, 36_500),
    Field { key: "ledger.texts", kind: Kind::Switch },
    integer("ledger.texts_days", 1, 36_500),
    Field { key: "telemetry.log", kind: Kind::Text { optional: false } },
    Field { key: "telemetry.format", kind: Kind::Choice(&["text", "json"]) },
    Field { key: "telemetry.log_texts", kind: Kind::Switch },
    Field { key: "telemetry.otlp_endpoint", kind: Kind::Text { optional: true } },
    Field { key: "telemetry.otlp_sample", kind: Kind::Float { min: 0.0, max: 1.0 } },
];

/// Whether this can be the name in a `Host` header (RFC 1123, 2.1), without port.
fn is_host_name(name: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// The field of `key`.
pub fn field(key: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.key == key)
}

/// Names of all sections, in order.
pub(crate) fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&str> = FIELDS.iter().filter_map(|field| field.key.split('.').next()).collect();
    sections.dedup();
    sections
}

/// Names of the keys of a section, without the section.
pub(crate) fn keys_of(section: &str) -> Vec<&'static str> {
    let of_section = |field: &&Field| field.key.split_once('.').is_some_and(|(s, _)| s == section);
    FIELDS.iter().filter(of_section).filter_map(|field| field.key.split_once('.')).map(|(_, key)| key).collect()
}

impl Kind {
    /// What is allowed, to follow "must be".
    pub fn allowed(&self) -> String {
        match self {
            Self::Integer { min, max } => format!("a whole number from {min} to {max}"),
            Self::Float { min, max } => format!("a number from {min} to {max}"),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
            Self::Switch => "true or false".to_owned(),
            Self::Text { optional: true } => "a text, or empty".to_owned(),
            Self::Text { optional: false } => "a text that is not empty".to_owned(),
            Self::Host => "an IP address or localhost".to_owned(),
            Self::Hosts => "a list of host names such as [\"docs.example.org\"], without port".to_owned(),
            Self::Amount => "an amount in dollars above 0 such as \"0.002\", or empty".to_owned(),
            Self::Path { optional: true } => "a path, or empty".to_owned(),
            Self::Path { optional: false } => "a path".to_owned(),
            Self::Urls => "a list of addresses such as [\"http://host:8000\"], or empty".to_owned(),
        }
    }

    /// Whether `value` is of the type and in the range. A whole number is accepted where a fraction may stand.
    pub(crate) fn accepts(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Integer { min, max }, Value::Integer(n)) => (min..=max).contains(&n),
            (Self::Float { min, max }, Value::Float(x)) => (min..=max).contains(&x),
            (Self::Float { min, max }, Value::Integer(n)) => (*min..=*max).contains(&(*n as f64)),
            (Self::Switch, Value::Boolean(_)) => true,
            (Self::Choice(words), Value::String(s)) => words.contains(&s.as_str()),
            (Self::Text { optional }, Value::String(s)) => *optional || !s.trim().is_empty(),
            (Self::Host, Value::String(s)) => parse_host(s).is_some(),
            (Self::Hosts, Value::Array(names)) => names.iter().all(|name| name.as_str().is_some_and(is_host_name)),
            (Self::Amount, Value::String(s)) => s.is_empty() || parse_amount(s).is_some(),
            (Self::Path { optional }, Value::String(s)) => *optional || !s.is_empty(),
            (Self::Urls, Value::Array(urls)) => urls.iter().all(|url| url.as_str().is_some_and(is_url)),
            _ => false,
        }
    }

    /// Reads a value from a variable or flag; `None` if it is not of the type. The range is not checked.
    pub(crate) fn parse(&self, text: &str) -> Option<Value> {
        match self {
            Self::Integer { .. } => text.trim().parse().ok().map(Value::Integer),
            Self::Float { .. } => text.trim().parse().ok().map(Value::Float),
            Self::Switch => text.trim().parse().ok().map(Value::Boolean),
            Self::Urls | Self::Hosts if text.trim_start().starts_with('[') => {
                toml::from_str::<toml::Table>(&format!("list = {text}")).ok()?.remove("list")
            }
            Self::Urls => {
                let urls = text.split(',').map(str::trim).filter(|url| !url.is_empty());
                Some(Value::Array(urls.map(|url| Value::String(url.to_owned())).collect()))
            }
            Self::Hosts => {
                let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                Some(Value::Array(names.map(|name| Value::String(name.to_owned())).collect()))
            }
            Self::Choice(_) | Self::Text { .. } | Self::Host | Self::Amount | Self::Path { .. } => {
                Some(Value::String(text.to_owned()))
            }
        }
    }
}
