//! Sums over records.
//!
//! Invariant: everything that is added up is an integer, so that the sum over any grouping is the total, to the last unit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::{Money, Usage};

use crate::{Histogram, Percentiles, RequestRecord, RequestStatus, Work};

/// Requests whose prompts were not as resident as they could have been, for one reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Missed {
    /// Requests.
    pub requests: usize,
    /// Tokens of their prompts that had to be computed.
    pub tokens: usize,
}

/// What a route would have cost the requests for which it was priced and feasible.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counterfactual {
    /// Those requests.
    pub requests: usize,
    /// What it would have cost.
    pub cost: Money,
    /// What they did cost.
    pub paid: Money,
}

/// Sums over records.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sums {
    /// Number of records.
    pub requests: usize,
    /// Tokens used.
    pub usage: Usage,
    /// What they cost.
    pub cost: Money,
    /// What reading the whole scope each time would have cost, over the records where that is known.
    #[serde(default)]
    pub full_cost: Money,
    /// What that is more than was paid for these records. Negative if it would have cost less.
    pub saved_against_full: Money,
    /// Requests whose prompts were not fully resident, and the tokens that were not, by reason.
    #[serde(default)]
    pub miss: BTreeMap<String, Missed>,
    /// What each route would have cost where it was feasible, by route.
    #[serde(default)]
    pub alternatives: BTreeMap<String, Counterfactual>,
    /// Times to the first token of answers, in milliseconds; absent without answers.
    #[serde(default)]
    pub ttft_ms: Option<Percentiles>,
    /// Times to the end of answers, in milliseconds; absent without answers.
    #[serde(default)]
    pub latency_ms: Option<Percentiles>,
}

/// The sum over all records, and over those of each route.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Over all records.
    #[serde(flatten)]
    pub all: Sums,
    /// By route, in order of name.
    pub by_route: BTreeMap<String, Sums>,
}

/// Sums while they are being made: with the distributions that percentiles come from.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Tally {
    pub(crate) sums: Sums,
    pub(crate) ttft: Histogram,
    pub(crate) latency: Histogram,
}

fn add(to: &mut usize, more: usize) {
    *to = to.saturating_add(more);
}

fn add_usage(to: &mut Usage, more: &Usage) {
    add(&mut to.input_tokens, more.input_tokens);
    add(&mut to.cache_read_tokens, more.cache_read_tokens);
    add(&mut to.cache_write_5m_tokens, more.cache_write_5m_tokens);
    add(&mut to.cache_write_1h_tokens, more.cache_write_1h_tokens);
    add(&mut to.output_tokens, more.output_tokens);
}

impl Tally {
    /// Adds one record.
    pub(crate) fn record(&mut self, record: &RequestRecord) {
        let sums = &mut self.sums;
        add(&mut sums.requests, 1);
        add_usage(&mut sums.usage, &record.usage);
        sums.cost += record.cost;
        if let Some(full) = record.full_cost {
            sums.full_cost += full;
            sums.saved_against_full += full - record.cost;
        }
        if let Some(reason) = &record.miss {
            let missed = sums.miss.entry(reason.clone()).or_default();
            add(&mut missed.requests, 1);
            add(&mut missed.tokens, record.missed_tokens());
        }
        for candidate in record.candidates.iter().filter(|candidate| candidate.feasible) {
            let route = sums.alternatives.entry(candidate.route.clone()).or_default();
            add(&mut route.requests, 1);
            route.cost += candidate.cost;
            route.paid += record.cost;
        }
        // Times of what was cut short say nothing about how long answers take.
        let complete = matches!(record.status, RequestStatus::Answered | RequestStatus::Unanswerable);
        if complete && record.work == Work::Answer {
            self.ttft.record_ms(record.timings.ttft_ms);
            self.latency.record_ms(record.timings.total_ms);
        }
    }

    /// Adds another tally.
    pub(crate) fn merge(&mut self, other: &Self) {
        let (sums, more) = (&mut self.sums, &other.sums);
        add(&mut sums.requests, more.requests);
        add_usage(&mut sums.usage, &more.usage);
        sums.cost += more.cost;
        sums.full_cost += more.full_cost;
        sums.saved_against_full += more.saved_against_full;
        for (reason, more) in &more.miss {
            let missed = sums.miss.entry(reason.clone()).or_default();
            add(&mut missed.requests, more.requests);
            add(&mut missed.tokens, more.tokens);
        }
        for (route, more) in &more.alternatives {
            let alternative = sums.alternatives.entry(route.clone()).or_default();
            add(&mut alternative.requests, more.requests);
            alternative.cost += more.cost;
            alternative.paid += more.paid;
        }
        self.ttft.merge(&other.ttft);
        self.latency.merge(&other.latency);
    }

    /// The sums, with their percentiles.
    pub(crate) fn into_sums(self) -> Sums {
        let (ttft_ms, latency_ms) = (self.ttft.percentiles(), self.latency.percentiles());
        Sums { ttft_ms, latency_ms, ..self.sums }
    }
}
