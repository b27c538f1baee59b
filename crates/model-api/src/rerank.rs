//! Rerankers.

use serde::{Deserialize, Serialize};

use crate::{ModelError, Tokenizer};

/// What a reranker is. Two rerankers with equal `digest` give equal scores.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RerankerInfo {
    /// Registry name.
    pub model: String,
    /// BLAKE3 over the model's files, in hexadecimal.
    pub digest: String,
    /// Longest question in tokens, without special tokens. Longer questions are an error, not cut: the rest of the window
    /// belongs to the passage.
    pub max_query_tokens: usize,
    /// Longest pair in tokens, special tokens included. The end of a passage that does not fit is not read.
    pub max_tokens: usize,
}

/// Reads a question together with a passage and says how well the passage answers it (a cross-encoder; Nogueira and Cho,
/// "Passage Re-ranking with BERT", 2019).
pub trait Reranker: Send + Sync {
    /// What it is.
    fn info(&self) -> &RerankerInfo;

    /// Its tokenizer.
    fn tokenizer(&self) -> &dyn Tokenizer;

    /// One finite score a passage, in the order of `passages`: higher is better, comparable among passages of one question
    /// only. A passage's score does not depend on the others in the call. Batches by length internally: pass all at once.
    ///
    /// Asks `cancelled` several times a second; once that says yes, nothing more is computed for the call.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] for a question beyond [`RerankerInfo::max_query_tokens`], [`ModelError::Overloaded`] when
    /// too much is waiting, [`ModelError::Stopped`] after the model's end or once cancelled.
    fn score(&self, query: &str, passages: &[&str], cancelled: &dyn Fn() -> bool) -> Result<Vec<f32>, ModelError>;
}
