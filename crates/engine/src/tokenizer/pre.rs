//! How text is cut into words before byte-pair merging, by the name a GGUF file gives in `tokenizer.ggml.pre`.
//!
//! Definitions follow the `tokenizer.json` of the models themselves, which llama.cpp's table (`llama-vocab.cpp`,
//! `llm_tokenizer_bpe`) reproduces. An unknown name is an error: a wrong cut gives plausible but wrong tokens.

use tokenizers::{
    PreTokenizerWrapper, SplitDelimiterBehavior,
    pre_tokenizers::{
        byte_level::ByteLevel,
        digits::Digits,
        sequence::Sequence,
        split::{Split, SplitPattern},
    },
};

use crate::EngineError;

/// Llama 3: case-insensitive contractions, digits in threes, punctuation with its line ends.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: as Llama 3, digits singly.
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way of cutting text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizer {
    /// GPT-2's expression.
    Gpt2,
    /// Digits singly, then GPT-2's expression.
    Smollm,
    /// Llama 3's expression; words of the vocabulary are taken whole, without merging.
    LlamaBpe,
    /// Qwen 2's expression on text in normalisation form C.
    Qwen2,
}

impl PreTokenizer {
    /// By the name in `tokenizer.ggml.pre`.
    pub(super) fn by_name(name: &str) -> Result<Self, EngineError> {
        match name {
            "gpt-2" => Ok(Self::Gpt2),
            "smollm" => Ok(Self::Smollm),
            "llama-bpe" => Ok(Self::LlamaBpe),
            "qwen2" => Ok(Self::Qwen2),
            other => Err(EngineError::Unsupported {
                what: format!("the pre-tokenizer `{other}`"),
                supported: "the engine knows gpt-2, smollm, llama-bpe and qwen2".to_owned(),
            }),
        }
    }

    /// Whether a word that is in the vocabulary is taken as it is, even if merging would not arrive at it.
    pub(super) fn ignores_merges(self) -> bool {
        self == Self::LlamaBpe
    }

    /// Whether text is brought into normalisation form C first.
    pub(super) fn normalises(self) -> bool {
        self == Self::Qwen2
    }

    /// The cutter itself.
    pub(super) fn build(self) -> Result<PreTokenizerWrapper, EngineError> {
        let bytes = |with_gpt2_expression| ByteLevel::new(false, false, with_gpt2_expression).into();
        let split = |expression: &str| {
            Split::new(SplitPattern::Regex(expression.to_owned()), SplitDelimiterBehavior::Isolated, false)
                .map(PreTokenizerWrapper::from)
                .map_err(|e| EngineError::Tokenizer(e.to_string()))
        };
        Ok(match self {
            Self::Gpt2 => bytes(true),
            Self::Smollm => Sequence::new(vec![Digits::new(true).into(), bytes(true)]).into(),
            Self::LlamaBpe => Sequence::new(vec![split(LLAMA_3)?, bytes(false)]).into(),
            Self::Qwen2 => Sequence::new(vec![split(QWEN_2)?, bytes(false)]).into(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer as _};

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut cut = PreTokenizedString::from(text);
        PreTokenizer::by_name(name).unwrap().build().unwrap().pre_tokenize(&mut cut).unwrap();
        let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
        splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
    }

    /// By hand from the expressions.
    #[test]
    fn words_are_cut_as_the_models_were_trained() {
        let text = "It's 2024!\n\n  X";
        assert_eq!(words("gpt-2", text), ["It", "'s", " 2024", "!", "\n\n ", " X"]);
        assert_eq!(words("smollm", text), ["It", "'s", " ", "2", "0", "2", "4", "!", "\n\n ", " X"]);
        assert_eq!(words("llama-bpe", text), ["It", "'s", " ", "202", "4", "!\n\n", " ", " X"]);
        assert_eq!(words("qwen2", text), ["It", "'s", " ", "2", "0", "2", "4", "!\n\n", " ", " X"]);
        assert_eq!(words("gpt-2", "IT'S"), ["IT", "'", "S"]);
        assert_eq!(words("llama-bpe", "IT'S"), ["IT", "'S"]);
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = PreTokenizer::by_name("tekken").unwrap_err().to_string();
        assert!(message.contains("tekken") && message.contains("llama-bpe"), "{message}");
    }
}
