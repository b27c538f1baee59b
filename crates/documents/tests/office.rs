//! DOCX and EPUB files made here, read back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use edgewise_documents::BlockKind;
use edgewise_types::{MetadataValue, Span};
use support::{docx, docx_with, package, parse};

const STYLES: &str = r#"<w:styles xmlns:w="w">
<w:style w:styleId="Titel"><w:name w:val="Title"/></w:style>
<w:style w:styleId="berschrift1"><w:name w:val="heading 1"/><w:pPr><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr></w:style>
<w:style w:styleId="Own"><w:name w:val="My Head"/><w:basedOn w:val="berschrift2"/></w:style>
<w:style w:styleId="berschrift2"><w:name w:val="heading 2"/></w:style>
<w:style w:styleId="Code"><w:name w:val="Source Code"/></w:style>
<w:style w:styleId="TOC1"><w:name w:val="toc 1"/></w:style>
</w:styles>"#;

const NUMBERING: &str = r#"<w:numbering xmlns:w="w">
<w:abstractNum w:abstractNumId="0"><w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="decimal"/><w:lvlText w:val="%1"/></w:lvl></w:abstractNum>
<w:abstractNum w:abstractNumId="1"><w:lvl w:ilvl="0"><w:numFmt w:val="bullet"/><w:lvlText w:val="x"/></w:lvl>
<w:lvl w:ilvl="1"><w:start w:val="1"/><w:numFmt w:val="lowerLetter"/><w:lvlText w:val="%2)"/></w:lvl></w:abstractNum>
<w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num><w:num w:numId="2"><w:abstractNumId w:val="1"/></w:num>
</w:numbering>"#;

fn p(style: &str, text: &str) -> String {
    format!("<w:p><w:pPr><w:pStyle w:val=\"{style}\"/></w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>")
}

fn item(level: u8, text: &str) -> String {
    let list = format!("<w:numPr><w:ilvl w:val=\"{level}\"/><w:numId w:val=\"2\"/></w:numPr>");
    format!("<w:p><w:pPr>{list}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>")
}

fn cell(properties: &str, text: &str) -> String {
    format!("<w:tc><w:tcPr>{properties}</w:tcPr><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:tc>")
}

#[test]
fn a_word_document_keeps_its_structure() {
    let table = [
        format!("<w:tr>{}{}</w:tr>", cell("<w:vMerge w:val=\"restart\"/>", "2025"), cell("", "May")),
        format!("<w:tr>{}{}</w:tr>", cell("<w:vMerge/>", ""), cell("", "June")),
        format!("<w:tr>{}</w:tr>", cell("<w:gridSpan w:val=\"2\"/>", "Sum")),
    ]
    .concat();
    let body = [
        p("Titel", "The Report"),
        p("TOC1", "First 1"),
        p("berschrift1", "First"),
        "<w:p><w:r><w:t xml:space=\"preserve\">Water is H</w:t></w:r><w:r><w:rPr><w:vertAlign w:val=\"subscript\"/></w:rPr><w:t>2</w:t></w:r>\
         <w:r><w:t>O, 10</w:t></w:r><w:r><w:rPr><w:vertAlign w:val=\"superscript\"/></w:rPr><w:t>6</w:t></w:r><w:r><w:t xml:space=\"preserve\"> &amp; more.</w:t>\
         <w:footnoteReference w:id=\"2\"/></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:ins><w:r><w:t xml:space=\"preserve\"> Added.</w:t></w:r></w:ins>\
         <w:r><w:fldChar/><w:instrText>PAGE</w:instrText></w:r><w:r><w:rPr><w:vanish/></w:rPr><w:t>hidden</w:t></w:r></w:p>"
            .to_owned(),
        item(0, "one"),
        item(1, "inner"),
        item(1, "second"),
        item(0, "two"),
        p("Own", "Deeper"),
        format!("<w:tbl>{table}</w:tbl>"),
        p("Code", "fn f() {"),
        p("Code", "}"),
        p("berschrift1", "Last"),
        "<w:p><w:r><mc:AlternateContent><mc:Choice><w:txbxContent><w:p><w:r><w:t>In a box.</w:t></w:r></w:p></w:txbxContent></mc:Choice>\
         <mc:Fallback><w:txbxContent><w:p><w:r><w:t>In a box.</w:t></w:r></w:p></w:txbxContent></mc:Fallback></mc:AlternateContent></w:r>\
         <w:r><w:t>Around it.</w:t></w:r></w:p>"
            .to_owned(),
    ]
    .concat();
    let notes = "<w:footnotes xmlns:w=\"w\"><w:footnote w:type=\"separator\" w:id=\"1\"><w:p><w:r><w:t>---</w:t></w:r></w:p></w:footnote>\
                 <w:footnote w:id=\"2\"><w:p><w:r><w:t>A note.</w:t></w:r></w:p></w:footnote></w:footnotes>";
    let core = "<c xmlns:dc=\"d\" xmlns:dcterms=\"t\"><dc:title>Template</dc:title><dc:creator>Ada</dc:creator>\
                <dcterms:created>2024-05-01T10:00:00Z</dcterms:created></c>";
    let parts = [
        ("word/styles.xml", STYLES),
        ("word/numbering.xml", NUMBERING),
        ("word/footnotes.xml", notes),
        ("docProps/core.xml", core),
    ];
    let document = parse("a.docx", &docx_with(&body, &parts)).unwrap();
    assert_eq!(
        document.text,
        "The Report\n\n1 First\n\nWater is H2O, 10⁶ & more. Added.\n\nA note.\n\n- one\n  a) inner\n  b) second\n- two\n\nDeeper\n\n\
         2025 | May\n2025 | June\nSum |\n\nfn f() {\n}\n\n2 Last\n\nIn a box.\n\nAround it."
    );
    assert_eq!(document.title, "The Report");
    let path_of = |kind: BlockKind| document.blocks.iter().find(|b| b.kind == kind).unwrap().heading_path.join("/");
    assert_eq!(path_of(BlockKind::Table), "The Report/1 First/Deeper");
    assert_eq!(path_of(BlockKind::Code), "The Report/1 First/Deeper");
    assert_eq!(document.metadata.get("author"), Some(&MetadataValue::List(vec!["Ada".to_owned()])));
    assert_eq!(document.metadata.get("date"), Some(&MetadataValue::Text("2024-05-01T10:00:00Z".to_owned())));
    assert!(document.pages.is_empty());
}

#[test]
fn lists_and_nested_tables_stay_in_their_cells() {
    let inner = format!("<w:tbl><w:tr>{}{}</w:tr></w:tbl>", cell("", "x"), cell("", "y"));
    let body = format!(
        "<w:tbl><w:tr><w:tc>{}{}<w:p/></w:tc><w:tc>{inner}<w:p/></w:tc></w:tr></w:tbl>",
        item(0, "one"),
        item(0, "two")
    );
    let document = parse("a.docx", &docx_with(&body, &[("word/numbering.xml", NUMBERING)])).unwrap();
    assert_eq!(document.text, "one; two | x; y");
    assert_eq!(
        parse("b.docx", &docx("<w:p><w:r><w:t>a</w:t><w:br/><w:t>b</w:t><w:tab/><w:t>c</w:t></w:r></w:p>"))
            .unwrap()
            .text,
        "a\nb c"
    );
}

#[test]
fn a_book_is_read_in_the_order_of_its_spine() {
    let container = "<container><rootfiles><rootfile full-path=\"OPS/book.opf\"/></rootfiles></container>";
    let opf = "<package xmlns:dc=\"d\"><metadata><dc:title>The Book</dc:title><dc:creator>Ada</dc:creator><dc:language>en</dc:language></metadata>\
               <manifest><item id=\"n\" href=\"nav.xhtml\" media-type=\"application/xhtml+xml\" properties=\"nav\"/>\
               <item id=\"a\" href=\"text/one.xhtml\" media-type=\"application/xhtml+xml\"/>\
               <item id=\"b\" href=\"text/t%20wo.xhtml\" media-type=\"application/xhtml+xml\"/>\
               <item id=\"c\" href=\"gone.xhtml\" media-type=\"application/xhtml+xml\"/></manifest>\
               <spine><itemref idref=\"n\"/><itemref idref=\"b\"/><itemref idref=\"a\"/><itemref idref=\"c\"/></spine></package>";
    let page = |body: &str| format!("<?xml version=\"1.0\"?><html><head><title/></head><body>{body}</body></html>");
    let (one, two, nav) =
        (page("<h2>One</h2><p>First.</p>"), page("<h2>Two</h2><a id=\"x\"/><p>Second.</p>"), page("<p>Contents</p>"));
    let bytes = package(&[
        ("mimetype", b"application/epub+zip"),
        ("META-INF/container.xml", container.as_bytes()),
        ("OPS/book.opf", opf.as_bytes()),
        ("OPS/nav.xhtml", nav.as_bytes()),
        ("OPS/text/one.xhtml", one.as_bytes()),
        ("OPS/text/t wo.xhtml", two.as_bytes()),
    ]);
    let document = parse("a.epub", &bytes).unwrap();
    assert_eq!(document.text, "Two\n\nSecond.\n\nOne\n\nFirst.");
    assert_eq!((document.title.as_str(), document.language.as_deref()), ("The Book", Some("en")));
    assert_eq!(document.blocks.last().unwrap().heading_path, ["The Book", "One"]);
    let missing = package(&[("META-INF/container.xml", container.as_bytes())]);
    let error = parse("b.epub", &missing).unwrap_err().to_string();
    assert!(error.contains("OPS/book.opf"), "{error}");
}

/// A book of one chapter.
fn book(metadata: &str, chapter: &str) -> Vec<u8> {
    let container = "<container><rootfiles><rootfile full-path=\"b.opf\"/></rootfiles></container>";
    let opf = format!(
        "<package xmlns:dc=\"d\"><metadata>{metadata}</metadata><manifest><item id=\"c\" href=\"c.xhtml\" \
         media-type=\"application/xhtml+xml\"/></manifest><spine><itemref idref=\"c\"/></spine></package>"
    );
    package(&[
        ("META-INF/container.xml", container.as_bytes()),
        ("b.opf", opf.as_bytes()),
        ("c.xhtml", format!("<html><body>{chapter}</body></html>").as_bytes()),
    ])
}

#[test]
fn page_breaks_of_a_book_give_printed_pages() {
    let chapter = "<span epub:type=\"pagebreak\" title=\"xii\"/><h1>One</h1><p>Still on twelve. \
                   <span role=\"doc-pagebreak\" aria-label=\"1\">1</span>Now on page one.</p>\
                   <div epub:type=\"pagebreak\" title=\"2\"></div><p>And on two.</p>";
    let document = parse("a.epub", &book("<dc:title>B</dc:title>", chapter)).unwrap();
    assert_eq!(document.text, "One\n\nStill on twelve. Now on page one.\n\nAnd on two.");
    let page = |text: &str| {
        let start = document.text.find(text).unwrap();
        document.pages.pages(Span::new(start, start + text.len())).unwrap().to_string()
    };
    assert_eq!((page("Still on"), page("Now on"), page("And on")), ("p. xii".into(), "p. 1".into(), "p. 2".into()));
    assert_eq!(page("twelve. Now"), "pp. xii–1");
    assert_eq!(document.metadata.get("pages"), Some(&MetadataValue::Integer(3)));
}

#[test]
fn one_filter_fits_the_metadata_of_every_format() {
    let core = "<c xmlns:dc=\"d\" xmlns:dcterms=\"t\"><dc:creator>Ada Lovelace; Alan Turing</dc:creator>\
                <dcterms:created>2024-05-31T00:00:00Z</dcterms:created><dc:language>en-GB</dc:language></c>";
    let epub = "<dc:creator>Ada Lovelace</dc:creator><dc:creator>Alan Turing</dc:creator><dc:date>2024-05-31</dc:date>\
                <dc:language>en_gb</dc:language>";
    let files: [(&str, Vec<u8>); 6] = [
        ("a.docx", docx_with("<w:p><w:r><w:t>Text.</w:t></w:r></w:p>", &[("docProps/core.xml", core)])),
        ("a.epub", book(epub, "<p>Text.</p>")),
        (
            "a.html",
            b"<html lang=en-GB><meta name=author content='Ada Lovelace and Alan Turing'><meta name=date content='May 31, 2024'><p>Text."
                .to_vec(),
        ),
        ("a.md", b"---\nauthors: [Ada Lovelace, Alan Turing]\npublished: 2024/05/31\nlang: en-GB\n---\nText.\n".to_vec()),
        (
            "a.adoc",
            b"= Title\nAda Lovelace <ada@example.org>; Alan Turing\nv1.0, 2024-05-31\n:lang: en-GB\n\nText.\n".to_vec(),
        ),
        (
            "a.txt",
            b"Title: T\nAuthor: Ada Lovelace, Alan Turing\nRelease date: May 31, 2024 [eBook #1]\nLanguage: English\n\nText.\n"
                .to_vec(),
        ),
    ];
    for (name, bytes) in files {
        let metadata = parse(name, &bytes).unwrap().metadata;
        let authors = MetadataValue::List(vec!["Ada Lovelace".to_owned(), "Alan Turing".to_owned()]);
        assert_eq!(metadata.get("author"), Some(&authors), "{name}");
        let Some(MetadataValue::Text(date)) = metadata.get("date") else { panic!("{name}: {metadata:?}") };
        assert!(date.starts_with("2024-05-31"), "{name}: {date}");
        assert_eq!(metadata.get("language"), Some(&MetadataValue::Text("en".to_owned())), "{name}: {metadata:?}");
    }
}
