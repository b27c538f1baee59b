//! Rerankers against transformers (`tests/golden/make_reranker_scores.py`): tiny random-weight models of both families,
//! and the encoder of all-MiniLM-L6-v2 with a head of fixed numbers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use edgewise_engine::{BertReranker, EncoderArithmetic, load_reranker, load_reranker_with};
use edgewise_model_api::{ModelError, Reranker};
use safetensors::{Dtype, SafeTensors, View};
use serde_json::{Value, json};
use tempfile::TempDir;

fn in_tests(path: &str) -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../tests").join(path)
}

fn fixture(model: &str) -> PathBuf {
    in_tests("fixtures/rerankers").join(model)
}

struct Golden(Value);

impl Golden {
    fn read() -> Self {
        Self(serde_json::from_slice(&std::fs::read(in_tests("golden/reranker_scores.json")).unwrap()).unwrap())
    }

    fn texts(&self, key: &str) -> Vec<&str> {
        self.0[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap()).collect()
    }

    /// Scores of each query's passages.
    fn scores(&self, model: &str) -> Vec<Vec<f64>> {
        let case = self.0["cases"].as_array().unwrap().iter().find(|case| case["model"] == model).unwrap();
        let row = |row: &Value| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        case["scores"].as_array().unwrap().iter().map(row).collect()
    }

    /// Largest difference to the reference as a share of the range of the reference's scores.
    fn error(&self, model: &str, reranker: &BertReranker) -> f64 {
        let expected = self.scores(model);
        let all = || expected.iter().flatten().copied();
        let range = all().fold(f64::MIN, f64::max) - all().fold(f64::MAX, f64::min);
        let mut largest: f64 = 0.0;
        for (query, expected) in self.texts("queries").iter().zip(&expected) {
            let scores = reranker.score(query, &self.texts("passages"), &|| false).unwrap();
            assert_eq!(scores.len(), expected.len());
            largest = scores.iter().zip(expected).fold(largest, |m, (a, b)| m.max((f64::from(*a) - b).abs()));
        }
        largest / range
    }
}

#[test]
fn scores_match_the_reference() {
    let golden = Golden::read();
    for model in ["bert", "bert-two-classes", "xlm-roberta"] {
        let exact = load_reranker_with(model, &fixture(model), EncoderArithmetic::Exact).unwrap();
        let error = golden.error(model, &exact);
        assert!(error < 1e-5, "{model}: off by {error} of the range");
        let integer = load_reranker(model, &fixture(model)).unwrap();
        assert_ne!(exact.info().digest, integer.info().digest, "other scores, another digest");
        let error = golden.error(model, &integer);
        // Random weights spread what rounding does over all of a tiny state; real ones are checked below.
        assert!(error > 1e-5 && error < 0.1, "{model} in integers: off by {error} of the range");
    }
}

/// A tensor of a file under another name, or of numbers.
struct Tensor<'a>(Vec<usize>, Cow<'a, [u8]>);

impl View for Tensor<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }
    fn shape(&self) -> &[usize] {
        &self.0
    }
    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Borrowed(&self.1)
    }
    fn data_len(&self) -> usize {
        self.1.len()
    }
}

/// all-MiniLM-L6-v2 as the encoder of a classifier with the head of the golden script.
fn minilm_with_a_head() -> TempDir {
    let models = std::env::var_os("EDGEWISE_TEST_MODELS").expect("EDGEWISE_TEST_MODELS is not set: run ./scripts/test");
    let (from, to) = (Path::new(&models).join("all-minilm-l6-v2"), tempfile::tempdir().unwrap());
    std::fs::copy(from.join("tokenizer.json"), to.path().join("tokenizer.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(from.join("config.json")).unwrap()).unwrap();
    config["architectures"] = json!(["BertForSequenceClassification"]);
    config["id2label"] = json!({"0": "LABEL_0"});
    std::fs::write(to.path().join("config.json"), config.to_string()).unwrap();
    let bytes = std::fs::read(from.join("model.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let encoder = file.iter().filter(|(_, tensor)| tensor.dtype() == Dtype::F32);
    let mut tensors: Vec<(String, Tensor<'_>)> =
        encoder.map(|(name, t)| (format!("bert.{name}"), Tensor(t.shape().to_vec(), t.data().into()))).collect();
    let head: Vec<u8> = (1..=384).flat_map(|i| (f64::from(i).sin() as f32).to_le_bytes()).collect();
    tensors.push(("classifier.weight".to_owned(), Tensor(vec![1, 384], head.into())));
    tensors.push(("classifier.bias".to_owned(), Tensor(vec![1], 0.25_f32.to_le_bytes().to_vec().into())));
    safetensors::serialize_to_file(tensors, None, &to.path().join("model.safetensors")).unwrap();
    to
}

#[test]
fn real_activations_keep_their_scores() {
    let (golden, folder) = (Golden::read(), minilm_with_a_head());
    let exact = load_reranker_with("exact", folder.path(), EncoderArithmetic::Exact).unwrap();
    let error = golden.error("minilm", &exact);
    assert!(error < 1e-5, "off by {error} of the range");
    let integer = load_reranker("integers", folder.path()).unwrap();
    let error = golden.error("minilm", &integer);
    assert!(error < 0.03, "in integers: off by {error} of the range");
}

#[test]
fn a_pair_has_one_score_bit_for_bit() {
    let golden = Golden::read();
    let (query, passages) = (golden.texts("queries")[1], golden.texts("passages"));
    for model in ["bert", "xlm-roberta"] {
        let reranker = load_reranker(model, &fixture(model)).unwrap();
        let alone: Vec<f32> =
            passages.iter().map(|passage| reranker.score(query, &[passage], &|| false).unwrap()[0]).collect();
        let many: Vec<&str> = passages.iter().copied().cycle().take(200).collect();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for (i, score) in reranker.score(query, &many, &|| false).unwrap().into_iter().enumerate() {
                        assert_eq!(score.to_bits(), alone[i % passages.len()].to_bits());
                    }
                });
            }
        });
        assert!(reranker.score(query, &[], &|| false).unwrap().is_empty());
    }
}

#[test]
fn long_questions_are_refused_and_cancelled_calls_end_soon() {
    let reranker = load_reranker("tiny", &fixture("bert")).unwrap();
    let info = reranker.info().clone();
    assert_eq!((info.max_tokens, info.max_query_tokens), (64, 30));
    let words = |n: usize| "a ".repeat(n);
    assert_eq!(reranker.score(&words(30), &[&words(500)], &|| false).unwrap().len(), 1);
    match reranker.score(&words(31), &["a"], &|| false) {
        Err(ModelError::Tokenizer(reason)) => assert!(reason.contains("31 tokens") && reason.contains("reads 30")),
        other => panic!("{other:?}"),
    }
    // Far more than is done in the time a caller waits before it is asked.
    let long = words(60);
    let many = vec![long.as_str(); 4000];
    let begun = Instant::now();
    assert!(matches!(reranker.score("a", &many, &|| true), Err(ModelError::Stopped(_))));
    let cancelled = begun.elapsed();
    // Until the round that was under way is done, the call given up still counts.
    while let Err(error) = reranker.score("a", &many[..1], &|| false) {
        assert!(matches!(error, ModelError::Overloaded { .. }), "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
    let forgotten = begun.elapsed();
    let begun = Instant::now();
    assert_eq!(reranker.score("a", &many, &|| false).unwrap().len(), many.len());
    let whole = begun.elapsed();
    // Wide limits: tokenising all pairs is part of both, and the machine may be shared.
    assert!(cancelled < whole && forgotten < whole * 2, "{cancelled:?}, {forgotten:?}, all of it {whole:?}");
}

#[test]
fn what_is_no_reranker_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(fixture("bert").join(file), folder.path().join(file)).unwrap();
    }
    load_reranker("sound", folder.path()).unwrap();
    let config: Value = serde_json::from_slice(&std::fs::read(fixture("bert").join("config.json")).unwrap()).unwrap();
    for (key, value, expected) in [
        ("architectures", json!(["ModernBertForSequenceClassification"]), "`ModernBertForSequenceClassification`"),
        ("architectures", json!(["BertModel"]), "`BertModel`"),
        ("architectures", json!([]), "the architecture ``"),
        ("model_type", json!("electra"), "`electra`"),
        ("hidden_act", json!("relu"), "`relu`"),
        ("position_embedding_type", json!("relative_key"), "`relative_key`"),
        ("id2label", json!({"0": "a", "1": "b", "2": "c"}), "a head of 3 classes"),
        ("id2label", json!({"0": "a", "1": "b"}), "`classifier.weight` has shape [1, 64]"),
        ("type_vocab_size", json!(1), "no segment for the second text"),
        ("num_hidden_layers", json!(3), "`bert.encoder.layer.2.attention.self.query.weight` is missing"),
    ] {
        let mut changed = config.clone();
        changed[key] = value;
        std::fs::write(folder.path().join("config.json"), changed.to_string()).unwrap();
        match load_reranker("broken", folder.path()) {
            Err(ModelError::Load { model, reason }) => {
                assert_eq!(model, "broken");
                assert!(reason.contains(expected) && !reason.contains('\n'), "{key}: {reason}");
            }
            other => panic!("{key}: {other:?}"),
        }
    }
}
