//! Serving generations: admission, scheduling, one worker, the paged cache of keys and values, and the latency curve.
//!
//! Invariants:
//! - The worker thread alone touches keys and values. Callers hold a handle and a stream of events.
//! - Greedy output is the same with a cold and a warm cache, alone and in a batch, preempted or not.
//! - Every accepted request gets a last event, whatever becomes of the worker, unless its caller left.
//!
//! Where to begin: [`scheduler`] decides what runs, [`worker`] makes it so.
//!
//! Deliberately not here: what the model computes, which pages the cache gives out, HTTP.

mod calibration;
mod clock;
mod convert;
mod fair_queue;
mod latency_fit;
mod options;
mod outbox;
mod persist;
mod queue;
mod report;
mod request;
mod scheduler;
mod steady;
mod storage;
mod task;
mod work;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use edgewise_kv_cache::{Identity, KvCache, PrefixId};
use edgewise_model_api::{
    Ahead, CacheState, ChatMessage, EncodedChat, GenerateRequest, GenerationStream, Generator, GeneratorInfo,
    LatencyCurve, ModelError, PrefixState, Prompt, QueueState, Tokenizer,
};
use edgewise_types::TenantId;

pub use clock::{Clock, SystemClock};
pub use options::{EngineOptions, KvPrecision, Placement, Precision, PromptAttention};
pub use steady::SteadyBatch;

use crate::{
    EngineError,
    chat_template::ChatTemplate,
    constraint::TokenConstraint,
    grammar::{Grammar, GrammarCompiler},
    step_model::StepModel,
    tokenizer::GeneratorTokenizer,
};
use outbox::Outbox;
use persist::{Home, Persistence};
use queue::{Call, Counters, Job, Load, Queue, lock};
use request::Kept;
use scheduler::{Limits, Scheduler};
use storage::Storage;
use worker::{Pace, Shared, Worker, fail_all};

/// A model on this machine.
pub struct LocalGenerator {
    info: GeneratorInfo,
    tokenizer: Arc<GeneratorTokenizer>,
    template: ChatTemplate,
    grammars: GrammarCompiler,
    shared: Arc<Shared>,
    max_sequences: usize,
    target_ttft: Duration,
    min_prefix_tokens: usize,
    page_tokens: usize,
    page_bytes: usize,
    thread: Option<JoinHandle<()>>,
}

/// What [`LocalGenerator::start`] serves.
pub(crate) struct Parts<M: StepModel> {
    pub(crate) model: M,
    pub(crate) info: GeneratorInfo,
    pub(crate) tokenizer: GeneratorTokenizer,
    pub(crate) template: ChatTemplate,
}

impl LocalGenerator {
    /// Plans the pages, measures the model, then starts its worker.
    pub(crate) fn start<M: StepModel>(
        parts: Parts<M>,
        options: &EngineOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let Parts { model, mut info, tokenizer, template } = parts;
        let (page_tokens, page_bytes) = (model.page_tokens(), model.page_bytes());
        // Sums may differ in their last bit between instruction sets, so what one computed is not restored on another.
        let identity = Identity::new(&[
            ("model", info.digest.as_bytes()),
            ("page", &(page_tokens as u64).to_le_bytes()),
            ("bytes", &(page_bytes as u64).to_le_bytes()),
            ("positions", model.kv_identity().as_bytes()),
            ("arithmetic", edgewise_kernels::instruction_set().as_bytes()),
        ]);
        let home = options.durable_dir.as_deref().and_then(Home::open);
        let secret = home.as_ref().map_or_else(rand::random, |home| home.secret);
        let plan = options.plan(page_tokens, page_bytes, identity, secret)?;
        info.context_window = info.context_window.min(plan.pages * page_tokens);
        tracing::info!(
            model = info.model,
            pages = plan.pages,
            tokens = plan.pages * page_tokens,
            bytes_per_token = page_bytes / page_tokens,
            window = info.context_window,
            "keys and values have their pages"
        );
        let mut storage = Storage::<M>::new(model.allocate(plan.pages)?, plan.host_pages);
        let chunk = options.prefill_chunk.max(1);
        let latency = calibration::calibrate(&model, storage.kv(), clock.as_ref(), chunk, info.context_window)?;
        tracing::debug!(model = info.model, curve = ?latency.curve(), "latency curve measured");

        let limits = Limits {
            page_tokens,
            max_sequences: options.max_sequences.max(1),
            min_shared_tokens: options.min_prefix_tokens,
        };
        let mut cache = KvCache::new(plan.clone()).map_err(|e| EngineError::Decoder(e.to_string()))?;
        if !model.shares_generated() {
            cache = cache.with_prompts_only();
        }
        let start = clock.now();
        let persistence =
            home.map(|home| Persistence::restore(home, &plan, &mut cache, &model, &mut storage)).transpose()?;
        let shared = Arc::new(Shared {
            queue: Queue::default(),
            counters: Arc::new(Counters::default()),
            latency: Mutex::new(latency),
            cache: Mutex::new(cache),
            start,
            clock,
            released: Mutex::default(),
        });
        let tokenizer = Arc::new(tokenizer);
        let worker = Worker {
            model,
            storage,
            tokenizer: tokenizer.clone(),
            shared: shared.clone(),
            pace: Pace { prefill_chunk: chunk, target_step_ms: options.target_itl.as_secs_f64() * 1e3 },
            kept: Kept { min_tokens: options.min_prefix_tokens },
            scheduler: Scheduler::new(limits),
            requests: HashMap::new(),
            outbox: Outbox::default(),
            next_request: 0,
            tidied: Duration::ZERO,
            persistence,
        };
        let thread = std::thread::Builder::new()
            .name("edgewise-engine".to_owned())
            .spawn(move || worker.run())
            .map_err(|e| EngineError::Decoder(format!("cannot start the worker thread: {e}")))?;
        Ok(Self {
            info,
            grammars: GrammarCompiler::new(tokenizer.clone()),
            tokenizer,
            template,
            shared,
            max_sequences: limits.max_sequences,
            target_ttft: options.target_ttft,
            min_prefix_tokens: options.min_prefix_tokens,
            page_tokens,
            page_bytes,
            thread: Some(thread),
        })
    }

    /// Checks what can be known without work.
    fn check(&self, request: &GenerateRequest) -> Result<(), ModelError> {
        request.sampling.validate()?;
        let invalid = |why: String| Err(ModelError::InvalidSampling(why));
        let impossible = |why: String| Err(ModelError::Internal(why));
        if request.max_tokens == 0 {
            return invalid("max_tokens must be at least 1".to_owned());
        }
        if request.n == 0 || request.n > self.max_sequences {
            return invalid(format!("n must be between 1 and {}", self.max_sequences));
        }
        if request.stop.iter().any(String::is_empty) {
            return invalid("a stop string is empty".to_owned());
        }
        let tokens = &request.prompt.tokens;
        if tokens.is_empty() {
            return impossible("the prompt has no tokens: give at least one".to_owned());
        }
        let vocabulary = self.tokenizer.vocabulary_size();
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= vocabulary) {
            return impossible(format!(
                "prompt token {id} is beyond the vocabulary of {vocabulary}: encode the prompt with this model's own tokenizer"
            ));
        }
        let boundaries = &request.prompt.boundaries;
        if !boundaries.is_sorted_by_key(|b| b.at) || boundaries.last().is_some_and(|b| b.at > tokens.len()) {
            return impossible("boundaries must increase and lie within the prompt".to_owned());
        }
        if request.prompt.public_tokens > tokens.len() {
            return impossible("the public tokens must be part of the prompt".to_owned());
        }
        let window = self.info.context_window;
        if tokens.len().saturating_add(request.max_tokens) > window {
            return Err(ModelError::WindowExceeded {
                prompt_tokens: tokens.len(),
                max_tokens: request.max_tokens,
                window,
            });
        }
        Ok(())
    }

    /// Refuses a request while the prompts ahead of it take too long to prefill. The time to come back is when that is
    /// no longer so. An engine without prompts ahead takes anything that fits.
    fn admit(&self) -> Result<(), ModelError> {
        let ahead_ms = self.shared.counters.prefill_ms(self.latency());
        let excess_s = ahead_ms / 1e3 - self.target_ttft.as_secs_f64();
        match excess_s > 0.0 {
            true => Err(ModelError::Overloaded { retry_after_s: (excess_s.ceil() as u64).max(1) }),
            false => Ok(()),
        }
    }

    fn constraint(&self, request: &GenerateRequest) -> Result<Option<Box<dyn TokenConstraint>>, ModelError> {
        use edgewise_model_api::Constraint;
        let grammar = match &request.constraint {
            None => return Ok(None),
            Some(Constraint::JsonSchema(schema)) => Grammar::JsonSchema(schema),
            Some(Constraint::Regex(expression)) => Grammar::Regex(expression),
            Some(Constraint::Lark(grammar)) => Grammar::Lark(grammar),
        };
        match self.grammars.compile(grammar) {
            Ok(constraint) => Ok(Some(Box::new(constraint))),
            Err(error) => Err(ModelError::InvalidConstraint(error.to_string())),
        }
    }
}

impl Generator for LocalGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        self.tokenizer.as_ref()
    }

    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        Ok(self.template.encode(&self.tokenizer, messages)?)
    }

    fn prefix_state(&self, tenant: &TenantId, prompt: &Prompt) -> PrefixState {
        let found = self.shared.lookup(tenant, prompt);
        PrefixState { resident_tokens: found.resident, host_tokens: found.host, miss: found.miss.map(convert::miss) }
    }

    fn latency(&self) -> LatencyCurve {
        lock(&self.shared.latency).curve()
    }

    fn queue(&self) -> QueueState {
        self.shared.counters.state()
    }

    fn ahead(&self) -> Ahead {
        self.shared.counters.ahead(self.latency())
    }

    fn min_prefix_tokens(&self) -> usize {
        self.min_prefix_tokens
    }

    fn cache(&self) -> CacheState {
        let now = self.shared.now();
        convert::state(&lock(&self.shared.cache), self.page_tokens, self.page_bytes, now)
    }

    fn release_prefix(&self, id: u64) -> bool {
        let (now, id) = (self.shared.now(), PrefixId(id));
        let mut cache = lock(&self.shared.cache);
        let digest = cache.prefixes(now).into_iter().find(|prefix| prefix.id == id).map(|prefix| prefix.digest);
        let released = cache.release(id);
        drop(cache);
        lock(&self.shared.released).extend(digest);
        self.shared.queue.call();
        released
    }

    fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        self.check(&request)?;
        self.admit()?;
        let constraint = self.constraint(&request)?;
        let found = self.shared.lookup(&request.tenant, &request.prompt);
        let (sender, stream) = GenerationStream::channel();
        // What another request is computing already is not this one's work.
        let held = found.resident.max(found.coming).min(request.prompt.tokens.len() - 1);
        let load = Load::new(self.shared.counters.clone(), request.prompt.tokens.len(), held);
        let call = Call { request, constraint, sender, accepted: self.shared.clock.now() };
        self.shared.queue.push(Job { call, load }).map_err(ModelError::Stopped)?;
        Ok(stream)
    }
}

impl Drop for LocalGenerator {
    fn drop(&mut self) {
        let reason = "it is shutting down";
        fail_all(self.shared.queue.close(reason), reason);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's worker ended by a panic");
        }
    }
}

impl std::fmt::Debug for LocalGenerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalGenerator").field("info", &self.info).finish_non_exhaustive()
    }
}
