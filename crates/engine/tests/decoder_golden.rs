//! The decoder on real weights: logits against a reference written from the definition of the architecture
//! (`tests/golden/make_smollm2_logits.py`), and the promise that how a sequence is fed never changes its logits.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{path::Path, sync::LazyLock};

use edgewise_engine::decoder::{Arithmetic, Decoder, DecoderError, GgufFile};
use serde_json::Value;

/// Largest error of a logit without quantised activations, relative to the largest logit.
const EXACT_TOLERANCE: f64 = 1e-3;
/// Largest error of a logit with quantised activations; also how clear a choice must be for it to have to agree.
const QUANTIZED_TOLERANCE: f64 = 1.0;

fn load(arithmetic: Arithmetic) -> Decoder {
    let models = std::env::var_os("EDGEWISE_TEST_MODELS").expect("EDGEWISE_TEST_MODELS is not set: run ./scripts/test");
    let path = Path::new(&models).join("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    Decoder::load_gguf_with(&GgufFile::open(path).unwrap(), arithmetic).unwrap()
}

static QUANTIZED: LazyLock<Decoder> = LazyLock::new(|| load(Arithmetic::Quantized));

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/smollm2_logits.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    golden["cases"].as_array().unwrap().clone()
}

fn id(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn best(logits: &[f32]) -> u32 {
    let (i, _) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    u32::try_from(i).unwrap()
}

/// Checks the logits of each prompt and each greedy choice after it, fed with the reference's own choices.
fn check(decoder: &Decoder, tolerance: impl Fn(f64) -> f64) {
    for case in cases() {
        let name = case["name"].as_str().unwrap();
        let tokens: Vec<u32> = case["tokens"].as_array().unwrap().iter().map(id).collect();
        let mut state = decoder.new_state();
        let mut logits = decoder.forward(&mut state, &tokens).unwrap();
        let top = case["top"].as_array().unwrap();
        let allowed = tolerance(top[0]["logit"].as_f64().unwrap().abs());
        for entry in top {
            let (token, expected) = (id(&entry["id"]), entry["logit"].as_f64().unwrap());
            let actual = f64::from(logits[token as usize]);
            assert!((actual - expected).abs() <= allowed, "{name}: logit of {token} is {actual}, expected {expected}");
        }
        for (step, choice) in case["greedy"].as_array().unwrap().iter().enumerate() {
            let token = id(&choice["id"]);
            if choice["margin"].as_f64().unwrap() > 2.0 * allowed {
                assert_eq!(best(&logits), token, "{name}: greedy token {step}");
            }
            logits = decoder.forward(&mut state, &[token]).unwrap();
        }
    }
}

#[test]
fn exact_arithmetic_matches_the_reference() {
    check(&load(Arithmetic::F32), |largest| EXACT_TOLERANCE * largest);
}

#[test]
fn quantized_arithmetic_stays_close_to_the_reference() {
    check(&QUANTIZED, |_| QUANTIZED_TOLERANCE);
}

#[test]
fn logits_do_not_depend_on_how_a_sequence_was_fed() {
    let tokens: Vec<u32> = (0..90).map(|i| (i * i * 31 + 7) % 49_000).collect();
    let mut whole = QUANTIZED.new_state();
    let expected = QUANTIZED.forward(&mut whole, &tokens).unwrap();
    for size in [1, 7, 32, 64] {
        let mut state = QUANTIZED.new_state();
        let mut logits = Vec::new();
        for chunk in tokens.chunks(size) {
            logits = QUANTIZED.forward(&mut state, chunk).unwrap();
        }
        assert!(logits == expected, "chunks of {size}");
    }
    // Truncated after other tokens, and copied, at a page boundary and off it.
    for kept in [31, 32, 33] {
        let mut state = QUANTIZED.new_state();
        QUANTIZED.forward(&mut state, &tokens[..kept]).unwrap();
        QUANTIZED.forward(&mut state, &[5; 40]).unwrap();
        let mut copy = state.clone_prefix(kept);
        state.truncate(kept);
        assert!(QUANTIZED.forward(&mut state, &tokens[kept..]).unwrap() == expected, "truncated to {kept}");
        assert!(QUANTIZED.forward(&mut copy, &tokens[kept..]).unwrap() == expected, "copied {kept}");
    }
}

#[test]
fn refusals_leave_the_state_as_it_was() {
    let mut state = QUANTIZED.new_state();
    QUANTIZED.forward(&mut state, &[1, 2, 3]).unwrap();
    let window = QUANTIZED.config().context_window;
    assert!(matches!(QUANTIZED.forward(&mut state, &[]), Err(DecoderError::NoTokens)));
    assert!(matches!(QUANTIZED.forward(&mut state, &[u32::MAX]), Err(DecoderError::UnknownToken { .. })));
    let refused = QUANTIZED.forward(&mut state, &vec![1; window - 2]);
    assert!(matches!(refused, Err(DecoderError::WindowExceeded { held: 3, .. })));
    assert_eq!(state.tokens(), 3);
}
