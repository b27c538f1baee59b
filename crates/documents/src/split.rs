//! Measuring a stretch of text in tokens and finding where it may be cut.
//!
//! A stretch is tokenised once; sizes of its parts are then differences of two binary searches. Such a size is an
//! estimate, since a tokenizer may join across a cut: the chunker verifies each finished chunk with an exact count.

use edgewise_model_api::Tokenizer;
use edgewise_types::Span;
use unicode_segmentation::UnicodeSegmentation;

use crate::{BlockKind, DocumentError, sentences};

/// Most bytes of text per token of a chunk's budget. WordPiece reads a word of more than 100 characters as a single
/// unknown token, so that tokens alone would let a megabyte of base64 pass as one chunk. Ordinary text has 3 to 6.
pub(crate) const MAX_BYTES_PER_TOKEN: usize = 16;

/// Most bytes tokenised in one call.
const MAX_TOKENISED_BYTES: usize = 16 * 1024;

/// Places to cut, from the best to the last resort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    BlankLines,
    Lines,
    Sentences,
    Spaces,
    Words,
    Graphemes,
    Characters,
}

const PROSE: &[Level] =
    &[Level::Sentences, Level::Lines, Level::Spaces, Level::Words, Level::Graphemes, Level::Characters];
const SHAPED: &[Level] = &[
    Level::BlankLines,
    Level::Lines,
    Level::Sentences,
    Level::Spaces,
    Level::Words,
    Level::Graphemes,
    Level::Characters,
];

/// Where a block of this kind is cut: running text between sentences, what has lines between lines.
pub(crate) fn levels(kind: &BlockKind) -> &'static [Level] {
    match kind {
        BlockKind::Heading { .. } | BlockKind::Paragraph | BlockKind::Quote => PROSE,
        BlockKind::List | BlockKind::Code | BlockKind::Table | BlockKind::Record => SHAPED,
    }
}

/// A stretch of a document's text, tokenised once.
pub(crate) struct Measured<'t> {
    text: &'t str,
    /// Where its tokens start, in bytes of `text`, non-decreasing.
    starts: Vec<usize>,
}

impl<'t> Measured<'t> {
    /// Tokenises `span` of `text`, in pieces that end at white space where there is any: a tokenizer takes hundreds of
    /// bytes of memory per token while it works.
    pub(crate) fn new(text: &'t str, span: Span, tokenizer: &dyn Tokenizer) -> Result<Self, DocumentError> {
        let mut starts = Vec::new();
        let mut at = span.start;
        while at < span.end {
            let most = text.floor_char_boundary((at + MAX_TOKENISED_BYTES).min(span.end));
            let piece = &text[at..most];
            let space = if most < span.end { piece.rfind(char::is_whitespace) } else { None };
            let end = space.filter(|space| *space > 0).map_or(most, |space| at + space);
            starts.extend(tokenizer.offsets(&text[at..end])?.iter().map(|range| at + range.start));
            at = end;
        }
        Ok(Self { text, starts })
    }

    /// Number of tokens that start in `span`.
    pub(crate) fn tokens(&self, span: Span) -> usize {
        let before = |at: usize| self.starts.partition_point(|start| *start < at);
        before(span.end).saturating_sub(before(span.start))
    }

    /// Whether `span` is at most `tokens` tokens and the bytes they may stand for.
    pub(crate) fn fits(&self, span: Span, tokens: usize) -> bool {
        span.len() <= tokens.saturating_mul(MAX_BYTES_PER_TOKEN) && self.tokens(span) <= tokens
    }

    /// Cuts `span` into consecutive parts that fit `tokens`, at the first of `levels` that suffices for each part; a
    /// single character may be too large still.
    pub(crate) fn cut(&self, span: Span, tokens: usize, levels: &[Level], out: &mut Vec<Span>) {
        let Some((level, finer)) = levels.split_first().filter(|_| !self.fits(span, tokens)) else {
            return out.push(span);
        };
        // Recursion over the levels only, so at most seven deep.
        let mut start = span.start;
        for end in cuts(self.text, span, *level).into_iter().chain([span.end]) {
            self.cut(Span::new(start, end), tokens, finer, out);
            start = end;
        }
    }
}

/// Cuts `span` in two near its middle, at the coarsest level that has a place there; `None` for a single character.
pub(crate) fn halves(text: &str, span: Span) -> Option<(Span, Span)> {
    let middle = span.start + span.len() / 2;
    let near = span.start + span.len() / 4..=span.end - span.len() / 4;
    let nearest = |level: &Level| cuts(text, span, *level).into_iter().min_by_key(|cut| cut.abs_diff(middle));
    let cut = SHAPED.iter().filter_map(nearest).find(|cut| near.contains(cut));
    let cut = cut.or_else(|| nearest(&Level::Characters))?;
    Some((Span::new(span.start, cut), Span::new(cut, span.end)))
}

/// The places strictly inside `span` where `level` may cut, in order.
fn cuts(text: &str, span: Span, level: Level) -> Vec<usize> {
    let piece = slice(text, span);
    let places: Vec<usize> = match level {
        Level::BlankLines => starts_after(piece, |before| before.ends_with("\n\n")),
        Level::Lines => piece.match_indices('\n').map(|(at, _)| at + 1).collect(),
        Level::Sentences => sentences(piece).iter().skip(1).map(|sentence| sentence.start).collect(),
        Level::Spaces => starts_after(piece, |before| before.ends_with(char::is_whitespace)),
        Level::Words => piece.split_word_bound_indices().map(|(at, _)| at).collect(),
        Level::Graphemes => piece.grapheme_indices(true).map(|(at, _)| at).collect(),
        Level::Characters => piece.char_indices().map(|(at, _)| at).collect(),
    };
    places.into_iter().filter(|at| (1..piece.len()).contains(at)).map(|at| span.start + at).collect()
}

/// Starts of the non-blank characters before which `is_gap` holds.
fn starts_after(piece: &str, is_gap: impl Fn(&str) -> bool) -> Vec<usize> {
    let filled = piece.char_indices().filter(|(_, c)| !c.is_whitespace());
    filled.map(|(at, _)| at).filter(|at| is_gap(&piece[..*at])).collect()
}

/// `span` without blank lines before, and white space after, its text; `None` if it is all white space. The
/// indentation of the first line stays.
pub(crate) fn trimmed(text: &str, span: Span) -> Option<Span> {
    let piece = slice(text, span);
    let first = piece.find(|c: char| !c.is_whitespace())?;
    let start = piece[..first].rfind('\n').map_or(0, |at| at + 1);
    Some(Span::new(span.start + start, span.start + piece.trim_end().len()))
}

/// The text of a span known to fit.
pub(crate) fn slice(text: &str, span: Span) -> &str {
    &text[span.start..span.end]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::chunk::tests::Words;

    #[test]
    fn long_texts_are_measured_in_pieces_without_cutting_words() {
        let text = "word ".repeat(20_000) + &"é".repeat(40_000);
        let measured = Measured::new(&text, Span::new(5, text.len()), &Words).unwrap();
        assert_eq!(measured.tokens(Span::new(0, 100_000)), 19_999);
        assert_eq!(measured.tokens(Span::new(50, 100)), 10);
        // The run without white space is itself read in pieces, each a token.
        assert_eq!(measured.tokens(Span::new(100_000, text.len())), 5);
    }

    #[test]
    fn halves_are_cut_at_the_best_place_near_the_middle() {
        let cut = |text: &str| halves(text, Span::new(0, text.len())).map(|(left, _)| text[..left.end].to_owned());
        assert_eq!(cut("aaaa bb. Cccc dd ee").as_deref(), Some("aaaa bb. "));
        assert_eq!(cut("aaaa bb\ncccc dd ee").as_deref(), Some("aaaa bb\n"));
        assert_eq!(cut("ééé").as_deref(), Some("é"));
        assert_eq!(cut("é"), None);
    }
}
