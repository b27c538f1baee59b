//! The generator against servers that do what a test says, over real connections.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod fake;
mod faults;
mod replicas;

use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};

use edgewise_model_api::{
    Boundary, ChatMessage, EncodedChat, FinishReason, GenerateRequest, GenerationEvent, GenerationStream, Generator,
    ModelError, Prompt, Retention, Sampling, Tokenizer,
};
use edgewise_test_support::ScriptedGenerator;
use edgewise_types::{TenantId, Usage};
use edgewise_upstream::{ChatEncoder, Rendered, ServerKind, Timeouts, UpstreamGenerator, UpstreamOptions};
use serde_json::json;

use fake::{BLOCK, Fake, Manner, Reply, Speech};

/// Tokenizer and template of all tests.
pub(crate) static ENCODER: LazyLock<ScriptedGenerator> = LazyLock::new(|| ScriptedGenerator::new(|_| ""));

/// Renders tokens as their numbers.
struct Encoder;

impl ChatEncoder for Encoder {
    fn tokenizer(&self) -> &dyn Tokenizer {
        ENCODER.tokenizer()
    }

    fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        ENCODER.encode_chat(messages)
    }

    fn render(&self, tokens: &[u32]) -> Result<Rendered, ModelError> {
        let words: Vec<String> = tokens.iter().map(|id| format!("t{id}")).collect();
        let bos = words.first().map_or(0, |first| first.len() + 1);
        Ok(Rendered { text: words.join(" "), bos })
    }
}

/// Options with short times.
pub(crate) fn options(servers: &[&Fake]) -> UpstreamOptions {
    UpstreamOptions {
        timeouts: Timeouts {
            connect: Duration::from_secs(2),
            first_token: Duration::from_secs(10),
            idle: Duration::from_secs(5),
        },
        backoff: Duration::from_millis(5),
        backoff_most: Duration::from_millis(20),
        breaker_pause: Duration::from_millis(300),
        health_interval: Duration::from_millis(50),
        ..UpstreamOptions::new(servers.iter().map(|server| server.url()).collect(), "m")
    }
}

pub(crate) fn generator(options: UpstreamOptions) -> UpstreamGenerator {
    UpstreamGenerator::new(options, Arc::new(Encoder), ENCODER.info().clone()).unwrap()
}

/// A request with a prompt of `length` tokens that begins with `first`.
pub(crate) fn request(first: u32, length: u32) -> GenerateRequest {
    let tokens: Vec<u32> = (0..length).map(|i| if i < length / 2 { first } else { first + i }).collect();
    GenerateRequest {
        prompt: Prompt {
            tokens,
            boundaries: vec![Boundary { at: length as usize / 2, retention: Retention::OneHour }],
            public_tokens: 0,
        },
        sampling: Sampling::default(),
        max_tokens: 64,
        stop: Vec::new(),
        tenant: TenantId::local(),
        n: 1,
        constraint: None,
    }
}

/// What came of a request.
#[derive(Debug, PartialEq)]
pub(crate) struct Heard {
    pub(crate) text: String,
    pub(crate) tokens: usize,
    pub(crate) cached: Option<usize>,
    pub(crate) end: Result<(FinishReason, Usage), ModelError>,
}

pub(crate) fn hear(mut stream: GenerationStream) -> Heard {
    let (mut text, mut tokens, mut cached) = (String::new(), 0, None);
    loop {
        match stream.next_blocking().expect("a stream ends with Finished or Failed") {
            GenerationEvent::Started { cached_tokens, .. } => {
                assert_eq!(cached, None, "a request starts once");
                cached = Some(cached_tokens);
            }
            GenerationEvent::Token { text: piece, .. } => {
                assert!(cached.is_some(), "no token comes before the start");
                text.push_str(&piece);
                tokens += 1;
            }
            GenerationEvent::Finished { reason, usage, .. } => {
                assert!(stream.next_blocking().is_none(), "nothing comes after the end");
                return Heard { text, tokens, cached, end: Ok((reason, usage)) };
            }
            GenerationEvent::Failed(error) => {
                assert!(stream.next_blocking().is_none(), "nothing comes after a failure");
                return Heard { text, tokens, cached, end: Err(error) };
            }
        }
    }
}

const TEXT: &str = "The harbour was founded in 1742. Ferries leave every forty minutes, and so on.";

#[test]
fn it_keeps_the_contract_of_generators() {
    let server = Fake::saying("one two three four five six seven eight nine ten");
    edgewise_test_support::contract::generator(&generator(options(&[&server])));
}

#[test]
fn usage_is_what_the_server_reports_and_the_next_prompt_is_known_to_be_cached() {
    let server = Fake::saying(TEXT);
    let model = generator(options(&[&server]));
    let first = hear(model.generate(request(20, 100)).unwrap());
    assert_eq!(first.text, TEXT);
    let (reason, usage) = first.end.unwrap();
    assert_eq!(reason, FinishReason::EndOfTurn);
    assert_eq!((usage.cache_read_tokens, usage.cache_write_1h_tokens, usage.input_tokens), (0, 50, 50));
    assert_eq!(usage.output_tokens, first.tokens);
    let resident = model.prefix_state(&TenantId::local(), &request(20, 100).prompt).resident_tokens;
    assert_eq!(resident, 99 / BLOCK * BLOCK);
    let again = hear(model.generate(request(20, 100)).unwrap());
    assert_eq!(again.cached, Some(resident));
    assert_eq!(again.end.unwrap().1.cache_read_tokens, resident);
    assert_eq!(model.cache().hit_tokens, resident as u64);
    assert_eq!(model.queue().requests, 0);
    let other = model.prefix_state(&TenantId("other".into()), &request(20, 100).prompt);
    assert_eq!(other.resident_tokens, 0, "no tenant is told what others have sent");
    let salts: Vec<_> = server.shared.seen.lock().unwrap().iter().map(|seen| seen.body["cache_salt"].clone()).collect();
    assert!(salts[0].is_string() && salts[0] == salts[1]);
}

#[test]
fn a_server_that_takes_no_ids_gets_text_with_one_beginning() {
    for (writes, expected) in [(0, "t20 t20"), (1, "t20 t22")] {
        let manner = Manner { owner: "somebody", takes_tokens: false, writes, ..Manner::default() };
        let server = Fake::start(manner, |_| TEXT.into());
        let model = generator(options(&[&server]));
        let heard = hear(model.generate(request(20, 4)).unwrap());
        assert!(heard.end.is_ok(), "{heard:?}");
        let body = server.shared.seen.lock().unwrap()[0].body.clone();
        let text = body["prompt"].as_str().unwrap();
        assert!(text.starts_with(expected), "{text}");
        assert_eq!(body.get("cache_salt"), None, "an unknown server gets nothing but OpenAI's fields");
    }
}

#[test]
fn a_server_with_another_tokenizer_is_not_used() {
    let manner = Manner { takes_tokens: false, writes: 5, ..Manner::default() };
    let server = Fake::start(manner, |_| TEXT.into());
    let model = generator(options(&[&server]));
    let error = model.generate(request(20, 4)).map(hear).map_or_else(|error| error, |heard| heard.end.unwrap_err());
    assert!(error.to_string().contains("set upstream.tokenizer"), "{error}");
    assert_eq!(server.requests(), 0);
}

#[test]
fn what_a_server_cannot_do_is_refused_before_it_is_asked() {
    let server = Fake::saying(TEXT);
    let model = generator(UpstreamOptions { kind: ServerKind::OpenAi, ..options(&[&server]) });
    let sampling = Sampling { top_k: 3, ..Sampling::default() };
    let refused = model.generate(GenerateRequest { sampling, ..request(20, 4) });
    assert!(matches!(refused, Err(ModelError::InvalidSampling(_))));
    let constraint = Some(edgewise_model_api::Constraint::JsonSchema(json!({})));
    let refused = model.generate(GenerateRequest { constraint, ..request(20, 4) });
    assert!(matches!(refused, Err(ModelError::InvalidConstraint(_))));
    assert_eq!(server.requests(), 0);
}

#[test]
fn the_trace_is_passed_on() {
    let options_of_logs = edgewise_telemetry::TelemetryOptions { filter: "error".to_owned(), ..Default::default() };
    let _guard = edgewise_telemetry::init(&options_of_logs).unwrap();
    let server = Fake::saying(TEXT);
    let model = generator(options(&[&server]));
    let span = tracing::info_span!(target: "edgewise_tests", "request");
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    edgewise_telemetry::begin_trace(&span, Some(parent), Some("vendor=1")).unwrap();
    let stream = span.in_scope(|| model.generate(request(20, 4)).unwrap());
    assert!(hear(stream).end.is_ok());
    let headers = server.shared.seen.lock().unwrap()[0].headers.clone();
    let sent = headers["traceparent"].to_str().unwrap();
    assert!(
        sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && sent.ends_with("-01") && sent != parent,
        "{sent}"
    );
    assert_eq!(headers["tracestate"], "vendor=1");
}

#[test]
fn latency_is_learned_from_what_is_seen() {
    let server = Fake::scripted(|_| Reply::Say(Speech { think: Duration::from_millis(60), ..Speech::new("one two") }));
    let model = generator(options(&[&server]));
    let before = model.latency().prefill_ms(100, 0);
    for first in 0..6 {
        hear(model.generate(request(1000 * first, 100)).unwrap()).end.unwrap();
    }
    let after = model.latency().prefill_ms(100, 0);
    assert!(after >= 60.0 && (after - before).abs() > f64::EPSILON, "{before} {after}");
}
