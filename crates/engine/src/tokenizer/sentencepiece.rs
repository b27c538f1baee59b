//! SentencePiece vocabularies of the kind Llama 2 and Mistral have: byte-pair encoding by scores, with byte fallback
//! (Kudo and Richardson 2018; the algorithm is that of the library's `bpe_model`).
//!
//! Text gets a space before it where the vocabulary asks for one, and every space is written as `▁` (U+2581). Then
//! neighbouring pieces are merged, the pair whose union has the best score first, the leftmost of equals. What is left
//! without an entry is written byte by byte.
//!
//! Deliberately not here: unigram vocabularies, normalisation rules (`precompiled_charsmap`), vocabularies without byte
//! fallback.

use std::{cmp::Ordering, collections::BinaryHeap, collections::HashMap, ops::Range};

use crate::EngineError;

/// How a space is written in a vocabulary.
pub(super) const SPACE: char = '\u{2581}';

/// A vocabulary with scores.
pub(super) struct SentencePiece {
    pieces: HashMap<String, (u32, f32)>,
    /// Pieces taken whole wherever they stand, longest first.
    fixed: Vec<(String, u32)>,
    /// Tokens of single bytes.
    bytes: Vec<u32>,
    space_prefix: bool,
}

/// A stretch of the text that is, or is on its way to be, one token. Neighbours are linked by index.
struct Symbol {
    range: Range<usize>,
    previous: Option<usize>,
    next: Option<usize>,
    /// A fixed piece is not merged.
    fixed: Option<u32>,
}

/// Two neighbours whose union is a piece.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    /// Length of the union, by which outdated pairs are told.
    length: usize,
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}

/// The byte a token such as `<0x0A>` stands for.
pub(super) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// The bytes of a piece: spaces for `▁`.
pub(super) fn bytes_of(piece: &str) -> Vec<u8> {
    piece.replace(SPACE, " ").into_bytes()
}

impl SentencePiece {
    /// `pieces` are entry, id and score; `fixed` are taken whole; `bytes` are the tokens of single bytes.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] if a byte has no token.
    pub(super) fn new(
        pieces: impl IntoIterator<Item = (String, u32, f32)>,
        fixed: impl IntoIterator<Item = (String, u32)>,
        bytes: &HashMap<u8, u32>,
        space_prefix: bool,
    ) -> Result<Self, EngineError> {
        let bytes: Option<Vec<u32>> = (0..=u8::MAX).map(|byte| bytes.get(&byte).copied()).collect();
        let Some(bytes) = bytes else {
            return Err(EngineError::Unsupported {
                what: "a SentencePiece vocabulary without a token for every byte".to_owned(),
                supported: "the engine needs byte fallback".to_owned(),
            });
        };
        let mut fixed: Vec<(String, u32)> =
            fixed.into_iter().map(|(text, id)| (text.replace(' ', &SPACE.to_string()), id)).collect();
        fixed.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let pieces = pieces.into_iter().map(|(text, id, score)| (text, (id, score))).collect();
        Ok(Self { pieces, fixed, bytes, space_prefix })
    }

    pub(super) fn writes_space_prefix(&self) -> bool {
        self.space_prefix
    }

    /// Ids and the byte ranges of `text` they cover. `start`: the text does not continue another.
    pub(super) fn encode(&self, text: &str, start: bool) -> (Vec<u32>, Vec<Range<usize>>) {
        let prefixed = start && self.space_prefix && !text.is_empty();
        // The text as the vocabulary writes it, and for each of its bytes the character of `text` it comes from.
        let mut written = String::with_capacity(text.len() + 3);
        let mut origin: Vec<Range<usize>> = Vec::with_capacity(text.len() + 3);
        let mut write = |c: char, from: Range<usize>| {
            written.push(if c == ' ' { SPACE } else { c });
            origin.resize(written.len(), from);
        };
        if prefixed {
            write(' ', 0..0);
        }
        text.char_indices().for_each(|(at, c)| write(c, at..at + c.len_utf8()));

        let symbols = self.merge(&written);
        let (mut ids, mut offsets) = (Vec::new(), Vec::new());
        let mut at = (!symbols.is_empty()).then_some(0);
        while let Some(i) = at {
            let Symbol { range, next, fixed, .. } = &symbols[i];
            let piece = fixed.or_else(|| self.pieces.get(&written[range.clone()]).map(|(id, _)| *id));
            match piece {
                Some(id) => {
                    ids.push(id);
                    offsets.push(origin[range.start].start..origin[range.end - 1].end);
                }
                None => {
                    for (byte, from) in written[range.clone()].bytes().zip(&origin[range.clone()]) {
                        ids.push(self.bytes[usize::from(byte)]);
                        offsets.push(from.clone());
                    }
                }
            }
            at = *next;
        }
        (ids, offsets)
    }

    /// The merged symbols; those from 0 along `next` count.
    fn merge(&self, written: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::new();
        let mut at = 0;
        while at < written.len() {
            let rest = &written[at..];
            let fixed = self.fixed.iter().find(|(text, _)| rest.starts_with(text.as_str()));
            let length = fixed.map_or_else(|| rest.chars().next().map_or(1, char::len_utf8), |(text, _)| text.len());
            let index = symbols.len();
            symbols.push(Symbol {
                range: at..at + length,
                previous: index.checked_sub(1),
                next: (at + length < written.len()).then_some(index + 1),
                fixed: fixed.map(|(_, id)| *id),
            });
            at += length;
        }
        let mut pairs = BinaryHeap::new();
        let consider = |symbols: &[Symbol], pairs: &mut BinaryHeap<Pair>, left: Option<usize>, right: Option<usize>| {
            let (Some(left), Some(right)) = (left, right) else { return };
            if symbols[left].fixed.is_some() || symbols[right].fixed.is_some() {
                return;
            }
            let union = symbols[left].range.start..symbols[right].range.end;
            if let Some((_, score)) = self.pieces.get(&written[union.clone()]) {
                pairs.push(Pair { score: *score, left, right, length: union.len() });
            }
        };
        for right in 1..symbols.len() {
            consider(&symbols, &mut pairs, Some(right - 1), Some(right));
        }
        while let Some(Pair { left, right, length, .. }) = pairs.pop() {
            let (l, r) = (symbols[left].range.clone(), symbols[right].range.clone());
            // A side that was merged into another is empty; one that grew makes the union longer.
            if l.is_empty() || r.is_empty() || l.len() + r.len() != length {
                continue;
            }
            symbols[left].range = l.start..r.end;
            symbols[right].range = r.start..r.start;
            let next = symbols[right].next;
            symbols[left].next = next;
            if let Some(next) = next {
                symbols[next].previous = Some(left);
            }
            consider(&symbols, &mut pairs, symbols[left].previous, Some(left));
            consider(&symbols, &mut pairs, Some(left), next);
        }
        symbols
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Bytes 0 to 255, then the pieces given, each better than the next.
    fn model(pieces: &[&str], fixed: &[&str], space_prefix: bool) -> SentencePiece {
        let bytes = (0..=u8::MAX).map(|byte| (byte, u32::from(byte))).collect();
        let id = |i: usize| 256 + u32::try_from(i).unwrap();
        let scored = pieces.iter().enumerate().map(|(i, p)| ((*p).to_owned(), id(i), -(i as f32)));
        let whole = fixed.iter().enumerate().map(|(i, p)| ((*p).to_owned(), id(pieces.len() + i)));
        SentencePiece::new(scored, whole, &bytes, space_prefix).unwrap()
    }

    /// By hand from the algorithm.
    #[test]
    fn the_best_pair_is_merged_first_and_what_is_left_becomes_bytes() {
        // "ab" is better than "bc", so "abc" is ab·c; "c" has no entry and becomes its byte.
        let model = model(&["ab", "bc", "▁", "a", "b", "▁ab"], &[], true);
        let (ids, offsets) = model.encode("ab bc", true);
        assert_eq!(ids, [261, 258, 257]);
        assert_eq!(offsets, [0..2, 2..3, 3..5]);
        let (ids, offsets) = model.encode("abcé", false);
        assert_eq!(ids, [256, 99, 0xc3, 0xa9]);
        assert_eq!(offsets, [0..2, 2..3, 3..5, 3..5]);
        assert!(model.encode("", true).0.is_empty());
    }

    #[test]
    fn fixed_pieces_are_taken_whole() {
        let model = model(&["▁", "▁▁", "a"], &["  "], false);
        assert_eq!(model.encode("a   a", false).0, [258, 259, 256, 258]);
    }

    #[test]
    fn a_vocabulary_without_bytes_is_refused() {
        let error = SentencePiece::new([], [], &HashMap::new(), true).err().unwrap().to_string();
        assert!(error.contains("byte fallback"), "{error}");
    }

    proptest! {
        #[test]
        fn tokens_spell_the_text_and_offsets_cover_it(text in "[ab c▁é\n😀]{0,40}") {
            let model = model(&["ab", "b▁", "▁a", "a", "b", "▁", "é", "▁▁", "▁▁▁"], &[], false);
            let (ids, offsets) = model.encode(&text, false);
            prop_assert_eq!(ids.len(), offsets.len());
            prop_assert!(offsets.is_sorted_by(|a, b| a.start <= b.start && a.end <= b.end));
            let covered: String = offsets.iter().enumerate()
                .filter(|(i, range)| *i == 0 || offsets[i - 1] != **range)
                .map(|(_, range)| &text[range.clone()]).collect();
            prop_assert_eq!(covered, text);
        }
    }
}
