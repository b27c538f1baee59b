//! How text is cut into words before byte-pair merging, by the name a GGUF file gives in `tokenizer.ggml.pre`.
//!
//! Definitions are those of the `tokenizer.json` of the models themselves; the names, and which models share which
//! definition, are those of llama.cpp (`llama-vocab.cpp`). An unknown name is an error: a wrong cut gives plausible but
//! wrong tokens.

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

/// Llama 3 (meta-llama/Meta-Llama-3-8B): case-insensitive contractions, digits in threes, punctuation with its line
/// ends.
const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2 (Qwen/Qwen2-7B): as Llama 3, digits singly.
const QWEN_2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 3.5: as Qwen 2, combining marks belong to words.
const QWEN_35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's Tekken (mistralai/Mistral-Nemo-Instruct-2407): words are also cut where upper case follows lower case.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// GPT-4o (`o200k_base` of tiktoken): as Tekken, with contractions and digits in threes.
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// DeepSeek V3 (deepseek-ai/DeepSeek-V3), applied one after the other: digits in threes, Chinese and Japanese runs, the
/// rest.
const DEEPSEEK_3: [&str; 3] = [
    r"\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
];
/// DeepSeek Coder (deepseek-ai/deepseek-coder-6.7b-base), applied one after the other.
const DEEPSEEK_CODER: [&str; 5] = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\u{d7ff}]+", r"\p{N}"];

/// The names known, for the message about an unknown one.
const NAMES: &str = "gpt-2, phi-2, mpt, olmo, smollm, starcoder, refact, command-r, codeshell, exaone, minerva-7b, llama-bpe, \
    llama3, llama-v3, falcon3, dbrx, smaug-bpe, chatglm-bpe, glm4, qwen2, deepseek-r1-qwen, qwen35, tekken, gpt-4o, \
    llama4, deepseek-v3 and deepseek-coder";

/// The expressions of a way to cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// GPT-2's expression.
    Gpt2,
    /// Digits singly, then GPT-2's expression.
    DigitsThenGpt2,
    /// Expressions applied one after the other.
    Expressions(&'static [&'static str]),
}

/// A way of cutting text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PreTokenizer {
    cut: Cut,
    ignores_merges: bool,
    normalises: bool,
}

impl PreTokenizer {
    /// By the name in `tokenizer.ggml.pre`.
    pub(super) fn by_name(name: &str) -> Result<Self, EngineError> {
        let plain = |cut| Self { cut, ignores_merges: false, normalises: false };
        let whole_words = |cut| Self { ignores_merges: true, ..plain(cut) };
        let normalised = |cut| Self { normalises: true, ..plain(cut) };
        Ok(match name {
            "gpt-2" | "phi-2" => plain(Cut::Gpt2),
            // Both use the tokenizer of EleutherAI/gpt-neox-20b.
            "mpt" | "olmo" => normalised(Cut::Gpt2),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => {
                plain(Cut::DigitsThenGpt2)
            }
            "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "glm4" => whole_words(Cut::Expressions(&[LLAMA_3])),
            "dbrx" | "smaug-bpe" | "chatglm-bpe" => plain(Cut::Expressions(&[LLAMA_3])),
            "qwen2" | "deepseek-r1-qwen" => normalised(Cut::Expressions(&[QWEN_2])),
            "qwen35" => normalised(Cut::Expressions(&[QWEN_35])),
            "tekken" => whole_words(Cut::Expressions(&[TEKKEN])),
            "gpt-4o" | "llama4" => plain(Cut::Expressions(&[GPT_4O])),
            "deepseek-v3" => plain(Cut::Expressions(&DEEPSEEK_3)),
            "deepseek-coder" => plain(Cut::Expressions(&DEEPSEEK_CODER)),
            other => {
                return Err(EngineError::Unsupported {
                    what: format!("the pre-tokenizer `{other}`"),
                    supported: format!("the engine knows {NAMES}"),
                });
            }
        })
    }

    /// Whether a word that is in the vocabulary is taken as it is, even if merging would not arrive at it.
    pub(super) fn ignores_merges(self) -> bool {
        self.ignores_merges
    }

    /// Whether text is brought into normalisation form C first.
    pub(super) fn normalises(self) -> bool {
        self.normalises
    }

    /// The cutter itself.
    pub(super) fn build(self) -> Result<PreTokenizerWrapper, EngineError> {
        let bytes = |with_gpt2_expression| ByteLevel::new(false, false, with_gpt2_expression).into();
        let split = |expression: &&str| {
            Split::new(SplitPattern::Regex((*expression).to_owned()), SplitDelimiterBehavior::Isolated, false)
                .map(PreTokenizerWrapper::from)
                .map_err(|e| EngineError::Tokenizer(e.to_string()))
        };
        Ok(match self.cut {
            Cut::Gpt2 => bytes(true),
            Cut::DigitsThenGpt2 => Sequence::new(vec![Digits::new(true).into(), bytes(true)]).into(),
            Cut::Expressions(expressions) => {
                let mut steps = expressions.iter().map(split).collect::<Result<Vec<_>, _>>()?;
                steps.push(bytes(false));
                Sequence::new(steps).into()
            }
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
        assert_eq!(words("tekken", "aXMLFile's/\n"), ["a", "XMLFile", "'s", "/\n"]);
        assert_eq!(words("gpt-4o", "aXMLFile's 1234"), ["a", "XMLFile's", " ", "123", "4"]);
        assert_eq!(words("deepseek-v3", "日本語 1234 .env"), ["日本語", " ", "123", "4", " .", "env"]);
        assert_eq!(words("deepseek-coder", "x1 y\n!"), ["x", "1", " y", "\n", "!"]);
    }

    #[test]
    fn every_name_in_the_message_is_known() {
        for name in NAMES.split([',', ' ']).filter(|word| !word.is_empty() && *word != "and") {
            PreTokenizer::by_name(name).unwrap().build().unwrap();
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let message = PreTokenizer::by_name("viking").unwrap_err().to_string();
        assert!(message.contains("viking") && message.contains("llama-bpe"), "{message}");
    }
}
