//! What is predicted of a prompt's tokens is what is billed, whatever the cache holds.

use edgewise_model_api::{Boundary, Retention, prompt_usage};
use proptest::prelude::*;

use super::*;

/// A prompt that shares a beginning with others of its family, and its boundaries.
fn prompts() -> impl Strategy<Value = (usize, usize, Vec<(usize, bool)>)> {
    (0_usize..3, 1_usize..60, prop::collection::vec((0_usize..60, any::<bool>()), 0..3))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn classes_are_predicted_exactly_cold_and_warm(
        min_prefix_tokens in 1_usize..30,
        requests in prop::collection::vec(prompts(), 1..12),
    ) {
        let engine = engine_with(EngineOptions { min_prefix_tokens, ..options() });
        prop_assert_eq!(engine.generator.min_prefix_tokens(), min_prefix_tokens);
        for (family, length, boundaries) in requests {
            // Families differ from their twentieth token on.
            let tokens: Vec<u32> =
                (0..length).map(|i| 10 + if i < 20 { i as u32 } else { (i + 50 * family) as u32 }).collect();
            let mut boundaries: Vec<Boundary> = boundaries
                .into_iter()
                .map(|(at, hour)| Boundary {
                    at: at.min(length),
                    retention: if hour { Retention::OneHour } else { Retention::FiveMinutes },
                })
                .collect();
            boundaries.sort_by_key(|boundary| boundary.at);
            let mut asked = request(&tokens);
            asked.prompt.boundaries = boundaries;
            let resident = engine.generator.prefix_state(&asked.tenant, &asked.prompt).resident_tokens;
            let min_prefix = engine.generator.min_prefix_tokens();
            let expected = prompt_usage(length, &asked.prompt.boundaries, resident, min_prefix, 5);
            let output = run(&engine, asked);
            prop_assert_eq!(output.usage, expected);
        }
    }
}

#[test]
fn a_new_request_learns_what_runs_before_and_beside_it() {
    let engine = gated(EngineOptions { prefill_chunk: 8, ..options() });
    assert_eq!(engine.generator.ahead(), edgewise_model_api::Ahead::default());
    let decoding = engine.generator.generate(GenerateRequest { max_tokens: 40, ..request(&[10, 11, 12]) }).unwrap();
    engine.probe.permit(3);
    eventually(|| engine.generator.ahead().steps > 0);
    let beside = engine.generator.ahead();
    assert!(beside.step_ms > 0.0 && beside.chunk_ms > 0.0 && beside.steps < 40, "{beside:?}");
    assert_eq!(beside.prefill_ms, 0.0, "its prompt is done");
    assert!(beside.ttft_ms(10.0) > 10.0);
    let waiting = engine.generator.generate(request(&(100..140).collect::<Vec<_>>())).unwrap();
    assert!(engine.generator.ahead().prefill_ms > 0.0);
    engine.probe.open();
    collect(decoding).unwrap();
    collect(waiting).unwrap();
    eventually(|| engine.generator.ahead() == edgewise_model_api::Ahead::default());
}
