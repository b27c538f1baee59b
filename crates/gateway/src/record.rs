//! Ledger records and metrics of answered and failed questions, for the server and for a command that answers without
//! one.
//!
//! A failure is recorded once a token has come: then the prompt has been paid for. Its tokens are those that were
//! planned and those that came; they are priced as plain input, since what the engine retained of them is not known.
//!
//! A record that can't be written is logged and does not take the answer away from its caller.

use std::{sync::Arc, time::Duration};

use edgewise_ledger::{Ledger, Prediction, PriceBook, RequestRecord, RequestStatus};
use edgewise_planner::{Answer, Candidate, Explanation, PlannerError, Query, Route};
use edgewise_telemetry::names::{self, labels};
use edgewise_types::{ContentHash, Money, Timings, Usage};

use crate::feedback;

/// Writes records. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    /// Where they go.
    pub ledger: Arc<Ledger>,
    /// Prices of failed requests and of the routes not taken; those of answers come from the planner. Give both the
    /// same book.
    pub prices: PriceBook,
    /// Registry name of the model that answers.
    pub model: String,
    /// Hash of the prompt templates.
    pub template_hash: ContentHash,
}

/// What is known of a question that failed.
#[derive(Debug)]
pub struct Failure<'a> {
    /// The decision.
    pub explanation: &'a Explanation,
    /// Why it failed.
    pub error: &'a PlannerError,
    /// Tokens of a first answer that a wider route was taken after.
    pub before: Usage,
    /// Tokens that came.
    pub output_tokens: usize,
    /// Time to the first of them.
    pub ttft: Duration,
    /// Time until the failure.
    pub total: Duration,
}

impl Recorder {
    /// Records an answer. `id` and `at`, the time the question came in, together are unique in the ledger.
    pub fn answered(&self, id: &str, at: jiff::Timestamp, query: &Query, answer: &Answer) {
        let decided = answer.escalation.as_ref().map_or(&answer.explanation, |wider| wider.explanation.as_ref());
        let route = decided.chosen.to_string();
        let seconds = |ms: f64| ms / 1e3;
        metrics::histogram!(names::QUERY_DURATION_SECONDS, labels::ROUTE => route.clone())
            .record(seconds(answer.timings.total_ms));
        metrics::histogram!(names::TTFT_SECONDS).record(seconds(answer.timings.ttft_ms));
        metrics::counter!(names::ROUTE_DECISIONS_TOTAL, labels::ROUTE => route.clone()).increment(1);
        metrics::counter!(names::COST_NANODOLLARS_TOTAL, labels::ROUTE => route)
            .increment(u64::try_from(answer.cost.nanos()).unwrap_or(0));

        let status = if answer.unanswerable { RequestStatus::Unanswerable } else { RequestStatus::Answered };
        let base = self.base(id, at, query, &answer.explanation, answer.usage.output_tokens);
        // What is compared with the time and cost of both answers is what was predicted for both.
        let second = answer.escalation.as_ref().and_then(|wider| wider.explanation.candidates.first());
        let predicted = second.map_or(base.predicted, |second| Prediction {
            cost: base.predicted.cost + second.cost,
            ttft_ms: base.predicted.ttft_ms,
            latency_ms: base.predicted.latency_ms + second.latency_ms,
            usage: base.predicted.usage.map(|usage| usage.plus(&second.usage)),
        });
        self.write(&RequestRecord {
            route: decided.chosen.to_string(),
            predicted,
            status,
            usage: answer.usage,
            cost: answer.cost,
            full_cost: if decided.chosen == Route::Full { Some(answer.cost) } else { base.full_cost },
            timings: answer.timings,
            ..base
        });
        feedback::keep(&self.ledger, id, at, query, decided);
    }

    /// Records a failure after the first token.
    pub fn failed(&self, id: &str, at: jiff::Timestamp, query: &Query, failure: &Failure<'_>) {
        let base = self.base(id, at, query, failure.explanation, failure.output_tokens);
        let status = match failure.error {
            PlannerError::Cancelled => RequestStatus::Cancelled,
            _ => RequestStatus::Failed,
        };
        let planned = candidate(failure.explanation, failure.explanation.chosen);
        let (prompt, resident) = planned.map_or((0, 0), |c| (c.prompt_tokens, c.resident_tokens));
        let usage = Usage {
            input_tokens: prompt.saturating_sub(resident),
            cache_read_tokens: resident,
            output_tokens: failure.output_tokens,
            ..Usage::default()
        };
        let cost = self.prices.cost(&self.model, &usage) + self.prices.cost(&self.model, &failure.before);
        let usage = usage.plus(&failure.before);
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let timings = Timings { ttft_ms: ms(failure.ttft), total_ms: ms(failure.total), ..Timings::default() };
        self.write(&RequestRecord { status, usage, cost, timings, ..base });
    }

    /// Records a chat with the bare engine.
    pub(crate) fn chatted(&self, record: &RequestRecord) {
        let _span = tracing::info_span!("record").entered();
        metrics::counter!(names::ROUTE_DECISIONS_TOTAL, labels::ROUTE => record.route.clone()).increment(1);
        metrics::counter!(names::COST_NANODOLLARS_TOTAL, labels::ROUTE => record.route.clone())
            .increment(u64::try_from(record.cost.nanos()).unwrap_or(0));
        if record.status == RequestStatus::Answered {
            metrics::histogram!(names::QUERY_DURATION_SECONDS, labels::ROUTE => record.route.clone())
                .record(record.timings.total_ms / 1e3);
            metrics::histogram!(names::TTFT_SECONDS).record(record.timings.ttft_ms / 1e3);
        }
        self.write(record);
    }

    fn base(
        &self,
        id: &str,
        at: jiff::Timestamp,
        query: &Query,
        explanation: &Explanation,
        output_tokens: usize,
    ) -> RequestRecord {
        let predicted =
            candidate(explanation, explanation.chosen).map_or_else(Prediction::default, |candidate| Prediction {
                cost: candidate.cost,
                ttft_ms: candidate.ttft_ms,
                latency_ms: candidate.latency_ms,
                usage: Some(candidate.usage),
            });
        // The whole scope, had it been read for the same answer: as predicted, but with the tokens that really came.
        let output_cost = |output_tokens| self.prices.cost(&self.model, &Usage { output_tokens, ..Usage::default() });
        let full = candidate(explanation, Route::Full).filter(|candidate| candidate.feasible);
        let full_cost = full.map(|full| full.cost - output_cost(full.output_tokens) + output_cost(output_tokens));
        RequestRecord {
            id: format!("{}-{id}", at.as_microsecond()),
            at,
            tenant: query.tenant.clone(),
            collection: Some(explanation.collection.clone()),
            full_cost,
            model: self.model.clone(),
            template_hash: self.template_hash.to_string(),
            route: explanation.chosen.to_string(),
            forced: explanation.forced,
            status: RequestStatus::Answered,
            usage: Usage::default(),
            cost: Money::ZERO,
            predicted,
            timings: Timings::default(),
            question_chars: query.question.chars().count(),
        }
    }

    pub(crate) fn write(&self, record: &RequestRecord) {
        if let Err(error) = self.ledger.record(record) {
            tracing::error!(%error, id = record.id, "a request could not be recorded in the ledger");
        }
    }
}

fn candidate(explanation: &Explanation, route: Route) -> Option<&Candidate> {
    explanation.candidates.iter().find(|candidate| candidate.route == route)
}
