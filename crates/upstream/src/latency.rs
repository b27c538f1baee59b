//! The latency curve of a server, fitted to what is observed of it.
//!
//! Ridge regression of the time to the first token on `1`, the tokens computed and the pairs of positions attended to,
//! with older observations forgotten by and by. No coefficient is negative: more work never takes less time. Only
//! requests that met no other prompt on their replica count, since waiting is not prefill.

use edgewise_model_api::LatencyCurve;

/// Share of its weight that an observation keeps when another comes.
const KEPT: f64 = 0.98;
/// Share of a new observation in the running mean of the time a token takes.
const SHARE: f64 = 0.1;
/// What is assumed before anything was seen: a medium-sized model on one GPU.
const PRIOR: LatencyCurve = LatencyCurve { a: 60.0, b: 0.2, c: 0.0, d: 20.0, e: 0.0 };
/// Tokens, and pairs, that make one unit of the regression.
const SCALE: [f64; 3] = [1.0, 1e3, 1e6];
/// Prompts the assumption stands for, and the weight of each.
const ASSUMED: [usize; 3] = [0, 1000, 4000];
const ASSUMED_WEIGHT: f64 = 0.2;

/// The fit.
#[derive(Debug, Clone)]
pub(crate) struct LatencyFit {
    /// Weighted sums of products of features, and of features with times.
    products: [[f64; 3]; 3],
    times: [f64; 3],
    token_ms: f64,
}

impl Default for LatencyFit {
    fn default() -> Self {
        let mut fit = Self { products: [[0.0; 3]; 3], times: [0.0; 3], token_ms: PRIOR.d };
        for prompt in ASSUMED {
            fit.add(features(prompt, 0), PRIOR.prefill_ms(prompt, 0), ASSUMED_WEIGHT);
        }
        fit
    }
}

fn features(prompt: usize, cached: usize) -> [f64; 3] {
    let (t, p) = (prompt as f64, cached.min(prompt) as f64);
    [1.0, (t - p) / SCALE[1], (t * t - p * p) / SCALE[2]]
}

impl LatencyFit {
    /// A prompt of `prompt` tokens, `cached` of them cached, took `ms` to its first token.
    pub(crate) fn first_token(&mut self, prompt: usize, cached: usize, ms: f64) {
        if ms.is_finite() && ms >= 0.0 {
            self.products.iter_mut().flatten().chain(&mut self.times).for_each(|sum| *sum *= KEPT);
            self.add(features(prompt, cached), ms, 1.0);
        }
    }

    /// `tokens` more tokens took `ms`.
    pub(crate) fn decoded(&mut self, tokens: usize, ms: f64) {
        if tokens > 0 && ms.is_finite() && ms >= 0.0 {
            self.token_ms += SHARE * (ms / tokens as f64 - self.token_ms);
        }
    }

    /// The curve.
    pub(crate) fn curve(&self) -> LatencyCurve {
        // Features are left out, the most negative first, until none is negative.
        let mut used = [true; 3];
        loop {
            let fitted = self.solve(used);
            let worst = (0..3).filter(|i| fitted[*i] < 0.0).min_by(|i, j| fitted[*i].total_cmp(&fitted[*j]));
            match worst {
                Some(worst) => used[worst] = false,
                None => {
                    let [a, b, c] = std::array::from_fn(|i| fitted[i] / SCALE[i]);
                    return LatencyCurve { a, b, c, d: self.token_ms, e: 0.0 };
                }
            }
        }
    }

    fn add(&mut self, features: [f64; 3], ms: f64, weight: f64) {
        for (i, x) in features.iter().enumerate() {
            for (j, y) in features.iter().enumerate() {
                self.products[i][j] += weight * x * y;
            }
            self.times[i] += weight * x * ms;
        }
    }

    /// Least squares over the features in use, by Gaussian elimination; a little ridge keeps it solvable.
    fn solve(&self, used: [bool; 3]) -> [f64; 3] {
        let mut rows = [[0.0; 4]; 3];
        for i in 0..3 {
            for j in 0..3 {
                rows[i][j] = if used[i] && used[j] { self.products[i][j] } else { 0.0 };
            }
            rows[i][i] += if used[i] { 1e-6 } else { 1.0 };
            rows[i][3] = if used[i] { self.times[i] } else { 0.0 };
        }
        // Positive definite, so no pivoting is needed.
        for i in 0..3 {
            for j in 0..3 {
                if i != j {
                    let (factor, pivot) = (rows[j][i] / rows[i][i], rows[i]);
                    rows[j].iter_mut().zip(pivot).for_each(|(cell, above)| *cell -= factor * above);
                }
            }
        }
        std::array::from_fn(|i| rows[i][3] / rows[i][i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_begins_with_the_assumption() {
        let curve = LatencyFit::default().curve();
        assert!((curve.prefill_ms(1000, 0) - PRIOR.prefill_ms(1000, 0)).abs() < 5.0, "{curve:?}");
        assert_eq!(curve.d, PRIOR.d);
    }

    #[test]
    fn it_finds_the_curve_that_made_the_times() {
        let truth = LatencyCurve { a: 12.0, b: 0.05, c: 4e-6, d: 8.0, e: 0.0 };
        let mut fit = LatencyFit::default();
        for i in 0..200usize {
            let (prompt, cached) = (100 + (i * 997) % 8000, (i * 313) % 90);
            fit.first_token(prompt, cached, truth.prefill_ms(prompt, cached));
            fit.decoded(10, 80.0);
        }
        let curve = fit.curve();
        for (prompt, cached) in [(200, 0), (2000, 0), (8000, 4000)] {
            let (is, was) = (curve.prefill_ms(prompt, cached), truth.prefill_ms(prompt, cached));
            assert!((is - was).abs() < 0.05 * was + 2.0, "{prompt} {cached}: {is} for {was} by {curve:?}");
        }
        assert!((curve.d - 8.0).abs() < 0.1, "{curve:?}");
    }

    #[test]
    fn it_follows_a_server_that_has_become_slower() {
        let mut fit = LatencyFit::default();
        for rate in [0.1, 0.4] {
            for i in 0..300usize {
                fit.first_token(50 * (i % 40), 0, 20.0 + rate * (50 * (i % 40)) as f64);
            }
        }
        assert!((fit.curve().prefill_ms(1000, 0) - 420.0).abs() < 20.0);
    }

    proptest! {
        #[test]
        fn no_observation_makes_more_work_faster(seen in proptest::collection::vec((0usize..20_000, 0usize..20_000, 0.0f64..1e5), 0..40)) {
            let mut fit = LatencyFit::default();
            for (prompt, cached, ms) in seen {
                fit.first_token(prompt, cached, ms);
            }
            let curve = fit.curve();
            prop_assert!(curve.a >= 0.0 && curve.b >= 0.0 && curve.c >= 0.0, "{curve:?}");
            prop_assert!(curve.prefill_ms(5000, 0).is_finite());
        }
    }
}
