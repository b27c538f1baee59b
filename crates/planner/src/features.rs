//! What the choice of a route is based on, measured from the search result, the scope and the engine's queue.

use std::collections::BTreeSet;

use edgewise_model_api::QueueState;
use edgewise_retrieval::Hit;

use crate::Features;

/// How many of the first hits describe the shape of a result.
const TOP: usize = 10;

/// Documents and tokens a question may draw on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Scope {
    pub(crate) documents: usize,
    pub(crate) tokens: usize,
}

/// Measures `hits`, which come best first.
pub(crate) fn measure(hits: &[Hit], scope: Scope, queue: QueueState) -> Features {
    let best = |scores: &mut dyn Iterator<Item = f32>| scores.max_by(f32::total_cmp).unwrap_or(0.0);
    let top = &hits[..hits.len().min(TOP)];
    let both = top.iter().filter(|hit| hit.lexical.is_some() && hit.vector.is_some()).count();
    // A reranker may have put them in another order.
    let mut fused: Vec<f32> = hits.iter().map(|hit| hit.score).collect();
    fused.sort_by(|a, b| b.total_cmp(a));
    let gap = match fused[..] {
        [first, second, ..] => first - second,
        [only] => only,
        [] => 0.0,
    };
    Features {
        scope_tokens: scope.tokens,
        scope_documents: scope.documents,
        hits: hits.len(),
        top_cosine: best(&mut hits.iter().filter_map(|hit| hit.vector.map(|arm| arm.score))),
        top_bm25: best(&mut hits.iter().filter_map(|hit| hit.lexical.map(|arm| arm.score))),
        gap,
        arm_overlap: if top.is_empty() { 0.0 } else { both as f32 / top.len() as f32 },
        documents_in_top: top.iter().map(|hit| &hit.chunk.document).collect::<BTreeSet<_>>().len(),
        queue_requests: queue.requests,
        queue_tokens: queue.prefill_tokens,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::testing::hit;

    const SCOPE: Scope = Scope { documents: 4, tokens: 400 };

    #[test]
    fn the_shape_of_a_result_is_measured() {
        let hits = [
            hit("a.md", 1, 0.9, Some(7.0), Some(0.5)),
            hit("b.md", 2, 0.6, None, Some(0.8)),
            hit("a.md", 3, 0.5, Some(9.0), None),
            hit("c.md", 4, 0.4, Some(1.0), Some(0.1)),
        ];
        let features = measure(&hits, SCOPE, QueueState { requests: 2, prefill_tokens: 70 });
        assert_eq!((features.hits, features.documents_in_top), (4, 3));
        assert_eq!((features.top_cosine, features.top_bm25, features.arm_overlap), (0.8, 9.0, 0.5));
        assert!((features.gap - 0.3).abs() < 1e-6);
        assert_eq!((features.queue_requests, features.queue_tokens), (2, 70));
        assert_eq!((features.scope_documents, features.scope_tokens), (4, 400));
    }

    #[test]
    fn no_hits_measure_as_nothing() {
        let features = measure(&[], SCOPE, QueueState::default());
        assert_eq!((features.top_cosine, features.top_bm25, features.gap, features.arm_overlap), (0.0, 0.0, 0.0, 0.0));
    }
}
