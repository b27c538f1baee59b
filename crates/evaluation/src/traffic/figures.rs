//! What the policies came to.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use edgewise_planner::Route;
use edgewise_types::Usage;
use serde::{Deserialize, Serialize};

use super::{
    TrafficOptions, TrafficPolicy,
    bound::{Choices, frontier},
    corpus::Corpus,
    day::Day,
    shares,
};
use crate::{Bootstrap, Estimate};

/// One answered question.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    /// Index of the collection.
    pub(super) collection: usize,
    /// What of the dollars went into writing prefixes.
    pub(super) writing: f64,
    pub(super) route: Route,
    pub(super) usage: Usage,
    pub(super) dollars: f64,
    pub(super) quality: f64,
    pub(super) ttft: Duration,
    pub(super) total: Duration,
}

/// One day under one policy.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Run {
    pub(super) policy: TrafficPolicy,
    pub(super) outcomes: Vec<Outcome>,
}

/// What a policy came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyReport {
    /// The policy.
    #[serde(flatten)]
    pub policy: TrafficPolicy,
    /// Dollars for a thousand questions, over the days.
    pub cost: Estimate,
    /// Cost relative to that of the router blind to the cache, day by day.
    pub cost_to_blind: Estimate,
    /// The router's own expected quality of the routes taken.
    pub quality: Estimate,
    /// Time to the first token in milliseconds: median and 95th percentile over all days.
    pub ttft_ms: (f64, f64),
    /// Time to the last token, likewise.
    pub total_ms: (f64, f64),
    /// Share of prompt tokens that were found in the cache.
    pub hit_rate: f64,
    /// Share of the questions by route.
    pub routes: BTreeMap<Route, f64>,
    /// Where the money went, in the order of the collections.
    pub by_collection: Vec<CollectionShare>,
}

/// Costs at equal expected quality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Matched {
    /// The cache-aware router's cost relative to what the blind one pays for the same expected quality, over the days
    /// on which some mixture of the blind one's settings reaches it.
    pub to_blind: Estimate,
    /// Days on which it does.
    pub days: usize,
    /// The other way round: what the cache-aware router pays for the blind one's quality, relative to the blind one.
    pub at_blind_quality: Estimate,
    /// Days on which some mixture of the cache-aware one's settings reaches it.
    pub days_at_blind_quality: usize,
    /// What someone who knows all that is to come would pay for the blind one's quality, with a cache that forgets
    /// nothing, relative to the blind one: no policy can pay less.
    pub bound: Estimate,
}

/// One collection under one policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionShare {
    /// Tokens of the collection.
    pub tokens: usize,
    /// Share of the questions.
    pub questions: f64,
    /// Dollars for a thousand of these.
    pub cost: f64,
    /// Expected quality of the routes taken.
    pub quality: f64,
    /// Share of the cost that went into writing prefixes.
    pub writing: f64,
    /// Share of their prompt tokens that were found in the cache.
    pub hit_rate: f64,
}

/// What the simulation came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrafficReport {
    /// The machine.
    pub machine: String,
    /// Tokens of each collection.
    pub collections: Vec<usize>,
    /// Days.
    pub days: usize,
    /// Questions of all days.
    pub questions: usize,
    /// Sessions of all days.
    pub sessions: usize,
    /// Policies.
    pub policies: Vec<PolicyReport>,
    /// Cost at equal quality.
    pub matched: Matched,
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_usize), |(sum, count), value| (sum + value, count + 1));
    sum / count.max(1) as f64
}

impl Run {
    fn dollars(&self) -> f64 {
        mean(self.outcomes.iter().map(|outcome| outcome.dollars))
    }

    fn quality(&self) -> f64 {
        mean(self.outcomes.iter().map(|outcome| outcome.quality))
    }

    /// Cost and quality.
    fn point(&self) -> (f64, f64) {
        (self.dollars(), self.quality())
    }
}

fn quantiles(outcomes: &[&Outcome], of: impl Fn(&Outcome) -> Duration) -> (f64, f64) {
    let mut ms: Vec<f64> = outcomes.iter().map(|outcome| of(outcome).as_secs_f64() * 1e3).collect();
    ms.sort_by(f64::total_cmp);
    let at = |share: f64| ms.get(((ms.len().max(1) - 1) as f64 * share).round() as usize).copied().unwrap_or(0.0);
    (at(0.5), at(0.95))
}

/// The least cost of `quality` by one of `points`, which are (cost, quality), or by taking one of two of them at random
/// for each question.
pub(super) fn cost_of_quality(points: &[(f64, f64)], quality: f64) -> Option<f64> {
    let mut least: Option<f64> = None;
    for &(cost_a, quality_a) in points {
        for &(cost_b, quality_b) in points {
            if quality_a < quality || quality_b > quality_a {
                continue;
            }
            let cost = if quality_b >= quality {
                cost_a.min(cost_b)
            } else {
                cost_b + (cost_a - cost_b) * (quality - quality_b) / (quality_a - quality_b)
            };
            least = Some(least.map_or(cost, |least| least.min(cost)));
        }
    }
    least
}

pub(super) fn report(
    corpus: &Corpus,
    days: &[Day],
    runs: &[Run],
    choices: &HashMap<(usize, usize), Choices>,
    options: &TrafficOptions,
) -> TrafficReport {
    // Runs come policy by policy, in each day by day.
    let of_policy: Vec<&[Run]> = runs.chunks(days.len().max(1)).collect();
    let find =
        |wanted: TrafficPolicy| of_policy.iter().copied().find(|runs| runs.first().is_some_and(|r| r.policy == wanted));
    let blind = find(TrafficPolicy::Blind { factor: 1.0 }).unwrap_or_default();
    let tokens = corpus.tokens();
    let policies = of_policy.iter().map(|runs| policy(runs, blind, &tokens, &options.bootstrap)).collect();
    let bounds: Vec<Vec<(f64, f64)>> = days.iter().map(|day| frontier(day, choices)).collect();
    TrafficReport {
        machine: options.machine.name.clone(),
        collections: tokens,
        days: days.len(),
        questions: days.iter().map(|day| day.arrivals.len()).sum(),
        sessions: days.iter().map(|day| day.sessions).sum(),
        policies,
        matched: matched(&of_policy, &bounds, &options.bootstrap),
    }
}

fn policy(runs: &[Run], blind: &[Run], tokens: &[usize], bootstrap: &Bootstrap) -> PolicyReport {
    let per_day = |value: fn(&Run) -> f64| -> Vec<f64> { runs.iter().map(value).collect() };
    let outcomes: Vec<&Outcome> = runs.iter().flat_map(|run| &run.outcomes).collect();
    let read: usize = outcomes.iter().map(|outcome| outcome.usage.cache_read_tokens).sum();
    let prompt: usize = outcomes.iter().map(|outcome| outcome.usage.prompt_tokens()).sum();
    let ratios: Vec<f64> = runs.iter().zip(blind).map(|(run, blind)| run.dollars() / blind.dollars()).collect();
    PolicyReport {
        policy: runs.first().map_or(TrafficPolicy::Passages, |run| run.policy),
        cost: bootstrap.estimate(&per_day(|run| 1000.0 * run.dollars())),
        cost_to_blind: bootstrap.estimate(&ratios),
        quality: bootstrap.estimate(&per_day(Run::quality)),
        ttft_ms: quantiles(&outcomes, |outcome| outcome.ttft),
        total_ms: quantiles(&outcomes, |outcome| outcome.total),
        hit_rate: read as f64 / prompt.max(1) as f64,
        routes: shares(&outcomes).into_iter().collect(),
        by_collection: (0..tokens.len()).map(|at| of_collection(at, tokens, &outcomes)).collect(),
    }
}

fn of_collection(at: usize, tokens: &[usize], outcomes: &[&Outcome]) -> CollectionShare {
    let of: Vec<&&Outcome> = outcomes.iter().filter(|outcome| outcome.collection == at).collect();
    let dollars: f64 = of.iter().map(|outcome| outcome.dollars).sum();
    let read: usize = of.iter().map(|outcome| outcome.usage.cache_read_tokens).sum();
    let prompt: usize = of.iter().map(|outcome| outcome.usage.prompt_tokens()).sum();
    CollectionShare {
        tokens: tokens.get(at).copied().unwrap_or(0),
        questions: of.len() as f64 / outcomes.len().max(1) as f64,
        cost: 1000.0 * mean(of.iter().map(|outcome| outcome.dollars)),
        quality: mean(of.iter().map(|outcome| outcome.quality)),
        writing: of.iter().map(|outcome| outcome.writing).sum::<f64>() / dollars.max(f64::MIN_POSITIVE),
        hit_rate: read as f64 / prompt.max(1) as f64,
    }
}

fn matched(of_policy: &[&[Run]], bounds: &[Vec<(f64, f64)>], bootstrap: &Bootstrap) -> Matched {
    let (mut to_blind, mut at_blind, mut least) = (Vec::new(), Vec::new(), Vec::new());
    for (day, bound) in bounds.iter().enumerate() {
        let points = |wanted: fn(&TrafficPolicy) -> bool| -> Vec<(f64, f64)> {
            let of_day = of_policy.iter().filter_map(|runs| runs.get(day));
            of_day.filter(|run| wanted(&run.policy)).map(Run::point).collect()
        };
        let aware = points(|policy| matches!(policy, TrafficPolicy::Aware { .. }));
        // Whoever knows nothing of the cache can always retrieve or always read everything, too.
        let blind = points(|policy| {
            matches!(policy, TrafficPolicy::Blind { .. } | TrafficPolicy::Passages | TrafficPolicy::Full)
        });
        if let Some(&(cost, quality)) = aware.first() {
            to_blind.extend(cost_of_quality(&blind, quality).map(|of_blind| cost / of_blind));
        }
        if let Some(&(cost, quality)) = blind.first() {
            at_blind.extend(cost_of_quality(&aware, quality).map(|of_aware| of_aware / cost));
            least.extend(cost_of_quality(bound, quality).map(|least| least / cost));
        }
    }
    Matched {
        to_blind: bootstrap.estimate(&to_blind),
        days: to_blind.len(),
        at_blind_quality: bootstrap.estimate(&at_blind),
        days_at_blind_quality: at_blind.len(),
        bound: bootstrap.estimate(&least),
    }
}
