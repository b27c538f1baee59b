//! The latency curve, from measurements.
//!
//! The coefficients of [`LatencyCurve`] are fitted by least squares on relative errors, with no coefficient below zero:
//! `a, b, c` on whole prefills, `d, e` on whole decodes. The measurements are those of a calibration at load, which keep
//! the fit determined when all requests look alike, and the most recent requests, the newest counting most, so that the
//! curve follows the machine (other load, other clock rate).
//!
//! A machine that becomes slower becomes so for all lengths. So the calibration is first brought to the speed of the
//! recent requests, by the median of their times over what the calibration alone predicts: otherwise its points would
//! contradict them, and the difference would end up in whichever coefficient the requests say least about. The fitted
//! curve is brought to their speed once more, since least squares on relative errors leans to the quick side of noise.
//!
//! A prefill also reads what is resident, which decode steps measure: `e` is fitted first, and of a prefill's time
//! `(e − 2c)·P` is that. So while `e` exceeds `2c`, `c` counts the pairs beyond those two, and `e·P` is taken as given.
//!
//! With at most three unknowns, the non-negative solution is found by solving every subset of them and taking the best
//! one without a negative coefficient; the optimum of the constrained problem is always among these (the coefficients
//! it leaves at zero form one of the subsets).

use std::collections::VecDeque;

use edgewise_model_api::LatencyCurve;

/// Requests remembered.
const RECENT: usize = 64;
/// Weight of a request relative to the one after it.
const AGEING: f64 = 0.95;
/// Weight of a calibration point relative to the newest request.
const CALIBRATION_WEIGHT: f64 = 0.2;

/// Measured time `ms` at the features of up to three coefficients.
#[derive(Debug, Clone, Copy)]
struct Point<const N: usize> {
    features: [f64; N],
    /// What of the time is known already.
    known: f64,
    ms: f64,
}

impl<const N: usize> Point<N> {
    fn predicted(&self, curve: &[f64; N]) -> f64 {
        self.known + self.features.iter().zip(curve).map(|(f, x)| f * x).sum::<f64>()
    }
}

/// Points of one of the two fits.
#[derive(Debug)]
struct Points<const N: usize> {
    calibration: Vec<Point<N>>,
    recent: VecDeque<Point<N>>,
}

impl<const N: usize> Points<N> {
    fn new() -> Self {
        Self { calibration: Vec::new(), recent: VecDeque::new() }
    }

    fn add(&mut self, point: Point<N>) {
        // Relative errors need a time; a clock that did not move gives none.
        if point.ms > 0.0 && point.ms.is_finite() {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(point);
        }
    }

    /// Recent requests with their weights.
    fn weighted(&self) -> impl Iterator<Item = (&Point<N>, f64)> {
        let ages = (0..self.recent.len()).rev();
        self.recent.iter().zip(ages).map(|(p, age)| (p, AGEING.powi(age as i32)))
    }

    /// How much longer recent requests took than `curve` says: the weighted median of the ratios.
    fn slowdown(&self, curve: &[f64; N], seen: &impl Fn(&Point<N>) -> Point<N>) -> f64 {
        let ratio = |p: &Point<N>| p.ms / seen(p).predicted(curve);
        let ratios = self.weighted().map(|(p, weight)| (ratio(p), weight));
        weighted_median(ratios.filter(|(ratio, _)| ratio.is_finite() && *ratio > 0.0).collect()).unwrap_or(1.0)
    }

    /// The curve of the calibration alone.
    fn calibrated(&self, seen: &impl Fn(&Point<N>) -> Point<N>) -> [f64; N] {
        non_negative_least_squares(&self.calibration.iter().map(|p| (seen(p), 1.0)).collect::<Vec<_>>())
    }

    /// Fits the points, of whose times `then` tells what was known at the calibration, and `now` what is since.
    fn fit(&self, then: impl Fn(&Point<N>) -> Point<N>, now: impl Fn(&Point<N>) -> Point<N>) -> [f64; N] {
        let slowdown = self.slowdown(&self.calibrated(&then), &then);
        let calibration = self.calibration.iter().map(|p| {
            let Point { features, known, ms } = then(p);
            (Point { features, known: known * slowdown, ms: ms * slowdown }, CALIBRATION_WEIGHT)
        });
        let points: Vec<_> = calibration.chain(self.weighted().map(|(p, weight)| (now(p), weight))).collect();
        let curve = non_negative_least_squares(&points);
        let slowdown = self.slowdown(&curve, &now);
        curve.map(|x| x * slowdown)
    }
}

/// The curve and what it rests on.
#[derive(Debug)]
pub(crate) struct LatencyFit {
    prefill: Points<3>,
    decode: Points<2>,
    curve: LatencyCurve,
}

/// A timed prefill.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefill {
    /// Prompt length.
    pub(crate) prompt: usize,
    /// Tokens that were resident.
    pub(crate) resident: usize,
    /// Time taken.
    pub(crate) ms: f64,
}

/// A timed decode.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Decode {
    /// Steps.
    pub(crate) steps: usize,
    /// Tokens before each step, summed over the steps.
    pub(crate) positions: usize,
    /// Time taken by all of them.
    pub(crate) ms: f64,
}

impl Prefill {
    fn point(self) -> Point<3> {
        let (t, p) = (self.prompt as f64, self.resident as f64);
        Point { features: [1.0, t - p, t * t - p * p], known: 0.0, ms: self.ms }
    }
}

/// A prefill of which reading the resident tokens, at `e` each with two pairs of positions, is known.
fn reading(point: &Point<3>, e: f64) -> Point<3> {
    let [one, tokens, pairs] = point.features;
    // (t − p)(t + p) = pairs.
    let resident = if tokens > 0.0 { ((pairs / tokens - tokens) / 2.0).max(0.0) } else { 0.0 };
    Point { features: [one, tokens, pairs - 2.0 * resident], known: e * resident, ms: point.ms }
}

impl Decode {
    fn point(self) -> Point<2> {
        Point { features: [self.steps as f64, self.positions as f64], known: 0.0, ms: self.ms }
    }
}

impl LatencyFit {
    /// A curve through calibration measurements, which are never forgotten.
    pub(crate) fn calibrated(prefills: &[Prefill], decodes: &[Decode]) -> Self {
        let mut fit = Self {
            prefill: Points::new(),
            decode: Points::new(),
            curve: LatencyCurve { a: 0.0, b: 0.0, c: 0.0, d: 0.0, e: 0.0 },
        };
        fit.prefill.calibration = prefills.iter().map(|p| p.point()).filter(|p| p.ms > 0.0).collect();
        fit.decode.calibration = decodes.iter().map(|d| d.point()).filter(|p| p.ms > 0.0).collect();
        fit.update();
        fit
    }

    /// The present curve.
    pub(crate) fn curve(&self) -> LatencyCurve {
        self.curve
    }

    /// Takes a request's times into account: those of its own work, not of its waiting for others.
    pub(crate) fn observe(&mut self, prefill: Option<Prefill>, decode: Option<Decode>) {
        if let Some(prefill) = prefill {
            self.prefill.add(prefill.point());
        }
        if let Some(decode) = decode {
            self.decode.add(decode.point());
        }
        self.update();
    }

    fn update(&mut self) {
        let plain = |point: &Point<3>| *point;
        let [d, e] = self.decode.fit(|point| *point, |point| *point);
        let [_, then] = self.decode.calibrated(&|point| *point);
        let mut prefill = self.prefill.fit(|point| reading(point, then), |point| reading(point, e));
        if 2.0 * prefill[2] > e {
            prefill = self.prefill.fit(plain, plain);
        }
        let [a, b, c] = prefill;
        self.curve = LatencyCurve { a, b, c, d, e };
    }
}

/// The value with half of the weight at or below it.
fn weighted_median(mut values: Vec<(f64, f64)>) -> Option<f64> {
    values.sort_by(|a, b| a.0.total_cmp(&b.0));
    let half = values.iter().map(|(_, weight)| weight).sum::<f64>() / 2.0;
    let mut below = 0.0;
    values.into_iter().find_map(|(value, weight)| {
        below += weight;
        (below >= half).then_some(value)
    })
}

fn non_negative_least_squares<const N: usize>(points: &[(Point<N>, f64)]) -> [f64; N] {
    let mut best = ([0.0; N], f64::INFINITY);
    for subset in 1_usize..1 << N {
        let Some(solution) = least_squares(points, subset) else { continue };
        if solution.iter().any(|&x| x < 0.0) {
            continue;
        }
        let loss = points.iter().map(|(p, weight)| weight * ((p.predicted(&solution) - p.ms) / p.ms).powi(2)).sum();
        if loss < best.1 {
            best = (solution, loss);
        }
    }
    best.0
}

/// Weighted least squares on relative errors over the coefficients in `subset`; the others are 0. `None` if they are
/// not determined.
fn least_squares<const N: usize>(points: &[(Point<N>, f64)], subset: usize) -> Option<[f64; N]> {
    let columns: Vec<usize> = (0..N).filter(|i| subset >> i & 1 == 1).collect();
    // Columns are scaled to unit length, or the squares of thousands of tokens would drown the constant.
    let column = |i: usize| points.iter().map(move |(p, w)| w.sqrt() * p.features[i] / p.ms);
    let scales: Vec<f64> = columns.iter().map(|&i| column(i).map(|x| x * x).sum::<f64>().sqrt()).collect();
    if scales.iter().any(|&s| s <= 0.0) {
        return None;
    }
    let n = columns.len();
    let mut system = vec![vec![0.0; n + 1]; n];
    for (row, (&i, si)) in columns.iter().zip(&scales).enumerate() {
        for (col, (&j, sj)) in columns.iter().zip(&scales).enumerate() {
            system[row][col] = column(i).zip(column(j)).map(|(x, y)| x * y).sum::<f64>() / (si * sj);
        }
        let target = |p: &Point<N>| (p.ms - p.known) / p.ms;
        system[row][n] = column(i).zip(points).map(|(x, (p, w))| x * w.sqrt() * target(p)).sum::<f64>() / si;
    }
    let scaled = solve(system)?;
    let mut solution = [0.0; N];
    for ((&i, scale), x) in columns.iter().zip(&scales).zip(scaled) {
        solution[i] = x / scale;
    }
    Some(solution)
}

/// Gaussian elimination with partial pivoting on `[A | b]`; `None` if `A` is singular to rounding.
fn solve(mut system: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let n = system.len();
    for col in 0..n {
        let pivot = (col..n).max_by(|&a, &b| system[a][col].abs().total_cmp(&system[b][col].abs()))?;
        system.swap(col, pivot);
        if system[col][col].abs() < 1e-9 {
            return None;
        }
        let pivot_row = system[col].clone();
        for (row, values) in system.iter_mut().enumerate().filter(|(row, _)| *row != col) {
            let factor = values[col] / pivot_row[col];
            debug_assert_ne!(row, col);
            values.iter_mut().zip(&pivot_row).for_each(|(v, p)| *v -= factor * p);
        }
    }
    Some((0..n).map(|i| system[i][n] / system[i][i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefill_on(curve: &LatencyCurve, prompt: usize, resident: usize, factor: f64) -> Prefill {
        Prefill { prompt, resident, ms: curve.prefill_ms(prompt, resident) * factor }
    }

    fn decode_on(curve: &LatencyCurve, context: usize, steps: usize) -> Decode {
        Decode { steps, positions: steps * context + steps * (steps - 1) / 2, ms: curve.decode_ms(context, steps) }
    }

    fn close(x: f64, y: f64) -> bool {
        (x - y).abs() <= 1e-4 * y.abs().max(1e-6)
    }

    proptest! {
        #[test]
        fn exact_measurements_give_the_curve_back(
            a in 0.5_f64..50.0, b in 0.1_f64..10.0, c in 1e-4_f64..1e-2, d in 1.0_f64..50.0, e in 1e-3_f64..1e-1,
        ) {
            let truth = LatencyCurve { a, b, c, d, e };
            let prefills = [(64, 0), (256, 0), (320, 256)].map(|(t, p)| prefill_on(&truth, t, p, 1.0));
            let decodes = [(64, 3), (320, 3)].map(|(t, n)| decode_on(&truth, t, n));
            let fitted = LatencyFit::calibrated(&prefills, &decodes).curve();
            for (t, p) in [(1, 0), (100, 0), (4000, 0), (4000, 3900), (4000, 3990)] {
                prop_assert!(close(fitted.prefill_ms(t, p), truth.prefill_ms(t, p)), "{fitted:?} {truth:?}");
            }
            for (t, n) in [(0, 1), (5000, 100)] {
                prop_assert!(close(fitted.decode_ms(t, n), truth.decode_ms(t, n)), "{fitted:?} {truth:?}");
            }
        }

        #[test]
        fn whatever_is_measured_the_coefficients_are_finite_and_not_negative(
            measured in prop::collection::vec((1_usize..5000, 0.0_f64..1.0, 0.0_f64..1e5), 0..80),
        ) {
            let mut fit = LatencyFit::calibrated(&[], &[]);
            for (prompt, share, ms) in measured {
                let resident = (prompt as f64 * share) as usize;
                let decode = Decode { steps: 1 + resident, positions: (1 + resident) * prompt, ms };
                fit.observe(Some(Prefill { prompt, resident, ms }), Some(decode));
                let LatencyCurve { a, b, c, d, e } = fit.curve();
                prop_assert!([a, b, c, d, e].iter().all(|x| x.is_finite() && *x >= 0.0));
            }
        }
    }

    #[test]
    fn short_requests_on_a_slower_machine_correct_long_ones_too() {
        let truth = LatencyCurve { a: 5.0, b: 1.0, c: 2e-4, d: 10.0, e: 0.01 };
        let prefills = [(40, 0), (4136, 4096), (170, 0)].map(|(t, p)| prefill_on(&truth, t, p, 1.0));
        let mut fit = LatencyFit::calibrated(&prefills, &[decode_on(&truth, 64, 3), decode_on(&truth, 4096, 3)]);
        // Prompts of 600 tokens say nothing of the quadratic term; the machine is busy, by 1.5 to 2.1.
        for i in 0..30 {
            fit.observe(Some(prefill_on(&truth, 550 + 7 * (i % 13), 40, 1.5 + 0.1 * (i % 7) as f64)), None);
        }
        let ratio = fit.curve().prefill_ms(5161, 0) / truth.prefill_ms(5161, 0);
        assert!((1.65..1.95).contains(&ratio), "{ratio}");
    }

    /// A question behind a long prefix that is in the cache: most of its time goes into reading that.
    #[test]
    fn few_tokens_behind_many_take_as_long_as_reading_them() {
        let truth = LatencyCurve { a: 5.0, b: 0.8, c: 1e-4, d: 14.0, e: 3e-3 };
        let prefills = [(40, 0), (4136, 4096), (170, 0)].map(|(t, p)| prefill_on(&truth, t, p, 1.0));
        let mut fit = LatencyFit::calibrated(&prefills, &[decode_on(&truth, 40, 3), decode_on(&truth, 4136, 3)]);
        for slower in [1.0, 1.6] {
            // As many as are remembered.
            for i in 0..RECENT {
                let decode = decode_on(&truth, 2700 + i, 20);
                let decode = Decode { ms: decode.ms * slower, ..decode };
                fit.observe(Some(prefill_on(&truth, 2700 + 11 * i, 60 * (i % 3), slower)), Some(decode));
            }
            let ratio = fit.curve().prefill_ms(6300, 6289) / (slower * truth.prefill_ms(6300, 6289));
            assert!((ratio - 1.0).abs() < 0.05, "{ratio}");
        }
    }

    #[test]
    fn the_curve_follows_a_machine_that_becomes_slower() {
        let truth = LatencyCurve { a: 5.0, b: 2.0, c: 1e-3, d: 10.0, e: 0.01 };
        let prefills = [(64, 0), (256, 0), (320, 256)].map(|(t, p)| prefill_on(&truth, t, p, 1.0));
        let mut fit = LatencyFit::calibrated(&prefills, &[decode_on(&truth, 64, 3), decode_on(&truth, 320, 3)]);
        let error = |fit: &LatencyFit| fit.curve().prefill_ms(900, 300) / (2.0 * truth.prefill_ms(900, 300)) - 1.0;
        assert!((error(&fit) + 0.5).abs() < 1e-6);
        for i in 0..40 {
            fit.observe(Some(prefill_on(&truth, 400 + 37 * (i % 20), 100 * (i % 4), 2.0)), None);
        }
        assert!(error(&fit).abs() < 0.05, "off by {}", error(&fit));
    }
}
