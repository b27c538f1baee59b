//! Tokenizers: byte-level BPE from the vocabulary of a GGUF file, and `tokenizer.json` files.
//!
//! Invariants:
//! - Plain text never becomes a special token: `<|im_end|>` in a document is six ordinary tokens or so. Only
//!   text that the chat template itself wrote yields control tokens.
//! - Decoding is by bytes, so that the text of a sequence is the concatenation of its tokens' bytes, whatever the split.
//!
//! Deliberately not here: SentencePiece vocabularies (`tokenizer.ggml.model = llama`), truncation, padding.

mod byte_level;
mod gguf;
mod json;
mod pre;

#[cfg(test)]
pub(crate) use gguf::tests::byte_vocabulary;
pub(crate) use gguf::{GgufTokenizer, GgufVocabulary};
pub(crate) use json::JsonTokenizer;

use std::ops::Range;

use crate::EngineError;

/// Encodes without adding or recognising special tokens; `tokenizers` was told of none.
fn encode_plain(inner: &tokenizers::Tokenizer, text: &str) -> Result<Vec<u32>, EngineError> {
    let encoding = inner.encode_fast(text, false).map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

/// Token ids with their byte ranges in `text`.
fn encode_with_offsets(
    inner: &tokenizers::Tokenizer,
    text: &str,
) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
    let encoding = inner.encode(text, false).map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
    Ok((encoding.get_ids().to_vec(), offsets))
}
