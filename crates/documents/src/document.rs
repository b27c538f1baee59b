//! A parsed document: normalised text and the blocks it consists of.

use edgewise_types::{Metadata, PageMap, Span};
use serde::{Deserialize, Serialize};

use crate::DocumentError;

/// What a parser makes of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ParsedDocument {
    /// Title: from metadata, the first heading, or the file name. Never blank.
    pub title: String,
    /// Media type it was parsed as.
    pub media_type: String,
    /// Normalised text; see the crate's invariants. Never blank.
    pub text: String,
    /// Its blocks, in order, covering every non-blank byte of `text`.
    pub blocks: Vec<Block>,
    /// Metadata the document carries about itself.
    pub metadata: Metadata,
    /// Language the document declares, as a BCP 47 tag, else the one detected with confidence.
    pub language: Option<String>,
    /// Where pages begin in `text`; empty for formats without pages.
    pub pages: PageMap,
}

/// A piece of a document that belongs together: the unit the chunker packs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Where it stands in the normalised text. Neither starts nor ends with a line break.
    pub span: Span,
    /// What it is.
    pub kind: BlockKind,
    /// Titles of the sections it stands in, outermost first. A heading stands in the section it opens, so its own
    /// title comes last. Titles longer than 200 bytes are cut.
    pub heading_path: Vec<String>,
}

/// Kind of a block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockKind {
    /// A heading, alone on its line.
    Heading {
        /// 1 (outermost) to 6.
        level: u8,
        /// Its title, on one line.
        title: String,
    },
    /// Running text.
    Paragraph,
    /// A whole list, nested lists included: one line or more per item, each with its marker.
    List,
    /// Preformatted text, verbatim.
    Code,
    /// A table, one row per line, cells separated by ` | `.
    Table,
    /// Running text inside a quotation.
    Quote,
    /// One record of a table or file of records: a line `name: value` per field.
    Record,
}

impl ParsedDocument {
    /// Checks that blocks are in order, on character boundaries and leave no text uncovered.
    pub fn check_blocks(&self) -> Result<(), DocumentError> {
        let invalid = |reason: String| Err(DocumentError::InvalidBlocks { reason });
        let mut end = 0;
        for (index, block) in self.blocks.iter().enumerate() {
            if block.span.start < end {
                return invalid(format!("block {index} starts before the end of the one before it"));
            }
            if let Err(error) = block.span.slice(&self.text) {
                return invalid(format!("block {index}: {error}"));
            }
            if self.text.get(end..block.span.start).is_none_or(|gap| !gap.trim().is_empty()) {
                return invalid(format!("text before block {index} belongs to no block"));
            }
            end = block.span.end;
        }
        match self.text.get(end..) {
            Some(rest) if rest.trim().is_empty() => Ok(()),
            _ => invalid("text after the last block belongs to no block".to_owned()),
        }
    }
}
