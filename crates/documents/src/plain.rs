//! Plain text: paragraphs are what blank lines separate; lines stay as they are.
//!
//! Headings are recognised only where the text leaves no doubt: a line of its own such as `Chapter 12` or
//! `PART II. The War`, or a title underlined with `===` or `---`. Nothing is inferred from capitals or numbering.

use crate::assemble::Assembler;
use crate::normalise::normalise;
use crate::parser::{Front, finish};
use crate::{BlockKind, DocumentError, ParsedDocument, Parser, SourceInfo, Work, decode};

/// Longest heading line, in characters.
const MAX_HEADING_CHARS: usize = 80;

/// Lines from the top among which a `Title:` line is looked for.
const TITLE_LINES: usize = 30;

/// Words that open a numbered division, and its level.
const DIVISIONS: &[(&str, u8)] =
    &[("book", 1), ("part", 1), ("volume", 1), ("act", 1), ("chapter", 2), ("appendix", 2), ("canto", 2), ("scene", 3)];

/// Parser of plain text.
pub struct PlainTextParser;

impl Parser for PlainTextParser {
    fn name(&self) -> &'static str {
        "plain text"
    }

    fn media_types(&self) -> &'static [&'static str] {
        &["text/plain"]
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["txt", "text", "log"]
    }

    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
        let text = normalise(&decode::decode(bytes, &source.uri, None)?);
        let mut assembler = Assembler::default();
        // Normalised blank lines are empty, and a run of them splits into blank pieces, which are skipped.
        for paragraph in text.split("\n\n").map(|p| p.trim_matches('\n')).filter(|p| !p.is_empty()) {
            work.check(source)?;
            paragraph_or_heading(paragraph, &mut assembler);
        }
        let declared = declared_title(&text);
        let assembled = assembler.finish(declared.as_deref());
        // A division is not a title, so the first one never names the document; an underlined title above all does.
        let top = assembled.blocks.first().and_then(|block| match &block.kind {
            BlockKind::Heading { level: 1, title } if division(title).is_none() => Some(title.clone()),
            _ => None,
        });
        let mut front = Front::default();
        // Lines such as `Author:` say so only in a header that also has a title.
        if let Some(title) = &declared {
            front.add("title", title);
            for (key, label) in [("author", "Author:"), ("date", "Release date:"), ("date", "Date:")] {
                front.add(key, declared_field(&text, label).unwrap_or_default());
            }
            front.language = declared_field(&text, "Language:").map(str::to_owned);
        }
        front.titles = [declared, top, Some(source.stem().to_owned())].into_iter().flatten().collect();
        finish(self, source, assembled, front)
    }
}

/// The value of a `Title:` line near the top, as in the header of a Project Gutenberg book.
fn declared_title(text: &str) -> Option<String> {
    declared_field(text, "Title:").map(str::to_owned)
}

/// The value of a line near the top that begins with `label`.
fn declared_field<'t>(text: &'t str, label: &str) -> Option<&'t str> {
    let value = text.lines().take(TITLE_LINES).find_map(|line| line.strip_prefix(label))?.trim();
    (!value.is_empty() && value.chars().count() <= MAX_HEADING_CHARS).then_some(value)
}

fn paragraph_or_heading(paragraph: &str, out: &mut Assembler) {
    let (first, rest) = paragraph.split_once('\n').unwrap_or((paragraph, ""));
    if let Some(level) = division(first).filter(|_| rest.is_empty()) {
        return heading(level, first, out);
    }
    let (underline, body) = rest.split_once('\n').unwrap_or((rest, ""));
    if let Some(level) = underlined(first, underline) {
        heading(level, first, out);
        // The line of marks repeats nothing a reader would quote.
        if !body.is_empty() {
            out.push_block(BlockKind::Paragraph, body);
        }
        return;
    }
    out.push_block(BlockKind::Paragraph, paragraph);
}

fn heading(level: u8, title: &str, out: &mut Assembler) {
    out.open_heading(level);
    out.text(title);
    out.close_heading();
}

/// Level of a line like `Chapter 12`, `PART II. The War`, `Appendix B: Tables`.
fn division(line: &str) -> Option<u8> {
    if line.chars().count() > MAX_HEADING_CHARS {
        return None;
    }
    let mut words = line.split_whitespace();
    let word = words.next()?.to_lowercase();
    let level = DIVISIONS.iter().find(|(name, _)| *name == word).map(|(_, level)| *level)?;
    let number = words.next()?;
    let rest = words.next();
    let bare = number.trim_end_matches(['.', ':', ',', '—', '-']);
    let is_number = !bare.is_empty() && bare.chars().all(|c| c.is_ascii_digit());
    let is_roman = !bare.is_empty() && bare.chars().all(|c| "IVXLCDM".contains(c));
    let is_letter = word == "appendix" && bare.len() == 1 && bare.chars().all(|c| c.is_ascii_uppercase());
    // `Part 2 was better.` is a sentence: a title after the number needs punctuation between, and no full stop.
    let is_title = rest.is_none() || (bare != number && !line.ends_with('.'));
    ((is_number || is_roman || is_letter) && is_title).then_some(level)
}

/// Level of a title with a line of `=` (1) or `-` (2) below it, about as long as the title.
fn underlined(title: &str, underline: &str) -> Option<u8> {
    let (title, marks) = (title.trim().chars().count(), underline.trim().chars().count());
    let fits = marks >= 3 && title <= MAX_HEADING_CHARS && title.abs_diff(marks) <= 3;
    let of = |mark: char| underline.trim().chars().all(|c| c == mark);
    match (fits, of('='), of('-')) {
        (true, true, _) => Some(1),
        (true, _, true) => Some(2),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::work::tests::work;

    fn parse(source: &str) -> ParsedDocument {
        let document = PlainTextParser.parse(source.as_bytes(), &SourceInfo::new("a.txt"), &work()).unwrap();
        document.check_blocks().unwrap();
        document
    }

    fn headings(document: &ParsedDocument) -> Vec<&str> {
        let is_heading = |kind: &BlockKind| matches!(kind, BlockKind::Heading { .. });
        let titles = document.blocks.iter().filter(|block| is_heading(&block.kind));
        titles.map(|block| block.span.slice(&document.text).unwrap()).collect()
    }

    #[test]
    fn lines_stay_and_blank_lines_separate_paragraphs() {
        let document = parse("one\r\ntwo\r\n\r\n\r\n\r\n  three\t.\r\n");
        assert_eq!(document.text, "one\ntwo\n\n  three    .");
        assert_eq!(document.blocks.len(), 2);
    }

    #[test]
    fn only_certain_headings_are_taken() {
        let document = parse(
            "Chapter 1\n\nChapter 2 of the book was long.\n\nPART II. The War\n\nPart 3 was better\n\nChapter One\n\n\
             Title\n=====\nbody\n\nA long sentence\n---\n\nI. Roman alone\n\nALL CAPITALS\n",
        );
        assert_eq!(headings(&document), ["Chapter 1", "PART II. The War", "Title"]);
        assert_eq!(
            document.blocks.iter().find(|b| b.span.slice(&document.text) == Ok("body")).unwrap().heading_path,
            ["Title"]
        );
    }

    #[test]
    fn the_title_is_declared_underlined_or_the_file_name() {
        let document = parse("Header\n\nTitle: Emma\n\nChapter 1\n\nx");
        assert_eq!(document.title, "Emma");
        assert_eq!(document.blocks.last().unwrap().heading_path, ["Emma", "Chapter 1"]);
        assert_eq!(parse("Emma\n====\n\nx").title, "Emma");
        assert_eq!(parse("Chapter 1\n\nx").title, "a");
    }

    #[test]
    fn a_table_of_contents_is_no_outline() {
        assert!(headings(&parse("Contents\n\nChapter 1\nChapter 2\nChapter 3\n")).is_empty());
    }
}
