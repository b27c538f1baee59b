//! What can go wrong between a file's bytes and its chunks.

use edgewise_model_api::ModelError;

/// Failure to read, parse or cut a document, or to load an index profile.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// There is no text in it, before or after parsing.
    #[error("`{uri}` holds no text, so there is nothing to index")]
    Empty {
        /// The document.
        uri: String,
    },
    /// Larger than the profile allows.
    #[error(
        "`{uri}` has {bytes} bytes, more than the limit of {limit}: split it or raise limits.max_file_bytes in the index profile"
    )]
    TooLarge {
        /// The document.
        uri: String,
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Not text, whatever its name says.
    #[error("`{uri}` is not text: it {found}; exclude it, or give it the extension of what it is")]
    Binary {
        /// The document.
        uri: String,
        /// What was found, as the rest of a sentence: `is a PNG image`.
        found: String,
    },
    /// Neither UTF-8 nor plausibly anything else.
    #[error(
        "`{uri}` is not valid {encoding} at byte {offset} (line {line}) and does not look like another encoding: save it as UTF-8"
    )]
    InvalidEncoding {
        /// The document.
        uri: String,
        /// The encoding it was read as.
        encoding: &'static str,
        /// Offset of the first bad byte.
        offset: usize,
        /// Its line, from 1.
        line: usize,
    },
    /// No parser takes it.
    #[error("`{uri}` is of a kind that is not read: supported extensions are {supported}")]
    Unsupported {
        /// The document.
        uri: String,
        /// Extensions of the registered parsers.
        supported: String,
    },
    /// Tags nested or left open so often that parsing would take unreasonable time or memory.
    #[error(
        "`{uri}` leaves far too many tags open (the limit is {limit} at a time), which no real page does: exclude it"
    )]
    TooDeep {
        /// The document.
        uri: String,
        /// The limit.
        limit: usize,
    },
    /// Parsing takes longer than the profile allows.
    #[error(
        "`{uri}` could not be read within {seconds} seconds: exclude it, or raise limits.max_seconds in the index profile"
    )]
    TimeLimit {
        /// The document.
        uri: String,
        /// The limit.
        seconds: u64,
    },
    /// It unpacks to more than the profile allows.
    #[error(
        "`{uri}` unpacks to more than the limit of {limit} bytes: exclude it, or raise limits.max_unpacked_bytes in the index profile"
    )]
    TooMuchUnpacked {
        /// The document.
        uri: String,
        /// The limit.
        limit: usize,
    },
    /// Parsing takes more memory than the profile allows.
    #[error(
        "`{uri}` takes more than {limit} bytes of memory to read: exclude it, or raise limits.max_memory_bytes in the index profile"
    )]
    TooMuchMemory {
        /// The document.
        uri: String,
        /// The limit.
        limit: usize,
    },
    /// Any of these errors, as the process that parsed put it.
    #[error("{sentence}")]
    Refused {
        /// The whole sentence.
        sentence: String,
    },
    /// Of the format it claims to be, but broken.
    #[error(
        "`{uri}` is cut off or damaged ({format}: {reason}): get it again or save it anew in the program that made it"
    )]
    Damaged {
        /// The document.
        uri: String,
        /// The format, such as `DOCX`.
        format: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Encrypted, and no password opens it.
    #[error(
        "`{uri}` is encrypted and {hint}: give its password in a file named with --password-file, or in the form field \
         `password` of an upload; or exclude it"
    )]
    Encrypted {
        /// The document.
        uri: String,
        /// Why it was not opened, as the rest of a sentence.
        hint: &'static str,
    },
    /// Encrypted in a way that no password given here opens.
    #[error("`{uri}` is encrypted: {hint}; save it without protection, or exclude it")]
    Protected {
        /// The document.
        uri: String,
        /// Why it can't be opened.
        hint: &'static str,
    },
    /// Nothing but pictures of text.
    #[error(
        "`{uri}` has no text on its {pages} page(s), as scans have none: run it through text recognition (OCR) first"
    )]
    NoTextLayer {
        /// The document.
        uri: String,
        /// Its pages.
        pages: usize,
    },
    /// A parser has a defect that this document brings out.
    #[error("the {parser} parser failed on `{uri}`: {reason}; exclude the file and report it as a defect of Edgewise")]
    ParserFailed {
        /// The document.
        uri: String,
        /// Name of the parser.
        parser: &'static str,
        /// The message of the panic.
        reason: String,
    },
    /// A parser handed over blocks that do not describe its text.
    #[error("the blocks of the document do not describe its text: {reason}")]
    InvalidBlocks {
        /// What is wrong.
        reason: String,
    },
    /// Chunk limits that cannot be met.
    #[error("invalid chunk limits: {reason}")]
    ChunkOptions {
        /// Which and why.
        reason: String,
    },
    /// The embedder's tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] ModelError),
    /// The index profile can't be read.
    #[error("cannot read the index profile `{path}`: {source}")]
    ProfileRead {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The index profile has an unknown key, a bad value or a syntax error.
    #[error("{path}:{line}:{column}: {message}")]
    Profile {
        /// The file.
        path: String,
        /// Line, from 1.
        line: usize,
        /// Column in characters, from 1.
        column: usize,
        /// What is wrong there and what is allowed.
        message: String,
    },
}
