//! The generator.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use edgewise_model_api::{
    CacheState, ChatMessage, EncodedChat, GenerateRequest, GenerationStream, Generator, GeneratorInfo, LatencyCurve,
    ModelError, PrefixState, Prompt, QueueState, Tokenizer,
};
use edgewise_types::TenantId;
use tokio::runtime::{Builder, Runtime};
use tracing::Instrument;

use crate::{
    ChatEncoder, UpstreamError, UpstreamOptions,
    call::Call,
    health,
    ring::Key,
    shared::{Load, Shared},
    wire,
};

/// Threads for all connections: they pass bytes on and wait.
const THREADS: usize = 2;

/// A [`Generator`] over OpenAI-compatible servers. It has threads of its own; dropping it ends all streams.
pub struct UpstreamGenerator {
    shared: Arc<Shared>,
    /// Present until dropped.
    runtime: Option<Runtime>,
}

impl UpstreamGenerator {
    /// A generator over the servers of `options`. `encoder` and `info` are those of the model they run; `info.model` is the
    /// name that prices are looked up by. Nothing has to be there yet: servers are watched from now on.
    ///
    /// # Errors
    /// [`UpstreamError`], in one sentence.
    pub fn new(
        options: UpstreamOptions,
        encoder: Arc<dyn ChatEncoder>,
        info: GeneratorInfo,
    ) -> Result<Self, UpstreamError> {
        let bases = options.bases()?;
        if options.model.trim().is_empty() {
            return Err(UpstreamError::Settings(
                "the model's name on the upstream servers is missing: set upstream.model".to_owned(),
            ));
        }
        // Another part of the program may have done so; any provider will do.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .connect_timeout(options.timeouts.connect)
            .redirect(reqwest::redirect::Policy::none())
            .tcp_nodelay(true)
            .no_proxy()
            .build()
            .map_err(|error| UpstreamError::Client(error.to_string()))?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("upstream")
            .enable_all()
            .build()
            .map_err(UpstreamError::Threads)?;
        let shared = Arc::new(Shared::new(options, bases, client, encoder, info));
        for index in 0..shared.replicas.len() {
            runtime.spawn(health::watch(Arc::clone(&shared), index));
        }
        Ok(Self { shared, runtime: Some(runtime) })
    }

    fn check(&self, request: &GenerateRequest) -> Result<(), ModelError> {
        request.sampling.validate()?;
        if request.max_tokens == 0 || request.n == 0 {
            return Err(ModelError::InvalidSampling("max_tokens and n must be at least 1".to_owned()));
        }
        let (prompt_tokens, window) = (request.prompt.tokens.len(), self.shared.info.context_window);
        if prompt_tokens.saturating_add(request.max_tokens) > window {
            return Err(ModelError::WindowExceeded { prompt_tokens, max_tokens: request.max_tokens, window });
        }
        let kind = self.shared.kind();
        // An unknown kind is known by the time the request is sent, and refuses then.
        if kind != crate::ServerKind::Auto {
            wire::check_sampling(kind, &request.sampling)?;
            if let Some(constraint) = &request.constraint {
                wire::constraint_field(kind, constraint)?;
            }
        }
        let most = self.shared.options.max_in_flight;
        if most > 0 && self.shared.requests.load(Ordering::Relaxed) >= most {
            return Err(ModelError::Overloaded { retry_after_s: 1 });
        }
        Ok(())
    }
}

impl Generator for UpstreamGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.shared.info
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        self.shared.encoder.tokenizer()
    }

    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        self.shared.encoder.encode_chat(messages)
    }

    /// What the replica that would get the prompt now probably holds of it.
    fn prefix_state(&self, tenant: &TenantId, prompt: &Prompt) -> PrefixState {
        let now = Instant::now();
        let order = self.shared.order(&Key::of(tenant, prompt), now);
        let replica = order.first().and_then(|index| self.shared.replicas.get(*index));
        let chain = self.shared.chain(tenant, prompt);
        let resident_tokens = replica.map_or(0, |replica| replica.state().residency.resident(&chain, now));
        PrefixState { resident_tokens, host_tokens: 0, miss: None }
    }

    fn latency(&self) -> LatencyCurve {
        self.shared.latency().curve()
    }

    /// Requests sent and not finished, and their prompt tokens whose first token has not come; of the average replica,
    /// since they work side by side.
    fn queue(&self) -> QueueState {
        let ready = self.shared.replicas.iter().filter(|replica| replica.is_ready()).count().max(1);
        QueueState {
            requests: self.shared.requests.load(Ordering::Relaxed),
            prefill_tokens: self.shared.prefill_tokens.load(Ordering::Relaxed) / ready,
        }
    }

    fn min_prefix_tokens(&self) -> usize {
        self.shared.options.block_tokens
    }

    /// Only what servers report: the tokens they had.
    fn cache(&self) -> CacheState {
        CacheState {
            page_tokens: self.shared.options.block_tokens,
            hit_tokens: self.shared.hit_tokens.load(Ordering::Relaxed),
            ..CacheState::default()
        }
    }

    fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        self.check(&request)?;
        let now = Instant::now();
        let key = Key::of(&request.tenant, &request.prompt);
        let order = self.shared.order(&key, now);
        let (Some(runtime), Some(first)) = (&self.runtime, order.first().and_then(|i| self.shared.replicas.get(*i)))
        else {
            return Err(ModelError::Stopped(self.shared.nobody()));
        };
        let chain = self.shared.chain(&request.tenant, &request.prompt);
        let resident = first.state().residency.resident(&chain, now);
        let load = Load::new(&self.shared, request.prompt.tokens.len().saturating_sub(resident));
        let span = tracing::info_span!("upstream", model = self.shared.options.model);
        let trace = span.in_scope(edgewise_telemetry::trace_headers);
        let (sender, stream) = GenerationStream::channel();
        let shared = Arc::clone(&self.shared);
        let call = Call { shared, request, key, chain, sender, load, trace };
        runtime.spawn(call.run().instrument(span));
        Ok(stream)
    }
}

impl Drop for UpstreamGenerator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
