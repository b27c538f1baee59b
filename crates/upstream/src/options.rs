//! What an upstream is and how patient to be with it.

use std::{fmt, str::FromStr, time::Duration};

/// Why an upstream could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// A setting is missing or contradicts another.
    #[error("{0}")]
    Settings(String),
    /// The HTTP client can't be built.
    #[error("the client for upstream servers cannot be set up: {0}")]
    Client(String),
    /// Its threads can't be started.
    #[error("the threads for upstream servers cannot be started: {0}")]
    Threads(std::io::Error),
}

/// Which server it is: decides which fields beyond OpenAI's own it is sent and understood.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ServerKind {
    /// Told from what `/v1/models` says; [`ServerKind::OpenAi`] where that says nothing.
    #[default]
    Auto,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// llama.cpp's server.
    LlamaCpp,
    /// The server of llama-cpp-python: samples as llama.cpp's, and has no log-probabilities unless it was started so.
    LlamaCppPython,
    /// Nothing but what OpenAI's API has.
    OpenAi,
}

impl ServerKind {
    /// Whether its servers give log-probabilities.
    pub(crate) fn tells_logprobs(self) -> bool {
        matches!(self, Self::Vllm | Self::Sglang | Self::LlamaCpp)
    }

    /// The kind whose models are owned by `owner`, as `/v1/models` has it.
    pub(crate) fn of_owner(owner: &str) -> Self {
        match owner.to_ascii_lowercase().as_str() {
            "vllm" => Self::Vllm,
            "sglang" => Self::Sglang,
            "llamacpp" | "llama.cpp" => Self::LlamaCpp,
            "me" => Self::LlamaCppPython,
            _ => Self::OpenAi,
        }
    }
}

impl FromStr for ServerKind {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        match text {
            "auto" => Ok(Self::Auto),
            "vllm" => Ok(Self::Vllm),
            "sglang" => Ok(Self::Sglang),
            "llama-cpp" => Ok(Self::LlamaCpp),
            "llama-cpp-python" => Ok(Self::LlamaCppPython),
            "openai" => Ok(Self::OpenAi),
            other => Err(UpstreamError::Settings(format!(
                "`{other}` is no kind of upstream server: use auto, vllm, sglang, llama-cpp, llama-cpp-python or openai"
            ))),
        }
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaCpp => "llama-cpp",
            Self::LlamaCppPython => "llama-cpp-python",
            Self::OpenAi => "openai",
        })
    }
}

/// How prompts travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PromptAs {
    /// As token ids where a short trial shows that the server takes them, else as text.
    #[default]
    Auto,
    /// As token ids.
    Tokens,
    /// As text.
    Text,
}

impl FromStr for PromptAs {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, UpstreamError> {
        match text {
            "auto" => Ok(Self::Auto),
            "tokens" => Ok(Self::Tokens),
            "text" => Ok(Self::Text),
            other => {
                Err(UpstreamError::Settings(format!("prompts do not travel as `{other}`: use auto, tokens or text")))
            }
        }
    }
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For a connection.
    pub connect: Duration,
    /// From a request to its first token, all attempts together.
    pub first_token: Duration,
    /// Between two tokens. Comments that keep the connection open do not count.
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(5), first_token: Duration::from_secs(120), idle: Duration::from_secs(30) }
    }
}

/// What an upstream is.
#[derive(Clone)]
pub struct UpstreamOptions {
    /// Addresses of the replicas, with or without `/v1` at the end.
    pub urls: Vec<String>,
    /// The model's name there.
    pub model: String,
    /// Sent as `Authorization: Bearer …`.
    pub api_key: Option<String>,
    /// Which server it is.
    pub kind: ServerKind,
    /// How prompts travel.
    pub prompt_as: PromptAs,
    /// Whether log-probabilities are asked for. `None`: of the kinds of servers that always have them.
    pub logprobs: Option<bool>,
    /// How long to wait.
    pub timeouts: Timeouts,
    /// Further attempts of a request that failed before its first token.
    pub retries: u32,
    /// Longest pause before the first further attempt; it doubles with each.
    pub backoff: Duration,
    /// Longest pause before any.
    pub backoff_most: Duration,
    /// Failures in a row that take a replica out.
    pub breaker_failures: u32,
    /// For how long; it doubles while the trial after it fails, up to eight times.
    pub breaker_pause: Duration,
    /// Between two looks at a replica's health.
    pub health_interval: Duration,
    /// How much more than its share of the running requests a replica may have before a request goes elsewhere; at least 1.
    pub load_factor: f64,
    /// Requests under way at once, all replicas together; 0 is no limit.
    pub max_in_flight: usize,
    /// Tokens of a block of the servers' prefix caches.
    pub block_tokens: usize,
    /// Tokens of prompts that a replica is taken to remember at most.
    pub cache_tokens: usize,
    /// How long a replica is taken to remember a prompt that is not used.
    pub cache_ttl: Duration,
}

impl UpstreamOptions {
    /// Defaults for `urls` and `model`.
    pub fn new(urls: Vec<String>, model: impl Into<String>) -> Self {
        Self {
            urls,
            model: model.into(),
            api_key: None,
            kind: ServerKind::Auto,
            prompt_as: PromptAs::Auto,
            logprobs: None,
            timeouts: Timeouts::default(),
            retries: 2,
            backoff: Duration::from_millis(200),
            backoff_most: Duration::from_secs(5),
            breaker_failures: 3,
            breaker_pause: Duration::from_secs(5),
            health_interval: Duration::from_secs(5),
            load_factor: 1.25,
            max_in_flight: 0,
            block_tokens: 16,
            cache_tokens: 1_000_000,
            cache_ttl: Duration::from_secs(3600),
        }
    }

    /// The addresses without `/v1` and slashes at the end, checked.
    pub(crate) fn bases(&self) -> Result<Vec<String>, UpstreamError> {
        if self.urls.is_empty() {
            return Err(UpstreamError::Settings("no upstream server is named: set upstream.urls".to_owned()));
        }
        let mut bases: Vec<String> = Vec::new();
        for url in &self.urls {
            let trimmed = url.trim().trim_end_matches('/');
            let base = trimmed.strip_suffix("/v1").unwrap_or(trimmed).trim_end_matches('/').to_owned();
            let valid = reqwest::Url::parse(&base)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none());
            if !valid {
                return Err(UpstreamError::Settings(format!(
                    "`{url}` is no address of an upstream server: write it as http://host:port or https://host"
                )));
            }
            if bases.contains(&base) {
                return Err(UpstreamError::Settings(format!("`{url}` is in upstream.urls twice: remove one")));
            }
            bases.push(base);
        }
        Ok(bases)
    }
}

impl fmt::Debug for UpstreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the key.
        f.debug_struct("UpstreamOptions").field("urls", &self.urls).field("model", &self.model).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_taken_with_and_without_the_version() {
        let urls = ["http://a:8000/v1/", "http://b:8000", "https://c/base/v1"];
        let options = UpstreamOptions::new(urls.iter().map(|u| (*u).to_owned()).collect(), "m");
        assert_eq!(options.bases().unwrap(), ["http://a:8000", "http://b:8000", "https://c/base"]);
        for wrong in [vec![], vec!["ftp://a"], vec!["a:8000"], vec!["http://a", "http://a/v1"], vec!["http://a?x=1"]] {
            let urls = wrong.iter().map(|u| (*u).to_owned()).collect();
            assert!(UpstreamOptions::new(urls, "m").bases().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn the_key_is_not_in_the_debug_output() {
        let mut options = UpstreamOptions::new(vec!["http://a".to_owned()], "m");
        options.api_key = Some("sk-secret".to_owned());
        assert!(!format!("{options:?}").contains("secret"));
    }
}
