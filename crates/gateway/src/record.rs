//! Ledger records and metrics of answered and failed questions, for the server and for a command that answers without
//! one.
//!
//! A failure is recorded once a token has come: then the prompt has been paid for. Its tokens are those that were
//! planned and those that came; they are priced as plain input, since what the engine retained of them is not known.
//!
//! A record that can't be written is logged and does not take the answer away from its caller.

use std::{sync::Arc, time::Duration};

use edgewise_ledger::{
    Decided, DetailSource, Entry, Ledger, Prediction, PriceBook, PricedRoute, RequestRecord, RequestStatus, Work,
};
use edgewise_planner::{Answer, Candidate, Explanation, PlannerError, Query, Route};
use edgewise_types::{CollectionName, ContentHash, TenantId, Timings, Usage};

use crate::{detail::RequestDetail, feedback, figures};

/// What stands for a route in records of embedding: no question was answered.
const EMBEDDING: &str = "embedding";

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

/// Who pays for work that is no question.
#[derive(Debug, Clone)]
pub struct Whose {
    /// The tenant.
    pub tenant: TenantId,
    /// Public id of the key, if one was used.
    pub key: Option<String>,
    /// The collection, if it was for one.
    pub collection: Option<CollectionName>,
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
        let record = RequestRecord {
            route: decided.chosen.to_string(),
            escalated_from: answer.escalation.as_ref().map(|wider| wider.from.to_string()),
            miss: answer.miss.map(|miss| miss.name().to_owned()),
            predicted,
            status,
            usage: answer.usage,
            cost: answer.cost,
            full_cost: if decided.chosen == Route::Full { Some(answer.cost) } else { base.full_cost },
            timings: answer.timings,
            ..base
        };
        figures::answered(&record);
        let (question, answer, texts) = (query.question.clone(), answer.clone(), self.ledger.keeps_texts());
        let detail = move || RequestDetail::answered(question, answer).kept(texts);
        let decided = feedback::decided(id, &query.tenant, decided);
        self.enter(record, decided, Some(Box::new(detail)));
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
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        let timings = Timings { ttft_ms: ms(failure.ttft), total_ms: ms(failure.total), ..Timings::default() };
        let usage = usage.plus(&failure.before);
        // Of how long the engine worked on it, only an upper bound is known.
        let cost = self.prices.of(&self.model, at).cost_of(&usage, timings.total_ms);
        let record = RequestRecord { status, usage, cost, timings, ..base };
        figures::failed(&record);
        let (question, explanation) = (query.question.clone(), failure.explanation.clone());
        let texts = self.ledger.keeps_texts();
        let detail = move || RequestDetail::failed(question, explanation, &timings).kept(texts);
        self.enter(record, None, Some(Box::new(detail)));
    }

    /// Records a chat with the bare engine.
    pub(crate) fn chatted(&self, record: &RequestRecord) {
        let _span = tracing::info_span!("record").entered();
        match record.status {
            RequestStatus::Answered => figures::answered(record),
            _ => figures::failed(record),
        }
        self.write(record);
    }

    /// Records texts that `model` embedded, for an ingest or for a client. Nothing is recorded of no tokens.
    pub fn embedded(&self, id: &str, at: jiff::Timestamp, whose: Whose, model: &str, tokens: usize, took: Duration) {
        if tokens == 0 {
            return;
        }
        let ms = took.as_secs_f64() * 1e3;
        let usage = Usage { input_tokens: tokens, ..Usage::default() };
        let record = RequestRecord {
            key: whose.key,
            collection: whose.collection,
            work: Work::Embedding,
            forced: true,
            usage,
            cost: self.prices.of(model, at).cost_of(&usage, ms),
            timings: Timings { embed_ms: ms, total_ms: ms, ..Timings::default() },
            ..RequestRecord::begun(format!("{}-embed-{id}", at.as_microsecond()), at, whose.tenant, model, EMBEDDING)
        };
        figures::worked(&record);
        self.write(&record);
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
        let prices = self.prices.of(&self.model, at);
        let output_cost = |output_tokens| prices.cost(&Usage { output_tokens, ..Usage::default() });
        let really = |c: &Candidate| c.cost - output_cost(c.output_tokens) + output_cost(output_tokens);
        let full = candidate(explanation, Route::Full).filter(|candidate| candidate.feasible);
        let priced = |candidate: &Candidate| PricedRoute {
            route: candidate.route.to_string(),
            feasible: candidate.feasible,
            prompt_tokens: candidate.prompt_tokens,
            resident_tokens: candidate.resident_tokens,
            cost: really(candidate),
            latency_ms: candidate.latency_ms,
            quality: candidate.quality,
        };
        let id = format!("{}-{id}", at.as_microsecond());
        let route = explanation.chosen.to_string();
        RequestRecord {
            key: query.key.clone(),
            collection: Some(explanation.collection.clone()),
            full_cost: full.map(really),
            candidates: explanation.candidates.iter().map(priced).collect(),
            template_hash: self.template_hash.to_string(),
            forced: explanation.forced,
            predicted,
            question_chars: query.question.chars().count(),
            ..RequestRecord::begun(id, at, query.tenant.clone(), &self.model, &route)
        }
    }

    pub(crate) fn write(&self, record: &RequestRecord) {
        self.enter(record.clone(), None, None);
    }

    fn enter(&self, record: RequestRecord, decided: Option<Decided>, detail: Option<DetailSource>) {
        let id = record.id.clone();
        if let Err(error) = self.ledger.enter(Entry { record, decided, detail }) {
            tracing::error!(%error, id, "a request could not be recorded in the ledger");
        }
    }
}

fn candidate(explanation: &Explanation, route: Route) -> Option<&Candidate> {
    explanation.candidates.iter().find(|candidate| candidate.route == route)
}
