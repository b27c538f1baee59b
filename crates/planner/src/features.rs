//! What the choice of a route is based on, measured from the question, the search result, the scope and the engine's
//! queue.
//!
//! Deliberately not here: the level of hits in a summary tree, since no hit comes from one yet.

use std::collections::BTreeSet;

use edgewise_model_api::QueueState;
use edgewise_retrieval::Hit;

use crate::{Features, KindProbabilities, question::content_words};

/// How many of the first hits describe the shape of a result.
const TOP: usize = 10;

/// How many of the first hits are searched for the question's words: about what is placed.
const COVERING: usize = 5;

/// Documents and tokens a question may draw on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Documents in it.
    pub documents: usize,
    /// Their tokens together.
    pub tokens: usize,
}

/// Measures `hits`, which come best first. What depends on the question is added by [`ask`].
pub fn measure(hits: &[Hit], scope: Scope, queue: QueueState) -> Features {
    let best = |scores: &mut dyn Iterator<Item = f32>| scores.max_by(f32::total_cmp).unwrap_or(0.0);
    let top = &hits[..hits.len().min(TOP)];
    let both = top.iter().filter(|hit| hit.lexical.is_some() && hit.vector.is_some()).count();
    // A reranker may have put them in another order.
    let fused = falling(hits.iter().map(|hit| hit.score));
    let cosines = falling(hits.iter().filter_map(|hit| hit.vector.map(|arm| arm.score)));
    let sections: BTreeSet<_> =
        top.iter().map(|hit| (&hit.chunk.document, hit.chunk.section.start, &hit.chunk.heading_path)).collect();
    let read: usize = hits.iter().map(|hit| hit.chunk.generator_tokens).sum();
    Features {
        scope_tokens: scope.tokens,
        scope_documents: scope.documents,
        hits: hits.len(),
        top_cosine: cosines.first().copied().unwrap_or(0.0),
        top_bm25: best(&mut hits.iter().filter_map(|hit| hit.lexical.map(|arm| arm.score))),
        gap: match fused[..] {
            [first, second, ..] => first - second,
            [only] => only,
            [] => 0.0,
        },
        arm_overlap: if top.is_empty() { 0.0 } else { both as f32 / top.len() as f32 },
        documents_in_top: top.iter().map(|hit| &hit.chunk.document).collect::<BTreeSet<_>>().len(),
        queue_requests: queue.requests,
        queue_tokens: queue.prefill_tokens,
        cosine_gap: match cosines[..] {
            [first, second, ..] => first - second,
            _ => 0.0,
        },
        entropy: entropy(&fused[..fused.len().min(TOP)]),
        sections_in_top: sections.len(),
        hit_share: (read as f32 / scope.tokens.max(1) as f32).min(1.0),
        content_words: 0,
        covered_by_first: 0.0,
        covered_by_top: 0.0,
        kind: KindProbabilities::default(),
        effective_window: None,
        router: None,
    }
}

/// Adds how much of what `question` asks for stands in the texts of `hits`, best first.
pub fn ask(features: &mut Features, question: &str, hits: &[Hit]) {
    let words = content_words(question);
    let covered = |hits: &[Hit]| {
        let texts: Vec<String> = hits.iter().map(|hit| hit.chunk.text.to_lowercase()).collect();
        let found = words.iter().filter(|word| texts.iter().any(|text| text.contains(word.as_str()))).count();
        if words.is_empty() { 0.0 } else { found as f32 / words.len() as f32 }
    };
    features.content_words = words.len();
    features.covered_by_first = covered(&hits[..hits.len().min(1)]);
    features.covered_by_top = covered(&hits[..hits.len().min(COVERING)]);
}

fn falling(scores: impl Iterator<Item = f32>) -> Vec<f32> {
    let mut scores: Vec<f32> = scores.collect();
    scores.sort_by(|a, b| b.total_cmp(a));
    scores
}

/// Entropy of `scores` as a distribution, as a share of the largest possible; 0 for fewer than two. Negative scores count
/// as 0.
fn entropy(scores: &[f32]) -> f32 {
    let total: f32 = scores.iter().map(|score| score.max(0.0)).sum();
    if scores.len() < 2 || total <= 0.0 {
        return 0.0;
    }
    let shares = scores.iter().map(|score| score.max(0.0) / total).filter(|share| *share > 0.0);
    let entropy: f32 = shares.map(|share| -share * share.ln()).sum();
    (entropy / (scores.len() as f32).ln()).clamp(0.0, 1.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::hit;
    use proptest::prelude::*;

    const SCOPE: Scope = Scope { documents: 4, tokens: 400 };

    #[test]
    fn the_shape_of_a_result_is_measured() {
        let mut hits = [
            hit("a.md", 1, 0.9, Some(7.0), Some(0.5)),
            hit("b.md", 2, 0.6, None, Some(0.8)),
            hit("a.md", 3, 0.5, Some(9.0), None),
            hit("c.md", 4, 0.4, Some(1.0), Some(0.1)),
        ];
        hits[2].chunk.section.start = 5;
        let features = measure(&hits, SCOPE, QueueState { requests: 2, prefill_tokens: 70 });
        assert_eq!((features.hits, features.documents_in_top, features.sections_in_top), (4, 3, 4));
        assert_eq!((features.top_cosine, features.top_bm25, features.arm_overlap), (0.8, 9.0, 0.5));
        assert!((features.gap - 0.3).abs() < 1e-6 && (features.cosine_gap - 0.3).abs() < 1e-6);
        assert_eq!((features.queue_requests, features.queue_tokens), (2, 70));
        assert_eq!((features.scope_documents, features.scope_tokens), (4, 400));
        assert!((features.hit_share - 4.0 * 13.0 / 400.0).abs() < 1e-6);
    }

    #[test]
    fn no_hits_measure_as_nothing() {
        let mut features = measure(&[], SCOPE, QueueState::default());
        ask(&mut features, "When was the harbour founded?", &[]);
        assert_eq!((features.top_cosine, features.top_bm25, features.gap, features.arm_overlap), (0.0, 0.0, 0.0, 0.0));
        assert_eq!((features.entropy, features.hit_share, features.covered_by_top), (0.0, 0.0, 0.0));
        assert_eq!(features.content_words, 2);
    }

    #[test]
    fn entropy_says_whether_one_hit_stands_out() {
        assert!((entropy(&[1.0, 1.0, 1.0]) - 1.0).abs() < 1e-6);
        assert!(entropy(&[1.0, 0.01, 0.01]) < 0.2);
        assert_eq!(entropy(&[1.0]), 0.0);
        assert_eq!(entropy(&[-1.0, 0.0]), 0.0);
    }

    #[test]
    fn words_of_the_question_are_looked_for_in_the_hits() {
        let hits = [hit("a.md", 1, 0.9, None, None), hit("a.md", 2, 0.9, None, None)];
        let mut features = measure(&hits, SCOPE, QueueState::default());
        ask(&mut features, "Which document holds twelve elephants?", &hits);
        assert_eq!(features.content_words, 4);
        assert!((features.covered_by_first - 0.75).abs() < 1e-6, "{features:?}");
    }

    proptest! {
        #[test]
        fn every_measure_is_finite_and_in_range(
            arms in prop::collection::vec((prop::option::of(0f32..40.0), prop::option::of(-1f32..1.0), -1f32..2.0), 0..30),
            tokens in 0..100_000usize,
            question in "\\PC{0,80}",
        ) {
            let hits: Vec<Hit> =
                (0u64..).zip(&arms).map(|(i, (bm25, cosine, score))| hit("a.md", i, *score, *bm25, *cosine)).collect();
            let mut features = measure(&hits, Scope { documents: 1, tokens }, QueueState::default());
            ask(&mut features, &question, &hits);
            for share in [features.entropy, features.hit_share, features.covered_by_first, features.covered_by_top] {
                prop_assert!((0.0..=1.0).contains(&share), "{features:?}");
            }
            prop_assert!(features.gap >= 0.0 || hits.len() == 1);
        }
    }
}
