//! HTML pages: encoding, metadata, the choice of the main content, and its conversion.

use edgewise_types::{Metadata, MetadataValue};
use encoding_rs::Encoding;
use scraper::node::Element;
use scraper::{Html, Node};

use crate::assemble::{Assembled, Assembler};
use crate::parser::{Front, finish};
use crate::{BlockKind, DocumentError, ParsedDocument, Parser, SourceInfo, Work, decode, html};

type NodeRef<'a> = ego_tree::NodeRef<'a, Node>;

/// Where a page may declare its encoding: the HTML standard looks at the first 1024 bytes.
const PRESCAN_BYTES: usize = 1024;

/// Parser of HTML and XHTML.
pub struct HtmlParser;

impl Parser for HtmlParser {
    fn name(&self) -> &'static str {
        "HTML"
    }

    fn media_types(&self) -> &'static [&'static str] {
        &["text/html", "application/xhtml+xml"]
    }

    fn extensions(&self) -> &'static [&'static str] {
        &["html", "htm", "xhtml"]
    }

    fn parse(&self, bytes: &[u8], source: &SourceInfo, work: &Work) -> Result<ParsedDocument, DocumentError> {
        let text = decode::decode(bytes, &source.uri, declared_encoding(bytes))?;
        html::check_depth(&text, &source.uri)?;
        let page = Html::parse_document(&text);
        let root = page.tree.root();
        let head = Head::read(root);
        work.check(source)?;
        let mut assembler = Assembler::default();
        if let Some(main) = main_content(root) {
            html::walk(main, &mut assembler);
        }
        if assembler.is_empty() {
            assembler = Assembler::default();
            html::walk(root, &mut assembler);
        }
        let assembled = assembler.finish(head.title.as_deref());
        // The page's own top heading is cleaner than <title>, which carries the site's name.
        let titles = top_heading(&assembled).into_iter().chain(head.title).collect();
        finish(
            self,
            source,
            assembled,
            Front { titles, metadata: head.metadata, language: head.language, ..Front::default() },
        )
    }
}

/// The encoding named by `charset=` or an XML declaration near the start of the page.
fn declared_encoding(bytes: &[u8]) -> Option<&'static Encoding> {
    let start = bytes.get(..PRESCAN_BYTES.min(bytes.len())).unwrap_or_default().to_ascii_lowercase();
    let text = String::from_utf8_lossy(&start);
    let label = |key: &str| {
        let (_, rest) = text.split_once(key)?;
        let rest = rest.trim_start_matches([' ', '"', '\'']);
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "-_:.".contains(c))).unwrap_or(rest.len());
        Encoding::for_label(rest.get(..end)?.as_bytes())
    };
    label("charset=").or_else(|| label("encoding="))
}

/// The one `main` element, or the one `article`; else nothing stands out.
fn main_content(root: NodeRef<'_>) -> Option<NodeRef<'_>> {
    let only = |is_wanted: &dyn Fn(&Element) -> bool| {
        let mut found = root.descendants().filter(|node| node.value().as_element().is_some_and(is_wanted));
        found.next().filter(|_| found.next().is_none())
    };
    only(&|element| element.name() == "main" || element.attr("role") == Some("main"))
        .or_else(|| only(&|element| element.name() == "article"))
}

/// The only heading of level 1.
fn top_heading(assembled: &Assembled) -> Option<String> {
    let mut titles = assembled.blocks.iter().filter_map(|block| match &block.kind {
        BlockKind::Heading { level: 1, title } => Some(title.clone()),
        _ => None,
    });
    titles.next().filter(|_| titles.next().is_none())
}

/// What a page says about itself.
#[derive(Default)]
struct Head {
    title: Option<String>,
    language: Option<String>,
    metadata: Metadata,
}

impl Head {
    fn read(root: NodeRef<'_>) -> Self {
        let mut head = Self::default();
        for node in root.descendants() {
            let Some(element) = node.value().as_element() else { continue };
            match element.name() {
                "html" => head.language = element.attr("lang").map(str::to_owned).filter(|lang| !lang.is_empty()),
                "title" if head.title.is_none() => {
                    let text: String = node.children().filter_map(|n| n.value().as_text()).map(|t| &**t).collect();
                    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                    head.title = Some(text).filter(|title| !title.is_empty());
                }
                "meta" => head.meta(element),
                _ => {}
            }
        }
        if let Some(title) = &head.title {
            head.metadata.insert("title".to_owned(), MetadataValue::Text(title.clone()));
        }
        head
    }

    fn meta(&mut self, element: &Element) {
        let name = element.attr("name").or(element.attr("property")).unwrap_or_default().to_lowercase();
        let Some(content) = element.attr("content").map(str::trim).filter(|content| !content.is_empty()) else {
            return;
        };
        let key = match name.as_str() {
            "description" | "author" | "keywords" | "generator" | "publisher" => name.as_str(),
            "dc.creator" | "dcterms.creator" | "article:author" if !content.starts_with("http") => "author",
            "og:description" | "dc.description" | "dcterms.description" => "description",
            "dc.publisher" | "dcterms.publisher" | "og:site_name" => "publisher",
            "article:published_time" | "date" | "dc.date" | "dcterms.date" | "dcterms.created" => "date",
            "article:modified_time" | "last-modified" | "dcterms.modified" => "modified",
            "dc.language" | "dcterms.language" => "lang",
            _ => return,
        };
        let value = if key == "keywords" {
            let words = content.split(',').map(str::trim).filter(|word| !word.is_empty());
            MetadataValue::List(words.map(str::to_owned).collect())
        } else {
            MetadataValue::Text(content.to_owned())
        };
        self.metadata.entry(key.to_owned()).or_insert(value);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::work::tests::work;

    fn parse(source: &str) -> ParsedDocument {
        let document = HtmlParser.parse(source.as_bytes(), &SourceInfo::new("a.html"), &work()).unwrap();
        document.check_blocks().unwrap();
        document
    }

    fn text(source: &str) -> String {
        parse(source).text
    }

    #[test]
    fn only_the_main_content_is_read() {
        let document = parse(
            "<html lang=en><head><title>T &amp; Co</title><style>x</style><meta name=keywords content='a, b'></head>\
             <body><header><h1>Site</h1></header><nav>Menu</nav>\
             <main><header><h1>Title</h1><p>by line</p></header><p>Text<script>bad()</script> goes on.\
             <p hidden>no<p style='display : none'>no</p><aside>no</aside></main><footer>no</footer></body></html>",
        );
        assert_eq!(document.text, "Title\n\nText goes on.");
        assert_eq!((document.title.as_str(), document.language.as_deref()), ("Title", Some("en")));
        assert_eq!(document.metadata.get("title"), Some(&MetadataValue::Text("T & Co".to_owned())));
        assert_eq!(document.metadata.get("keywords"), Some(&MetadataValue::List(vec!["a".into(), "b".into()])));
    }

    #[test]
    fn inline_markup_white_space_and_entities() {
        assert_eq!(
            text(
                "<p>One\n  <b>two</b>&nbsp;three<br>four&mdash;five H<sub>2</sub>O 10<sup>6</sup> 1<sup>st</sup> x<sup>n+1</sup></p>"
            ),
            "One two three\nfour—five H2O 10⁶ 1st x^(n+1)"
        );
        assert_eq!(text("<div>a<div>b</div>c</div>"), "a\n\nb\n\nc");
    }

    #[test]
    fn lists_tables_and_code_keep_their_shape() {
        assert_eq!(text("<ol start=42><li>a<ul><li>b</li></ul><li><p>c</p><p>d</p></ol>"), "42. a\n  - b\n43. c\n  d");
        assert_eq!(text("<dl><dt>T<dd>one<dd>two<dt>U</dl>"), "- T\n  one\n  two\n- U");
        assert_eq!(
            text("<table><caption>Cap</caption><tr><th>A<th>B<tr><td>1<td><ul><li>x<li>y</ul><tr><td> <td></table>"),
            "Cap\nA | B\n1 | x; y"
        );
        assert_eq!(text("<pre><code>\nfn f() {\n\tg()&lt;\n}\n</code></pre>"), "fn f() {\n    g()<\n}");
    }

    #[test]
    fn cells_that_span_rows_are_repeated() {
        assert_eq!(
            text(
                "<table><tr><th>Year<th>Month<th>Cost<tr><th rowspan=3>2025<tr><td>May<td>1<tr><td>June<td>2\
                 <tr><td colspan=2>Sum<td>3</table>"
            ),
            "Year | Month | Cost\n2025\n2025 | May | 1\n2025 | June | 2\nSum |  | 3"
        );
    }

    #[test]
    fn nested_tables_are_flattened_and_layout_tables_opened() {
        assert_eq!(text("<table><tr><td>a<td><table><tr><td>b<td>c</table></table>"), "a | b; c");
        let document = parse("<table><tr><td><h2>S</h2><p>p<td><table><tr><td>x<td>y</table></table>");
        assert_eq!(document.text, "S\n\np\n\nx | y");
        assert_eq!(document.blocks.last().unwrap().heading_path, ["S"]);
    }

    #[test]
    fn the_page_title_heads_the_outline_where_no_h1_does() {
        let path = |source: &str| parse(source).blocks.last().unwrap().heading_path.clone();
        assert_eq!(path("<title>Book</title><h2>Chapter</h2><p>x"), ["Book", "Chapter"]);
        assert_eq!(path("<title>Book - Site</title><h1>Book</h1><h2>Chapter</h2><p>x"), ["Book", "Chapter"]);
    }

    #[test]
    fn formulas_and_reference_marks() {
        assert_eq!(
            text(
                "<p>E<sup class=reference><a href='#1'>[1]</a></sup> is <math><mi>E</mi><annotation \
                 encoding='application/x-tex'>E=mc^2</annotation></math>.</p>"
            ),
            "E is E=mc^2."
        );
    }

    #[test]
    fn the_declared_encoding_is_used() {
        let bytes = b"<meta charset=\"iso-8859-2\"><p>\xa3\xf3d\xbc";
        assert_eq!(HtmlParser.parse(bytes, &SourceInfo::new("a.html"), &work()).unwrap().text, "Łódź");
    }

    #[test]
    fn deep_nesting_neither_overflows_nor_stalls() {
        let nested = |depth: usize| format!("{}x{}", "<div>".repeat(depth), "</div>".repeat(depth));
        assert_eq!(text(&nested(1000)), "x");
        let error = HtmlParser.parse(nested(200_000).as_bytes(), &SourceInfo::new("a.html"), &work()).unwrap_err();
        assert!(matches!(error, DocumentError::TooDeep { .. }), "{error}");
        let disguised = "<div></x>".repeat(200_000);
        assert!(HtmlParser.parse(disguised.as_bytes(), &SourceInfo::new("a.html"), &work()).is_err());
        let reopened = (0..1000).map(|n| format!("<b id={n}>")).collect::<String>() + &"<p>x".repeat(10_000);
        assert!(HtmlParser.parse(reopened.as_bytes(), &SourceInfo::new("a.html"), &work()).is_err());
        let unclosed = "<p><b><i>".repeat(400);
        assert_eq!(text(&format!("{unclosed}end")), "end");
    }

    #[test]
    fn a_page_of_scripts_is_empty() {
        let error = HtmlParser.parse(b"<script>x</script>", &SourceInfo::new("a.html"), &work()).unwrap_err();
        assert!(matches!(error, DocumentError::Empty { .. }));
    }
}
