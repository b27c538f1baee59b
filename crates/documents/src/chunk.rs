//! Cuts a document into chunks that the embedder can read whole.
//!
//! - A chunk never reaches over a heading into another section; only headings without text of their own join what
//!   follows them in the same or a deeper section. A heading belongs to the first chunk of its section.
//! - Tables, code, lists and records stay whole where they fit a chunk, if need be without the room that the estimate
//!   keeps for their headings, which the header of the embedded text repeats anyway.
//! - A short paragraph before a table, code or list that begins a chunk, such as a caption, begins it instead.
//! - Where a table has to be cut, its row of column names follows the titles of each later part.
//! - Whole blocks are packed up to the target; a block above the maximum is cut between sentences or lines into parts
//!   of about equal size, then between words, then anywhere.
//! - [`embedding_text`] of every chunk is at most `max_tokens` by the tokenizer's own count.
//! - Together the chunks cover every non-blank byte of the text, in order.
//!
//! Overlap is off by default: chunks end where sentences and blocks do and carry their heading path, and a repeated
//! sentence would be embedded, retrieved, paid for and cited twice.

use edgewise_model_api::Tokenizer;
use edgewise_types::{PageRange, Span};
use serde::{Deserialize, Serialize};

use crate::header::shortened;
use crate::normalise::truncated;
use crate::section::Sections;
use crate::split::{MAX_BYTES_PER_TOKEN, Measured, halves, levels, slice, trimmed};
use crate::{Block, BlockKind, DocumentError, ParsedDocument, embedding_text, sentences};

/// Smallest sensible `max_tokens`: half for the heading path, half for some words.
const LEAST_MAX_TOKENS: usize = 16;
/// A paragraph below this share of the target may lead in the table or code after it.
const LEAD_DIVISOR: usize = 5;
/// Longest row of column names that is repeated, in bytes.
const MAX_HEADER_BYTES: usize = 200;
/// A chunk below this share of the target joins a neighbour of its section, if both fit.
const SHORT_DIVISOR: usize = 4;

/// Limits of chunks, in tokens of the embedder without the special tokens it adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChunkOptions {
    /// Most tokens of heading path and text together.
    pub max_tokens: usize,
    /// Blocks are packed up to this many.
    pub target_tokens: usize,
    /// A chunk repeats whole sentences of the one before it in its section, up to this many tokens; 0 repeats none.
    pub overlap_tokens: usize,
}

impl ChunkOptions {
    /// Checks that limits are in proportion. The error is the name of the wrong field and the rule it breaks.
    pub fn validate(&self) -> Result<(), (&'static str, String)> {
        let Self { max_tokens, target_tokens, overlap_tokens } = *self;
        if max_tokens < LEAST_MAX_TOKENS {
            return Err(("max_tokens", format!("must be at least {LEAST_MAX_TOKENS}, but is {max_tokens}")));
        }
        if target_tokens == 0 || target_tokens > max_tokens {
            let rule = format!("must be between 1 and max_tokens ({max_tokens}), but is {target_tokens}");
            return Err(("target_tokens", rule));
        }
        if overlap_tokens > max_tokens / 4 {
            let rule = format!("must be at most a quarter of max_tokens ({}), but is {overlap_tokens}", max_tokens / 4);
            return Err(("overlap_tokens", rule));
        }
        Ok(())
    }
}

/// A chunk before the catalog gives it an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkDraft {
    /// Position among the chunks of its document, from 0.
    pub ordinal: usize,
    /// Where it stands in the normalised text.
    pub span: Span,
    /// Titles of the sections it stands in, outermost first; shortened where they would take more than half of
    /// `max_tokens`, so that [`embedding_text`] of this path and the span's text is what was counted.
    pub heading_path: Vec<String>,
    /// Tokens of [`embedding_text`] of the heading path and the span's text.
    pub embedder_tokens: usize,
    /// The parent: the smallest section, subsections included, that holds this chunk and more; the whole text where
    /// there is none. Chunks with the same parent have the same span here, which can serve as the parent's id, and the
    /// chunks of a section are neighbours by [`Self::ordinal`]. May be as long as the document.
    pub section: Span,
    /// Pages it stands on; `None` for formats without pages.
    pub pages: Option<PageRange>,
}

impl ChunkDraft {
    /// A chunk whose parent and pages are found when all chunks are cut.
    fn new(ordinal: usize, span: Span, heading_path: Vec<String>, embedder_tokens: usize) -> Self {
        Self { ordinal, span, heading_path, embedder_tokens, section: span, pages: None }
    }
}

/// Cuts `document` into chunks, counting with the embedder's `tokenizer`.
pub fn chunk(
    document: &ParsedDocument,
    tokenizer: &dyn Tokenizer,
    options: &ChunkOptions,
) -> Result<Vec<ChunkDraft>, DocumentError> {
    options.validate().map_err(|(field, rule)| DocumentError::ChunkOptions { reason: format!("{field} {rule}") })?;
    document.check_blocks()?;
    let mut chunker = Chunker {
        text: &document.text,
        tokenizer,
        options: *options,
        chunks: Vec::new(),
        last_path: Default::default(),
    };
    for section in sections(&document.blocks) {
        chunker.section(section)?;
    }
    let mut chunks = chunker.chunks;
    let sections = Sections::of(document);
    for chunk in &mut chunks {
        chunk.section = sections.parent(chunk.span);
        chunk.pages = document.pages.pages(chunk.span);
    }
    Ok(chunks)
}

/// Runs of blocks that may share chunks.
fn sections(blocks: &[Block]) -> impl Iterator<Item = &[Block]> {
    let level = |block: &Block| match block.kind {
        BlockKind::Heading { level, .. } => Some(level),
        _ => None,
    };
    blocks.chunk_by(move |before, after| match (level(before), level(after)) {
        (Some(before), Some(after)) => after >= before,
        (None, Some(_)) => false,
        // Equal below one heading; unequal where a quotation with headings of its own ends.
        (_, None) => before.heading_path == after.heading_path,
    })
}

struct Chunker<'a> {
    text: &'a str,
    tokenizer: &'a dyn Tokenizer,
    options: ChunkOptions,
    chunks: Vec<ChunkDraft>,
    /// The heading path last shortened, and the result: neighbouring chunks mostly share theirs.
    last_path: (Vec<String>, Vec<String>, usize),
}

/// Token budgets of a section's chunks, the header's share taken off.
struct Budget {
    /// Most tokens of text.
    most: usize,
    /// Tokens to pack.
    target: usize,
}

/// The chunk being packed.
struct Open {
    span: Span,
    only_headings: bool,
    /// Where its last block begins, if that is a short paragraph after others: a caption, or `as follows:`.
    lead: Option<usize>,
}

impl Chunker<'_> {
    fn section(&mut self, blocks: &[Block]) -> Result<(), DocumentError> {
        let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return Ok(()) };
        let ChunkOptions { max_tokens, target_tokens, overlap_tokens } = self.options;
        let (_, header) = self.shortened(&last.heading_path)?;
        let most = max_tokens.saturating_sub(header + overlap_tokens).max(1);
        let target = target_tokens.saturating_sub(header + overlap_tokens).clamp(most.div_ceil(2), most);
        let measured = Measured::new(self.text, Span::new(first.span.start, last.span.end), self.tokenizer)?;
        let first_chunk = self.chunks.len();
        for planned in plan(&measured, blocks, &Budget { most, target }) {
            self.emit(planned, blocks)?;
        }
        self.overlap(&measured, first_chunk)
    }

    /// Adds chunks for `planned`: one, unless an exact count finds it too long.
    fn emit(&mut self, planned: Span, blocks: &[Block]) -> Result<(), DocumentError> {
        let ChunkOptions { max_tokens, .. } = self.options;
        let mut stack = vec![planned];
        while let Some(span) = stack.pop() {
            let Some(span) = trimmed(self.text, span) else { continue };
            let after = blocks.partition_point(|block| block.span.start < span.end);
            let path = blocks[..after].last().map_or(&[][..], |block| block.heading_path.as_slice());
            let header = header_row(self.text, blocks, span);
            let path: Vec<String> = path.iter().cloned().chain(header).collect();
            let (mut heading_path, _) = self.shortened(&path)?;
            let mut tokens = self.count(&heading_path, span)?;
            let halved = if tokens > max_tokens { halves(self.text, span) } else { None };
            if tokens > max_tokens && halved.is_none() {
                // One character, of more tokens than the header leaves: the text matters more.
                heading_path.clear();
                tokens = self.count(&heading_path, span)?;
            }
            if tokens <= max_tokens {
                let ordinal = self.chunks.len();
                self.chunks.push(ChunkDraft::new(ordinal, span, heading_path, tokens));
                continue;
            }
            let Some((left, right)) = halved else {
                let reason = format!("max_tokens ({max_tokens}) is less than a single character takes");
                return Err(DocumentError::ChunkOptions { reason });
            };
            stack.extend([right, left]);
        }
        Ok(())
    }

    /// A heading path that takes at most half of a chunk, and the tokens it takes.
    fn shortened(&mut self, path: &[String]) -> Result<(Vec<String>, usize), DocumentError> {
        if self.last_path.0 != path {
            let (short, tokens) = shortened(path, self.tokenizer, self.options.max_tokens / 2)?;
            self.last_path = (path.to_vec(), short, tokens);
        }
        Ok((self.last_path.1.clone(), self.last_path.2))
    }

    fn count(&self, heading_path: &[String], span: Span) -> Result<usize, DocumentError> {
        Ok(self.tokenizer.count(&embedding_text(heading_path, slice(self.text, span)))?)
    }

    /// Extends the chunks from `first` on, all of one section, over the last sentences of the chunk before each.
    fn overlap(&mut self, measured: &Measured<'_>, first: usize) -> Result<(), DocumentError> {
        let ChunkOptions { max_tokens, overlap_tokens, .. } = self.options;
        if overlap_tokens == 0 {
            return Ok(());
        }
        // Backwards, so that a chunk repeats what its predecessor holds without that one's own overlap.
        for index in (first + 1..self.chunks.len()).rev() {
            let (before, this) = (self.chunks[index - 1].span, &self.chunks[index]);
            let starts = sentences(slice(self.text, before)).into_iter().map(|s| before.start + s.start);
            for start in starts.skip(1) {
                if !measured.fits(Span::new(start, this.span.start), overlap_tokens) {
                    continue;
                }
                let span = Span::new(start, this.span.end);
                let tokens = self.count(&this.heading_path, span)?;
                if tokens <= max_tokens {
                    let ordinal = index;
                    let heading_path = this.heading_path.clone();
                    self.chunks[index] = ChunkDraft::new(ordinal, span, heading_path, tokens);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// The first row of the table that `span` begins inside of, if it looks like names of columns: without them a row says
/// little. It follows the titles of the heading path, so that it is embedded, indexed and shown with the chunk, whose
/// text stays a slice of the document.
fn header_row(text: &str, blocks: &[Block], span: Span) -> Option<String> {
    let at = blocks.partition_point(|block| block.span.end <= span.start);
    let table = blocks.get(at).filter(|block| block.kind == BlockKind::Table && block.span.start < span.start)?;
    let row = slice(text, table.span).lines().next()?;
    // The rest of a row that is longer than a chunk needs no names.
    if span.start < table.span.start + row.len() {
        return None;
    }
    let cells = || row.split('|').map(str::trim).filter(|cell| !cell.is_empty());
    let are_names = cells().count() > 1 && cells().all(|cell| !cell.starts_with(|c: char| c.is_ascii_digit()));
    are_names.then(|| truncated(row, MAX_HEADER_BYTES))
}

/// Packs the blocks of a section into spans that fit the budget by estimate.
fn plan(measured: &Measured<'_>, blocks: &[Block], budget: &Budget) -> Vec<Span> {
    let mut planned = Vec::new();
    let mut open: Option<Open> = None;
    for block in blocks {
        let is_heading = matches!(block.kind, BlockKind::Heading { .. });
        let headings_only = open.as_ref().is_some_and(|open| open.only_headings);
        let joined = Span::new(open.as_ref().map_or(block.span.start, |open| open.span.start), block.span.end);
        // Headings and lines too short to stand alone go with what follows, even above the target.
        let is_short = open.as_ref().is_some_and(|open| measured.tokens(open.span) < budget.target / SHORT_DIVISOR);
        let limit = if headings_only && !is_heading || is_short { budget.most } else { budget.target };
        if measured.fits(joined, limit) {
            let only_headings = is_heading && (headings_only || open.is_none());
            let is_lead = block.kind == BlockKind::Paragraph
                && joined.start < block.span.start
                && measured.fits(block.span, budget.target / LEAD_DIVISOR);
            open = Some(Open { span: joined, only_headings, lead: is_lead.then_some(block.span.start) });
            continue;
        }
        // What leads a table or code in goes with it.
        if let Some(Open { span, lead: Some(lead), .. }) = open
            && is_shaped(&block.kind)
            && !headings_only
            && measured.fits(Span::new(lead, block.span.end), budget.most)
        {
            planned.push(Span::new(span.start, lead));
            open = Some(Open { span: Span::new(lead, block.span.end), only_headings: false, lead: None });
            continue;
        }
        let fits_alone = measured.fits(block.span, budget.most);
        // The titles in the text are those of the header, which are not embedded twice; an exact count follows.
        if headings_only
            && fits_alone
            && is_shaped(&block.kind)
            && joined.len() <= budget.most.saturating_mul(MAX_BYTES_PER_TOKEN)
            && !heading_is_large(measured, open.as_ref(), budget)
        {
            open = Some(Open { span: joined, only_headings: false, lead: None });
            continue;
        }
        if !headings_only || is_heading || fits_alone && heading_is_large(measured, open.as_ref(), budget) {
            planned.extend(open.take().map(|open| open.span));
        }
        if fits_alone && open.is_none() {
            open = Some(Open { span: block.span, only_headings: is_heading, lead: None });
            continue;
        }
        cut_block(measured, block, budget, &mut open, &mut planned);
    }
    planned.extend(open.map(|open| open.span));
    merge_tail(measured, budget, &mut planned);
    planned
}

/// Whether a block loses by being cut.
fn is_shaped(kind: &BlockKind) -> bool {
    matches!(kind, BlockKind::Table | BlockKind::Code | BlockKind::List | BlockKind::Record)
}

/// Whether the headings in `open` leave too little room for text beside them.
fn heading_is_large(measured: &Measured<'_>, open: Option<&Open>, budget: &Budget) -> bool {
    open.is_some_and(|open| !measured.fits(open.span, budget.most / 2))
}

/// Packs the parts of a block that does not fit a chunk, beginning beside the headings in `open`, if any.
fn cut_block(
    measured: &Measured<'_>,
    block: &Block,
    budget: &Budget,
    open: &mut Option<Open>,
    planned: &mut Vec<Span>,
) {
    let is_heading = matches!(block.kind, BlockKind::Heading { .. });
    if heading_is_large(measured, open.as_ref(), budget) {
        planned.extend(open.take().map(|open| open.span));
    }
    let beside = open.as_ref().map_or(0, |open| measured.tokens(open.span));
    let whole = Span::new(open.as_ref().map_or(block.span.start, |open| open.span.start), block.span.end);
    let by_bytes = whole.len().div_ceil(budget.target.max(1) * MAX_BYTES_PER_TOKEN);
    let parts = measured.tokens(whole).div_ceil(budget.target.max(1)).max(by_bytes).max(1);
    let even = measured.tokens(whole).div_ceil(parts).max(whole.len().div_ceil(parts * MAX_BYTES_PER_TOKEN));
    let mut pieces = Vec::new();
    measured.cut(block.span, budget.most.saturating_sub(beside).max(1), levels(&block.kind), &mut pieces);
    for piece in pieces {
        let joined = open.as_ref().map(|open| (Span::new(open.span.start, piece.end), open.only_headings));
        *open = match joined {
            Some((joined, headings)) if measured.fits(joined, if headings { budget.most } else { even }) => {
                Some(Open { span: joined, only_headings: headings && is_heading, lead: None })
            }
            _ => {
                planned.extend(open.take().map(|open| open.span));
                Some(Open { span: piece, only_headings: is_heading, lead: None })
            }
        };
    }
}

fn merge_tail(measured: &Measured<'_>, budget: &Budget, planned: &mut Vec<Span>) {
    if let [.., before, last] = planned.as_mut_slice() {
        let joined = Span::new(before.start, last.end);
        if measured.tokens(*last) < budget.target / SHORT_DIVISOR && measured.fits(joined, budget.most) {
            *before = joined;
            planned.pop();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests;
