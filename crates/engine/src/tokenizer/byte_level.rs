//! The byte alphabet of GPT-2's byte-level BPE (Radford et al. 2019, `bytes_to_unicode` of the published encoder).
//!
//! Vocabularies write each byte as one printable character: printable Latin-1 bytes stand for themselves, the other 68
//! are numbered from U+0100. This is the way back, from a vocabulary entry to its bytes.

/// The byte that `c` stands for, if `c` belongs to the alphabet.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        code @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => u8::try_from(code).ok(),
        // Bytes that aren't printable, in increasing order: 0x00-0x20 (33 of them), 0x7f-0xa0 (34), 0xad.
        code @ 0x100..=0x120 => u8::try_from(code - 0x100).ok(),
        code @ 0x121..=0x142 => u8::try_from(code - 0x121 + 0x7f).ok(),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The bytes a vocabulary entry stands for. An entry with a character outside the alphabet stands for itself in UTF-8,
/// as the reference decoder has it.
pub(super) fn bytes_of(entry: &str) -> Vec<u8> {
    entry.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| entry.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_a_bijection_onto_the_bytes() {
        let mut seen = [0; 256];
        for c in (0..0x400).filter_map(char::from_u32) {
            if let Some(byte) = byte_of(c) {
                seen[usize::from(byte)] += 1;
            }
        }
        assert_eq!(seen, [1; 256]);
        assert_eq!(bytes_of("Ġthe"), b" the");
        assert_eq!(bytes_of("Ċ"), b"\n");
        assert_eq!(bytes_of("Ã©"), "é".as_bytes());
        assert_eq!(bytes_of("日"), "日".as_bytes());
    }
}
