//! The settings as typed values. What each key means is written once, in `config/edgewise.toml`; the comments here are
//! the same in short. Defaults repeat that file, and a test holds the two together.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use edgewise_types::Money;

use crate::{LedgerSettings, SettingsError, Tree, Upstream, env, layer::Layers};

/// Everything that can be configured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The HTTP server.
    pub server: Server,
    /// Where things are on disk.
    pub paths: Paths,
    /// Which models to use.
    pub models: Models,
    /// Search in collections.
    pub retrieval: Retrieval,
    /// The local inference engine.
    pub engine: Engine,
    /// Other servers that answer.
    pub upstream: Upstream,
    /// The choice of a route.
    pub planner: Planner,
    /// Summary trees.
    pub tree: Tree,
    /// Watching how well the model reads.
    pub monitor: Monitor,
    /// Records of requests.
    pub ledger: LedgerSettings,
    /// Logs and traces.
    pub telemetry: Telemetry,
}

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Server {
    /// IP address to listen on, or `localhost`.
    pub host: String,
    /// TCP port; 0 lets the system choose.
    pub port: u16,
    /// Largest JSON request body, bytes.
    pub max_body_bytes: usize,
    /// Largest document upload, bytes.
    pub max_upload_bytes: usize,
    /// Largest upload of many documents, packed and unpacked, bytes.
    pub max_batch_bytes: usize,
    /// Time limit of an answer or an upload, seconds.
    pub request_timeout_s: u64,
    /// How long streams may finish after a shutdown was asked for, seconds.
    pub shutdown_grace_s: u64,
    /// Answers worked on at once; more are refused.
    pub max_concurrent_requests: usize,
    /// Names this server answers for, besides `localhost` and every IP address.
    pub allowed_hosts: Vec<String>,
    /// How long the head of a request may take, and an idle connection is kept, seconds.
    pub header_timeout_s: u64,
    /// How long nothing of a body may arrive, seconds.
    pub body_timeout_s: u64,
    /// Connections at once; more wait.
    pub max_connections: usize,
    /// Certificate chain for TLS, PEM; empty means no TLS. See [`Server::tls_files`].
    pub tls_cert: PathBuf,
    /// Its key, PEM.
    pub tls_key: PathBuf,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            max_body_bytes: 2 << 20,
            max_upload_bytes: 64 << 20,
            max_batch_bytes: 1 << 30,
            request_timeout_s: 300,
            shutdown_grace_s: 10,
            max_concurrent_requests: 64,
            allowed_hosts: Vec::new(),
            header_timeout_s: 30,
            body_timeout_s: 30,
            max_connections: 4096,
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
        }
    }
}

impl Server {
    /// Certificate chain and key for TLS, if connections are to be encrypted. In a loaded configuration both are given or
    /// neither.
    pub fn tls_files(&self) -> Option<(&Path, &Path)> {
        let given = |path: &Path| !path.as_os_str().is_empty();
        (given(&self.tls_cert) && given(&self.tls_key)).then_some((self.tls_cert.as_path(), self.tls_key.as_path()))
    }

    /// Whether only users of this machine can connect.
    pub fn is_private(&self) -> bool {
        parse_host(&self.host).is_some_and(|host| host.is_loopback())
    }

    /// Host and port as an address to bind; `localhost` is 127.0.0.1. `None` if the host is neither, which a loaded
    /// configuration never is.
    pub fn address(&self) -> Option<SocketAddr> {
        parse_host(&self.host).map(|ip| SocketAddr::new(ip, self.port))
    }
}

/// An IP address or `localhost`. Other names are refused: what they resolve to can change under a running server.
pub(crate) fn parse_host(host: &str) -> Option<IpAddr> {
    if host == "localhost" { Some(Ipv4Addr::LOCALHOST.into()) } else { host.parse().ok() }
}

/// Where things are on disk. In a loaded configuration `models`, `ledger`, `prefixes`, `profiles` and `access` are never empty and no
/// path starts with `~`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Paths {
    /// Folder of the collections.
    pub data: PathBuf,
    /// Folder of the model files.
    pub models: PathBuf,
    /// Folder of prompt templates; empty means the built-in ones. See [`Paths::prompts_dir`].
    pub prompts: PathBuf,
    /// SQLite file of the ledger.
    pub ledger: PathBuf,
    /// A model registry to add to the built-in one; empty means none. See [`Paths::registry_file`].
    pub registry: PathBuf,
    /// Folder of retained prefixes.
    pub prefixes: PathBuf,
    /// Folder of reading profiles.
    pub profiles: PathBuf,
    /// File with passwords of encrypted documents; empty means none. See [`Paths::passwords_file`].
    pub passwords: PathBuf,
    /// Price file; empty means the built-in one. See [`Paths::prices_file`].
    pub prices: PathBuf,
    /// SQLite file of the API keys.
    pub access: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            data: PathBuf::from("indexes/data"),
            models: PathBuf::new(),
            prompts: PathBuf::new(),
            ledger: PathBuf::new(),
            registry: PathBuf::new(),
            prefixes: PathBuf::new(),
            profiles: PathBuf::new(),
            passwords: PathBuf::new(),
            prices: PathBuf::new(),
            access: PathBuf::new(),
        }
    }
}

impl Paths {
    /// Folder of prompt templates, if not the built-in ones.
    pub fn prompts_dir(&self) -> Option<&Path> {
        Some(self.prompts.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// The file with passwords of encrypted documents, if any.
    pub fn passwords_file(&self) -> Option<&Path> {
        Some(self.passwords.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// The price file, if not the built-in one.
    pub fn prices_file(&self) -> Option<&Path> {
        Some(self.prices.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// The additional model registry, if any.
    pub fn registry_file(&self) -> Option<&Path> {
        Some(self.registry.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Fills in the empty paths that have a computed default, and expands `~/`.
    pub(crate) fn resolve(&mut self, lookup: &dyn Fn(&str) -> Option<String>) -> Result<(), SettingsError> {
        let Self { data, models, prompts, ledger, registry, prefixes, profiles, passwords, prices, access } = self;
        for path in [data, models, prompts, ledger, registry, prefixes, profiles, passwords, prices, access] {
            *path = expanded(path, lookup)?;
        }
        if self.models.as_os_str().is_empty() {
            self.models = default_models_dir(lookup)?;
        }
        if self.ledger.as_os_str().is_empty() {
            // No collection name starts with an underscore, so the ledger can never be in a collection's place.
            self.ledger = self.data.join("_ledger.sqlite");
        }
        if self.access.as_os_str().is_empty() {
            self.access = self.data.join("_access.sqlite");
        }
        if self.prefixes.as_os_str().is_empty() {
            self.prefixes = self.data.join("_prefixes");
        }
        if self.profiles.as_os_str().is_empty() {
            self.profiles = self.data.join("_profiles");
        }
        Ok(())
    }
}

/// `path` with a leading `~/` as the home folder.
pub(crate) fn expanded(path: &Path, lookup: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, SettingsError> {
    let Ok(rest) = path.strip_prefix("~") else { return Ok(path.to_owned()) };
    let home = lookup(env::HOME).filter(|home| !home.is_empty()).ok_or(SettingsError::NoHome)?;
    Ok(Path::new(&home).join(rest))
}

/// `$XDG_CACHE_HOME/edgewise/models`, or `~/.cache/edgewise/models` when the variable is unset, empty or relative
/// (XDG Base Directory Specification 0.8).
pub fn default_models_dir(lookup: &dyn Fn(&str) -> Option<String>) -> Result<PathBuf, SettingsError> {
    let cache = match lookup(env::XDG_CACHE_HOME).map(PathBuf::from).filter(|path| path.is_absolute()) {
        Some(cache) => cache,
        None => {
            let home = lookup(env::HOME).filter(|home| !home.is_empty()).ok_or(SettingsError::NoHome)?;
            PathBuf::from(home).join(".cache")
        }
    };
    Ok(cache.join("edgewise").join("models"))
}

/// Which models to use, by registry name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Models {
    /// Writes answers.
    pub generator: String,
    /// Embeds passages and questions.
    pub embedder: String,
}

impl Default for Models {
    fn default() -> Self {
        Self { generator: "smollm2-135m-instruct".to_owned(), embedder: "all-minilm-l6-v2".to_owned() }
    }
}

/// Search in collections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retrieval {
    /// Model that reads the best hits once more, by registry name; empty means none. See [`Retrieval::reranker_name`].
    pub reranker: String,
    /// How many of the best hits it reads.
    pub rerank_depth: usize,
}

impl Default for Retrieval {
    fn default() -> Self {
        Self { reranker: String::new(), rerank_depth: 30 }
    }
}

impl Retrieval {
    /// The model that reads the best hits once more, if there is one.
    pub fn reranker_name(&self) -> Option<&str> {
        Some(self.reranker.trim()).filter(|name| !name.is_empty())
    }
}

/// The local inference engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Engine {
    /// Where answers are computed: `auto`, `cpu` or `cuda`.
    pub device: String,
    /// The 16-bit numbers a GPU computes with: `auto`, `bf16` or `f16`.
    pub device_precision: String,
    /// What computes the attention of prompts on a GPU: `own` or `flash-attn`.
    pub device_attention: String,
    /// What a GPU keeps keys and values in: `half` or `fp8`.
    pub device_kv_precision: String,
    /// Share of a GPU's memory that may be used.
    pub device_memory_share: f64,
    /// Most prompt tokens of one step on a GPU.
    pub device_prefill_chunk: usize,
    /// Threads for model computations; 0 is all cores.
    pub threads: usize,
    /// Most prompt tokens of one step.
    pub prefill_chunk: usize,
    /// Sequences computed together at most.
    pub max_sequences: usize,
    /// Time the prompts ahead of a new request may take to prefill, milliseconds.
    pub target_ttft_ms: u64,
    /// Longest step while answers are being written, milliseconds.
    pub target_itl_ms: u64,
    /// Memory for keys and values, bytes.
    pub cache_bytes: usize,
    /// Host memory for keys and values that had to leave a device, bytes.
    pub host_cache_bytes: usize,
    /// Shortest prompt that is cached, tokens.
    pub min_prefix_tokens: usize,
    /// Share of the cache a tenant's retained prefixes may hold safe from eviction.
    pub retained_share: f64,
    /// Whether retained prefixes are written to disk and restored at start.
    pub prefix_store: bool,
    /// Tokens of an answer when the request does not say.
    pub default_max_tokens: usize,
}

impl Default for Engine {
    fn default() -> Self {
        Self {
            device: "auto".to_owned(),
            device_precision: "auto".to_owned(),
            device_attention: "own".to_owned(),
            device_kv_precision: "half".to_owned(),
            device_memory_share: 0.9,
            device_prefill_chunk: 4096,
            threads: 0,
            prefill_chunk: 256,
            max_sequences: 64,
            target_ttft_ms: 30_000,
            target_itl_ms: 250,
            cache_bytes: 1 << 30,
            host_cache_bytes: 0,
            min_prefix_tokens: 64,
            retained_share: 0.5,
            prefix_store: true,
            default_max_tokens: 256,
        }
    }
}

/// What counts most in the choice of a route.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Least cost among the routes that may answer.
    Cheapest,
    /// Quality against cost and latency.
    #[default]
    Balanced,
    /// Best expected quality inside the budget.
    Best,
}

/// What becomes of prompts longer than the model's measured effective window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EffectiveWindow {
    /// Nothing.
    Ignore,
    /// They are expected to be answered worse.
    #[default]
    Penalise,
    /// They are refused.
    Refuse,
}

/// The choice of a route.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planner {
    /// What counts most.
    pub objective: Objective,
    /// Most prompt tokens of any route; 0 is whatever the window leaves.
    pub max_input_tokens: usize,
    /// Most a request may cost, in dollars; empty is no limit. See [`Planner::max_cost`].
    pub max_cost: String,
    /// Longest predicted time of an answer, milliseconds; 0 is no limit.
    pub max_latency_ms: u64,
    /// Most tokens of passages the `passages` route places.
    pub passages_budget_tokens: usize,
    /// Longest section that is placed in one piece when at least half of it came up; 0 places passages as they are.
    pub section_tokens: usize,
    /// Most tokens of documents the `documents` route places.
    pub documents_budget_tokens: usize,
    /// Passages placed at most.
    pub top_k: usize,
    /// Cosine similarity to the question below which a passage is weak in the vector search.
    pub score_floor: f64,
    /// Most tokens of key excerpts behind long documents; 0 repeats nothing.
    pub excerpts_budget_tokens: usize,
    /// What becomes of prompts longer than the measured effective window.
    pub respect_effective_window: EffectiveWindow,
    /// Whether a wider route is taken once when the sources seem not to hold the answer.
    pub escalate: bool,
    /// Router file to use instead of the built-in one; empty means built-in. See [`Planner::router_file`].
    pub router: PathBuf,
    /// Whether the model judges the kind of question first.
    pub pre_route: PreRoute,
}

/// Who judges the kind of question.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PreRoute {
    /// The trained router alone.
    #[default]
    Off,
    /// The model too, in one word.
    Model,
}

impl Planner {
    /// The router file to use, if not the built-in one.
    pub fn router_file(&self) -> Option<&Path> {
        Some(self.router.as_path()).filter(|path| !path.as_os_str().is_empty())
    }

    /// Most a request may cost, if that is limited.
    pub fn max_cost(&self) -> Option<Money> {
        parse_amount(&self.max_cost)
    }
}

impl Default for Planner {
    fn default() -> Self {
        Self {
            objective: Objective::Balanced,
            max_input_tokens: 0,
            max_cost: String::new(),
            max_latency_ms: 0,
            passages_budget_tokens: 1200,
            section_tokens: 400,
            documents_budget_tokens: 4096,
            top_k: 6,
            score_floor: 0.2,
            excerpts_budget_tokens: 256,
            respect_effective_window: EffectiveWindow::Penalise,
            escalate: true,
            router: PathBuf::new(),
            pre_route: PreRoute::Off,
        }
    }
}

/// Watching how well the model reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Monitor {
    /// Hours between probes of a server; 0 is never.
    pub probe_every_h: u64,
}

/// An amount in dollars above 0.
pub(crate) fn parse_amount(text: &str) -> Option<Money> {
    text.trim().parse().ok().filter(|amount| *amount > Money::ZERO)
}

/// How log lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Logs and traces.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telemetry {
    /// Level or filter directives.
    pub log: String,
    /// Format.
    pub format: LogFormat,
    /// Whether questions and answers are logged.
    pub log_texts: bool,
    /// Collector of traces; empty means none. See [`Telemetry::collector`].
    pub otlp_endpoint: String,
    /// Share of the traces begun here that are recorded.
    pub otlp_sample: f64,
}

impl Telemetry {
    /// The collector of traces, if there is one.
    pub fn collector(&self) -> Option<&str> {
        Some(self.otlp_endpoint.trim()).filter(|endpoint| !endpoint.is_empty())
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            log: "info".to_owned(),
            format: LogFormat::Text,
            log_texts: false,
            otlp_endpoint: String::new(),
            otlp_sample: 1.0,
        }
    }
}

impl Settings {
    /// Checks values that did not come through [`crate::LoadOptions::load`], with the same rules.
    pub fn check(&self) -> Result<(), SettingsError> {
        Layers::of_settings(self)?.check()
    }
}
