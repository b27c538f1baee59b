//! Whether a region is read worse than it used to be.
//!
//! Sightings are counted in strata of region and rank: a passage of low rank is cited less wherever it stands, and since
//! placement gives every rank its region, a change in how passages are placed must not look like a change in reading. A
//! block of new sightings is compared stratum by stratum with a baseline of earlier ones (indirect standardisation, as of
//! mortality rates in epidemiology): if nothing changed, the number used in a stratum is beta-binomial, with the baseline's
//! own uncertainty in it (Jeffreys' prior), and the region's number is the sum over its strata. The alarm is raised when so
//! few or fewer have a probability below [`FALSE_ALARM`]. Strata the baseline never saw are left out of the comparison.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{PromptRegion, Sighting};

/// Probability, for each region and block, of an alarm while nothing has changed: with three regions, one block in about
/// 330.
pub const FALSE_ALARM: f64 = 0.001;

/// Fewest sightings with a baseline that are judged.
const LEAST_JUDGED: usize = 8;

/// Fewest sightings of a stratum in the baseline.
const LEAST_BASELINE: usize = 3;

/// Ranks beyond this count as this one.
const DEEPEST_RANK: usize = 10;

/// Sightings of one region and rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stratum {
    region: PromptRegion,
    rank: usize,
    seen: usize,
    used: usize,
}

/// Counted sightings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Counts(Vec<Stratum>);

/// A region in one block.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RegionFigures {
    /// The region.
    pub region: PromptRegion,
    /// Passages or facts that stood there.
    pub seen: usize,
    /// How many were cited or found.
    pub used: usize,
    /// How many would have been by the baseline, of those that can be compared; absent before there is a baseline.
    pub expected: Option<f64>,
    /// Share used, corrected for the ranks of what stood there: the baseline's share times used over expected.
    pub recall: f64,
    /// Probability that so few or fewer are used while nothing has changed.
    pub chance: Option<f64>,
    /// Whether that is below the false-alarm rate.
    pub alert: bool,
}

impl Counts {
    pub(super) fn add(&mut self, sighting: &Sighting) {
        let (region, rank) = (sighting.region, sighting.rank.min(DEEPEST_RANK));
        let used = usize::from(sighting.used);
        match self.0.iter_mut().find(|stratum| (stratum.region, stratum.rank) == (region, rank)) {
            Some(stratum) => {
                stratum.seen += 1;
                stratum.used += used;
            }
            None => self.0.push(Stratum { region, rank, seen: 1, used }),
        }
    }

    fn totals(&self, region: PromptRegion) -> (usize, usize) {
        let of_region = self.0.iter().filter(|stratum| stratum.region == region);
        of_region.fold((0, 0), |(seen, used), stratum| (seen + stratum.seen, used + stratum.used))
    }

    /// Every region of these counts against `baseline`.
    pub(super) fn judge(&self, baseline: Option<&Self>) -> Vec<RegionFigures> {
        PromptRegion::ALL.into_iter().map(|region| self.judge_region(region, baseline)).collect()
    }

    fn judge_region(&self, region: PromptRegion, baseline: Option<&Self>) -> RegionFigures {
        let (seen, used) = self.totals(region);
        let share = |(seen, used): (usize, usize)| rounded(used as f64 / seen.max(1) as f64);
        let plain = RegionFigures {
            region,
            seen,
            used,
            expected: None,
            recall: share((seen, used)),
            chance: None,
            alert: false,
        };
        let Some(baseline) = baseline else { return plain };
        let before: BTreeMap<usize, &Stratum> = baseline
            .0
            .iter()
            .filter(|stratum| stratum.region == region && stratum.seen >= LEAST_BASELINE)
            .map(|stratum| (stratum.rank, stratum))
            .collect();
        let (mut distribution, mut judged, mut observed, mut expected) = (vec![1.0], 0, 0, 0.0);
        for stratum in self.0.iter().filter(|stratum| stratum.region == region) {
            let Some(before) = before.get(&stratum.rank) else { continue };
            let (a, b) = (before.used as f64 + 0.5, (before.seen - before.used) as f64 + 0.5);
            distribution = sum(&distribution, &beta_binomial(stratum.seen, a, b));
            judged += stratum.seen;
            observed += stratum.used;
            expected += stratum.seen as f64 * a / (a + b);
        }
        if judged < LEAST_JUDGED {
            return plain;
        }
        let chance: f64 = distribution.iter().take(observed + 1).sum();
        RegionFigures {
            expected: Some(rounded(expected)),
            recall: rounded((share(baseline.totals(region)) * observed as f64 / expected).min(1.0)),
            chance: Some(rounded(chance)),
            alert: chance < FALSE_ALARM,
            ..plain
        }
    }
}

/// To nine decimals, which a file gives back as they were.
fn rounded(figure: f64) -> f64 {
    (figure * 1e9).round() / 1e9
}

/// Probabilities of 0 to `n` successes.
fn beta_binomial(n: usize, a: f64, b: f64) -> Vec<f64> {
    // In logarithms up to the normalisation, so that no start is too small.
    let mut logs = vec![0.0];
    for k in 0..n {
        let ratio = ((n - k) as f64 * (k as f64 + a)) / ((k + 1) as f64 * ((n - k - 1) as f64 + b));
        logs.push(logs.last().copied().unwrap_or(0.0) + ratio.ln());
    }
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.into_iter().map(|log| (log - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / total).collect()
}

/// Distribution of the sum of two independent counts.
fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; a.len() + b.len() - 1];
    for (i, x) in a.iter().enumerate() {
        for (slot, y) in sum.iter_mut().skip(i).zip(b) {
            *slot += x * y;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_those_of_the_beta_binomial() {
        // a = b = 1 is uniform over 0 to n.
        for p in beta_binomial(4, 1.0, 1.0) {
            assert!((p - 0.2).abs() < 1e-12);
        }
        // A certain baseline: the binomial.
        let binomial = beta_binomial(2, 3e9, 7e9);
        for (found, wanted) in binomial.iter().zip([0.49, 0.42, 0.09]) {
            assert!((found - wanted).abs() < 1e-6, "{binomial:?}");
        }
        let both = sum(&binomial, &binomial);
        assert_eq!(both.len(), 5);
        assert!((both.iter().sum::<f64>() - 1.0).abs() < 1e-9 && (both[0] - 0.49 * 0.49).abs() < 1e-6);
        assert!(beta_binomial(5000, 0.5, 900.5).iter().all(|p| p.is_finite()));
    }
}
