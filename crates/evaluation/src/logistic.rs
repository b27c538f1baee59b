//! Logistic regression with a ridge penalty for a handful of features, and how good its probabilities are.
//!
//! Fitted by Newton's method (iteratively reweighted least squares; Hastie, Tibshirani and Friedman 2009, section 4.4.1)
//! on standardised features, so that one penalty suits all; the weights given back are of the features as they are.

/// A fitted model.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Logistic {
    pub(crate) bias: f64,
    pub(crate) weights: Vec<f64>,
}

/// Newton steps at most; ten are plenty for a convex problem of this size.
const STEPS: usize = 50;

impl Logistic {
    /// Fits `labels` by `rows`, all of one length, with penalty `ridge` on the squares of the standardised weights. A
    /// feature that never varies gets no weight.
    pub(crate) fn fit(rows: &[Vec<f64>], labels: &[bool], ridge: f64) -> Self {
        let width = rows.first().map_or(0, Vec::len);
        let n = rows.len().max(1) as f64;
        let column = |j: usize| rows.iter().map(move |row| row[j]);
        let mean: Vec<f64> = (0..width).map(|j| column(j).sum::<f64>() / n).collect();
        let deviation: Vec<f64> =
            (0..width).map(|j| (column(j).map(|x| (x - mean[j]).powi(2)).sum::<f64>() / n).sqrt()).collect();
        let scaled = |row: &Vec<f64>| -> Vec<f64> {
            let feature = |j: usize| if deviation[j] > 1e-9 { (row[j] - mean[j]) / deviation[j] } else { 0.0 };
            std::iter::once(1.0).chain((0..width).map(feature)).collect()
        };
        let inputs: Vec<Vec<f64>> = rows.iter().map(scaled).collect();
        let mut beta = vec![0.0; width + 1];
        for _ in 0..STEPS {
            let mut gradient = vec![0.0; width + 1];
            let mut hessian = vec![vec![0.0; width + 1]; width + 1];
            for (input, label) in inputs.iter().zip(labels) {
                let p = sigmoid(input.iter().zip(&beta).map(|(x, b)| x * b).sum());
                for i in 0..=width {
                    gradient[i] += (f64::from(u8::from(*label)) - p) * input[i];
                    for j in 0..=width {
                        hessian[i][j] += p * (1.0 - p) * input[i] * input[j];
                    }
                }
            }
            for i in 0..=width {
                // The constant is not penalised; a whiff on it keeps one-sided labels finite.
                let penalty = if i == 0 { 1e-6 } else { ridge };
                gradient[i] -= penalty * beta[i];
                hessian[i][i] += penalty;
            }
            let step = solve(hessian, gradient);
            beta.iter_mut().zip(&step).for_each(|(b, s)| *b += s);
            if step.iter().all(|s| s.abs() < 1e-9) {
                break;
            }
        }
        let weights: Vec<f64> =
            (0..width).map(|j| if deviation[j] > 1e-9 { beta[j + 1] / deviation[j] } else { 0.0 }).collect();
        let bias = beta[0] - weights.iter().zip(&mean).map(|(w, m)| w * m).sum::<f64>();
        Self { bias, weights }
    }

    /// The probability of a row.
    pub(crate) fn probability(&self, row: &[f64]) -> f64 {
        sigmoid(self.bias + self.weights.iter().zip(row).map(|(w, x)| w * x).sum::<f64>())
    }
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Solves `a · x = b` by Gaussian elimination with pivoting; `a` is positive definite here.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for at in 0..n {
        let pivot = (at..n).max_by(|i, j| a[*i][at].abs().total_cmp(&a[*j][at].abs())).unwrap_or(at);
        a.swap(at, pivot);
        b.swap(at, pivot);
        if a[at][at].abs() < 1e-12 {
            continue;
        }
        for row in at + 1..n {
            let factor = a[row][at] / a[at][at];
            let (above, below) = a.split_at_mut(row);
            below[0].iter_mut().zip(&above[at]).skip(at).for_each(|(x, pivot)| *x -= factor * pivot);
            b[row] -= factor * b[at];
        }
    }
    let mut x = vec![0.0; n];
    for at in (0..n).rev() {
        let known: f64 = (at + 1..n).map(|j| a[at][j] * x[j]).sum();
        x[at] = if a[at][at].abs() < 1e-12 { 0.0 } else { (b[at] - known) / a[at][at] };
    }
    x
}

/// Area under the ROC curve: how often a positive scores above a negative, ties counted half. One half where either kind
/// is missing.
pub(crate) fn auc(scores: &[f64], labels: &[bool]) -> f64 {
    let of = |kind: bool| scores.iter().zip(labels).filter(move |(_, label)| **label == kind).map(|(score, _)| *score);
    let (mut wins, mut pairs) = (0.0, 0.0);
    for positive in of(true) {
        for negative in of(false) {
            pairs += 1.0;
            wins += if positive > negative {
                1.0
            } else if positive == negative {
                0.5
            } else {
                0.0
            };
        }
    }
    if pairs > 0.0 { wins / pairs } else { 0.5 }
}

/// Mean squared difference between probability and outcome (Brier 1950).
pub(crate) fn brier(probabilities: &[f64], labels: &[bool]) -> f64 {
    let squares = probabilities.iter().zip(labels).map(|(p, label)| (p - f64::from(u8::from(*label))).powi(2));
    squares.sum::<f64>() / probabilities.len().max(1) as f64
}

/// Bins of equal width of probabilities: their mean, the share that came true, and how many there are.
pub(crate) fn bins(probabilities: &[f64], labels: &[bool], bins: usize) -> Vec<(f64, f64, usize)> {
    let of = |bin: usize| {
        let members = probabilities.iter().zip(labels).filter(move |(p, _)| {
            let at = ((**p * bins as f64) as usize).min(bins - 1);
            at == bin
        });
        let (mut sum, mut positive, mut n) = (0.0, 0.0, 0);
        for (p, label) in members {
            sum += p;
            positive += f64::from(u8::from(*label));
            n += 1;
        }
        (sum / f64::from(n).max(1.0), positive / f64::from(n).max(1.0), n as usize)
    };
    (0..bins).map(of).collect()
}

/// Expected calibration error (Guo et al. 2017): mean distance of probability and outcome over ten bins, by their size.
pub(crate) fn calibration_error(probabilities: &[f64], labels: &[bool]) -> f64 {
    let total = probabilities.len().max(1) as f64;
    bins(probabilities, labels, 10).iter().map(|(p, came, n)| (p - came).abs() * *n as f64 / total).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Uniform numbers in [0, 1) that are the same every time.
    fn noise(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    #[test]
    fn weights_that_made_the_labels_are_found_again() {
        let mut next = noise(7);
        let rows: Vec<Vec<f64>> = (0..4000).map(|_| vec![next() * 4.0 - 2.0, next() * 100.0, 3.0]).collect();
        let truth = Logistic { bias: -1.5, weights: vec![2.0, 0.03, 0.0] };
        let labels: Vec<bool> = rows.iter().map(|row| next() < truth.probability(row)).collect();
        let found = Logistic::fit(&rows, &labels, 1e-3);
        assert!((found.weights[0] - 2.0).abs() < 0.2, "{found:?}");
        assert!((found.weights[1] - 0.03).abs() < 0.006, "{found:?}");
        assert_eq!(found.weights[2], 0.0, "a constant feature says nothing");
        let probabilities: Vec<f64> = rows.iter().map(|row| found.probability(row)).collect();
        assert!(calibration_error(&probabilities, &labels) < 0.03);
        assert!(auc(&probabilities, &labels) > 0.85);
    }

    #[test]
    fn separable_and_one_sided_labels_stay_finite() {
        let rows: Vec<Vec<f64>> = (0..10).map(|i| vec![f64::from(i)]).collect();
        for labels in [vec![true; 10], vec![false; 10], (0..10).map(|i| i > 4).collect()] {
            let found = Logistic::fit(&rows, &labels, 1.0);
            assert!(found.bias.is_finite() && found.weights[0].is_finite(), "{found:?}");
        }
    }

    #[test]
    fn figures_by_hand() {
        let (scores, labels) = ([0.9, 0.8, 0.4, 0.4, 0.1], [true, false, true, false, false]);
        assert!((auc(&scores, &labels) - 4.5 / 6.0).abs() < 1e-12);
        assert_eq!(auc(&scores, &[true; 5]), 0.5);
        assert!((brier(&[1.0, 0.5], &[true, false]) - 0.125).abs() < 1e-12);
        assert!((calibration_error(&[0.75, 0.75], &[true, false]) - 0.25).abs() < 1e-12);
        assert_eq!(bins(&[1.0], &[true], 10)[9], (1.0, 1.0, 1));
    }
}
