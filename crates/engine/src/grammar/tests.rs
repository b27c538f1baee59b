//! Constraints on a tiny vocabulary, where every step can be reasoned about, and on a real model, whose outputs are
//! checked by a validator that shares nothing with the grammar engine.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::{path::PathBuf, sync::Arc, sync::LazyLock};

use edgewise_model_api::{ChatMessage, Role, Tokenizer as _};
use serde_json::{Value, json};

use super::{Grammar, GrammarCompiler};
use crate::{
    EngineError,
    chat_template::ChatTemplate,
    constraint::TokenConstraint,
    decoder::{Cpu, Decoder},
    model_files::{ModelFiles, Sequence},
    tokenizer::{GeneratorTokenizer, byte_vocabulary},
};

fn tiny() -> (Arc<GeneratorTokenizer>, GrammarCompiler) {
    let tokenizer = Arc::new(GeneratorTokenizer::from_gguf(byte_vocabulary()).unwrap());
    (tokenizer.clone(), GrammarCompiler::new(tokenizer))
}

/// Ids that may come next.
fn allowed(constraint: &mut dyn TokenConstraint, vocabulary: usize) -> Vec<u32> {
    let mut logits = vec![1.0; vocabulary];
    constraint.allowed(&mut logits).unwrap();
    assert!(logits.iter().all(|&x| x == 1.0 || x == f32::NEG_INFINITY));
    (0..).zip(logits).filter(|(_, x)| *x == 1.0).map(|(id, _)| id).collect()
}

#[test]
fn the_end_is_allowed_exactly_where_the_grammar_is_complete() {
    let (tokenizer, compiler) = tiny();
    let mut constraint = compiler.compile(Grammar::Regex("(ab|a)c?")).unwrap();
    let size = tokenizer.vocabulary_size();
    let id = |text: &str| tokenizer.encode(text).unwrap()[0];
    let [a, b, ab, c] = ["a", "b", "ab", "c"].map(id);
    let end = tokenizer.end_of_turn()[0];
    let sorted = |mut ids: Vec<u32>| {
        ids.sort_unstable();
        ids
    };
    assert_eq!(allowed(&mut constraint, size), sorted(vec![a, ab]));
    let mut other = constraint.fork();
    constraint.accept(a).unwrap();
    assert_eq!(allowed(&mut constraint, size), sorted(vec![end, b, c]));
    assert!(!constraint.is_finished());
    constraint.accept(c).unwrap();
    assert!(constraint.is_finished(), "nothing can follow");
    assert_eq!(allowed(&mut constraint, size), [end]);
    // The fork stands where it stood.
    assert_eq!(allowed(other.as_mut(), size), sorted(vec![a, ab]));
    other.accept(ab).unwrap();
    other.accept(end).unwrap();
    assert!(other.is_finished());
}

#[test]
fn a_token_the_grammar_forbids_is_refused() {
    let (tokenizer, compiler) = tiny();
    let mut constraint = compiler.compile(Grammar::Regex("a+")).unwrap();
    let b = tokenizer.encode("b").unwrap()[0];
    assert!(matches!(constraint.accept(b), Err(EngineError::Grammar(_))));
}

#[test]
fn no_grammar_can_ask_for_a_control_token() {
    let (tokenizer, compiler) = tiny();
    let size = tokenizer.vocabulary_size();
    for source in ["start: <[1]> \"a\"", "start: <|user|> \"a\"", "start: \"<|user|>\""] {
        let Ok(mut constraint) = compiler.compile(Grammar::Lark(source)) else { continue };
        let mut logits = vec![0.0; size];
        if constraint.allowed(&mut logits).is_ok() {
            assert!(logits[1..3].iter().all(|x| *x == f32::NEG_INFINITY), "{source}");
        }
    }
}

#[test]
fn sources_that_are_wrong_or_too_large_are_one_clear_sentence() {
    let (tokenizer, compiler) = tiny();
    let (size, a) = (tokenizer.vocabulary_size(), tokenizer.encode("a").unwrap()[0]);
    let deep_schema = (0..200).fold(json!({"type": "integer"}), |inner, _| json!({"type": "array", "items": inner}));
    let deep_lark = format!("start: {}\"a\"{}", "(".repeat(10_000), ")".repeat(10_000));
    let deep_regex = format!("{}a{}", "(".repeat(10_000), ")".repeat(10_000));
    let long_chain: String = (0..15_000).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
    let long_chain = format!("start: r0\n{long_chain}r15000: \"a\"\n");
    let terminals: String = (0..15_000).map(|i| format!("R{i}: R{}\n", i + 1)).collect();
    let terminals = format!("start: R0\n{terminals}R15000: \"a\"\n");
    let too_long = "a".repeat(300 * 1024);
    let begun = std::time::Instant::now();
    for (grammar, refused) in [
        (Grammar::JsonSchema(&json!({"type": "object", "uniqueItems": true, "dependentSchemas": {}})), false),
        (Grammar::JsonSchema(&json!({"type": "nonsense"})), true),
        (Grammar::JsonSchema(&json!({"type": "integer", "minimum": 3, "maximum": 2})), true),
        (Grammar::JsonSchema(&json!({"$ref": "#/nowhere"})), true),
        (Grammar::JsonSchema(&json!({"$ref": "https://example.org/schema"})), true),
        (Grammar::JsonSchema(&json!({"type": "array", "uniqueItems": true})), true),
        (Grammar::JsonSchema(&deep_schema), true),
        (Grammar::Regex("(a"), true),
        (Grammar::Regex("(?=a)b"), true),
        (Grammar::Regex("((a{1,900}b{1,900}){1,900}c{1,900}){1,900}"), false),
        (Grammar::Regex("(.*a.{900}b.*){900}"), false),
        (Grammar::Regex(&deep_regex), true),
        (Grammar::Regex(&too_long), true),
        (Grammar::Lark("start: nowhere"), true),
        (Grammar::Lark("begin: \"a\""), true),
        (Grammar::Lark(""), true),
        (Grammar::Lark(&deep_lark), true),
        (Grammar::Lark(&long_chain), false),
        (Grammar::Lark(&terminals), false),
    ] {
        match compiler.compile(grammar) {
            Ok(mut constraint) => {
                assert!(!refused, "{:.100}", format!("{grammar:?}"));
                // What compiles is bounded step by step.
                let mut logits = vec![0.0; size];
                match constraint.allowed(&mut logits).and_then(|()| constraint.accept(a)) {
                    Ok(()) | Err(EngineError::Grammar(_)) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            Err(EngineError::Grammar(reason)) => {
                assert!(!reason.is_empty() && !reason.contains('\n') && reason.len() < 2000, "{reason}");
            }
            Err(other) => panic!("{other}"),
        }
    }
    // Far beyond what it takes, far below a hang.
    assert!(begun.elapsed().as_secs() < 60, "{:?}", begun.elapsed());
}

/// The real model, as far as these tests need it.
struct Model {
    decoder: Decoder,
    tokenizer: Arc<GeneratorTokenizer>,
    template: ChatTemplate,
    compiler: GrammarCompiler,
}

static MODEL: LazyLock<Model> = LazyLock::new(|| {
    let folder = std::env::var_os("EDGEWISE_TEST_MODELS").expect("EDGEWISE_TEST_MODELS is not set: run ./scripts/test");
    let path = PathBuf::from(folder).join("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf");
    let ModelFiles { decoder, tokenizer, template, .. } = ModelFiles::load("smollm2", &path, None, Cpu::default()).unwrap();
    let tokenizer = Arc::new(tokenizer);
    let compiler = GrammarCompiler::new(tokenizer.clone());
    Model { decoder, tokenizer, template, compiler }
});

/// A pseudo-random draw of bounded entropy, so that outputs differ from the likeliest ones.
fn draw(logits: &[f32], temperature: f32, state: &mut u64) -> u32 {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weights: Vec<f32> = logits.iter().map(|x| ((x - best) / temperature).exp()).collect();
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    let mut left = (*state >> 40) as f32 / (1_u64 << 24) as f32 * weights.iter().sum::<f32>();
    let mut last = 0;
    for (id, weight) in (0..).zip(&weights).filter(|(_, w)| **w > 0.0) {
        last = id;
        left -= weight;
        if left <= 0.0 {
            break;
        }
    }
    last
}

/// The text of one constrained output, and whether it came to its end.
fn write(grammar: Grammar<'_>, question: &str, temperature: f32, most: usize) -> (String, bool) {
    let Model { decoder, tokenizer, template, compiler } = &*MODEL;
    let prompt = template.encode(tokenizer, &[ChatMessage::text(Role::User, question)]).unwrap().tokens;
    let mut constraint = compiler.compile(grammar).unwrap();
    let mut sequence = Sequence::new(decoder, prompt.len() + most);
    let mut logits = sequence.forward(&prompt);
    let mut ids = Vec::new();
    let mut seed = 7;
    for _ in 0..most {
        constraint.allowed(&mut logits).unwrap();
        let id = draw(&logits, temperature, &mut seed);
        constraint.accept(id).unwrap();
        if tokenizer.end_of_turn().contains(&id) {
            assert!(constraint.is_finished());
            return (tokenizer.decode(&ids).unwrap(), true);
        }
        ids.push(id);
        if constraint.is_finished() {
            return (tokenizer.decode(&ids).unwrap(), true);
        }
        logits = sequence.forward(&[id]);
    }
    (tokenizer.decode(&ids).unwrap(), false)
}

/// The part of JSON schema the tests below use, by its definition.
fn conforms(value: &Value, schema: &Value) -> bool {
    let length_within = |n: usize, least: &str, most: &str| {
        schema[least].as_u64().is_none_or(|m| n as u64 >= m) && schema[most].as_u64().is_none_or(|m| n as u64 <= m)
    };
    if let Some(choices) = schema["enum"].as_array() {
        return choices.contains(value);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        return choices.iter().any(|choice| conforms(value, choice));
    }
    match schema["type"].as_str().unwrap() {
        "object" => {
            let Some(fields) = value.as_object() else { return false };
            let properties = schema["properties"].as_object().unwrap();
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            required.iter().all(|name| fields.contains_key(name.as_str().unwrap()))
                && fields.iter().all(|(name, field)| properties.get(name).is_some_and(|p| conforms(field, p)))
        }
        "array" => value.as_array().is_some_and(|items| {
            length_within(items.len(), "minItems", "maxItems")
                && items.iter().all(|item| conforms(item, &schema["items"]))
        }),
        "string" => value.as_str().is_some_and(|text| length_within(text.chars().count(), "minLength", "maxLength")),
        "integer" => value.as_i64().is_some_and(|n| {
            schema["minimum"].as_i64().is_none_or(|m| n >= m) && schema["maximum"].as_i64().is_none_or(|m| n <= m)
        }),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        other => panic!("{other}"),
    }
}

#[test]
fn outputs_of_a_real_model_always_parse_and_conform() {
    let object = |properties: Value| {
        let required: Vec<&String> = properties.as_object().unwrap().keys().collect();
        json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
    };
    let schemas = [
        object(
            json!({"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 130}}),
        ),
        object(json!({"colour": {"enum": ["red", "green", "bläulich", null, 7]}, "sure": {"type": "boolean"}})),
        json!({"type": "array", "minItems": 2, "maxItems": 3, "items":
            {"type": "array", "minItems": 1, "maxItems": 2, "items": {"type": "number"}}}),
        object(json!({"title": {"type": "string", "minLength": 1, "maxLength": 12}, "tags":
            {"type": "array", "maxItems": 2, "items": {"anyOf": [{"type": "string", "maxLength": 6}, {"type": "null"}]}}})),
        object(
            json!({"inner": object(json!({"deep": object(json!({"x": {"type": "integer", "minimum": -3, "maximum": 3}}))}))}),
        ),
    ];
    let questions = ["Describe a person named Zoë 李小龙 in JSON.", "Répondez: 何色ですか？ 🎨 \"quoted\" \\ back"];
    let mut finished = 0;
    for schema in &schemas {
        for (question, temperature) in questions.iter().zip([1e-3, 1.5]) {
            let (text, complete) = write(Grammar::JsonSchema(schema), question, temperature, 120);
            if complete {
                let value: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
                assert!(conforms(&value, schema), "{text}");
                finished += 1;
            }
        }
    }
    // Numbers have no longest form, so an output may run into its limit; nearly all must end.
    assert!(finished >= 9, "only {finished} of 10 ended");
}

#[test]
fn regular_expressions_and_lark_grammars_hold_on_a_real_model() {
    let date = Grammar::Regex(r"(19|20)[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])");
    let (text, complete) = write(date, "When did the Second World War end? Answer as YYYY-MM-DD.", 1.0, 20);
    assert!(complete && text.len() == 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-', "{text}");
    let sum = Grammar::Lark("start: NUMBER (\" + \" NUMBER){2} \" = \" NUMBER\nNUMBER: /[1-9][0-9]{0,2}/");
    let (text, complete) = write(sum, "Write a sum of three numbers.", 1.0, 40);
    assert!(complete, "{text}");
    let (left, right) = text.split_once(" = ").unwrap();
    assert!(right.parse::<u32>().is_ok() && left.split(" + ").filter_map(|n| n.parse::<u32>().ok()).count() == 3);
    let (text, complete) = write(Grammar::Regex("(你好|здравствуйте|مرحبا)🙂"), "Say hello.", 2.0, 20);
    assert!(complete && text.ends_with('🙂'), "{text}");
}

/// What a step costs. Prints; run by hand with `--run-ignored all --no-capture`.
#[test]
#[ignore = "a measurement"]
fn the_cost_of_a_mask() {
    let schema = json!({"type": "object", "properties": {
        "name": {"type": "string"}, "age": {"type": "integer"}, "tags": {"type": "array", "items": {"type": "string"}},
        "kind": {"enum": ["a", "b", "c"]}, "score": {"type": "number"}},
        "required": ["name", "age", "tags", "kind", "score"], "additionalProperties": false});
    let Model { tokenizer, compiler, .. } = &*MODEL;
    let begun = std::time::Instant::now();
    compiler.compile(Grammar::Regex("a")).unwrap();
    println!("trie and first grammar: {:?}", begun.elapsed());
    let begun = std::time::Instant::now();
    compiler.compile(Grammar::JsonSchema(&schema)).unwrap();
    println!("schema compiled in {:?}", begun.elapsed());
    let text = r#"{"name": "Grace Brewster Murray Hopper, née Murray, 日本語 and some more words of prose", "age": 85, "tags": ["computing", "navy", "COBOL"], "kind": "b", "score": 12.75}"#;
    let ids = tokenizer.encode(text).unwrap();
    let mut times = Vec::new();
    for _ in 0..40 {
        let mut constraint = compiler.compile(Grammar::JsonSchema(&schema)).unwrap();
        for &id in &ids {
            let mut logits = vec![0.0; tokenizer.vocabulary_size()];
            let begun = std::time::Instant::now();
            constraint.allowed(&mut logits).unwrap();
            constraint.accept(id).unwrap();
            times.push(begun.elapsed());
        }
        assert!(constraint.is_finished());
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!("{} steps: p50 {:?}, p99 {:?}, longest {:?}", times.len(), at(0.5), at(0.99), at(1.0));
}
