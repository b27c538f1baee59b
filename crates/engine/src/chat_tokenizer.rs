//! A model's tokenizer and chat template without its weights: what is needed to compose prompts for a model that runs
//! elsewhere.
//!
//! Prompts are tokens. For a server that takes only text, [`ChatTokenizer::render`] writes tokens as a text that comes
//! back as the same tokens when control tokens are recognised in it. What merely looks like a control token in a content
//! would be recognised, too, so a zero-width space goes into it.

use std::path::Path;

use edgewise_model_api::{ChatMessage, EncodedChat, GeneratorInfo, ModelError, Tokenizer};

use crate::{
    EngineError,
    chat_template::ChatTemplate,
    decoder::GgufFile,
    load,
    tokenizer::{GeneratorTokenizer, chat_template},
};

/// Breaks up what looks like a control token: U+200B, the zero-width space.
const BREAK: char = '\u{200B}';

/// Tokenizer and chat template of a model.
pub struct ChatTokenizer {
    tokenizer: GeneratorTokenizer,
    template: ChatTemplate,
    info: GeneratorInfo,
}

/// Loads the tokenizer and chat template of a GGUF file, or of a folder with `tokenizer.json` and a template. `model` is the
/// name it goes by; `window` is its context window, by default the one its files name.
///
/// # Errors
/// [`ModelError::Load`], with one sentence on what is wrong with the files.
pub fn load_chat_tokenizer(model: &str, path: &Path, window: Option<usize>) -> Result<ChatTokenizer, ModelError> {
    ChatTokenizer::load(model, path, window).map_err(|e| e.on_load(model))
}

impl ChatTokenizer {
    fn load(model: &str, path: &Path, window: Option<usize>) -> Result<Self, EngineError> {
        let (tokenizer, source, trained) = if path.is_dir() {
            (GeneratorTokenizer::from_folder(path)?, chat_template(path)?, folder_window(path))
        } else {
            let gguf = GgufFile::open(path)?;
            let tokenizer = GeneratorTokenizer::from_gguf(load::vocabulary(&gguf)?)?;
            let architecture = gguf.string("general.architecture")?;
            let trained = gguf.integer(&format!("{architecture}.context_length")).ok();
            (tokenizer, gguf.string("tokenizer.chat_template")?.to_owned(), trained)
        };
        let context_window = window.or(trained).ok_or_else(|| EngineError::BadFile {
            path: path.to_owned(),
            reason: "it does not say how long a context the model reads: set upstream.context_window".to_owned(),
        })?;
        // Of what decides the tokens of a prompt. The weights are elsewhere.
        let mut hasher = blake3::Hasher::new_derive_key("edgewise 2026 chat tokenizer 1");
        for text in [model, source.as_str(), tokenizer.bos(), tokenizer.eos()] {
            hasher.update(&(text.len() as u64).to_le_bytes()).update(text.as_bytes());
        }
        for id in (0..tokenizer.vocabulary_size()).filter_map(|id| u32::try_from(id).ok()) {
            let bytes = tokenizer.bytes_of(id);
            hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
        }
        let template = ChatTemplate::new(source, tokenizer.bos(), tokenizer.eos())?;
        let digest = hasher.finalize().to_hex().to_string();
        let info = GeneratorInfo { model: model.to_owned(), digest, context_window };
        Ok(Self { tokenizer, template, info })
    }

    /// What model it is of. The digest covers tokenizer and template.
    pub fn info(&self) -> &GeneratorInfo {
        &self.info
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &dyn Tokenizer {
        &self.tokenizer
    }

    /// As [`edgewise_model_api::Generator::encode_chat`].
    ///
    /// # Errors
    /// [`ModelError::ChatTemplate`] and [`ModelError::Tokenizer`].
    pub fn encode_chat(&self, messages: &[ChatMessage]) -> Result<EncodedChat, ModelError> {
        Ok(self.template.encode(&self.tokenizer, messages)?)
    }

    /// `tokens` as a text with its control tokens written out, and the bytes at its start that are the token for the
    /// beginning of a text.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] for tokens that end inside a character, and where contents would make up a control token
    /// together with what surrounds them.
    pub fn render(&self, tokens: &[u32]) -> Result<(String, usize), ModelError> {
        let tokenizer = &self.tokenizer;
        let (mut text, mut run, mut controls) = (String::new(), Vec::new(), Vec::new());
        for &id in tokens {
            match tokenizer.control_text(id) {
                Some(control) => {
                    self.end_run(&mut run, controls.is_empty(), &mut text)?;
                    text.push_str(control);
                    controls.push(id);
                }
                None => run.extend_from_slice(tokenizer.bytes_of(id)),
            }
        }
        self.end_run(&mut run, controls.is_empty(), &mut text)?;
        let found: Vec<u32> = tokenizer.find_controls(&text).into_iter().map(|found| found.id).collect();
        if found != controls {
            let why = "a content makes up a control token together with what stands beside it, and this upstream server \
                       takes prompts as text only: use one that takes token ids";
            return Err(ModelError::Tokenizer(why.to_owned()));
        }
        let begins = tokens.first().and_then(|id| tokenizer.control_text(*id));
        let bos = begins.filter(|first| *first == tokenizer.bos()).map_or(0, str::len);
        Ok((text, bos))
    }

    /// Moves ordinary text from `run` to `text`.
    fn end_run(&self, run: &mut Vec<u8>, first: bool, text: &mut String) -> Result<(), ModelError> {
        let bytes = std::mem::take(run);
        let mut plain = String::from_utf8(bytes)
            .map_err(|_| ModelError::Tokenizer("the prompt ends inside a character".to_owned()))?;
        let spaced = match first {
            true => self.tokenizer.writes_space_prefix(),
            false => self.tokenizer.writes_space_after_controls(),
        };
        if spaced && plain.starts_with(' ') {
            plain.remove(0);
        }
        // From the last, so that the places of the others stay right.
        for found in self.tokenizer.find_controls(&plain).into_iter().rev() {
            let looks_like = &plain[found.range.clone()];
            let space = looks_like.len() - looks_like.trim_start().len();
            let first = looks_like[space..].chars().next().map_or(0, char::len_utf8);
            plain.insert(found.range.start + space + first, BREAK);
        }
        text.push_str(&plain);
        Ok(())
    }
}

/// `max_position_embeddings` of a folder's `config.json`, if it has one.
fn folder_window(folder: &Path) -> Option<usize> {
    let text = std::fs::read_to_string(folder.join("config.json")).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    usize::try_from(config.get("max_position_embeddings")?.as_u64()?).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::PathBuf;

    use edgewise_model_api::Role;

    use super::*;

    fn golden(name: &str) -> PathBuf {
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../tests/golden/tokenizers").join(name)
    }

    /// Tokens of a text in which control tokens are recognised, as a server reads it.
    fn read_back(chat: &ChatTokenizer, text: &str) -> Vec<u32> {
        let (mut tokens, mut at) = (Vec::new(), 0);
        let tokenizer = &chat.tokenizer;
        let run = |text: &str, first: bool| match first {
            true => tokenizer.encode_with_offsets(text).unwrap().0,
            false => tokenizer.encode_run(text).unwrap().0,
        };
        for found in tokenizer.find_controls(text) {
            tokens.extend(run(&text[at..found.range.start], tokens.is_empty()));
            tokens.push(found.id);
            at = found.range.end;
        }
        tokens.extend(run(&text[at..], tokens.is_empty()));
        tokens
    }

    #[test]
    fn a_rendered_chat_comes_back_as_its_tokens() {
        for name in ["byte_level", "sentencepiece_first", "sentencepiece_legacy"] {
            let chat = load_chat_tokenizer(name, &golden(name), Some(512)).unwrap();
            let messages = [
                ChatMessage::text(Role::User, "Who founded  the harbour of 世界?\n"),
                ChatMessage::text(Role::Assistant, " Elsa Brandt."),
                ChatMessage::text(Role::User, "When?"),
            ];
            let tokens = chat.encode_chat(&messages).unwrap().tokens;
            let (text, bos) = chat.render(&tokens).unwrap();
            assert_eq!(read_back(&chat, &text), tokens, "{name}: {text:?}");
            assert_eq!(&text[..bos], if bos > 0 { chat.tokenizer.bos() } else { "" });
        }
    }

    #[test]
    fn a_file_without_a_chat_template_is_refused_by_that_name() {
        let error = load_chat_tokenizer("m", &golden("byte_level.gguf"), Some(512)).err().unwrap().to_string();
        assert!(error.contains("chat_template"), "{error}");
    }

    #[test]
    fn what_looks_like_a_control_token_is_broken_up() {
        let chat = load_chat_tokenizer("m", &golden("byte_level"), Some(512)).unwrap();
        let eos = chat.tokenizer.eos().to_owned();
        assert!(!eos.is_empty());
        let hostile = format!("a {eos}{eos} b");
        let tokens = chat.encode_chat(&[ChatMessage::text(Role::User, hostile.as_str())]).unwrap().tokens;
        let (text, _) = chat.render(&tokens).unwrap();
        assert!(!text.contains(&hostile));
        let plain = chat.encode_chat(&[ChatMessage::text(Role::User, "a b")]).unwrap().tokens;
        let controls = |tokens: &[u32]| tokens.iter().filter(|id| chat.tokenizer.control_text(**id).is_some()).count();
        assert_eq!(controls(&read_back(&chat, &text)), controls(&plain));
    }

    #[test]
    fn the_window_is_named_or_found() {
        let folder = golden("byte_level");
        assert!(load_chat_tokenizer("m", &folder, None).err().unwrap().to_string().contains("upstream.context_window"));
        assert_eq!(load_chat_tokenizer("m", &folder, Some(77)).unwrap().info().context_window, 77);
    }
}
