//! Embedders.

use serde::{Deserialize, Serialize};

use crate::{ModelError, Tokenizer};

/// What an embedder is. Two embedders with equal `digest` give equal vectors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmbedderInfo {
    /// Registry name.
    pub model: String,
    /// BLAKE3 over the model's files, in hexadecimal.
    pub digest: String,
    /// Length of a vector.
    pub dimension: usize,
    /// Longest input in tokens, special tokens included. Longer inputs are an error, not cut.
    pub max_tokens: usize,
}

/// Maps texts to unit vectors.
pub trait Embedder: Send + Sync {
    /// What it is.
    fn info(&self) -> &EmbedderInfo;

    /// Its tokenizer. Counts leave out the special tokens an input is wrapped in; leave room for two.
    fn tokenizer(&self) -> &dyn Tokenizer;

    /// One vector of [`EmbedderInfo::dimension`] floats and length 1 per text, in the order of `texts`. The result for
    /// a text does not depend on the others in the call beyond floating-point rounding. Batches by length internally:
    /// pass as much as is at hand.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError>;
}
