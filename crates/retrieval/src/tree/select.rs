//! Which of many candidates are taken within a budget: plain data.
//!
//! One by one, each the best of `(1 − d) · value − d · similarity` to the most similar one taken before (maximal marginal
//! relevance, as in `mmr`), that still fits and is neither above nor below one taken before.
//!
//! **The value** of a candidate is how well it matches, 0 to 1 over the candidates, less a prior against summaries when the
//! question is about a detail. Fused scores of summaries and chunks are comparable (one embedder, one set of statistics),
//! but not neutral: a summary is near to many questions and answers few, and what it leaves out is just the detail. From
//! breadth 0.5 on, nothing is held against them.

use edgewise_catalog::Below;

use super::shape::{Shape, Taken};

/// What a summary loses against a chunk at breadth 0: half of all that there is between the best and the worst match.
pub(crate) const DETAIL_PRIOR: f32 = 0.5;

/// Something that may be taken.
#[derive(Debug, Clone)]
pub(crate) struct Candidate {
    pub(crate) item: Below,
    /// How well it matches, 0 to 1.
    pub(crate) relevance: f32,
    pub(crate) tokens: usize,
    pub(crate) vector: Option<Vec<f32>>,
}

impl Candidate {
    /// Its value at a breadth.
    pub(crate) fn value(&self, breadth: f32) -> f32 {
        match self.item {
            Below::Chunk(_) => self.relevance,
            Below::Node(_) => self.relevance - DETAIL_PRIOR * (1.0 - 2.0 * breadth).max(0.0),
        }
    }
}

/// What decides beside the candidates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Choice {
    pub(crate) budget: usize,
    pub(crate) breadth: f32,
    pub(crate) diversity: f32,
    /// Whether an item may be taken together with what is above or below it.
    pub(crate) allow_ancestors: bool,
}

/// Indices of the candidates taken, in the order in which they are, after what `taken` and `vectors` hold already. Equal
/// ones go by their place among the candidates.
pub(crate) fn select(
    shape: &Shape,
    candidates: &[Candidate],
    choice: Choice,
    taken: &mut Taken,
    vectors: &[Vec<f32>],
) -> Vec<usize> {
    let Choice { budget, breadth, diversity, allow_ancestors } = choice;
    let similarity = |candidate: &Candidate, to: &[f32]| match &candidate.vector {
        Some(vector) => vector.iter().zip(to).map(|(a, b)| a * b).sum::<f32>().max(0.0),
        None => 0.0,
    };
    let mut nearest: Vec<f32> = candidates
        .iter()
        .map(|candidate| vectors.iter().map(|to| similarity(candidate, to)).fold(0.0, f32::max))
        .collect();
    let mut left: Vec<usize> = (0..candidates.len()).collect();
    let (mut chosen, mut used) = (Vec::new(), 0);
    loop {
        left.retain(|at| {
            let candidate = &candidates[*at];
            used + candidate.tokens <= budget
                && !taken.has(candidate.item)
                && (allow_ancestors || !taken.related(candidate.item))
        });
        let worth = |at: usize| (1.0 - diversity) * candidates[at].value(breadth) - diversity * nearest[at];
        let Some(best) = left.iter().copied().reduce(|best, at| if worth(at) > worth(best) { at } else { best }) else {
            return chosen;
        };
        used += candidates[best].tokens;
        taken.take(shape, candidates[best].item);
        chosen.push(best);
        if diversity > 0.0
            && let Some(vector) = &candidates[best].vector
        {
            for at in &left {
                nearest[*at] = nearest[*at].max(similarity(&candidates[*at], vector));
            }
        }
    }
}
