//! The decoder on real weights: logits against a reference written from the definition of the architecture
//! (`tests/golden/make_smollm2_logits.py`), and the promise that how a sequence is fed never changes its logits.

use std::sync::LazyLock;

use edgewise_engine::decoder::{Arithmetic, BatchEntry, Cpu, Decoder, DecoderError, GgufFile, LoadOptions};
use serde_json::Value;

use crate::support::{Sequence, best, in_tests, smollm2};

/// Largest error of a logit without quantised activations, relative to the largest logit.
const EXACT_TOLERANCE: f64 = 1e-3;
/// Largest error of a logit with quantised activations; also how clear a choice must be for it to have to agree.
const QUANTIZED_TOLERANCE: f64 = 1.0;

fn load(arithmetic: Arithmetic) -> Decoder {
    Decoder::from_gguf(&GgufFile::open(smollm2()).unwrap(), Cpu { arithmetic }, &LoadOptions::default()).unwrap()
}

static QUANTIZED: LazyLock<Decoder> = LazyLock::new(|| load(Arithmetic::Quantized));

fn golden(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(in_tests("golden").join(file)).unwrap()).unwrap()
}

fn id(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(id).collect()
}

/// Checks the logits of each prompt and each greedy choice after it, fed with the reference's own choices.
fn check(decoder: &Decoder, tolerance: impl Fn(f64) -> f64) {
    for case in golden("smollm2_logits.json")["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let tokens = ids(&case["tokens"]);
        let mut sequence = Sequence::new(decoder, tokens.len() + 32);
        let mut logits = sequence.feed(&tokens);
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
            logits = sequence.feed(&[token]);
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
    let expected = Sequence::new(&QUANTIZED, 90).feed(&tokens);
    for size in [1, 7, 32, 64] {
        let mut sequence = Sequence::new(&QUANTIZED, 90);
        let logits = tokens.chunks(size).map(|chunk| sequence.feed(chunk)).last().unwrap();
        assert!(logits == expected, "chunks of {size}");
    }
    // Continued after other tokens had been written there, at a page boundary and off it.
    for kept in [31, 32, 33] {
        let mut sequence = Sequence::new(&QUANTIZED, 90);
        sequence.feed(&tokens[..kept]);
        sequence.feed(&[5; 40]);
        sequence.tokens = kept;
        assert!(sequence.feed(&tokens[kept..]) == expected, "{kept} kept");
    }
}

#[test]
fn senseless_batches_are_refused() {
    let mut sequence = Sequence::new(&QUANTIZED, 64);
    let expected = sequence.feed(&[1, 2, 3]);
    let (pages, window) = (sequence.pages.clone(), QUANTIZED.config().context_window);
    let mut refusal = |tokens: &[u32], position: usize, pages: &[edgewise_kv_cache::PageId]| {
        let entry = BatchEntry { tokens, position, pages, logits: true };
        QUANTIZED.forward(&mut sequence.kv, &[entry]).unwrap_err()
    };
    assert!(matches!(refusal(&[], 0, &pages), DecoderError::NoTokens));
    assert!(matches!(refusal(&[u32::MAX], 3, &pages), DecoderError::UnknownToken { .. }));
    assert!(matches!(refusal(&[1], window, &pages), DecoderError::WindowExceeded { .. }));
    assert!(matches!(refusal(&[1], usize::MAX, &pages), DecoderError::WindowExceeded { .. }));
    assert!(matches!(refusal(&[1], 64, &pages), DecoderError::BlockTable { .. }));
    assert!(matches!(refusal(&[1], 3, &[edgewise_kv_cache::PageId(2)]), DecoderError::BlockTable { .. }));
    sequence.tokens = 2;
    assert!(sequence.feed(&[3]) == expected);
}

/// How close llama.cpp's own choice must have been where another token is chosen here.
const CLOSE: f64 = 1e-2;

/// Feeds llama.cpp's tokens to all prompts at once, and lists the steps at which another token would be chosen: prompt,
/// step and the gap between llama.cpp's two largest logits.
fn divergences(decoder: &Decoder, cases: &[Value]) -> Vec<(String, usize, f64)> {
    let prompts: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["prompt"])).collect();
    let tokens: Vec<Vec<u32>> = cases.iter().map(|case| ids(&case["tokens"])).collect();
    let mut pages = (0..).map(edgewise_kv_cache::PageId);
    let tables: Vec<Vec<_>> = prompts
        .iter()
        .zip(&tokens)
        .map(|(prompt, tokens)| {
            pages.by_ref().take((prompt.len() + tokens.len()).div_ceil(decoder.page_tokens())).collect()
        })
        .collect();
    let mut kv = decoder.allocate(tables.iter().map(Vec::len).sum()).unwrap();
    let mut found = Vec::new();
    for step in 0..tokens[0].len() {
        let entry = |i: usize| match step {
            0 => BatchEntry { tokens: &prompts[i], position: 0, pages: &tables[i], logits: true },
            _ => BatchEntry {
                tokens: &tokens[i][step - 1..step],
                position: prompts[i].len() + step - 1,
                pages: &tables[i],
                logits: true,
            },
        };
        let batch: Vec<BatchEntry<'_>> = (0..cases.len()).map(entry).collect();
        for (i, logits) in decoder.forward(&mut kv, &batch).unwrap().into_iter().enumerate() {
            if best(&logits.unwrap()) != tokens[i][step] {
                let gap = cases[i]["gaps"][step].as_f64().unwrap();
                found.push((cases[i]["name"].as_str().unwrap().to_owned(), step, gap));
            }
        }
    }
    found
}

#[test]
fn greedy_choices_are_those_of_llama_cpp() {
    let golden = golden("smollm2_greedy.json");
    let cases = golden["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 20);
    assert!(cases.iter().all(|case| case["tokens"].as_array().unwrap().len() == 128));
    let found = divergences(&QUANTIZED, cases);
    println!("{} of {} choices differ: {found:?}", found.len(), 20 * 128);
    let unexplained: Vec<_> = found.iter().filter(|(_, _, gap)| *gap >= CLOSE).collect();
    assert!(unexplained.is_empty(), "{unexplained:?}");
}

/// Not a requirement but a measurement: `cargo test -p edgewise-engine --test decoder -- --ignored --nocapture exact`.
#[test]
#[ignore = "a measurement of some minutes"]
fn exact_arithmetic_against_llama_cpp() {
    let golden = golden("smollm2_greedy.json");
    let found = divergences(&load(Arithmetic::F32), golden["cases"].as_array().unwrap());
    println!("{} of {} choices differ without rounded activations: {found:?}", found.len(), 20 * 128);
}
