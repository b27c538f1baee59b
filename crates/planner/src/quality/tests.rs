use super::*;
use crate::{
    KindProbabilities, RouterReading,
    features::{Scope, measure},
};
use edgewise_model_api::QueueState;
use proptest::prelude::*;

const ROUTES: [Route; 3] = [Route::Passages, Route::Documents, Route::Full];

fn features(top_cosine: f32, arm_overlap: f32) -> Features {
    let empty = measure(&[], Scope { documents: 10, tokens: 3000 }, QueueState::default());
    Features { hits: 10, top_cosine, arm_overlap, documents_in_top: 4, ..empty }
}

fn read(features: &Features, passages: f64, gain: f64, trust: f64) -> Features {
    let router = Some(RouterReading { passages, gain, full_better: 0.5, trust });
    Features { router, ..features.clone() }
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
fn a_full_window_costs_quality_and_a_short_one_is_full_sooner() {
    let features = features(0.4, 0.5);
    for route in ROUTES {
        assert!(expected(route, &features, 8000, 8192) < expected(route, &features, 3000, 8192), "{route}");
        assert!(expected(route, &features, 1500, 2000) < expected(route, &features, 1500, 8192), "{route}");
    }
}

#[test]
fn what_is_learned_moves_the_routes_apart() {
    let features = features(0.5, 0.5);
    let distance = |features: &Features| {
        expected(Route::Full, features, 3000, 8192) - expected(Route::Passages, features, 600, 8192)
    };
    let (worse, better) = (read(&features, 0.6, -0.2, 1.0), read(&features, 0.6, 0.2, 1.0));
    assert!(distance(&better) > distance(&worse) + 0.1);
    let doubted = read(&features, 0.6, -0.2, 0.0);
    assert_eq!(distance(&doubted), distance(&features), "without trust the priors hold");
}

#[test]
fn documents_that_are_all_of_the_scope_are_worth_what_the_scope_is() {
    let features = read(&features(0.3, 0.2), 0.5, 0.1, 1.0);
    for window in [8192, 1_000_000] {
        let quality = |route: Route| expected(route, &features, 3000, window);
        assert!((quality(Route::Documents) - quality(Route::Full)).abs() < 1e-9);
    }
    // A few of many documents can't tell of the whole.
    let kind = |values| Features { kind: KindProbabilities::of(values), scope_tokens: 100_000, ..features.clone() };
    let quality = |features: &Features| expected(Route::Documents, features, 3000, 8192);
    assert!(quality(&kind([1.0, 0.0, 0.0, 0.0, 0.0])) > quality(&kind([0.0, 0.0, 0.0, 1.0, 0.0])));
}

proptest! {
    #[test]
    fn learning_moves_within_bounds(
        cosine in -1f32..1.0,
        overlap in 0f32..=1.0,
        passages in 0f64..=1.0,
        gain in -1f64..=1.0,
        trust in 0f64..=1.0,
        tokens in 0..20_000usize,
    ) {
        let prior = features(cosine, overlap);
        let learned = read(&prior, passages, gain, trust);
        for route in ROUTES {
            let (before, after) = (expected(route, &prior, tokens, 8192), expected(route, &learned, tokens, 8192));
            prop_assert!((0.0..=1.0).contains(&after));
            // A gain on top of a level: two moves at most.
            prop_assert!((after - before).abs() <= 2.0 * MOST_LEARNED * trust + 1e-9, "{route} {before} {after}");
        }
    }
}
