//! A generator's tokenizer from a checkpoint's folder: `tokenizer.json` (the format of the `tokenizers` library),
//! `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja` (the formats of transformers).
//!
//! Byte-level and byte-fallback BPE. The file's added tokens are taken out of the library's hands, so that it recognises
//! none of them in text.

use std::path::Path;

use serde_json::{Value, json};

use super::{
    byte_level, control_like,
    generator::{Control, Found, GeneratorTokenizer, TextModel},
    gguf::add_spaces,
    sentencepiece,
};
use crate::EngineError;

/// How the vocabulary writes bytes.
#[derive(Clone, Copy, PartialEq)]
enum Alphabet {
    /// GPT-2's.
    ByteLevel,
    /// `▁` for a space, `<0x0A>` for a byte.
    SentencePiece,
}

/// A token of `added_tokens`.
struct Added {
    text: String,
    id: u32,
    special: bool,
    strips_left: bool,
    strips_right: bool,
}

/// The value of a file that must be there.
fn read(path: &Path) -> Result<Value, EngineError> {
    let bytes = std::fs::read(path).map_err(|e| EngineError::io(path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| EngineError::BadFile { path: path.to_owned(), reason: e.to_string() })
}

/// The value of a file that may be missing, which is like an empty one.
fn read_if_there(path: &Path) -> Result<Value, EngineError> {
    match read(path) {
        Err(EngineError::MissingFile { .. }) => Ok(json!({})),
        other => other,
    }
}

/// The chat template of a folder: `chat_template.jinja`, else `chat_template` of `tokenizer_config.json`, where it is
/// a text or a list of named ones, of which the one named `default` counts.
///
/// # Errors
/// [`EngineError::BadFile`] if there is none.
pub(crate) fn chat_template(folder: &Path) -> Result<String, EngineError> {
    let own = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&own) {
        Ok(text) => return Ok(text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(EngineError::io(&own, e)),
    }
    let path = folder.join("tokenizer_config.json");
    let config = read(&path)?;
    let template = match &config["chat_template"] {
        Value::Array(named) => named.iter().find(|entry| entry["name"] == "default").map(|entry| &entry["template"]),
        other => Some(other),
    };
    let none =
        "it has no `chat_template`, and there is no chat_template.jinja beside it: use an instruction-tuned model";
    let text = template.and_then(Value::as_str).map(str::to_owned);
    text.ok_or_else(|| EngineError::BadFile { path, reason: none.to_owned() })
}

impl GeneratorTokenizer {
    /// Loads the tokenizer of a folder.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for other kinds than byte-level or byte-fallback BPE, [`EngineError::BadFile`] for
    /// files that are damaged or contradict themselves.
    pub(crate) fn from_folder(folder: &Path) -> Result<Self, EngineError> {
        let path = folder.join("tokenizer.json");
        let bad = |reason: String| EngineError::BadFile { path: path.clone(), reason };
        let mut file = read(&path)?;
        let Some(fields) = file.as_object_mut() else { return Err(bad("expected a JSON object".to_owned())) };
        for unwanted in ["truncation", "padding", "post_processor"] {
            fields.insert(unwanted.to_owned(), Value::Null);
        }
        let added = fields.insert("added_tokens".to_owned(), json!([])).unwrap_or_default();
        let added = added.as_array().into_iter().flatten().map(added_token).collect::<Option<Vec<Added>>>();
        let added = added.ok_or_else(|| bad("an entry of `added_tokens` lacks its content or id".to_owned()))?;
        let alphabet = alphabet(&file, &path)?;

        let vocab = file["model"]["vocab"].as_object_mut().ok_or_else(|| bad("it has no vocabulary".to_owned()))?;
        let spaces: Vec<(String, u32)> =
            added.iter().filter(|a| !a.special && !control_like(&a.text)).map(|a| (a.text.clone(), a.id)).collect();
        // Runs of white space may also be what pieces merge to, so they stay.
        let is_space = |token: &Added| !token.special && !control_like(&token.text.replace(sentencepiece::SPACE, " "));
        for token in added.iter().filter(|token| !is_space(token)) {
            vocab.remove(&token.text);
        }
        let mut tokens: Vec<Vec<u8>> = Vec::new();
        let mut place = |id: usize, bytes: Vec<u8>| {
            // Ids are bounded by what a vocabulary can sensibly have, not by what the file claims.
            const MOST: usize = 1 << 22;
            if id >= MOST {
                return Err(bad(format!("the id {id} is beyond any vocabulary")));
            }
            tokens.resize(tokens.len().max(id + 1), Vec::new());
            tokens[id] = bytes;
            Ok(())
        };
        for (entry, id) in vocab.iter() {
            let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
            let id = id.ok_or_else(|| bad(format!("the id of `{entry}` is not a number")))?;
            place(id, bytes_of(entry, alphabet))?;
        }
        for token in added.iter().filter(|token| !vocab.contains_key(&token.text)) {
            let bytes = if token.special { Vec::new() } else { token.text.clone().into_bytes() };
            place(token.id as usize, bytes)?;
        }
        vocab.extend(spaces.iter().map(|(text, id)| (text.clone(), json!(id))));
        let unknown = file["model"]["unk_token"].as_str().map(str::to_owned);
        if let Some(unknown) = unknown {
            restore_unknown(&mut file, &unknown, &added);
        }

        let model = text_model(file, &spaces).map_err(bad)?;
        let controls = added.iter().filter(|token| !is_space(token)).map(|a| Control {
            text: a.text.clone(),
            id: a.id,
            strips_left: a.strips_left,
            strips_right: a.strips_right,
        });
        let controls = controls.collect();
        let named = Named::read(folder)?;
        let id_of = |text: &str| added.iter().find(|a| a.text == text).map(|a| a.id);
        let ends = named.ends.into_iter().chain(id_of(&named.eos)).collect();
        Self::assemble(Found { model, tokens, controls, bos: named.bos, eos: named.eos, ends })
    }
}

/// The begin and the ends that the configuration names.
struct Named {
    bos: String,
    eos: String,
    ends: Vec<u32>,
}

impl Named {
    fn read(folder: &Path) -> Result<Self, EngineError> {
        let config = read_if_there(&folder.join("tokenizer_config.json"))?;
        // A text, or an added token as an object.
        let text = |key: &str| {
            let value = &config[key];
            value.as_str().or_else(|| value["content"].as_str()).unwrap_or_default().to_owned()
        };
        // What the model's makers ended generations with; older checkpoints say it in config.json.
        let mut ends = Vec::new();
        for name in ["generation_config.json", "config.json"] {
            let file = read_if_there(&folder.join(name))?;
            ends = match &file["eos_token_id"] {
                Value::Array(ids) => ids.iter().filter_map(id).collect(),
                other => id(other).into_iter().collect(),
            };
            if !ends.is_empty() {
                break;
            }
        }
        Ok(Self { bos: text("bos_token"), eos: text("eos_token"), ends })
    }
}

fn id(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok()
}

fn added_token(token: &Value) -> Option<Added> {
    let flag = |key: &str| token[key] == true;
    Some(Added {
        text: token["content"].as_str()?.to_owned(),
        id: id(&token["id"])?,
        special: flag("special"),
        strips_left: flag("lstrip"),
        strips_right: flag("rstrip"),
    })
}

fn bytes_of(entry: &str, alphabet: Alphabet) -> Vec<u8> {
    match alphabet {
        Alphabet::ByteLevel => byte_level::bytes_of(entry),
        Alphabet::SentencePiece => {
            sentencepiece::byte_of(entry).map_or_else(|| sentencepiece::bytes_of(entry), |byte| vec![byte])
        }
    }
}

/// A component and, if it is a sequence, what it is made of.
fn parts<'a>(component: &'a Value, list: &str) -> Vec<&'a Value> {
    match &component[list] {
        Value::Array(parts) => parts.iter().collect(),
        _ => vec![component],
    }
}

fn alphabet(file: &Value, path: &Path) -> Result<Alphabet, EngineError> {
    let model = &file["model"];
    let unsupported = |what: String| EngineError::Unsupported {
        what: format!("{what} in {}", path.display()),
        supported: "the engine knows BPE, byte-level or with byte fallback".to_owned(),
    };
    // Older files leave the type out.
    let kind = model["type"].as_str().unwrap_or("BPE");
    if kind != "BPE" {
        return Err(unsupported(format!("the tokenizer type `{kind}`")));
    }
    let has =
        |component: &str, list: &str, kind: &str| parts(&file[component], list).iter().any(|part| part["type"] == kind);
    if has("decoder", "decoders", "ByteLevel") || has("pre_tokenizer", "pretokenizers", "ByteLevel") {
        Ok(Alphabet::ByteLevel)
    } else if model["byte_fallback"] == true {
        Ok(Alphabet::SentencePiece)
    } else {
        Err(unsupported("a BPE vocabulary that cannot write every byte".to_owned()))
    }
}

/// The entry for unknown characters has to exist for the library, though with all bytes in the vocabulary it is never
/// used. The library cannot arrive at it by merging.
fn restore_unknown(file: &mut Value, unknown: &str, added: &[Added]) {
    if let (Some(token), Some(vocab)) =
        (added.iter().find(|a| a.text == unknown), file["model"]["vocab"].as_object_mut())
    {
        vocab.insert(unknown.to_owned(), json!(token.id));
    }
}

fn text_model(file: Value, spaces: &[(String, u32)]) -> Result<TextModel, String> {
    let build = |file: Value| -> Result<Box<tokenizers::Tokenizer>, String> {
        let mut tokenizer = serde_json::from_value(file).map_err(|e| e.to_string())?;
        add_spaces(&mut tokenizer, spaces).map_err(|e| e.to_string())?;
        Ok(Box::new(tokenizer))
    };
    let mut bare = file.clone();
    let (writes_space, every_run) = take_space_prefix_away(&mut bare);
    Ok(TextModel::Library {
        whole: build(file)?,
        bare: if writes_space { Some(build(bare)?) } else { None },
        every_run,
    })
}

/// Changes a file so that no space is written before text. Whether one was, and whether after control tokens too.
fn take_space_prefix_away(file: &mut Value) -> (bool, bool) {
    let (mut writes, mut every_run) = (false, false);
    let sequences = [("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")];
    for (component, list) in sequences {
        let component = &mut file[component];
        let is_prefix = |part: &Value| part["type"] == "Prepend" && part["prepend"] == "\u{2581}";
        if is_prefix(component) {
            *component = Value::Null;
            (writes, every_run) = (true, true);
        }
        let mut parts: Vec<&mut Value> = match component.get(list).is_some() {
            true => {
                let Some(parts) = component[list].as_array_mut() else { continue };
                let before = parts.len();
                parts.retain(|part| !is_prefix(part));
                if parts.len() < before {
                    (writes, every_run) = (true, true);
                }
                parts.iter_mut().collect()
            }
            false => vec![component],
        };
        for part in &mut parts {
            if part["type"] == "Metaspace" {
                // `add_prefix_space` is the older form of the scheme `always`, which is also the default.
                let scheme = match part["prepend_scheme"].as_str() {
                    Some(scheme) => scheme.to_owned(),
                    None if part["add_prefix_space"] == false => "never".to_owned(),
                    None => "always".to_owned(),
                };
                writes |= scheme != "never";
                every_run |= scheme == "always";
                part["prepend_scheme"] = json!("never");
                if let Some(fields) = part.as_object_mut() {
                    fields.remove("add_prefix_space");
                }
            } else if part["type"] == "ByteLevel" && part["add_prefix_space"] == true {
                part["add_prefix_space"] = json!(false);
                (writes, every_run) = (true, true);
            }
        }
    }
    (writes, every_run)
}
