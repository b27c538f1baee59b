//! What can go wrong in a model.

/// Failure of a model call. Cloneable, since it also travels through streams.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// A file of the model is missing, damaged or of an unsupported kind.
    #[error("cannot load model `{model}`: {reason}")]
    Load {
        /// Model name or path.
        model: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The text can't be tokenised, or the ids can't be turned into text.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template refused the messages.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// Prompt and requested output don't fit the context window.
    #[error(
        "the prompt has {prompt_tokens} tokens and {max_tokens} were asked for, but the window of this model is {window} tokens: shorten the input or lower max_tokens"
    )]
    WindowExceeded {
        /// Length of the prompt in tokens.
        prompt_tokens: usize,
        /// Output tokens asked for.
        max_tokens: usize,
        /// The context window in tokens.
        window: usize,
    },
    /// A sampling parameter is out of range.
    #[error("invalid sampling parameter: {0}")]
    InvalidSampling(String),
    /// The output constraint is malformed or beyond what the engine can check.
    #[error("invalid output constraint: {0}")]
    InvalidConstraint(String),
    /// The queue holds more work than its target allows.
    #[error("the engine is busy: retry in {retry_after_s} s")]
    Overloaded {
        /// When to come back, in seconds.
        retry_after_s: u64,
    },
    /// The engine stopped: shutting down, or its worker died.
    #[error("the engine is not running: {0}")]
    Stopped(String),
    /// A numeric or device failure inside the engine.
    #[error("engine failure: {0}")]
    Internal(String),
}
