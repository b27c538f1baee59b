//! `edgewise ingest` of a folder full of files that want to do harm, beside good ones: one line each, the batch
//! completes, the exit code says that some failed. And passwords: found, used, and left nowhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::{
    fmt::Write as _,
    fs,
    io::{Cursor, Write},
    path::Path,
    time::{Duration, Instant},
};

use support::World;
use zip::{ZipWriter, write::SimpleFileOptions};

const ENCRYPTED: &[u8] = include_bytes!("../../documents/tests/fixtures/encrypted.pdf");
const PASSWORD: &str = "open sesame";

fn package(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in parts {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn docx(text: &str) -> Vec<u8> {
    let document =
        format!("<w:document xmlns:w=\"w\"><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>");
    package(&[("[Content_Types].xml", b"<Types/>"), ("word/document.xml", document.as_bytes())])
}

fn epub(text: &str) -> Vec<u8> {
    let container = b"<container><rootfiles><rootfile full-path=\"b.opf\"/></rootfiles></container>";
    let book = b"<package><metadata><title>Book</title></metadata><manifest><item id=\"c\" href=\"c.xhtml\" \
        media-type=\"application/xhtml+xml\"/></manifest><spine><itemref idref=\"c\"/></spine></package>";
    let chapter = format!("<html><body><h1>One</h1><p>{text}</p></body></html>");
    package(&[("META-INF/container.xml", container), ("b.opf", book), ("c.xhtml", chapter.as_bytes())])
}

/// A PDF of one line a page.
fn pdf(pages: &[String]) -> Vec<u8> {
    let kids: String = (0..pages.len()).map(|page| format!("{} 0 R ", 10 + 2 * page)).collect();
    let mut objects = vec![
        (1, "<</Type /Catalog /Pages 2 0 R>>".to_owned()),
        (2, format!("<</Type /Pages /Count {} /Kids [{kids}]>>", pages.len())),
        (3, "<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>".to_owned()),
    ];
    for (page, line) in pages.iter().enumerate() {
        let id = 10 + 2 * page;
        let content = format!("BT /F1 12 Tf 50 700 Td ({line}) Tj ET");
        objects.push((
            id,
            format!(
                "<</Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources <</Font <</F1 3 0 R>>>> /Contents {} 0 R>>",
                id + 1
            ),
        ));
        objects.push((id + 1, format!("<</Length {}>>\nstream\n{content}\nendstream", content.len())));
    }
    let (mut out, mut table) = ("%PDF-1.7\n".to_owned(), "xref\n0 1\n0000000000 65535 f \n".to_owned());
    for (id, object) in &objects {
        writeln!(table, "{id} 1\n{:010} 00000 n ", out.len()).unwrap();
        writeln!(out, "{id} 0 obj\n{object}\nendobj").unwrap();
    }
    let start = out.len();
    write!(out, "{table}trailer\n<</Size {} /Root 1 0 R>>\nstartxref\n{start}\n%%EOF\n", 10 + 2 * pages.len()).unwrap();
    out.into_bytes()
}

fn utf16(text: &str) -> Vec<u8> {
    b"\xff\xfe".iter().copied().chain(text.encode_utf16().flat_map(u16::to_le_bytes)).collect()
}

/// Names, contents, and what the line of each failing one says.
fn files() -> Vec<(&'static str, Vec<u8>, Option<&'static str>)> {
    let pages: Vec<String> = (1..=600).map(|page| format!("Page {page} tells of lighthouse number {page}.")).collect();
    let sound_pdf = pdf(&pages[..2]);
    let (sound_docx, sound_epub) = (docx("A sound letter about ferns."), epub("A sound chapter about moss."));
    let bomb = docx(&"x".repeat(257 << 20));
    assert!(bomb.len() < 4 << 20, "a bomb is small");
    vec![
        ("good.md", b"# Harbour\n\nThe harbour was founded in 1742.".to_vec(), None),
        ("good.docx", sound_docx.clone(), None),
        ("good.epub", sound_epub.clone(), None),
        ("good/nested.html", b"<title>T</title><h1>Tides</h1><p>Spring tides come twice a month.".to_vec(), None),
        ("good/600-pages.pdf", pdf(&pages), None),
        ("good/utf-16.txt", utf16("Naïve text in UTF-16."), None),
        ("good/ragged.csv", b"name,note\nAda,first,extra\nGrace\n\"open, quote\n".to_vec(), None),
        ("good/word-inside.pdf", sound_docx.clone(), None),
        ("good/pdf-inside.docx", sound_pdf.clone(), None),
        (
            "good/noise-at-the-end.md",
            ["# Noise\n\nText.\n".repeat(100).as_bytes(), &[0x1b, b'[', b'3', b'1', b'm', 7]].concat(),
            None,
        ),
        ("empty.md", Vec::new(), Some("holds no text")),
        ("bomb.docx", bomb, Some("unpacks to more than the limit")),
        ("deep.html", "<div>".repeat(200_000).into_bytes(), Some("tags open")),
        ("deep.docx", docx(&"<w:sdt>".repeat(100_000)), Some("tags open")),
        (
            "encrypted.pdf",
            ENCRYPTED.to_vec(),
            Some("is encrypted and no password was given: give its password in a file"),
        ),
        ("cut.pdf", sound_pdf[..sound_pdf.len() / 3].to_vec(), Some("cut.pdf")),
        ("cut.docx", sound_docx[..sound_docx.len() / 2].to_vec(), Some("is cut off or damaged")),
        ("cut.epub", sound_epub[..sound_epub.len() / 2].to_vec(), Some("is cut off or damaged")),
        ("nuls.txt", vec![0; 10_000], Some("nuls.txt")),
        ("picture.md", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec(), Some("is a PNG image")),
        ("broken.jsonl", b"{\"a\":1}\n{\"a\":2}\n{oops\n{\"a\":4}\n".to_vec(), Some("line 3 is not JSON")),
    ]
}

/// Everything below a folder, as one heap of bytes.
fn holds(folder: &Path, needle: &str) -> bool {
    let all = support::files(folder);
    assert!(!all.is_empty());
    all.iter().any(|path| fs::read(path).unwrap().windows(needle.len()).any(|window| window == needle.as_bytes()))
}

#[test]
fn hostile_files_fail_alone_with_one_line_each() {
    let world = World::with_models();
    let files = files();
    for (name, bytes, _) in &files {
        world.write(&format!("shelf/{name}"), bytes);
    }
    #[cfg(unix)]
    let unreadable = {
        use std::os::unix::fs::{PermissionsExt, symlink};
        symlink(world.path("shelf"), world.path("shelf/loop")).unwrap();
        symlink(world.path("nowhere"), world.path("shelf/dangling.md")).unwrap();
        let path = world.write("shelf/unreadable.md", "Nobody may read this.");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        // The superuser reads everything.
        fs::read(&path).is_err()
    };

    let begun = Instant::now();
    let ran = world.run(&["ingest", "shelf", "-c", "shelf"]).expect(3);
    assert!(begun.elapsed() < Duration::from_secs(180), "{:?}", begun.elapsed());
    let (stdout, stderr) = (ran.stdout(), ran.stderr());
    for (name, _, refused) in &files {
        let lines: Vec<&str> = stdout.lines().filter(|line| line.contains(&format!("`{name}`"))).collect();
        match refused {
            Some(part) => {
                assert_eq!(lines.len(), 1, "{name} in {stdout}");
                assert!(lines[0].starts_with("failed ") && lines[0].contains(part), "{}", lines[0]);
                assert!(!lines[0].contains("report it as a defect"), "{}", lines[0]);
                assert_eq!(lines[0].matches(name).count(), 1, "the file is named once: {}", lines[0]);
            }
            None => assert!(lines.is_empty(), "{lines:?}"),
        }
    }
    let (failed, total) = (files.iter().filter(|file| file.2.is_some()).count(), files.len());
    #[cfg(unix)]
    let (failed, total) = (failed + usize::from(unreadable), total + 1);
    assert!(stderr.contains(&format!("{failed} of {total} files failed")), "{stderr}");
    assert!(!stderr.contains("panicked") && !stderr.contains("overflowed"), "{stderr}");
    #[cfg(unix)]
    for skipped in ["shelf/loop", "shelf/dangling.md"] {
        assert_eq!(
            stdout.lines().filter(|line| line.starts_with("skipped") && line.contains(skipped)).count(),
            1,
            "{stdout}"
        );
    }

    // What was good is found, on its page.
    let found = world.run(&["search", "lighthouse number 417", "-c", "shelf", "--json"]).expect(0).json();
    let hit = &found["hits"][0];
    assert_eq!(hit["uri"], "good/600-pages.pdf", "{found}");
    let (first, last) =
        (hit["chunk"]["pages"]["first"].as_u64().unwrap(), hit["chunk"]["pages"]["last"].as_u64().unwrap());
    assert!((first..=last).contains(&417) && hit["chunk"]["text"].as_str().unwrap().contains("number 417"), "{hit}");
    let shown = world.run(&["search", "lighthouse number 417", "-c", "shelf", "--limit", "1"]).expect(0).stdout();
    assert!(shown.contains(&format!("600-pages.pdf, pp. {first}–{last}")), "{shown}");

    // The second time all is known but what failed, and a password opens what it should.
    let passwords = world.write("passwords.txt", format!("wrong\n{PASSWORD}\n"));
    let again = world
        .run(&["ingest", "shelf", "-c", "shelf", "--password-file", passwords.to_str().unwrap(), "--json"])
        .expect(3);
    let report = again.json();
    let outcome = |name: &str| {
        let sources = report["report"]["sources"].as_array().unwrap();
        sources.iter().find(|source| source["uri"] == name).unwrap()["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!((outcome("encrypted.pdf"), outcome("good.md")), ("added".to_owned(), "unchanged".to_owned()));
    let found =
        world.run(&["search", "what is behind the rock?", "-c", "shelf", "--limit", "1", "--json"]).expect(0).json();
    assert_eq!(found["hits"][0]["uri"], "encrypted.pdf");
    assert!(!holds(&world.path("data"), PASSWORD) && !again.stdout().contains(PASSWORD));
    assert!(!again.stderr().contains(PASSWORD), "{}", again.stderr());
}

#[test]
fn passwords_come_from_the_environment_the_settings_and_through_a_server() {
    let world = World::with_models();
    world.write("shelf/encrypted.pdf", ENCRYPTED);
    let without = world.run(&["ingest", "shelf", "-c", "a"]).expect(3);
    assert!(without.stdout().contains("no password was given"), "{}", without.stdout());
    assert!(without.stderr().contains("the file could not be ingested"), "{}", without.stderr());

    let with = |name: &str, value: &str, collection: &str| {
        let mut command = world.command();
        command.env(name, value).args(["-v", "ingest", "shelf", "-c", collection]);
        let output = command.output().unwrap();
        let all = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert!(!all.contains(PASSWORD), "{all}");
        (output.status.code(), all)
    };
    let (code, all) = with("EDGEWISE_DOCUMENT_PASSWORD", "wrong", "a");
    assert!(code == Some(3) && all.contains("none of the given passwords opens it"), "{all}");
    assert_eq!(with("EDGEWISE_DOCUMENT_PASSWORD", PASSWORD, "a").0, Some(0));
    let file = world.write("passwords.txt", PASSWORD);
    assert_eq!(with("EDGEWISE_PATHS__PASSWORDS", file.to_str().unwrap(), "b").0, Some(0));
    let missing = world.path("no-such-file");
    let missing = missing.to_str().unwrap();
    world
        .run(&["ingest", "shelf", "-c", "c", "--password-file", missing])
        .fails_with(1, &["passwords", "no-such-file"]);

    let server = world.serve();
    assert_eq!(with("EDGEWISE_DOCUMENT_PASSWORD", PASSWORD, "d").0, Some(0));
    drop(server);
    assert!(!holds(&world.path("data"), PASSWORD));
}
