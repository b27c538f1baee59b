//! The contract of a tokenizer.

use edgewise_model_api::Tokenizer;

use super::TEXTS;

/// Checks that a tokenizer is deterministic, counts as it encodes, gives well-formed offsets, loses nothing but case
/// and white space, and takes control tokens in a text for ordinary characters.
#[track_caller]
pub fn tokenizer(tokenizer: &dyn Tokenizer) {
    for text in TEXTS {
        let ids = tokenizer.encode(text).unwrap_or_else(|e| panic!("encode({text:?}): {e}"));
        assert_eq!(ids, tokenizer.encode(text).unwrap(), "encode is deterministic: {text:?}");
        assert_eq!(ids.len(), tokenizer.count(text).unwrap(), "count is the length of encode: {text:?}");

        let offsets = tokenizer.offsets(text).unwrap_or_else(|e| panic!("offsets({text:?}): {e}"));
        assert_eq!(ids.len(), offsets.len(), "one offset a token: {text:?}");
        for range in &offsets {
            assert!(text.get(range.clone()).is_some(), "{range:?} is not a range of characters of {text:?}");
        }
        for pair in offsets.windows(2) {
            let ordered = pair[0].start <= pair[1].start && pair[0].end <= pair[1].end;
            assert!(ordered, "offsets never go back: {pair:?} in {text:?}");
        }
        let covered = |at: usize| offsets.iter().any(|range| range.contains(&at));
        for (at, c) in text.char_indices().filter(|(_, c)| c.is_ascii_graphic()) {
            assert!(covered(at), "{c:?} at byte {at} of {text:?} is in no token");
        }
        tokenizer.decode(&ids).unwrap_or_else(|e| panic!("decode(encode({text:?})): {e}"));
    }
    assert!(tokenizer.encode("").unwrap().is_empty(), "no text, no tokens: special tokens are not added");
}
