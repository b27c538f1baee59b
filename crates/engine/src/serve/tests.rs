//! The worker on a scripted model: every promise of the model API that does not need real weights.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    sync::mpsc,
    time::{Duration, Instant},
};

use edgewise_model_api::{Boundary, FinishReason, GenerationEvent, Prompt, Retention, Sampling};
use edgewise_types::Usage;
use proptest::prelude::*;

use super::{clock::ManualClock, *};
use crate::tokenizer::{GgufVocabulary, byte_vocabulary};

const PANIC: u32 = 250;
const FAIL: u32 = 251;
const NAN: u32 = 252;

/// Logits are a hash of the whole sequence, so any mistake in what a state holds changes the output.
struct Scripted {
    vocabulary: usize,
    /// Each forward pass takes one permit, if there is a gate.
    gate: Option<mpsc::Receiver<()>>,
    /// Reports the length of each forward pass.
    passes: mpsc::Sender<usize>,
}

impl StepModel for Scripted {
    type State = Vec<u32>;

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn new_state(&self) -> Vec<u32> {
        Vec::new()
    }

    fn forward(&self, state: &mut Vec<u32>, tokens: &[u32]) -> Result<Vec<f32>, EngineError> {
        assert!(!tokens.is_empty());
        // Calibration has no gate: it comes before anything else and repeats no prompt of the tests.
        let _ = self.passes.send(tokens.len());
        if let Some(gate) = &self.gate {
            let _ = gate.recv();
        }
        state.extend_from_slice(tokens);
        if state.first() == Some(&1) {
            match tokens.last() {
                Some(&PANIC) => panic!("scripted"),
                Some(&FAIL) => return Err(EngineError::Decoder("scripted".to_owned())),
                Some(&NAN) => return Ok(vec![f32::NAN; self.vocabulary]),
                _ => {}
            }
        }
        let bytes: Vec<u8> = state.iter().flat_map(|t| t.to_le_bytes()).collect();
        let mut stream = vec![0; self.vocabulary];
        blake3::Hasher::new().update(&bytes).finalize_xof().fill(&mut stream);
        let mut logits: Vec<f32> = stream.into_iter().map(|byte| f32::from(byte) / 16.0).collect();
        // Control tokens are left out, so that outputs have their full length.
        logits[..3].fill(-100.0);
        Ok(logits)
    }

    fn copy_prefix(&self, state: &Vec<u32>, tokens: usize) -> Vec<u32> {
        state[..tokens].to_vec()
    }

    fn truncate(&self, state: &mut Vec<u32>, tokens: usize) {
        assert!(tokens <= state.len());
        state.truncate(tokens);
    }

    fn bytes(&self, state: &Vec<u32>) -> usize {
        state.len()
    }
}

struct Engine {
    generator: LocalGenerator,
    clock: Arc<ManualClock>,
    permits: mpsc::Sender<()>,
    passes: mpsc::Receiver<usize>,
}

fn options() -> EngineOptions {
    EngineOptions { prefill_chunk: 4, max_cached_sequences: 4, max_cached_bytes: 400, ..EngineOptions::default() }
}

fn engine_with(options: EngineOptions, gated: bool) -> Engine {
    let vocabulary: GgufVocabulary = byte_vocabulary();
    let tokenizer = GeneratorTokenizer::from_gguf(vocabulary).unwrap();
    let (permits, gate) = mpsc::channel();
    let (report, passes) = mpsc::channel();
    // Enough for the calibration, whatever its length; the rest is thrown away below.
    let calibration_passes = 10_000;
    (0..calibration_passes).for_each(|_| permits.send(()).unwrap());
    let model = Scripted { vocabulary: tokenizer.vocabulary_size(), gate: gated.then_some(gate), passes: report };
    let template = ChatTemplate::new("{{ messages[0].content }}".to_owned(), "", "").unwrap();
    let info = GeneratorInfo { model: "scripted".to_owned(), digest: String::new(), context_window: 500 };
    let clock = Arc::new(ManualClock::new());
    let latency = calibration::calibrate(&model, &SystemClock, 4, 500).unwrap();
    assert!(latency.curve().prefill_ms(100, 0) > 0.0);
    if let Some(gate) = &model.gate {
        while gate.try_recv().is_ok() {}
    }
    let shared = Arc::new(Shared {
        queue: Queue::default(),
        counters: Arc::new(Counters::default()),
        latency: Mutex::new(latency),
        prefixes: Mutex::new(Prefixes::new(PrefixSlots::new(options.max_cached_sequences, options.max_cached_bytes))),
        clock: clock.clone(),
    });
    let parts = Parts { model, info, tokenizer, template };
    let generator = LocalGenerator::spawn(parts, &options, shared).unwrap();
    while passes.try_recv().is_ok() {}
    Engine { generator, clock, permits, passes }
}

fn engine() -> Engine {
    engine_with(options(), false)
}

fn request(tokens: &[u32]) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt { tokens: tokens.to_vec(), boundaries: Vec::new() },
        sampling: Sampling::default(),
        max_tokens: 5,
        stop: Vec::new(),
        tenant: TenantId::local(),
    }
}

#[derive(Debug, PartialEq)]
struct Output {
    ids: Vec<u32>,
    text: String,
    cached: usize,
    reason: FinishReason,
    usage: Usage,
}

fn collect(mut stream: GenerationStream) -> Result<Output, ModelError> {
    let (mut ids, mut text, mut cached) = (Vec::new(), String::new(), None);
    while let Some(event) = stream.next_blocking() {
        match event {
            GenerationEvent::Started { cached_tokens } => assert_eq!(cached.replace(cached_tokens), None),
            GenerationEvent::Token { id, text: piece, logprob } => {
                assert!(logprob <= 0.0 && cached.is_some());
                ids.push(id);
                text.push_str(&piece);
            }
            GenerationEvent::Finished { reason, text: rest, usage, .. } => {
                assert!(stream.next_blocking().is_none());
                text.push_str(&rest);
                return Ok(Output { ids, text, cached: cached.unwrap(), reason, usage });
            }
            GenerationEvent::Failed(error) => {
                assert!(stream.next_blocking().is_none());
                return Err(error);
            }
        }
    }
    panic!("the stream ended without a last event");
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

#[test]
fn a_generation_reports_what_it_did() {
    let engine = engine();
    let prompt: Vec<u32> = (10..20).collect();
    let output = run(&engine, request(&prompt));
    assert_eq!((output.ids.len(), output.reason, output.cached), (5, FinishReason::Length, 0));
    assert_eq!(output.usage, Usage { input_tokens: 10, output_tokens: 5, ..Usage::default() });
    assert_eq!(output.text, engine.generator.tokenizer().decode(&output.ids).unwrap());
    assert_eq!(engine.passes.try_iter().collect::<Vec<_>>(), [4, 4, 2, 1, 1, 1, 1], "chunks, then steps");
    assert_eq!(engine.generator.queue(), QueueState::default());

    // Again: all but the last token is resident, and the output is the same.
    let resident = engine.generator.prefix_state(&TenantId::local(), &prompt).resident_tokens;
    let again = run(&engine, request(&prompt));
    assert_eq!((resident, again.cached), (9, 9));
    assert_eq!((again.usage.cache_read_tokens, again.usage.input_tokens), (9, 1));
    assert_eq!((again.ids, again.text), (output.ids, output.text));
}

#[test]
fn boundaries_are_written_once_and_read_afterwards() {
    let engine = engine();
    let mut first = request(&(10..30).collect::<Vec<_>>());
    first.prompt.boundaries =
        vec![Boundary { at: 8, retention: Retention::OneHour }, Boundary { at: 12, retention: Retention::FiveMinutes }];
    let usage = run(&engine, first.clone()).usage;
    assert_eq!((usage.cache_write_1h_tokens, usage.cache_write_5m_tokens, usage.input_tokens), (8, 4, 8));
    let mut second = first.clone();
    second.prompt.tokens[15..].fill(99);
    let usage = run(&engine, second.clone()).usage;
    assert_eq!((usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.input_tokens), (15, 0, 5));
    engine.clock.advance(Duration::from_secs(301));
    let usage = run(&engine, second.clone()).usage;
    assert_eq!((usage.cache_read_tokens, usage.cache_write_5m_tokens), (8, 4), "five minutes are over");
    engine.clock.advance(Duration::from_secs(3601));
    assert_eq!(run(&engine, second.clone()).usage.cache_read_tokens, 0, "the hour is over");
    let mut other = second;
    other.tenant = TenantId("other".into());
    assert_eq!(run(&engine, other).usage.cache_read_tokens, 0, "another tenant");
}

#[test]
fn nothing_counts_as_written_that_does_not_fit() {
    let engine = engine_with(EngineOptions { max_cached_bytes: 10, ..options() }, false);
    let mut large = request(&(10..30).collect::<Vec<_>>());
    large.prompt.boundaries = vec![Boundary { at: 20, retention: Retention::OneHour }];
    assert_eq!(run(&engine, large).usage, Usage { input_tokens: 20, output_tokens: 5, ..Usage::default() });
}

#[test]
fn stop_strings_and_the_end_of_the_turn_end_generation() {
    let engine = engine();
    let free = run(&engine, GenerateRequest { max_tokens: 40, ..request(&[10, 11]) });
    let characters: Vec<char> = free.text.chars().collect();
    let stop: String = characters[7..10].iter().collect();
    let stopped = run(&engine, GenerateRequest { max_tokens: 40, stop: vec![stop.clone()], ..request(&[10, 11]) });
    assert_eq!(stopped.reason, FinishReason::Stop);
    assert_eq!(stopped.text, free.text[..free.text.find(&stop).unwrap()]);
    assert!(free.ids.starts_with(&stopped.ids) && stopped.ids.len() < free.ids.len());
}

#[test]
fn what_can_be_known_without_work_is_refused_at_once() {
    let engine = engine();
    let refuse = |request| engine.generator.generate(request).unwrap_err();
    let base = request(&[10]);
    assert_eq!(
        refuse(GenerateRequest { max_tokens: 500, ..base.clone() }),
        ModelError::WindowExceeded { prompt_tokens: 1, max_tokens: 500, window: 500 }
    );
    assert!(matches!(refuse(GenerateRequest { max_tokens: 0, ..base.clone() }), ModelError::InvalidSampling(_)));
    assert!(matches!(
        refuse(GenerateRequest { stop: vec![String::new()], ..base.clone() }),
        ModelError::InvalidSampling(_)
    ));
    let cold = Sampling { temperature: -1.0, ..Sampling::default() };
    assert!(matches!(refuse(GenerateRequest { sampling: cold, ..base.clone() }), ModelError::InvalidSampling(_)));
    assert!(matches!(refuse(request(&[])), ModelError::Internal(_)));
    assert!(matches!(refuse(request(&[100_000])), ModelError::Internal(_)));
    let mut outside = base;
    outside.prompt.boundaries = vec![Boundary { at: 2, retention: Retention::OneHour }];
    assert!(matches!(refuse(outside), ModelError::Internal(_)));
    assert!(engine.passes.try_recv().is_err(), "no work was done");
}

#[test]
fn too_many_waiting_tokens_are_refused_but_an_idle_engine_takes_anything() {
    let engine = engine_with(EngineOptions { max_queue_tokens: 20, ..options() }, true);
    let running = engine.generator.generate(request(&(10..50).collect::<Vec<_>>())).unwrap();
    eventually(|| engine.passes.try_recv().is_ok());
    assert_eq!(engine.generator.queue(), QueueState { requests: 1, prefill_tokens: 40 });
    match engine.generator.generate(request(&[1, 2, 3])) {
        Err(ModelError::Overloaded { retry_after_s }) => assert!(retry_after_s >= 1),
        other => panic!("{other:?}"),
    }
    (0..7).for_each(|_| engine.permits.send(()).unwrap());
    eventually(|| engine.generator.queue().prefill_tokens == 12);
    let waiting = engine.generator.generate(request(&[10, 11, 12])).unwrap();
    assert_eq!(engine.generator.queue(), QueueState { requests: 2, prefill_tokens: 13 }, "two of three are resident");
    (0..100).for_each(|_| engine.permits.send(()).unwrap());
    collect(running).unwrap();
    assert_eq!(collect(waiting).unwrap().cached, 2);
    assert_eq!(engine.generator.queue(), QueueState::default());
}

#[test]
fn a_dropped_stream_ends_prefill_and_decode_and_what_was_computed_is_kept() {
    let engine = engine_with(options(), true);
    let prompt: Vec<u32> = (10..50).collect();
    // During prefill: one chunk is running when the stream is dropped, no second one starts.
    let stream = engine.generator.generate(request(&prompt)).unwrap();
    assert_eq!(engine.passes.recv().unwrap(), 4);
    drop(stream);
    engine.permits.send(()).unwrap();
    eventually(|| engine.generator.queue().requests == 0);
    assert!(engine.passes.try_recv().is_err());
    assert_eq!(engine.generator.prefix_state(&TenantId::local(), &prompt).resident_tokens, 4);
    // During decode.
    let mut stream = engine.generator.generate(GenerateRequest { max_tokens: 400, ..request(&[10]) }).unwrap();
    engine.permits.send(()).unwrap();
    while !matches!(stream.next_blocking().unwrap(), GenerationEvent::Token { .. }) {}
    drop(stream);
    (0..2).for_each(|_| engine.permits.send(()).unwrap());
    eventually(|| engine.generator.queue().requests == 0);
    assert!(engine.passes.try_iter().count() <= 3);
}

#[test]
fn failures_reach_the_caller_and_the_next_request_is_served() {
    let engine = engine();
    assert_eq!(
        collect(engine.generator.generate(request(&[1, FAIL])).unwrap()),
        Err(ModelError::Internal("decoder: scripted".to_owned()))
    );
    assert!(matches!(collect(engine.generator.generate(request(&[1, NAN])).unwrap()), Err(ModelError::Internal(_))));
    assert_eq!(run(&engine, request(&[1, 20])).cached, 0, "nothing of a failed state is kept");
}

#[test]
fn a_panic_stops_the_engine_and_nobody_hangs() {
    let engine = engine_with(options(), true);
    let running = engine.generator.generate(request(&[1, PANIC])).unwrap();
    let waiting = engine.generator.generate(request(&[10])).unwrap();
    engine.permits.send(()).unwrap();
    for stream in [running, waiting] {
        match collect(stream) {
            Err(ModelError::Stopped(reason)) => assert!(reason.contains("scripted"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(engine.generator.generate(request(&[10])), Err(ModelError::Stopped(_))));
    assert_eq!(engine.generator.queue(), QueueState::default());
}

#[test]
fn dropping_the_engine_ends_what_runs_and_what_waits() {
    let engine = engine_with(options(), true);
    let running = engine.generator.generate(request(&(10..50).collect::<Vec<_>>())).unwrap();
    let waiting = engine.generator.generate(request(&[10])).unwrap();
    assert_eq!(engine.passes.recv().unwrap(), 4);
    let Engine { generator, permits, passes, .. } = engine;
    let dropped = std::thread::spawn(move || drop(generator));
    assert!(matches!(collect(waiting), Err(ModelError::Stopped(_))));
    permits.send(()).unwrap();
    assert!(matches!(collect(running), Err(ModelError::Stopped(_))));
    dropped.join().unwrap();
    assert!(passes.try_recv().is_err(), "no chunk after the one that was running");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The invariant the cache stands or falls with.
    #[test]
    fn output_is_the_same_with_a_cold_and_a_warm_cache(
        prompts in prop::collection::vec(
            (prop::collection::vec(10_u32..13, 1..14), 1_usize..6, 0_usize..14, any::<bool>()), 1..25,
        ),
        seed: u64,
    ) {
        let cached = engine();
        let cold = engine_with(EngineOptions { max_cached_sequences: 0, prefill_chunk: 3, ..options() }, false);
        for (tokens, max_tokens, boundary, sampled) in prompts {
            let mut request = GenerateRequest { max_tokens, ..request(&tokens) };
            request.prompt.boundaries =
                vec![Boundary { at: boundary.min(tokens.len()), retention: Retention::FiveMinutes }];
            if sampled {
                request.sampling = Sampling { temperature: 1.0, seed: Some(seed), ..Sampling::default() };
            }
            let resident = cached.generator.prefix_state(&request.tenant, &tokens).resident_tokens;
            let (warm, cold) = (run(&cached, request.clone()), run(&cold, request));
            prop_assert_eq!(&warm.ids, &cold.ids);
            prop_assert_eq!(&warm.text, &cold.text);
            prop_assert_eq!((warm.cached, cold.cached), (resident, 0));
            prop_assert_eq!(warm.usage.prompt_tokens(), tokens.len());
        }
    }
}
