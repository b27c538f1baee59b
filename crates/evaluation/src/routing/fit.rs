//! Small linear models, fitted exactly or by plain gradient descent; deterministic, on one thread.

/// Ridge regression (Hoerl and Kennard 1970) in its dual form, for few rows and many columns: one factorisation serves
/// any number of targets.
pub(crate) struct Ridge {
    /// Lower triangle of the factor of `K + λI`, row by row.
    factor: Vec<Vec<f64>>,
}

impl Ridge {
    /// `gram` holds the inner products of all rows; `rows` are the indexes of those to fit on.
    pub(crate) fn new(gram: &[Vec<f64>], rows: &[usize], lambda: f64) -> Self {
        let mut factor: Vec<Vec<f64>> = Vec::with_capacity(rows.len());
        for (i, row) in rows.iter().enumerate() {
            let mut line = vec![0.0; i + 1];
            for j in 0..=i {
                let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
                let before = if j == i { dot(&line[..j], &line[..j]) } else { dot(&line[..j], &factor[j][..j]) };
                let kernel = gram[*row][rows[j]] + if i == j { lambda } else { 0.0 };
                line[j] = if i == j { (kernel - before).max(1e-12).sqrt() } else { (kernel - before) / factor[j][j] };
            }
            factor.push(line);
        }
        Self { factor }
    }

    /// Coefficients of the rows, for targets without their mean.
    pub(crate) fn solve(&self, targets: &[f64]) -> Vec<f64> {
        let n = self.factor.len();
        let mut solved = targets.to_vec();
        for i in 0..n {
            let before: f64 = (0..i).map(|j| self.factor[i][j] * solved[j]).sum();
            solved[i] = (solved[i] - before) / self.factor[i][i];
        }
        for i in (0..n).rev() {
            let after: f64 = (i + 1..n).map(|j| self.factor[j][i] * solved[j]).sum();
            solved[i] = (solved[i] - after) / self.factor[i][i];
        }
        solved
    }
}

/// Mean of values.
pub(crate) fn mean(values: impl IntoIterator<Item = f64>) -> f64 {
    let (sum, count) = values.into_iter().fold((0.0, 0usize), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

/// A sigmoid over scores, fitted to outcomes by Newton's method, with the targets of Platt (1999), which keep it from
/// certainty: slope and offset.
pub(crate) fn platt(scores: &[f64], outcomes: &[bool]) -> (f64, f64) {
    let positives = outcomes.iter().filter(|outcome| **outcome).count() as f64;
    let negatives = outcomes.len() as f64 - positives;
    let (high, low) = ((positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0));
    let (mut slope, mut offset) = (0.0, ((positives + 1.0) / (negatives + 1.0)).ln());
    for _ in 0..100 {
        let (mut g0, mut g1, mut h00, mut h01, mut h11) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
        for (score, outcome) in scores.iter().zip(outcomes) {
            let p = 1.0 / (1.0 + (-(slope * score + offset)).exp());
            let error = p - if *outcome { high } else { low };
            let weight = p * (1.0 - p);
            g0 += error * score;
            g1 += error;
            h00 += weight * score * score;
            h01 += weight * score;
            h11 += weight;
        }
        let determinant = h00 * h11 - h01 * h01;
        if determinant.abs() < 1e-12 {
            break;
        }
        let (d0, d1) = ((h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant);
        slope -= d0;
        offset -= d1;
        if d0.abs() + d1.abs() < 1e-9 {
            break;
        }
    }
    (slope, offset)
}

/// Mean squared error of probabilities (Brier 1950), and their expected calibration error over ten equal bins.
pub(crate) fn calibration(probabilities: &[f64], outcomes: &[bool]) -> (f64, f64) {
    let truth = |outcome: bool| if outcome { 1.0 } else { 0.0 };
    let pairs = || probabilities.iter().copied().zip(outcomes.iter().copied().map(truth));
    let brier = mean(pairs().map(|(p, y)| (p - y).powi(2)));
    let mut bins = [(0.0, 0.0, 0.0); 10];
    for (p, y) in pairs() {
        let bin = &mut bins[((p * 10.0) as usize).min(9)];
        *bin = (bin.0 + p, bin.1 + y, bin.2 + 1.0);
    }
    let error: f64 = bins.iter().map(|(p, y, _)| (p - y).abs()).sum();
    (brier, error / probabilities.len().max(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ridge_finds_a_line_and_shrinks_it() {
        let xs: Vec<f64> = (0..20).map(|n| f64::from(n) / 10.0 - 0.95).collect();
        let gram: Vec<Vec<f64>> = xs.iter().map(|a| xs.iter().map(|b| a * b).collect()).collect();
        let targets: Vec<f64> = xs.iter().map(|x| 3.0 * x).collect();
        let rows: Vec<usize> = (0..20).collect();
        let slope = |lambda: f64| -> f64 {
            Ridge::new(&gram, &rows, lambda).solve(&targets).iter().zip(&xs).map(|(a, x)| a * x).sum()
        };
        let squares: f64 = xs.iter().map(|x| x * x).sum();
        assert!((slope(1e-6) - 3.0).abs() < 1e-4);
        assert!((slope(2.0) - 3.0 * squares / (squares + 2.0)).abs() < 1e-9, "the closed form of one column");
    }

    #[test]
    fn a_sigmoid_is_found_again() {
        let scores: Vec<f64> = (0..4000).map(|n| f64::from(n % 40) / 10.0 - 2.0).collect();
        // As many ones at a score as its probability says.
        let outcomes: Vec<bool> = (0..4000)
            .map(|n| f64::from(n / 40) / 100.0 < 1.0 / (1.0 + (-(1.5 * scores[n as usize] - 0.5)).exp()))
            .collect();
        let (slope, offset) = platt(&scores, &outcomes);
        assert!((slope - 1.5).abs() < 0.1 && (offset + 0.5).abs() < 0.1, "{slope} {offset}");
        let probabilities: Vec<f64> = scores.iter().map(|s| 1.0 / (1.0 + (-(slope * s + offset)).exp())).collect();
        let (brier, error) = calibration(&probabilities, &outcomes);
        assert!(error < 0.02 && brier < 0.2, "{brier} {error}");
        assert!(calibration(&vec![0.99; 4000], &outcomes).1 > 0.3);
    }
}
