//! What the records of the ledger add to the metrics.
//!
//! Labels are closed sets: routes, reasons and what was predicted. Tenants, keys and collections are in the ledger only.

use edgewise_ledger::{RequestRecord, RequestStatus};
use edgewise_telemetry::names::{self, labels};

/// Relative errors, `|predicted − actual| / actual`; a value without a positive actual one says nothing.
fn error(predicted: f64, actual: f64) -> Option<f64> {
    let error = (predicted - actual).abs() / actual;
    (actual > 0.0 && error.is_finite()).then_some(error)
}

/// Of a question or chat that was answered.
pub(crate) fn answered(record: &RequestRecord) {
    let route = || record.route.clone();
    metrics::histogram!(names::QUERY_DURATION_SECONDS, labels::ROUTE => route()).record(record.timings.total_ms / 1e3);
    metrics::histogram!(names::TTFT_SECONDS).record(record.timings.ttft_ms / 1e3);
    // Answers of one token have no time between tokens.
    if record.usage.output_tokens > 1 && record.timings.decode_ms > 0.0 {
        let each = record.timings.decode_ms / 1e3 / (record.usage.output_tokens - 1) as f64;
        metrics::histogram!(names::INTER_TOKEN_SECONDS).record(each);
    }
    let complete = matches!(record.status, RequestStatus::Answered | RequestStatus::Unanswerable);
    if complete && record.predicted.usage.is_some() {
        let pairs = [
            ("cost", record.predicted.cost.as_dollars_lossy(), record.cost.as_dollars_lossy()),
            ("ttft", record.predicted.ttft_ms, record.timings.ttft_ms),
            ("latency", record.predicted.latency_ms, record.timings.total_ms),
        ];
        for (signal, predicted, actual) in pairs {
            if let Some(error) = error(predicted, actual) {
                metrics::histogram!(names::PREDICTION_ERROR_RATIO, labels::SIGNAL => signal).record(error);
            }
        }
    }
    decided(record);
    found(record);
    worked(record);
}

/// Of a question or chat that failed or was given up after its prompt was paid for.
pub(crate) fn failed(record: &RequestRecord) {
    decided(record);
    worked(record);
}

/// Of any work that is paid for.
pub(crate) fn worked(record: &RequestRecord) {
    metrics::counter!(names::COST_NANODOLLARS_TOTAL, labels::ROUTE => record.route.clone())
        .increment(u64::try_from(record.cost.nanos()).unwrap_or(0));
}

fn decided(record: &RequestRecord) {
    metrics::counter!(names::ROUTE_DECISIONS_TOTAL, labels::ROUTE => record.route.clone()).increment(1);
}

/// What its prompt found in the cache.
fn found(record: &RequestRecord) {
    let outcome = match (record.usage.cache_read_tokens, &record.miss) {
        (0, _) => "miss",
        (_, Some(_)) => "partial",
        (_, None) => "hit",
    };
    metrics::counter!(names::PREFIX_REQUESTS_TOTAL, labels::OUTCOME => outcome).increment(1);
    if let Some(reason) = &record.miss {
        metrics::counter!(names::PREFIX_MISSES_TOTAL, labels::REASON => reason.clone()).increment(1);
    }
}
