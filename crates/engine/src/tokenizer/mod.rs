//! Tokenizers: of generators from GGUF files or folders with `tokenizer.json`, of embedders from `tokenizer.json`.
//!
//! Invariants:
//! - Plain text never becomes a special token: `<|im_end|>` in a document is six ordinary tokens or so. Only
//!   text that the chat template itself wrote yields control tokens. Tokens a vocabulary adds without calling them
//!   special are treated alike, except runs of white space, which carry no structure.
//! - Decoding is by bytes, so that the text of a sequence is the concatenation of its tokens' bytes, whatever the split.
//!
//! Deliberately not here: unigram and WordPiece vocabularies for generators, truncation, padding.

mod byte_level;
mod folder;
mod generator;
mod gguf;
mod json;
mod pre;
mod sentencepiece;
#[cfg(test)]
mod tests;

pub(crate) use folder::chat_template;
pub(crate) use generator::{ControlMatch, GeneratorTokenizer};
pub(crate) use gguf::GgufVocabulary;
#[cfg(test)]
pub(crate) use gguf::tests::byte_vocabulary;
pub(crate) use json::JsonTokenizer;

use std::ops::Range;

use crate::EngineError;

/// Whether an added token could be a marker rather than mere white space.
fn control_like(text: &str) -> bool {
    !text.chars().all(char::is_whitespace)
}

/// Encodes without adding or recognising special tokens; `tokenizers` was told of none.
fn encode_plain(inner: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>, EngineError> {
    let encoding = inner.encode_fast(text, false).map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// Token ids with their byte ranges in `text`, widened to whole characters and over what a normaliser took in, such as
/// the accent that follows its letter.
fn encode_with_offsets(
    inner: &tokenizers::Tokenizer,
    text: &str,
) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
    let encoding = inner.encode(text, false).map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    let whole = |&(start, end): &(usize, usize)| text.floor_char_boundary(start)..text.ceil_char_boundary(end);
    let found: Vec<Range<usize>> = encoding.get_offsets().iter().map(whole).collect();
    let widened = found.iter().enumerate().map(|(i, range)| {
        let next = found[i + 1..].iter().map(|later| later.start).find(|&start| start >= range.end);
        let gap = &text[range.end..next.unwrap_or(text.len())];
        let taken_in = gap.chars().all(|c| !c.is_ascii() && !c.is_whitespace());
        range.start..range.end + if taken_in { gap.len() } else { 0 }
    });
    Ok((encoding.get_ids().to_vec(), widened.collect()))
}
