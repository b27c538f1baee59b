//! A generator's tokenizer, whatever file it came from.
//!
//! Invariants:
//! - Control tokens are not part of the text model, so no text can produce them; they are found by exact,
//!   leftmost-longest match in text of the chat template only.
//! - The text of a sequence is the concatenation of its tokens' bytes, less one leading space where the vocabulary
//!   writes one before every text ([`GeneratorTokenizer::writes_space_prefix`]).

use std::ops::Range;

use edgewise_model_api::{ModelError, Tokenizer};

use super::{encode_plain, encode_with_offsets, sentencepiece::SentencePiece};
use crate::EngineError;

/// Control tokens that end a turn or the text in the models supported, besides those the files name by id.
const END_MARKERS: [&str; 9] = [
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<|end|>",
    "</s>",
    "<end_of_turn>",
    "<｜end▁of▁sentence｜>",
];

/// How text becomes tokens.
pub(super) enum TextModel {
    /// The `tokenizers` library.
    Library {
        /// For a text from its start.
        whole: Box<tokenizers::Tokenizer>,
        /// The same without the space written before a text; absent where none is.
        bare: Option<Box<tokenizers::Tokenizer>>,
        /// The space is also written after every control token.
        every_run: bool,
    },
    /// A SentencePiece vocabulary with scores.
    SentencePiece(SentencePiece),
}

/// A token that only the chat template can write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Control {
    pub(super) text: String,
    pub(super) id: u32,
    /// White space of the template before it, or after it, belongs to it.
    pub(super) strips_left: bool,
    pub(super) strips_right: bool,
}

/// What a loader found; the order of the ids is the order of `tokens`.
pub(super) struct Found {
    pub(super) model: TextModel,
    /// Bytes of every token; empty for control tokens.
    pub(super) tokens: Vec<Vec<u8>>,
    pub(super) controls: Vec<Control>,
    pub(super) bos: String,
    pub(super) eos: String,
    /// Ids the files name as ends.
    pub(super) ends: Vec<u32>,
}

/// A generator's tokenizer.
pub(crate) struct GeneratorTokenizer {
    model: TextModel,
    /// Bytes of all tokens, one after the other; empty for control tokens.
    bytes: Vec<u8>,
    /// Where the bytes of each token end.
    ends: Vec<usize>,
    /// Longest text first.
    controls: Vec<Control>,
    bos: String,
    eos: String,
    end_of_turn: Vec<u32>,
}

/// An occurrence of a control token in a template's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlMatch {
    /// Its place, white space that belongs to it included.
    pub(crate) range: Range<usize>,
    /// Its id.
    pub(crate) id: u32,
}

impl GeneratorTokenizer {
    /// Puts the parts together and checks that text cannot write control tokens.
    pub(super) fn assemble(found: Found) -> Result<Self, EngineError> {
        let Found { model, tokens, mut controls, bos, eos, ends: mut end_of_turn } = found;
        let vocabulary = tokens.len();
        if let Some(id) =
            end_of_turn.iter().chain(controls.iter().map(|c| &c.id)).find(|&&id| id as usize >= vocabulary)
        {
            return Err(EngineError::Tokenizer(format!("token {id} is named but there are {vocabulary} tokens")));
        }
        controls.retain(|control| !control.text.is_empty());
        controls.sort_by_key(|control| std::cmp::Reverse(control.text.len()));
        let marks_end = |control: &&Control| END_MARKERS.contains(&control.text.as_str());
        end_of_turn.extend(controls.iter().filter(marks_end).map(|control| control.id));
        end_of_turn.sort_unstable();
        end_of_turn.dedup();
        let mut ends = Vec::with_capacity(vocabulary);
        let mut bytes = Vec::new();
        for token in &tokens {
            bytes.extend_from_slice(token);
            ends.push(bytes.len());
        }
        let tokenizer = Self { model, bytes, ends, controls, bos, eos, end_of_turn };
        for Control { text, id, .. } in &tokenizer.controls {
            if tokenizer.encode_with_offsets(text)?.0.contains(id) {
                return Err(EngineError::Tokenizer(format!(
                    "plain text can write the control token `{text}`: the vocabulary lists it among ordinary tokens too"
                )));
            }
        }
        Ok(tokenizer)
    }

    /// Number of tokens, control tokens included.
    pub(crate) fn vocabulary_size(&self) -> usize {
        self.ends.len()
    }

    /// Extends the vocabulary to the `rows` the weights have, by tokens without text: checkpoints round the number up.
    ///
    /// # Errors
    /// [`EngineError::Tokenizer`] if the weights know fewer tokens than the tokenizer.
    pub(crate) fn extend_to(&mut self, rows: usize) -> Result<(), EngineError> {
        if rows < self.ends.len() {
            let size = self.ends.len();
            return Err(EngineError::Tokenizer(format!("the weights know {rows} tokens, the tokenizer {size}")));
        }
        self.ends.resize(rows, self.bytes.len());
        Ok(())
    }

    /// Text of the token that begins a sequence, empty if there is none.
    pub(crate) fn bos(&self) -> &str {
        &self.bos
    }

    /// Text of the token that ends a sequence, empty if there is none.
    pub(crate) fn eos(&self) -> &str {
        &self.eos
    }

    /// Text of a control token.
    pub(crate) fn control_text(&self, id: u32) -> Option<&str> {
        self.controls.iter().find(|control| control.id == id).map(|control| control.text.as_str())
    }

    /// Whether text after a control token begins with a space that is not the text's, too.
    pub(crate) fn writes_space_after_controls(&self) -> bool {
        match &self.model {
            TextModel::Library { bare, every_run, .. } => bare.is_some() && *every_run,
            TextModel::SentencePiece(model) => model.writes_space_prefix(),
        }
    }

    /// Ids that end a generation, sorted.
    pub(crate) fn end_of_turn(&self) -> &[u32] {
        &self.end_of_turn
    }

    /// The bytes a token adds to the text; none for control tokens and ids beyond the vocabulary.
    pub(crate) fn bytes_of(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// The bytes a token adds as the first of a text: without the space that is not the text's.
    pub(crate) fn first_bytes_of(&self, id: u32) -> &[u8] {
        let bytes = self.bytes_of(id);
        match self.writes_space_prefix() {
            true => bytes.strip_prefix(b" ").unwrap_or(bytes),
            false => bytes,
        }
    }

    /// Whether the first token of a text carries a space that is not the text's, which readers take off again.
    pub(crate) fn writes_space_prefix(&self) -> bool {
        match &self.model {
            TextModel::Library { bare, .. } => bare.is_some(),
            TextModel::SentencePiece(model) => model.writes_space_prefix(),
        }
    }

    /// Ids and byte ranges of plain text.
    pub(crate) fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
        match &self.model {
            TextModel::Library { whole, .. } => encode_with_offsets(whole, text),
            TextModel::SentencePiece(model) => Ok(model.encode(text, true)),
        }
    }

    /// Ids and byte ranges of the text after a control token, as in a chat.
    pub(crate) fn encode_run(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
        match &self.model {
            TextModel::Library { bare: Some(bare), every_run: false, .. } => encode_with_offsets(bare, text),
            // A SentencePiece vocabulary of a GGUF file: a space after every control token, as llama.cpp has it.
            _ => self.encode_with_offsets(text),
        }
    }

    /// Ids of text that continues other text, for which no space is written.
    pub(crate) fn encode_continuation(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        match &self.model {
            TextModel::Library { whole, bare, .. } => encode_plain(bare.as_ref().unwrap_or(whole), text),
            TextModel::SentencePiece(model) => Ok(model.encode(text, false).0),
        }
    }

    /// Occurrences of control tokens in `text`, leftmost first and the longest at each place. For text of the chat
    /// template only.
    pub(crate) fn find_controls(&self, text: &str) -> Vec<ControlMatch> {
        let mut found: Vec<ControlMatch> = Vec::new();
        let (mut at, mut free) = (0, 0);
        while at < text.len() {
            let rest = &text[at..];
            match self.controls.iter().find(|control| rest.starts_with(control.text.as_str())) {
                Some(control) => {
                    let before = &text[free..at];
                    let start = if control.strips_left { free + before.trim_end().len() } else { at };
                    let after = &rest[control.text.len()..];
                    at += control.text.len();
                    if control.strips_right {
                        at += after.len() - after.trim_start().len();
                    }
                    found.push(ControlMatch { range: start..at, id: control.id });
                    free = at;
                }
                None => at += rest.chars().next().map_or(1, char::len_utf8),
            }
        }
        found
    }
}

impl Tokenizer for GeneratorTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(match &self.model {
            TextModel::Library { whole, .. } => encode_plain(whole, text)?,
            TextModel::SentencePiece(model) => model.encode(text, true).0,
        })
    }

    fn offsets(&self, text: &str) -> Result<Vec<Range<usize>>, ModelError> {
        Ok(self.encode_with_offsets(text)?.1)
    }

    /// Tokens that end inside a character leave U+FFFD; ids beyond the vocabulary are an error.
    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        let mut bytes = Vec::new();
        for &id in ids {
            if id as usize >= self.vocabulary_size() {
                return Err(ModelError::Tokenizer(format!(
                    "token {id} is beyond the vocabulary of {}",
                    self.vocabulary_size()
                )));
            }
            bytes.extend_from_slice(self.bytes_of(id));
        }
        let text = match self.writes_space_prefix() {
            true => bytes.strip_prefix(b" ").unwrap_or(&bytes),
            false => &bytes[..],
        };
        Ok(String::from_utf8_lossy(text).into_owned())
    }
}

impl std::fmt::Debug for GeneratorTokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GeneratorTokenizer").field("vocabulary", &self.ends.len()).finish_non_exhaustive()
    }
}
