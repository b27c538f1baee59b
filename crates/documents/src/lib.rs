//! Parses files, normalises their text and cuts it into chunks with byte offsets.
//!
//! The path of a file: bytes → [`ParserRegistry::parse`] (which format, which encoding, is it text at all) →
//! [`ParsedDocument`] (normalised text, blocks, metadata) → [`chunk`] → [`ChunkDraft`]s, whose [`embedding_text`] is
//! what gets embedded.
//!
//! Invariants:
//! - Normalised text is NFC, uses `\n` line ends, and holds no other control character, no trailing space and never
//!   more than two blank lines in a row. Every [`Span`](edgewise_types::Span) of this crate points into it.
//! - Blocks are in order, do not overlap, and together cover every non-blank byte of the text; so do chunks.
//! - The same bytes under the same [`IndexProfile`] always give the same text, blocks and chunks. [`TEXT_VERSION`]
//!   changes when a change of this crate alters them.
//! - Bad input is an error with the name of the file in it. No parser may take the process down or hold it up: each
//!   runs on a thread of its own under a deadline, panics end there, unpacking has a limit, and nesting is bounded
//!   before any recursion over it. What that cannot contain, a process of its own does: see [`parse_in_processes`].
//!
//! Deliberately not here: reading files or walking folders, storing anything, tokenisers, embedding.

mod asciidoc;
mod assemble;
mod chunk;
mod code;
mod decode;
mod detect;
mod document;
mod docx;
mod epub;
mod error;
mod front_matter;
mod header;
mod html;
mod html_page;
mod language;
mod markdown;
mod metadata;
mod normalise;
mod package;
mod parser;
mod password;
mod pdf;
mod plain;
mod profile;
mod records;
mod section;
mod sentence;
mod split;
mod work;
mod worker;
mod xml;

pub use asciidoc::AsciidocParser;
pub use chunk::{ChunkDraft, ChunkOptions, chunk};
pub use code::CodeParser;
pub use document::{Block, BlockKind, ParsedDocument};
pub use docx::DocxParser;
pub use epub::EpubParser;
pub use error::DocumentError;
pub use header::embedding_text;
pub use html_page::HtmlParser;
pub use markdown::MarkdownParser;
pub use normalise::normalise;
pub use parser::{Parser, ParserRegistry, SourceInfo};
pub use password::Passwords;
pub use pdf::PdfParser;
pub use plain::PlainTextParser;
pub use profile::{
    Analyser, Ceiling, DEFAULT_PROFILE, Format, Fusion, FusionMethod, GraphProfile, IndexProfile, Language, Limits,
};
pub use records::RecordsParser;
pub use sentence::sentences;
pub use work::{Work, parse_isolated};
pub use worker::{parse_in_processes, serve_parsing};

/// Version of what this crate makes of a given input. Part of [`IndexProfile::hash`], so that a collection written by
/// an older version is noticed. Increase it with every change of parsers, normalisation or chunker that alters output.
pub const TEXT_VERSION: u32 = 3;
