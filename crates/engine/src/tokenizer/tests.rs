//! Against reference implementations, on tiny vocabularies made by `tests/golden/make_tokenizers.py`.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;

use edgewise_model_api::{ChatMessage, Role, Tokenizer as _};
use proptest::prelude::*;
use serde_json::Value;

use super::{GeneratorTokenizer, GgufVocabulary, chat_template};
use crate::{EngineError, chat_template::ChatTemplate, decoder::GgufFile, load};

fn golden(name: &str) -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../tests/golden/tokenizers").join(name)
}

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(golden("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| u32::try_from(id.as_u64().unwrap()).unwrap()).collect()
}

fn vocabulary(file: &str) -> GgufVocabulary {
    load::vocabulary(&GgufFile::open(golden(file)).unwrap()).unwrap()
}

/// Checks tokens and decoding of all texts, and the contract of offsets.
fn matches_reference(tokenizer: &GeneratorTokenizer, reference: &Value, lossless: bool, what: &str) {
    for (text, tokens) in expected()["texts"].as_array().unwrap().iter().zip(reference.as_array().unwrap()) {
        let text = text.as_str().unwrap();
        let (encoded, offsets) = tokenizer.encode_with_offsets(text).unwrap();
        assert_eq!(encoded, ids(tokens), "{what}: {text:?}");
        assert_eq!(tokenizer.encode(text).unwrap(), encoded, "{what}: {text:?}");
        if lossless {
            assert_eq!(tokenizer.decode(&encoded).unwrap(), text, "{what}");
        }
        assert_eq!(offsets.len(), encoded.len());
        assert!(offsets.is_sorted_by(|a, b| a.start <= b.start && a.end <= b.end), "{what}: {text:?} {offsets:?}");
        assert!(offsets.iter().all(|range| text.get(range.clone()).is_some()), "{what}: {text:?} {offsets:?}");
        for (at, c) in text.char_indices() {
            let covered = offsets.iter().any(|range| range.contains(&at));
            assert!(covered || c.is_whitespace(), "{what}: {c:?} of {text:?} is in no token");
        }
    }
}

#[test]
fn every_pre_tokenizer_cuts_as_the_reference_does() {
    let file = vocabulary("byte_level.gguf");
    for (name, reference) in expected()["byte_level"].as_object().unwrap() {
        let tokenizer = GeneratorTokenizer::from_gguf(GgufVocabulary { pre: name.clone(), ..file.clone() }).unwrap();
        let normalises = ["mpt", "qwen2", "qwen35"].contains(&name.as_str());
        matches_reference(&tokenizer, reference, !normalises, name);
    }
}

#[test]
fn sentencepiece_vocabularies_encode_as_the_reference_does() {
    let tokenizer = GeneratorTokenizer::from_gguf(vocabulary("sentencepiece.gguf")).unwrap();
    assert!(tokenizer.writes_space_prefix());
    assert_eq!((tokenizer.bos(), tokenizer.eos()), ("<s>", "</s>"));
    matches_reference(&tokenizer, &expected()["sentencepiece"], true, "sentencepiece");
    let first = tokenizer.encode("The").unwrap()[0];
    assert_eq!(tokenizer.bytes_of(first)[0], b' ');
    assert_ne!(tokenizer.first_bytes_of(first).first(), Some(&b' '));
    // Text that continues other text: the same without the space before it.
    let whole = tokenizer.encode(" {\"a\"").unwrap();
    let continued = tokenizer.encode_continuation("  {\"a\"").unwrap();
    assert_eq!(whole, continued);
}

#[test]
fn folders_encode_and_template_as_the_reference_does() {
    let expected = expected();
    let chat: Vec<(Role, &str)> = expected["chat"]
        .as_array()
        .unwrap()
        .iter()
        .map(|message| {
            let role = match message["role"].as_str().unwrap() {
                "system" => Role::System,
                "user" => Role::User,
                _ => Role::Assistant,
            };
            (role, message["content"].as_str().unwrap())
        })
        .collect();
    for (name, reference) in expected["folders"].as_object().unwrap() {
        let folder = golden(name);
        let tokenizer = GeneratorTokenizer::from_folder(&folder).unwrap();
        let end = ids(&reference["end_of_turn"])[0];
        assert!(tokenizer.end_of_turn().contains(&end), "{name}");
        // The library drops a space that the text itself begins with, where it writes one.
        matches_reference(&tokenizer, &reference["tokens"], false, name);
        let template = chat_template(&folder).unwrap();
        let template = ChatTemplate::new(template, tokenizer.bos(), tokenizer.eos()).unwrap();
        let encode = |rewrite: fn(&str) -> String| {
            let messages: Vec<_> = chat.iter().map(|(role, text)| ChatMessage::text(*role, rewrite(text))).collect();
            template.encode(&tokenizer, &messages).unwrap().tokens
        };
        // The reference would take the look-alike for a control token.
        assert_eq!(encode(|text| text.replace("<|im_end|>", "<|IM_end|>")), ids(&reference["chat"]), "{name}");
        let ends = encode(str::to_owned).iter().filter(|&&id| id == end).count();
        assert_eq!(ends, chat.len(), "{name}: a look-alike ended a turn");
    }
}

#[test]
fn damaged_and_foreign_folders_give_one_clear_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let load = || GeneratorTokenizer::from_folder(folder.path()).unwrap_err();
    assert!(matches!(load(), EngineError::MissingFile { .. }));
    let sound = std::fs::read_to_string(golden("byte_level").join("tokenizer.json")).unwrap();
    for length in [0, 10, sound.len() / 2, sound.len() - 3] {
        std::fs::write(&path, &sound[..length]).unwrap();
        let message = load().to_string();
        assert!(message.contains("tokenizer.json is damaged or foreign") && !message.contains('\n'), "{message}");
    }
    let changed = |change: fn(&mut Value)| {
        let mut file: Value = serde_json::from_str(&sound).unwrap();
        change(&mut file);
        std::fs::write(&path, file.to_string()).unwrap();
        load().to_string()
    };
    assert!(changed(|f| f["model"]["type"] = "Unigram".into()).contains("`Unigram`"));
    assert!(changed(|f| f["model"]["vocab"]["a"] = u64::MAX.into()).contains("beyond any vocabulary"));
    assert!(changed(|f| f["model"]["vocab"]["a"] = "b".into()).contains("not a number"));
    assert!(changed(|f| f["model"]["merges"][0] = "no such pair".into()).contains("damaged or foreign"));
    assert!(
        changed(|f| {
            f["decoder"] = Value::Null;
            f["pre_tokenizer"] = Value::Null;
        })
        .contains("every byte")
    );
    let message = chat_template(folder.path()).unwrap_err().to_string();
    assert!(message.contains("tokenizer_config.json does not exist"), "{message}");
    std::fs::write(folder.path().join("tokenizer_config.json"), "{}").unwrap();
    assert!(chat_template(folder.path()).unwrap_err().to_string().contains("no `chat_template`"));
    let named = r#"{"chat_template": [{"name": "tools", "template": "t"}, {"name": "default", "template": "d"}]}"#;
    std::fs::write(folder.path().join("tokenizer_config.json"), named).unwrap();
    assert_eq!(chat_template(folder.path()).unwrap(), "d");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn byte_level_decoding_undoes_encoding(
        text in prop_oneof![any::<String>(), "[ \\t\\r\\n a-cA-C0-9'é😀<|>]{0,60}", "(<\\|im_end\\|>|<think>| |x){0,8}"],
        name in prop::sample::select(vec!["gpt-2", "smollm", "llama-bpe", "tekken", "gpt-4o", "deepseek-v3", "deepseek-coder"]),
    ) {
        let file = vocabulary("byte_level.gguf");
        let first_control = u32::try_from(file.tokens.len() - 3).unwrap();
        let tokenizer = GeneratorTokenizer::from_gguf(GgufVocabulary { pre: name.to_owned(), ..file }).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert!(ids.iter().all(|&id| id < first_control), "a look-alike became a control token");
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }

    #[test]
    fn sentencepiece_decoding_undoes_encoding(text in prop_oneof![any::<String>(), "[ \\n a-c0-9é😀<s/>]{0,60}"]) {
        // The vocabulary's own sign for a space reads back as a space.
        let text = text.replace('\u{2581}', "_");
        let tokenizer = GeneratorTokenizer::from_gguf(vocabulary("sentencepiece.gguf")).unwrap();
        let ids = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&ids).unwrap(), text);
    }
}
