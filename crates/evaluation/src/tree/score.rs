//! How much of what people answered is in a context.
//!
//! Recall of the words, by ROUGE, and of the sense: for each sentence of an answer, the cosine of the nearest sentence of
//! the context, averaged over the answer's sentences. Sentences, since the embedder reads no more than a paragraph, and the
//! mean of a long context says nothing.
//!
//! Deliberately not here: where a context comes from.

use std::{collections::HashMap, sync::Arc};

use edgewise_documents::sentences;
use edgewise_model_api::Embedder;
use serde::{Deserialize, Serialize};

use super::rouge::{self, Rouge, Vocabulary, Words};
use crate::EvaluationError;

/// Sentences embedded at a time.
const BATCH: usize = 64;
/// Sentences of fewer letters and digits are left out: they are "Yes." and rests of a sentence.
const LEAST_LETTERS: usize = 8;

/// What was found of the answers to a question, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// ROUGE recall, the mean over the answers.
    pub mean: Rouge,
    /// Of the answer of which most was found, by each measure.
    pub best: Rouge,
    /// Cosine of sentences, the mean over the answers.
    pub similarity: f64,
    /// Tokens of the context.
    pub tokens: f64,
}

/// Counts words and remembers the vectors of sentences.
pub(super) struct Scorer {
    embedder: Arc<dyn Embedder>,
    vocabulary: Vocabulary,
    vectors: HashMap<String, Vec<f32>>,
}

/// The answers to a question, counted and embedded.
pub(super) struct References(Vec<(Words, Vec<Vec<f32>>)>);

impl Scorer {
    pub(super) fn new(embedder: &Arc<dyn Embedder>) -> Self {
        Self { embedder: Arc::clone(embedder), vocabulary: Vocabulary::default(), vectors: HashMap::new() }
    }

    /// Vectors of the sentences of `text`.
    fn sense(&mut self, text: &str) -> Result<Vec<Vec<f32>>, EvaluationError> {
        let said = |text: &&str| text.chars().filter(|c| c.is_alphanumeric()).count() >= LEAST_LETTERS;
        let spans = sentences(text);
        let parts: Vec<&str> =
            spans.iter().filter_map(|span| span.slice(text).ok()).map(str::trim).filter(said).collect();
        let mut new: Vec<&str> = parts.iter().copied().filter(|part| !self.vectors.contains_key(*part)).collect();
        new.sort_unstable();
        new.dedup();
        for batch in new.chunks(BATCH) {
            let vectors = self.embedder.embed(batch)?;
            self.vectors.extend(batch.iter().map(|part| (*part).to_owned()).zip(vectors));
        }
        Ok(parts.into_iter().filter_map(|part| self.vectors.get(part).cloned()).collect())
    }

    pub(super) fn references(&mut self, answers: &[String]) -> Result<References, EvaluationError> {
        let read = |answer: &String| Ok((self.vocabulary.words(answer), self.sense(answer)?));
        Ok(References(answers.iter().map(read).collect::<Result<_, EvaluationError>>()?))
    }

    /// What of `references` is in `context`, which has `tokens` tokens.
    pub(super) fn found(
        &mut self,
        references: &References,
        context: &str,
        tokens: usize,
    ) -> Result<Found, EvaluationError> {
        let words = self.vocabulary.words(context);
        let sense = self.sense(context)?;
        let recalls: Vec<Rouge> = references.0.iter().map(|(reference, _)| rouge::recall(reference, &words)).collect();
        let count = recalls.len().max(1) as f64;
        let mean = |of: fn(&Rouge) -> f64| recalls.iter().map(of).sum::<f64>() / count;
        let best = |of: fn(&Rouge) -> f64| recalls.iter().map(of).fold(0.0, f64::max);
        let figures =
            |by: &dyn Fn(fn(&Rouge) -> f64) -> f64| Rouge { one: by(|r| r.one), two: by(|r| r.two), l: by(|r| r.l) };
        let similarity = references.0.iter().map(|(_, reference)| nearest(reference, &sense)).sum::<f64>() / count;
        Ok(Found { mean: figures(&mean), best: figures(&best), similarity, tokens: tokens as f64 })
    }
}

/// The mean over `reference` of the cosine to the nearest of `context`. Vectors are of length 1.
fn nearest(reference: &[Vec<f32>], context: &[Vec<f32>]) -> f64 {
    let cosine = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let best = |r: &Vec<f32>| context.iter().map(|c| cosine(r, c)).reduce(f32::max).unwrap_or(0.0);
    reference.iter().map(best).map(f64::from).sum::<f64>() / reference.len().max(1) as f64
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use edgewise_test_support::HashEmbedder;

    #[test]
    fn what_stands_in_the_context_is_found_and_nothing_else() {
        let embedder: Arc<dyn Embedder> = Arc::new(HashEmbedder::with_dimension(256));
        let mut scorer = Scorer::new(&embedder);
        let answers = ["The captain repaired the ship.".to_owned(), "Nobody ever came back from Venus.".to_owned()];
        let references = scorer.references(&answers).unwrap();
        let all = scorer.found(&references, &answers.join(" "), 12).unwrap();
        assert_eq!((all.mean.one, all.best.two, all.tokens), (1.0, 1.0, 12.0));
        assert!((all.similarity - 1.0).abs() < 1e-5, "{}", all.similarity);
        let half = scorer.found(&references, &answers[0], 6).unwrap();
        assert!(half.best.l == 1.0 && half.mean.l < 0.9, "{half:?}");
        assert!(half.similarity < 0.9 && half.similarity > 0.4, "{}", half.similarity);
        assert_eq!(scorer.found(&references, "", 0).unwrap().mean, Rouge::default());
    }
}
