//! Predictions against what became of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::{Money, Usage};

use crate::{RequestRecord, RequestStatus};

/// Relative errors, `|predicted − actual| / actual`, of a group of records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Accuracy {
    /// Half of the records are at most this far off.
    pub median: f64,
    /// Nine tenths of them are.
    pub p90: f64,
}

/// How good predictions were for the requests of one route, those that found something in the cache or those that did
/// not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PredictionErrors {
    /// The route.
    pub route: String,
    /// Whether most of the prompt was resident.
    pub warm: bool,
    /// Records.
    pub requests: usize,
    /// Share of them whose prompt was as long as predicted.
    pub tokens_exact: f64,
    /// Share whose resident tokens were as predicted.
    pub resident_exact: f64,
    /// Share whose prompt cost what was predicted: every class of its tokens was.
    pub prompt_cost_exact: f64,
    /// Errors of the whole cost, which the length of the answer decides with.
    pub cost: Accuracy,
    /// Errors of the time to the first token.
    pub ttft: Accuracy,
    /// Errors of the time to the end of the answer.
    pub total: Accuracy,
    /// Errors of that time had the length of the answer been known: what they owe to the times alone.
    #[serde(default)]
    pub total_at_length: Accuracy,
}

/// The tokens of a prompt by class.
fn classes(usage: &Usage) -> [usize; 4] {
    [usage.input_tokens, usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens]
}

impl Accuracy {
    /// Of pairs of predicted and actual values. Pairs without a positive actual value say nothing.
    pub fn of(pairs: impl Iterator<Item = (f64, f64)>) -> Self {
        let relative = |(predicted, actual): (f64, f64)| (predicted - actual).abs() / actual;
        let mut errors: Vec<f64> =
            pairs.filter(|(_, actual)| *actual > 0.0).map(relative).filter(|error| error.is_finite()).collect();
        errors.sort_by(f64::total_cmp);
        // The smallest value that so many of the values do not exceed.
        let at = |share: f64| {
            let rank = (share * errors.len() as f64).ceil() as usize;
            errors.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
        };
        Self { median: at(0.5), p90: at(0.9) }
    }
}

/// One request that is compared: each pair is what was predicted and what became of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Compared {
    /// The route.
    pub route: String,
    /// Tokens.
    pub usage: (Usage, Usage),
    /// Cost.
    pub cost: (Money, Money),
    /// Time to the first token, in milliseconds.
    pub ttft_ms: (f64, f64),
    /// Time to the end of the answer, in milliseconds.
    pub total_ms: (f64, f64),
}

impl Compared {
    /// Of a complete answer whose tokens were predicted.
    pub fn of(record: &RequestRecord) -> Option<Self> {
        let complete = matches!(record.status, RequestStatus::Answered | RequestStatus::Unanswerable);
        let predicted = record.predicted.usage.filter(|_| complete)?;
        Some(Self {
            route: record.route.clone(),
            usage: (predicted, record.usage),
            cost: (record.predicted.cost, record.cost),
            ttft_ms: (record.predicted.ttft_ms, record.timings.ttft_ms),
            total_ms: (record.predicted.latency_ms, record.timings.total_ms),
        })
    }
}

impl Compared {
    /// The time to the end, predicted for as many tokens as there were, and the actual one. Behind the first token, time
    /// goes with the tokens.
    fn total_at_length(&self) -> (f64, f64) {
        let [predicted, actual] =
            [self.usage.0, self.usage.1].map(|usage| usage.output_tokens.saturating_sub(1) as f64);
        let rest = (self.total_ms.0 - self.ttft_ms.0) * actual / predicted.max(1.0);
        (self.ttft_ms.0 + rest, self.total_ms.1)
    }
}

impl PredictionErrors {
    /// By route, cold before warm.
    pub fn of(requests: impl IntoIterator<Item = Compared>) -> Vec<Self> {
        let mut groups: BTreeMap<(String, bool), Vec<Compared>> = BTreeMap::new();
        for request in requests {
            let (_, actual) = request.usage;
            let warm = 2 * actual.cache_read_tokens >= actual.prompt_tokens();
            groups.entry((request.route.clone(), warm)).or_default().push(request);
        }
        let of_group = |((route, warm), requests): ((String, bool), Vec<Compared>)| {
            let share = |matches: fn(&Usage, &Usage) -> bool| {
                let exact = requests.iter().filter(|request| matches(&request.usage.0, &request.usage.1)).count();
                exact as f64 / requests.len() as f64
            };
            let accuracy = |pair: fn(&Compared) -> (f64, f64)| Accuracy::of(requests.iter().map(pair));
            Self {
                requests: requests.len(),
                tokens_exact: share(|predicted, actual| predicted.prompt_tokens() == actual.prompt_tokens()),
                resident_exact: share(|predicted, actual| predicted.cache_read_tokens == actual.cache_read_tokens),
                prompt_cost_exact: share(|predicted, actual| classes(predicted) == classes(actual)),
                cost: accuracy(|request| (request.cost.0.as_dollars_lossy(), request.cost.1.as_dollars_lossy())),
                ttft: accuracy(|request| request.ttft_ms),
                total: accuracy(|request| request.total_ms),
                total_at_length: accuracy(Compared::total_at_length),
                route,
                warm,
            }
        };
        groups.into_iter().map(of_group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_relative_and_values_of_nothing_are_left_out() {
        let pairs = [(110.0, 100.0), (80.0, 100.0), (130.0, 100.0), (5.0, 0.0)];
        let accuracy = Accuracy::of(pairs.into_iter());
        assert!((accuracy.median - 0.2).abs() < 1e-9 && (accuracy.p90 - 0.3).abs() < 1e-9, "{accuracy:?}");
        assert_eq!(Accuracy::of(std::iter::empty()), Accuracy::default());
    }

    #[test]
    fn a_longer_answer_is_no_error_of_the_times() {
        let usage = |output_tokens| Usage { input_tokens: 100, output_tokens, ..Usage::default() };
        let compared = Compared {
            route: "full".to_owned(),
            usage: (usage(11), usage(41)),
            cost: (Money::ZERO, Money::ZERO),
            ttft_ms: (100.0, 100.0),
            total_ms: (200.0, 500.0),
        };
        let errors = &PredictionErrors::of([compared])[0];
        assert!((errors.total.median - 0.6).abs() < 1e-9, "{errors:?}");
        assert!(errors.total_at_length.median < 1e-9, "{errors:?}");
    }
}
