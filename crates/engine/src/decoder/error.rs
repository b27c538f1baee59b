//! What can go wrong when a decoder is loaded or run.

use std::path::PathBuf;

/// Failure of loading or running a decoder.
#[derive(Debug, thiserror::Error)]
pub enum DecoderError {
    /// The file can't be opened or mapped.
    #[error("cannot read the model file {}: {source}; check the path and its permissions", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not what its name says, is damaged, or was cut short.
    #[error("{} is not a usable model file: {reason}; fetch the model again", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A metadata key that is needed is missing or has another type.
    #[error("the metadata key `{key}` {problem}; this model can't be used as it is")]
    Metadata {
        /// The key.
        key: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A tensor is missing, of an unexpected shape, or of an unreadable type.
    #[error("the tensor `{name}` {problem}; this model can't be used as it is")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The model needs something this decoder does not have.
    #[error("the model is not supported: {reason}")]
    Unsupported {
        /// What it needs.
        reason: String,
    },
    /// The sequence would outgrow the context window.
    #[error("{held} tokens are held and {added} more were given, but the window is {window}: shorten the input")]
    WindowExceeded {
        /// Tokens in the state.
        held: usize,
        /// Tokens to append.
        added: usize,
        /// The context window in tokens.
        window: usize,
    },
    /// No token was given.
    #[error("a forward pass needs at least one token")]
    NoTokens,
    /// A token id that the model does not have.
    #[error("token {token} is outside the vocabulary of {vocab_size} tokens: tokenise with this model's own tokenizer")]
    UnknownToken {
        /// The id.
        token: u32,
        /// Number of tokens the model knows.
        vocab_size: usize,
    },
    /// There is no memory for the pages.
    #[error("there is no memory for {pages} pages of {page_bytes} bytes: configure a smaller cache")]
    OutOfMemory {
        /// Pages asked for.
        pages: usize,
        /// Bytes of each.
        page_bytes: usize,
    },
    /// A sequence was given too few pages, or one that does not exist.
    #[error("the block table of a sequence has {problem}: it must name an existing page for every position")]
    BlockTable {
        /// What is wrong with it.
        problem: String,
    },
    /// The contents of a page have another size than this model's pages.
    #[error("a page of {bytes} bytes was given where this model's pages have {expected}: it belongs to another model")]
    PageSize {
        /// Its size.
        bytes: usize,
        /// The size of this model's pages.
        expected: usize,
    },
    /// The logits hold an infinity or a NaN.
    #[error(
        "the logits at position {position} are not finite: fetch the model again if its file is damaged; on a GPU, set \
         engine.device_precision = \"bf16\""
    )]
    NotFinite {
        /// The position, from 0.
        position: usize,
    },
    /// The model, or what is to be computed at once, does not fit the device's memory.
    #[error("{what} takes {needed} bytes of the GPU's memory and {free} of {total} are free: {remedy}")]
    DeviceMemory {
        /// What.
        what: String,
        /// How much it takes.
        needed: usize,
        /// How much is free.
        free: usize,
        /// How much there is.
        total: usize,
        /// What would fit.
        remedy: String,
    },
    /// The device or its driver failed.
    #[error("the GPU failed: {0}")]
    Device(String),
    /// A kernel refused its arguments.
    #[error("kernel failure: {0}")]
    Kernel(#[from] edgewise_kernels::KernelError),
}
