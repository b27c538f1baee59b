//! Position curves: how well each depth is read against the others.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Interval, Observation,
    stats::{rounded, t_quantile},
};

/// Fewest questions behind a curve that counts.
const LEAST_ITEMS: usize = 5;

/// Share of the curves of a model that reads all positions alike that come out distinct, at most.
const FALSE_CURVES: f64 = 0.05;

/// One depth of a curve.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CurvePoint {
    /// Mean depth, as a share of the prompt.
    pub depth: f64,
    /// How much better than the mean of all depths the same questions are read here, in probability of the answer. The
    /// intervals of all depths of a curve hold together with 95 %.
    pub gain: Interval,
}

/// The curve at one length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ReadingCurve {
    /// Length aimed at, in tokens; absent for the curve over all lengths.
    pub length: Option<usize>,
    /// Mean length of the prompts, in tokens.
    pub prompt_tokens: f64,
    /// Questions that were asked at every depth.
    pub items: usize,
    /// Whether some position is beyond chance better than another.
    pub distinct: bool,
    /// By depth.
    pub points: Vec<CurvePoint>,
}

/// A curve to place by: piecewise linear between the depths, level beyond them.
#[derive(Debug, Clone, PartialEq)]
pub struct PositionCurve {
    points: Vec<(f64, f64)>,
}

impl PositionCurve {
    /// Mean value over the depths `from` to `to`, both shares of the prompt; the value itself where they are equal.
    pub fn mean(&self, from: f64, to: f64) -> f64 {
        let width = to - from;
        if width <= 1e-9 {
            return self.value(from);
        }
        // Exact for a line between two corners: trapezia over the corners inside.
        let inside = self.points.iter().map(|(depth, _)| *depth).filter(|depth| (from..to).contains(depth));
        let corners: Vec<f64> = std::iter::once(from).chain(inside).chain([to]).collect();
        let area = corners.windows(2).map(|pair| match pair {
            [a, b] => (b - a) * (self.value(*a) + self.value(*b)) / 2.0,
            _ => 0.0,
        });
        area.sum::<f64>() / width
    }

    fn value(&self, depth: f64) -> f64 {
        let after = self.points.partition_point(|(at, _)| *at <= depth);
        match (after.checked_sub(1).and_then(|before| self.points.get(before)), self.points.get(after)) {
            (Some((a, low)), Some((b, high))) => low + (high - low) * (depth - a) / (b - a),
            (Some((_, value)), None) | (None, Some((_, value))) => *value,
            (None, None) => 0.0,
        }
    }
}

/// The curves of sorted observations: one a length, then one over all lengths if there are several.
pub(super) fn curves(observations: &[Observation]) -> Vec<ReadingCurve> {
    let mut lengths: BTreeMap<usize, Vec<&Observation>> = BTreeMap::new();
    for observation in observations {
        lengths.entry(observation.length).or_default().push(observation);
    }
    let mut curves: Vec<ReadingCurve> =
        lengths.iter().filter_map(|(length, group)| curve(Some(*length), group)).collect();
    if curves.len() > 1 {
        curves.extend(curve(None, &observations.iter().collect::<Vec<_>>()));
    }
    curves
}

/// The curve of the questions in `group` that were asked at every depth of it.
fn curve(length: Option<usize>, group: &[&Observation]) -> Option<ReadingCurve> {
    let mut slots: Vec<usize> = group.iter().map(|o| o.slot).collect();
    slots.sort_unstable();
    slots.dedup();
    let told = group.iter().all(|o| o.gold_logprob.is_some());
    let value = |o: &Observation| match o.gold_logprob {
        Some(logprob) if told => logprob.exp(),
        _ => f64::from(u8::from(o.recalled)),
    };
    let mut questions: BTreeMap<_, Vec<&Observation>> = BTreeMap::new();
    for observation in group {
        questions.entry((observation.task, observation.length, observation.item)).or_default().push(observation);
    }
    let complete: Vec<Vec<&Observation>> = questions
        .into_values()
        .map(|mut question| {
            question.sort_by_key(|o| o.slot);
            question
        })
        .filter(|question| question.iter().map(|o| o.slot).eq(slots.iter().copied()))
        .collect();
    let items = complete.len();
    if items == 0 || slots.len() < 2 {
        return None;
    }
    let gains: Vec<Vec<f64>> = complete
        .iter()
        .map(|question| {
            let mean = question.iter().map(|o| value(o)).sum::<f64>() / slots.len() as f64;
            question.iter().map(|o| value(o) - mean).collect()
        })
        .collect();
    let point = |at: usize| {
        let depth = complete.iter().filter_map(|question| Some(question.get(at)?.depth)).sum::<f64>() / items as f64;
        let column: Vec<f64> = gains.iter().filter_map(|question| question.get(at).copied()).collect();
        CurvePoint { depth: rounded(depth), gain: interval(&column, slots.len()) }
    };
    let mut points: Vec<CurvePoint> = (0..slots.len()).map(point).collect();
    points.sort_by(|a, b| a.depth.total_cmp(&b.depth));
    points.dedup_by(|a, b| a.depth - b.depth < 1e-5);
    let best = points.iter().map(|p| p.gain.low).fold(f64::NEG_INFINITY, f64::max);
    let worst = points.iter().map(|p| p.gain.high).fold(f64::INFINITY, f64::min);
    let tokens: usize = complete.iter().flatten().map(|o| o.prompt_tokens).sum();
    Some(ReadingCurve {
        length,
        prompt_tokens: (tokens as f64 / (items * slots.len()) as f64).round(),
        items,
        distinct: best > worst,
        points,
    })
}

/// Mean of the gains of one depth of `depths`, with the interval that holds for all of them at once.
fn interval(gains: &[f64], depths: usize) -> Interval {
    let n = gains.len() as f64;
    let mean = gains.iter().sum::<f64>() / n;
    if gains.len() < LEAST_ITEMS {
        return Interval::new(mean, -1.0, 1.0);
    }
    let variance = gains.iter().map(|gain| (gain - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let corrected = variance * depths as f64 / (depths as f64 - 1.0);
    // Few questions that all agree do not make a certainty: never less than half a question.
    let error = (corrected / n).sqrt().max(0.5 / n);
    let half = error * t_quantile(1.0 - FALSE_CURVES / (2.0 * depths as f64), gains.len() - 1);
    Interval::new(mean, mean - half, mean + half)
}

/// See [`super::ReadingProfile::curve`].
pub(super) fn at(curves: &[ReadingCurve], prompt_tokens: usize) -> Option<PositionCurve> {
    let over_all = curves.iter().find(|curve| curve.length.is_none() && curve.distinct);
    let mut lengths: Vec<&ReadingCurve> = curves.iter().filter(|curve| curve.length.is_some()).collect();
    lengths.sort_by(|a, b| a.prompt_tokens.total_cmp(&b.prompt_tokens));
    let tokens = prompt_tokens.max(1) as f64;
    let after = lengths.partition_point(|curve| curve.prompt_tokens <= tokens);
    let usable = |curve: &&&'_ ReadingCurve| -> Option<PositionCurve> {
        let chosen = if curve.distinct { Some(**curve) } else { over_all };
        chosen.map(|curve| PositionCurve { points: curve.points.iter().map(|p| (p.depth, p.gain.mean)).collect() })
    };
    let before = after.checked_sub(1).and_then(|before| lengths.get(before));
    match (before, lengths.get(after)) {
        (Some(a), Some(b)) => {
            let share = (tokens / a.prompt_tokens).ln() / (b.prompt_tokens / a.prompt_tokens).ln();
            match (usable(&a), usable(&b)) {
                (Some(low), Some(high)) => Some(blend(&low, &high, share)),
                // Where nothing is known of positions all are alike: the other length's differences fade out.
                (Some(low), None) => Some(scaled(&low, 1.0 - share)),
                (None, Some(high)) => Some(scaled(&high, share)),
                (None, None) => None,
            }
        }
        (Some(only), None) | (None, Some(only)) => usable(&only),
        (None, None) => None,
    }
}

fn blend(a: &PositionCurve, b: &PositionCurve, share: f64) -> PositionCurve {
    let mut depths: Vec<f64> = a.points.iter().chain(&b.points).map(|(depth, _)| *depth).collect();
    depths.sort_by(f64::total_cmp);
    depths.dedup_by(|a, b| *a - *b < 1e-6);
    let value = |depth: f64| (1.0 - share) * a.value(depth) + share * b.value(depth);
    PositionCurve { points: depths.into_iter().map(|depth| (depth, value(depth))).collect() }
}

fn scaled(curve: &PositionCurve, by: f64) -> PositionCurve {
    PositionCurve { points: curve.points.iter().map(|(depth, value)| (*depth, by * value)).collect() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::profile::{
        ReadingProfile,
        tests::{info, measurement, observed},
    };
    use rand_like::Noise;

    /// A small generator, so that the noise of a test is the same everywhere.
    mod rand_like {
        pub(super) struct Noise(pub(super) u64);

        impl Noise {
            /// Uniform in [0, 1) (splitmix64, Steele et al. 2014).
            pub(super) fn next(&mut self) -> f64 {
                self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut z = self.0;
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
            }
        }
    }

    #[test]
    fn a_middle_that_is_read_worse_gives_a_curve_with_edges() {
        let u = |_, depth: f64| 0.4 + 1.2 * (depth - 0.5).powi(2);
        let profile = ReadingProfile::of(&info(), measurement(), &observed(&[1024, 4096], 5, 12, u));
        let curve = profile.curve(2000).unwrap();
        assert!(curve.mean(0.0, 0.1) > curve.mean(0.45, 0.55) + 0.1);
        assert!(curve.mean(0.9, 1.0) > curve.mean(0.45, 0.55) + 0.1);
        assert_eq!(profile.curves.len(), 3);
        assert!(profile.curves.iter().all(|curve| curve.distinct && curve.points.len() == 5));
    }

    #[test]
    fn too_few_questions_or_level_reading_give_no_curve() {
        let u = |_, depth: f64| 0.4 + 1.2 * (depth - 0.5).powi(2);
        let few = ReadingProfile::of(&info(), measurement(), &observed(&[1024], 5, 3, u));
        assert_eq!(few.curve(1024), None);
        let level = ReadingProfile::of(&info(), measurement(), &observed(&[1024, 2048], 5, 30, |_, _| 0.6));
        assert_eq!(level.curve(1500), None);
        let none = ReadingProfile::of(&info(), measurement(), &[]);
        assert_eq!((none.curve(10), none.effective_window), (None, None));
    }

    #[test]
    fn noise_makes_a_curve_no_oftener_than_stated() {
        let mut noise = Noise(7);
        let (trials, mut distinct) = (400, 0);
        for _ in 0..trials {
            let mut observations = observed(&[1024], 5, 12, |_, _| 0.5);
            for observation in &mut observations {
                observation.gold_logprob = Some(noise.next().max(1e-6).ln());
            }
            let profile = ReadingProfile::of(&info(), measurement(), &observations);
            distinct += usize::from(profile.curve(1024).is_some());
        }
        // 5 % of 400 are 20; three standard deviations above are 33.
        assert!(distinct <= 33, "{distinct} of {trials}");
    }

    #[test]
    fn a_length_without_a_curve_of_its_own_fades_or_takes_the_one_over_all() {
        // Level at 1024, with edges at 4096; too weak over both to tell.
        let read = |length, depth: f64| if length == 1024 { 0.6 } else { 0.3 + 1.6 * (depth - 0.5).powi(2) };
        let profile = ReadingProfile::of(&info(), measurement(), &observed(&[1024, 4096], 5, 12, read));
        assert!(!profile.curves[0].distinct && profile.curves[1].distinct);
        let spread = |tokens| {
            let curve = profile.curve(tokens);
            curve.map_or(0.0, |curve| curve.mean(0.0, 0.0) - curve.mean(0.5, 0.5))
        };
        assert!(spread(4096) > spread(2048) && spread(2048) > spread(1100));
        assert_eq!(spread(4096), spread(100_000), "level beyond what was measured");
    }

    #[test]
    fn a_range_has_the_mean_of_the_line_through_it() {
        let curve = PositionCurve { points: vec![(0.0, 1.0), (0.5, 0.0), (1.0, 1.0)] };
        for (from, to, mean) in [(0.0, 1.0, 0.5), (0.25, 0.75, 0.25), (0.5, 0.5, 0.0), (0.0, 0.5, 0.5)] {
            assert!((curve.mean(from, to) - mean).abs() < 1e-12, "{from} {to}");
        }
    }
}
