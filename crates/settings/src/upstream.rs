//! The section `[upstream]`: other servers that answer. What each key means is written in `config/edgewise.toml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Servers that answer instead of the local engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// Their addresses; empty means the local engine answers.
    pub urls: Vec<String>,
    /// The model's name there; empty means `models.generator`. See [`Upstream::model_name`].
    pub model: String,
    /// Where its tokenizer is: a name of the registry, a file or a folder; empty means `models.generator`. See
    /// [`Upstream::tokenizer_name`].
    pub tokenizer: String,
    /// Variable that holds the key; empty means none. See [`Upstream::key_variable`].
    pub api_key_env: String,
    /// Kind of servers.
    pub server: String,
    /// How prompts travel.
    pub prompt: String,
    /// Their context window in tokens; 0 is what the tokenizer's files say.
    pub context_window: usize,
    /// Longest time for a connection, milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest time to the first token, milliseconds.
    pub first_token_timeout_ms: u64,
    /// Longest time between two tokens, milliseconds.
    pub idle_timeout_ms: u64,
    /// Further attempts of a request that failed before its first token.
    pub retries: u32,
    /// Longest pause before the first of them, milliseconds.
    pub backoff_ms: u64,
    /// Failures in a row that take a server out.
    pub breaker_failures: u32,
    /// For how long, milliseconds.
    pub breaker_pause_ms: u64,
    /// Between two looks at a server, milliseconds.
    pub health_interval_ms: u64,
    /// How much more than its share of the running requests a server may have.
    pub load_factor: f64,
    /// Requests under way at once; 0 is no limit.
    pub max_in_flight: usize,
    /// Tokens of a block of their prefix caches.
    pub block_tokens: usize,
    /// Tokens of prompts that each remembers.
    pub cache_tokens: usize,
    /// How long each remembers an unused prompt, seconds.
    pub cache_ttl_s: u64,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            model: String::new(),
            tokenizer: String::new(),
            api_key_env: String::new(),
            server: "auto".to_owned(),
            prompt: "auto".to_owned(),
            context_window: 0,
            connect_timeout_ms: 5_000,
            first_token_timeout_ms: 120_000,
            idle_timeout_ms: 30_000,
            retries: 2,
            backoff_ms: 200,
            breaker_failures: 3,
            breaker_pause_ms: 5_000,
            health_interval_ms: 5_000,
            load_factor: 1.25,
            max_in_flight: 0,
            block_tokens: 16,
            cache_tokens: 1_000_000,
            cache_ttl_s: 3_600,
        }
    }
}

impl Upstream {
    /// Whether other servers answer.
    pub fn is_used(&self) -> bool {
        !self.urls.is_empty()
    }

    /// The model's name on the servers, where `generator` is its name here.
    pub fn model_name<'a>(&'a self, generator: &'a str) -> &'a str {
        if self.model.trim().is_empty() { generator } else { self.model.trim() }
    }

    /// Where the tokenizer is, if not with `models.generator`.
    pub fn tokenizer_name(&self) -> Option<&str> {
        Some(self.tokenizer.trim()).filter(|name| !name.is_empty())
    }

    /// The tokenizer as a path, if it is one.
    pub fn tokenizer_path(&self) -> Option<PathBuf> {
        self.tokenizer_name().filter(|name| name.contains('/')).map(PathBuf::from)
    }

    /// The variable that holds the servers' key, if there is one.
    pub fn key_variable(&self) -> Option<&str> {
        Some(self.api_key_env.trim()).filter(|name| !name.is_empty())
    }
}

/// Whether `url` can be the address of a server.
pub(crate) fn is_url(url: &str) -> bool {
    let host = url.strip_prefix("http://").or(url.strip_prefix("https://"));
    host.is_some_and(|host| !host.is_empty() && !host.starts_with(['/', ':']) && !host.contains(char::is_whitespace))
}
