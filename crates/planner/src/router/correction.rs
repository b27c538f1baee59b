//! What feedback on answers teaches: a small correction of the expected quality, by route and kind of question.
//!
//! Online logistic regression on the last layer: the expected quality `q` of the route that was taken becomes
//! `σ(logit q + θ·φ)`, with `φ` a one and the probabilities of the question's kinds, and `θ` one vector a route for all
//! collections of the tenant and one for the collection asked. Each rating moves both against the error of what was
//! predicted, the
//! shared one by a third as much; before each step what was learned decays a little, so that old ratings fade.
//!
//! Invariants: no weight and no shift exceeds its bound, whatever is rated and however often; the state is a function of
//! the feedback and its order ([`Corrections::replay`]), so it needs no file of its own; without feedback nothing moves.
//!
//! Deliberately not here: storing feedback, and questions: nothing of their text is known here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use edgewise_types::{CollectionName, TenantId};

use crate::{KindProbabilities, Route};

const STEP: f64 = 0.25;
/// Share of the step that the correction for all collections takes.
const SHARED: f64 = 1.0 / 3.0;
const DECAY: f64 = 0.01;
/// Largest weight, as a logit.
const MOST_WEIGHT: f64 = 0.5;
/// Most that feedback moves an expected quality.
const MOST_SHIFT: f64 = 0.15;

const INPUTS: usize = 6;
type Weights = [f64; INPUTS];

/// One rated answer, as the decision that led to it saw it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Feedback {
    /// Who asked: a rating teaches nothing about other tenants' questions.
    #[serde(default = "TenantId::local")]
    pub tenant: TenantId,
    /// The collection asked.
    pub collection: CollectionName,
    /// Route taken.
    pub route: Route,
    /// Quality expected of it without any feedback, 0 to 1.
    pub expected: f64,
    /// Kinds of the question.
    pub kind: KindProbabilities,
    /// How good the answer was, -1 to 1.
    pub rating: f64,
}

/// What was learned from feedback.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Corrections {
    shared: BTreeMap<(TenantId, Route), Weights>,
    own: BTreeMap<(TenantId, CollectionName, Route), Weights>,
    count: usize,
}

impl Corrections {
    /// What this feedback, oldest first, teaches.
    pub fn replay(feedback: impl IntoIterator<Item = Feedback>) -> Self {
        let mut corrections = Self::default();
        for rated in feedback {
            corrections.learn(&rated);
        }
        corrections
    }

    /// Ratings learned from.
    pub fn count(&self) -> usize {
        self.count
    }

    fn learn(&mut self, rated: &Feedback) {
        if !rated.rating.is_finite() || !rated.expected.is_finite() {
            return;
        }
        let inputs = inputs(&rated.kind);
        let predicted =
            sigmoid(logit(rated.expected) + self.moved(&rated.tenant, &rated.collection, rated.route, &inputs));
        let error = (rated.rating.clamp(-1.0, 1.0) + 1.0) / 2.0 - predicted;
        let step = |weights: &mut Weights, step: f64| {
            for (weight, input) in weights.iter_mut().zip(inputs) {
                *weight = (*weight * (1.0 - DECAY) + step * error * input).clamp(-MOST_WEIGHT, MOST_WEIGHT);
            }
        };
        step(self.shared.entry((rated.tenant.clone(), rated.route)).or_default(), STEP * SHARED);
        let own = (rated.tenant.clone(), rated.collection.clone(), rated.route);
        step(self.own.entry(own).or_default(), STEP);
        self.count += 1;
    }

    /// By how much feedback moves an expected `quality`; within a bound, and never out of 0 to 1.
    pub fn shift(
        &self,
        (tenant, collection): (&TenantId, &CollectionName),
        route: Route,
        kind: &KindProbabilities,
        quality: f64,
    ) -> f64 {
        let moved = self.moved(tenant, collection, route, &inputs(kind));
        if moved == 0.0 {
            // Exactly nothing, rather than what rounding leaves of it.
            return 0.0;
        }
        let corrected = sigmoid(logit(quality) + moved);
        // Not against the sign of what was learned where the logit had to be cut off.
        let shift = corrected - quality.clamp(LEAST, 1.0 - LEAST);
        (quality + shift.clamp(-MOST_SHIFT, MOST_SHIFT)).clamp(0.0, 1.0) - quality
    }

    fn moved(&self, tenant: &TenantId, collection: &CollectionName, route: Route, inputs: &Weights) -> f64 {
        let dot = |weights: Option<&Weights>| -> f64 {
            weights.map_or(0.0, |weights| weights.iter().zip(inputs).map(|(weight, input)| weight * input).sum())
        };
        let own = (tenant.clone(), collection.clone(), route);
        dot(self.shared.get(&(tenant.clone(), route))) + dot(self.own.get(&own))
    }
}

/// A quality of 0 or 1 has no logit.
const LEAST: f64 = 0.02;

fn inputs(kind: &KindProbabilities) -> Weights {
    let mut inputs = [1.0; INPUTS];
    for (input, probability) in inputs.iter_mut().skip(1).zip(kind.values()) {
        *input = f64::from(probability);
    }
    inputs
}

fn logit(probability: f64) -> f64 {
    let probability = probability.clamp(LEAST, 1.0 - LEAST);
    (probability / (1.0 - probability)).ln()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rated(collection: &str, route: Route, rating: f64) -> Feedback {
        let kind = KindProbabilities::of([0.7, 0.1, 0.1, 0.05, 0.05]);
        let tenant = TenantId::local();
        Feedback { tenant, collection: collection.parse().unwrap(), route, expected: 0.6, kind, rating }
    }

    fn shift(corrections: &Corrections, collection: &str, route: Route) -> f64 {
        let of = (&TenantId::local(), &collection.parse().unwrap());
        corrections.shift(of, route, &rated("a", route, 0.0).kind, 0.6)
    }

    #[test]
    fn without_feedback_nothing_moves() {
        assert_eq!(shift(&Corrections::default(), "a", Route::Full), 0.0);
    }

    #[test]
    fn bad_ratings_lower_their_route_most_of_all_in_their_collection() {
        let corrections = Corrections::replay((0..6).map(|_| rated("a", Route::Passages, -1.0)));
        let here = shift(&corrections, "a", Route::Passages);
        let elsewhere = shift(&corrections, "b", Route::Passages);
        assert!(here < -0.05 && elsewhere < -0.005 && here < elsewhere, "{here} {elsewhere}");
        assert_eq!(shift(&corrections, "a", Route::Full), 0.0, "nobody rated that route");
        let kind = rated("a", Route::Passages, 0.0).kind;
        let other = (&TenantId("other".into()), &"a".parse().unwrap());
        assert_eq!(
            corrections.shift(other, Route::Passages, &kind, 0.6),
            0.0,
            "another tenant's ratings teach nothing"
        );
        assert_eq!(corrections.count(), 6);
    }

    #[test]
    fn what_is_rated_as_expected_hardly_moves() {
        let corrections = Corrections::replay((0..20).map(|_| rated("a", Route::Full, 0.2)));
        assert!(shift(&corrections, "a", Route::Full).abs() < 0.01);
    }

    #[test]
    fn old_ratings_fade() {
        let mut feedback: Vec<Feedback> = (0..5).map(|_| rated("a", Route::Full, -1.0)).collect();
        feedback.extend((0..40).map(|_| rated("a", Route::Full, 1.0)));
        assert!(shift(&Corrections::replay(feedback), "a", Route::Full) > 0.05);
    }

    proptest! {
        #[test]
        fn no_feedback_moves_a_quality_beyond_the_bound(
            ratings in prop::collection::vec((-2f64..2.0, 0f64..1.0, any::<bool>()), 0..200),
            quality in 0f64..=1.0,
        ) {
            let feedback: Vec<Feedback> = ratings
                .iter()
                .map(|(rating, expected, full)| {
                    let route = if *full { Route::Full } else { Route::Passages };
                    Feedback { expected: *expected, ..rated("a", route, *rating) }
                })
                .collect();
            let corrections = Corrections::replay(feedback.clone());
            prop_assert_eq!(&corrections, &Corrections::replay(feedback));
            for route in [Route::Passages, Route::Documents, Route::Full] {
                let kind = rated("a", route, 0.0).kind;
                let shift = corrections.shift((&TenantId::local(), &"a".parse().unwrap()), route, &kind, quality);
                prop_assert!(shift.abs() <= MOST_SHIFT + 1e-12);
                prop_assert!((0.0..=1.0).contains(&(quality + shift)));
            }
        }
    }
}
