//! Near-duplicates out of the way of other hits.
//!
//! Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): hits are chosen one by one, each the best of
//! `(1 − d) · relevance − d · similarity` to the most similar one chosen before. Relevance is the fused score scaled to
//! 0..1 over the candidates, similarity the cosine of the chunks' vectors, not below 0.
//!
//! Scores and arm ranks of hits stay what they were; only the order changes. Ties go to the better fused rank.

use edgewise_types::ChunkId;

use crate::fusion::Fused;

/// Candidates compared: this many times the limit. Quadratic work needs an end.
const CANDIDATES_FACTOR: usize = 4;

/// `fused` with the first `limit` chosen for relevance and difference, the others behind them as they were.
pub(crate) fn diversified(
    fused: Vec<Fused>,
    limit: usize,
    diversity: f32,
    vector: impl Fn(ChunkId) -> Option<Vec<f32>>,
) -> Vec<Fused> {
    let candidates = fused.len().min(limit.saturating_mul(CANDIDATES_FACTOR));
    let (Some(first), Some(last)) = (fused.first(), fused.get(candidates.saturating_sub(1))) else { return fused };
    let (best, range) = (first.score, first.score - last.score);
    let vectors: Vec<Option<Vec<f32>>> = fused.iter().take(candidates).map(|hit| vector(hit.chunk)).collect();
    let relevance = |at: usize| if range > 0.0 { 1.0 - (best - fused[at].score) / range } else { 1.0 };
    let mut nearest = vec![0.0f32; candidates];
    let mut left: Vec<usize> = (0..candidates).collect();
    let mut order: Vec<usize> = Vec::with_capacity(fused.len());
    while order.len() < limit && !left.is_empty() {
        let value = |at: usize| (1.0 - diversity) * relevance(at) - diversity * nearest[at];
        let mut chosen = 0;
        for place in 1..left.len() {
            if value(left[place]) > value(left[chosen]) {
                chosen = place;
            }
        }
        let chosen = left.remove(chosen);
        for at in &left {
            if let (Some(a), Some(b)) = (&vectors[chosen], &vectors[*at]) {
                let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
                nearest[*at] = nearest[*at].max(cosine);
            }
        }
        order.push(chosen);
    }
    order.extend(left);
    order.extend(candidates..fused.len());
    order.into_iter().map(|at| fused[at]).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fused(scores: &[f32]) -> Vec<Fused> {
        let hit = |(at, score): (usize, &f32)| Fused {
            chunk: ChunkId(at as u64),
            score: *score,
            lexical: None,
            vector: None,
        };
        scores.iter().enumerate().map(hit).collect()
    }

    fn order(diversity: f32, limit: usize) -> Vec<u64> {
        // 0 and 1 are copies of each other, 2 is at right angles, 3 has no vector.
        let vectors = [Some(vec![1.0, 0.0]), Some(vec![1.0, 0.0]), Some(vec![0.0, 1.0]), None];
        let all =
            diversified(fused(&[0.9, 0.8, 0.7, 0.1]), limit, diversity, |chunk| vectors[chunk.0 as usize].clone());
        all.iter().map(|hit| hit.chunk.0).collect()
    }

    #[test]
    fn a_copy_gives_way_to_something_else() {
        assert_eq!(order(0.0, 4), [0, 1, 2, 3]);
        assert_eq!(order(0.5, 4), [0, 2, 3, 1]);
        assert_eq!(order(0.5, 1), [0, 1, 2, 3], "beyond the limit the order stays");
        assert_eq!(order(0.2, 4), [0, 2, 1, 3]);
        assert!(diversified(Vec::new(), 5, 0.5, |_| None).is_empty());
    }

    /// Hits in falling order of score, each with a unit vector of one of a few directions, or none.
    fn hits() -> impl Strategy<Value = (Vec<Fused>, Vec<Option<Vec<f32>>>)> {
        let direction = prop_oneof![4 => (0u32..6).prop_map(Some), 1 => Just(None)];
        proptest::collection::vec((1u32..1000, direction), 0..30).prop_map(|mut hits| {
            hits.sort_by_key(|(score, _)| std::cmp::Reverse(*score));
            let scores: Vec<f32> = hits.iter().map(|(score, _)| *score as f32 / 1000.0).collect();
            let vector = |direction: u32| {
                let angle = direction as f32 * std::f32::consts::PI / 10.0;
                vec![angle.cos(), angle.sin()]
            };
            (fused(&scores), hits.iter().map(|(_, direction)| direction.map(vector)).collect())
        })
    }

    proptest! {
        #[test]
        fn without_diversity_nothing_changes((hits, vectors) in hits(), limit in 1usize..20) {
            let same = diversified(hits.clone(), limit, 0.0, |chunk| vectors[chunk.0 as usize].clone());
            prop_assert_eq!(same, hits);
        }

        #[test]
        fn hits_are_moved_and_neither_lost_nor_changed(
            (hits, vectors) in hits(), limit in 1usize..20, tenths in 0u32..=10,
        ) {
            let diversity = tenths as f32 / 10.0;
            let moved = diversified(hits.clone(), limit, diversity, |chunk| vectors[chunk.0 as usize].clone());
            prop_assert_eq!(moved.first(), hits.first(), "the best hit has nothing before it to be like");
            let mut sorted = moved.clone();
            sorted.sort_by_key(|hit| hit.chunk);
            prop_assert_eq!(sorted, hits.clone(), "scores travel along");
            // Of two hits that are the same in all but score, the better one comes first: no order is made up.
            for (at, a) in moved.iter().enumerate().take(limit.min(moved.len())) {
                for b in &moved[at + 1..] {
                    if vectors[a.chunk.0 as usize] == vectors[b.chunk.0 as usize] {
                        prop_assert!(a.score >= b.score, "{a:?} before {b:?}");
                    }
                }
            }
        }

        #[test]
        fn a_copy_never_stands_above_a_different_hit_of_equal_score(
            directions in proptest::collection::vec(0u32..6, 2..20), tenths in 1u32..10,
        ) {
            let vectors: Vec<Vec<f32>> =
                directions.iter().map(|d| (0..6).map(|at| f32::from(u8::from(at == *d))).collect()).collect();
            let hits = fused(&vec![0.5; vectors.len()]);
            let kinds = directions.iter().collect::<std::collections::BTreeSet<_>>().len();
            let limit = vectors.len();
            let moved =
                diversified(hits, limit, tenths as f32 / 10.0, |chunk| Some(vectors[chunk.0 as usize].clone()));
            let first: std::collections::BTreeSet<u32> =
                moved.iter().take(kinds).map(|hit| directions[hit.chunk.0 as usize]).collect();
            // Candidates are those hits that a search of this limit compares.
            prop_assert_eq!(first.len(), kinds);
        }
    }
}
