//! An embedder without weights.

use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};

use crate::WordTokenizer;

/// Words so frequent that sharing them says nothing.
const STOP_WORDS: &[&str] = &[
    "a", "an", "and", "are", "as", "at", "be", "by", "do", "does", "for", "from", "how", "in", "is", "it", "of", "on",
    "or", "that", "the", "this", "to", "was", "what", "when", "where", "which", "who", "with",
];

/// A bag of lightly stemmed words, hashed with a sign into a unit vector (feature hashing, Weinberger et al. 2009).
/// Texts that share words are close; others are nearly orthogonal. It knows no synonyms.
#[derive(Debug, Clone)]
pub struct HashEmbedder {
    info: EmbedderInfo,
    tokenizer: WordTokenizer,
}

impl HashEmbedder {
    /// Vectors of 64 dimensions, inputs to 256 tokens.
    pub fn new() -> Self {
        Self::with_dimension(64)
    }

    /// Vectors of `dimension` dimensions, inputs to 256 tokens.
    pub fn with_dimension(dimension: usize) -> Self {
        assert!(dimension > 0, "a vector has at least one dimension");
        let info = EmbedderInfo {
            model: format!("hash-{dimension}"),
            digest: blake3::hash(format!("hash-embedder 1 {dimension}").as_bytes()).to_hex().to_string(),
            dimension,
            max_tokens: 256,
        };
        Self { info, tokenizer: WordTokenizer::new() }
    }

    fn embed_one(&self, text: &str) -> Result<Vec<f32>, ModelError> {
        let tokens = self.tokenizer.count(text)? + 2;
        if tokens > self.info.max_tokens {
            return Err(ModelError::Tokenizer(format!(
                "the text has {tokens} tokens and the embedder reads at most {}: cut it into shorter pieces",
                self.info.max_tokens
            )));
        }
        let mut vector = vec![0f32; self.info.dimension];
        let lower = text.to_lowercase();
        for word in lower.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty() && !STOP_WORDS.contains(w)) {
            let hash = blake3::hash(stem(word).as_bytes());
            let [b0, b1, b2, b3, sign, ..] = *hash.as_bytes();
            let at = u32::from_le_bytes([b0, b1, b2, b3]) as usize % self.info.dimension;
            vector[at] += if sign & 1 == 0 { 1.0 } else { -1.0 };
        }
        let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt();
        if norm == 0.0 {
            // No content words, or words that cancel out: some fixed direction.
            vector[0] = 1.0;
        } else {
            vector.iter_mut().for_each(|x| *x /= norm);
        }
        Ok(vector)
    }
}

impl Default for HashEmbedder {
    fn default() -> Self {
        Self::new()
    }
}

fn stem(word: &str) -> &str {
    let rest = ["ing", "ed", "s"]
        .iter()
        .find_map(|suffix| word.strip_suffix(suffix).filter(|rest| rest.chars().count() >= 3))
        .unwrap_or(word);
    rest.strip_suffix('e').filter(|rest| rest.chars().count() >= 3).unwrap_or(rest)
}

impl Embedder for HashEmbedder {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        &self.tokenizer
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        texts.iter().map(|text| self.embed_one(text)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cosine(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn shared_words_make_texts_close() {
        let vectors = HashEmbedder::with_dimension(1024)
            .embed(&["The engine caches prefixes.", "engines cache a prefix", "Bread is baked in ovens."])
            .unwrap();
        assert!(cosine(&vectors[0], &vectors[1]) > 0.6);
        assert!(cosine(&vectors[0], &vectors[2]) < 0.3);
    }

    #[test]
    fn keeps_the_contract() {
        crate::contract::embedder(&HashEmbedder::new());
        crate::contract::embedder(&HashEmbedder::with_dimension(3));
    }
}
