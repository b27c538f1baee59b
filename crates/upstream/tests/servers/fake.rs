//! A server that does what a test says: well-behaved by default, with a prefix cache in blocks, and with every fault.

use std::{
    convert::Infallible,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use edgewise_model_api::Generator;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

pub(crate) const BLOCK: usize = 16;

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Speech {
    pub(crate) text: String,
    /// Before every token.
    pub(crate) delay: Duration,
    /// Before the first.
    pub(crate) think: Duration,
    /// What is sent as usage instead of the truth; null sends none.
    pub(crate) usage: Option<Value>,
    pub(crate) done: bool,
    /// The connection breaks after so many tokens.
    pub(crate) cut: Option<usize>,
    /// Nothing but comments comes after so many tokens.
    pub(crate) hang: Option<usize>,
}

impl Speech {
    pub(crate) fn new(text: &str) -> Self {
        let (delay, think) = (Duration::ZERO, Duration::ZERO);
        Self { text: text.to_owned(), delay, think, usage: None, done: true, cut: None, hang: None }
    }
}

/// What a server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Say(Speech),
    Status(u16, Vec<(&'static str, String)>, Value),
    Raw(Vec<&'static [u8]>),
}

impl From<&str> for Reply {
    fn from(text: &str) -> Self {
        Self::Say(Speech::new(text))
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) body: Value,
    pub(crate) headers: HeaderMap,
}

type Script = Box<dyn Fn(usize) -> Reply + Send + Sync>;

pub(crate) struct Shared {
    script: Script,
    owner: &'static str,
    takes_tokens: bool,
    /// Tokens it adds to a text.
    writes: usize,
    pub(crate) seen: Mutex<Vec<Seen>>,
    cache: Mutex<Vec<Vec<u32>>>,
    /// Streams that ended because nobody read them.
    pub(crate) abandoned: AtomicUsize,
}

/// A running server. Killed when dropped.
pub(crate) struct Fake {
    pub(crate) port: u16,
    pub(crate) shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

/// How a server is.
pub(crate) struct Manner {
    pub(crate) owner: &'static str,
    pub(crate) takes_tokens: bool,
    pub(crate) writes: usize,
    pub(crate) port: u16,
}

impl Default for Manner {
    fn default() -> Self {
        Self { owner: "vllm", takes_tokens: true, writes: 0, port: 0 }
    }
}

impl Fake {
    /// Says the same to everybody.
    pub(crate) fn saying(text: &'static str) -> Self {
        Self::start(Manner::default(), move |_| text.into())
    }

    /// Gives the `n`th request the reply of `script`.
    pub(crate) fn scripted(script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        Self::start(Manner::default(), script)
    }

    pub(crate) fn start(manner: Manner, script: impl Fn(usize) -> Reply + Send + Sync + 'static) -> Self {
        let shared = Arc::new(Shared {
            script: Box::new(script),
            owner: manner.owner,
            takes_tokens: manner.takes_tokens,
            writes: manner.writes,
            seen: Mutex::default(),
            cache: Mutex::default(),
            abandoned: AtomicUsize::new(0),
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, manner.port));
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new()
            .route("/health", get(|| async { "ok" }))
            .route("/v1/models", get(models))
            .route("/v1/completions", post(complete))
            .with_state(Arc::clone(&shared));
        runtime.spawn(async move { axum::serve(listener, router).await });
        Self { port, shared, runtime: Some(runtime) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    pub(crate) fn requests(&self) -> usize {
        self.shared.seen.lock().unwrap().len()
    }

    /// Closes every connection and the port, as a killed process does.
    pub(crate) fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn models(State(shared): State<Arc<Shared>>) -> Json<Value> {
    Json(json!({ "object": "list", "data": [{ "id": "m", "owned_by": shared.owner }] }))
}

/// Tokens of a prompt, and how many the server counts.
fn read(shared: &Shared, prompt: &Value) -> Result<(Vec<u32>, usize), Box<Response>> {
    match prompt {
        Value::Array(ids) if shared.takes_tokens => {
            let ids: Vec<u32> = ids.iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect();
            let count = ids.len();
            Ok((ids, count))
        }
        Value::String(text) => {
            // As the tests' encoder renders them.
            let ids: Vec<u32> = text.split_whitespace().map(|word| word[1..].parse().unwrap()).collect();
            let count = ids.len() + shared.writes;
            Ok((ids, count))
        }
        _ => {
            let body = json!({ "error": { "message": "prompt must be a string" } });
            Err(Box::new((StatusCode::UNPROCESSABLE_ENTITY, Json(body)).into_response()))
        }
    }
}

async fn complete(State(shared): State<Arc<Shared>>, headers: HeaderMap, Json(body): Json<Value>) -> Response {
    let (prompt, counted) = match read(&shared, &body["prompt"]) {
        Ok(read) => read,
        Err(refusal) => return *refusal,
    };
    if body["stream"] != true {
        return Json(json!({ "choices": [{ "text": "yes" }], "usage": { "prompt_tokens": counted } })).into_response();
    }
    let nth = {
        let mut seen = shared.seen.lock().unwrap();
        seen.push(Seen { body: body.clone(), headers });
        seen.len() - 1
    };
    let speech = match (shared.script)(nth) {
        Reply::Say(speech) => speech,
        Reply::Status(status, headers, body) => {
            let mut response = (StatusCode::from_u16(status).unwrap(), Json(body)).into_response();
            for (name, value) in headers {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
            return response;
        }
        Reply::Raw(pieces) => {
            let pieces = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Bytes::from_static(piece)));
            return Body::from_stream(stream::iter(pieces)).into_response();
        }
    };
    let cached = {
        let mut cache = shared.cache.lock().unwrap();
        let common = |known: &Vec<u32>| known.iter().zip(&prompt).take_while(|(a, b)| a == b).count();
        let longest = cache.iter().map(common).max().unwrap_or(0).min(prompt.len() - 1);
        cache.push(prompt.clone());
        longest / BLOCK * BLOCK
    };
    let events = events(&speech, &body, counted, cached);
    let (speech, guard) = (Arc::new(speech), Reading { shared, over: false });
    let stream = stream::unfold(
        (events.into_iter(), speech, guard, 0usize),
        |(mut events, speech, mut guard, sent)| async move {
            if speech.cut == Some(sent) {
                // What came before has to be on its way.
                tokio::time::sleep(Duration::from_millis(30)).await;
                guard.ended();
                return Some((Err(io::Error::other("cut")), (Vec::new().into_iter(), speech, guard, usize::MAX)));
            }
            if speech.hang == Some(sent) {
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Some((Ok(Bytes::from_static(b": still here\n\n")), (events, speech, guard, sent)));
            }
            let Some(event) = events.next() else {
                guard.ended();
                return None;
            };
            tokio::time::sleep(if sent == 0 { speech.think } else { speech.delay }).await;
            Some((Ok(Bytes::from(event)), (events, speech, guard, sent.saturating_add(1))))
        },
    );
    ([("content-type", "text/event-stream")], Body::from_stream(stream)).into_response()
}

/// Notices that a stream was dropped before its end.
struct Reading {
    shared: Arc<Shared>,
    over: bool,
}

impl Reading {
    fn ended(&mut self) {
        self.over = true;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if !self.over {
            self.shared.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The events of an answer: one a token, then the account.
fn events(speech: &Speech, request: &Value, counted: usize, cached: usize) -> Vec<String> {
    // The one the prompts of these tests are made with.
    let tokenizer = crate::ENCODER.tokenizer();
    let (mut text, mut reason, mut matched) = (speech.text.clone(), "stop", json!(null));
    let stops = request["stop"].as_array().cloned().unwrap_or_default();
    let found =
        stops.iter().filter_map(|stop| Some((text.find(stop.as_str()?)?, stop.clone()))).min_by_key(|(at, _)| *at);
    if let Some((at, stop)) = found {
        text.truncate(at);
        matched = stop;
    }
    let ids = tokenizer.encode(&text).unwrap();
    let pieces = tokenizer.offsets(&text).unwrap();
    let most = usize::try_from(request["max_tokens"].as_u64().unwrap()).unwrap();
    let made = ids.len().min(most);
    if made < ids.len() {
        reason = "length";
    }
    let mut events = Vec::new();
    for (i, (id, piece)) in ids.iter().zip(pieces).take(made).enumerate() {
        let last = i + 1 == made;
        let mut choice = json!({ "index": 0, "text": text[piece], "token_ids": [id], "finish_reason": null });
        if request.get("logprobs").is_some() {
            choice["logprobs"] = json!({ "tokens": [choice["text"]], "token_logprobs": [-0.25] });
        }
        if last {
            choice["finish_reason"] = json!(reason);
            choice["stop_reason"] = matched.clone();
        }
        events.push(format!("data: {}\r\n\r\n", json!({ "choices": [choice], "usage": null })));
    }
    if made == 0 {
        let choice = json!({ "index": 0, "text": "", "finish_reason": reason, "stop_reason": matched });
        events.push(format!("data: {}\n\n", json!({ "choices": [choice] })));
    }
    let truth = json!({
        "prompt_tokens": counted, "completion_tokens": made, "prompt_tokens_details": { "cached_tokens": cached },
    });
    let usage = speech.usage.clone().unwrap_or(truth);
    if !usage.is_null() {
        events.push(format!("data: {}\n\n", json!({ "choices": [], "usage": usage })));
    }
    if speech.done {
        events.push("data: [DONE]\n\n".to_owned());
    }
    events
}
