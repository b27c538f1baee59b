//! From the lines of all pages to paragraphs: page furniture removed, broken words and paragraphs joined, headings,
//! lists and code recognised.

use std::collections::{HashMap, HashSet};

use super::layout::Region;
use super::lines::Segment;

/// Share of the page's height at top and bottom where running titles and page numbers stand.
const MARGIN: f64 = 0.12;
/// Fewest pages on which a line must come again to be furniture.
const MIN_REPEATS: usize = 3;
/// A heading is larger than the body text by this factor.
const HEADING_SIZE: f64 = 1.12;
/// Longest heading, in characters.
const MAX_HEADING_CHARS: usize = 160;

/// A page as laid out.
pub(super) struct PageText {
    pub height: f64,
    pub regions: Vec<Region>,
}

/// What a piece of the document is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Text,
    /// A list item, with its marker; an empty one for a bullet.
    Item(String),
    Code,
    Table(Vec<Vec<String>>),
}

/// A paragraph or another piece, in reading order.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub kind: Kind,
    pub text: String,
    /// Font size.
    pub size: f64,
    pub bold: bool,
    /// Heading level the file gives it.
    pub heading: Option<u8>,
    pub lines: usize,
    /// Pages it stands on, from 0, and where in `text` each begins.
    pub pages: Vec<(usize, usize)>,
}

impl Piece {
    /// The page it begins on.
    pub(super) fn page(&self) -> usize {
        self.pages.first().map_or(0, |(page, _)| *page)
    }

    /// Whether it looks like a heading beside body text of size `body`.
    pub(super) fn looks_like_heading(&self, body: f64) -> bool {
        let chars = self.text.chars().count();
        let letters = self.text.chars().filter(|c| c.is_alphabetic()).count();
        let stands_out = self.size >= HEADING_SIZE * body || self.bold && self.size >= 0.98 * body && self.lines == 1;
        self.kind == Kind::Text
            && stands_out
            && chars <= MAX_HEADING_CHARS
            && letters >= 2
            && letters * 2 >= chars
            && self.lines <= 3
            && !self.text.ends_with(['.', ',', ';', ':'])
    }
}

/// Removes lines at the top and bottom that come again on many pages, page numbers among them.
pub(super) fn remove_furniture(pages: &mut [PageText]) {
    let mut seen: HashMap<(bool, String), usize> = HashMap::new();
    let is_edge = |line: &Segment, height: f64| line.y < height * MARGIN || line.y > height * (1.0 - MARGIN);
    let key = |line: &Segment, height: f64| (line.y < height / 2.0, masked(&line.text));
    for page in pages.iter() {
        let lines = page.regions.iter().filter_map(|region| match region {
            Region::Flow(lines) => Some(lines),
            Region::Table(_) => None,
        });
        let keys: HashSet<_> =
            lines.flatten().filter(|line| is_edge(line, page.height)).map(|line| key(line, page.height)).collect();
        keys.into_iter().for_each(|key| *seen.entry(key).or_default() += 1);
    }
    // Running titles change with the chapter, so a share of all pages would be too much to ask.
    let least = MIN_REPEATS.max(pages.len() / 50);
    for page in pages.iter_mut() {
        let height = page.height;
        for region in &mut page.regions {
            if let Region::Flow(lines) = region {
                let (first, last) = outermost(lines);
                lines.retain(|line| {
                    // Only the outermost lines: a sentence of the text may come again, too.
                    let outer = line.y <= first + line.size * 2.0 || line.y >= last - line.size * 2.0;
                    !(outer && is_edge(line, height)) || seen.get(&key(line, height)).is_none_or(|times| *times < least)
                });
            }
        }
    }
}

/// Base lines of the first and the last line.
fn outermost(lines: &[Segment]) -> (f64, f64) {
    let ys = || lines.iter().map(|line| line.y);
    (ys().fold(f64::INFINITY, f64::min), ys().fold(f64::NEG_INFINITY, f64::max))
}

/// A line with its numbers made equal, so that page numbers and `Page 3 of 9` come again.
fn masked(text: &str) -> String {
    let mut out = String::new();
    let roman = |word: &str| !word.is_empty() && word.len() <= 7 && word.chars().all(|c| "ivxlc".contains(c));
    for word in text.split_whitespace() {
        if roman(word) {
            out.push('#');
        } else {
            let mut in_number = false;
            for character in word.chars() {
                if character.is_ascii_digit() {
                    if !in_number {
                        out.push('#');
                    }
                    in_number = true;
                } else {
                    in_number = false;
                    out.extend(character.to_lowercase());
                }
            }
        }
        out.push(' ');
    }
    out
}

/// Font size of most of the text.
pub(super) fn body_size(pages: &[PageText]) -> f64 {
    let mut sizes: HashMap<i64, usize> = HashMap::new();
    for page in pages {
        for region in &page.regions {
            if let Region::Flow(lines) = region {
                for line in lines.iter().filter(|line| !line.mono) {
                    *sizes.entry((line.size * 4.0).round() as i64).or_default() += line.text.len();
                }
            }
        }
    }
    let most = sizes.into_iter().max_by_key(|(size, chars)| (*chars, *size));
    most.map_or(10.0, |(size, _)| size as f64 / 4.0)
}

/// The pieces of all pages.
pub(super) fn pieces(pages: Vec<PageText>) -> Vec<Piece> {
    let words = vocabulary(&pages);
    let mut out: Vec<Piece> = Vec::new();
    for (number, page) in pages.into_iter().enumerate() {
        let mut is_first = true;
        for region in page.regions {
            match region {
                Region::Table(rows) => out.push(Piece {
                    kind: Kind::Table(rows),
                    text: String::new(),
                    size: 0.0,
                    bold: false,
                    heading: None,
                    lines: 1,
                    pages: vec![(number, 0)],
                }),
                Region::Flow(lines) => {
                    let begun = out.len();
                    flow(lines, number, &words, &mut out);
                    if is_first && begun > 0 {
                        join_over_pages(begun, &words, &mut out);
                    }
                }
            }
            is_first = false;
        }
    }
    out.retain(|piece| !piece.text.trim().is_empty() || matches!(piece.kind, Kind::Table(_)));
    out
}

/// The words of the document, in lower case, as they stand inside lines: for deciding about hyphens at line ends.
fn vocabulary(pages: &[PageText]) -> HashSet<String> {
    let mut words = HashSet::new();
    for page in pages {
        for region in &page.regions {
            if let Region::Flow(lines) = region {
                for line in lines {
                    let inner = line.text.split_whitespace().rev().skip(1);
                    words.extend(inner.map(|word| bare(word).to_lowercase()));
                }
            }
        }
    }
    words
}

/// A word without punctuation around it.
fn bare(word: &str) -> &str {
    word.trim_matches(|c: char| !c.is_alphanumeric())
}

/// Joins the first piece of a page to the last one before it, if that one goes on.
fn join_over_pages(begun: usize, words: &HashSet<String>, out: &mut Vec<Piece>) {
    let (Some(before), Some(first)) = (begun.checked_sub(1).and_then(|at| out.get(at)), out.get(begun)) else { return };
    // An item of one line that stops in the middle of a sentence goes on, also where it began with a bold term.
    let is_item = matches!(before.kind, Kind::Item(_));
    let goes_on = !before.text.ends_with(['.', '!', '?', ':', '”', '"', '’', ')']) && (before.lines > 1 || is_item)
        || before.text.ends_with('-');
    let starts_lower = first.text.chars().next().is_some_and(|c| c.is_lowercase() || c == '“');
    let alike = first.kind == Kind::Text
        && (is_item || before.kind == Kind::Text)
        && (first.size - before.size).abs() < 0.05 * before.size
        && first.heading.is_none()
        && before.heading.is_none()
        && (is_item || first.bold == before.bold);
    if !(alike && goes_on && starts_lower) {
        return;
    }
    let first = out.remove(begun);
    if let Some(before) = out.get_mut(begun - 1) {
        let at = append(&mut before.text, &first.text, words);
        before.lines += first.lines;
        before.pages.extend(first.pages.iter().map(|(page, offset)| (*page, at + offset)));
    }
}

/// Appends a line to a paragraph, and says where it begins. A hyphen at the end of the line before goes if the word is
/// known without it, or if it is not known with it.
fn append(text: &mut String, line: &str, words: &HashSet<String>) -> usize {
    let next = line.split_whitespace().next().unwrap_or_default();
    let last = text.split_whitespace().next_back().unwrap_or_default();
    let hyphen = last.chars().next_back().filter(|c| matches!(c, '-' | '\u{ad}' | '\u{2010}'));
    let letter_before = last.chars().rev().nth(1).is_some_and(char::is_alphabetic);
    let starts_lower = next.chars().next().is_some_and(char::is_lowercase);
    match hyphen {
        Some(hyphen) if letter_before && (starts_lower || hyphen == '\u{ad}') => {
            let stem = last.trim_end_matches(hyphen);
            let joined = bare(&format!("{stem}{next}")).to_lowercase();
            let kept = bare(&format!("{stem}-{next}")).to_lowercase();
            let keeps = hyphen != '\u{ad}' && !words.contains(&joined) && (words.contains(&kept) || stem.contains('-'));
            if !keeps {
                text.truncate(text.len() - hyphen.len_utf8());
            }
        }
        // A dash or the hyphen of `Anglo-Saxon` stays, without a space after it.
        Some('-') if letter_before => {}
        _ if text.ends_with(['—', '–']) && !text.ends_with(" —") && !text.ends_with(" –") => {}
        _ if text.is_empty() => {}
        _ => text.push(' '),
    }
    let at = text.len();
    text.push_str(line);
    at
}

/// The paragraphs of a flow of lines.
fn flow(lines: Vec<Segment>, page: usize, words: &HashSet<String>, out: &mut Vec<Piece>) {
    let left = percentile(lines.iter().map(|line| line.x0), 0.1);
    let right = percentile(lines.iter().map(|line| line.x1), 0.9);
    let usual_gap = percentile(lines.windows(2).map(|pair| pair[1].y - pair[0].y), 0.4);
    let mut before: Option<Segment> = None;
    // Left edges of the first and second line of the paragraph in progress.
    let mut edges: (f64, Option<f64>) = (left, None);
    for mut line in lines {
        // A closing bracket alone on its line is too short to tell its font by.
        if before.as_ref().is_some_and(|before| before.mono) && line.text.chars().count() < 8 {
            line.mono = true;
        }
        let marker = if line.mono { None } else { marker(&line.text) };
        let starts = match &before {
            None => true,
            Some(before) => {
                let is_code = line.mono && before.mono;
                let gap = line.y - before.y;
                let larger = before.size.max(line.size);
                let is_heading = |line: &Segment| line.heading.is_some() || line.bold;
                let fits =
                    before.x1 + first_word_width(&line) + 0.3 * line.size < right - 0.02 * (right - left).max(0.0);
                let hanging = edges.1.is_some_and(|second| second > edges.0 + 0.6 * line.size);
                if is_code {
                    gap > 3.0 * larger
                } else {
                    marker.is_some()
                        || line.mono != before.mono
                        || (line.size - before.size).abs() > 0.08 * larger
                        || is_heading(&line) != is_heading(before)
                        || line.heading != before.heading
                        || gap > 2.6 * larger
                        || gap > (1.35 * usual_gap).max(1.15 * larger) && gap > usual_gap + 0.25 * larger
                        || fits && !(line.heading.is_some() || line.bold)
                        || line.x0 > left + 0.6 * line.size
                            && before.x0 < left + 0.3 * line.size
                            && !continues_item(out)
                        || hanging && line.x0 < edges.0 + 0.3 * line.size
                }
            }
        };
        if starts {
            edges = (line.x0, None);
            let (kind, text) = match &marker {
                _ if line.mono => (Kind::Code, indented(&line, left)),
                Some((mark, length)) => (Kind::Item(mark.clone()), line.text[*length..].trim_start().to_owned()),
                None => (Kind::Text, line.text.clone()),
            };
            out.push(Piece {
                kind,
                text,
                size: line.size,
                bold: line.bold,
                heading: line.heading,
                lines: 1,
                pages: vec![(page, 0)],
            });
        } else if let Some(piece) = out.last_mut() {
            edges.1 = edges.1.or(Some(line.x0));
            piece.lines += 1;
            if piece.kind == Kind::Code {
                piece.text.push('\n');
                // A gap of more than a line is a blank line of the code.
                if before.as_ref().is_some_and(|before| line.y - before.y > 1.7 * usual_gap.max(line.size)) {
                    piece.text.push('\n');
                }
                piece.text.push_str(&indented(&line, left));
            } else {
                append(&mut piece.text, &line.text, words);
                piece.bold &= line.bold;
            }
        }
        before = Some(line);
    }
}

fn continues_item(out: &[Piece]) -> bool {
    out.last().is_some_and(|piece| matches!(piece.kind, Kind::Item(_)))
}

/// A line of code with its indentation, by the width of its characters.
fn indented(line: &Segment, left: f64) -> String {
    let chars = line.text.chars().count().max(1) as f64;
    let width = ((line.x1 - line.x0) / chars).max(0.1);
    let indent = ((line.x0 - left) / width).round().clamp(0.0, 80.0) as usize;
    format!("{}{}", " ".repeat(indent), line.text)
}

fn first_word_width(line: &Segment) -> f64 {
    let chars = line.text.chars().count().max(1) as f64;
    let first = line.text.split_whitespace().next().map_or(0, |word| word.chars().count()) as f64;
    (line.x1 - line.x0) * first / chars
}

/// The marker a line begins with and its length in bytes: a bullet (empty) or a number such as `3.` or `(b)`.
fn marker(line: &str) -> Option<(String, usize)> {
    let first = line.chars().next()?;
    if "•●○◦▪■□‣∙·➢➤❖✓".contains(first) {
        return Some((String::new(), first.len_utf8()));
    }
    let (word, rest) = line.split_once(' ')?;
    if rest.is_empty() {
        return None;
    }
    if matches!(word, "-" | "–" | "*") {
        return Some((String::new(), word.len()));
    }
    let inner = word.strip_suffix(['.', ')'])?;
    let inner = inner.strip_prefix('(').unwrap_or(inner);
    let is_number = (1..=2).contains(&inner.len()) && inner.bytes().all(|byte| byte.is_ascii_digit());
    let is_letter = word.ends_with(')') && inner.len() == 1 && inner.bytes().all(|byte| byte.is_ascii_lowercase());
    (is_number || is_letter).then(|| (word.to_owned(), word.len()))
}

fn percentile(values: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let at = (values.len().saturating_sub(1) as f64 * share).round() as usize;
    values.get(at).copied().unwrap_or(0.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn words_broken_at_line_ends_are_joined() {
        let words: HashSet<String> = ["well-known", "something"].map(str::to_owned).into();
        let joined = |before: &str, line: &str| {
            let mut text = before.to_owned();
            append(&mut text, line, &words);
            text
        };
        assert_eq!(joined("some-", "thing else"), "something else");
        assert_eq!(joined("a well-", "known man"), "a well-known man");
        assert_eq!(joined("un-", "heard, of"), "unheard, of");
        assert_eq!(joined("Anglo-", "Saxon"), "Anglo-Saxon");
        assert_eq!(joined("mother-in-", "law"), "mother-in-law");
        assert_eq!(joined("he said—", "no"), "he said—no");
        assert_eq!(joined("plain", "line"), "plain line");
    }

    #[test]
    fn markers() {
        assert_eq!(marker("• one"), Some((String::new(), 3)));
        assert_eq!(marker("12. twelve"), Some(("12.".to_owned(), 3)));
        assert_eq!(marker("(b) letter"), Some(("(b)".to_owned(), 3)));
        assert_eq!(marker("1813. A year"), None);
        assert_eq!(marker("A. Smith"), None);
    }

    #[test]
    fn page_numbers_look_alike() {
        assert_eq!(masked("Page 12 of 300"), masked("Page 3 of 300"));
        assert_eq!(masked("xii"), masked("iv"));
        assert_ne!(masked("Chapter"), masked("Contents"));
    }
}
