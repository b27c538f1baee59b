//! Text strings of PDF outside page content (ISO 32000-1, 7.9.2.2): UTF-16, UTF-8 or PDFDocEncoding.

use encoding_rs::{UTF_16BE, UTF_16LE};

/// The characters of a text string; what cannot be decoded becomes U+FFFD.
pub(super) fn text_string(bytes: &[u8]) -> String {
    let text = match bytes {
        [0xfe, 0xff, rest @ ..] => UTF_16BE.decode_without_bom_handling(rest).0.into_owned(),
        [0xff, 0xfe, rest @ ..] => UTF_16LE.decode_without_bom_handling(rest).0.into_owned(),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        // Many producers write UTF-8 without saying so; PDFDocEncoding is rarely valid UTF-8 by chance.
        _ => std::str::from_utf8(bytes)
            .map_or_else(|_| bytes.iter().map(|byte| doc_char(*byte)).collect(), str::to_owned),
    };
    text.chars().filter(|c| !c.is_control() || c.is_whitespace()).collect()
}

/// A character of PDFDocEncoding (ISO 32000-1, annex D.3).
fn doc_char(byte: u8) -> char {
    const FROM_18: [char; 8] = ['˘', 'ˇ', 'ˆ', '˙', '˝', '˛', '˚', '˜'];
    const FROM_80: [char; 33] = [
        '•', '†', '‡', '…', '—', '–', 'ƒ', '⁄', '‹', '›', '−', '‰', '„', '“', '”', '‘', '’', '‚', '™', 'ﬁ', 'ﬂ', 'Ł',
        'Œ', 'Š', 'Ÿ', 'Ž', 'ı', 'ł', 'œ', 'š', 'ž', '\u{fffd}', '€',
    ];
    match byte {
        0x18..=0x1f => FROM_18[usize::from(byte - 0x18)],
        0x80..=0xa0 => FROM_80[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_of_text_strings() {
        assert_eq!(text_string(b"\xfe\xff\0n\0a\0\xef\0v\0e"), "naïve");
        assert_eq!(text_string(b"\xef\xbb\xbfna\xc3\xafve"), "naïve");
        assert_eq!(text_string(b"na\xefve \x84 \x80\x01"), "naïve — •");
        assert_eq!(text_string("naïve".as_bytes()), "naïve");
    }
}
