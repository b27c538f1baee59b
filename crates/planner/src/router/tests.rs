#![allow(clippy::unwrap_used)]

use edgewise_model_api::QueueState;
use proptest::prelude::*;

use super::*;
use crate::features::{Scope, measure};

fn features(tokens: usize) -> Features {
    let empty = measure(&[], Scope { documents: 1, tokens }, QueueState::default());
    Features { hits: 10, top_cosine: 0.55, top_bm25: 20.0, entropy: 0.95, content_words: 5, ..empty }
}

/// The built-in file as if it had been fitted on English questions about documents of 32,000 tokens.
fn fitted() -> Router {
    let mut file = RouterFile::parse(EMBEDDED, "built-in").unwrap();
    file.provenance.data.insert("made".to_owned(), "0".to_owned());
    let base = RouterInput::new("What was the revenue of the company?", &features(32_000));
    for (scale, value) in file.scaling.iter_mut().zip(&base.dense) {
        (scale.mean, scale.sd) = (*value, 1.0);
    }
    file.common_words = word_hashes("what was is the of in a for how did to and which company first");
    file.usual_share = 0.5;
    Router::of(file).unwrap()
}

fn read(question: &str, features: &Features) -> RouterReading {
    let router = fitted();
    let input = RouterInput::new(question, features);
    let kinds = router.kinds(&input);
    router.read(&input.with_kinds(&kinds), "some-model")
}

#[test]
fn a_file_fitted_on_no_data_is_not_trusted() {
    let mut file = RouterFile::parse(EMBEDDED, "built-in").unwrap();
    file.provenance.data.clear();
    let router = Router::of(file).unwrap();
    let input = RouterInput::new("What was the revenue?", &features(32_000));
    let kinds = router.kinds(&input);
    assert_eq!(router.read(&input.with_kinds(&kinds), "some-model").trust, 0.0);
}

#[test]
fn what_is_particular_to_a_model_is_added_for_that_model_only() {
    let mut file = RouterFile::parse(EMBEDDED, "built-in").unwrap();
    let dense = vec![0.0; RouterInput::names().len()];
    file.models.insert("known".to_owned(), ModelHead { passages: 0.05, gain: -0.1, dense });
    let router = Router::of(file).unwrap();
    let input = RouterInput::new("What was the revenue?", &features(32_000));
    let kinds = router.kinds(&input);
    let input = input.with_kinds(&kinds);
    let (other, known) = (router.read(&input, "other"), router.read(&input, "known"));
    assert!((known.gain - other.gain + 0.1).abs() < 1e-6 && (known.passages - other.passages - 0.05).abs() < 1e-6);
}

#[test]
fn files_that_do_not_match_are_refused_and_say_what_to_do() {
    let good: serde_json::Value = serde_json::from_str(EMBEDDED).unwrap();
    let refused = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut file = good.clone();
        change(&mut file);
        let error = Router::parse(&file.to_string(), "mine.json").unwrap_err().to_string();
        assert!(error.starts_with("mine.json") && error.contains("eval routing --train"), "{error}");
        error
    };
    assert!(refused(&|file| file["format"] = 2.into()).contains("of format 2"));
    assert!(refused(&|file| file["features"][0] = "other".into()).contains("input 1 is `other`"));
    assert!(refused(&|file| file["features"].as_array_mut().unwrap().truncate(3)).contains("`features` has 3"));
    assert!(refused(&|file| file["scaling"][0]["sd"] = 0.into()).contains("not above 0"));
    assert!(refused(&|file| file["gain"]["ngrams"] = serde_json::json!([1.0])).contains("`gain`"));
    assert!(refused(&|file| file["unheard"] = 1.into()).contains("unknown field"));
    assert!(refused(&|file| file["common_words"] = serde_json::json!([2, 1])).contains("rising"));
    assert!(
        refused(&|file| file["models"]["m"] = serde_json::json!({"passages": 0, "gain": 0, "dense": []}))
            .contains("`m`")
    );
    for text in ["", "{", "[]", "{\"format\": 1}"] {
        let error = Router::parse(text, "mine.json").unwrap_err();
        assert!(matches!(error, RouterError::Format { .. }), "{error}");
    }
    let error = Router::load(Path::new("/nowhere/router.json")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/router.json") && error.contains("planner.router"), "{error}");
}

#[test]
fn cues_count_without_any_training() {
    let file = RouterFile::parse(EMBEDDED, "built-in").unwrap();
    let untrained = vec![Head { dense: vec![0.0; SURFACE_NAMES.len()], ngrams: vec![0.0; BUCKETS], bias: 0.0 }; 4];
    let router = Router::of(RouterFile { kinds: untrained, ..file }).unwrap();
    let kind = |question: &str| router.kinds(&RouterInput::new(question, &features(30_000))).likeliest();
    for (question, expected) in [
        ("Summarise the main themes of these documents.", QuestionKind::Global),
        ("Gib eine Zusammenfassung der Berichte.", QuestionKind::Global),
        ("How did revenue change compared with the year before?", QuestionKind::Comparison),
        ("And why did they do that?", QuestionKind::Conversation),
    ] {
        assert_eq!(kind(question), expected, "{question}");
    }
}

#[test]
fn trust_falls_away_from_what_was_trained_on() {
    let question = "What was the total revenue of the company in the first quarter?";
    let near = read(question, &features(32_000)).trust;
    assert!(near > 0.5, "{near}");
    assert!(read(question, &features(400)).trust < 0.5 * near, "a tiny scope");
    assert!(read(question, &features(50_000_000)).trust < 0.5 * near, "a huge one");
    let german = read("Wie hoch war der Gesamtumsatz des Unternehmens im ersten Quartal?", &features(32_000)).trust;
    assert!(german < 0.85 * near, "another language: {german} against {near}");
}

proptest! {
    #[test]
    fn readings_are_finite_and_in_range(
        question in "\\PC{0,200}",
        tokens in 0..usize::MAX / 2,
        cosine in -1f32..1.0,
        bm25 in 0f32..1e6,
    ) {
        let reading = read(&question, &Features { top_cosine: cosine, top_bm25: bm25, ..features(tokens) });
        prop_assert!((0.0..=1.0).contains(&reading.passages) && (0.0..=1.0).contains(&reading.full_better));
        prop_assert!((-1.0..=1.0).contains(&reading.gain) && (0.0..=1.0).contains(&reading.trust));
    }
}
