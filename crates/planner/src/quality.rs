//! Expected quality of an answer by route: priors, not measurements.
//!
//! Each prior is a number between 0 and 1 that says how likely a good answer is. They encode what published comparisons
//! agree on, and nothing about a particular model or collection:
//! - Retrieval answers well when its evidence is strong and poorly when it is weak; whole documents depend on it less,
//!   the full scope not at all (Li et al. 2024, "Retrieval Augmented Generation or Long-Context LLMs?").
//! - Quality falls as a prompt fills the window (Hsieh et al. 2024, "RULER": effective windows are much shorter than
//!   advertised ones).
//!
//! Once quality is measured per model and kind of question, a table replaces these numbers; the shape stays.

use crate::{Features, Route};

/// Cosines of sentence embedders between unrelated and between matching texts, roughly. Evidence is scaled between.
const COSINE_WEAK: f32 = 0.15;
const COSINE_STRONG: f32 = 0.60;

/// How good a route is without evidence, how much full evidence adds, and how much a full window takes away.
struct Prior {
    base: f64,
    evidence: f64,
    fill: f64,
}

const fn prior(route: Route) -> Prior {
    match route {
        Route::Passages => Prior { base: 0.30, evidence: 0.45, fill: 0.30 },
        Route::Documents => Prior { base: 0.40, evidence: 0.38, fill: 0.40 },
        Route::Full => Prior { base: 0.78, evidence: 0.0, fill: 0.45 },
    }
}

/// Strength of the retrieved evidence, 0 to 1: mostly the best cosine; agreement of the two arms and concentration in
/// few documents add to it.
fn evidence(features: &Features) -> f64 {
    let cosine = ((features.top_cosine - COSINE_WEAK) / (COSINE_STRONG - COSINE_WEAK)).clamp(0.0, 1.0);
    let concentration = match features.documents_in_top {
        0 => 0.0,
        documents => 1.0 / documents as f32,
    };
    f64::from(0.8 * cosine + 0.1 * features.arm_overlap + 0.1 * concentration)
}

/// Expected quality of `route` with a prompt and answer of `tokens` tokens in a window of `window`.
pub(crate) fn expected(route: Route, features: &Features, tokens: usize, window: usize) -> f64 {
    let Prior { base, evidence: weight, fill } = prior(route);
    let filled = (tokens as f64 / window.max(1) as f64).min(1.0);
    (base + weight * evidence(features) - fill * filled).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(top_cosine: f32, arm_overlap: f32) -> Features {
        Features {
            scope_tokens: 3000,
            scope_documents: 10,
            hits: 10,
            top_cosine,
            top_bm25: 1.0,
            gap: 0.1,
            arm_overlap,
            documents_in_top: 4,
            queue_requests: 0,
            queue_tokens: 0,
        }
    }

    #[test]
    fn evidence_helps_retrieval_and_leaves_the_full_scope_alone() {
        let (weak, strong) = (features(0.1, 0.0), features(0.7, 0.8));
        let quality = |route, features| expected(route, features, 1000, 8192);
        assert!(quality(Route::Passages, &strong) > quality(Route::Passages, &weak) + 0.3);
        assert!(quality(Route::Documents, &strong) > quality(Route::Documents, &weak) + 0.2);
        assert_eq!(quality(Route::Full, &strong), quality(Route::Full, &weak));
        assert!(quality(Route::Passages, &strong) > expected(Route::Full, &strong, 7000, 8192));
        assert!(quality(Route::Full, &weak) > quality(Route::Passages, &weak));
    }

    #[test]
    fn a_full_window_costs_quality() {
        let features = features(0.4, 0.5);
        for route in [Route::Passages, Route::Documents, Route::Full] {
            assert!(expected(route, &features, 8000, 8192) < expected(route, &features, 500, 8192));
        }
    }
}
