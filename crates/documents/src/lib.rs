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
//! - Bad input is an error with the name of the file in it. No parser may take the process down: the registry contains
//!   panics, and none recurses over the nesting of its input.
//!
//! Deliberately not here: reading files or walking folders, storing anything, tokenisers, embedding.

mod assemble;
mod chunk;
mod decode;
mod document;
mod error;
mod front_matter;
mod header;
mod html;
mod html_page;
mod markdown;
mod normalise;
mod parser;
mod plain;
mod profile;
mod sentence;
mod split;

pub use chunk::{ChunkDraft, ChunkOptions, chunk};
pub use document::{Block, BlockKind, ParsedDocument};
pub use error::DocumentError;
pub use header::embedding_text;
pub use html_page::HtmlParser;
pub use markdown::MarkdownParser;
pub use normalise::normalise;
pub use parser::{Parser, ParserRegistry, SourceInfo, parse_isolated};
pub use plain::PlainTextParser;
pub use profile::{Analyser, DEFAULT_PROFILE, Format, Fusion, FusionMethod, IndexProfile, Language, Limits};
pub use sentence::sentences;

/// Version of what this crate makes of a given input. Part of [`IndexProfile::hash`], so that a collection written by
/// an older version is noticed. Increase it with every change of parsers, normalisation or chunker that alters output.
pub const TEXT_VERSION: u32 = 1;
