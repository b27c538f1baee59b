//! Sentences, of answers and of sources alike.
//!
//! Unicode's sentence boundaries (UAX #29) within blocks: a line break inside a paragraph is a space, since prose is
//! often wrapped; blank lines, list items, headings, table rows and lines of code end a sentence. Full stops of common
//! abbreviations and of item numbers do not.

use edgewise_types::Span;
use unicode_segmentation::UnicodeSegmentation;

/// Words, lower case, whose full stop does not end a sentence.
const ABBREVIATIONS: &[&str] = &[
    "al", "approx", "cf", "dr", "e.g", "eq", "fig", "i.e", "jr", "mr", "mrs", "ms", "no", "nos", "p", "pp", "prof",
    "sr", "st", "vol", "vs",
];

/// Spans of the sentences of `text`, in order, without surrounding white space and without item marks.
pub fn sentences(text: &str) -> Vec<Span> {
    let mut spans = Vec::new();
    for block in blocks(text) {
        // A line break has the length of a space, so offsets stay.
        let flat = text[block.start..block.end].replace(['\n', '\r', '\t'], " ");
        let mut start = 0;
        for (at, piece) in flat.split_sentence_bound_indices() {
            let end = at + piece.len();
            if !continues(&flat[start..end]) || end == flat.len() {
                push(text, block.start + start, block.start + end, &mut spans);
                start = end;
            }
        }
    }
    spans
}

/// Whether a sentence that seems to end here goes on: its last full stop is of an abbreviation or an item number.
fn continues(sentence: &str) -> bool {
    let Some(before) = sentence.trim_end().strip_suffix('.') else { return false };
    let word = before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or("");
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    let item = !before.trim().is_empty() && before.trim().bytes().all(|b| b.is_ascii_digit());
    initial || item || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

/// Ranges of lines that belong together.
fn blocks(text: &str) -> Vec<Span> {
    let mut blocks: Vec<Span> = Vec::new();
    let mut open = false;
    let mut fenced = false;
    let mut offset = 0;
    for line in text.split_inclusive('\n') {
        let span = Span::new(offset, offset + line.len());
        offset = span.end;
        let trimmed = line.trim();
        let fence = trimmed.starts_with("```");
        let alone = fence || fenced || trimmed.starts_with('#') || trimmed.starts_with('|') || line.contains(" | ");
        fenced ^= fence;
        if trimmed.is_empty() {
            open = false;
        } else if alone {
            blocks.push(span);
            open = false;
        } else if let (true, false, Some(last)) = (open, item_mark(trimmed) > 0, blocks.last_mut()) {
            last.end = span.end;
        } else {
            blocks.push(span);
            open = true;
        }
    }
    blocks
}

/// Length of a bullet or item number with its space at the start of `line`.
fn item_mark(line: &str) -> usize {
    if let Some(rest) = ["- ", "* ", "+ ", "• "].iter().find_map(|mark| line.strip_prefix(mark)) {
        return line.len() - rest.len();
    }
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let marked = (1..=3).contains(&digits) && (line[digits..].starts_with(". ") || line[digits..].starts_with(") "));
    if marked { digits + 2 } else { 0 }
}

fn push(text: &str, start: usize, end: usize, spans: &mut Vec<Span>) {
    let whole = &text[start..end];
    let mut from = start + (whole.len() - whole.trim_start().len());
    from += item_mark(&text[from..end]);
    let to = start + whole.trim_end().len();
    if from < to && text[from..to].contains(char::is_alphanumeric) {
        spans.push(Span::new(from, to));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    fn sentences(text: &str) -> Vec<&str> {
        super::sentences(text).into_iter().map(|span| &text[span.start..span.end]).collect()
    }

    #[test]
    fn prose_is_split_at_ends_of_sentences_only() {
        assert_eq!(
            sentences("The mirror, e.g. Dr. Smith's, has 3.6 m. It is\nwrapped here. Done? Yes!"),
            ["The mirror, e.g. Dr. Smith's, has 3.6 m.", "It is\nwrapped here.", "Done?", "Yes!"]
        );
    }

    #[test]
    fn blocks_end_sentences() {
        let text = "# A title\n\nIntro without stop\n\n- first item\n- second item\n1. numbered one\n2. numbered two\n\n| a | b |\n| 1 | 2 |\n";
        assert_eq!(
            sentences(text),
            [
                "# A title",
                "Intro without stop",
                "first item",
                "second item",
                "numbered one",
                "numbered two",
                "| a | b |",
                "| 1 | 2 |"
            ]
        );
        assert_eq!(sentences("```\nlet a = 1;\nlet b = 2;\n```\nText."), ["let a = 1;", "let b = 2;", "Text."]);
    }

    proptest! {
        #[test]
        fn spans_are_ordered_and_lose_no_letter(text in "([A-Za-zé0-9]{1,6}|[ .!?\n\\-#|`]{1,2}){0,40}") {
            let spans = super::sentences(&text);
            prop_assert!(spans.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let kept: usize = spans.iter().map(|s| text[s.start..s.end].chars().filter(|c| c.is_alphabetic()).count()).sum();
            prop_assert_eq!(kept, text.chars().filter(|c| c.is_alphabetic()).count());
        }
    }
}
