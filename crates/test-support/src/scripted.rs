//! A generator that says what a test wants, with a simulated prefix cache.
//!
//! The cache remembers the tokens of every prompt it has seen, per tenant, without limit or expiry: what is resident
//! of a new prompt is its longest common prefix with any of them. That is what an engine with endless memory would do.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use edgewise_model_api::{
    ChatMessage, EncodedChat, FinishReason, GenerateRequest, GenerationEvent, GenerationSender, GenerationStream,
    GenerationTimings, Generator, GeneratorInfo, LatencyCurve, ModelError, PrefixState, Prompt, QueueState, Role,
    Tokenizer, prompt_usage,
};
use edgewise_types::{TenantId, Usage};

use crate::WordTokenizer;

/// Control tokens of the chat template: `<turn> role text <end>`. Below [`crate::words::FIRST_ID`], so no text
/// encodes to them.
const TURN: [u32; 3] = [1, 2, 3];
const END: u32 = 4;

/// What the model is to say to one prompt.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    text: String,
    failure: Option<(usize, ModelError)>,
}

impl Reply {
    /// Says `text` and ends its turn.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), failure: None }
    }

    /// Fails with `error` after `tokens` tokens of the text.
    pub fn failing_after(mut self, tokens: usize, error: ModelError) -> Self {
        self.failure = Some((tokens, error));
        self
    }
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

impl From<String> for Reply {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

type Script = Box<dyn Fn(&str) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    seen: HashMap<TenantId, Vec<Vec<u32>>>,
    /// Public beginnings of prompts, where they are shared.
    public: Option<Vec<Vec<u32>>>,
    requests: Vec<GenerateRequest>,
    running: usize,
    cancelled: usize,
    refusal: Option<ModelError>,
    queue: QueueState,
}

/// A [`Generator`] that answers from a script. Clones share script, cache and log.
#[derive(Clone)]
pub struct ScriptedGenerator {
    info: GeneratorInfo,
    tokenizer: WordTokenizer,
    latency: LatencyCurve,
    min_prefix_tokens: usize,
    token_delay: Duration,
    script: Arc<Script>,
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl ScriptedGenerator {
    /// Answers each prompt with what `script` makes of the prompt's text (control tokens left out). The window is
    /// 8,192 tokens, tokens come without delay, and the latency curve is that of a fast device.
    pub fn new<R: Into<Reply>>(script: impl Fn(&str) -> R + Send + Sync + 'static) -> Self {
        Self {
            info: GeneratorInfo {
                model: "scripted".to_owned(),
                digest: blake3::hash(b"scripted generator 1").to_hex().to_string(),
                context_window: 8192,
            },
            tokenizer: WordTokenizer::new(),
            latency: LatencyCurve { a: 2.0, b: 0.1, c: 1e-6, d: 5.0, e: 1e-4 },
            min_prefix_tokens: 0,
            token_delay: Duration::ZERO,
            script: Arc::new(Box::new(move |prompt| script(prompt).into())),
            shared: Arc::default(),
        }
    }

    /// Gives these replies in turn, and the last one from then on.
    pub fn replies<R: Into<Reply>>(replies: impl IntoIterator<Item = R>) -> Self {
        let replies: Vec<Reply> = replies.into_iter().map(Into::into).collect();
        assert!(!replies.is_empty(), "a script has at least one reply");
        let next = Mutex::new(0);
        Self::new(move |_| {
            let mut next = next.lock().unwrap();
            let reply = replies[(*next).min(replies.len() - 1)].clone();
            *next += 1;
            reply
        })
    }

    /// Lets all tenants read what is cached of the public tokens of prompts, as an engine does.
    pub fn sharing_public_tokens(self) -> Self {
        self.state().public = Some(Vec::new());
        self
    }

    /// Sets the context window in tokens.
    pub fn with_context_window(mut self, tokens: usize) -> Self {
        self.info.context_window = tokens;
        self
    }

    /// Sets the registry name, as prices are looked up by it.
    pub fn with_model(mut self, name: &str) -> Self {
        self.info.model = name.to_owned();
        self
    }

    /// Sets the latency curve. It is reported, not acted out.
    pub fn with_latency(mut self, curve: LatencyCurve) -> Self {
        self.latency = curve;
        self
    }

    /// Keeps no boundary before this many tokens.
    pub fn with_min_prefix_tokens(mut self, tokens: usize) -> Self {
        self.min_prefix_tokens = tokens;
        self
    }

    /// Waits this long before each token.
    pub fn with_token_delay(mut self, delay: Duration) -> Self {
        self.token_delay = delay;
        self
    }

    /// Refuses every further request with `error`, or none.
    pub fn set_refusal(&self, error: Option<ModelError>) {
        self.state().refusal = error;
    }

    /// Sets what [`Generator::queue`] reports on top of the running requests.
    pub fn set_queue(&self, queue: QueueState) {
        self.state().queue = queue;
    }

    /// Every request that was started, in order.
    pub fn requests(&self) -> Vec<GenerateRequest> {
        self.state().requests.clone()
    }

    /// Text of the prompt of every request that was started, control tokens left out.
    pub fn prompts(&self) -> Vec<String> {
        self.requests().iter().map(|request| self.tokenizer.decode(&request.prompt.tokens).unwrap()).collect()
    }

    /// How many generations noticed that their stream was dropped.
    pub fn cancelled(&self) -> usize {
        self.state().cancelled
    }

    /// Waits until no generation runs; fails the test after ten seconds.
    pub fn wait_idle(&self) {
        let (_, idle) = &*self.shared;
        let (_state, timeout) =
            idle.wait_timeout_while(self.state(), Duration::from_secs(10), |state| state.running > 0).unwrap();
        assert!(!timeout.timed_out(), "a scripted generation still runs after 10 s");
    }

    /// Puts `tokens` into the cache of `tenant`, as if prefilled.
    pub fn warm(&self, tenant: &TenantId, tokens: &[u32]) {
        self.state().seen.entry(tenant.clone()).or_default().push(tokens.to_vec());
    }

    /// Empties the cache.
    pub fn forget(&self) {
        let mut state = self.state();
        state.seen.clear();
        state.public.iter_mut().for_each(Vec::clear);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }
}

impl State {
    fn resident(&self, tenant: &TenantId, prompt: &Prompt) -> usize {
        let (prompt, public_tokens) = (&prompt.tokens, prompt.public_tokens);
        let common = |seen: &Vec<u32>| seen.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let longest = self.seen.get(tenant).and_then(|prompts| prompts.iter().map(common).max()).unwrap_or(0);
        let shared = self.public.iter().flatten().map(common).max().unwrap_or(0).min(public_tokens);
        longest.max(shared).min(prompt.len().saturating_sub(1))
    }
}

/// One token after another, until the end, the failure, or the caller's loss of interest (then `false`).
fn speak(
    tokens: &[(u32, String)],
    failure: Option<(usize, ModelError)>,
    (reason, stop): (FinishReason, Option<String>),
    mut usage: Usage,
    (samples, delay): (usize, Duration),
    sender: &GenerationSender,
) -> bool {
    let started = Instant::now();
    if sender.send(GenerationEvent::Started { cached_tokens: usage.cache_read_tokens, miss: None }).is_err() {
        return false;
    }
    let fail_at = failure.as_ref().map(|(at, _)| *at);
    let mut prefill_ms = 0.0;
    for sample in 0..samples {
        usage.output_tokens = tokens.len();
        for (i, (id, text)) in tokens.iter().enumerate() {
            if fail_at == Some(i) {
                break;
            }
            if !delay.is_zero() {
                std::thread::sleep(delay);
            }
            if sample + i == 0 {
                prefill_ms = started.elapsed().as_secs_f64() * 1e3;
            }
            let token = GenerationEvent::Token { sample, id: *id, text: text.clone(), logprob: 0.0 };
            if sender.send(token).is_err() {
                return false;
            }
        }
        if let Some((_, error)) = failure {
            return sender.send(GenerationEvent::Failed(error)).is_ok();
        }
        let decode_ms = started.elapsed().as_secs_f64() * 1e3 - prefill_ms;
        let timings = GenerationTimings { queue_ms: 0.0, prefill_ms, decode_ms };
        // The prompt is counted with the first sample alone.
        let usage = std::mem::take(&mut usage);
        let (stop, text) = (stop.clone(), String::new());
        if sender.send(GenerationEvent::Finished { sample, reason, stop, text, usage, timings }).is_err() {
            return false;
        }
    }
    true
}

impl Generator for ScriptedGenerator {
    fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        &self.tokenizer
    }

    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        let role_token = |role| match role {
            Role::System => TURN[0],
            Role::User => TURN[1],
            Role::Assistant => TURN[2],
        };
        let mut encoded = EncodedChat { tokens: Vec::new(), parts: Vec::new() };
        for message in messages {
            encoded.tokens.push(role_token(message.role));
            let text: String = message.parts.iter().map(|part| part.text.as_str()).collect();
            let starts: Vec<usize> = self.tokenizer.offsets(&text)?.into_iter().map(|range| range.start).collect();
            let first = encoded.tokens.len();
            encoded.tokens.extend(self.tokenizer.encode(&text)?);
            let mut end_byte = 0;
            let mut from = first;
            for part in &message.parts {
                end_byte += part.text.len();
                let to = first + starts.partition_point(|start| *start < end_byte);
                encoded.parts.push((part.label.clone(), from..to));
                from = to;
            }
            encoded.tokens.push(END);
        }
        encoded.tokens.push(role_token(Role::Assistant));
        Ok(encoded)
    }

    fn prefix_state(&self, tenant: &TenantId, prompt: &Prompt) -> PrefixState {
        PrefixState { resident_tokens: self.state().resident(tenant, prompt), ..PrefixState::default() }
    }

    fn latency(&self) -> LatencyCurve {
        self.latency
    }

    fn min_prefix_tokens(&self) -> usize {
        self.min_prefix_tokens
    }

    fn queue(&self) -> QueueState {
        let state = self.state();
        QueueState { requests: state.queue.requests + state.running, prefill_tokens: state.queue.prefill_tokens }
    }

    fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError> {
        request.sampling.validate()?;
        if request.constraint.is_some() {
            return Err(ModelError::InvalidConstraint("a scripted model says what its script says".to_owned()));
        }
        let prompt_tokens = request.prompt.tokens.len();
        let window = self.info.context_window;
        if prompt_tokens + request.max_tokens > window {
            return Err(ModelError::WindowExceeded { prompt_tokens, max_tokens: request.max_tokens, window });
        }
        if let Some(error) = self.state().refusal.clone() {
            return Err(error);
        }
        let Reply { mut text, failure } = (self.script)(&self.tokenizer.decode(&request.prompt.tokens)?);
        let mut reason = FinishReason::EndOfTurn;
        let mut met = None;
        let found = |stop: &String| text.find(stop.as_str()).map(|at| (at, stop.clone()));
        if let Some((at, stop)) = request.stop.iter().filter_map(found).min() {
            text.truncate(at);
            (reason, met) = (FinishReason::Stop, Some(stop));
        }
        let ids = self.tokenizer.encode(&text)?;
        let pieces = self.tokenizer.offsets(&text)?;
        let samples = request.n;
        let mut tokens: Vec<(u32, String)> =
            ids.into_iter().zip(pieces).map(|(id, piece)| (id, text[piece].to_owned())).collect();
        if tokens.len() > request.max_tokens {
            tokens.truncate(request.max_tokens);
            (reason, met) = (FinishReason::Length, None);
        }

        let (sender, stream) = GenerationStream::channel();
        let usage = {
            let mut state = self.state();
            let cached = state.resident(&request.tenant, &request.prompt);
            let beginning = request.prompt.tokens[..request.prompt.public_tokens].to_vec();
            if let Some(public) = &mut state.public {
                public.push(beginning);
            }
            state.seen.entry(request.tenant.clone()).or_default().push(request.prompt.tokens.clone());
            let prompt = &request.prompt;
            let usage = prompt_usage(prompt.tokens.len(), &prompt.boundaries, cached, self.min_prefix_tokens, 0);
            state.requests.push(request);
            state.running += 1;
            usage
        };
        let (delay, shared) = (self.token_delay, Arc::clone(&self.shared));
        std::thread::spawn(move || {
            let heard = speak(&tokens, failure, (reason, met), usage, (samples, delay), &sender);
            let (state, idle) = &*shared;
            let mut state = state.lock().unwrap();
            state.running -= 1;
            state.cancelled += usize::from(!heard);
            idle.notify_all();
        });
        Ok(stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewise_model_api::{Boundary, Retention, Sampling};

    fn request(tokens: Vec<u32>, boundaries: Vec<Boundary>) -> GenerateRequest {
        GenerateRequest {
            prompt: Prompt { tokens, boundaries, public_tokens: 0 },
            sampling: Sampling::default(),
            max_tokens: 64,
            stop: Vec::new(),
            tenant: TenantId::local(),
            n: 1,
            constraint: None,
        }
    }

    fn drain(mut stream: GenerationStream) -> Vec<GenerationEvent> {
        std::iter::from_fn(|| stream.next_blocking()).collect()
    }

    #[test]
    fn keeps_the_contract() {
        crate::contract::generator(&ScriptedGenerator::new(|_| "The answer is long enough to be cut [1]. So it is."));
    }

    #[test]
    fn a_second_prompt_reads_what_the_first_wrote_but_not_across_tenants() {
        let model = ScriptedGenerator::replies(["ok"]);
        let tokens: Vec<u32> = model.tokenizer().encode("one two three four five six").unwrap();
        let boundaries = vec![
            Boundary { at: 2, retention: Retention::OneHour },
            Boundary { at: 5, retention: Retention::FiveMinutes },
        ];
        let usage = |tenant: &str| {
            let mut request = request(tokens.clone(), boundaries.clone());
            request.tenant = TenantId(tenant.into());
            match drain(model.generate(request).unwrap()).pop() {
                Some(GenerationEvent::Finished { usage, .. }) => usage,
                other => panic!("{other:?}"),
            }
        };
        let cold = Usage {
            input_tokens: 1,
            cache_write_1h_tokens: 2,
            cache_write_5m_tokens: 3,
            output_tokens: 1,
            ..Usage::default()
        };
        assert_eq!(usage("a"), cold);
        assert_eq!(usage("a"), Usage { input_tokens: 1, cache_read_tokens: 5, output_tokens: 1, ..Usage::default() });
        assert_eq!(usage("b"), cold);
    }

    #[test]
    fn replies_come_in_turn_and_can_fail_midway() {
        let error = ModelError::Internal("out of memory".to_owned());
        let model =
            ScriptedGenerator::replies([Reply::new("one two three").failing_after(2, error.clone()), "fine".into()]);
        let tokens = model.tokenizer().encode("hello").unwrap();
        let events = drain(model.generate(request(tokens.clone(), vec![])).unwrap());
        assert_eq!(events.len(), 4);
        assert_eq!(events.last(), Some(&GenerationEvent::Failed(error)));
        assert!(matches!(
            drain(model.generate(request(tokens, vec![])).unwrap()).last(),
            Some(GenerationEvent::Finished { reason: FinishReason::EndOfTurn, .. })
        ));
        assert_eq!(model.prompts(), ["hello", "hello"]);
    }

    #[test]
    fn a_dropped_stream_is_noticed() {
        let model = ScriptedGenerator::new(|_| "word ".repeat(200)).with_token_delay(Duration::from_millis(1));
        let tokens = model.tokenizer().encode("hello").unwrap();
        let mut long = request(tokens, vec![]);
        long.max_tokens = 400;
        let mut stream = model.generate(long).unwrap();
        assert!(stream.next_blocking().is_some());
        assert_eq!(model.queue().requests, 1);
        drop(stream);
        model.wait_idle();
        assert_eq!(model.cancelled(), 1);
        assert_eq!(model.queue().requests, 0);
    }
}
