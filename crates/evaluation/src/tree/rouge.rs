//! Recall of a reference text in a context: ROUGE-1, ROUGE-2 and ROUGE-L (Lin, "ROUGE: A Package for Automatic Evaluation
//! of Summaries", 2004), as the package rouge-score counts them with stemming: lower case, runs of a to z and 0 to 9 as
//! words, those of more than three letters stemmed.
//!
//! Recall alone, since what is measured is whether a context of a given length holds what an answer needs.
//!
//! Deliberately not here: precision, which would only say how long the context is; sentence-wise ROUGE-L.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::porter;

/// Words of a text, as numbers that are equal for equal stems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Words(Vec<u32>);

/// Stems seen, numbered.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    stems: HashMap<String, u32>,
    words: HashMap<String, u32>,
}

impl Vocabulary {
    /// The words of `text`.
    pub(super) fn words(&mut self, text: &str) -> Words {
        let lower = text.to_lowercase();
        let words = lower.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit())).filter(|w| !w.is_empty());
        Words(words.map(|word| self.number(word)).collect())
    }

    fn number(&mut self, word: &str) -> u32 {
        if let Some(number) = self.words.get(word) {
            return *number;
        }
        let stem = if word.len() > 3 { porter::stem(word) } else { word.to_owned() };
        let next = self.stems.len() as u32;
        let number = *self.stems.entry(stem).or_insert(next);
        self.words.insert(word.to_owned(), number);
        number
    }
}

/// Recalls, 0 to 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Rouge {
    /// Share of the reference's words.
    pub one: f64,
    /// Share of its pairs of neighbours.
    pub two: f64,
    /// Length of the longest common subsequence relative to the reference.
    pub l: f64,
}

/// How much of `reference` is in `context`.
pub(super) fn recall(reference: &Words, context: &Words) -> Rouge {
    Rouge {
        one: shared(grams(&reference.0, 1), grams(&context.0, 1)),
        two: shared(grams(&reference.0, 2), grams(&context.0, 2)),
        l: longest_common(&reference.0, &context.0) as f64 / reference.0.len().max(1) as f64,
    }
}

fn grams(words: &[u32], n: usize) -> HashMap<&[u32], usize> {
    let mut counts = HashMap::new();
    for gram in words.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

fn shared(reference: HashMap<&[u32], usize>, context: HashMap<&[u32], usize>) -> f64 {
    let total: usize = reference.values().sum();
    let found = |(gram, count): (&&[u32], &usize)| context.get(gram).map_or(0, |other| *count.min(other));
    reference.iter().map(found).sum::<usize>() as f64 / total.max(1) as f64
}

/// Length of the longest common subsequence, by rows (Hirschberg 1975).
fn longest_common(a: &[u32], b: &[u32]) -> usize {
    let mut row = vec![0_usize; b.len() + 1];
    for x in a {
        let mut diagonal = 0;
        let mut left = 0;
        for (cell, y) in row.iter_mut().skip(1).zip(b) {
            let above = *cell;
            *cell = if x == y { diagonal + 1 } else { above.max(left) };
            (diagonal, left) = (above, *cell);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Recalls by rouge-score 0.1.2 with `use_stemmer=True`.
    const GOLDEN: &str = include_str!("rouge_golden.jsonl");

    #[derive(Deserialize)]
    struct Case {
        reference: String,
        context: String,
        rouge1: f64,
        rouge2: f64,
        rouge_l: f64,
    }

    #[test]
    fn recalls_are_those_of_rouge_score() {
        let cases: Vec<Case> = GOLDEN.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(cases.len() >= 10);
        for case in cases {
            let mut vocabulary = Vocabulary::default();
            let (reference, context) = (vocabulary.words(&case.reference), vocabulary.words(&case.context));
            let Rouge { one, two, l } = recall(&reference, &context);
            let near = |ours: f64, theirs: f64| (ours - theirs).abs() < 1e-9;
            let all = near(one, case.rouge1) && near(two, case.rouge2) && near(l, case.rouge_l);
            assert!(all, "{one} {two} {l} of {:?} in {:?}", case.reference, case.context);
        }
    }

    proptest! {
        #[test]
        fn all_of_a_text_is_in_itself_and_more_context_never_hurts(
            reference in prop::collection::vec(0_u32..9, 2..30),
            context in prop::collection::vec(0_u32..9, 0..40),
            more in prop::collection::vec(0_u32..9, 0..20),
        ) {
            let reference = Words(reference);
            prop_assert_eq!(recall(&reference, &reference), Rouge { one: 1.0, two: 1.0, l: 1.0 });
            let less = recall(&reference, &Words(context.clone()));
            let more = recall(&reference, &Words([context, more].concat()));
            prop_assert!(more.one >= less.one && more.two >= less.two && more.l >= less.l);
            prop_assert!(more.l <= more.one);
        }
    }
}
