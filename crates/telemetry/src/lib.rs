//! Tracing set-up, trace context, export of traces, and every metric name.
//!
//! Invariants:
//! - Logs go to standard error, never to standard output, which belongs to a command's result.
//! - A metric is recorded under a constant of [`names`] with the labels listed there; label values come from closed
//!   sets, so the number of series is bounded. Collections, documents and tenants are never labels.
//! - No text of a document, prompt or answer is logged unless [`log_texts`] says so.
//! - Both set-ups say when they cannot be done; neither replaces a set-up made by others.
//!
//! Deliberately not here: recording anything, serving `/metrics`.

mod logs;
mod metrics_handle;
pub mod names;
mod otlp;
mod phases;
mod trace;

pub use logs::{Format, TelemetryOptions, init, log_texts};
pub use metrics_handle::{MetricsHandle, install_metrics, local_metrics};
pub use otlp::{OtlpOptions, TelemetryGuard};
pub use phases::Phases;
pub use trace::{TraceContext, begin_trace, trace_headers};

/// Why telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The log filter does not parse.
    #[error(
        "`{filter}` is not a log filter ({reason}); use error, warn, info, debug or trace, or directives such as \
         `info,edgewise_engine=debug`"
    )]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong.
        reason: String,
    },
    /// The collector of traces is misnamed, or the exporter can't be built.
    #[error("{0}")]
    Otlp(String),
    /// Logging was set up before, here or by another library.
    #[error("logging is already set up in this process")]
    LogsInstalled,
    /// Another library records metrics in this process.
    #[error("another metrics recorder is already installed in this process, so /metrics would stay empty")]
    RecorderInstalled,
    /// The histogram buckets are refused; a defect of Edgewise that its tests exclude.
    #[error("the metrics recorder cannot be built: {0}")]
    Recorder(String),
    /// The thread that drains histograms cannot be started.
    #[error("cannot start the metrics thread: {0}")]
    Thread(std::io::Error),
}
