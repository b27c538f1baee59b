//! Markdown (CommonMark with tables, footnotes, strikethrough, task lists and heading attributes) to readable text.
//!
//! The text is what a reader would see and quote: emphasis markers, backticks, link targets and reference definitions
//! go, code blocks stay verbatim without their fences, hard-wrapped paragraphs become one line. HTML blocks go through
//! the HTML walker; inline tags and comments are dropped. Of mdBook, include directives, which name files that are not
//! part of the document, are dropped, and listing captions kept.

use edgewise_types::MetadataValue;
use pulldown_cmark::{Event, Options, Tag, TagEnd};

use crate::assemble::Assembler;
use crate::parser::{Front, finish};
use crate::{DocumentError, ParsedDocument, Parser, SourceInfo, Work, decode, front_matter, html};

/// mdBook directives that stand for the content of other files
/// (<https://rust-lang.github.io/mdBook/format/mdbook.html>).
const INCLUDES: [&str; 5] = ["{{#include ", "{{#rustdoc_include ", "{{#playground ", "{{#playpen ", "{{#title "];

/// Parser of Markdown.
pub struct MarkdownParser;

impl Parser for MarkdownParser {
    fn name(&self) -> &'static str {
        "Markdown"
    }

    fn media_types(&self) -> &'static [&'static str] {
        &["text/markdown", "text/x-markdown"]
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["md", "markdown", "mdown", "mkd"]
    }

    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
        let text = decode::decode(bytes, &source.uri, None)?.replace("\r\n", "\n");
        let (metadata, body) = front_matter::split(&text).unwrap_or((Default::default(), &text));
        let field = |name: &str| match metadata.get(name) {
            Some(MetadataValue::Text(value)) => Some(value.clone()),
            _ => None,
        };
        let title = field("title");
        let language = field("lang").or_else(|| field("language"));
        work.check(source)?;
        let mut assembler = Assembler::default();
        convert(&without_includes(body), &source.uri, &mut assembler)?;
        let assembled = assembler.finish(title.as_deref());
        let titles = title.into_iter().collect();
        finish(self, source, assembled, Front { titles, metadata, language, ..Front::default() })
    }
}

fn without_includes(body: &str) -> String {
    let is_include = |line: &str| {
        let line = line.trim_start_matches([' ', '\t', '>']).trim_end();
        line.ends_with("}}") && INCLUDES.iter().any(|directive| line.starts_with(directive))
    };
    body.split_inclusive('\n').filter(|line| !is_include(line)).collect()
}

fn convert(source: &str, uri: &str, out: &mut Assembler) -> Result<(), DocumentError> {
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_GFM;
    // HTML blocks end at blank lines, so an element often spans several: neighbours are parsed together.
    let mut html = String::new();
    let mut code: Option<String> = None;
    for event in pulldown_cmark::Parser::new_ext(source, options) {
        match event {
            Event::Html(part) => {
                html.push_str(&part);
                continue;
            }
            Event::Start(Tag::HtmlBlock) | Event::End(TagEnd::HtmlBlock) => continue,
            _ if !html.is_empty() => html::convert_fragment(&std::mem::take(&mut html), uri, out)?,
            _ => {}
        }
        match event {
            Event::Text(text) => match &mut code {
                Some(code) => code.push_str(&text),
                None => out.text(&text),
            },
            Event::Code(text) => out.text(&text),
            Event::SoftBreak => out.text(" "),
            Event::HardBreak => out.line_break(),
            Event::InlineHtml(tag) => inline_html(&tag, out),
            Event::TaskListMarker(done) => out.text(if done { "[x] " } else { "[ ] " }),
            Event::Start(Tag::CodeBlock(_)) => code = Some(String::new()),
            Event::End(TagEnd::CodeBlock) => out.code(&code.take().unwrap_or_default()),
            Event::Start(tag) => open(&tag, out),
            Event::End(tag) => close(tag, out),
            Event::Rule => out.flush(),
            // A reference mark would read like a citation; the note itself follows as a paragraph of its own.
            Event::FootnoteReference(_) => {}
            Event::InlineMath(text) | Event::DisplayMath(text) => out.text(&text),
            Event::Html(_) => {}
        }
    }
    if html.is_empty() { Ok(()) } else { html::convert_fragment(&html, uri, out) }
}

/// The characters of a piece of inline Markdown, such as a caption.
pub(crate) fn inline_text(source: &str) -> String {
    let text_of = |event: Event<'_>| match event {
        Event::Text(text) | Event::Code(text) => Some(text.to_string()),
        Event::SoftBreak => Some(" ".to_owned()),
        _ => None,
    };
    pulldown_cmark::Parser::new(source).filter_map(text_of).collect()
}

fn open(tag: &Tag<'_>, out: &mut Assembler) {
    match tag {
        Tag::Heading { level, .. } => out.open_heading(*level as u8),
        Tag::BlockQuote(_) => out.open_quote(),
        Tag::List(start) => out.open_list(*start),
        Tag::Item => out.open_item(),
        Tag::Table(_) => out.open_table(),
        Tag::Paragraph | Tag::FootnoteDefinition(_) => out.flush(),
        _ => {}
    }
}

fn close(tag: TagEnd, out: &mut Assembler) {
    match tag {
        TagEnd::Heading(_) => out.close_heading(),
        TagEnd::BlockQuote(_) => out.close_quote(),
        TagEnd::List(_) => out.close_list(),
        TagEnd::Item => out.close_item(),
        TagEnd::Table => out.close_table(),
        TagEnd::TableRow | TagEnd::TableHead => out.close_row(),
        TagEnd::TableCell => out.close_cell(1, 1),
        TagEnd::Paragraph | TagEnd::FootnoteDefinition => out.flush(),
        _ => {}
    }
}

fn inline_html(tag: &str, out: &mut Assembler) {
    let name: String = tag
        .trim_start_matches('<')
        .chars()
        .take_while(|c| c.is_ascii_alphanumeric() || *c == '/')
        .map(|c| c.to_ascii_lowercase())
        .collect();
    match name.as_str() {
        "br" | "br/" => out.line_break(),
        "sup" => out.open_superscript(),
        "/sup" => out.close_superscript(),
        _ => {}
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::BlockKind;
    use crate::work::tests::work;

    fn parse(source: &str) -> ParsedDocument {
        let document = MarkdownParser.parse(source.as_bytes(), &SourceInfo::new("a.md"), &work()).unwrap();
        document.check_blocks().unwrap();
        document
    }

    #[test]
    fn prose_is_what_a_reader_sees() {
        let document = parse(
            "Some *emphasis*, **strong**, `code`, a [link](http://x.y \"t\"), an [other][ref]<!-- note -->,\n\
             a hard-wrapped line, a &lt;tag&gt;, ~~gone~~[^1] and 2<sup>8</sup> − 1.\n\n\
             [ref]: http://z\n[^1]: The note.\n",
        );
        assert_eq!(
            document.text,
            "Some emphasis, strong, code, a link, an other, a hard-wrapped line, a <tag>, gone and 2⁸ − 1.\n\nThe note."
        );
    }

    #[test]
    fn blocks_keep_their_shape() {
        let document = parse(
            "# Top\n\n1. one\n   - inner\n\n     more\n2. two\n\n       code in list\n\n```rust\nfn f() {\n\n    g();\n}\n```\n\n\
             | a | b |\n|---|:-:|\n| 1 | `x\\|y` |\n|  |  |\n\n- [x] done\n",
        );
        assert_eq!(
            document.text,
            "Top\n\n1. one\n  - inner\n    more\n2. two\n  code in list\n\nfn f() {\n\n    g();\n}\n\na | b\n1 | x|y\n\n- [x] done"
        );
        let kinds: Vec<_> = document.blocks.iter().map(|block| &block.kind).collect();
        let heading = BlockKind::Heading { level: 1, title: "Top".to_owned() };
        assert_eq!(kinds, [&heading, &BlockKind::List, &BlockKind::Code, &BlockKind::Table, &BlockKind::List]);
    }

    #[test]
    fn heading_paths_follow_the_outline_and_end_with_a_quotation() {
        let document = parse("# A\n\n### B\n\nb\n\n> ## Q\n>\n> q\n\nstill b\n\n## C `c` {#id}\n\nc\n\n# D\n\nd\n");
        let path_of = |text: &str| {
            let is_it = |block: &&crate::Block| block.span.slice(&document.text) == Ok(text);
            document.blocks.iter().find(is_it).unwrap().heading_path.join("/")
        };
        assert_eq!(path_of("b"), "A/B");
        assert_eq!(path_of("q"), "A/Q");
        assert_eq!(path_of("still b"), "A/B");
        assert_eq!(path_of("c"), "A/C c");
        assert_eq!(path_of("D"), "D");
        assert!(matches!(document.blocks.iter().find(|b| b.kind == BlockKind::Quote), Some(b) if b.span.len() == 1));
    }

    #[test]
    fn mdbook_sources_come_out_clean() {
        let document = parse(
            "## A <a id=\"x\"></a>Title\n\n<!-- Old headings. Do not remove. -->\n\n<a id=\"old\"></a>\n\n\
             <Listing number=\"4-1\" file-name=\"src/main.rs\" caption=\"Where `s` is _valid_\">\n\n\
             ```rust\n{{#rustdoc_include ../listings/x.rs:here}}\n```\n\n</Listing>\n\n\
             <span class=\"filename\">Filename: src/main.rs</span>\n\n```rust\nlet s = \"hello\";\n```\n\n\
             > {{#include quoted.md}}\n",
        );
        assert_eq!(
            document.text,
            "A Title\n\nListing 4-1 (src/main.rs): Where s is valid\n\nFilename: src/main.rs\n\nlet s = \"hello\";"
        );
        assert_eq!(document.title, "A Title");
    }

    #[test]
    fn html_blocks_are_read_as_html_even_across_blank_lines() {
        let document =
            parse("<table>\n<tr><td>a</td>\n\n<td>b</td></tr>\n</table>\n\n<script>\nx()\n</script>\n\nend\n");
        assert_eq!(document.text, "a | b\n\nend");
        assert_eq!(document.blocks.first().unwrap().kind, BlockKind::Table);
    }

    #[test]
    fn front_matter_is_metadata_and_its_title_heads_the_outline() {
        let document = parse("---\ntitle: Guide\nlang: en\n---\nintro\n\n## Use\n\nx\n");
        assert_eq!(document.text, "intro\n\nUse\n\nx");
        assert_eq!(document.blocks.last().unwrap().heading_path, ["Guide", "Use"]);
        assert_eq!((document.title.as_str(), document.language.as_deref()), ("Guide", Some("en")));
        assert!(document.metadata.contains_key("title"));
    }

    #[test]
    fn a_file_of_comments_is_empty() {
        let error =
            MarkdownParser.parse(b"<!-- nothing -->\n\n[a]: b\n", &SourceInfo::new("a.md"), &work()).unwrap_err();
        assert!(matches!(error, DocumentError::Empty { .. }), "{error}");
    }

    #[test]
    fn deep_nesting_is_linear() {
        let source = format!("{}x\n\n{}y\n", ">".repeat(20_000), "- ".repeat(20_000));
        assert!(parse(&source).text.len() < 200_000);
    }
}
