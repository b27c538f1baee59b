//! Requests, events, refusals and failures through the handle that callers have.

use edgewise_model_api::{Boundary, Constraint, Retention};
use proptest::prelude::*;

use super::{
    scripted::{FAIL, NAN, PAGE, PANIC, continuation, logits_after},
    *,
};
use crate::sampler::Sampler;

fn sizes(engine: &Engine) -> Vec<usize> {
    engine.probe.passes().into_iter().map(|pass| pass.into_iter().map(|(_, tokens)| tokens).sum()).collect()
}

fn greedy_output(engine: &Engine, prompt: &[u32], tokens: usize) -> Vec<u32> {
    continuation(prompt, tokens, engine.generator.tokenizer.vocabulary_size())
}

fn used_pages(engine: &Engine) -> usize {
    let state = engine.generator.cache();
    assert_eq!(state.pages_free + state.pages_used + state.pages_cached, state.pages_total);
    state.pages_used
}

#[test]
fn a_generation_reports_what_it_did() {
    let engine = engine();
    let prompt: Vec<u32> = (10..20).collect();
    let output = run(&engine, request(&prompt));
    assert_eq!((output.ids.len(), output.reason, output.cached), (5, FinishReason::Length, 0));
    assert_eq!(output.ids, greedy_output(&engine, &prompt, 5));
    assert_eq!(output.usage, Usage { input_tokens: 10, output_tokens: 5, ..Usage::default() });
    assert_eq!(output.text, engine.generator.tokenizer().decode(&output.ids).unwrap());
    assert_eq!(sizes(&engine), [4, 4, 2, 1, 1, 1, 1], "chunks, then steps");
    assert_eq!(engine.generator.queue(), QueueState::default());

    // Again: all but the last token is resident, and the output is the same.
    let whole = request(&prompt).prompt;
    let resident = engine.generator.prefix_state(&TenantId::local(), &whole).resident_tokens;
    let again = run(&engine, request(&prompt));
    assert_eq!((resident, again.cached), (9, 9));
    assert_eq!((again.usage.cache_read_tokens, again.usage.input_tokens), (9, 1));
    assert_eq!((again.ids, again.text), (output.ids, output.text));
    assert_eq!(used_pages(&engine), 0);
}

#[test]
fn boundaries_are_written_once_and_read_afterwards() {
    let engine = engine();
    let mut first = request(&(10..30).collect::<Vec<_>>());
    first.prompt.boundaries =
        vec![Boundary { at: 8, retention: Retention::OneHour }, Boundary { at: 12, retention: Retention::FiveMinutes }];
    let usage = run(&engine, first.clone()).usage;
    assert_eq!((usage.cache_write_1h_tokens, usage.cache_write_5m_tokens, usage.input_tokens), (8, 4, 8));
    let state = engine.generator.cache();
    let mut retained: Vec<_> = state.prefixes.iter().map(|p| (p.tokens, p.retention)).collect();
    retained.sort_by_key(|(tokens, _)| *tokens);
    assert_eq!(retained, [(8, Retention::OneHour), (12, Retention::FiveMinutes)]);
    let left: Vec<f64> = state.prefixes.iter().map(|p| p.expires_in_s).collect();
    assert!(left.iter().all(|s| *s > 0.0) && left.iter().any(|s| *s > 300.0), "{left:?}");

    let mut second = first.clone();
    second.prompt.tokens[15..].fill(99);
    let usage = run(&engine, second.clone()).usage;
    assert_eq!((usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.input_tokens), (15, 0, 5));
    let mut other = second;
    other.tenant = TenantId("other".into());
    assert_eq!(run(&engine, other).usage.cache_read_tokens, 0, "another tenant");

    let before = engine.generator.cache().prefixes.len();
    engine.clock.advance(Duration::from_secs(301));
    eventually(|| {
        run(&engine, request(&[5]));
        engine.generator.cache().prefixes.len() < before
    });
    let state = engine.generator.cache();
    assert!(state.prefixes.iter().all(|p| p.retention == Retention::OneHour), "five minutes are over");
    let id = state.prefixes[0].id;
    assert!(engine.generator.release_prefix(id));
    assert!(!engine.generator.release_prefix(id), "it is gone");
    assert_eq!(engine.generator.cache().prefixes.len(), state.prefixes.len() - 1);
}

#[test]
fn a_stop_string_ends_the_output_before_it() {
    let engine = engine();
    let free = run(&engine, GenerateRequest { max_tokens: 40, ..request(&[10, 11]) });
    let characters: Vec<char> = free.text.chars().collect();
    let stop: String = characters[7..10].iter().collect();
    let stopped = run(&engine, GenerateRequest { max_tokens: 40, stop: vec![stop.clone()], ..request(&[10, 11]) });
    assert_eq!((stopped.reason, stopped.stop.as_ref()), (FinishReason::Stop, Some(&stop)));
    assert_eq!(free.stop, None);
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
    for request in [
        GenerateRequest { max_tokens: 0, ..base.clone() },
        GenerateRequest { n: 0, ..base.clone() },
        GenerateRequest { n: 65, ..base.clone() },
        GenerateRequest { stop: vec![String::new()], ..base.clone() },
        GenerateRequest { sampling: Sampling { temperature: -1.0, ..Sampling::default() }, ..base.clone() },
    ] {
        assert!(matches!(refuse(request), ModelError::InvalidSampling(_)));
    }
    assert!(matches!(
        refuse(GenerateRequest { constraint: Some(Constraint::Regex("(".to_owned())), ..base.clone() }),
        ModelError::InvalidConstraint(_)
    ));
    assert!(matches!(refuse(request(&[])), ModelError::Internal(_)));
    assert!(matches!(refuse(request(&[100_000])), ModelError::Internal(_)));
    let mut outside = base;
    outside.prompt.boundaries = vec![Boundary { at: 2, retention: Retention::OneHour }];
    assert!(matches!(refuse(outside), ModelError::Internal(_)));
    assert!(engine.probe.passes().is_empty(), "no work was done");
}

#[test]
fn the_window_is_what_the_pages_hold() {
    let engine = engine_with(EngineOptions { cache_bytes: 20 * 16, ..options() });
    assert_eq!(engine.generator.info().context_window, 20 * PAGE);
    let whole = run(&engine, GenerateRequest { max_tokens: 20, ..request(&[10; 60]) });
    assert_eq!(whole.ids, greedy_output(&engine, &[10; 60], 20));
    assert!(matches!(
        engine.generator.generate(GenerateRequest { max_tokens: 21, ..request(&[10; 60]) }),
        Err(ModelError::WindowExceeded { window: 80, .. })
    ));
}

#[test]
fn too_long_a_queue_is_refused_but_an_idle_engine_takes_anything() {
    let engine = gated(EngineOptions { target_ttft: Duration::ZERO, ..options() });
    let long: Vec<u32> = (10..50).collect();
    let running = engine.generator.generate(request(&long)).unwrap();
    eventually(|| !engine.probe.passes().is_empty());
    assert_eq!(engine.generator.queue(), QueueState { requests: 1, prefill_tokens: 40 });
    match engine.generator.generate(request(&[1, 2, 3])) {
        Err(ModelError::Overloaded { retry_after_s }) => assert!(retry_after_s >= 1),
        other => panic!("{other:?}"),
    }
    // Once the prompt ahead is prefilled, the next is taken, though the first still runs.
    engine.probe.permit(10);
    eventually(|| engine.generator.queue().prefill_tokens == 0);
    let waiting = engine.generator.generate(request(&long[..9])).unwrap();
    assert_eq!(engine.generator.queue(), QueueState { requests: 2, prefill_tokens: 1 }, "eight of nine are resident");
    engine.probe.open();
    collect(running).unwrap();
    assert_eq!(collect(waiting).unwrap().cached, 8);
    assert_eq!(engine.generator.queue(), QueueState::default());
}

#[test]
fn a_dropped_stream_ends_prefill_and_decode_and_what_was_computed_is_kept() {
    let engine = gated(options());
    let prompt: Vec<u32> = (10..50).collect();
    // During prefill: one chunk is running when the stream is dropped, no second one starts.
    let stream = engine.generator.generate(request(&prompt)).unwrap();
    eventually(|| engine.probe.passes().len() == 1);
    drop(stream);
    engine.probe.permit(1);
    eventually(|| engine.generator.queue().requests == 0);
    assert_eq!(sizes(&engine), [4]);
    assert_eq!(used_pages(&engine), 0);
    assert_eq!(engine.generator.prefix_state(&TenantId::local(), &request(&prompt).prompt).resident_tokens, 4);
    // During decode.
    let mut stream = engine.generator.generate(GenerateRequest { max_tokens: 400, ..request(&[10]) }).unwrap();
    engine.probe.permit(1);
    while !matches!(stream.next_blocking().unwrap(), GenerationEvent::Token { .. }) {}
    drop(stream);
    engine.probe.permit(2);
    eventually(|| engine.generator.queue().requests == 0);
    assert!(engine.probe.passes().len() <= 4);
    assert_eq!(used_pages(&engine), 0);
}

/// A request at fault fails alone, even in the middle of a batch.
#[test]
fn failures_reach_their_caller_and_nobody_else() {
    let engine = gated(EngineOptions { prefill_chunk: 64, ..options() });
    let start = |tokens: &[u32]| engine.generator.generate(request(tokens)).unwrap();
    // A first request holds the worker while the others gather.
    let first = start(&[30, 31]);
    eventually(|| engine.probe.passes().len() == 1);
    let (fails, nan, good) = (start(&[1, FAIL]), start(&[1, 20, NAN]), start(&[1, 20, 21]));
    engine.probe.open();
    assert_eq!(collect(fails), Err(ModelError::Internal("decoder: scripted".to_owned())));
    assert!(matches!(collect(nan), Err(ModelError::Internal(_))));
    assert_eq!(collect(good).unwrap().ids, greedy_output(&engine, &[1, 20, 21], 5));
    assert_eq!(collect(first).unwrap().ids, greedy_output(&engine, &[30, 31], 5));
    assert!(engine.probe.passes().iter().any(|pass| pass.len() >= 3), "they did not run together");
    assert_eq!(used_pages(&engine), 0);
    assert_eq!(engine.generator.queue(), QueueState::default());
}

#[test]
fn a_panic_stops_the_engine_and_nobody_hangs() {
    let engine = gated(options());
    let running = engine.generator.generate(request(&[1, PANIC])).unwrap();
    let waiting = engine.generator.generate(request(&[10])).unwrap();
    engine.probe.permit(1);
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
    let engine = gated(options());
    let running = engine.generator.generate(request(&(10..50).collect::<Vec<_>>())).unwrap();
    eventually(|| engine.probe.passes().len() == 1);
    let waiting = engine.generator.generate(request(&[10])).unwrap();
    let Engine { generator, probe, _opener, .. } = engine;
    let dropped = std::thread::spawn(move || drop(generator));
    assert!(matches!(collect(waiting), Err(ModelError::Stopped(_))));
    probe.permit(1);
    assert!(matches!(collect(running), Err(ModelError::Stopped(_))));
    dropped.join().unwrap();
    assert_eq!(probe.passes().len(), 1, "no chunk after the one that was running");
}

/// Every sample is what its own sampler makes of the logits; the first is what a request for one would give.
#[test]
fn samples_differ_only_in_their_seeds() {
    let engine = engine();
    let prompt: Vec<u32> = (10..31).collect();
    let vocabulary = engine.generator.tokenizer.vocabulary_size();
    let sampling = Sampling { temperature: 1.0, seed: Some(7), ..Sampling::default() };
    let base = GenerateRequest { sampling: sampling.clone(), max_tokens: 12, ..request(&prompt) };
    let outputs = collect_all(engine.generator.generate(GenerateRequest { n: 4, ..base.clone() }).unwrap(), 4).unwrap();
    for (index, output) in outputs.iter().enumerate() {
        let mut sampler = Sampler::new(sampling.clone(), vocabulary, &prompt).for_sample(index);
        let mut history = prompt.clone();
        for id in &output.ids {
            assert_eq!(sampler.draw(&logits_after(&history, vocabulary), None).unwrap().id, *id);
            history.push(*id);
        }
        assert!(index == 0 || output.ids != outputs[0].ids);
    }
    let total: usize = outputs.iter().map(|output| output.usage.prompt_tokens()).sum();
    assert_eq!(total, prompt.len(), "the prompt is counted once");
    assert_eq!(run(&engine, base).ids, outputs[0].ids);
    assert_eq!(used_pages(&engine), 0);
}

#[test]
fn outputs_match_their_constraint_and_end_with_it() {
    let engine = engine();
    let constraint = Some(Constraint::Regex("(yes|no), [0-9]{3}".to_owned()));
    let sampling = Sampling { temperature: 1.0, seed: Some(1), ..Sampling::default() };
    let request = GenerateRequest { constraint, sampling, max_tokens: 40, n: 3, ..request(&[10, 11]) };
    for output in collect_all(engine.generator.generate(request).unwrap(), 3).unwrap() {
        let rest = output.text.strip_prefix("yes, ").or(output.text.strip_prefix("no, ")).expect("an answer");
        assert!(rest.len() == 3 && rest.bytes().all(|b| b.is_ascii_digit()), "{:?}", output.text);
        assert_eq!(output.reason, FinishReason::EndOfTurn);
    }
}

/// Prompts computed beside others teach the curve no more than their own work.
#[test]
fn the_curve_is_not_poisoned_by_company() {
    let engine = engine_with(EngineOptions { prefill_chunk: 16, max_sequences: 32, ..options() });
    let alone = engine.generator.latency();
    let streams: Vec<_> = (0..24)
        .map(|i| engine.generator.generate(request(&(i..i + 40).map(|t| 10 + t % 80).collect::<Vec<_>>())).unwrap())
        .collect();
    streams.into_iter().for_each(|stream| drop(collect(stream).unwrap()));
    let learnt = engine.generator.latency();
    // The last of them had its first token after all the others' prompts: 24 times its own work.
    let (before, after) = (alone.prefill_ms(40, 0), learnt.prefill_ms(40, 0));
    assert!(after < 8.0 * before.max(0.01), "{before} ms became {after} ms");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The invariant the cache stands or falls with, through the whole engine: bursts of requests, some dropped.
    #[test]
    fn outputs_are_those_of_the_history_alone(
        pages in 30_usize..60,
        bursts in prop::collection::vec(prop::collection::vec(
            (prop::collection::vec(10_u32..13, 1..30), 1_usize..16, 0_usize..14, 0_usize..2, any::<bool>()), 1..6,
        ), 1..8),
    ) {
        let engine = engine_with(EngineOptions { cache_bytes: pages * 16, max_sequences: 4, ..options() });
        for burst in bursts {
            let mut streams = Vec::new();
            for (tokens, max_tokens, boundary, tenant, dropped) in burst {
                let mut request = GenerateRequest { max_tokens, ..request(&tokens) };
                request.prompt.boundaries =
                    vec![Boundary { at: boundary.min(tokens.len()), retention: Retention::FiveMinutes }];
                request.tenant = TenantId(["a", "b"][tenant].into());
                let stream = engine.generator.generate(request).unwrap();
                if !dropped {
                    streams.push((stream, tokens, max_tokens));
                }
            }
            for (stream, tokens, max_tokens) in streams {
                let output = collect(stream).unwrap();
                prop_assert_eq!(&output.ids, &greedy_output(&engine, &tokens, max_tokens));
                prop_assert_eq!(output.usage.prompt_tokens(), tokens.len());
                prop_assert_eq!(output.usage.cache_read_tokens, output.cached);
            }
        }
        eventually(|| engine.generator.queue() == QueueState::default());
        prop_assert_eq!(used_pages(&engine), 0);
    }
}

/// What was retained is there again after a restart, gives the same output, and only to its tenant; what was released is
/// not. A second engine keeps out of the folder.
#[test]
fn retained_prefixes_outlive_the_engine() {
    let folder = tempfile::tempdir().unwrap();
    let durable = || EngineOptions { durable_dir: Some(folder.path().join("prefixes")), ..options() };
    let mut kept = request(&(10..40).collect::<Vec<_>>());
    kept.prompt.boundaries = vec![Boundary { at: 18, retention: Retention::OneHour }];
    let mut forgotten = request(&(50..80).collect::<Vec<_>>());
    forgotten.prompt.boundaries = vec![Boundary { at: 20, retention: Retention::OneHour }];

    let engine = engine_with(durable());
    let output = run(&engine, kept.clone());
    run(&engine, forgotten.clone());
    let id = engine.generator.cache().prefixes.iter().find(|p| p.tokens == 20).map(|p| p.id).unwrap();
    assert!(engine.generator.release_prefix(id));
    let second = engine_with(durable());
    assert_eq!(run(&second, kept.clone()).cached, 0);
    drop(second);
    drop(engine);

    let engine = engine_with(durable());
    let resident =
        |request: &GenerateRequest| engine.generator.prefix_state(&request.tenant, &request.prompt).resident_tokens;
    assert_eq!(resident(&forgotten), 0);
    assert!((16..=20).contains(&resident(&kept)), "{}", resident(&kept));
    let stranger = GenerateRequest { tenant: TenantId("other".into()), ..kept.clone() };
    assert_eq!(resident(&stranger), 0);
    let again = run(&engine, kept);
    assert!(again.cached >= 16);
    assert_eq!(again.ids, output.ids);
}
