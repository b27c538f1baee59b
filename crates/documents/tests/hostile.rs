//! A folder of files that want to do harm: each ends as a document or as one clear sentence, and the batch goes on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::fmt::Write as _;
use std::fs;
use std::time::{Duration, Instant};

use edgewise_documents::{IndexProfile, Limits, ParserRegistry, SourceInfo};
use support::{docx, docx_with, file, package, pdf};

/// What must become of a file.
enum Verdict {
    /// A document whose text contains this.
    Text(&'static str),
    /// An error whose sentence contains this.
    Refused(&'static str),
}
use Verdict::{Refused, Text};

const ENCRYPTED: &[u8] = include_bytes!("fixtures/encrypted.pdf");

fn utf16(text: &str, mark: bool) -> Vec<u8> {
    let bytes = text.encode_utf16().flat_map(u16::to_le_bytes);
    if mark { b"\xff\xfe".iter().copied().chain(bytes).collect() } else { bytes.collect() }
}

/// Names, contents and verdicts. `limit` is the limit on unpacked bytes.
fn files(limit: usize) -> Vec<(&'static str, Vec<u8>, Verdict)> {
    let sound_docx = docx("<w:p><w:r><w:t>Sound document.</w:t></w:r></w:p>");
    let sound_pdf = pdf(&[vec![(50.0, 100.0, 12.0, "Sound page.")]], "", &[]);
    let many: Vec<Vec<support::Line<'_>>> =
        (0..2000).map(|_| vec![(50.0, 400.0, 12.0, "One of many pages.")]).collect();
    let bomb = vec![b' '; limit + 1];
    let bomb_text = format!("<w:p><w:r><w:t>{}</w:t></w:r></w:p>", "x".repeat(limit));
    let entities = "<?xml version=\"1.0\"?><!DOCTYPE x [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><w:document>\
                    <w:body><w:p><w:r><w:t>&b;&b;end</w:t></w:r></w:p></w:body></w:document>";
    let loop_kids = file(&[
        (1, "<</Type /Catalog /Pages 2 0 R>>".to_owned()),
        (2, "<</Type /Pages /Count 9 /Kids [2 0 R 2 0 R]>>".to_owned()),
    ]);
    let self_form = file(&[
        (1, "<</Type /Catalog /Pages 2 0 R>>".to_owned()),
        (2, "<</Type /Pages /Count 1 /Kids [3 0 R]>>".to_owned()),
        (3, "<</Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources <</XObject <</X 4 0 R>>>> /Contents 5 0 R>>".to_owned()),
        (4, "<</Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources <</XObject <</X 4 0 R>>>> /Length 11>>\nstream\n/X Do /X Do\nendstream".to_owned()),
        (5, "<</Length 5>>\nstream\n/X Do\nendstream".to_owned()),
    ]);
    let nested = format!("1 0 obj\n{}\nendobj", "[".repeat(300_000));
    let ole: Vec<u8> = [b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".to_vec(), utf16("EncryptedPackage", false)].concat();
    vec![
        ("00-empty.txt", Vec::new(), Refused("holds no text")),
        ("01-empty.pdf", Vec::new(), Refused("holds no text")),
        ("02-blank.docx", docx("<w:p/>"), Refused("holds no text")),
        ("03-sound.docx", sound_docx.clone(), Text("Sound document.")),
        ("04-bomb.docx", docx(&bomb_text), Refused("unpacks to more than the limit")),
        (
            "05-bomb-in-styles.docx",
            docx_with("<w:p/>", &[("word/styles.xml", std::str::from_utf8(&bomb).unwrap())]),
            Refused("unpacks to more"),
        ),
        ("06-entities.docx", package(&[("word/document.xml", entities.as_bytes())]), Text("end")),
        ("07-deep.docx", docx(&"<w:sdt>".repeat(100_000)), Refused("tags open")),
        ("08-malformed.docx", docx("<w:p><w:r></w:p>"), Refused("not well-formed")),
        ("09-cut.docx", sound_docx[..sound_docx.len() / 2].to_vec(), Refused("cut off or damaged")),
        ("10-cut.epub", sound_docx[..40].to_vec(), Refused("cut off or damaged")),
        ("11-deep.html", "<div>".repeat(200_000).into_bytes(), Refused("tags open")),
        ("12-deep-list.md", format!("{}x", "- ".repeat(50_000)).into_bytes(), Text("x")),
        ("13-deep-quote.md", format!("{}x", "> ".repeat(50_000)).into_bytes(), Text("x")),
        ("14-many-pages.pdf", pdf(&many, "", &[]), Text("One of many pages.")),
        ("15-cut.pdf", sound_pdf[..sound_pdf.len() / 3].to_vec(), Refused("15-cut.pdf")),
        ("16-no-table.pdf", sound_pdf[..sound_pdf.len() - 60].to_vec(), Text("Sound page.")),
        ("17-loop.pdf", loop_kids, Refused("17-loop.pdf")),
        ("18-draws-itself.pdf", self_form, Refused("has no text on its")),
        ("19-nested.pdf", file(&[(1, nested)]), Refused("cut off or damaged")),
        ("20-encrypted.pdf", ENCRYPTED.to_vec(), Refused("no password was given")),
        ("21-encrypted.docx", ole, Refused("Office encryption is not supported")),
        ("22-word.pdf", sound_docx.clone(), Text("Sound document.")),
        ("23-portable.docx", sound_pdf.clone(), Text("Sound page.")),
        ("24-page.txt", b"<!DOCTYPE html><title>T</title><p>A page.".to_vec(), Text("A page.")),
        ("25-text.docx", b"Plain text after all.".to_vec(), Text("Plain text")),
        ("26-picture.md", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), Refused("is a PNG image")),
        ("27-no-extension", sound_pdf.clone(), Text("Sound page.")),
        ("28-archive.docx", package(&[("a.txt", b"x")]), Refused("is a ZIP archive")),
        ("29-sheet.xlsx", package(&[("xl/workbook.xml", b"<x/>")]), Refused("Excel workbook")),
        ("30-utf16.txt", utf16("Naïve text in UTF-16.", true), Text("Naïve text")),
        ("31-utf16-no-mark.csv", utf16("name,note\nZoë,x\n", false), Text("name: Zoë")),
        (
            "32-latin1.txt",
            b"Le gar\xe7on a mang\xe9 \xe0 No\xebl, tr\xe8s t\xf4t, sans fa\xe7on.".to_vec(),
            Text("garçon a mangé"),
        ),
        (
            "33-noise.pdf",
            (0..20_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect(),
            Refused("33-noise.pdf"),
        ),
        ("34-deep.jsonl", "[".repeat(100_000).into_bytes(), Refused("line 1 is not JSON")),
        ("35-open-quote.csv", format!("a,b\n\"{}", "x,\n".repeat(10_000)).into_bytes(), Text("a: x")),
        ("36-one-line.rs", format!("fn f() {{ {} }}", "g(); ".repeat(50_000)).into_bytes(), Text("g();")),
        ("37-marks.adoc", format!("== T\n\n{}x{}", "*_".repeat(3_000), "_*".repeat(3_000)).into_bytes(), Text("x")),
        ("38-last.txt", b"The batch came to its end.".to_vec(), Text("came to its end")),
    ]
}

#[test]
fn a_folder_of_hostile_files_ends_in_one_line_each() {
    let limits = Limits { max_unpacked_bytes: 4 << 20, max_seconds: 60, ..IndexProfile::default().limits };
    let profile = IndexProfile { limits, ..IndexProfile::default() };
    let registry = ParserRegistry::new(&profile);
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("hostile");
    fs::create_dir_all(&folder).unwrap();
    let (mut report, mut wrong) = (String::new(), String::new());
    let start = Instant::now();
    for (name, bytes, verdict) in files(limits.max_unpacked_bytes) {
        // On disk, so that a failure can be looked at with the example `inspect`.
        fs::write(folder.join(name), &bytes).unwrap();
        let begun = Instant::now();
        let line = match registry.parse(&bytes, &SourceInfo::new(name)) {
            Ok(document) => {
                document.check_blocks().unwrap();
                let is_right = matches!(verdict, Text(text) if document.text.contains(text));
                if !is_right {
                    writeln!(wrong, "{name}: {:.200}", document.text).unwrap();
                }
                format!("{name}: read, {} bytes of text", document.text.len())
            }
            Err(error) => {
                let sentence = error.to_string();
                if !matches!(verdict, Refused(part) if sentence.contains(part)) || sentence.contains('\n') {
                    writeln!(wrong, "{sentence}").unwrap();
                }
                assert!(!sentence.contains("report it as a defect"), "{sentence}");
                assert!(sentence.contains(name), "{sentence}");
                sentence
            }
        };
        writeln!(report, "{line} ({:.2} s)", begun.elapsed().as_secs_f64()).unwrap();
    }
    fs::write(folder.with_extension("report.txt"), &report).unwrap();
    assert!(wrong.is_empty(), "unexpected:\n{wrong}\nall:\n{report}");
    assert!(start.elapsed() < Duration::from_secs(120), "{report}");
}

#[test]
fn packed_files_cut_anywhere_are_refused_or_read() {
    let sources = [
        ("a.docx", docx("<w:p><w:r><w:t>Sound document.</w:t></w:r></w:p>")),
        ("a.pdf", pdf(&[vec![(50.0, 100.0, 12.0, "Sound page.")]], "", &[])),
        ("b.pdf", ENCRYPTED.to_vec()),
    ];
    for (name, bytes) in sources {
        for end in (0..bytes.len()).step_by(23) {
            if let Err(error) = support::parse(name, &bytes[..end]) {
                assert!(!error.to_string().contains("report it as a defect"), "{name} cut at {end}: {error}");
            }
        }
    }
}

#[test]
fn packed_files_with_wrong_bytes_are_refused_or_read() {
    let sources = [
        ("a.docx", docx("<w:p><w:r><w:t>Sound document.</w:t></w:r></w:p>")),
        ("a.pdf", pdf(&[vec![(50.0, 100.0, 12.0, "Sound page.")]], "", &[])),
        ("b.pdf", ENCRYPTED.to_vec()),
    ];
    for (name, bytes) in sources {
        for at in (0..bytes.len()).step_by(19) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            if let Err(error) = support::parse(name, &damaged) {
                assert!(!error.to_string().contains("report it as a defect"), "{name} at {at}: {error}");
            }
        }
    }
}
