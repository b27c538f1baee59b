//! What a file is, by its content first: wrong and missing extensions are common.
//!
//! Formats with an unmistakable beginning (PDF, DOCX, EPUB, HTML) are recognised whatever the file is called. The text
//! formats look alike, so among them the extension decides, then the declared media type.

use crate::package::{Container, container};

/// What the beginning of a file shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// A format of this media type, for certain.
    Sure(&'static str),
    /// A container that is cut off: its directory, at the end, is missing.
    BrokenZip,
    /// A known format that is not read, as the rest of a sentence: `is an Excel workbook`.
    Unread(&'static str),
    /// An Office document whose content is encrypted.
    EncryptedOffice,
    /// Begins like an HTML page.
    HtmlPage,
    /// Text, or unknown.
    Other,
}

/// Bytes at the start of a file in which a PDF header may stand (ISO 32000-1, Annex H, note 13).
const PDF_HEADER_WITHIN: usize = 1024;

/// Looks at `bytes`.
pub(crate) fn shape(bytes: &[u8]) -> Shape {
    let head = bytes.get(..PDF_HEADER_WITHIN.min(bytes.len())).unwrap_or_default();
    if bytes.starts_with(b"PK\x03\x04") {
        return match container(bytes) {
            Container::Docx => Shape::Sure(DOCX),
            Container::Epub => Shape::Sure(EPUB),
            Container::Other(what) => Shape::Unread(what),
            Container::Broken => Shape::BrokenZip,
        };
    }
    if bytes.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        let name: Vec<u8> = "EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes).collect();
        return match bytes.windows(name.len()).any(|window| window == name) {
            true => Shape::EncryptedOffice,
            false => Shape::Unread("is an old Office document (save it as DOCX or PDF)"),
        };
    }
    if bytes.starts_with(br"{\rtf") {
        return Shape::Unread("is an RTF document (save it as DOCX or PDF)");
    }
    // A header further on is believed only where what comes before is no page of its own.
    if bytes.starts_with(b"%PDF-") || contains(head, b"%PDF-") && !is_mostly_text(head) {
        return Shape::Sure(PDF);
    }
    if looks_like_html(bytes) { Shape::HtmlPage } else { Shape::Other }
}

/// Media type of PDF.
pub(crate) const PDF: &str = "application/pdf";
/// Media type of DOCX.
pub(crate) const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
/// Media type of EPUB.
pub(crate) const EPUB: &str = "application/epub+zip";

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

fn is_mostly_text(bytes: &[u8]) -> bool {
    let odd = bytes.iter().filter(|byte| **byte >= 0x80 || (**byte < 0x20 && !byte.is_ascii_whitespace())).count();
    odd * 50 < bytes.len()
}

fn looks_like_html(bytes: &[u8]) -> bool {
    let mut rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    // XHTML begins with an XML declaration.
    if rest.starts_with(b"<?xml") {
        let end = rest.iter().position(|byte| *byte == b'>').map_or(rest.len(), |at| at + 1);
        rest = rest.get(end..).unwrap_or_default().trim_ascii_start();
    }
    let begins = |tag: &[u8]| rest.get(..tag.len()).is_some_and(|head| head.eq_ignore_ascii_case(tag));
    begins(b"<!doctype html") || begins(b"<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmistakable_beginnings() {
        assert_eq!(shape(b"%PDF-1.7\n"), Shape::Sure(PDF));
        assert_eq!(shape(b"\x00\x01\xff\x80\x90junk\n%PDF-1.7\n"), Shape::Sure(PDF));
        assert_eq!(shape(b"A PDF begins with %PDF-1.7, and so on."), Shape::Other);
        assert_eq!(shape(b"PK\x03\x04cut"), Shape::BrokenZip);
        assert_eq!(shape(b"\n<?xml version='1.0'?>\n<!DOCTYPE HTML PUBLIC>"), Shape::HtmlPage);
        assert_eq!(shape(b"<?xml version='1.0'?><feed>"), Shape::Other);
        assert_eq!(shape(b""), Shape::Other);
    }
}
