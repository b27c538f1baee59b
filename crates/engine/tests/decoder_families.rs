//! Logits of tiny random-weight models of every family and every RoPE scaling against transformers
//! (`tests/golden/make_decoder_logits.py`), from safetensors and from GGUF.
//!
//! The error is measured at each position as `max |a − b| / max |b|` over the vocabulary, with `b` the reference in f32.
//! Keys and values are f16 here, which costs most of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod decoder_support;

use std::path::Path;

use decoder_support::{Sequence, in_tests, load};
use edgewise_engine::decoder::{Cpu, Decoder, LoadOptions};
use serde_json::Value;

const TOLERANCE: f64 = 1e-3;

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(in_tests("golden/decoder_logits.json")).unwrap()).unwrap()
}

/// The folder of `model` with other RoPE parameters, in a temporary place.
fn with_parameters(model: &str, parameters: &Value, older: bool, to: &Path) {
    let from = in_tests("fixtures/decoders").join(model);
    for file in std::fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    if older {
        // As written before version 5 of transformers.
        let fields = config.as_object_mut().unwrap();
        fields.remove("rope_parameters");
        fields.insert("rope_theta".to_owned(), parameters["rope_theta"].clone());
        let mut scaling = parameters.as_object().unwrap().clone();
        scaling.remove("rope_theta");
        let kind = scaling.remove("rope_type").unwrap();
        scaling.insert("type".to_owned(), kind);
        fields.insert("rope_scaling".to_owned(), Value::Object(scaling));
    } else {
        config["rope_parameters"] = parameters.clone();
    }
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
}

/// Largest relative error over the recorded positions.
fn error(decoder: &Decoder, golden: &Value, case: &Value) -> f64 {
    let tokens: Vec<u32> = golden["tokens"].as_array().unwrap().iter().map(|t| t.as_u64().unwrap() as u32).collect();
    let mut largest: f64 = 0.0;
    for position in golden["positions"].as_array().unwrap() {
        let position = position.as_u64().unwrap() as usize;
        // The whole sequence in one pass, as the reference.
        let logits = Sequence::new(decoder, tokens.len()).feed(&tokens[..=position]);
        let expected = case["logits"][position.to_string()].as_array().unwrap();
        assert_eq!(logits.len(), expected.len());
        let expected: Vec<f64> = expected.iter().map(|x| x.as_f64().unwrap()).collect();
        let scale = expected.iter().fold(0.0f64, |s, x| s.max(x.abs()));
        let worst = logits.iter().zip(&expected).fold(0.0f64, |w, (a, b)| w.max((f64::from(*a) - b).abs()));
        largest = largest.max(worst / scale);
    }
    largest
}

#[test]
fn every_family_and_scaling_matches_the_reference() {
    let golden = golden();
    let mut report = Vec::new();
    for case in golden["cases"].as_array().unwrap() {
        let name = case["name"].as_str().unwrap();
        let scaled = !case["rope_parameters"].is_null();
        // Scalings are run beyond the trained window, which is to be asked for.
        let window = case["context_window"].as_u64().map_or(usize::MAX, |window| window as usize);
        let options = LoadOptions { context_window: scaled.then_some(window), ..LoadOptions::default() };
        let mut check = |source: &str, decoder: &Decoder| {
            report.push((format!("{name} ({source})"), error(decoder, &golden, case)));
        };
        if let Some(model) = case["model"].as_str() {
            if scaled {
                for older in [false, true] {
                    let folder = tempfile::tempdir().unwrap();
                    with_parameters(model, &case["rope_parameters"], older, folder.path());
                    let decoder = Decoder::from_folder(folder.path(), Cpu::default(), &options).unwrap();
                    check(if older { "rope_scaling" } else { "rope_parameters" }, &decoder);
                }
            } else {
                // llama-gqa's own window is shorter than the test: the scalings need one to extend.
                let folder = tempfile::tempdir().unwrap();
                copy_with_window(model, 256, folder.path());
                check("safetensors", &Decoder::from_folder(folder.path(), Cpu::default(), &options).unwrap());
            }
        }
        if let Some(gguf) = case["gguf"].as_str().filter(|gguf| *gguf != "llama-gqa.gguf") {
            check("gguf", &load(gguf, &options).unwrap());
        }
    }
    let worst = report.iter().map(|(_, error)| *error).fold(0.0, f64::max);
    let listing: Vec<String> = report.iter().map(|(name, error)| format!("{name}: {error:.1e}")).collect();
    println!("{}", listing.join("\n"));
    assert!(worst < TOLERANCE, "{}", listing.join("\n"));
    assert!(report.len() > 25, "{} cases", report.len());
}

fn copy_with_window(model: &str, window: usize, to: &Path) {
    let from = in_tests("fixtures/decoders").join(model);
    for file in std::fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    let name = if config["model_type"] == "mpt" { "max_seq_len" } else { "max_position_embeddings" };
    config[name] = window.into();
    std::fs::write(to.join("config.json"), config.to_string()).unwrap();
}

#[test]
fn keys_and_values_take_what_the_formula_says() {
    for model in ["llama-mha", "llama-gqa", "llama-mqa", "qwen2", "qwen3", "mpt", "mistral"] {
        let decoder = load(model, &LoadOptions::default()).unwrap();
        let config = decoder.config();
        let per_token = 2 * config.layers * config.kv_heads * config.head_dim * 2;
        assert_eq!(config.kv_bytes_per_token(), per_token, "{model}");
        assert_eq!(decoder.page_bytes(), per_token * decoder.page_tokens(), "{model}");
    }
}

#[test]
fn weights_rounded_on_loading_stay_close() {
    let golden = golden();
    for case in golden["cases"].as_array().unwrap().iter().take(1) {
        let options = LoadOptions { compact: true, ..LoadOptions::default() };
        let compact = load(case["model"].as_str().unwrap(), &options).unwrap();
        let plain = load(case["model"].as_str().unwrap(), &LoadOptions::default()).unwrap();
        assert!(compact.weight_bytes() * 3 < plain.weight_bytes());
        let error = error(&compact, &golden, case);
        assert!(error > TOLERANCE && error < 0.1, "{error}");
    }
}
