//! Makes small files of packed formats, sound and otherwise.

#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::io::{Cursor, Write};

use edgewise_documents::{DocumentError, IndexProfile, ParsedDocument, ParserRegistry, SourceInfo};
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

pub(crate) fn parse(name: &str, bytes: &[u8]) -> Result<ParsedDocument, DocumentError> {
    let document = ParserRegistry::new(&IndexProfile::default()).parse(bytes, &SourceInfo::new(name))?;
    document.check_blocks().unwrap();
    Ok(document)
}

/// A ZIP container of parts.
pub(crate) fn package(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in parts {
        writer.start_file(*name, SimpleFileOptions::default()).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

/// A Word document with this body.
pub(crate) fn docx(body: &str) -> Vec<u8> {
    docx_with(body, &[])
}

pub(crate) fn docx_with(body: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let document = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><w:document xmlns:w=\"w\" xmlns:mc=\"mc\"><w:body>{body}</w:body></w:document>"
    );
    let mut parts: Vec<(&str, &[u8])> =
        vec![("[Content_Types].xml", b"<Types/>"), ("word/document.xml", document.as_bytes())];
    parts.extend(more.iter().map(|(name, content)| (*name, content.as_bytes())));
    package(&parts)
}

/// A piece of text on a page: left, distance from the top, font size, characters.
pub(crate) type Line<'t> = (f64, f64, f64, &'t str);

/// Height of the pages of [`pdf`], in points.
pub(crate) const HEIGHT: f64 = 800.0;

/// A PDF with these pages, 600 by 800 points, in Helvetica. `catalog` is added to the catalog, and `objects` are added
/// from object 10 on. Pages are objects from 1000 on, in steps of two.
pub(crate) fn pdf(pages: &[Vec<Line<'_>>], catalog: &str, objects: &[String]) -> Vec<u8> {
    let kids: Vec<String> = (0..pages.len()).map(|page| format!("{} 0 R", 1000 + 2 * page)).collect();
    let mut all = vec![
        (1, format!("<</Type /Catalog /Pages 2 0 R {catalog}>>")),
        (2, format!("<</Type /Pages /Count {} /Kids [{}]>>", pages.len(), kids.join(" "))),
        (3, "<</Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding>>".to_owned()),
    ];
    all.extend(objects.iter().enumerate().map(|(index, object)| (10 + index, object.clone())));
    for (page, lines) in pages.iter().enumerate() {
        let mut content = String::new();
        for (x, y, size, text) in lines {
            let text = text.replace('\\', "\\\\").replace('(', "\\(").replace(')', "\\)");
            content.push_str(&format!("BT /F1 {size} Tf {x} {} Td ({text}) Tj ET\n", HEIGHT - y));
        }
        let id = 1000 + 2 * page;
        all.push((
            id,
            format!(
                "<</Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources <</Font <</F1 3 0 R>>>> /Contents {} 0 R>>",
                id + 1
            ),
        ));
        all.push((id + 1, format!("<</Length {}>>\nstream\n{content}\nendstream", content.chars().count())));
    }
    file(&all)
}

/// A PDF file of these objects, the first of which is the catalog. Characters are written as single bytes.
pub(crate) fn file(objects: &[(usize, String)]) -> Vec<u8> {
    let mut out = b"%PDF-1.7\n".to_vec();
    let mut table = String::from("xref\n0 1\n0000000000 65535 f \n");
    for (id, object) in objects {
        table.push_str(&format!("{id} 1\n{:010} 00000 n \n", out.len()));
        out.extend(format!("{id} 0 obj\n{object}\nendobj\n").chars().map(|c| u8::try_from(u32::from(c)).unwrap()));
    }
    let start = out.len();
    let size = objects.iter().map(|(id, _)| id + 1).max().unwrap_or(1);
    out.extend(format!("{table}trailer\n<</Size {size} /Root 1 0 R>>\nstartxref\n{start}\n%%EOF\n").bytes());
    out
}
