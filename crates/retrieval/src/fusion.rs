//! Fusion of the lexical and the vector arm into one ranking.
//!
//! Two methods, both over the union of what the arms returned:
//!
//! - **Reciprocal rank fusion** (Cormack, Clarke, Büttcher: "Reciprocal Rank Fusion outperforms Condorcet and individual
//!   Rank Learning Methods", SIGIR 2009): `Σ 1 / (k + rank)`. Needs no scores, so nothing to normalise.
//! - **Convex combination** (Bruch, Gai, Ingber: "An Analysis of Fusion Functions for Hybrid Retrieval", ACM TOIS 2023)
//!   with their theoretical-minimum normalisation `(s − m) / (max − m)`, `max` the arm's best score for this query and `m`
//!   the least score its function can give: 0 for BM25, −1 for cosine. Unlike min-max it does not depend on how deep the
//!   arm was read.
//!
//! A chunk that only one arm returned still has a score in the other, unknown but bounded by that arm's last score: it
//! is given this bound. An arm that returned less than it was asked for has no more: there the chunk gets the
//! theoretical minimum.
//!
//! Invariants: the result does not depend on the order of the input; raising a chunk's score in an arm never lowers its
//! place; ties are broken by chunk id, so equal input gives equal output.
//!
//! Deliberately not here: how deep the arms are read, and any choice of weights.

use std::{cmp::Ordering, collections::BTreeMap};

use edgewise_types::ChunkId;

use crate::{ArmScore, Fusion};

/// Least value of BM25.
const LEXICAL_MINIMUM: f64 = 0.0;
/// Least value of a cosine.
const COSINE_MINIMUM: f64 = -1.0;

/// What one arm returned.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Arm {
    /// Chunks and scores, in any order; a chunk at most once.
    pub hits: Vec<(ChunkId, f32)>,
    /// Whether the arm has nothing beyond these hits.
    pub exhausted: bool,
}

/// One chunk of the fused ranking.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fused {
    /// The chunk.
    pub chunk: ChunkId,
    /// Fused score; higher is better; comparable only within one ranking.
    pub score: f32,
    /// What the lexical arm said of it, if it came up there.
    pub lexical: Option<ArmScore>,
    /// What the vector arm said of it, if it came up there.
    pub vector: Option<ArmScore>,
}

/// Both arms in one ranking, best first.
pub fn fuse(method: Fusion, lexical: &Arm, vector: &Arm) -> Vec<Fused> {
    let lexical_ranked = ranked(&lexical.hits);
    let vector_ranked = ranked(&vector.hits);
    let mut union: BTreeMap<ChunkId, (Option<ArmScore>, Option<ArmScore>)> = BTreeMap::new();
    for (chunk, score) in &lexical_ranked {
        union.entry(*chunk).or_default().0 = Some(*score);
    }
    for (chunk, score) in &vector_ranked {
        union.entry(*chunk).or_default().1 = Some(*score);
    }
    let lexical_scale = Scale::of(&lexical_ranked, lexical.exhausted, LEXICAL_MINIMUM);
    let vector_scale = Scale::of(&vector_ranked, vector.exhausted, COSINE_MINIMUM);
    let mut fused: Vec<(f64, Fused)> = union
        .into_iter()
        .map(|(chunk, (lexical, vector))| {
            let score = match method {
                Fusion::Rrf { k } => reciprocal(k, lexical) + reciprocal(k, vector),
                Fusion::Convex { lexical_weight } => {
                    let w = f64::from(lexical_weight);
                    w * lexical_scale.normalised(lexical) + (1.0 - w) * vector_scale.normalised(vector)
                }
            };
            (score, Fused { chunk, score: score as f32, lexical, vector })
        })
        .collect();
    fused.sort_by(|a, b| descending(a.0, b.0).then(a.1.chunk.cmp(&b.1.chunk)));
    fused.into_iter().map(|(_, hit)| hit).collect()
}

fn descending(a: f64, b: f64) -> Ordering {
    b.total_cmp(&a)
}

fn ranked(hits: &[(ChunkId, f32)]) -> Vec<(ChunkId, ArmScore)> {
    let mut hits = hits.to_vec();
    hits.sort_by(|a, b| descending(a.1.into(), b.1.into()).then(a.0.cmp(&b.0)));
    hits.into_iter().enumerate().map(|(i, (chunk, score))| (chunk, ArmScore { rank: i + 1, score })).collect()
}

fn reciprocal(k: f32, score: Option<ArmScore>) -> f64 {
    score.map_or(0.0, |s| 1.0 / (f64::from(k) + s.rank as f64))
}

/// Maps an arm's scores to `0..=1`.
struct Scale {
    minimum: f64,
    range: f64,
    absent: f64,
}

impl Scale {
    fn of(ranked: &[(ChunkId, ArmScore)], exhausted: bool, minimum: f64) -> Self {
        let first = ranked.first().map_or(minimum, |(_, s)| f64::from(s.score));
        let last = ranked.last().map_or(minimum, |(_, s)| f64::from(s.score));
        Self { minimum, range: first - minimum, absent: if exhausted { minimum } else { last } }
    }

    fn normalised(&self, score: Option<ArmScore>) -> f64 {
        let score = score.map_or(self.absent, |s| f64::from(s.score));
        if self.range > 0.0 { (score - self.minimum) / self.range } else { 0.0 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arm(hits: &[(u64, f32)], exhausted: bool) -> Arm {
        Arm { hits: hits.iter().map(|&(id, s)| (ChunkId(id), s)).collect(), exhausted }
    }

    fn ids(fused: &[Fused]) -> Vec<u64> {
        fused.iter().map(|f| f.chunk.0).collect()
    }

    #[test]
    fn reciprocal_rank_by_hand() {
        let fused = fuse(Fusion::Rrf { k: 60.0 }, &arm(&[(1, 9.0), (2, 5.0)], true), &arm(&[(2, 0.8), (3, 0.7)], true));
        assert_eq!(ids(&fused), [2, 1, 3]);
        assert!((f64::from(fused[0].score) - (1.0 / 62.0 + 1.0 / 61.0)).abs() < 1e-8);
        assert_eq!(fused[0].lexical, Some(ArmScore { rank: 2, score: 5.0 }));
        assert_eq!(fused[0].vector, Some(ArmScore { rank: 1, score: 0.8 }));
        assert_eq!(fused[2].lexical, None);
    }

    #[test]
    fn convex_by_hand() {
        // Normalised: lexical 1 → 1, 2 → 0.5; vector 2 → 1, 3 → (0.5+1)/(0.8+1).
        let (lexical, vector) = (arm(&[(1, 10.0), (2, 5.0)], true), arm(&[(2, 0.8), (3, 0.5)], false));
        let fused = fuse(Fusion::Convex { lexical_weight: 0.4 }, &lexical, &vector);
        let by_id: BTreeMap<u64, f32> = fused.iter().map(|f| (f.chunk.0, f.score)).collect();
        let bound = 1.5 / 1.8;
        assert!((by_id[&1] - (0.4 + 0.6 * bound)).abs() < 1e-6, "absent from a full arm: its last score");
        assert!((by_id[&2] - (0.2 + 0.6)).abs() < 1e-6);
        assert!((by_id[&3] - 0.6 * bound).abs() < 1e-6, "absent from an exhausted arm: the minimum");
    }

    #[test]
    fn one_empty_arm_leaves_the_order_of_the_other() {
        let empty = arm(&[], true);
        let other = arm(&[(5, 3.0), (1, 7.0), (9, 1.0)], true);
        for method in [Fusion::Rrf { k: 60.0 }, Fusion::Convex { lexical_weight: 0.5 }] {
            assert_eq!(ids(&fuse(method, &other, &empty)), [1, 5, 9]);
            assert_eq!(ids(&fuse(method, &empty, &other)), [1, 5, 9]);
            assert!(fuse(method, &empty, &empty).is_empty());
        }
    }

    fn arms() -> impl Strategy<Value = (Arm, Arm)> {
        let arm = |low: i32, high: i32, unit: f32| {
            (proptest::collection::btree_map(0u64..30, low..=high, 0..20), any::<bool>()).prop_map(
                move |(hits, exhausted)| Arm {
                    hits: hits.into_iter().map(|(id, s)| (ChunkId(id), s as f32 * unit)).collect(),
                    exhausted,
                },
            )
        };
        (arm(1, 400, 0.0625), arm(-64, 64, 1.0 / 64.0))
    }

    fn methods() -> impl Strategy<Value = Fusion> {
        prop_oneof![
            (1u32..100).prop_map(|k| Fusion::Rrf { k: k as f32 }),
            (0u32..=8).prop_map(|w| Fusion::Convex { lexical_weight: w as f32 / 8.0 }),
        ]
    }

    proptest! {
        #[test]
        fn the_order_of_the_input_does_not_matter((lexical, vector) in arms(), method in methods(), turn in 0usize..20) {
            let mut other = (lexical.clone(), vector.clone());
            other.0.hits.reverse();
            if !other.1.hits.is_empty() {
                let by = turn % other.1.hits.len();
                other.1.hits.rotate_left(by);
            }
            prop_assert_eq!(fuse(method, &lexical, &vector), fuse(method, &other.0, &other.1));
        }

        #[test]
        fn every_hit_comes_up_once_in_falling_order((lexical, vector) in arms(), method in methods()) {
            let fused = fuse(method, &lexical, &vector);
            let mut expected: Vec<u64> =
                lexical.hits.iter().chain(&vector.hits).map(|(id, _)| id.0).collect();
            expected.sort_unstable();
            expected.dedup();
            let mut found = ids(&fused);
            found.sort_unstable();
            prop_assert_eq!(found, expected);
            prop_assert!(fused.windows(2).all(|w| w[0].score >= w[1].score));
            for hit in &fused {
                let raw = lexical.hits.iter().find(|(id, _)| *id == hit.chunk).map(|(_, s)| *s);
                prop_assert_eq!(hit.lexical.map(|s| s.score), raw, "raw scores travel along");
            }
        }

        #[test]
        fn a_better_score_never_costs_a_place(
            (lexical, vector) in arms(), method in methods(), pick in any::<prop::sample::Index>(), up in 1u32..100,
            in_lexical in any::<bool>(),
        ) {
            let mut better = (lexical.clone(), vector.clone());
            let target = if in_lexical { &mut better.0.hits } else { &mut better.1.hits };
            prop_assume!(!target.is_empty());
            let index = pick.index(target.len());
            let chunk = target[index].0;
            // Within the range of the function: a cosine stays at most 1.
            let raised = target[index].1 + up as f32 / 64.0;
            target[index].1 = if in_lexical { raised } else { raised.min(1.0) };
            let place = |fused: &[Fused]| fused.iter().position(|f| f.chunk == chunk).unwrap();
            let (before, after) = (fuse(method, &lexical, &vector), fuse(method, &better.0, &better.1));
            // Rounding may turn a tie of equal sums into a difference in the last digit, so ties are left out.
            let score = before[place(&before)].score;
            let tied = before.iter().filter(|f| (f.score - score).abs() < 1e-6).count() > 1;
            prop_assume!(!tied);
            prop_assert!(place(&after) <= place(&before));
        }
    }
}
