//! Generators: chat encoding, prefix introspection, and streamed decoding.

use std::{
    ops::Range,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread::{self, Thread},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use edgewise_types::{TenantId, Usage};

use crate::{Ahead, CacheState, LatencyCurve, MissReason, ModelError, PrefixState, Tokenizer};

/// What a generator is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GeneratorInfo {
    /// Registry name.
    pub model: String,
    /// BLAKE3 over the model's files, in hexadecimal.
    pub digest: String,
    /// Most tokens a prompt and its output may have together.
    pub context_window: usize,
}

/// Who speaks in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The operator.
    System,
    /// The person asking.
    User,
    /// The model.
    Assistant,
}

/// A labelled piece of a message; pieces are joined without separator. Labels come back in [`EncodedChat::parts`], so
/// that a caller learns which tokens a piece became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatPart {
    /// The caller's name for it.
    pub label: String,
    /// Its text.
    pub text: String,
}

/// A chat message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Speaker.
    pub role: Role,
    /// Content, in order.
    pub parts: Vec<ChatPart>,
}

impl ChatMessage {
    /// A message of one part, labelled with the role's name.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        let label = match role {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        Self { role, parts: vec![ChatPart { label: label.to_owned(), text: text.into() }] }
    }
}

/// A chat as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedChat {
    /// The prompt, template tokens included, ready for the model to answer.
    pub tokens: Vec<u32>,
    /// For each part of the messages, in order: its label and the range of tokens that hold its text. A token that
    /// straddles two parts belongs to the one in which it starts. Ranges are disjoint and in order; tokens in none of
    /// them are the template's own.
    pub parts: Vec<(String, Range<usize>)>,
}

/// How long the engine is asked to keep a prefix resident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Retention {
    /// Five minutes after its last use.
    FiveMinutes,
    /// One hour after its last use.
    OneHour,
}

/// The end of a stable prefix: tokens `..at` are likely to come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// Number of tokens before the boundary.
    pub at: usize,
    /// How long to keep them.
    pub retention: Retention,
}

/// A prompt in tokens, with the ends of its stable prefixes in increasing order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// Token ids.
    pub tokens: Vec<u32>,
    /// Ends of stable prefixes, increasing.
    pub boundaries: Vec<Boundary>,
    /// Leading tokens that say nothing of the tenant, such as an operator's instructions: what the cache holds of them
    /// may be read by all tenants.
    pub public_tokens: usize,
}

/// How the next token is drawn from the logits. Applied in this order: repetition penalty, temperature, top-k, top-p,
/// min-p.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// 0 is greedy: the largest logit, the smallest id among equals.
    pub temperature: f32,
    /// Keep the k likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the smallest set of likeliest tokens with at least this probability together; 1 keeps all.
    pub top_p: f32,
    /// Drop tokens less likely than this share of the likeliest; 0 keeps all.
    pub min_p: f32,
    /// Divide positive logits of tokens seen in the prompt or output by this and multiply negative ones (CTRL,
    /// Keskar et al. 2019); 1 changes nothing.
    pub repetition_penalty: f32,
    /// Seed of the generator; the same seed, prompt and parameters give the same tokens. Absent: drawn at random.
    // Declared without a format: `int64` would leave out the larger half of the numbers that are taken.
    #[schema(value_type = Option<usize>)]
    pub seed: Option<u64>,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: None }
    }
}

impl Sampling {
    /// Checks the ranges: temperature 0 to 5, top_p in (0, 1], min_p in [0, 1), repetition penalty in (0, 10].
    pub fn validate(&self) -> Result<(), ModelError> {
        let checks = [
            ((0.0..=5.0).contains(&self.temperature), "temperature must be between 0 and 5"),
            (self.top_p > 0.0 && self.top_p <= 1.0, "top_p must be above 0 and at most 1"),
            ((0.0..1.0).contains(&self.min_p), "min_p must be at least 0 and below 1"),
            (
                self.repetition_penalty > 0.0 && self.repetition_penalty <= 10.0,
                "repetition_penalty must be above 0 and at most 10",
            ),
        ];
        match checks.iter().find(|(ok, _)| !ok) {
            Some((_, why)) => Err(ModelError::InvalidSampling((*why).to_owned())),
            None => Ok(()),
        }
    }
}

/// What an output must match, checked before every token is drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Constraint {
    /// A JSON value of this schema.
    #[schema(value_type = Object)]
    JsonSchema(serde_json::Value),
    /// A regular expression the whole output matches.
    Regex(String),
    /// A context-free grammar in the notation of Lark.
    Lark(String),
}

/// One generation, of one or more samples.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// What to continue.
    pub prompt: Prompt,
    /// How to draw tokens.
    pub sampling: Sampling,
    /// Most tokens to generate, at least 1.
    pub max_tokens: usize,
    /// Generation ends before the first of these strings; it is not part of the output.
    pub stop: Vec<String>,
    /// Whose cache to use.
    pub tenant: TenantId,
    /// Samples to draw, at least 1. They share the prompt's keys and values. Sample 0 is the one a request for a single
    /// sample would give; the others draw with seeds derived from its seed.
    pub n: usize,
    /// What every sample must match.
    pub constraint: Option<Constraint>,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// The model said it was done.
    EndOfTurn,
    /// A stop string came up.
    Stop,
    /// `max_tokens` were generated.
    Length,
}

/// Timings of one generation, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct GenerationTimings {
    /// Waiting for the engine.
    pub queue_ms: f64,
    /// From the start of the work to the first token.
    pub prefill_ms: f64,
    /// From the first to the last token.
    pub decode_ms: f64,
}

/// What a stream yields, in this order: `Started` once, `Token` any number of times, `Finished` once for each sample
/// behind the sample's last token, then the end. `Failed` may come at any time instead and ends all samples.
#[derive(Debug, Clone, PartialEq)]
pub enum GenerationEvent {
    /// Work has begun.
    Started {
        /// Prompt tokens found resident.
        cached_tokens: usize,
        /// Why not more were, as far as the engine says.
        miss: Option<MissReason>,
    },
    /// A token. `text` is the text it completes: empty while a character or a possible stop string is incomplete.
    Token {
        /// The sample it belongs to.
        sample: usize,
        /// Its id.
        id: u32,
        /// Text to append.
        text: String,
        /// Natural logarithm of its probability under the unmodified distribution (temperature 1, no penalties).
        logprob: f32,
    },
    /// The end of a sample. `text` is what was still held back for a possible stop string.
    Finished {
        /// The sample.
        sample: usize,
        /// Why.
        reason: FinishReason,
        /// The stop string that came up, where the engine knows which.
        stop: Option<String>,
        /// Text to append.
        text: String,
        /// Tokens used. The prompt is counted with the sample that ends first: the sum over all samples is the
        /// request's usage.
        usage: Usage,
        /// Times taken.
        timings: GenerationTimings,
    },
    /// The end of a failed generation.
    Failed(ModelError),
}

/// The engine's end of a stream.
pub type GenerationSender = mpsc::UnboundedSender<GenerationEvent>;

/// The caller's end of a stream. Dropping it cancels the generation. The channel is unbounded, which `max_tokens`
/// bounds: a slow reader never stalls the engine's other requests.
#[derive(Debug)]
pub struct GenerationStream {
    events: mpsc::UnboundedReceiver<GenerationEvent>,
}

impl GenerationStream {
    /// Both ends of a new stream. An engine learns of cancellation from `GenerationSender::is_closed`.
    pub fn channel() -> (GenerationSender, Self) {
        let (sender, events) = mpsc::unbounded_channel();
        (sender, Self { events })
    }

    /// The next event; `None` after the last.
    pub async fn next(&mut self) -> Option<GenerationEvent> {
        self.events.recv().await
    }

    /// The next event, blocking the thread; `None` after the last. Must not be called from async code.
    pub fn next_blocking(&mut self) -> Option<GenerationEvent> {
        self.events.blocking_recv()
    }

    /// The next event, blocking the thread no longer than `patience`, so that a caller can look at other things during
    /// a long prefill. Must not be called from async code.
    pub fn next_within(&mut self, patience: Duration) -> NextEvent {
        let deadline = Instant::now() + patience;
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            match self.events.poll_recv(&mut context) {
                Poll::Ready(Some(event)) => return NextEvent::Event(event),
                Poll::Ready(None) => return NextEvent::Ended,
                Poll::Pending => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return NextEvent::NotYet;
            }
            thread::park_timeout(left);
        }
    }
}

/// What [`GenerationStream::next_within`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum NextEvent {
    /// An event.
    Event(GenerationEvent),
    /// None so far.
    NotYet,
    /// The stream is over.
    Ended,
}

/// Wakes a parked thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Work the engine has accepted and not finished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueState {
    /// Requests waiting or running.
    pub requests: usize,
    /// Prompt tokens not yet prefilled.
    pub prefill_tokens: usize,
}

/// Generates text after a prompt.
pub trait Generator: Send + Sync {
    /// What it is.
    fn info(&self) -> &GeneratorInfo;

    /// Its tokenizer.
    fn tokenizer(&self) -> &dyn Tokenizer;

    /// The chat as tokens, with the turn of the assistant opened at the end. Strings in the messages that look like
    /// the template's control tokens are encoded as ordinary text, so no document can end its own message.
    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError>;

    /// What is resident of `prompt` for `tenant`. A snapshot: it may change before the request runs. Does not count as
    /// a use.
    fn prefix_state(&self, tenant: &TenantId, prompt: &Prompt) -> PrefixState;

    /// The engine's latency curve, measured on this machine.
    fn latency(&self) -> LatencyCurve;

    /// The work ahead of a new request.
    fn queue(&self) -> QueueState;

    /// The time that work will cost a new request. What is known less well than by an engine of one's own: the queued
    /// prompts, as if they were one without anything resident.
    fn ahead(&self) -> Ahead {
        match self.queue() {
            QueueState { requests: 0, .. } => Ahead::default(),
            QueueState { prefill_tokens, .. } => Ahead::of_prompts(self.latency().prefill_ms(prefill_tokens, 0)),
        }
    }

    /// Boundaries before this many tokens are not kept, and shorter prompts neither kept nor looked up.
    fn min_prefix_tokens(&self) -> usize {
        0
    }

    /// The cache as a whole. Empty where an engine has none or can't know.
    fn cache(&self) -> CacheState {
        CacheState::default()
    }

    /// Ends the retention of a prefix of [`Generator::cache`]; its pages become ordinary cached ones. Whether there was
    /// one of this id.
    fn release_prefix(&self, _id: u64) -> bool {
        false
    }

    /// Starts a generation. Errors that can be known without work (window, sampling, constraint, overload) are returned here;
    /// later ones come as [`GenerationEvent::Failed`].
    fn generate(&self, request: GenerateRequest) -> Result<GenerationStream, ModelError>;
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_patient_reader_gets_each_event_and_the_end() {
        let (sender, mut stream) = GenerationStream::channel();
        assert_eq!(stream.next_within(Duration::from_millis(1)), NextEvent::NotYet);
        let started = GenerationEvent::Started { cached_tokens: 3, miss: None };
        let sent = started.clone();
        let writer = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            sender.send(sent).unwrap();
        });
        // Far longer than the writer takes: woken by the event, not by the clock.
        let before = Instant::now();
        assert_eq!(stream.next_within(Duration::from_secs(60)), NextEvent::Event(started));
        assert!(before.elapsed() < Duration::from_secs(30));
        writer.join().unwrap();
        assert_eq!(stream.next_within(Duration::from_secs(60)), NextEvent::Ended);
    }
}
