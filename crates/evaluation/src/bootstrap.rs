//! Confidence intervals by bootstrap over queries (Efron 1979; for ranking metrics: Sakai, "Evaluating Evaluation Metrics
//! based on the Bootstrap", SIGIR 2006): resample the queries with replacement, take percentiles of the means.
//!
//! The seed is fixed per call, so that all systems are resampled alike and a difference of two is a paired one.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// How to resample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: usize,
    /// Seed of the generator (ChaCha8).
    pub seed: u64,
    /// Share of the resamples the interval holds, such as 0.95.
    pub confidence: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, seed: 1, confidence: 0.95 }
    }
}

/// A mean with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Mean over the queries.
    pub mean: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Bootstrap {
    /// The mean of `values`, one per query, with its interval. Zero for no values.
    pub fn estimate(&self, values: &[f64]) -> Estimate {
        if values.is_empty() {
            return Estimate { mean: 0.0, low: 0.0, high: 0.0 };
        }
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut means: Vec<f64> = (0..self.resamples.max(1))
            .map(|_| {
                let sum: f64 = (0..values.len()).map(|_| values[rng.random_range(0..values.len())]).sum();
                sum / values.len() as f64
            })
            .collect();
        means.sort_by(f64::total_cmp);
        let tail = (1.0 - self.confidence.clamp(0.0, 1.0)) / 2.0;
        let at = |share: f64| means[((means.len() - 1) as f64 * share).round() as usize];
        Estimate { mean, low: at(tail), high: at(1.0 - tail) }
    }

    /// A figure of `n` queries with its interval, where it is no mean: `of` computes it from the numbers of the queries.
    pub fn of(&self, n: usize, of: &dyn Fn(&[usize]) -> f64) -> Estimate {
        let all: Vec<usize> = (0..n).collect();
        let mean = of(&all);
        if n == 0 {
            return Estimate { mean, low: mean, high: mean };
        }
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut figures: Vec<f64> = (0..self.resamples.max(1))
            .map(|_| of(&(0..n).map(|_| rng.random_range(0..n)).collect::<Vec<_>>()))
            .collect();
        figures.sort_by(f64::total_cmp);
        let tail = (1.0 - self.confidence.clamp(0.0, 1.0)) / 2.0;
        let at = |share: f64| figures[((figures.len() - 1) as f64 * share).round() as usize];
        Estimate { mean, low: at(tail), high: at(1.0 - tail) }
    }

    /// The mean of `a − b`, query by query, with its interval.
    pub fn difference(&self, a: &[f64], b: &[f64]) -> Estimate {
        let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
        self.estimate(&differences)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_has_the_width_the_normal_distribution_gives() {
        // 400 coin flips: standard error 0.5 / 20 = 0.025, so 95 % within about ±0.049.
        let values: Vec<f64> = (0..400).map(|n| f64::from(n % 2)).collect();
        let estimate = Bootstrap::default().estimate(&values);
        assert_eq!(estimate.mean, 0.5);
        assert!((estimate.low - 0.451).abs() < 0.01 && (estimate.high - 0.549).abs() < 0.01, "{estimate:?}");
        assert_eq!(estimate, Bootstrap::default().estimate(&values));
        assert_ne!(estimate, Bootstrap { seed: 2, ..Bootstrap::default() }.estimate(&values));
    }

    #[test]
    fn differences_are_paired() {
        // One always a tenth better than the other, whatever the query: no doubt about it.
        let a: Vec<f64> = (0..50).map(|n| f64::from(n % 7) / 10.0 + 0.1).collect();
        let b: Vec<f64> = a.iter().map(|x| x - 0.1).collect();
        let difference = Bootstrap::default().difference(&a, &b);
        assert!((difference.low - 0.1).abs() < 1e-9 && (difference.high - 0.1).abs() < 1e-9);
    }
}
