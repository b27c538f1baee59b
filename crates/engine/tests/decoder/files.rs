//! Model files are never trusted: damage of every kind is refused in one sentence, without a panic.

use std::{
    fs,
    path::{Path, PathBuf},
};

use edgewise_engine::decoder::{Cpu, Decoder, DecoderError, GgufFile, LoadOptions};
use proptest::prelude::*;
use serde_json::Value;
use tempfile::TempDir;

use crate::support::in_tests;

fn copy(model: &str) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in fs::read_dir(in_tests("fixtures/decoders").join(model)).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    to
}

fn load(folder: &Path) -> Result<Decoder, DecoderError> {
    Decoder::from_folder(folder, Cpu::default(), &LoadOptions::default())
}

fn load_gguf(path: &Path) -> Result<Decoder, DecoderError> {
    Decoder::from_gguf(&GgufFile::open(path)?, Cpu::default(), &LoadOptions::default())
}

/// The refusal of a model whose `config.json` has `fields` replaced.
fn refusal(model: &str, fields: &[(&str, Value)]) -> String {
    let folder = copy(model);
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for (name, value) in fields {
        config[*name] = value.clone();
    }
    fs::write(path, config.to_string()).unwrap();
    let message = load(folder.path()).expect_err("it was accepted").to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let scaling = |kind: &str| serde_json::json!({ "rope_type": kind, "factor": 2.0 });
    for (model, field, value, named) in [
        ("llama-gqa", "rope_parameters", scaling("longrope"), "longrope"),
        ("llama-gqa", "rope_parameters", scaling("mrope"), "mrope"),
        ("llama-gqa", "partial_rotary_factor", 0.5.into(), "partial_rotary_factor"),
        ("llama-gqa", "model_type", "gemma2".into(), "gemma2"),
        ("llama-gqa", "hidden_act", "gelu".into(), "hidden_act"),
        ("llama-gqa", "quantization_config", serde_json::json!({ "quant_method": "gptq" }), "gptq"),
        ("mpt", "attn_config", serde_json::json!({ "alibi": false }), "alibi"),
        ("mpt", "logit_scale", 2.0.into(), "logit_scale"),
    ] {
        let message = refusal(model, &[(field, value)]);
        assert!(message.contains(named), "{message}");
    }
}

#[test]
fn contradictions_and_absurd_sizes_are_refused() {
    for (field, value, named) in [
        ("hidden_size", Value::from(64), "shape"),
        ("vocab_size", 97.into(), "shape"),
        ("intermediate_size", 1.into(), "shape"),
        ("num_hidden_layers", 3.into(), "missing"),
        ("num_hidden_layers", (1u64 << 40).into(), "contradict"),
        ("hidden_size", (1u64 << 62).into(), "contradict"),
        ("num_attention_heads", 0.into(), "contradict"),
        ("num_key_value_heads", 3.into(), "contradict"),
        ("head_dim", (-16).into(), "non-negative"),
        ("head_dim", 1.5.into(), "non-negative"),
        ("rms_norm_eps", "a little".into(), "number"),
        ("max_position_embeddings", Value::Null, "missing"),
        ("rope_parameters", serde_json::json!({ "rope_type": "linear", "factor": 0.0 }), "RoPE"),
        ("rope_parameters", serde_json::json!({ "rope_type": "linear" }), "factor"),
    ] {
        let message = refusal("llama-gqa", &[(field, value)]);
        assert!(message.contains(named), "{field}: {message}");
    }
}

#[test]
fn damaged_folders_are_refused() {
    // Every file of a sharded model cut short, emptied or gone.
    let names = ["config.json", "model.safetensors.index.json", "model-00002-of-00003.safetensors"];
    for name in names {
        for length in [None, Some(0), Some(20), Some(600)] {
            let folder = copy("mistral");
            let path = folder.path().join(name);
            match length {
                None => fs::remove_file(&path).unwrap(),
                Some(length) => fs::write(&path, &fs::read(&path).unwrap()[..length]).unwrap(),
            }
            let message = load(folder.path()).expect_err("it was accepted").to_string();
            assert!(!message.contains('\n'), "{name} {length:?}: {message}");
        }
    }
    for outside in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", ""] {
        let folder = copy("mistral");
        let index = serde_json::json!({ "weight_map": { "lm_head.weight": outside } });
        fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
        let message = load(folder.path()).expect_err("it was accepted").to_string();
        assert!(message.contains("plain file name"), "{message}");
    }
}

fn gguf() -> (PathBuf, Vec<u8>) {
    let path = in_tests("fixtures/decoders/llama-gqa-yarn.gguf");
    let bytes = fs::read(&path).unwrap();
    (path, bytes)
}

#[test]
fn an_alignment_of_zero_is_refused() {
    // A key of the same length is renamed: `general.alignment` has 17 bytes, as has `llama.block_count`.
    let (_, mut bytes) = gguf();
    let at = bytes.windows(17).position(|w| w == b"llama.block_count").unwrap();
    bytes[at..at + 17].copy_from_slice(b"general.alignment");
    bytes[at + 21..at + 25].copy_from_slice(&0u32.to_le_bytes());
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    assert!(matches!(load_gguf(file.path()), Err(DecoderError::Format { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_truncated_gguf_is_refused(length in 0usize..63_000) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), &gguf().1[..length]).unwrap();
        prop_assert!(load_gguf(file.path()).is_err());
    }

    /// Whatever the header says: it may be accepted, but nothing panics or takes absurd memory.
    #[test]
    fn a_damaged_header_never_panics(changes in prop::collection::vec((0usize..3000, any::<u8>()), 1..4)) {
        let (_, mut bytes) = gguf();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        let _ = load_gguf(file.path());
    }
}
