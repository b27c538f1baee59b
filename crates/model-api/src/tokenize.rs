//! Tokenizers.

use std::ops::Range;

use crate::ModelError;

/// Turns text into token ids and back. Deterministic.
pub trait Tokenizer: Send + Sync {
    /// Token ids of plain text. No special tokens are added and none is recognised inside the text: `<|im_end|>` in a
    /// document is ordinary characters.
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError>;

    /// The byte range of `text` each token of [`Self::encode`] covers, in order. Ranges are non-decreasing, within
    /// the text, on character boundaries, and may leave out white space. Tokens that are parts of one character share
    /// its range.
    fn offsets(&self, text: &str) -> Result<Vec<Range<usize>>, ModelError>;

    /// Number of tokens of [`Self::encode`].
    fn count(&self, text: &str) -> Result<usize, ModelError> {
        Ok(self.encode(text)?.len())
    }

    /// Text of `ids`; special tokens are left out.
    fn decode(&self, ids: &[u32]) -> Result<String, ModelError>;
}
