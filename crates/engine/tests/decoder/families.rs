//! Logits of tiny random-weight models of every family and every RoPE scaling against transformers
//! (`tests/golden/make_decoder_logits.py`), from safetensors and from GGUF.
//!
//! The error is measured at each position as `max |a − b| / max |b|` over the vocabulary, with `b` the reference in
//! f32. Keys and values are f16 here, which costs most of it.

use edgewise_engine::decoder::{Cpu, Decoder, LoadOptions};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::support::{Sequence, in_tests, load};

const TOLERANCE: f64 = 1e-3;

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(in_tests("golden/decoder_logits.json")).unwrap()).unwrap()
}

/// A temporary folder with the files of `model` and a changed `config.json`.
fn changed(model: &str, change: impl FnOnce(&mut Map<String, Value>)) -> TempDir {
    let (from, to) = (in_tests("fixtures/decoders").join(model), tempfile::tempdir().unwrap());
    for file in std::fs::read_dir(&from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    change(config.as_object_mut().unwrap());
    std::fs::write(to.path().join("config.json"), config.to_string()).unwrap();
    to
}

/// RoPE parameters as written before version 5 of transformers.
fn older_parameters(fields: &mut Map<String, Value>, parameters: &Value) {
    fields.remove("rope_parameters");
    let mut scaling = parameters.as_object().unwrap().clone();
    fields.insert("rope_theta".to_owned(), scaling.remove("rope_theta").unwrap());
    let kind = scaling.remove("rope_type").unwrap();
    scaling.insert("type".to_owned(), kind);
    fields.insert("rope_scaling".to_owned(), Value::Object(scaling));
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
        let folders = match case["model"].as_str() {
            Some(model) if scaled => {
                let parameters = &case["rope_parameters"];
                let newer = changed(model, |fields| fields["rope_parameters"] = parameters.clone());
                vec![newer, changed(model, |fields| older_parameters(fields, parameters))]
            }
            // The window of llama-gqa is short, for the scalings to extend.
            Some("llama-gqa") => vec![changed("llama-gqa", |fields| fields["max_position_embeddings"] = 256.into())],
            Some(model) => vec![changed(model, |_| ())],
            None => Vec::new(),
        };
        for folder in folders {
            check("safetensors", &Decoder::from_folder(folder.path(), Cpu::default(), &options).unwrap());
        }
        if let Some(gguf) = case["gguf"].as_str() {
            check("gguf", &load(gguf, &options).unwrap());
        }
    }
    let worst = report.iter().map(|(_, error)| *error).fold(0.0, f64::max);
    let listing: Vec<String> = report.iter().map(|(name, error)| format!("{name}: {error:.1e}")).collect();
    println!("{}", listing.join("\n"));
    assert!(worst < TOLERANCE, "{}", listing.join("\n"));
    assert!(report.len() > 25, "{} cases", report.len());
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
    let case = golden["cases"].as_array().unwrap().iter().find(|case| case["name"] == "llama-mha").unwrap();
    let plain = load("llama-mha", &LoadOptions::default()).unwrap();
    let compact = load("llama-mha", &LoadOptions { compact: true, ..LoadOptions::default() }).unwrap();
    assert!(compact.weight_bytes() * 3 < plain.weight_bytes());
    let error = error(&compact, &golden, case);
    assert!(error > TOLERANCE && error < 0.1, "{error}");
}
