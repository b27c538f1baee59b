//! The worker on a scripted model: every promise of the model API that does not need real weights.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod accounting;
mod drawing;
mod marks;
mod overlap;
mod policy;
mod scripted;
mod serving;
mod simulation;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use edgewise_model_api::{FinishReason, GenerateRequest, GenerationEvent, GenerationStream, Prompt, Sampling};
use edgewise_types::{TenantId, Usage};

use super::{clock::ManualClock, *};
use crate::tokenizer::byte_vocabulary;
use scripted::{Probe, Scripted};

/// Lets everything run when a test ends, so that a failed one doesn't wait for ever.
struct Opener(Arc<Probe>);

impl Drop for Opener {
    fn drop(&mut self) {
        self.0.open();
    }
}

struct Engine {
    _opener: Opener,
    generator: LocalGenerator,
    clock: Arc<ManualClock>,
    probe: Arc<Probe>,
}

fn options() -> EngineOptions {
    EngineOptions {
        prefill_chunk: 4,
        cache_bytes: 200 * 16,
        min_prefix_tokens: 1,
        // The scripted model is quick: chunks beside decodes are as large as others.
        target_itl: Duration::from_secs(10),
        ..EngineOptions::default()
    }
}

fn engine_with(options: EngineOptions) -> Engine {
    engine_of(options, false)
}

/// An engine whose model may mark generated tokens; one that does selects the likeliest tokens, too.
fn engine_of(options: EngineOptions, marks: bool) -> Engine {
    engine_that(options, marks, marks)
}

/// An engine whose model may mark generated tokens, and may select the likeliest.
fn engine_that(options: EngineOptions, marks: bool, selects: bool) -> Engine {
    let tokenizer = GeneratorTokenizer::from_gguf(byte_vocabulary()).unwrap();
    let probe = Arc::new(Probe::default());
    let model = Scripted { vocabulary: tokenizer.vocabulary_size(), marks, selects, probe: probe.clone() };
    let template = ChatTemplate::new("{{ messages[0].content }}".to_owned(), "", "").unwrap();
    let info = GeneratorInfo { model: "scripted".to_owned(), digest: "scripted".to_owned(), context_window: 500 };
    let clock = Arc::new(ManualClock::new());
    let parts = Parts { model, info, tokenizer, template };
    let generator = LocalGenerator::start(parts, &options, clock.clone()).unwrap();
    assert!(generator.latency().prefill_ms(100, 0) > 0.0);
    probe.open();
    Engine { _opener: Opener(probe.clone()), generator, clock, probe }
}

fn engine() -> Engine {
    engine_with(options())
}

/// An engine whose forward passes need permission.
fn gated(options: EngineOptions) -> Engine {
    let engine = engine_with(options);
    engine.probe.close();
    engine
}

fn request(tokens: &[u32]) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt { tokens: tokens.to_vec(), ..Prompt::default() },
        sampling: Sampling::default(),
        max_tokens: 5,
        stop: Vec::new(),
        tenant: TenantId::local(),
        n: 1,
        constraint: None,
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Output {
    ids: Vec<u32>,
    text: String,
    cached: usize,
    reason: FinishReason,
    stop: Option<String>,
    usage: Usage,
}

/// All samples of a stream, by number.
fn collect_all(mut stream: GenerationStream, samples: usize) -> Result<Vec<Output>, ModelError> {
    let mut cached = None;
    let mut partial = vec![(Vec::new(), String::new()); samples];
    let mut outputs: Vec<Option<Output>> = vec![None; samples];
    while let Some(event) = stream.next_blocking() {
        match event {
            GenerationEvent::Started { cached_tokens, .. } => assert_eq!(cached.replace(cached_tokens), None),
            GenerationEvent::Token { sample, id, text, logprob } => {
                assert!(logprob <= 0.0 && cached.is_some() && outputs[sample].is_none());
                partial[sample].0.push(id);
                partial[sample].1.push_str(&text);
            }
            GenerationEvent::Finished { sample, reason, stop, text, usage, .. } => {
                let (ids, begun) = std::mem::take(&mut partial[sample]);
                let output = Output { ids, text: begun + &text, cached: cached.unwrap(), reason, stop, usage };
                assert_eq!(outputs[sample].replace(output), None);
            }
            GenerationEvent::Failed(error) => {
                assert!(stream.next_blocking().is_none());
                return Err(error);
            }
        }
    }
    Ok(outputs.into_iter().map(|output| output.expect("the stream ended without a last event")).collect())
}

fn collect(stream: GenerationStream) -> Result<Output, ModelError> {
    collect_all(stream, 1).map(|mut outputs| outputs.remove(0))
}

fn run(engine: &Engine, request: GenerateRequest) -> Output {
    collect(engine.generator.generate(request).unwrap()).unwrap()
}

fn eventually(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !what() {
        assert!(Instant::now() < deadline, "timed out");
        std::thread::sleep(Duration::from_millis(1));
    }
}
