//! Words and numbers of a text, with where they stand.

use edgewise_types::Span;

/// What a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PieceKind {
    /// Letters, perhaps with digits behind them.
    Word,
    /// Digits with their grouping and decimals.
    Number,
}

/// A word or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) kind: PieceKind,
    pub(crate) span: Span,
}

/// Words, without a possessive ending, and numbers of `text`, in order. `15kg` is a number and a word, `u32` a word.
pub(crate) fn pieces(text: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let end = if c.is_ascii_digit() {
            number_end(text, at)
        } else if c.is_alphanumeric() || c == '_' {
            word_end(text, at)
        } else {
            at += c.len_utf8();
            continue;
        };
        let kind = if c.is_ascii_digit() { PieceKind::Number } else { PieceKind::Word };
        let kept = if kind == PieceKind::Word { at + without_possessive(&text[at..end]).len() } else { end };
        pieces.push(Piece { kind, span: Span::new(at, kept) });
        at = end;
    }
    pieces
}

fn number_end(text: &str, start: usize) -> usize {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    let mut at = start;
    loop {
        let run = (at + 1..).take_while(|next| digit(*next)).count();
        match bytes.get(at) {
            Some(byte) if byte.is_ascii_digit() => {}
            Some(b'.') if run > 0 => {}
            Some(b',') if run == 3 => {}
            _ => return at,
        }
        at += 1;
    }
}

fn word_end(text: &str, start: usize) -> usize {
    let mut chars = text[start..].char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let inner = matches!(c, '\'' | '’' | 'ʼ') && chars.peek().is_some_and(|(_, next)| next.is_alphabetic());
        if !(c.is_alphanumeric() || c == '_' || inner) {
            return start + at;
        }
    }
    text.len()
}

fn without_possessive(word: &str) -> &str {
    let ending = ["'s", "’s", "ʼs", "'S", "’S"].iter().find_map(|ending| word.strip_suffix(ending));
    ending.filter(|rest| !rest.is_empty()).unwrap_or(word)
}
