//! An engine without a model: the real cache of keys and values, on a clock that is set from outside, and a latency curve
//! for the time that prefill and decode would take.
//!
//! One worker: prompts are prefilled one after another, in the order they come; decoding goes on beside. A prefix can be
//! read as soon as its prefill was begun, as by requests that wait for it in the real engine.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use edgewise_kv_cache::{self as kv, CacheError, CacheOptions, Identity, KvCache, OpenRequest, Reserved, Ttl};
use edgewise_model_api::{
    Ahead, ChatMessage, EncodedChat, FinishReason, GenerateRequest, GenerationEvent, GenerationStream,
    GenerationTimings, Generator, GeneratorInfo, LatencyCurve, ModelError, PrefixState, Prompt, QueueState, Retention,
    Role, Tokenizer, prompt_usage,
};
use edgewise_types::TenantId;

use super::{Machine, millis};

/// Tokens of the chat template: a turn of each role, and its end.
const TURNS: [u32; 3] = [0, 1, 2];
const END: u32 = 3;
/// Lengths of answers in tokens: between the first and the second, by the prompt, about a hundred on average.
const ANSWERS: (u64, u64) = (40, 160);

/// Time that stands still until it is set. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Arc<AtomicU64>);

impl Clock {
    pub(super) fn now(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, now: Duration) {
        self.0.store(u64::try_from(now.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A tokenizer that remembers what it encoded: every document goes into many prompts.
pub(crate) struct TokenMemo {
    inner: Arc<dyn Tokenizer>,
    encoded: Mutex<HashMap<TextKey, Arc<[u32]>>>,
}

/// Hash and length of a text.
type TextKey = (u64, usize);

impl TokenMemo {
    pub(crate) fn new(inner: Arc<dyn Tokenizer>) -> Self {
        Self { inner, encoded: Mutex::default() }
    }

    fn tokens(&self, text: &str) -> Result<Arc<[u32]>, ModelError> {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let key = (hasher.finish(), text.len());
        if let Some(tokens) = lock(&self.encoded).get(&key) {
            return Ok(Arc::clone(tokens));
        }
        let tokens: Arc<[u32]> = self.inner.encode(text)?.into();
        lock(&self.encoded).insert(key, Arc::clone(&tokens));
        Ok(tokens)
    }
}

impl Tokenizer for TokenMemo {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(self.tokens(text)?.to_vec())
    }

    fn offsets(&self, text: &str) -> Result<Vec<std::ops::Range<usize>>, ModelError> {
        self.inner.offsets(text)
    }

    fn count(&self, text: &str) -> Result<usize, ModelError> {
        Ok(self.tokens(text)?.len())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.inner.decode(ids)
    }
}

/// How long the last request took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Served {
    /// From its arrival to the first token.
    pub(super) ttft: Duration,
    /// To the last.
    pub(super) total: Duration,
}

struct State {
    cache: KvCache,
    /// When all prompts so far are prefilled.
    busy_until: Duration,
    served: Served,
}

/// The engine.
pub(crate) struct SimulatedEngine {
    info: GeneratorInfo,
    memo: Arc<TokenMemo>,
    clock: Clock,
    curve: LatencyCurve,
    min_prefix_tokens: usize,
    /// Whether it keeps to itself what is resident.
    blind: bool,
    state: Mutex<State>,
}

impl SimulatedEngine {
    pub(crate) fn new(machine: &Machine, memo: Arc<TokenMemo>, clock: Clock, blind: bool) -> Result<Self, CacheError> {
        let pages = machine.cache_tokens / machine.page_tokens.max(1);
        let share = |share: f64| (pages as f64 * share) as usize;
        let cache = KvCache::new(CacheOptions {
            page_tokens: machine.page_tokens,
            pages,
            host_pages: 0,
            min_prefix_tokens: machine.min_prefix_tokens,
            identity: Identity::new(&[]),
            secret: [0; 32],
            reserved: Reserved { default: share(machine.retained_share), limit: share(0.75), ..Reserved::default() },
        })?;
        let window = machine.window.min(pages * machine.page_tokens);
        Ok(Self {
            info: GeneratorInfo { model: machine.name.clone(), digest: "simulated".to_owned(), context_window: window },
            memo,
            clock,
            curve: machine.curve,
            min_prefix_tokens: machine.min_prefix_tokens,
            blind,
            state: Mutex::new(State { cache, busy_until: Duration::ZERO, served: Served::default() }),
        })
    }

    /// How long the last request took.
    pub(super) fn served(&self) -> Served {
        lock(&self.state).served
    }

    /// What is resident of a prompt, whoever may know.
    fn resident(&self, tenant: &TenantId, prompt: &Prompt) -> usize {
        let boundaries = boundaries(prompt);
        let now = self.clock.now();
        lock(&self.state).cache.lookup(&open_request(tenant, prompt, &boundaries), now).resident
    }
}

fn boundaries(prompt: &Prompt) -> Vec<kv::Boundary> {
    let ttl = |retention| match retention {
        Retention::FiveMinutes => Ttl::FiveMinutes,
        Retention::OneHour => Ttl::OneHour,
    };
    prompt.boundaries.iter().map(|b| kv::Boundary { at: b.at, ttl: ttl(b.retention) }).collect()
}

fn open_request<'a>(tenant: &'a TenantId, prompt: &'a Prompt, boundaries: &'a [kv::Boundary]) -> OpenRequest<'a> {
    OpenRequest { tenant, prompt: &prompt.tokens, public_tokens: prompt.public_tokens, boundaries }
}

impl Generator for SimulatedEngine {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        self.memo.as_ref()
    }

    /// Part by part, so that a part always becomes the same tokens.
    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        let turn = |role| match role {
            Role::System => TURNS[0],
            Role::User => TURNS[1],
            Role::Assistant => TURNS[2],
        };
        let mut encoded = EncodedChat { tokens: Vec::new(), parts: Vec::new() };
        for message in messages {
            encoded.tokens.push(turn(message.role));
            for part in &message.parts {
                let start = encoded.tokens.len();
                encoded.tokens.extend_from_slice(&self.memo.tokens(&part.text)?);
                encoded.parts.push((part.label.clone(), start..encoded.tokens.len()));
            }
            encoded.tokens.push(END);
        }
        encoded.tokens.push(turn(Role::Assistant));
        Ok(encoded)
    }

    fn prefix_state(&self, tenant: &TenantId, prompt: &Prompt) -> PrefixState {
        let resident_tokens = if self.blind { 0 } else { self.resident(tenant, prompt) };
        PrefixState { resident_tokens, ..PrefixState::default() }
    }

    fn latency(&self) -> LatencyCurve {
        self.curve
    }

    fn queue(&self) -> QueueState {
        let ahead = self.ahead().prefill_ms;
        QueueState { requests: usize::from(ahead > 0.0), prefill_tokens: (ahead / self.curve.b) as usize }
    }

    fn ahead(&self) -> Ahead {
        let busy = lock(&self.state).busy_until.saturating_sub(self.clock.now());
        Ahead::of_prompts(busy.as_secs_f64() * 1e3)
    }

    fn min_prefix_tokens(&self) -> usize {
        if self.blind { usize::MAX } else { self.min_prefix_tokens }
    }

    fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        let GenerateRequest { prompt, tenant, max_tokens, .. } = request;
        let length = prompt.tokens.len();
        if length + max_tokens > self.info.context_window {
            let window = self.info.context_window;
            return Err(ModelError::WindowExceeded { prompt_tokens: length, max_tokens, window });
        }
        let kv_boundaries = boundaries(&prompt);
        let internal = |error: String| ModelError::Internal(error);
        let mut hasher = DefaultHasher::new();
        // Not of the ids: tokenizers for tests give them out in the order in which words come.
        (length, prompt.boundaries.last().map(|boundary| boundary.at)).hash(&mut hasher);
        let output = (ANSWERS.0 + hasher.finish() % (ANSWERS.1 - ANSWERS.0)).min(max_tokens as u64) as usize;

        let arrived = self.clock.now();
        let mut guard = lock(&self.state);
        let State { cache, busy_until, served } = &mut *guard;
        let begun = arrived.max(*busy_until);
        let opened = cache.open(&open_request(&tenant, &prompt, &kv_boundaries), begun);
        let (mut sequence, resident) = (opened.sequence, opened.resident);
        let prefill_ms = self.curve.prefill_ms(length, resident);
        let prefilled = begun + millis(prefill_ms);
        let decode_ms = self.curve.decode_ms(length, output);
        let done = prefilled + millis(decode_ms);
        let room = cache.reserve(&mut sequence, length - resident, begun);
        if room.is_ok() {
            cache.commit(&mut sequence, &prompt.tokens[resident..], prefilled);
        }
        // The answer's own pages come and go; only the prompt is looked for again.
        cache.close(sequence, room.is_ok(), done);
        room.map_err(|error| internal(error.to_string()))?;
        *busy_until = prefilled;
        *served = Served { ttft: prefilled - arrived, total: done - arrived };
        drop(guard);

        let usage = prompt_usage(length, &prompt.boundaries, resident, self.min_prefix_tokens, output);
        let timings = GenerationTimings { queue_ms: (begun - arrived).as_secs_f64() * 1e3, prefill_ms, decode_ms };
        let (sender, stream) = GenerationStream::channel();
        let (reason, text) = (FinishReason::EndOfTurn, String::new());
        // The caller holds the other end.
        let _ = sender.send(GenerationEvent::Started { cached_tokens: resident, miss: None });
        let _ = sender.send(GenerationEvent::Finished { sample: 0, reason, stop: None, text, usage, timings });
        Ok(stream)
    }
}
