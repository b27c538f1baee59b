//! A Gaussian mixture with diagonal covariances, by expectation and maximisation (Dempster, Laird and Rubin 1977).
//!
//! Follows the conventions of scikit-learn's `GaussianMixture(covariance_type="diag")`, which the tests compare with: the
//! regularisation is added to every variance, convergence is a change of the mean log-likelihood below `tolerance`.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

use super::points::{BLOCK, Points};

/// Steps of k-means before the first expectation.
const LLOYD: usize = 10;

/// How a mixture is fitted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MixtureOptions {
    /// Added to every variance, in the square of the points' unit.
    pub regularisation: f64,
    /// Change of the mean log-likelihood of a point below which the fit has converged.
    pub tolerance: f64,
    /// Most iterations.
    pub iterations: usize,
}

impl Default for MixtureOptions {
    fn default() -> Self {
        Self { regularisation: 1e-6, tolerance: 1e-3, iterations: 100 }
    }
}

/// A mixture of `k` Gaussians.
#[derive(Debug, Clone, PartialEq)]
pub struct Mixture {
    /// Share of each component, `[k]`; they sum to 1.
    pub weights: Vec<f64>,
    /// Means, `[k, dims]`.
    pub means: Points,
    /// Variances, `[k, dims]`, positive.
    pub variances: Points,
}

/// A fitted mixture.
#[derive(Debug, Clone, PartialEq)]
pub struct MixtureFit {
    /// The mixture.
    pub mixture: Mixture,
    /// Sum of the natural logarithm of the density at every point.
    pub log_likelihood: f64,
    /// Bayesian information criterion: less is better.
    pub bic: f64,
    /// Iterations taken.
    pub iterations: usize,
    /// Whether it converged within the iterations allowed.
    pub converged: bool,
}

/// Sums over points, weighted with the probability of each component.
struct Moments {
    shares: Vec<f64>,
    sums: Vec<f64>,
    squares: Vec<f64>,
    log_likelihood: f64,
}

impl Mixture {
    /// A mixture of `k` components for `points`, from means chosen apart from each other by `seed`. `k` is brought into
    /// 1..=rows.
    pub fn fit(points: &Points, k: usize, seed: u64, options: MixtureOptions) -> MixtureFit {
        let k = k.clamp(1, points.rows().max(1));
        let centres = lloyd(points, spread(points, k, seed));
        // A first expectation in which every point belongs to its nearest centre.
        let start = maximise(points.dims(), &hard(points, &centres), &centres, options.regularisation);
        start.improve(points, options)
    }

    /// This mixture after as many iterations as it takes.
    pub fn improve(self, points: &Points, options: MixtureOptions) -> MixtureFit {
        let (mut mixture, mut last, mut iterations, mut converged) = (self, f64::NEG_INFINITY, 0, false);
        while iterations < options.iterations && !converged {
            let moments = mixture.expect(points);
            let mean = moments.log_likelihood / points.rows().max(1) as f64;
            mixture = maximise(points.dims(), &moments, &mixture.means, options.regularisation);
            converged = (mean - last).abs() < options.tolerance;
            last = mean;
            iterations += 1;
        }
        let log_likelihood = mixture.expect(points).log_likelihood;
        let k = mixture.weights.len();
        let parameters = 2 * k * points.dims() + k - 1;
        let bic = parameters as f64 * (points.rows().max(1) as f64).ln() - 2.0 * log_likelihood;
        MixtureFit { mixture, log_likelihood, bic, iterations, converged }
    }

    /// The probability of each component for each point: `[rows, k]`, each row sums to 1.
    pub fn memberships(&self, points: &Points) -> Points {
        let (k, terms) = (self.weights.len(), self.terms());
        let blocks: Vec<Vec<f64>> = points
            .values()
            .par_chunks(BLOCK * points.dims())
            .map(|block| {
                let mut out = Vec::with_capacity(block.len() / points.dims() * k);
                for row in block.chunks_exact(points.dims()) {
                    let at = out.len();
                    out.extend(self.log_densities(row, &terms));
                    normalise(&mut out[at..]);
                }
                out
            })
            .collect();
        Points::of(blocks.concat(), k)
    }

    /// What of a component's log-density does not depend on the point.
    fn terms(&self) -> Vec<f64> {
        let tau = (2.0 * std::f64::consts::PI).ln() * self.means.dims() as f64;
        let term = |(weight, variances): (&f64, &[f64])| {
            weight.ln() - 0.5 * (tau + variances.iter().map(|v| v.ln()).sum::<f64>())
        };
        self.weights.iter().zip(self.variances.iter()).map(term).collect()
    }

    fn log_densities<'a>(&'a self, row: &'a [f64], terms: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        self.means.iter().zip(self.variances.iter()).zip(terms).map(move |((means, variances), term)| {
            let distance: f64 = row.iter().zip(means).zip(variances).map(|((x, m), v)| (x - m) * (x - m) / v).sum();
            term - 0.5 * distance
        })
    }

    fn expect(&self, points: &Points) -> Moments {
        let (k, dims, terms) = (self.weights.len(), points.dims(), self.terms());
        let blocks: Vec<Moments> = points
            .values()
            .par_chunks(BLOCK * dims)
            .map(|block| {
                let mut moments = Moments::zero(k, dims);
                let mut shares = Vec::with_capacity(k);
                for row in block.chunks_exact(dims) {
                    shares.clear();
                    shares.extend(self.log_densities(row, &terms));
                    moments.log_likelihood += normalise(&mut shares);
                    for (component, share) in shares.iter().enumerate().filter(|(_, share)| **share > 0.0) {
                        moments.take(component, *share, row, self.means.row(component));
                    }
                }
                moments
            })
            .collect();
        Moments::sum(blocks, k, dims)
    }
}

impl Moments {
    fn zero(k: usize, dims: usize) -> Self {
        Self { shares: vec![0.0; k], sums: vec![0.0; k * dims], squares: vec![0.0; k * dims], log_likelihood: 0.0 }
    }

    /// Counts `row` as `share` of a point of `component`. Differences from `origin`, near the mean, are summed: squares of
    /// the values themselves would lose the variance of points far from zero.
    fn take(&mut self, component: usize, share: f64, row: &[f64], origin: &[f64]) {
        self.shares[component] += share;
        let range = component * row.len()..(component + 1) * row.len();
        let sums = self.sums[range.clone()].iter_mut().zip(&mut self.squares[range]);
        for ((sum, square), (x, o)) in sums.zip(row.iter().zip(origin)) {
            *sum += share * (x - o);
            *square += share * (x - o) * (x - o);
        }
    }

    fn sum(blocks: Vec<Self>, k: usize, dims: usize) -> Self {
        blocks.into_iter().fold(Self::zero(k, dims), |mut all, block| {
            let add = |all: &mut [f64], block: &[f64]| all.iter_mut().zip(block).for_each(|(a, b)| *a += b);
            add(&mut all.shares, &block.shares);
            add(&mut all.sums, &block.sums);
            add(&mut all.squares, &block.squares);
            all.log_likelihood += block.log_likelihood;
            all
        })
    }
}

/// Turns log-densities into probabilities, and gives the logarithm of their sum.
fn normalise(logs: &mut [f64]) -> f64 {
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for log in logs.iter_mut() {
        *log = (*log - most).exp();
        sum += *log;
    }
    logs.iter_mut().for_each(|share| *share /= sum);
    most + sum.ln()
}

/// The mixture that explains `moments`, taken around `origins`, best.
fn maximise(dims: usize, moments: &Moments, origins: &Points, regularisation: f64) -> Mixture {
    let k = moments.shares.len();
    // A component that no point belongs to keeps a trace of weight, so that nothing is divided by zero.
    let shares: Vec<f64> = moments.shares.iter().map(|share| share + 10.0 * f64::EPSILON).collect();
    let total: f64 = shares.iter().sum();
    let (mut means, mut variances) = (Vec::with_capacity(k * dims), Vec::with_capacity(k * dims));
    for (component, share) in shares.iter().enumerate() {
        let range = component * dims..(component + 1) * dims;
        let sums = moments.sums[range.clone()].iter().zip(&moments.squares[range]);
        for ((sum, square), origin) in sums.zip(origins.row(component)) {
            let offset = sum / share;
            means.push(origin + offset);
            variances.push((square / share - offset * offset).max(0.0) + regularisation);
        }
    }
    Mixture {
        weights: shares.iter().map(|share| share / total).collect(),
        means: Points::of(means, dims),
        variances: Points::of(variances, dims),
    }
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum()
}

/// Centres far from each other: k-means++ (Arthur and Vassilvitskii 2007).
fn spread(points: &Points, k: usize, seed: u64) -> Points {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut centres = Vec::with_capacity(k * points.dims());
    let first = random.random_range(0..points.rows().max(1));
    centres.extend_from_slice(points.row(first));
    let mut nearest: Vec<f64> = points.iter().map(|row| distance(row, points.row(first))).collect();
    for _ in 1..k {
        let total: f64 = nearest.iter().sum();
        let mut left = random.random_range(0.0..1.0) * total;
        let drawn = nearest.iter().position(|d| {
            left -= d;
            left < 0.0
        });
        // All points are centres already, or rounding ate the rest: any that is left.
        let chosen = drawn.unwrap_or_else(|| random.random_range(0..points.rows().max(1)));
        centres.extend_from_slice(points.row(chosen));
        for (near, row) in nearest.iter_mut().zip(points.iter()) {
            *near = near.min(distance(row, points.row(chosen)));
        }
    }
    Points::of(centres, points.dims())
}

/// Each point counted to its nearest centre.
fn hard(points: &Points, centres: &Points) -> Moments {
    let (k, dims) = (centres.rows(), points.dims());
    let blocks: Vec<Moments> = points
        .values()
        .par_chunks(BLOCK * dims)
        .map(|block| {
            let mut moments = Moments::zero(k, dims);
            for row in block.chunks_exact(dims) {
                let near = centres.iter().enumerate().min_by(|a, b| distance(row, a.1).total_cmp(&distance(row, b.1)));
                near.into_iter().for_each(|(component, centre)| moments.take(component, 1.0, row, centre));
            }
            moments
        })
        .collect();
    Moments::sum(blocks, k, dims)
}

/// A few steps of k-means.
fn lloyd(points: &Points, mut centres: Points) -> Points {
    for _ in 0..LLOYD {
        let moments = hard(points, &centres);
        let moved: Vec<f64> = centres
            .iter()
            .enumerate()
            .flat_map(|(component, centre)| {
                let share = moments.shares[component].max(f64::MIN_POSITIVE);
                let sums = &moments.sums[component * points.dims()..(component + 1) * points.dims()];
                centre.iter().zip(sums).map(move |(c, sum)| c + sum / share).collect::<Vec<_>>()
            })
            .collect();
        let moved = Points::of(moved, points.dims());
        if moved == centres {
            break;
        }
        centres = moved;
    }
    centres
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Points and scikit-learn's fits of them, from the same start: `tests/golden/mixture.py` makes it.
    #[derive(serde::Deserialize)]
    struct Golden {
        points: Vec<Vec<f64>>,
        fits: Vec<GoldenFit>,
    }

    #[derive(serde::Deserialize)]
    struct GoldenFit {
        regularisation: f64,
        start_weights: Vec<f64>,
        start_means: Vec<Vec<f64>>,
        start_variances: Vec<Vec<f64>>,
        weights: Vec<f64>,
        means: Vec<Vec<f64>>,
        variances: Vec<Vec<f64>>,
        memberships: Vec<Vec<f64>>,
        log_likelihood: f64,
        bic: f64,
    }

    fn points(rows: &[Vec<f64>]) -> Points {
        Points::new(rows.concat(), rows.len(), rows[0].len()).unwrap()
    }

    #[track_caller]
    fn close(found: &[f64], expected: &[f64], what: &str) {
        assert_eq!(found.len(), expected.len(), "{what}");
        for (f, e) in found.iter().zip(expected) {
            assert!((f - e).abs() <= 1e-6 * e.abs().max(1.0), "{what}: {f} against {e}");
        }
    }

    #[test]
    fn fits_are_those_of_scikit_learn() {
        let golden: Golden = serde_json::from_str(include_str!("../../tests/golden/mixture.json")).unwrap();
        let data = points(&golden.points);
        for fit in &golden.fits {
            let start = Mixture {
                weights: fit.start_weights.clone(),
                means: points(&fit.start_means),
                variances: points(&fit.start_variances),
            };
            let options = MixtureOptions { regularisation: fit.regularisation, tolerance: 1e-10, iterations: 2000 };
            let found = start.improve(&data, options);
            assert!(found.converged);
            close(&found.mixture.weights, &fit.weights, "weights");
            close(found.mixture.means.values(), &fit.means.concat(), "means");
            close(found.mixture.variances.values(), &fit.variances.concat(), "variances");
            close(found.mixture.memberships(&data).values(), &fit.memberships.concat(), "memberships");
            close(&[found.log_likelihood, found.bic], &[fit.log_likelihood, fit.bic], "log-likelihood, BIC");
        }
    }

    #[test]
    fn bic_finds_the_number_of_groups() {
        let mut random = ChaCha8Rng::seed_from_u64(3);
        let mut rows = Vec::new();
        for centre in [[0.0, 0.0], [9.0, 0.0], [0.0, 9.0], [9.0, 9.0]] {
            for _ in 0..40 {
                rows.push(centre.iter().map(|c| c + random.random_range(-1.0..1.0)).collect());
            }
        }
        let data = points(&rows);
        let best = (1..9)
            .map(|k| (k, Mixture::fit(&data, k, 7, MixtureOptions::default()).bic))
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .unwrap();
        assert_eq!(best.0, 4);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_points_give_finite_probabilities(
            rows in prop::collection::vec(prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), -1e6..1e6f64], 3), 1..40),
            k in 1..12usize,
            seed in 0..100u64,
        ) {
            let data = points(&rows);
            let fit = Mixture::fit(&data, k, seed, MixtureOptions::default());
            prop_assert!(fit.log_likelihood.is_finite() && fit.bic.is_finite());
            prop_assert!((fit.mixture.weights.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            for row in fit.mixture.memberships(&data).iter() {
                prop_assert!((row.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            }
        }
    }
}
