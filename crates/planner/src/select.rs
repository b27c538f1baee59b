//! Which hits and documents a route reads, and why the others are left out.
//!
//! Invariant: everything that is not selected is reported as a [`Drop`].

use std::collections::HashMap;

use edgewise_retrieval::Hit;
use edgewise_types::DocumentId;

use crate::{Drop, Features};

/// Evidence below this share of an arm's best is weak.
const WEAK_SHARE: f32 = 0.5;

/// A document scored by the hits in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RankedDocument {
    pub(crate) document: DocumentId,
    pub(crate) uri: String,
    pub(crate) title: String,
    pub(crate) score: f32,
}

/// Reports `hit` as left out.
pub(crate) fn dropped_hit(hit: &Hit, reason: impl Into<String>) -> Drop {
    Drop {
        document: hit.chunk.document.clone(),
        uri: hit.uri.clone(),
        span: Some(hit.chunk.span),
        reason: reason.into(),
    }
}

/// Hits worth placing, with their ranks from 1, best first, and those that are not.
///
/// A hit is left out when it ranks below `top_k`, or when neither arm has much to say for it: its cosine is below
/// `floor` or half the best, *and* its BM25 is below half the best. One strong arm is enough, since each finds what the
/// other cannot. A `floor` of -1 keeps them all. The first hit always stays, so that the model can say that it does not answer the question.
pub(crate) fn passages<'h>(
    hits: &'h [Hit],
    features: &Features,
    top_k: usize,
    floor: f32,
) -> (Vec<(usize, &'h Hit)>, Vec<Drop>) {
    let weak_cosine = floor.max(WEAK_SHARE * features.top_cosine);
    let weak_bm25 = WEAK_SHARE * features.top_bm25;
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for (i, hit) in hits.iter().enumerate() {
        let weak = floor > -1.0
            && hit.vector.is_none_or(|arm| arm.score < weak_cosine)
            && hit.lexical.is_none_or(|arm| arm.score < weak_bm25);
        if i >= top_k {
            dropped.push(dropped_hit(hit, format!("ranked {}, below the {top_k} passages placed at most", i + 1)));
        } else if i > 0 && weak {
            dropped.push(dropped_hit(hit, "below the score floor: weak in both arms compared to the best hits"));
        } else {
            kept.push((i + 1, hit));
        }
    }
    (kept, dropped)
}

/// The documents of `hits`, best first: by the sum of the fused scores of their hits, ties by URI.
pub(crate) fn documents(hits: &[Hit]) -> Vec<RankedDocument> {
    let mut at: HashMap<&DocumentId, usize> = HashMap::new();
    let mut ranked: Vec<RankedDocument> = Vec::new();
    for hit in hits {
        let i = *at.entry(&hit.chunk.document).or_insert(ranked.len());
        match ranked.get_mut(i) {
            Some(document) => document.score += hit.score,
            None => ranked.push(RankedDocument {
                document: hit.chunk.document.clone(),
                uri: hit.uri.clone(),
                title: hit.title.clone(),
                score: hit.score,
            }),
        }
    }
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.uri.cmp(&b.uri)));
    ranked
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        features::{Scope, measure},
        testing::hit,
    };
    use edgewise_model_api::QueueState;
    use proptest::prelude::*;

    fn shape(hits: &[Hit]) -> Features {
        measure(hits, Scope { documents: 1, tokens: 1 }, QueueState::default())
    }

    #[test]
    fn one_strong_arm_is_enough_and_two_weak_ones_are_not() {
        let hits = [
            hit("a.md", 1, 0.9, Some(10.0), Some(0.7)),
            hit("a.md", 2, 0.8, Some(9.0), None),
            hit("a.md", 3, 0.7, None, Some(0.6)),
            hit("a.md", 4, 0.6, Some(4.9), Some(0.34)),
            hit("a.md", 5, 0.5, None, Some(0.2)),
            hit("a.md", 6, 0.4, Some(9.0), Some(0.6)),
        ];
        let (kept, dropped) = passages(&hits, &shape(&hits), 5, 0.2);
        assert_eq!(kept.iter().map(|(rank, _)| *rank).collect::<Vec<_>>(), [1, 2, 3]);
        let reasons: Vec<&str> = dropped.iter().map(|d| d.reason.as_str()).collect();
        assert!(reasons[0].contains("score floor") && reasons[1].contains("score floor"));
        assert!(reasons[2].contains("ranked 6"));
    }

    #[test]
    fn the_first_hit_stays_however_weak() {
        let hits = [hit("a.md", 1, 0.9, None, Some(0.05)), hit("a.md", 2, 0.8, None, Some(0.04))];
        let (kept, dropped) = passages(&hits, &shape(&hits), 5, 0.2);
        assert_eq!((kept.len(), dropped.len()), (1, 1));
    }

    #[test]
    fn documents_are_ranked_by_all_their_hits() {
        let hits = [
            hit("a.md", 1, 0.5, None, None),
            hit("b.md", 2, 0.4, None, None),
            hit("b.md", 3, 0.3, None, None),
            hit("d.md", 4, 0.1, None, None),
            hit("c.md", 5, 0.1, None, None),
        ];
        let order: Vec<String> = documents(&hits).into_iter().map(|document| document.uri).collect();
        assert_eq!(order, ["b.md", "a.md", "c.md", "d.md"]);
    }

    proptest! {
        #[test]
        fn every_hit_is_kept_or_reported(
            arms in prop::collection::vec((prop::option::of(0f32..20.0), prop::option::of(-0.2f32..1.0)), 0..40),
            top_k in 1..20usize,
            floor in -1f32..1.0,
        ) {
            let hits: Vec<Hit> = (0u64..).zip(&arms).map(|(i, (bm25, cosine))| hit("a.md", i, 0.5, *bm25, *cosine)).collect();
            let (kept, dropped) = passages(&hits, &shape(&hits), top_k, floor);
            prop_assert_eq!(kept.len() + dropped.len(), hits.len());
            prop_assert!(kept.len() <= top_k);
            prop_assert_eq!(kept.is_empty(), hits.is_empty());
        }
    }
}
