//! Text from tokens as they come.
//!
//! A token may end inside a character. Its incomplete bytes are held back until the character is complete or turns out
//! to be none; then they become U+FFFD, maximal subpart by maximal subpart (Unicode 16, section 3.9), exactly as
//! `String::from_utf8_lossy` does it on the whole.
//!
//! Invariant: the texts of all [`Detokenizer::push`]es and the [`Detokenizer::finish`] together are the decoding of all
//! tokens at once.

/// Turns the bytes of successive tokens into text.
#[derive(Debug, Default)]
pub(crate) struct Detokenizer {
    /// The start of a character; at most three bytes between calls.
    incomplete: Vec<u8>,
}

impl Detokenizer {
    /// The text that `bytes` complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> String {
        self.incomplete.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = &self.incomplete[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    // No length: the bytes end inside a character that may still become valid.
                    let Some(broken) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[broken..];
                }
            }
        }
        self.incomplete = rest.to_vec();
        text
    }

    /// The text of what was held back, at the end of the tokens.
    pub(crate) fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.incomplete)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn characters_appear_when_complete() {
        let mut detokenizer = Detokenizer::default();
        let pieces = [&b"a\xf0"[..], b"\x9f\x98", b"\x80b", b"\xe2\x82"];
        assert_eq!(pieces.map(|bytes| detokenizer.push(bytes)), ["a", "", "😀b", ""]);
        assert_eq!(detokenizer.finish(), "\u{fffd}");
        assert_eq!(detokenizer.finish(), "");
    }

    proptest! {
        #[test]
        fn pieces_add_up_to_the_whole(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                prop::collection::vec(prop::sample::select(vec![0x41, 0x80, 0xa0, 0xbf, 0xc3, 0xe2, 0xed, 0xf0, 0xf4]), 0..40),
                any::<String>().prop_map(String::into_bytes),
            ],
            cuts in prop::collection::vec(1_usize..5, 0..40),
        ) {
            let mut detokenizer = Detokenizer::default();
            let (mut text, mut rest) = (String::new(), &bytes[..]);
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                text.push_str(&detokenizer.push(piece));
                prop_assert!(detokenizer.incomplete.len() <= 3);
                rest = after;
            }
            text.push_str(&detokenizer.push(rest));
            text.push_str(&detokenizer.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
