//! Walks an HTML tree and feeds its visible content to the assembler.
//!
//! The walk follows the tree's edges in a loop, so nesting costs no stack. Dropped: scripts, styles, navigation,
//! headers (their headings are kept inside the main content), footers, asides, form controls, hidden elements,
//! reference marks and edit links. Tables that only lay a page out are read as ordinary blocks; in others, a cell that
//! spans rows is repeated in each, so that every row can be read by itself.

use std::collections::HashMap;

use ego_tree::NodeId;
use ego_tree::iter::Edge;
use scraper::node::Element;
use scraper::{Html, Node};

use crate::DocumentError;
use crate::assemble::Assembler;
use crate::markdown::inline_text;

type NodeRef<'a> = ego_tree::NodeRef<'a, Node>;

/// Deepest nesting of open tags accepted; browsers stop at 512. The tree builder looks through the open elements for
/// every tag, so its time grows with the depth.
const MAX_DEPTH: usize = 1024;
/// Elements that the tree builder may create to reopen unclosed formatting in each block, as the HTML standard demands.
const MAX_REOPENED: usize = 2_000_000;
/// Elements that never nest in their own kind or have no content.
const UNNESTED: &[&str] = &[
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr",
    "dd", "dt", "li", "option", "p", "td", "th", "tr",
];
/// The standard's formatting elements, which stay in force until closed.
const FORMATTING: &[&str] =
    &["a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"];
/// Layout tables inside layout tables that are recognised as such; each level looks through the table's content once.
const MAX_LAYOUT_TABLES: usize = 16;

const SKIPPED: &[&str] = &[
    "script", "style", "noscript", "template", "nav", "footer", "aside", "head", "svg", "iframe", "object", "embed",
    "audio", "video", "canvas", "map", "button", "select", "textarea", "input", "datalist", "dialog",
];
const SKIPPED_ROLES: &[&str] =
    &["navigation", "search", "banner", "contentinfo", "complementary", "menu", "toolbar", "doc-noteref", "doc-toc"];
/// Classes of furniture in common page generators: MediaWiki's edit links, reference marks and print-only or metadata
/// boxes; the permalink signs of Sphinx, MkDocs and mdBook.
const SKIPPED_CLASSES: &[&str] = &[
    "mw-editsection",
    "mw-jump-link",
    "mw-indicators",
    "mw-cite-backlink",
    "printfooter",
    "noprint",
    "navbox",
    "catlinks",
    "reference",
    "headerlink",
    "anchorjs-link",
];
/// Elements that begin and end a block. Headings, lists, tables and `pre` are treated one by one.
const BLOCKS: &[&str] = &[
    "address",
    "article",
    "body",
    "center",
    "dd",
    "details",
    "dir",
    "div",
    "dl",
    "dt",
    "fieldset",
    "figcaption",
    "figure",
    "form",
    "header",
    "hgroup",
    "hr",
    "html",
    "legend",
    "main",
    "p",
    "section",
    "summary",
    "tbody",
    "tfoot",
    "thead",
];

/// Parses a fragment of HTML, such as an HTML block of a Markdown file, and converts it.
pub(crate) fn convert_fragment(source: &str, uri: &str, out: &mut Assembler) -> Result<(), DocumentError> {
    check_depth(source, uri)?;
    walk(Html::parse_fragment(source).tree.root(), out);
    Ok(())
}

/// Refuses sources that the tree builder would take unreasonable time or memory for: tags left open, of any name, are
/// counted as nested. An upper bound that real pages stay far below. Scripts, styles and comments are passed over.
pub(crate) fn check_depth(source: &str, uri: &str) -> Result<(), DocumentError> {
    let mut open: HashMap<String, usize> = HashMap::new();
    let (mut depth, mut formatting, mut reopened) = (0usize, 0usize, 0usize);
    let mut rest = source;
    while let Some((_, tag)) = rest.split_once('<') {
        let (is_end, tag) = tag.strip_prefix('/').map_or((false, tag), |tag| (true, tag));
        let name_end = tag.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(tag.len());
        let (name, after) = tag.split_at(name_end);
        let name = name.to_ascii_lowercase();
        rest = after;
        if name.is_empty() {
            rest = tag.strip_prefix("!--").and_then(|comment| comment.split_once("-->")).map_or(tag, |(_, rest)| rest);
            continue;
        }
        if name == "script" || name == "style" {
            rest = after.find("</").map_or("", |at| &after[at..]);
            continue;
        }
        reopened += formatting;
        if depth > MAX_DEPTH || reopened > MAX_REOPENED {
            return Err(DocumentError::TooDeep { uri: uri.to_owned(), limit: MAX_DEPTH });
        }
        if UNNESTED.contains(&name.as_str()) {
            continue;
        }
        let is_formatting = usize::from(FORMATTING.contains(&name.as_str()));
        // Counted by name: an end tag closes nothing unless such an element is open.
        let count = open.entry(name).or_default();
        if !is_end {
            *count += 1;
            (depth, formatting) = (depth + 1, formatting + is_formatting);
        } else if *count > 0 {
            *count -= 1;
            (depth, formatting) = (depth - 1, formatting - is_formatting);
        }
    }
    Ok(())
}

/// Whether a page of the printed edition begins at an element
/// (<https://www.w3.org/TR/epub-a11y-11/#sec-page-nav>).
fn is_page_break(element: &Element) -> bool {
    let says = |name: &str, value: &str| element.attr(name).is_some_and(|a| a.split_whitespace().any(|a| a == value));
    says("epub:type", "pagebreak") || says("role", "doc-pagebreak")
}

/// Converts everything below `root`.
pub(crate) fn walk(root: NodeRef<'_>, out: &mut Assembler) {
    let mut walker = Walker { out, skip: None, pre: None, header: None, headings: 0, tables: Vec::new() };
    for edge in root.traverse() {
        match edge {
            Edge::Open(node) => walker.open(node),
            Edge::Close(node) => walker.close(node),
        }
    }
    walker.out.flush();
}

struct Walker<'o> {
    out: &'o mut Assembler,
    /// Element whose content is being skipped.
    skip: Option<NodeId>,
    /// Preformatted element being read, and its text.
    pre: Option<(NodeId, String)>,
    /// `header` element being read, of which only headings are kept.
    header: Option<NodeId>,
    /// Headings open.
    headings: usize,
    /// For each open table, whether it only lays out the page.
    tables: Vec<bool>,
}

impl Walker<'_> {
    fn open(&mut self, node: NodeRef<'_>) {
        if self.skip.is_some() {
            return;
        }
        match node.value() {
            Node::Text(text) => self.text(text),
            Node::Element(element) if is_page_break(element) => {
                self.out.page(element.attr("title").or(element.attr("aria-label")).unwrap_or_default());
                // What it says is the number of the page.
                self.skip = Some(node.id());
            }
            Node::Element(element) if is_skipped(element) => self.skip = Some(node.id()),
            Node::Element(element) => self.open_element(node, element),
            _ => {}
        }
    }

    fn text(&mut self, text: &str) {
        if let Some((_, pre)) = &mut self.pre {
            pre.push_str(text);
        } else if self.header.is_none() || self.headings > 0 {
            self.out.text(text);
        }
    }

    fn open_element(&mut self, node: NodeRef<'_>, element: &Element) {
        let name = element.name();
        if let Some((_, pre)) = &mut self.pre {
            if name == "br" {
                pre.push('\n');
            }
            return;
        }
        match name {
            "header" if self.header.is_none() => {
                self.out.flush();
                if is_inside_content(node) { self.header = Some(node.id()) } else { self.skip = Some(node.id()) }
            }
            "math" => {
                self.skip = Some(node.id());
                let formula = formula(node, element);
                self.text(&formula);
            }
            "br" => self.out.line_break(),
            "sup" => self.out.open_superscript(),
            "img" => self.text(element.attr("alt").unwrap_or_default()),
            "listing" if element.attr("number").or(element.attr("caption")).is_some() => self.listing(element),
            "pre" | "listing" | "xmp" | "plaintext" => self.pre = Some((node.id(), String::new())),
            "blockquote" => self.out.open_quote(),
            "ul" | "menu" | "dl" | "dir" => self.out.open_list(None),
            "ol" => {
                let start = element.attr("start").and_then(|start| start.trim().parse().ok());
                self.out.open_list(Some(start.unwrap_or(1)));
            }
            "li" | "dt" => self.out.open_item(),
            "table" => {
                let depth = self.tables.len();
                let is_layout = !self.out.in_table() && depth < MAX_LAYOUT_TABLES && is_layout(node, element);
                self.tables.push(is_layout);
                if is_layout { self.out.flush() } else { self.out.open_table() }
            }
            "td" | "th" | "tr" | "caption" => self.out.flush(),
            _ => {
                if let Some(level) = heading_level(name) {
                    self.headings += 1;
                    self.out.open_heading(level);
                } else if BLOCKS.contains(&name) {
                    self.out.flush();
                }
            }
        }
    }

    fn close(&mut self, node: NodeRef<'_>) {
        if let Some(skipped) = self.skip {
            if skipped == node.id() {
                self.skip = None;
            }
            return;
        }
        let Node::Element(element) = node.value() else { return };
        if let Some((_, text)) = self.pre.take_if(|(pre, _)| *pre == node.id()) {
            return self.out.code(&dedented(&text));
        }
        if self.pre.is_some() {
            return;
        }
        self.header.take_if(|header| *header == node.id());
        let in_data_table = self.tables.last() == Some(&false);
        match element.name() {
            "sup" => self.out.close_superscript(),
            "blockquote" => self.out.close_quote(),
            "ul" | "menu" | "dl" | "dir" | "ol" => self.out.close_list(),
            "li" => self.out.close_item(),
            "td" | "th" if in_data_table => {
                let span = |name: &str| element.attr(name).and_then(|span| span.trim().parse().ok()).unwrap_or(1);
                self.out.close_cell(span("rowspan"), span("colspan"));
            }
            "tr" | "caption" if in_data_table => self.out.close_row(),
            "table" => match self.tables.pop() {
                Some(false) => self.out.close_table(),
                _ => self.out.flush(),
            },
            "td" | "th" | "tr" | "caption" => self.out.flush(),
            name if heading_level(name).is_some() => {
                self.headings = self.headings.saturating_sub(1);
                self.out.close_heading();
            }
            name if BLOCKS.contains(&name) => self.out.flush(),
            _ => {}
        }
    }

    /// The caption of an mdBook listing (`<Listing number file-name caption>` of the Rust book's preprocessor).
    fn listing(&mut self, element: &Element) {
        let of = |name: &str| inline_text(element.attr(name).unwrap_or_default());
        let (number, file, caption) = (of("number"), of("file-name"), of("caption"));
        let mut line = "Listing".to_owned();
        if !number.is_empty() {
            line = format!("{line} {number}");
        }
        if !file.is_empty() {
            line = format!("{line} ({file})");
        }
        if !caption.is_empty() {
            line = format!("{line}: {caption}");
        }
        self.out.flush();
        self.out.text(&line);
        self.out.flush();
    }
}

/// Preformatted text without the indentation that all its lines share, which is the page source's own.
fn dedented(text: &str) -> String {
    let indent_of = |line: &str| line.len() - line.trim_start_matches(' ').len();
    let filled = text.lines().filter(|line| !line.trim().is_empty());
    let shared = filled.map(indent_of).min().unwrap_or(0);
    text.lines().map(|line| line.get(shared..).unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn heading_level(name: &str) -> Option<u8> {
    match name.as_bytes() {
        [b'h', digit @ b'1'..=b'6'] => Some(digit - b'0'),
        _ => None,
    }
}

fn is_skipped(element: &Element) -> bool {
    SKIPPED.contains(&element.name())
        || element.attr("hidden").is_some()
        || element.attr("aria-hidden") == Some("true")
        || element.attr("role").is_some_and(|role| SKIPPED_ROLES.contains(&role))
        || element.classes().any(|class| SKIPPED_CLASSES.contains(&class))
        || element.attr("style").is_some_and(is_invisible)
}

fn is_invisible(style: &str) -> bool {
    let style: String = style.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
    style.contains("display:none") || style.contains("visibility:hidden")
}

/// Whether a `header` belongs to an article rather than to the site.
fn is_inside_content(node: NodeRef<'_>) -> bool {
    let is_content = |element: &Element| {
        matches!(element.name(), "main" | "article" | "section") || element.attr("role") == Some("main")
    };
    node.ancestors().any(|ancestor| ancestor.value().as_element().is_some_and(is_content))
}

/// Whether a table only lays out the page: it says so, or it holds headings or whole paragraphs of a page.
fn is_layout(node: NodeRef<'_>, element: &Element) -> bool {
    if matches!(element.attr("role"), Some("presentation" | "none")) {
        return true;
    }
    let is_heading = |node: NodeRef<'_>| node.value().as_element().is_some_and(|e| heading_level(e.name()).is_some());
    node.descendants().any(is_heading)
}

/// The source of a formula: its TeX annotation, its alternative text, or its characters.
fn formula(node: NodeRef<'_>, element: &Element) -> String {
    let text_of = |node: NodeRef<'_>| -> String {
        node.descendants().filter_map(|n| n.value().as_text()).map(|text| text.to_string()).collect()
    };
    let annotation = node.descendants().find(|n| {
        n.value().as_element().is_some_and(|e| {
            e.name() == "annotation" && e.attr("encoding").is_some_and(|encoding| encoding.contains("tex"))
        })
    });
    match (annotation, element.attr("alttext")) {
        (Some(annotation), _) => text_of(annotation),
        (None, Some(alternative)) => alternative.to_owned(),
        (None, None) => text_of(node),
    }
}
