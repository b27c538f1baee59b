//! AsciiDoc (<https://docs.asciidoctor.org/asciidoc/latest/>) to readable text, line by line.
//!
//! Read: the header with its attributes, sections, paragraphs, lists, delimited blocks, tables of one line per row or
//! one cell per line, and the inline marks. Attribute references are replaced where the document sets them. Left out:
//! comments, includes and conditionals (which name what is not part of the file), and block attributes. Nested blocks
//! are read one within the other without recursion.

use std::collections::HashMap;

use edgewise_types::MetadataValue;

use crate::assemble::Assembler;
use crate::parser::{Front, finish};
use crate::{BlockKind, DocumentError, ParsedDocument, Parser, SourceInfo, Work, decode};

/// Deepest list level.
const MAX_LIST_LEVELS: usize = 8;

/// Longest marked text, in bytes, so that marks that are never closed cost no more than this each.
const MAX_SPAN_BYTES: usize = 2048;

/// Parser of AsciiDoc.
pub struct AsciidocParser;

impl Parser for AsciidocParser {
    fn name(&self) -> &'static str {
        "AsciiDoc"
    }

    fn media_types(&self) -> &'static [&'static str] {
        &["text/asciidoc", "text/x-asciidoc"]
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["adoc", "asciidoc", "asc"]
    }

    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
        let text = decode::decode(bytes, &source.uri, None)?.replace("\r\n", "\n");
        let mut reader = Reader::default();
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        let body = reader.header(&lines);
        let mut at = body;
        while let Some(line) = lines.get(at) {
            if at.is_multiple_of(1024) {
                work.check(source)?;
            }
            at += reader.line(line, lines.get(at + 1..).unwrap_or_default());
        }
        reader.end_paragraph();
        reader.end_lists(0);
        let Reader { out, attributes, title, mut front, .. } = reader;
        for (key, name) in
            [("author", "author"), ("date", "revdate"), ("keywords", "keywords"), ("description", "description")]
        {
            if let Some(value) = attributes.get(name) {
                front.add(key, value);
            }
        }
        front.language = attributes.get("lang").cloned();
        if let Some(title) = &title {
            front.metadata.insert("title".to_owned(), MetadataValue::Text(title.clone()));
            front.titles.push(title.clone());
        }
        let assembled = out.finish(title.as_deref());
        finish(self, source, assembled, front)
    }
}

#[derive(Default)]
struct Reader {
    out: Assembler,
    attributes: HashMap<String, String>,
    title: Option<String>,
    front: Front,
    paragraph: String,
    /// Markers of the list levels open, outermost first: `*`, `**`, `-`, `.`, `::`.
    lists: Vec<String>,
    /// Fences of quotations open.
    quotes: Vec<String>,
    /// Whether a plus sign attaches what comes next to the list item.
    attached: bool,
}

impl Reader {
    /// Reads the document header and returns the index of the line after it.
    fn header(&mut self, lines: &[&str]) -> usize {
        let is_skipped =
            |line: &&str| line.is_empty() || is_comment(line) || line.starts_with(':') || line.starts_with('[');
        let start = lines.iter().take_while(|line| is_skipped(line)).count();
        lines[..start].iter().for_each(|line| self.attribute(line));
        let Some(title) = lines.get(start).and_then(|line| line.strip_prefix("= ").or(line.strip_prefix("# "))) else {
            return start;
        };
        let title = self.inline(title);
        self.out.open_heading(1);
        self.out.text(&title);
        self.out.close_heading();
        self.title = Some(title);
        let rest = lines.get(start + 1..).unwrap_or_default();
        let length = rest.iter().take_while(|line| !line.is_empty()).count();
        let mut plain = rest[..length].iter().filter(|line| !is_comment(line) && !line.starts_with(':'));
        if let Some(author) = plain.next() {
            // `Ada Lovelace <ada@example.org>; Alan Turing`
            let names: Vec<&str> = author.split(';').map(|one| one.split('<').next().unwrap_or(one).trim()).collect();
            self.attributes.insert("author".to_owned(), names.join("; "));
        }
        if let Some(revision) = plain.next() {
            let date = revision.split(',').nth(1).or((!revision.starts_with('v')).then_some(*revision));
            let date = date.map(|date| date.split(':').next().unwrap_or(date).trim().to_owned());
            self.attributes.extend(date.map(|date| ("revdate".to_owned(), date)));
        }
        rest[..length].iter().for_each(|line| self.attribute(line));
        start + 1 + length
    }

    /// Takes an attribute entry, `:name: value`.
    fn attribute(&mut self, line: &str) {
        if let Some((name, value)) = line.strip_prefix(':').and_then(|rest| rest.split_once(':')) {
            self.attributes.insert(name.trim().to_lowercase(), value.trim().to_owned());
        }
    }

    /// Reads a line; `after` are the lines that follow. Returns how many lines were used.
    fn line(&mut self, line: &str, after: &[&str]) -> usize {
        if let Some(used) = self.delimited(line, after) {
            return used;
        }
        if line.is_empty() {
            self.end_paragraph();
            return 1;
        }
        if is_comment(line) || is_directive(line) {
            return 1;
        }
        if line.starts_with(':') && line[1..].contains(':') && self.paragraph.is_empty() {
            self.attribute(line);
            return 1;
        }
        if line == "+" {
            self.end_paragraph();
            self.attached = true;
            return 1;
        }
        if line == "<<<" || line == "'''" || line == "---" {
            self.end_paragraph();
            return 1;
        }
        if line.starts_with('[') && line.ends_with(']') && self.paragraph.is_empty() {
            return 1;
        }
        if let Some((level, title)) = section(line) {
            self.end_paragraph();
            self.end_lists(0);
            let title = self.inline(title);
            self.out.open_heading(level);
            self.out.text(&title);
            self.out.close_heading();
            return 1;
        }
        if let Some(macro_) = line.strip_prefix("image::").or(line.strip_prefix("video::")) {
            self.end_paragraph();
            let alternative = macro_.split_once('[').map_or("", |(_, rest)| rest.trim_end_matches(']'));
            let alternative = self.inline(alternative.split(',').next().unwrap_or_default().trim_matches('"'));
            self.out.text(&alternative);
            self.out.flush();
            return 1;
        }
        if line.starts_with("toc::") {
            return 1;
        }
        // A block title stands above its block.
        if let Some(title) = line.strip_prefix('.').filter(|t| self.paragraph.is_empty() && !t.starts_with(['.', ' ']))
        {
            let title = self.inline(title);
            self.out.text(&title);
            self.out.flush();
            return 1;
        }
        if let Some((marker, text, description)) = item(line) {
            self.end_paragraph();
            self.attached = false;
            self.open_item(marker, text, description);
            return 1;
        }
        if self.paragraph.is_empty() && line.starts_with([' ', '\t']) && self.lists.is_empty() {
            let literal = after.iter().take_while(|line| !line.is_empty()).count();
            let code: Vec<&str> = std::iter::once(line).chain(after[..literal].iter().copied()).collect();
            self.out.code(&code.join("\n"));
            return literal + 1;
        }
        if self.paragraph.is_empty() {
            self.begin_block();
        }
        if !self.paragraph.is_empty() {
            self.paragraph.push(' ');
        }
        let hard_break = line.strip_suffix(" +");
        self.paragraph.push_str(hard_break.unwrap_or(line).trim_start());
        if hard_break.is_some() {
            self.paragraph.push('\n');
        }
        1
    }

    /// Reads a delimited block that begins at `line`; `None` if none does.
    fn delimited(&mut self, line: &str, after: &[&str]) -> Option<usize> {
        let is_fence = |mark: char| line.len() >= 4 && line.chars().all(|c| c == mark);
        let inside = || after.iter().position(|other| *other == line).unwrap_or(after.len());
        if is_fence('/') || is_fence('+') {
            self.end_paragraph();
            return Some(inside() + 2);
        }
        if is_fence('-') || is_fence('.') || line.starts_with("```") {
            self.end_paragraph();
            let end = if line.starts_with("```") {
                after.iter().position(|l| *l == "```").unwrap_or(after.len())
            } else {
                inside()
            };
            self.begin_block();
            self.out.code(&after[..end].join("\n"));
            return Some(end + 2);
        }
        if line.len() >= 4 && line.ends_with("===") && line.starts_with(['|', ',', ':', '!']) {
            self.end_paragraph();
            self.end_lists(0);
            let end = inside();
            self.table(&after[..end]);
            return Some(end + 2);
        }
        if is_fence('_') {
            self.end_paragraph();
            if self.quotes.last().is_some_and(|open| open == line) {
                self.quotes.pop();
                self.out.close_quote();
            } else if self.quotes.len() < MAX_LIST_LEVELS {
                self.quotes.push(line.to_owned());
                self.out.open_quote();
            }
            return Some(1);
        }
        // Examples, sidebars and open blocks only group what is in them.
        if is_fence('=') || is_fence('*') || line == "--" {
            self.end_paragraph();
            return Some(1);
        }
        None
    }

    fn table(&mut self, lines: &[&str]) {
        // The first row tells the number of columns: its cells stand on one line, or one on each up to a blank line.
        let cells = |line: &str| line.split('|').skip(1).map(str::trim).map(str::to_owned).collect::<Vec<_>>();
        let first: Vec<&&str> = lines.iter().skip_while(|l| l.is_empty()).take_while(|line| !line.is_empty()).collect();
        let most = first.iter().map(|line| cells(line).len()).max().unwrap_or(1);
        let columns = if most > 1 { most } else { first.len().max(1) };
        let mut all: Vec<String> = Vec::new();
        for line in lines.iter().filter(|line| !line.is_empty() && !is_comment(line)) {
            // Text before the first bar goes on with the cell above, but for what says how the cell is set.
            let (before, _) = line.split_once('|').unwrap_or((line, ""));
            if let Some(last) = all.last_mut().filter(|_| !before.trim().is_empty() && !is_cell_style(before)) {
                last.push(' ');
                last.push_str(before.trim());
            }
            all.extend(cells(line));
        }
        let rows: Vec<String> = all
            .chunks(columns)
            .map(|row| row.iter().map(|cell| self.inline(cell)).collect::<Vec<_>>().join(" | "))
            .collect();
        self.out.push_block(BlockKind::Table, &rows.join("\n"));
    }

    fn open_item(&mut self, marker: &str, text: &str, description: &str) {
        match self.lists.iter().position(|open| open == marker) {
            Some(level) => {
                self.end_lists(level + 1);
                self.out.close_item();
            }
            None if self.lists.len() < MAX_LIST_LEVELS => {
                self.lists.push(marker.to_owned());
                self.out.open_list(marker.starts_with('.').then_some(1));
            }
            None => self.out.close_item(),
        }
        self.out.open_item();
        if marker == "::" {
            let term = self.inline(text);
            self.out.text(&term);
            self.out.flush();
            self.paragraph.push_str(description);
        } else {
            self.paragraph.push_str(text);
        }
    }

    /// Ends the lists open before a block, unless it is attached to an item.
    fn begin_block(&mut self) {
        if !std::mem::take(&mut self.attached) {
            self.end_lists(0);
        }
    }

    fn end_lists(&mut self, depth: usize) {
        while self.lists.len() > depth {
            self.lists.pop();
            self.out.close_item();
            self.out.close_list();
        }
    }

    fn end_paragraph(&mut self) {
        let paragraph = std::mem::take(&mut self.paragraph);
        if paragraph.is_empty() {
            return;
        }
        let text = self.inline(&paragraph);
        for (index, line) in text.split('\n').enumerate() {
            if index > 0 {
                self.out.line_break();
            }
            self.out.text(line);
        }
        self.out.flush();
    }

    /// The characters of inline markup.
    fn inline(&self, source: &str) -> String {
        let mut out = String::with_capacity(source.len());
        let mut rest = source;
        let mut before: Option<char> = None;
        while let Some(character) = rest.chars().next() {
            let boundary = before.is_none_or(|c| !c.is_alphanumeric());
            let (text, used) =
                self.span(rest, boundary).unwrap_or_else(|| (character.to_string(), character.len_utf8()));
            out.push_str(&text);
            before = rest[..used].chars().next_back();
            rest = &rest[used..];
        }
        out
    }

    /// A piece of markup at the start of `rest`: its characters and its length in bytes.
    fn span(&self, rest: &str, boundary: bool) -> Option<(String, usize)> {
        let rest = &rest[..rest.floor_char_boundary(MAX_SPAN_BYTES)];
        if let Some(after) =
            rest.strip_prefix('\\').filter(|after| after.starts_with(|c: char| c.is_ascii_punctuation()))
        {
            let length = after.chars().next().map_or(0, char::len_utf8);
            return Some((after[..length].to_owned(), 1 + length));
        }
        if let Some(inner) = rest.strip_prefix('{') {
            let (name, _) = inner.split_once('}')?;
            let value = match name {
                "nbsp" => " ",
                "empty" | "blank" | "zwsp" => "",
                "apos" => "'",
                "quot" => "\"",
                "amp" => "&",
                "lt" => "<",
                "gt" => ">",
                name => self.attributes.get(&name.to_lowercase())?,
            };
            return Some((value.to_owned(), name.len() + 2));
        }
        if let Some(inner) = rest.strip_prefix("<<") {
            let (target, _) = inner.split_once(">>")?;
            let text = target.split_once(',').map_or(target, |(_, text)| text);
            return Some((text.trim().to_owned(), target.len() + 4));
        }
        for (open, close) in [("[[", "]]"), ("(((", ")))")] {
            if let Some((hidden, _)) = rest.strip_prefix(open).and_then(|inner| inner.split_once(close)) {
                return Some((String::new(), hidden.len() + open.len() + close.len()));
            }
        }
        if boundary && rest.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return macro_text(rest);
        }
        for (open, close, shown) in [("\"`", "`\"", ("“", "”")), ("'`", "`'", ("‘", "’"))] {
            if let Some((inner, _)) = rest.strip_prefix(open).and_then(|inner| inner.split_once(close)) {
                return Some((format!("{}{inner}{}", shown.0, shown.1), inner.len() + 4));
            }
        }
        let mark = rest.chars().next().filter(|c| matches!(c, '*' | '_' | '`' | '#' | '+' | '^' | '~'))?;
        let double: String = [mark, mark].iter().collect();
        let (fence, free) = if rest.starts_with(&double) { (double.as_str(), true) } else { (&double[..1], false) };
        let inner = &rest[fence.len()..];
        let end = inner.match_indices(fence).map(|(at, _)| at).find(|at| {
            let after = inner[at + fence.len()..].chars().next();
            let before = inner[..*at].chars().next_back();
            let closes = free || matches!(mark, '^' | '~') || after.is_none_or(|c| !c.is_alphanumeric() && c != mark);
            *at > 0 && closes && before.is_some_and(|c| free || !c.is_whitespace())
        })?;
        let opens = free || matches!(mark, '^' | '~') || boundary && !inner.starts_with(char::is_whitespace);
        let text = &inner[..end];
        // Literal marks show what is in them as it is; the others may hold more marks, which become shorter each time.
        let shown = if matches!(mark, '`' | '+') { text.trim_matches('+').to_owned() } else { without_marks(text) };
        opens.then(|| (shown, end + 2 * fence.len()))
    }
}

/// Text inside a mark, less the marks in it that stand in pairs.
fn without_marks(text: &str) -> String {
    let mut out = text.to_owned();
    for mark in ["**", "__", "*", "_", "`", "#"] {
        let inner = out.strip_prefix(mark).and_then(|inner| inner.strip_suffix(mark));
        if let Some(inner) = inner.map(str::to_owned) {
            out = inner;
        }
    }
    out
}

/// The text of an inline macro such as `link:target[text]` or `https://target[text]`.
fn macro_text(rest: &str) -> Option<(String, usize)> {
    const NAMES: &[&str] = &[
        "link:",
        "mailto:",
        "xref:",
        "image:",
        "kbd:",
        "btn:",
        "menu:",
        "pass:",
        "footnote:",
        "anchor:",
        "icon:",
        "indexterm:",
        "indexterm2:",
        "stem:",
        "latexmath:",
        "http://",
        "https://",
        "ftp://",
    ];
    let name = NAMES.iter().find(|name| rest.starts_with(**name))?;
    let is_url = name.ends_with("//");
    let target_end = rest.find(|c: char| c.is_whitespace() || matches!(c, '[' | '<' | '>'))?;
    if !rest[target_end..].starts_with('[') {
        return None;
    }
    let inner = &rest[target_end + 1..];
    let end = inner.find(']')?;
    let text = inner[..end].trim();
    let target = if is_url { &rest[..target_end] } else { &rest[name.len()..target_end] };
    let shown = match *name {
        "anchor:" | "icon:" | "indexterm:" => String::new(),
        "footnote:" => format!(" ({text})"),
        "image:" => text.split(',').next().unwrap_or_default().to_owned(),
        _ if text.is_empty() => target.to_owned(),
        _ => text.trim_end_matches('^').trim_matches('"').to_owned(),
    };
    Some((shown, target_end + 1 + end + 1))
}

fn is_comment(line: &str) -> bool {
    line.starts_with("//") && !line.starts_with("///")
}

fn is_directive(line: &str) -> bool {
    ["include::", "ifdef::", "ifndef::", "ifeval::", "endif::"].iter().any(|name| line.starts_with(name))
}

/// Level and title of a section line. The document's title has level 1.
fn section(line: &str) -> Option<(u8, &str)> {
    let marks = line.bytes().take_while(|byte| *byte == b'=').count();
    let title = line.get(marks..)?.strip_prefix(' ')?.trim();
    ((1..=6).contains(&marks) && !title.is_empty()).then_some((marks as u8, title))
}

/// Marker and text of a list item, and the description of a term.
fn item(line: &str) -> Option<(&str, &str, &str)> {
    let line = line.trim_start();
    let (marker, text) = line.split_once(' ').unwrap_or((line, ""));
    let repeats = |mark: char| marker.len() <= 6 && !marker.is_empty() && marker.chars().all(|c| c == mark);
    if (repeats('*') || repeats('.') || marker == "-") && !text.trim().is_empty() {
        return Some((marker, text.trim(), ""));
    }
    let number = marker.strip_suffix('.').filter(|number| (1..=3).contains(&number.len()));
    if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) && !text.is_empty() {
        return Some((".", text.trim(), ""));
    }
    // `term:: text`; the text may follow on the next line.
    let at = line.find("::")?;
    let after = line[at..].trim_start_matches(':');
    let is_term = at > 0 && (after.is_empty() || after.starts_with(' ')) && !line[..at].ends_with(':');
    is_term.then(|| ("::", line[..at].trim(), after.trim()))
}

/// Whether the text before a bar says how the cell is set, such as `2+^.>s`.
fn is_cell_style(text: &str) -> bool {
    let style = text.split_whitespace().next_back().unwrap_or_default();
    !text.ends_with(' ')
        && style.len() <= 8
        && style.chars().all(|c| c.is_ascii_digit() || "+*.<^>adehlmsv".contains(c))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::work::tests::work;

    fn parse(source: &str) -> ParsedDocument {
        let document = AsciidocParser.parse(source.as_bytes(), &SourceInfo::new("a.adoc"), &work()).unwrap();
        document.check_blocks().unwrap();
        document
    }

    #[test]
    fn header_sections_and_paragraphs() {
        let document = parse(
            "= The Guide\nAda Lovelace <ada@x.org>\nv1.2, 2024-05-01\n:product: Edge\n\n== First\n\nUse {product}\nevery _day_.\n\n\
             // a note\n=== Inner\n\ntext\n",
        );
        assert_eq!(document.text, "The Guide\n\nFirst\n\nUse Edge every day.\n\nInner\n\ntext");
        assert_eq!(document.blocks.last().unwrap().heading_path, ["The Guide", "First", "Inner"]);
        let meta = |key: &str| document.metadata.get(key).cloned();
        assert_eq!(meta("author"), Some(MetadataValue::List(vec!["Ada Lovelace".to_owned()])));
        assert_eq!(meta("date"), Some(MetadataValue::Text("2024-05-01".to_owned())));
    }

    #[test]
    fn lists_code_and_tables() {
        let document = parse(
            "* one\n** inner\n* two\n\nThen:\n\n. first\n+\nmore\n. second\n\nAnd:\n\nCPU:: The brain.\n\n[source,rust]\n----\nfn f() {\n}\n----\n\n\
             .Costs\n|===\n|Item |Price\n\n|Tea\n|2\n|===\n\n____\nquoted\n____\n\nend\n",
        );
        assert_eq!(
            document.text,
            "- one\n  - inner\n- two\n\nThen:\n\n1. first\n  more\n2. second\n\nAnd:\n\n- CPU\n  The brain.\n\nfn f() {\n}\n\nCosts\n\nItem | Price\nTea | 2\n\nquoted\n\nend"
        );
        assert!(document.blocks.iter().any(|block| block.kind == BlockKind::Quote));
    }

    #[test]
    fn inline_marks() {
        let reader = Reader::default();
        let cases = [
            ("*bold* and _it_ and `code`, __un__done", "bold and it and code, undone"),
            ("2 * 3 * 4 and snake_case_name", "2 * 3 * 4 and snake_case_name"),
            ("https://x.y/z[the page] or link:a.html[here]", "the page or here"),
            ("see <<intro,the start>>footnote:[Why not.]", "see the start (Why not.)"),
            ("\"`quoted`\" H~2~O x^2^ \\*kept*", "“quoted” H2O x2 *kept*"),
        ];
        for (source, expected) in cases {
            assert_eq!(reader.inline(source), expected);
        }
    }
}
