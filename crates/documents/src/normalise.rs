//! Text normalisation: one spelling for what looks the same, so that hashes, spans and quotes are stable.
//!
//! Applied to each block before it gets its span; nothing changes the text afterwards. Idempotent.
//!
//! Deliberately not done: case, punctuation and compatibility folding (NFKC), which would alter what is quoted.

use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// Most blank lines kept in a row.
const MAX_BLANK_LINES: usize = 2;

/// NFC text with `\n` line ends, no other control character, no trailing spaces, no blank lines at either end and at
/// most two in a row inside. A tab becomes four spaces, a no-break space a plain one; soft hyphens, zero-width spaces
/// and byte-order marks, which are invisible and break searches, go.
pub fn normalise(raw: &str) -> String {
    let cleaned = clean_characters(raw);
    let composed = match is_nfc_quick(cleaned.chars()) {
        IsNormalized::Yes => cleaned,
        _ => cleaned.nfc().collect(),
    };
    let mut out = String::with_capacity(composed.len());
    let mut blank = 0;
    for line in composed.split('\n').map(str::trim_end) {
        if line.is_empty() {
            blank += 1;
            continue;
        }
        if !out.is_empty() {
            out.extend(std::iter::repeat_n('\n', blank.min(MAX_BLANK_LINES) + 1));
        }
        out.push_str(line);
        blank = 0;
    }
    out
}

fn clean_characters(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut characters = raw.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' => {
                characters.next_if_eq(&'\n');
                out.push('\n');
            }
            '\n' | '\u{b}' | '\u{c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\t' => out.push_str("    "),
            '\u{a0}' | '\u{2007}' | '\u{202f}' => out.push(' '),
            '\u{ad}' | '\u{200b}' | '\u{2060}' | '\u{feff}' => {}
            other if other.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

/// The text with every run of white space, line breaks included, as one space.
pub(crate) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// At most `max` bytes of `text`, cut at a character boundary and marked with `…` where something was cut.
pub(crate) fn truncated(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.to_owned();
    }
    let cut = text.floor_char_boundary(max.saturating_sub('…'.len_utf8()));
    format!("{}…", text[..cut].trim_end())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn line_ends_spaces_and_invisible_characters() {
        assert_eq!(normalise("a\r\nb\rc\u{2028}d\u{c}e"), "a\nb\nc\nd\ne");
        assert_eq!(normalise("\n\n  a \t \n\n\n\n\n b\u{a0}\n\n"), "  a\n\n\n b");
        assert_eq!(normalise("co\u{ad}op\u{200b}\u{feff}er\u{7}ate"), "cooperate");
        assert_eq!(normalise("\tx\ty"), "    x    y");
    }

    #[test]
    fn composes_characters_even_across_what_is_removed() {
        assert_eq!(normalise("cafe\u{301}"), "café");
        assert_eq!(normalise("cafe\u{ad}\u{301}"), "café");
        assert_eq!(normalise("ﬁ"), "ﬁ", "compatibility characters stay as they are");
    }

    #[test]
    fn truncation_keeps_characters_whole() {
        assert_eq!(truncated("short", 5), "short");
        assert_eq!(truncated("ñññññ", 7), "ññ…");
    }

    proptest! {
        #[test]
        fn holds_its_invariants_and_is_idempotent(raw in "(\\PC|[ \\t\\r\\n\\x00-\\x1f\u{a0}\u{ad}\u{301}\u{2028}\u{fb01}e]){0,80}") {
            let text = normalise(&raw);
            prop_assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
            prop_assert!(text.split('\n').all(|line| line == line.trim_end()));
            prop_assert!(!text.contains("\n\n\n\n") && !text.starts_with('\n') && !text.ends_with('\n'));
            prop_assert_eq!(is_nfc_quick(text.nfc()), is_nfc_quick(text.chars()));
            prop_assert_eq!(normalise(&text), text);
        }
    }
}
