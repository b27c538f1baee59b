//! Byte-level BPE from the vocabulary a GGUF file carries (`tokenizer.ggml.*`, GGUF specification, section
//! "Tokenizer").
//!
//! Control and user-defined tokens are kept out of the BPE vocabulary, so no text can produce them; they are found by
//! exact, leftmost-longest match in text of the chat template only.

use std::ops::Range;

use edgewise_model_api::{ModelError, Tokenizer};
use tokenizers::models::bpe::{BPE, Vocab};

use super::{byte_level::bytes_of, encode_plain, encode_with_offsets, pre::PreTokenizer};
use crate::EngineError;

/// Types of tokens in `tokenizer.ggml.token_type`.
mod token_type {
    pub(super) const NORMAL: u32 = 1;
    pub(super) const CONTROL: u32 = 3;
    pub(super) const USER_DEFINED: u32 = 4;
}

/// Control tokens that end a turn or the text in the models supported, besides those the file names by id.
const END_MARKERS: [&str; 7] =
    ["<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "</s>"];

/// What a GGUF file says about its tokenizer.
#[derive(Debug, Clone, Default)]
pub(crate) struct GgufVocabulary {
    /// `tokenizer.ggml.model`: the algorithm.
    pub(crate) model: String,
    /// `tokenizer.ggml.pre`: the pre-tokenizer.
    pub(crate) pre: String,
    /// `tokenizer.ggml.tokens`: entries by id.
    pub(crate) tokens: Vec<String>,
    /// `tokenizer.ggml.token_type`: parallel to `tokens`; empty if all are normal.
    pub(crate) token_types: Vec<u32>,
    /// `tokenizer.ggml.merges`: pairs separated by one space, best first.
    pub(crate) merges: Vec<String>,
    /// `tokenizer.ggml.bos_token_id`.
    pub(crate) bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub(crate) eos: Option<u32>,
    /// Further tokens that end generation: `eot_token_id`, `eom_token_id`.
    pub(crate) further_ends: Vec<u32>,
}

/// A generator's tokenizer.
pub(crate) struct GgufTokenizer {
    bpe: tokenizers::Tokenizer,
    /// Bytes of all tokens, one after the other; empty for control tokens.
    bytes: Vec<u8>,
    /// Where the bytes of each token end.
    ends: Vec<usize>,
    /// Texts and ids of control tokens, longest text first.
    controls: Vec<(String, u32)>,
    bos: String,
    eos: String,
    end_of_turn: Vec<u32>,
}

impl GgufTokenizer {
    /// Builds the tokenizer.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for other algorithms or pre-tokenizers than the ones implemented,
    /// [`EngineError::Tokenizer`] if the lists contradict each other.
    pub(crate) fn new(vocabulary: GgufVocabulary) -> Result<Self, EngineError> {
        let GgufVocabulary { model, pre, tokens, token_types, merges, bos, eos, further_ends } = vocabulary;
        if model != "gpt2" {
            return Err(EngineError::Unsupported {
                what: format!("the tokenizer type `{model}`"),
                supported: "the engine knows byte-level BPE (`gpt2`)".to_owned(),
            });
        }
        let pre = PreTokenizer::by_name(&pre)?;
        if !token_types.is_empty() && token_types.len() != tokens.len() {
            return Err(EngineError::Tokenizer(format!(
                "the file lists {} tokens but {} token types",
                tokens.len(),
                token_types.len()
            )));
        }
        let is_control = |id: usize| {
            let kind = token_types.get(id).copied().unwrap_or(token_type::NORMAL);
            kind == token_type::CONTROL || kind == token_type::USER_DEFINED
        };
        let text_of = |id: Option<u32>| -> Result<String, EngineError> {
            let Some(id) = id else { return Ok(String::new()) };
            tokens.get(id as usize).cloned().ok_or_else(|| {
                EngineError::Tokenizer(format!("token {id} is named but there are {} tokens", tokens.len()))
            })
        };
        let (bos, eos_text) = (text_of(bos)?, text_of(eos)?);

        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(tokens.len()));
        let mut controls = Vec::new();
        let mut end_of_turn: Vec<u32> = eos.into_iter().chain(further_ends).collect();
        let mut vocab = Vocab::with_capacity(tokens.len());
        for (index, token) in tokens.into_iter().enumerate() {
            let id = u32::try_from(index).map_err(|_| EngineError::Tokenizer("too many tokens".to_owned()))?;
            if is_control(index) {
                if END_MARKERS.contains(&token.as_str()) {
                    end_of_turn.push(id);
                }
                if !token.is_empty() {
                    controls.push((token, id));
                }
            } else {
                bytes.extend(bytes_of(&token));
                vocab.insert(token, id);
            }
            ends.push(bytes.len());
        }
        controls.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        end_of_turn.sort_unstable();
        end_of_turn.dedup();

        let bpe = build_bpe(vocab, &merges, pre)?;
        Ok(Self { bpe, bytes, ends, controls, bos, eos: eos_text, end_of_turn })
    }

    /// Number of tokens, control tokens included.
    pub(crate) fn vocabulary_size(&self) -> usize {
        self.ends.len()
    }

    /// Text of the token that begins a sequence, empty if there is none.
    pub(crate) fn bos(&self) -> &str {
        &self.bos
    }

    /// Text of the token that ends a sequence, empty if there is none.
    pub(crate) fn eos(&self) -> &str {
        &self.eos
    }

    /// Ids that end a generation, sorted.
    pub(crate) fn end_of_turn(&self) -> &[u32] {
        &self.end_of_turn
    }

    /// The bytes a token adds to the text; none for control tokens and ids beyond the vocabulary.
    pub(crate) fn bytes_of(&self, id: u32) -> &[u8] {
        let id = id as usize;
        let Some(&end) = self.ends.get(id) else { return &[] };
        let start = if id == 0 { 0 } else { self.ends[id - 1] };
        &self.bytes[start..end]
    }

    /// Ids and byte ranges of plain text.
    pub(crate) fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
        encode_with_offsets(&self.bpe, text)
    }

    /// Occurrences of control tokens in `text`, leftmost first and the longest at each place, as byte range and id.
    /// For text of the chat template only.
    pub(crate) fn find_controls(&self, text: &str) -> Vec<(Range<usize>, u32)> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < text.len() {
            let rest = &text[at..];
            match self.controls.iter().find(|(control, _)| rest.starts_with(control.as_str())) {
                Some((control, id)) => {
                    found.push((at..at + control.len(), *id));
                    at += control.len();
                }
                None => at += rest.chars().next().map_or(1, char::len_utf8),
            }
        }
        found
    }
}

fn build_bpe(vocab: Vocab, merges: &[String], pre: PreTokenizer) -> Result<tokenizers::Tokenizer, EngineError> {
    let merges = merges
        .iter()
        .map(|merge| {
            let parts = merge.split_once(' ');
            // The library assumes what is checked here.
            let known = |(left, right)| vocab.contains_key(&format!("{left}{right}"));
            let (left, right) = parts.filter(|&pair| known(pair)).ok_or_else(|| {
                let needed = "expected two parts, a space between them, and a token that is both together";
                EngineError::Tokenizer(format!("`{merge}` is not a merge: {needed}"))
            })?;
            Ok((left.to_owned(), right.to_owned()))
        })
        .collect::<Result<Vec<_>, EngineError>>()?;
    let model = BPE::builder()
        .vocab_and_merges(vocab, merges)
        .ignore_merges(pre.ignores_merges())
        .build()
        .map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    let mut tokenizer = tokenizers::Tokenizer::new(model);
    tokenizer.with_pre_tokenizer(Some(pre.build()?));
    if pre.normalises() {
        tokenizer
            .with_normalizer(Some(tokenizers::normalizers::unicode::NFC))
            .map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    }
    Ok(tokenizer)
}

impl Tokenizer for GgufTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        Ok(encode_plain(&self.bpe, text)?)
    }

    fn offsets(&self, text: &str) -> Result<Vec<Range<usize>>, ModelError> {
        Ok(self.encode_with_offsets(text)?.1)
    }

    /// Tokens that end inside a character leave U+FFFD; ids beyond the vocabulary are an error.
    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        let mut bytes = Vec::new();
        for &id in ids {
            if id as usize >= self.vocabulary_size() {
                return Err(ModelError::Tokenizer(format!(
                    "token {id} is beyond the vocabulary of {}",
                    self.vocabulary_size()
                )));
            }
            bytes.extend_from_slice(self.bytes_of(id));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// A vocabulary of the 256 bytes and one merge, with three control tokens at the start.
    pub(crate) fn byte_vocabulary() -> GgufVocabulary {
        let mut tokens: Vec<String> = ["<|end|>", "<|user|>", "<|user|>x"].map(str::to_owned).to_vec();
        let mut token_types = vec![token_type::CONTROL; tokens.len()];
        let alphabet: Vec<char> =
            (0..0x400).filter_map(char::from_u32).filter(|&c| super::bytes_of(&c.to_string()).len() == 1).collect();
        // Below 0x80 a character outside the alphabet also is one byte: itself.
        tokens.extend(alphabet.iter().filter(|c| !c.is_ascii_control() && **c != ' ').map(char::to_string));
        tokens.push("ab".to_owned());
        token_types.resize(tokens.len(), token_type::NORMAL);
        GgufVocabulary {
            model: "gpt2".to_owned(),
            pre: "gpt-2".to_owned(),
            tokens,
            token_types,
            merges: vec!["a b".to_owned()],
            bos: None,
            eos: Some(0),
            further_ends: Vec::new(),
        }
    }

    #[test]
    fn text_that_looks_like_a_control_token_stays_text() {
        let tokenizer = GgufTokenizer::new(byte_vocabulary()).unwrap();
        let ids = tokenizer.encode("a<|end|>ab").unwrap();
        assert!(ids.iter().all(|&id| id > 2), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), "a<|end|>ab");
        assert_eq!(ids.len(), 9, "one merge, everything else bytes");
    }

    #[test]
    fn control_tokens_are_found_longest_first_and_have_no_text() {
        let tokenizer = GgufTokenizer::new(byte_vocabulary()).unwrap();
        let found = tokenizer.find_controls("é<|user|>x<|user|> <|end|>");
        assert_eq!(found, [(2..11, 2), (11..19, 1), (20..27, 0)]);
        assert_eq!(tokenizer.decode(&[1, 0]).unwrap(), "");
        assert_eq!(tokenizer.end_of_turn(), [0]);
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_refused() {
        let tokenizer = GgufTokenizer::new(byte_vocabulary()).unwrap();
        assert!(tokenizer.decode(&[100_000]).is_err());
    }

    #[test]
    fn contradictory_or_foreign_vocabularies_are_refused() {
        let refusal = |change: fn(&mut GgufVocabulary)| {
            let mut vocabulary = byte_vocabulary();
            change(&mut vocabulary);
            GgufTokenizer::new(vocabulary).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refusal(|v| v.model = "llama".to_owned()).contains("`llama`"));
        assert!(refusal(|v| v.token_types.truncate(5)).contains("token types"));
        assert!(refusal(|v| v.merges.push("ab".to_owned())).contains("not a merge"));
        assert!(refusal(|v| v.merges.push("ab ab".to_owned())).contains("not a merge"));
        assert!(refusal(|v| v.eos = Some(1_000_000)).contains("1000000"));
    }
}
