//! Opens what commands need: models, collections, planner, ledger. The only place that picks a concrete engine.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use edgewise_access::AccessStore;
use edgewise_engine::{EngineOptions, KvPrecision, LocalGenerator, Placement, Precision, PromptAttention};
use edgewise_gateway::{Recorder, Whose};
use edgewise_ledger::{Durability, Ledger, LedgerOptions, PriceBook, Retention};
use edgewise_model_api::{Embedder, Generator, ModelError, Tokenizer};
use edgewise_model_store::{ModelFiles, ModelStore, Registry};
use edgewise_planner::{
    Budget, EffectiveWindow, Objective, Planner, PlannerOptions, ProfileStore, ReadingMonitor, Router,
};
use edgewise_prompts::Prompts;
use edgewise_retrieval::{Collections, IngestReport, Reranking, RetrievalModels};
use edgewise_settings::{LedgerDurability, Settings};
use edgewise_types::TenantId;

use crate::error::CliError;

/// Settings, and how to build everything else from them.
pub(crate) struct App {
    settings: Settings,
    quiet: bool,
}

/// The generator's tokenizer, shared as the trait that retrieval wants.
struct GeneratorTokenizer(Arc<dyn Generator>);

impl Tokenizer for GeneratorTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.0.tokenizer().encode(text)
    }

    fn offsets(&self, text: &str) -> Result<Vec<std::ops::Range<usize>>, ModelError> {
        self.0.tokenizer().offsets(text)
    }

    fn count(&self, text: &str) -> Result<usize, ModelError> {
        self.0.tokenizer().count(text)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.0.tokenizer().decode(ids)
    }
}

/// What the engine loads of a generator: its GGUF file, or its folder of safetensors.
pub(crate) fn weights(files: &ModelFiles) -> Result<&Path, CliError> {
    let folder = files.find(".safetensors").map(|_| files.dir.as_path());
    files.find(".gguf").or(folder).ok_or_else(|| {
        CliError::Usage(format!(
            "model {} has no GGUF file and no safetensors: configure a generator, see edgewise models list",
            files.name
        ))
    })
}

/// Everything a question needs.
pub(crate) struct Stack {
    pub(crate) collections: Arc<Collections>,
    pub(crate) planner: Arc<Planner>,
    pub(crate) recorder: Recorder,
    pub(crate) generator: Arc<dyn Generator>,
}

impl App {
    pub(crate) fn new(settings: Settings, quiet: bool) -> Self {
        Self { settings, quiet }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(crate) fn quiet(&self) -> bool {
        self.quiet
    }

    /// The model store, with the embedded registry and the configured addition.
    pub(crate) fn store(&self) -> Result<ModelStore, CliError> {
        let paths = &self.settings.paths;
        Ok(ModelStore::open(&paths.models, Registry::load(paths.registry_file())?))
    }

    /// The files of an installed model.
    pub(crate) fn files(&self, name: &str) -> Result<ModelFiles, CliError> {
        Ok(self.store()?.resolve(name)?)
    }

    pub(crate) fn embedder(&self) -> Result<Arc<dyn Embedder>, CliError> {
        let name = &self.settings.models.embedder;
        let files = self.files(name)?;
        Ok(Arc::new(edgewise_engine::load_embedder(name, &files.dir)?))
    }

    /// The configured reranker, if there is one.
    fn reranker(&self) -> Result<Option<Reranking>, CliError> {
        let Some(name) = self.settings.retrieval.reranker_name() else { return Ok(None) };
        let model = edgewise_engine::load_reranker(name, &self.files(name)?.dir)?;
        Ok(Some(Reranking { model: Arc::new(model), depth: self.settings.retrieval.rerank_depth }))
    }

    pub(crate) fn tokenizer(&self) -> Result<Arc<dyn Tokenizer>, CliError> {
        let name = &self.settings.models.generator;
        if self.settings.upstream.is_used() {
            return Ok(edgewise_engine::load_tokenizer(name, &self.upstream_tokenizer()?)?);
        }
        Ok(edgewise_engine::load_tokenizer(name, weights(&self.files(name)?)?)?)
    }

    /// The generator that answers: the local engine, or other servers.
    pub(crate) fn generator(&self) -> Result<Arc<dyn Generator>, CliError> {
        match self.settings.upstream.is_used() {
            true => Ok(Arc::new(self.upstream_generator()?)),
            false => Ok(self.local_generator()?),
        }
    }

    /// The local engine.
    pub(crate) fn local_generator(&self) -> Result<Arc<LocalGenerator>, CliError> {
        let name = &self.settings.models.generator;
        let files = self.files(name)?;
        Ok(Arc::new(edgewise_engine::load_generator(name, weights(&files)?, &self.engine_options())?))
    }

    pub(crate) fn engine_options(&self) -> EngineOptions {
        let engine = &self.settings.engine;
        EngineOptions {
            device: match engine.device.as_str() {
                "cpu" => Placement::Cpu,
                "cuda" => Placement::Cuda,
                _ => Placement::Auto,
            },
            device_precision: match engine.device_precision.as_str() {
                "bf16" => Precision::Bf16,
                "f16" => Precision::F16,
                _ => Precision::Auto,
            },
            device_attention: match engine.device_attention.as_str() {
                "flash-attn" => PromptAttention::FlashAttn,
                _ => PromptAttention::Own,
            },
            device_kv_precision: match engine.device_kv_precision.as_str() {
                "fp8" => KvPrecision::Fp8,
                _ => KvPrecision::Half,
            },
            device_memory_share: engine.device_memory_share,
            device_cache_bytes: None,
            device_prefill_chunk: engine.device_prefill_chunk,
            prefill_chunk: engine.prefill_chunk,
            max_sequences: engine.max_sequences,
            target_ttft: Duration::from_millis(engine.target_ttft_ms),
            target_itl: Duration::from_millis(engine.target_itl_ms),
            cache_bytes: engine.cache_bytes,
            host_cache_bytes: engine.host_cache_bytes,
            min_prefix_tokens: engine.min_prefix_tokens,
            retained_share: engine.retained_share,
            durable_dir: engine.prefix_store.then(|| self.settings.paths.prefixes.clone()),
            context_window: None,
        }
    }

    /// The collections, with the generator's tokenizer but not its weights: enough to ingest, list, and search without a
    /// reranker.
    pub(crate) fn collections(&self) -> Result<Collections, CliError> {
        self.collections_with(None)
    }

    /// The collections with the configured reranker, unless a search does without it.
    pub(crate) fn collections_to_search(&self, rerank: Option<bool>) -> Result<Collections, CliError> {
        self.collections_with(if rerank == Some(false) { None } else { self.reranker()? })
    }

    fn collections_with(&self, reranker: Option<Reranking>) -> Result<Collections, CliError> {
        let (embedder, tokenizer) = (self.embedder()?, self.tokenizer()?);
        let tokenizer_name = self.settings.models.generator.clone();
        let models = RetrievalModels { embedder, tokenizer, tokenizer_name, reranker };
        Ok(Collections::open(&self.settings.paths.data, models)?)
    }

    /// Keys, and who may do what.
    pub(crate) fn access(&self) -> Result<Arc<AccessStore>, CliError> {
        Ok(Arc::new(AccessStore::open(&self.settings.paths.access, jiff::Timestamp::now())?))
    }

    /// The prompt templates.
    pub(crate) fn prompts(&self) -> Result<Prompts, CliError> {
        Ok(Prompts::load(self.settings.paths.prompts_dir())?)
    }

    /// What records usage and cost.
    pub(crate) fn recorder(&self, prompts: &Prompts) -> Result<Recorder, CliError> {
        Ok(Recorder {
            ledger: Arc::new(Ledger::open_with(&self.settings.paths.ledger, self.ledger_options())?),
            prices: self.prices()?,
            model: self.settings.models.generator.clone(),
            template_hash: prompts.answer().template_hash().to_owned(),
        })
    }

    fn ledger_options(&self) -> LedgerOptions {
        let durability = match self.settings.ledger.durability {
            LedgerDurability::Process => Durability::Process,
            LedgerDurability::Power => Durability::Power,
        };
        LedgerOptions { durability, texts: self.settings.ledger.texts }
    }

    /// What work costs.
    pub(crate) fn prices(&self) -> Result<PriceBook, CliError> {
        Ok(self.settings.paths.prices_file().map_or_else(PriceBook::embedded, PriceBook::load)?)
    }

    /// How long the ledger keeps what.
    pub(crate) fn retention(&self) -> Retention {
        let ledger = &self.settings.ledger;
        Retention { records: ledger.keep_days, minutes: ledger.minutes_days, details: ledger.texts_days }
    }

    /// Records what an ingest of this process embedded.
    pub(crate) fn charge_embedding(&self, report: &IngestReport) -> Result<(), CliError> {
        let whose = Whose { tenant: TenantId::local(), key: None, collection: Some(report.collection.clone()) };
        let took = Duration::try_from_secs_f64(report.seconds).unwrap_or_default();
        let id = format!("cli-{}", std::process::id());
        let (at, embedder) = (jiff::Timestamp::now(), &self.settings.models.embedder);
        let recorder = self.recorder(&self.prompts()?)?;
        recorder.embedded(&id, at, whose, embedder, report.tokens_embedded, took);
        Ok(())
    }

    /// Everything a question needs; loads both models.
    pub(crate) fn stack(&self) -> Result<Stack, CliError> {
        let (generator, embedder) = (self.generator()?, self.embedder()?);
        let models = RetrievalModels {
            embedder: Arc::clone(&embedder),
            tokenizer: Arc::new(GeneratorTokenizer(Arc::clone(&generator))),
            tokenizer_name: self.settings.models.generator.clone(),
            reranker: self.reranker()?,
        };
        let collections = Arc::new(Collections::open(&self.settings.paths.data, models)?);
        let prompts = self.prompts()?;
        let recorder = self.recorder(&prompts)?;
        let prices = recorder.prices.clone();
        let profile = self.profiles().load(generator.info());
        let mut planner = Planner::new(Arc::clone(&generator), embedder, prompts, prices, self.planner_options())?;
        match profile {
            Ok(Some(profile)) => drop(planner.set_reading_profile(Arc::new(profile))),
            Ok(None) => {}
            // Answers do not depend on it; where passages stand does, by the rule instead of by measurement.
            Err(error) => tracing::warn!(%error, "the model's reading profile is not used"),
        }
        if let Some(file) = self.settings.planner.router_file() {
            planner = planner.with_router(Router::load(file).map_err(|error| CliError::Usage(error.to_string()))?);
        }
        planner.correct_with(|| edgewise_gateway::learned(&recorder.ledger))?;
        Ok(Stack { collections, planner: Arc::new(planner), recorder, generator })
    }

    /// The folder of reading profiles.
    pub(crate) fn profiles(&self) -> ProfileStore {
        ProfileStore::new(&self.settings.paths.profiles)
    }

    /// Watches how well the model reads; its figures are kept beside the profiles.
    pub(crate) fn reading_monitor(&self, stack: &Stack) -> ReadingMonitor {
        let info = stack.generator.info();
        let path = self.profiles().path(info, "monitor.json");
        let of = format!("{} {}", info.digest, stack.recorder.template_hash);
        ReadingMonitor::open(&path, &of).unwrap_or_else(|error| {
            tracing::warn!(%error, "figures of how prompts are read begin anew");
            ReadingMonitor::anew(&path, &of)
        })
    }

    fn planner_options(&self) -> PlannerOptions {
        let planner = &self.settings.planner;
        PlannerOptions {
            max_input_tokens: Some(planner.max_input_tokens).filter(|n| *n > 0),
            passages_budget_tokens: planner.passages_budget_tokens,
            section_tokens: planner.section_tokens,
            documents_budget_tokens: planner.documents_budget_tokens,
            top_k: planner.top_k,
            score_floor: planner.score_floor as f32,
            excerpts_budget_tokens: planner.excerpts_budget_tokens,
            respect_effective_window: match planner.respect_effective_window {
                edgewise_settings::EffectiveWindow::Ignore => EffectiveWindow::Ignore,
                edgewise_settings::EffectiveWindow::Penalise => EffectiveWindow::Penalise,
                edgewise_settings::EffectiveWindow::Refuse => EffectiveWindow::Refuse,
            },
            escalate: planner.escalate,
            pre_route: planner.pre_route == edgewise_settings::PreRoute::Model,
            default_max_output_tokens: self.settings.engine.default_max_tokens,
            ceiling: Budget {
                max_cost: planner.max_cost(),
                max_input_tokens: None,
                max_latency_ms: Some(planner.max_latency_ms).filter(|ms| *ms > 0),
            },
            ..PlannerOptions::default()
        }
    }

    /// Where to listen: flags before settings.
    pub(crate) fn address(&self, host: Option<&str>, port: Option<u16>) -> Result<SocketAddr, CliError> {
        let mut server = self.settings.server.clone();
        if let Some(host) = host {
            host.clone_into(&mut server.host);
        }
        server.port = port.unwrap_or(server.port);
        server
            .address()
            .ok_or_else(|| CliError::Usage(format!("`{}` is not an IP address: pass one, or localhost", server.host)))
    }

    /// What `auto` optimises where a request does not say.
    pub(crate) fn objective(&self) -> Objective {
        match self.settings.planner.objective {
            edgewise_settings::Objective::Cheapest => Objective::Cheapest,
            edgewise_settings::Objective::Balanced => Objective::Balanced,
            edgewise_settings::Objective::Best => Objective::Best,
        }
    }

    /// The folder of the collections.
    pub(crate) fn data_root(&self) -> &Path {
        &self.settings.paths.data
    }
}
