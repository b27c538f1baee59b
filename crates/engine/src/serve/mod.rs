//! Serving generations: admission, a queue, one worker, prefix reuse, and the latency curve.
//!
//! Invariants:
//! - The worker thread alone touches keys and values. Callers hold a handle and a stream of events.
//! - Greedy output is the same with a cold and a warm cache.
//! - Every accepted request gets a last event, whatever becomes of the worker, unless its caller left.
//!
//! Deliberately not here, in this version: running several requests at once, sharing memory between prefixes.

mod calibration;
mod clock;
mod generation;
mod latency_fit;
mod prefix_slots;
mod queue;
mod step_model;
mod worker;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    thread::JoinHandle,
};

use edgewise_model_api::{
    ChatMessage, EncodedChat, GenerateRequest, GenerationStream, Generator, GeneratorInfo, LatencyCurve, ModelError,
    PrefixState, QueueState, Tokenizer,
};
use edgewise_types::TenantId;

pub use clock::{Clock, SystemClock};
pub(crate) use step_model::StepModel;

use crate::{EngineError, chat_template::ChatTemplate, tokenizer::GeneratorTokenizer};
use prefix_slots::PrefixSlots;
use queue::{Call, Counters, Job, Load, Queue, lock};
use worker::{Prefixes, Shared, Worker, fail_all};

/// Limits of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Most tokens of prompt and output together; absent: what the model was trained for. Larger values are cut to it.
    pub context_window: Option<usize>,
    /// Prompt tokens per forward pass. A cancelled prefill ends after at most this many.
    pub prefill_chunk: usize,
    /// Prompt tokens waiting to be prefilled beyond which new requests are refused. A request that finds the engine
    /// idle is always accepted.
    pub max_queue_tokens: usize,
    /// Sequences kept for prefix reuse.
    pub max_cached_sequences: usize,
    /// Memory for keys and values kept for prefix reuse, in bytes. The running request's own come on top.
    pub max_cached_bytes: usize,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            context_window: None,
            prefill_chunk: 128,
            max_queue_tokens: 32_768,
            max_cached_sequences: 32,
            max_cached_bytes: 1 << 30,
        }
    }
}

/// A model on this machine.
pub struct LocalGenerator {
    info: GeneratorInfo,
    tokenizer: Arc<GeneratorTokenizer>,
    template: ChatTemplate,
    shared: Arc<Shared>,
    max_queue_tokens: usize,
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
    /// Measures the model, then starts its worker.
    pub(crate) fn start<M: StepModel>(
        parts: Parts<M>,
        options: &EngineOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, EngineError> {
        let chunk = options.prefill_chunk.max(1);
        let latency = calibration::calibrate(&parts.model, clock.as_ref(), chunk, parts.info.context_window)?;
        tracing::debug!(model = parts.info.model, curve = ?latency.curve(), "latency curve measured");
        let slots = PrefixSlots::new(options.max_cached_sequences, options.max_cached_bytes);
        let shared = Arc::new(Shared {
            queue: Queue::default(),
            counters: Arc::new(Counters::default()),
            latency: Mutex::new(latency),
            prefixes: Mutex::new(Prefixes::new(slots)),
            clock,
        });
        Self::spawn(parts, options, shared)
    }

    /// Starts the worker.
    fn spawn<M: StepModel>(parts: Parts<M>, options: &EngineOptions, shared: Arc<Shared>) -> Result<Self, EngineError> {
        let Parts { model, info, tokenizer, template } = parts;
        let tokenizer = Arc::new(tokenizer);
        let worker = Worker {
            model,
            tokenizer: tokenizer.clone(),
            shared: shared.clone(),
            prefill_chunk: options.prefill_chunk.max(1),
            states: HashMap::new(),
        };
        let thread = std::thread::Builder::new()
            .name("edgewise-engine".to_owned())
            .spawn(move || worker.run())
            .map_err(|e| EngineError::Decoder(format!("cannot start the worker thread: {e}")))?;
        let max_queue_tokens = options.max_queue_tokens;
        Ok(Self { info, tokenizer, template, shared, max_queue_tokens, thread: Some(thread) })
    }

    /// Checks what can be known without work.
    fn check(&self, request: &GenerateRequest) -> Result<(), ModelError> {
        request.sampling.validate()?;
        let invalid = |why: &str| Err(ModelError::InvalidSampling(why.to_owned()));
        let impossible = |why: String| Err(ModelError::Internal(why));
        if request.max_tokens == 0 {
            return invalid("max_tokens must be at least 1");
        }
        if request.stop.iter().any(String::is_empty) {
            return invalid("a stop string is empty");
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

    /// Refuses a request of `new` tokens to prefill when too many are waiting. The time to come back is how long the
    /// excess takes to work off.
    fn admit(&self, new: usize) -> Result<(), ModelError> {
        let waiting = self.shared.counters.state().prefill_tokens;
        if waiting == 0 || waiting + new <= self.max_queue_tokens {
            return Ok(());
        }
        let excess = (waiting + new - self.max_queue_tokens).min(waiting);
        let seconds = self.latency().prefill_ms(excess, 0) / 1e3;
        Err(ModelError::Overloaded { retry_after_s: (seconds.ceil() as u64).max(1) })
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

    fn prefix_state(&self, tenant: &TenantId, prompt: &[u32]) -> PrefixState {
        PrefixState { resident_tokens: self.shared.resident(tenant, prompt) }
    }

    fn latency(&self) -> LatencyCurve {
        lock(&self.shared.latency).curve()
    }

    fn queue(&self) -> QueueState {
        self.shared.counters.state()
    }

    fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        self.check(&request)?;
        let resident = self.shared.resident(&request.tenant, &request.prompt.tokens);
        let new = request.prompt.tokens.len() - resident;
        self.admit(new)?;
        let (sender, stream) = GenerationStream::channel();
        let load = Load::new(self.shared.counters.clone(), new);
        let call = Call { request, sender, accepted: self.shared.clock.now() };
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
