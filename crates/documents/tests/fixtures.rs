//! Real files through the registry: their blocks against reviewed ones, and damage of every kind.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use edgewise_documents::{DocumentError, IndexProfile, ParsedDocument, ParserRegistry, SourceInfo, normalise};
use proptest::prelude::*;

const FILES: [&str; 3] = ["rust-book-ownership.md", "rich-tables.html", "pride-and-prejudice.txt"];

fn fixture(name: &str) -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("tests/fixtures").join(name)
}

fn registry() -> ParserRegistry {
    ParserRegistry::new(&IndexProfile::default())
}

fn dump(document: &ParsedDocument) -> String {
    let mut out = format!("{} · {} · {:?}\n", document.title, document.media_type, document.language);
    for block in &document.blocks {
        let text = block.span.slice(&document.text).unwrap();
        write!(out, "\n[{:?} · {}]\n{text}\n", block.kind, block.heading_path.join(" > ")).unwrap();
    }
    out
}

/// What must hold of any document that any parser returns.
fn check(document: &ParsedDocument) {
    document.check_blocks().unwrap();
    assert_eq!(normalise(&document.text), document.text, "the text is normalised as a whole, too");
    assert!(!document.text.is_empty() && !document.title.trim().is_empty());
    for block in &document.blocks {
        let text = block.span.slice(&document.text).unwrap();
        assert!(!text.trim().is_empty() && !text.starts_with('\n') && !text.ends_with('\n'));
        assert!(block.heading_path.iter().all(|title| title.len() <= 200 && !title.contains('\n')));
    }
}

#[test]
fn real_files_parse_into_the_reviewed_blocks() {
    let mut changed = Vec::new();
    for name in FILES {
        let document = registry().parse(&std::fs::read(fixture(name)).unwrap(), &SourceInfo::new(name)).unwrap();
        check(&document);
        let actual = dump(&document);
        let expected = std::fs::read_to_string(fixture(&format!("{name}.expected"))).unwrap_or_default();
        if actual != expected {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.expected"));
            std::fs::write(&path, actual).unwrap();
            changed.push(path);
        }
    }
    assert!(changed.is_empty(), "parsed differently from the .expected files; the new blocks are in {changed:?}");
}

#[test]
fn truncated_files_never_break_a_parser() {
    for name in FILES {
        let bytes = std::fs::read(fixture(name)).unwrap();
        for end in (0..bytes.len()).step_by(37) {
            match registry().parse(&bytes[..end], &SourceInfo::new(name)) {
                Ok(document) => check(&document),
                // A cut inside a character leaves text that is not UTF-8.
                Err(DocumentError::Empty { .. } | DocumentError::InvalidEncoding { .. }) => {}
                Err(other) => panic!("{name} cut at {end}: {other}"),
            }
        }
    }
}

/// Pieces of markup, well and badly nested, with text between.
fn markup() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "<p>",
            "</p>",
            "<div>",
            "</div>",
            "<table>",
            "<tr>",
            "<td rowspan=2>",
            "</table>",
            "<ul>",
            "<li>",
            "</ul>",
            "<h1>",
            "</h1>",
            "<h2>",
            "<pre>",
            "</pre>",
            "<blockquote>",
            "</blockquote>",
            "<sup>",
            "</sup>",
            "<br>",
            "<header>",
            "</header>",
            "<main>",
            "<math>",
            "<dl><dt>",
            "<dd>",
            "<!--",
            "-->",
            "<script>",
            "</script>",
            "\n\n",
            "\n",
            "# ",
            "## ",
            "- ",
            "1. ",
            "> ",
            "```\n",
            "| a | b |\n|---|---|\n",
            "---\n",
            "    ",
            "\\",
            "[x](y)",
            "[^1]",
            "*",
            "**",
            "_",
            "`",
            "&nbsp;",
            "&lt;",
            "\r\n",
            "\t",
            "\u{0}",
            "\u{b}",
            "\u{ad}",
            "e\u{301}",
            "=====\n",
        ])
        .prop_map(str::to_owned),
        "[a-z ]{1,12}",
        "\\PC{1,4}",
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_markup_parses_or_is_refused(source in markup(), extension in prop::sample::select(vec!["md", "html", "txt", "adoc", "csv", "py"])) {
        match registry().parse(source.as_bytes(), &SourceInfo::new(format!("a.{extension}"))) {
            Ok(document) => check(&document),
            Err(error) => prop_assert!(!matches!(error, DocumentError::ParserFailed { .. }), "{error}"),
        }
    }

    #[test]
    fn any_bytes_parse_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), extension in prop::sample::select(vec!["md", "html", "txt", "adoc", "csv", "jsonl", "pdf", "docx"])) {
        match registry().parse(&bytes, &SourceInfo::new(format!("a.{extension}"))) {
            Ok(document) => check(&document),
            Err(error) => prop_assert!(!matches!(error, DocumentError::ParserFailed { .. }), "{error}"),
        }
    }
}
