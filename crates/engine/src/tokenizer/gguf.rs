//! A generator's tokenizer from the vocabulary a GGUF file carries (`tokenizer.ggml.*`, GGUF specification, section
//! "Tokenizer"): byte-level BPE (`gpt2`) or SentencePiece with scores (`llama`).

use std::collections::HashMap;

use tokenizers::{
    AddedToken,
    models::bpe::{BPE, Vocab},
};

use super::{
    byte_level, control_like,
    generator::{Control, Found, GeneratorTokenizer, TextModel},
    pre::PreTokenizer,
    sentencepiece::{self, SentencePiece},
};
use crate::EngineError;

/// Types of tokens in `tokenizer.ggml.token_type`.
mod token_type {
    pub(super) const NORMAL: u32 = 1;
    pub(super) const UNKNOWN: u32 = 2;
    pub(super) const CONTROL: u32 = 3;
    pub(super) const USER_DEFINED: u32 = 4;
    pub(super) const UNUSED: u32 = 5;
    pub(super) const BYTE: u32 = 6;
}

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
    /// `tokenizer.ggml.scores`: parallel to `tokens`, for SentencePiece.
    pub(crate) scores: Vec<f32>,
    /// `tokenizer.ggml.merges`: pairs separated by one space, best first, for byte-level BPE.
    pub(crate) merges: Vec<String>,
    /// `tokenizer.ggml.add_space_prefix`.
    pub(crate) space_prefix: Option<bool>,
    /// Text is to be normalised before it is cut (`remove_extra_whitespaces`, `precompiled_charsmap`).
    pub(crate) normalises: bool,
    /// `tokenizer.ggml.bos_token_id`.
    pub(crate) bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub(crate) eos: Option<u32>,
    /// Further tokens that end generation: `eot_token_id`, `eom_token_id`.
    pub(crate) further_ends: Vec<u32>,
}

/// The entries sorted by what they are for.
#[derive(Default)]
struct Entries {
    /// Of the text model.
    plain: Vec<(String, u32)>,
    /// Runs of white space taken whole.
    spaces: Vec<(String, u32)>,
    single_bytes: HashMap<u8, u32>,
    controls: Vec<Control>,
    bytes: Vec<Vec<u8>>,
}

impl GeneratorTokenizer {
    /// Builds the tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] for other algorithms or pre-tokenizers than the ones implemented,
    /// [`EngineError::Tokenizer`] if the lists contradict each other.
    pub(crate) fn from_gguf(vocabulary: GgufVocabulary) -> Result<Self, EngineError> {
        let is_sentencepiece = match vocabulary.model.as_str() {
            "gpt2" => false,
            "llama" => true,
            other => {
                return Err(EngineError::Unsupported {
                    what: format!("the tokenizer type `{other}`"),
                    supported: "the engine knows byte-level BPE (`gpt2`) and SentencePiece with scores (`llama`)"
                        .to_owned(),
                });
            }
        };
        let pre = if is_sentencepiece { None } else { Some(PreTokenizer::by_name(&vocabulary.pre)?) };
        let entries = entries(&vocabulary, is_sentencepiece)?;
        let text_of = |id: Option<u32>| -> Result<String, EngineError> {
            let Some(id) = id else { return Ok(String::new()) };
            let count = vocabulary.tokens.len();
            let missing = || EngineError::Tokenizer(format!("token {id} is named but there are {count} tokens"));
            vocabulary.tokens.get(id as usize).cloned().ok_or_else(missing)
        };
        let (bos, eos) = (text_of(vocabulary.bos)?, text_of(vocabulary.eos)?);
        let Entries { plain, spaces, single_bytes, controls, bytes } = entries;
        let model = match pre {
            Some(pre) => {
                let library = byte_level_bpe(plain, &spaces, &vocabulary.merges, pre)?;
                TextModel::Library { whole: Box::new(library), bare: None, every_run: true }
            }
            None => TextModel::SentencePiece(SentencePiece::new(
                plain.into_iter().map(|(text, id)| (text, id, vocabulary.scores[id as usize])),
                spaces,
                &single_bytes,
                vocabulary.space_prefix.unwrap_or(true),
            )?),
        };
        let ends = vocabulary.eos.into_iter().chain(vocabulary.further_ends).collect();
        Self::assemble(Found { model, tokens: bytes, controls, bos, eos, ends })
    }
}

fn entries(vocabulary: &GgufVocabulary, is_sentencepiece: bool) -> Result<Entries, EngineError> {
    let GgufVocabulary { tokens, token_types, scores, normalises, .. } = vocabulary;
    let parallel = |name: &str, length: usize| match length == tokens.len() {
        true => Ok(()),
        false => {
            Err(EngineError::Tokenizer(format!("the file lists {} tokens but {length} token {name}", tokens.len())))
        }
    };
    if !token_types.is_empty() {
        parallel("types", token_types.len())?;
    }
    if is_sentencepiece {
        parallel("scores", scores.len())?;
        if scores.iter().any(|score| score.is_nan()) {
            return Err(EngineError::Tokenizer("a token's score is not a number".to_owned()));
        }
        if *normalises {
            return Err(EngineError::Unsupported {
                what: "a SentencePiece vocabulary with normalisation rules".to_owned(),
                supported: "the engine takes text as it is".to_owned(),
            });
        }
    }
    let mut entries = Entries::default();
    for (index, token) in tokens.iter().enumerate() {
        let id = u32::try_from(index).map_err(|_| EngineError::Tokenizer("too many tokens".to_owned()))?;
        let kind = token_types.get(index).copied().unwrap_or(token_type::NORMAL);
        let text = || token.replace(sentencepiece::SPACE, " ");
        let control = || Control { text: token.clone(), id, strips_left: false, strips_right: false };
        let bytes = match (kind, is_sentencepiece) {
            (token_type::CONTROL, _) | (token_type::UNKNOWN, _) => {
                entries.controls.push(control());
                Vec::new()
            }
            (token_type::USER_DEFINED, _) if control_like(&text()) => {
                entries.controls.push(control());
                token.clone().into_bytes()
            }
            (token_type::USER_DEFINED, _) => {
                entries.spaces.push((if is_sentencepiece { text() } else { token.clone() }, id));
                if is_sentencepiece { text().into_bytes() } else { token.clone().into_bytes() }
            }
            (token_type::UNUSED, _) => Vec::new(),
            (token_type::BYTE, true) => {
                let reason = || EngineError::Tokenizer(format!("`{token}` is listed as a byte but names none"));
                let byte = sentencepiece::byte_of(token).ok_or_else(reason)?;
                entries.single_bytes.insert(byte, id);
                vec![byte]
            }
            (_, true) => {
                entries.plain.push((token.clone(), id));
                sentencepiece::bytes_of(token)
            }
            (_, false) => {
                entries.plain.push((token.clone(), id));
                byte_level::bytes_of(token)
            }
        };
        entries.bytes.push(bytes);
    }
    Ok(entries)
}

fn byte_level_bpe(
    plain: Vec<(String, u32)>,
    spaces: &[(String, u32)],
    merges: &[String],
    pre: PreTokenizer,
) -> Result<tokenizers::Tokenizer, EngineError> {
    let failed = |e: tokenizers::Error| EngineError::Tokenizer(e.to_string());
    let mut vocab: Vocab = plain.into_iter().collect();
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
    vocab.extend(spaces.iter().cloned());
    let model = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre.ignores_merges()).build();
    let mut tokenizer = tokenizers::Tokenizer::new(model.map_err(failed)?);
    tokenizer.with_pre_tokenizer(Some(pre.build()?));
    if pre.normalises() {
        tokenizer.with_normalizer(Some(tokenizers::normalizers::unicode::NFC)).map_err(failed)?;
    }
    add_spaces(&mut tokenizer, spaces)?;
    Ok(tokenizer)
}

/// Makes runs of white space tokens of their own, wherever they stand. They are in the vocabulary already, which keeps
/// their ids.
pub(super) fn add_spaces(tokenizer: &mut tokenizers::Tokenizer, spaces: &[(String, u32)]) -> Result<(), EngineError> {
    let tokens: Vec<AddedToken> =
        spaces.iter().map(|(text, _)| AddedToken::from(text.clone(), false).normalized(false)).collect();
    if !tokens.is_empty() {
        tokenizer.add_tokens(tokens).map_err(|e| EngineError::Tokenizer(e.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use edgewise_model_api::Tokenizer as _;

    use super::*;
    use crate::tokenizer::ControlMatch;

    /// A vocabulary of the 256 bytes and one merge, with three control tokens at the start.
    pub(crate) fn byte_vocabulary() -> GgufVocabulary {
        let mut tokens: Vec<String> = ["<|end|>", "<|user|>", "<|user|>x"].map(str::to_owned).to_vec();
        let mut token_types = vec![token_type::CONTROL; tokens.len()];
        let is_byte = |&c: &char| byte_level::bytes_of(&c.to_string()).len() == 1;
        let alphabet: Vec<char> = (0..0x400).filter_map(char::from_u32).filter(is_byte).collect();
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
            eos: Some(0),
            ..GgufVocabulary::default()
        }
    }

    #[test]
    fn text_that_looks_like_a_control_token_stays_text() {
        let tokenizer = GeneratorTokenizer::from_gguf(byte_vocabulary()).unwrap();
        let ids = tokenizer.encode("a<|end|>ab").unwrap();
        assert!(ids.iter().all(|&id| id > 2), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), "a<|end|>ab");
        assert_eq!(ids.len(), 9, "one merge, everything else bytes");
    }

    #[test]
    fn control_tokens_are_found_longest_first_and_have_no_text() {
        let tokenizer = GeneratorTokenizer::from_gguf(byte_vocabulary()).unwrap();
        let found = tokenizer.find_controls("é<|user|>x<|user|> <|end|>");
        let expected = [(2..11, 2), (11..19, 1), (20..27, 0)].map(|(range, id)| ControlMatch { range, id });
        assert_eq!(found, expected);
        assert_eq!(tokenizer.decode(&[1, 0]).unwrap(), "");
        assert_eq!(tokenizer.end_of_turn(), [0]);
    }

    #[test]
    fn user_defined_tokens_have_text_but_only_white_space_is_recognised_in_it() {
        let mut vocabulary = byte_vocabulary();
        let first = u32::try_from(vocabulary.tokens.len()).unwrap();
        vocabulary.tokens.extend(["<think>", "   "].map(str::to_owned));
        vocabulary.token_types.extend([token_type::USER_DEFINED; 2]);
        let tokenizer = GeneratorTokenizer::from_gguf(vocabulary).unwrap();
        let text = "<think>   x<|end|>";
        let ids = tokenizer.encode(text).unwrap();
        assert!(!ids.contains(&first) && ids.contains(&(first + 1)), "{ids:?}");
        assert_eq!(tokenizer.decode(&ids).unwrap(), text);
        assert_eq!(tokenizer.decode(&[first]).unwrap(), "<think>");
        assert_eq!(tokenizer.find_controls(text).iter().map(|c| c.id).collect::<Vec<_>>(), [first, 0]);
    }

    #[test]
    fn ids_beyond_the_vocabulary_are_refused() {
        let mut tokenizer = GeneratorTokenizer::from_gguf(byte_vocabulary()).unwrap();
        let size = tokenizer.vocabulary_size();
        let beyond = u32::try_from(size).unwrap();
        assert!(tokenizer.decode(&[beyond]).is_err());
        assert!(tokenizer.extend_to(size - 1).unwrap_err().to_string().contains("the weights know"));
        tokenizer.extend_to(size + 1).unwrap();
        assert_eq!(tokenizer.decode(&[beyond]).unwrap(), "");
    }

    #[test]
    fn contradictory_or_foreign_vocabularies_are_refused() {
        let refusal = |change: fn(&mut GgufVocabulary)| {
            let mut vocabulary = byte_vocabulary();
            change(&mut vocabulary);
            GeneratorTokenizer::from_gguf(vocabulary).err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert!(refusal(|v| v.model = "t5".to_owned()).contains("`t5`"));
        assert!(refusal(|v| v.model = "llama".to_owned()).contains("token scores"));
        assert!(refusal(|v| v.token_types.truncate(5)).contains("token types"));
        assert!(refusal(|v| v.merges.push("ab".to_owned())).contains("not a merge"));
        assert!(refusal(|v| v.merges.push("ab ab".to_owned())).contains("not a merge"));
        assert!(refusal(|v| v.eos = Some(1_000_000)).contains("1000000"));
        assert!(refusal(|v| v.further_ends = vec![1_000_000]).contains("1000000"));
        let sentencepiece = |v: &mut GgufVocabulary| {
            v.model = "llama".to_owned();
            v.scores = vec![0.0; v.tokens.len()];
        };
        let mut vocabulary = byte_vocabulary();
        sentencepiece(&mut vocabulary);
        assert!(GeneratorTokenizer::from_gguf(vocabulary.clone()).unwrap_err().to_string().contains("byte fallback"));
        vocabulary.normalises = true;
        assert!(GeneratorTokenizer::from_gguf(vocabulary).unwrap_err().to_string().contains("normalisation rules"));
    }
}
