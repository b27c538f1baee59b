//! Tokenizers from a `tokenizer.json` file (the format of the `tokenizers` library).
//!
//! The file's added tokens, truncation and padding are dropped: nothing is recognised inside text, nothing is cut.

use std::{ops::Range, path::Path};

use edgewise_model_api::{ModelError, Tokenizer};

use super::{encode_plain, encode_with_offsets};
use crate::EngineError;

/// An embedder's tokenizer.
pub(crate) struct JsonTokenizer {
    inner: tokenizers::Tokenizer,
    specials: Vec<u32>,
}

impl JsonTokenizer {
    /// Loads the file.
    pub(crate) fn from_file(path: &Path) -> Result<Self, EngineError> {
        let bytes = std::fs::read(path).map_err(|e| EngineError::io(path, e))?;
        let bad = |reason: String| EngineError::BadFile { path: path.to_owned(), reason };
        let mut file: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let Some(fields) = file.as_object_mut() else { return Err(bad("expected a JSON object".to_owned())) };
        let added = fields.insert("added_tokens".to_owned(), serde_json::json!([]));
        for unwanted in ["truncation", "padding"] {
            fields.insert(unwanted.to_owned(), serde_json::Value::Null);
        }
        let specials = added
            .as_ref()
            .and_then(serde_json::Value::as_array)
            .into_iter()
            .flatten()
            .filter(|token| token["special"] == true)
            .filter_map(|token| u32::try_from(token["id"].as_u64()?).ok())
            .collect();
        let inner = serde_json::from_value::<tokenizers::Tokenizer>(file).map_err(|e| bad(e.to_string()))?;
        Ok(Self { inner, specials })
    }

    /// Id of an entry of the vocabulary.
    pub(crate) fn id_of(&self, entry: &str) -> Option<u32> {
        self.inner.token_to_id(entry)
    }
}

impl Tokenizer for JsonTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(encode_plain(&self.inner, text)?)
    }

    fn offsets(&self, text: &str) -> Result<Vec<Range<usize>>, ModelError> {
        Ok(encode_with_offsets(&self.inner, text)?.1)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        let text_ids: Vec<u32> = ids.iter().copied().filter(|id| !self.specials.contains(id)).collect();
        self.inner.decode(&text_ids, true).map_err(|e| ModelError::Tokenizer(e.to_string()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn write(folder: &Path, text: &str) -> std::path::PathBuf {
        let path = folder.join("tokenizer.json");
        std::fs::write(&path, text).unwrap();
        path
    }

    const TINY: &str = r###"{
        "version": "1.0", "truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [{"id": 1, "content": "[CLS]", "single_word": false, "lstrip": false, "rstrip": false,
                          "normalized": false, "special": true}],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"}, "post_processor": null,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100,
                  "vocab": {"[PAD]": 0, "[CLS]": 1, "[UNK]": 2, "cafe": 3, "##s": 4, "[": 5, "]": 6, "cl": 7}}
    }"###;

    #[test]
    fn nothing_is_recognised_cut_or_padded() {
        let folder = tempfile::tempdir().unwrap();
        let tokenizer = JsonTokenizer::from_file(&write(folder.path(), TINY)).unwrap();
        assert_eq!(tokenizer.encode("[CLS] Cafés").unwrap(), [5, 7, 4, 6, 3, 4]);
        assert_eq!(tokenizer.encode("").unwrap(), [0_u32; 0]);
        assert_eq!(tokenizer.decode(&[1, 3, 4]).unwrap(), "cafes");
        // The accent takes two bytes; ranges are in bytes of the text as given.
        assert_eq!(tokenizer.offsets("x Cafés").unwrap(), [0..1, 2..7, 7..8]);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["", "[]", &TINY[..TINY.len() / 2], r#"{"model": {"type": "Nonsense"}}"#] {
            let path = write(folder.path(), text);
            let message = JsonTokenizer::from_file(&path).err().unwrap().to_string();
            assert!(message.contains("tokenizer.json is damaged or foreign"), "{message}");
        }
    }
}
