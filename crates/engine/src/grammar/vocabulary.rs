//! The vocabulary as the grammar engine sees it: a trie over the bytes of its tokens.

use std::sync::Arc;

use llguidance::toktrie::{SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};

use crate::{EngineError, tokenizer::GeneratorTokenizer};

/// A vocabulary's trie, and its tokenizer for the text a grammar leaves no choice about.
struct Vocabulary {
    trie: TokTrie,
    tokenizer: Arc<GeneratorTokenizer>,
}

/// Builds the trie. Takes about as long as sorting the vocabulary; done once per model.
///
/// # Errors
/// [`EngineError::Grammar`] if no token ends a turn, since nothing could then end an output.
pub(super) fn environment(tokenizer: Arc<GeneratorTokenizer>) -> Result<TokEnv, EngineError> {
    let size = u32::try_from(tokenizer.vocabulary_size())
        .map_err(|_| EngineError::Grammar("the vocabulary is too large".to_owned()))?;
    let ends: Vec<u32> = tokenizer.end_of_turn().iter().copied().filter(|&id| id < size).collect();
    let Some(&end) = ends.first() else {
        let reason = "the model has no token that ends a turn, so no output could be complete";
        return Err(EngineError::Grammar(reason.to_owned()));
    };
    // Control tokens have no bytes and so no place in the trie. Neither have tokens with the byte 0xff: it is in no
    // text, and the library takes it for a mark of its own.
    let word = |id: u32| match tokenizer.bytes_of(id) {
        bytes if bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
        bytes => bytes.to_vec(),
    };
    let words: Vec<Vec<u8>> = (0..size).map(word).collect();
    let trie = TokTrie::from(&TokRxInfo::new(size, end), &words).with_eos_tokens(&ends);
    Ok(Arc::new(Vocabulary { trie, tokenizer }))
}

/// The tokens that may stand in a constrained output at all: those with bytes, and those that end the turn.
pub(super) fn admissible(environment: &TokEnv) -> SimpleVob {
    let trie = environment.tok_trie();
    let mut allowed = trie.eos_token_set();
    (0..trie.vocab_size() as u32).filter(|&id| !trie.token(id).is_empty()).for_each(|id| allowed.allow_token(id));
    allowed
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let encoded = std::str::from_utf8(bytes).ok().and_then(|text| self.tokenizer.encode_continuation(text).ok());
        // A tokenizer that normalises may not give the bytes back; the grammar needs exactly these.
        encoded
            .filter(|ids| ids.iter().flat_map(|&id| self.tokenizer.bytes_of(id)).eq(bytes))
            .unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }
}
