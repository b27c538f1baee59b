//! What can go wrong inside the engine, and how it looks from outside.
//!
//! Every failure has one clear sentence. At the trait boundary an [`EngineError`] becomes a [`ModelError`]; there the
//! caller's view counts (which model, retry or not), not the engine's inner structure.

use std::path::PathBuf;

use edgewise_model_api::ModelError;

/// Failure inside the engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A model file isn't there.
    #[error("{} does not exist: fetch the model with `edgewise models pull`", path.display())]
    MissingFile {
        /// Where it was expected.
        path: PathBuf,
    },
    /// A model file can't be read.
    #[error("{} cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A model file is truncated, damaged, or not what its name says.
    #[error("{} is damaged or foreign: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file is sound but uses something this engine does not implement.
    #[error("{what} is not supported: {supported}")]
    Unsupported {
        /// What the file asks for.
        what: String,
        /// What there is instead.
        supported: String,
    },
    /// The tokenizer refused.
    #[error("{0}")]
    Tokenizer(String),
    /// The chat template refused, or treats contents in a way that can't be followed.
    #[error("{0}")]
    ChatTemplate(String),
    /// A grammar for the output can't be compiled or followed.
    #[error("the grammar cannot be used: {0}")]
    Grammar(String),
    /// The model gave logits no distribution can be built from.
    #[error("the logits hold {0}: the model files or the arithmetic are broken")]
    BadLogits(&'static str),
    /// The decoder failed.
    #[error("decoder: {0}")]
    Decoder(String),
    /// A text is longer than the embedder reads.
    #[error("a text of {tokens} tokens is longer than the embedder's {max_tokens}: cut it into smaller chunks")]
    TextTooLong {
        /// Its length, special tokens included.
        tokens: usize,
        /// The longest the embedder takes.
        max_tokens: usize,
    },
}

impl EngineError {
    /// The same failure as seen by someone who asked for `model` to be loaded.
    pub(crate) fn on_load(self, model: &str) -> ModelError {
        ModelError::Load { model: model.to_owned(), reason: self.to_string() }
    }

    /// Tells "not there" from other failures to open or read `path`.
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        match source.kind() {
            std::io::ErrorKind::NotFound => Self::MissingFile { path: path.to_owned() },
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

impl From<EngineError> for ModelError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Tokenizer(reason) => Self::Tokenizer(reason),
            EngineError::ChatTemplate(reason) => Self::ChatTemplate(reason),
            other => Self::Internal(other.to_string()),
        }
    }
}
