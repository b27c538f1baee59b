//! A tokenizer whose tokens are words.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, Mutex},
};

use edgewise_model_api::{ModelError, Tokenizer};

/// First id handed out; smaller ids are control tokens of [`crate::ScriptedGenerator`]'s chat template, which no text
/// encodes to and [`Tokenizer::decode`] leaves out.
pub(crate) const FIRST_ID: u32 = 16;

#[derive(Debug, Default)]
struct Vocabulary {
    ids: HashMap<String, u32>,
    pieces: Vec<String>,
}

/// One token per word, with the space before it, and one per other character. Ids are handed out in order of first
/// appearance; clones share them. `decode(encode(text)) == text` for every text.
#[derive(Debug, Clone, Default)]
pub struct WordTokenizer {
    vocabulary: Arc<Mutex<Vocabulary>>,
}

impl WordTokenizer {
    /// An empty vocabulary.
    pub fn new() -> Self {
        Self::default()
    }

    fn pieces(text: &str) -> Vec<Range<usize>> {
        let mut pieces = Vec::new();
        let mut chars = text.char_indices().peekable();
        while let Some((start, first)) = chars.next() {
            let mut end = start + first.len_utf8();
            let opens_word =
                first.is_alphanumeric() || first == ' ' && chars.peek().is_some_and(|(_, c)| c.is_alphanumeric());
            if opens_word {
                while let Some((at, c)) = chars.next_if(|(_, c)| c.is_alphanumeric()) {
                    end = at + c.len_utf8();
                }
            }
            pieces.push(start..end);
        }
        pieces
    }
}

impl Tokenizer for WordTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let mut vocabulary = self.vocabulary.lock().expect("no test panics while encoding");
        let mut ids = Vec::new();
        for piece in Self::pieces(text) {
            let piece = &text[piece];
            let id = match vocabulary.ids.get(piece) {
                Some(id) => *id,
                None => {
                    let id = FIRST_ID + u32::try_from(vocabulary.pieces.len()).expect("a test has few words");
                    vocabulary.ids.insert(piece.to_owned(), id);
                    vocabulary.pieces.push(piece.to_owned());
                    id
                }
            };
            ids.push(id);
        }
        Ok(ids)
    }

    fn offsets(&self, text: &str) -> Result<Vec<Range<usize>>, ModelError> {
        Ok(Self::pieces(text))
    }

    fn count(&self, text: &str) -> Result<usize, ModelError> {
        Ok(Self::pieces(text).len())
    }

    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        let vocabulary = self.vocabulary.lock().expect("no test panics while decoding");
        let mut text = String::new();
        for id in ids.iter().filter(|id| **id >= FIRST_ID) {
            let piece = vocabulary.pieces.get((id - FIRST_ID) as usize);
            text.push_str(piece.ok_or_else(|| ModelError::Tokenizer(format!("id {id} was never handed out")))?);
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_words_and_single_marks() {
        let tokenizer = WordTokenizer::new();
        assert_eq!(tokenizer.count("Two words, [1] and  naïve.\n").unwrap(), 12);
        let text = "Two words";
        let pieces: Vec<&str> = tokenizer.offsets(text).unwrap().into_iter().map(|r| &text[r]).collect();
        assert_eq!(pieces, ["Two", " words"]);
    }

    #[test]
    fn an_unknown_id_is_an_error() {
        assert!(WordTokenizer::new().decode(&[99]).is_err());
    }

    #[test]
    fn keeps_the_contract() {
        crate::contract::tokenizer(&WordTokenizer::new());
    }
}
