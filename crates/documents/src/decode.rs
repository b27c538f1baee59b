//! From bytes to characters: byte-order marks, UTF-8, plausible legacy encodings, and the refusal of everything else.
//!
//! The rule is to be sure: text that would come out garbled is an error that names the place, not a document.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{DecoderResult, Encoding, UTF_8, UTF_16BE, UTF_16LE};

use crate::DocumentError;

/// Largest share of control characters text may have, in percent.
const MAX_CONTROL_PERCENT: usize = 5;
/// Smallest share of letters and common signs among the non-ASCII characters of a guessed encoding, in percent.
const MIN_PLAUSIBLE_PERCENT: usize = 80;

/// Bytes looked at to recognise UTF-16.
const UTF16_SAMPLE_BYTES: usize = 2048;

/// Beginnings of common binary formats and what they are.
const SIGNATURES: &[(&[u8], &str)] = &[
    (b"\x89PNG\r\n\x1a\n", "is a PNG image"),
    (b"\xff\xd8\xff", "is a JPEG image"),
    (b"GIF8", "is a GIF image"),
    (b"BM\x00\x00", "is a bitmap image"),
    (b"RIFF", "is a RIFF container (WebP, WAV or AVI)"),
    (b"%PDF-", "is a PDF document"),
    (b"PK\x03\x04", "is a ZIP container (DOCX, EPUB, XLSX or a plain archive)"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old Office document"),
    (b"\x1f\x8b", "is gzip-compressed"),
    (b"\x28\xb5\x2f\xfd", "is zstd-compressed"),
    (b"BZh", "is bzip2-compressed"),
    (b"\xfd7zXZ", "is xz-compressed"),
    (b"7z\xbc\xaf", "is a 7-Zip archive"),
    (b"\x7fELF", "is an ELF program"),
    (b"\xca\xfe\xba\xbe", "is a Java class or a universal binary"),
    (b"\0asm", "is a WebAssembly module"),
    (b"SQLite format 3\0", "is an SQLite database"),
    (b"GGUF", "is a GGUF model"),
    (b"OggS", "is an Ogg stream"),
    (b"ID3", "is an MP3 recording"),
];

/// The characters of `bytes`, without a byte-order mark. `declared` is an encoding the document names itself; it is
/// believed only where the bytes are not UTF-8.
pub(crate) fn decode(bytes: &[u8], uri: &str, declared: Option<&'static Encoding>) -> Result<String, DocumentError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(DocumentError::Empty { uri: uri.to_owned() });
    }
    if let Some((_, found)) = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return Err(binary(uri, (*found).to_owned()));
    }
    let text = match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => strict(rest, UTF_8, 3).map_err(|bad| bad.error(uri, bytes))?,
        [0xff, 0xfe, rest @ ..] => strict(rest, UTF_16LE, 2).map_err(|bad| bad.error(uri, bytes))?,
        [0xfe, 0xff, rest @ ..] => strict(rest, UTF_16BE, 2).map_err(|bad| bad.error(uri, bytes))?,
        _ => match utf16_without_mark(bytes) {
            Some(encoding) => strict(bytes, encoding, 0).map_err(|bad| bad.error(uri, bytes))?,
            None => without_mark(bytes, uri, declared)?,
        },
    };
    if let Some(offset) = text.find('\0') {
        return Err(binary(uri, format!("holds a NUL character at byte {offset} of its text")));
    }
    let controls = text.chars().filter(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{c}')).count();
    if controls * 100 > text.chars().count() * MAX_CONTROL_PERCENT {
        return Err(binary(uri, format!("holds {controls} control characters")));
    }
    Ok(text)
}

fn binary(uri: &str, found: String) -> DocumentError {
    DocumentError::Binary { uri: uri.to_owned(), found }
}

/// UTF-16 without a byte-order mark, recognised by text that is mostly Latin: nearly every second byte is zero, and of
/// the others none.
fn utf16_without_mark(bytes: &[u8]) -> Option<&'static Encoding> {
    let sample = bytes.get(..UTF16_SAMPLE_BYTES.min(bytes.len())).filter(|_| bytes.len().is_multiple_of(2))?;
    let zeros = |offset: usize| sample.iter().skip(offset).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd, pairs) = (zeros(0), zeros(1), sample.len() / 2);
    match (even, odd) {
        (0, odd) if odd * 10 >= pairs * 9 && pairs >= 4 => Some(UTF_16LE),
        (even, 0) if even * 10 >= pairs * 9 && pairs >= 4 => Some(UTF_16BE),
        _ => None,
    }
}

/// Where decoding stopped.
struct Malformed {
    encoding: &'static Encoding,
    offset: usize,
}

impl Malformed {
    fn error(self, uri: &str, bytes: &[u8]) -> DocumentError {
        let line = bytes.iter().take(self.offset).filter(|byte| **byte == b'\n').count() + 1;
        DocumentError::InvalidEncoding {
            uri: uri.to_owned(),
            encoding: self.encoding.name(),
            offset: self.offset,
            line,
        }
    }
}

/// Decodes all of `bytes` or says where they are malformed; `start` is their offset in the file.
fn strict(bytes: &[u8], encoding: &'static Encoding, start: usize) -> Result<String, Malformed> {
    let mut decoder = encoding.new_decoder_without_bom_handling();
    let capacity = decoder.max_utf8_buffer_length_without_replacement(bytes.len()).unwrap_or(0);
    let mut text = String::with_capacity(capacity);
    match decoder.decode_to_string_without_replacement(bytes, &mut text, true) {
        (DecoderResult::InputEmpty, _) => Ok(text),
        (DecoderResult::Malformed(length, after), read) => {
            let offset = start + read.saturating_sub(usize::from(length) + usize::from(after));
            Err(Malformed { encoding, offset })
        }
        // Cannot happen with the capacity above; naming the place is still the honest answer.
        (DecoderResult::OutputFull, read) => Err(Malformed { encoding, offset: start + read }),
    }
}

fn without_mark(bytes: &[u8], uri: &str, declared: Option<&'static Encoding>) -> Result<String, DocumentError> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text.to_owned()),
        Err(error) => error,
    };
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        let hint = "holds a NUL byte";
        return Err(binary(uri, format!("{hint} at offset {offset} (text in UTF-16 needs a byte-order mark)")));
    }
    let malformed = Malformed { encoding: UTF_8, offset: error.valid_up_to() };
    if is_damaged_utf8(bytes) {
        return Err(malformed.error(uri, bytes));
    }
    let guess = || {
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
        detector.feed(bytes, true);
        detector.guess(None, Utf8Detection::Deny)
    };
    let encoding = declared.filter(|encoding| *encoding != UTF_8).unwrap_or_else(guess);
    match strict(bytes, encoding, 0) {
        Ok(text) if is_plausible(&text) => Ok(text),
        _ => Err(malformed.error(uri, bytes)),
    }
}

/// Whether most non-ASCII bytes form valid UTF-8 sequences: then the rest is damage, not another encoding. Two or
/// more such bytes in a row are rarely valid UTF-8 by chance.
fn is_damaged_utf8(bytes: &[u8]) -> bool {
    let (mut valid, mut invalid) = (0, 0);
    for chunk in bytes.utf8_chunks() {
        valid += chunk.valid().bytes().filter(|byte| !byte.is_ascii()).count();
        invalid += chunk.invalid().len();
    }
    valid > invalid
}

/// Whether the non-ASCII characters are mostly letters and signs people type, and none is a C1 control, which real
/// text never holds.
fn is_plausible(text: &str) -> bool {
    let (mut total, mut good) = (0usize, 0usize);
    for character in text.chars().filter(|c| !c.is_ascii()) {
        if ('\u{80}'..='\u{9f}').contains(&character) {
            return false;
        }
        total += 1;
        let sign = "\u{a0}–—‘’‚“”„†‡•…‰‹›«»€£¥§©®™°±·¿¡º\u{ad}";
        let cjk_sign = ('\u{3000}'..='\u{303f}').contains(&character) || ('\u{ff00}'..='\u{ffef}').contains(&character);
        good += usize::from(character.is_alphabetic() || sign.contains(character) || cjk_sign);
    }
    good * 100 >= total * MIN_PLAUSIBLE_PERCENT
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn text_of(bytes: &[u8]) -> String {
        decode(bytes, "a.txt", None).unwrap()
    }

    #[test]
    fn byte_order_marks_choose_the_encoding() {
        assert_eq!(text_of(b"\xef\xbb\xbfna\xc3\xafve"), "naïve");
        let utf16 = |order: fn(u16) -> [u8; 2]| "naïve 𝄞".encode_utf16().flat_map(order).collect::<Vec<u8>>();
        assert_eq!(text_of(&[b"\xff\xfe", utf16(u16::to_le_bytes).as_slice()].concat()), "naïve 𝄞");
        assert_eq!(text_of(&[b"\xfe\xff", utf16(u16::to_be_bytes).as_slice()].concat()), "naïve 𝄞");
    }

    #[test]
    fn utf16_is_recognised_without_a_mark() {
        let bytes = |order: fn(u16) -> [u8; 2]| "naïve text\n".encode_utf16().flat_map(order).collect::<Vec<u8>>();
        assert_eq!(text_of(&bytes(u16::to_le_bytes)), "naïve text\n");
        assert_eq!(text_of(&bytes(u16::to_be_bytes)), "naïve text\n");
        assert!(decode(b"a\0b", "x", None).is_err());
    }

    #[test]
    fn a_truncated_utf16_file_is_refused() {
        let error = decode(b"\xff\xfea\0b\0c", "a.txt", None).unwrap_err();
        assert!(matches!(error, DocumentError::InvalidEncoding { encoding: "UTF-16LE", offset: 6, .. }), "{error}");
    }

    #[test]
    fn legacy_encodings_are_guessed() {
        let french = "Le cœur a ses raisons que la raison ne connaît point ; été, forêt, garçon.";
        let (bytes, _, _) = encoding_rs::WINDOWS_1252.encode(french);
        assert_eq!(text_of(&bytes), french);
        let russian = "Все счастливые семьи похожи друг на друга, каждая несчастливая семья несчастлива по-своему.";
        let (bytes, _, _) = encoding_rs::WINDOWS_1251.encode(russian);
        assert_eq!(text_of(&bytes), russian);
        let japanese = "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。";
        let (bytes, _, _) = encoding_rs::SHIFT_JIS.encode(japanese);
        assert_eq!(text_of(&bytes), japanese);
    }

    #[test]
    fn a_declared_encoding_is_used_but_never_against_valid_utf8() {
        let declared = Encoding::for_label(b"iso-8859-2");
        assert_eq!(decode(b"\xa3\xf3d\xbc", "a.html", declared).unwrap(), "Łódź");
        assert_eq!(decode("Łódź".as_bytes(), "a.html", declared).unwrap(), "Łódź");
    }

    #[test]
    fn damaged_utf8_is_refused_with_the_place() {
        let mut bytes = "første linje\nblåbærsyltetøy på brød\n".as_bytes().to_vec();
        let at = bytes.iter().rposition(|byte| *byte == 0xc3).unwrap();
        bytes.remove(at + 1);
        let error = decode(&bytes, "a.txt", None).unwrap_err();
        match error {
            DocumentError::InvalidEncoding { offset, line, .. } => assert_eq!((offset, line), (at, 2)),
            other => panic!("{other}"),
        }
    }

    #[test]
    fn binary_files_are_refused_and_named() {
        let message = |bytes: &[u8]| decode(bytes, "notes.md", None).unwrap_err().to_string();
        assert!(message(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR").contains("is a PNG image"));
        assert!(message(b"%PDF-1.7 text").contains("PDF"));
        assert!(message(b"abc\0def").contains("NUL"));
        assert!(message(b"abc\0\xff\xfe").contains("NUL byte at offset 3"));
        assert!(message(b"\x01\x02\x03\x04hello").contains("control characters"));
        let noise: Vec<u8> = (0..4000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
        assert!(decode(&noise, "x.txt", None).is_err());
    }

    #[test]
    fn blank_files_are_empty() {
        for blank in [&b""[..], b" \r\n\t"] {
            assert!(matches!(decode(blank, "x", None), Err(DocumentError::Empty { .. })));
        }
    }
}
