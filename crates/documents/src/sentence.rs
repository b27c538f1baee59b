//! Sentences of normalised text.
//!
//! A scanner with rules for what normalised documents hold, rather than UAX #29 alone, which breaks at every line of a
//! hard-wrapped paragraph and after every abbreviation. A sentence ends
//! - at a blank line, before a list item, and at the end of a table row (a line with ` | `);
//! - at `.`, `!`, `?`, `…`, with the quotes, brackets and reference marks that follow, if white space comes next and
//!   the next word does not begin in lower case; not after abbreviations, initials and item numbers;
//! - at `。`, `！`, `？`, `｡`, with nothing needed after them.
//!
//! So dots inside `foo.bar()`, `file.rs` or `3.14` never end one. Linear in the length of the text.

use edgewise_types::Span;

/// Words before a full stop that rarely end a sentence, lower case. `etc.` and `a.m.` often do, so they are absent.
const ABBREVIATIONS: &[&str] = &[
    "al", "approx", "appx", "art", "ca", "cap", "capt", "cf", "ch", "chap", "co", "col", "corp", "dept", "dr", "e.g",
    "ed", "eds", "eg", "eq", "eqs", "esp", "est", "ex", "fig", "figs", "gen", "gov", "hon", "i.e", "ie", "inc", "incl",
    "jr", "lt", "ltd", "messrs", "mr", "mrs", "ms", "mt", "no", "nos", "op", "p", "pp", "para", "prof", "ref", "refs",
    "rep", "rev", "sec", "sen", "sgt", "sr", "st", "viz", "vol", "vols", "vs", "v.s", "jan", "feb", "mar", "apr",
    "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec",
];
/// Those of them that are also words, and abbreviations only before a number: `No. 5`, `p. 7`, `Fig. 2`, `Mar. 3`.
const ONLY_BEFORE_NUMBERS: &[&str] =
    &["no", "art", "ch", "col", "ed", "ex", "mar", "dec", "sec", "ref", "p", "cap", "para"];

/// The sentences of `text`, in order, without surrounding white space; together they cover everything that is not
/// white space.
pub fn sentences(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    let mut start = 0;
    let mut segment_start = 0;
    for line in text.split_inclusive('\n') {
        let end = segment_start + line.len();
        // `segment_start` is where this line begins; a hard break may fall before it or after it.
        if start < segment_start && (line.trim().is_empty() || is_list_item(line)) {
            scan(text, start, segment_start, &mut spans);
            start = segment_start;
        }
        if line.contains(" | ") {
            scan(text, start, end, &mut spans);
            start = end;
        }
        segment_start = end;
    }
    scan(text, start, text.len(), &mut spans);
    spans
}

/// Whether a line begins with a bullet or an item number.
fn is_list_item(line: &str) -> bool {
    let line = line.trim_start();
    if ["- ", "* ", "• ", "+ "].iter().any(|bullet| line.starts_with(bullet)) {
        return true;
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    (1..=3).contains(&digits) && line.get(digits..).is_some_and(|rest| rest.starts_with(". ") || rest.starts_with(") "))
}

/// Splits `text[start..end]`, which holds no hard break, at the ends of sentences.
fn scan(text: &str, start: usize, end: usize, spans: &mut Vec<Span>) {
    let segment = &text[start..end];
    let mut begin = 0;
    let mut characters = segment.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let is_wide = matches!(character, '。' | '！' | '？' | '｡');
        if !is_wide && !matches!(character, '.' | '!' | '?' | '…') {
            continue;
        }
        let mut stop = at + character.len_utf8();
        let mut quoted = false;
        while let Some((next_at, next)) = characters.next_if(|(_, c)| is_trailing(*c)) {
            quoted |= matches!(next, '"' | '\'' | '”' | '’' | '»');
            stop = next_at + next.len_utf8();
        }
        let mark = reference_mark(&segment[stop..]);
        let follows = &segment[stop + mark..];
        let ends = is_wide
            || follows.starts_with(char::is_whitespace) && {
                let next = follows.trim_start().trim_start_matches(is_opening).chars().next();
                let lower = next.is_some_and(char::is_lowercase);
                match character {
                    '.' => !lower && !is_abbreviated(&segment[begin..at], next, stop == at + 1),
                    '…' => !lower,
                    _ => !(lower && quoted),
                }
            };
        if ends {
            push_trimmed(text, start + begin, start + stop + mark, spans);
            begin = stop + mark;
            while characters.next_if(|(at, _)| *at < begin).is_some() {}
        }
    }
    push_trimmed(text, start + begin, end, spans);
}

/// What may stand between the end of a sentence and the space after it.
fn is_trailing(character: char) -> bool {
    matches!(
        character,
        '.' | '!'
            | '?'
            | '…'
            | '"'
            | '\''
            | '”'
            | '’'
            | '»'
            | ')'
            | ']'
            | '}'
            | '。'
            | '！'
            | '？'
            | '」'
            | '』'
            | '）'
    )
}

fn is_opening(character: char) -> bool {
    matches!(character, '"' | '\'' | '“' | '‘' | '«' | '(' | '[' | '{' | '「' | '『')
}

/// Length of reference marks such as `[12][13]` at the start of `text`.
fn reference_mark(text: &str) -> usize {
    let mut length = 0;
    while let Some(inner) = text[length..].strip_prefix('[') {
        let digits = inner.bytes().take_while(u8::is_ascii_digit).count();
        if digits == 0 || digits > 4 || !inner[digits..].starts_with(']') {
            break;
        }
        length += digits + 2;
    }
    length
}

/// Whether the full stop after `before` belongs to its last word. `next` is the first letter of the next word, and
/// `alone` says that nothing stands between the stop and the space.
fn is_abbreviated(before: &str, next: Option<char>, alone: bool) -> bool {
    if !alone {
        return false;
    }
    let word_start = before
        .rfind(|c: char| c.is_whitespace() || is_opening(c))
        .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let word = &before[word_start..];
    let is_first = before[..word_start].trim().is_empty();
    let mut letters = word.chars();
    let (initial, more) = (letters.next(), letters.next());
    // An initial (`J. Austen`, though not `So did I.`), or the number of an item or heading (`2. Two`, `B. More`).
    if more.is_none() && initial.is_some_and(|c| c.is_uppercase() && (c != 'I' || is_first)) {
        return true;
    }
    if is_first && !word.is_empty() && word.len() <= 3 && word.bytes().all(|byte| byte.is_ascii_digit()) {
        return true;
    }
    // Initials run together: `U.S. Army`. They can end a sentence too; joining two is the smaller harm.
    if word.len() >= 3 && word.split('.').all(|part| part.chars().count() == 1 && part.starts_with(char::is_uppercase))
    {
        return true;
    }
    let lower = word.to_lowercase();
    if ONLY_BEFORE_NUMBERS.contains(&lower.as_str()) {
        return next.is_some_and(|c| c.is_ascii_digit());
    }
    ABBREVIATIONS.contains(&lower.as_str())
}

fn push_trimmed(text: &str, start: usize, end: usize, spans: &mut Vec<Span>) {
    let piece = &text[start..end];
    let trimmed = piece.trim();
    if !trimmed.is_empty() {
        let lead = piece.len() - piece.trim_start().len();
        spans.push(Span::new(start + lead, start + lead + trimmed.len()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).iter().map(|span| span.slice(text).unwrap()).collect()
    }

    /// Each text holds exactly the sentences that `/` separates.
    fn assert_splits(marked: &str) {
        let expected: Vec<&str> = marked.split('/').map(str::trim).collect();
        assert_eq!(split(&marked.replace('/', "")), expected);
    }

    #[test]
    fn ends_of_sentences() {
        assert_splits("One. / Two! / Three? / Four… / “Five.” / (Six.) / Seven");
        assert_splits("It ended in 1995. / The rest (see there) is known.[11][12] / Next.");
        assert_splits("He said “Why?” and left. / “No!” cried she. / So did I. / Yes.");
        assert_splits("吾輩は猫である。/名前はまだ無い。/「どこ？」/と。");
    }

    #[test]
    fn dots_that_do_not_end_a_sentence() {
        for whole in [
            "Use e.g. Foo, i.e. Bar, cf. Baz.",
            "Mr. Bennet met Dr. J. R. Smith of St. Ives.",
            "Call foo.bar() in file.rs or x().Y at 3.14 or v1.2.3 today.",
            "See Fig. 2 and No. 5 on p. 7 of vol. II.",
            "The U.S. Army did.",
            "It goes on ... and on.",
            "2. Two",
        ] {
            assert_eq!(split(whole), [whole]);
        }
        assert_splits("He said no. / She left.");
    }

    #[test]
    fn layout_ends_sentences_but_wrapping_does_not() {
        assert_eq!(split("A wrapped\nline.\n\nHeading\n\nText"), ["A wrapped\nline.", "Heading", "Text"]);
        assert_eq!(split("Take:\n- one\n- two\n  more\n10. ten"), ["Take:", "- one", "- two\n  more", "10. ten"]);
        assert_eq!(split("a | b\n1 | 2"), ["a | b", "1 | 2"]);
    }

    proptest! {
        #[test]
        fn spans_cover_all_but_white_space_in_order(text in "([A-Za-z]{1,4}|\\.|[!?…”\"(\\[\\]0-9]|。|é| |\n|- |[|]){0,60}") {
            let mut end = 0;
            for span in sentences(&text) {
                prop_assert!(span.start >= end && !span.is_empty());
                prop_assert!(text[end..span.start].trim().is_empty());
                let sentence = span.slice(&text).unwrap();
                prop_assert_eq!(sentence.trim(), sentence);
                end = span.end;
            }
            prop_assert!(text[end..].trim().is_empty());
        }
    }
}
