//! Intervals of shares and of means of few values.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A figure with the interval it lies in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Interval {
    /// The figure.
    pub mean: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Figures are kept to a millionth: more says nothing, and short ones come back from JSON exactly as they were.
    pub(crate) fn new(mean: f64, low: f64, high: f64) -> Self {
        Self { mean: rounded(mean), low: rounded(low), high: rounded(high) }
    }
}

/// To a millionth.
pub(crate) fn rounded(figure: f64) -> f64 {
    (figure * 1e6).round() / 1e6
}

/// Share of `hits` in `total` with its 95 % interval (Wilson 1927). Nothing known without trials.
pub(crate) fn wilson(hits: usize, total: usize) -> Interval {
    if total == 0 {
        return Interval { mean: 0.0, low: 0.0, high: 1.0 };
    }
    let (n, z) = (total as f64, 1.959_964);
    let share = hits as f64 / n;
    let middle = (share + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (share * (1.0 - share) / n + z * z / (4.0 * n * n)).sqrt();
    Interval::new(share, (middle - half).max(0.0), (middle + half).min(1.0))
}

/// The `p` quantile of the standard normal distribution, 0 < p < 1, to about 5e-4 (Abramowitz and Stegun 26.2.23).
pub(crate) fn normal_quantile(p: f64) -> f64 {
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    let t = (-2.0 * p.ln()).sqrt();
    let above = 2.515_517 + t * (0.802_853 + t * 0.010_328);
    let below = 1.0 + t * (1.432_788 + t * (0.189_269 + t * 0.001_308));
    above / below - t
}

/// The `p` quantile of Student's distribution with `freedom` of at least 4, to about 2 % (Abramowitz and Stegun 26.7.5).
pub(crate) fn t_quantile(p: f64, freedom: usize) -> f64 {
    let z = normal_quantile(p);
    let z2 = z * z;
    let g1 = z * (z2 + 1.0) / 4.0;
    let g2 = z * (3.0 + z2 * (16.0 + z2 * 5.0)) / 96.0;
    let g3 = z * (-15.0 + z2 * (17.0 + z2 * (19.0 + z2 * 3.0))) / 384.0;
    let n = freedom as f64;
    z + g1 / n + g2 / (n * n) + g3 / (n * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_tables() {
        for (p, z) in [(0.975, 1.959_96), (0.995, 2.575_83), (0.5, 0.0), (0.001, -3.090_23)] {
            assert!((normal_quantile(p) - z).abs() < 1e-3, "{p}");
        }
        for (p, freedom, t) in [(0.975, 9, 2.262), (0.995, 9, 3.250), (0.995, 4, 4.604), (0.975, 100, 1.984)] {
            assert!((t_quantile(p, freedom) / t - 1.0).abs() < 0.02, "{p} {freedom}: {}", t_quantile(p, freedom));
        }
    }

    #[test]
    fn shares_have_the_intervals_of_wilson() {
        // 8 of 10: [0.490, 0.943], as in Brown, Cai and DasGupta 2001.
        let Interval { mean, low, high } = wilson(8, 10);
        assert!((mean - 0.8).abs() < 1e-9 && (low - 0.490).abs() < 1e-3 && (high - 0.943).abs() < 1e-3);
        let none = wilson(0, 0);
        assert_eq!((none.low, none.high), (0.0, 1.0));
    }
}
