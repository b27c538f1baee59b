//! PDF files made here, read back: reading order, pages, headings, furniture, passwords.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use edgewise_documents::{BlockKind, IndexProfile, ParserRegistry, Passwords, SourceInfo};
use edgewise_types::{PageRange, Span};
use support::{Line, parse, pdf};

const LEFT: [&str; 5] = [
    "The first column begins with this line",
    "and goes on here, broken in the mid-",
    "dle of a word, as columns often are in",
    "print, until it comes to its last line",
    "which is as long as all of the others",
];
const RIGHT: [&str; 5] = [
    "and then the second column carries on",
    "the sentence from the top of the page",
    "beside the first one, line after line",
    "in the same measure, and at the end it",
    "stops with a full stop, as it should do.",
];

fn column<'t>(x: f64, top: f64, lines: &[&'t str]) -> Vec<Line<'t>> {
    lines.iter().enumerate().map(|(index, line)| (x, top + 14.0 * index as f64, 11.0, *line)).collect()
}

#[test]
fn columns_are_read_one_after_the_other_whatever_the_order_of_drawing() {
    // Line by line across both columns, the right one a little lower.
    let mut lines: Vec<Line<'_>> = vec![(60.0, 60.0, 20.0, "A Title Across Both of the Columns")];
    let pairs = column(60.0, 120.0, &LEFT).into_iter().zip(column(320.0, 124.0, &RIGHT));
    lines.extend(pairs.flat_map(|(left, right)| [right, left]));
    lines.extend(column(
        60.0,
        240.0,
        &["A last line that reaches over the whole width of the page, below the two columns of text."],
    ));
    let document = parse("a.pdf", &pdf(&[lines], "", &[])).unwrap();
    let place = |text: &str| document.text.find(text).unwrap_or_else(|| panic!("{text:?} in {}", document.text));
    assert!(document.text.contains("in the middle of a word"), "{}", document.text);
    assert!(place("which is as long") < place("and then the second"));
    assert!(place("stops with a full") < place("A last line"));
    assert_eq!(
        document.blocks[0].kind,
        BlockKind::Heading { level: 1, title: "A Title Across Both of the Columns".to_owned() }
    );
    assert_eq!(document.title, "A Title Across Both of the Columns");
}

#[test]
fn short_pieces_side_by_side_are_a_table() {
    let mut lines = Vec::new();
    for (row, cells) in [["Item", "Price", "Stock"], ["Tea", "2.50", "12"], ["Coffee", "4.00", "7"]].iter().enumerate()
    {
        for (index, cell) in cells.iter().enumerate() {
            lines.push((60.0 + 120.0 * index as f64, 100.0 + 16.0 * row as f64, 11.0, *cell));
        }
    }
    // Close below, but in one column only: not of the table.
    lines.push((60.0, 100.0 + 16.0 * 3.0, 11.0, "Prices in pounds"));
    let document = parse("a.pdf", &pdf(&[lines], "", &[])).unwrap();
    assert_eq!(document.text, "Item | Price | Stock\nTea | 2.50 | 12\nCoffee | 4.00 | 7\n\nPrices in pounds");
    assert_eq!(document.blocks[0].kind, BlockKind::Table);
}

#[test]
fn pages_are_known_furniture_goes_and_paragraphs_reach_over_pages() {
    let numbers: Vec<String> = (1..=5).map(|page| format!("Page {page} of 5")).collect();
    let firsts: Vec<String> =
        (1..=5).map(|page| format!("words of page {page} begin with this line, which fills the measure")).collect();
    let pages: Vec<Vec<Line<'_>>> = (0..5)
        .map(|page| {
            let mut lines: Vec<Line<'_>> = vec![(60.0, 40.0, 9.0, "A Running Title")];
            lines.extend(column(
                60.0,
                100.0,
                &[firsts[page].as_str(), "and goes on with a second line to the end of the page, without"],
            ));
            lines.push((280.0, 770.0, 9.0, numbers[page].as_str()));
            lines
        })
        .collect();
    let document = parse("a.pdf", &pdf(&pages, "", &[])).unwrap();
    assert!(!document.text.contains("Running") && !document.text.contains("of 5"), "{}", document.text);
    assert_eq!(document.blocks.len(), 1, "one paragraph over five pages: {}", document.text);
    for (page, first) in firsts.iter().enumerate() {
        let start = document.text.find(first.as_str()).unwrap();
        let number = page as u32 + 1;
        let pages = document.pages.pages(Span::new(start, start + first.len()));
        assert_eq!(pages, Some(PageRange::new(number, number)), "{first}");
    }
    assert_eq!(document.metadata.get("pages"), Some(&edgewise_types::MetadataValue::Integer(5)));
}

#[test]
fn bookmarks_make_headings() {
    let page = |title: &'static str, text: &'static str| vec![(60.0, 100.0, 11.0, title), (60.0, 140.0, 11.0, text)];
    let pages = [
        page("Part One", "The text of the first part."),
        page("Details", "The text of the details."),
        page("Part Two", "The end."),
    ];
    let objects = [
        "<</Type /Outlines /First 11 0 R /Last 13 0 R>>".to_owned(),
        "<</Title (Part One) /Parent 10 0 R /Next 13 0 R /First 12 0 R /Dest [1000 0 R /Fit]>>".to_owned(),
        "<</Title <FEFF00440065007400610069006C0073> /Parent 11 0 R /A <</S /GoTo /D (d)>> >>".to_owned(),
        // A loop: the next of the last is the first.
        "<</Title (Part Two) /Parent 10 0 R /Next 11 0 R /Dest [1004 0 R /Fit]>>".to_owned(),
    ];
    let catalog = "/Outlines 10 0 R /Names <</Dests <</Names [(d) [1002 0 R /Fit]]>>>>";
    let document = parse("a.pdf", &pdf(&pages, catalog, &objects)).unwrap();
    let paths: Vec<String> = document.blocks.iter().map(|block| block.heading_path.join(" > ")).collect();
    assert_eq!(paths, ["Part One", "Part One", "Part One > Details", "Part One > Details", "Part Two", "Part Two"]);
}

#[test]
fn items_are_a_list() {
    let lines = column(60.0, 100.0, &["Shopping:", "\u{95} tea", "\u{95} coffee", "1. then this", "2. then that"]);
    // In the font's encoding, U+0095 is a bullet.
    let document = parse("a.pdf", &pdf(&[lines], "", &[])).unwrap();
    assert_eq!(document.text, "Shopping:\n\n- tea\n- coffee\n1. then this\n2. then that");
}

#[test]
fn a_password_opens_an_encrypted_file() {
    let bytes = include_bytes!("fixtures/encrypted.pdf");
    let open = |passwords: &[&str]| {
        let registry = ParserRegistry::new(&IndexProfile::default());
        let passwords = Passwords::new(passwords.iter().map(|p| (*p).to_owned()));
        registry.with_passwords(passwords).parse(bytes, &SourceInfo::new("a.pdf"))
    };
    assert!(open(&["wrong", "open sesame"]).unwrap().text.contains("Behind the rock"));
    let error = open(&["wrong"]).unwrap_err().to_string();
    assert!(error.contains("none of the given passwords"), "{error}");
}

#[test]
fn items_of_a_list_stand_on_their_own_pages() {
    let items: Vec<[String; 2]> = (1..=3)
        .map(|page| {
            [
                format!("\u{95} the first thing on page {page} is this."),
                format!("\u{95} the second on page {page} is that."),
            ]
        })
        .collect();
    let pages: Vec<Vec<Line<'_>>> =
        items.iter().map(|[first, second]| column(60.0, 100.0, &[first.as_str(), second.as_str()])).collect();
    let document = parse("a.pdf", &pdf(&pages, "", &[])).unwrap();
    assert_eq!(document.blocks.len(), 1, "one list: {}", document.text);
    for page in 1..=3 {
        for text in [format!("the first thing on page {page}"), format!("the second on page {page}")] {
            let start = document.text.find(&text).unwrap();
            let found = document.pages.pages(Span::new(start, start + text.len()));
            assert_eq!(found, Some(PageRange::new(page, page)), "{text}: {:?}", document.pages);
        }
    }
}

#[test]
fn layers_that_are_switched_off_are_not_read() {
    let text = |y: u32, text: &str| format!("BT /F1 12 Tf 50 {y} Td ({text}) Tj ET\n");
    let content = text(700, "Seen by all.")
        + &format!("/OC /Off BDC {}EMC\n", text(680, "Hidden draft."))
        + &format!("/OC /On BDC {}EMC\n", text(660, "A layer that is on."))
        + &format!("/OC /Both BDC {}EMC\n", text(640, "On one of two layers."))
        + "/X Do\n";
    let hidden_form = text(620, "Hidden form.");
    let bytes = support::file(&[
        (1, "<</Type /Catalog /Pages 2 0 R /OCProperties <</OCGs [6 0 R 7 0 R] /D <</OFF [6 0 R]>>>>>>".to_owned()),
        (2, "<</Type /Pages /Count 1 /Kids [3 0 R]>>".to_owned()),
        (
            3,
            "<</Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Contents 5 0 R /Resources <</Font <</F1 4 0 R>> \
             /XObject <</X 9 0 R>> /Properties <</Off 6 0 R /On 7 0 R /Both 8 0 R>>>>>>"
                .to_owned(),
        ),
        (4, "<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>".to_owned()),
        (5, format!("<</Length {}>>\nstream\n{content}\nendstream", content.len())),
        (6, "<</Type /OCG /Name (Draft)>>".to_owned()),
        (7, "<</Type /OCG /Name (Final)>>".to_owned()),
        (8, "<</Type /OCMD /OCGs [6 0 R 7 0 R]>>".to_owned()),
        (
            9,
            format!(
                "<</Type /XObject /Subtype /Form /BBox [0 0 600 800] /OC 6 0 R /Resources <</Font <</F1 4 0 R>>>> \
                 /Length {}>>\nstream\n{hidden_form}\nendstream",
                hidden_form.len()
            ),
        ),
    ]);
    let text = parse("a.pdf", &bytes).unwrap().text;
    assert!(
        text.contains("Seen by all.") && text.contains("is on.") && text.contains("On one of two layers."),
        "{text}"
    );
    assert!(!text.contains("Hidden"), "{text}");
}
