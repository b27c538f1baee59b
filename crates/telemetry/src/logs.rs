//! Log lines on standard error, and the spans that traces are made of.
//!
//! Lines are filtered as asked for. Our own spans down to `info` exist whatever the filter says, because traces are made
//! of them and lines carry their identity.

use std::{
    fmt as std_fmt, io,
    sync::atomic::{AtomicBool, Ordering},
};

use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, FilterFn, LevelFilter},
    fmt::{
        self, FmtContext, FormatEvent, FormatFields,
        format::{Format as Layout, Json, Writer},
    },
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::{
    TelemetryError,
    otlp::{self, OtlpOptions, TelemetryGuard},
    trace::Carried,
};

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, target, message, fields.
    #[default]
    Text,
    /// One JSON object a line, with `trace_id` and `span_id` of the request it belongs to.
    Json,
}

/// What is logged and how, and where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct TelemetryOptions {
    /// A level, or directives of [`EnvFilter`].
    pub filter: String,
    /// The look of a line.
    pub format: Format,
    /// Whether text lines are coloured; the caller knows whether standard error is a terminal and `NO_COLOR` is set.
    pub ansi: bool,
    /// Whether questions and answers may be logged, see [`log_texts`].
    pub log_texts: bool,
    /// Where traces go, if anywhere.
    pub otlp: Option<OtlpOptions>,
}

impl Default for TelemetryOptions {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: Format::Text, ansi: false, log_texts: false, otlp: None }
    }
}

static LOG_TEXTS: AtomicBool = AtomicBool::new(false);

/// Whether questions and answers may be logged. Nobody logs a text of a document, a prompt or an answer without asking
/// this, at any level.
pub fn log_texts() -> bool {
    LOG_TEXTS.load(Ordering::Relaxed)
}

/// Targets of libraries whose finest lines hold what they are given, and the level down to which they don't.
const TALKATIVE: &[(&str, Level)] = &[
    ("hyper", Level::DEBUG),
    ("h2", Level::INFO),
    ("html5ever", Level::WARN),
    ("selectors", Level::WARN),
    ("reqwest", Level::DEBUG),
    ("rmcp", Level::INFO),
    ("rustls", Level::DEBUG),
    ("tantivy", Level::INFO),
    ("tantivy_query_grammar", Level::INFO),
    ("tokenizers", Level::INFO),
    ("ureq", Level::INFO),
];

/// Whether a line or span is wanted.
type Judge = fn(&Metadata<'_>) -> bool;

/// Whether a line may hold texts of users.
fn discreet(metadata: &Metadata<'_>) -> bool {
    let base = metadata.target().split("::").next().unwrap_or_default();
    let most = TALKATIVE.iter().find(|(target, _)| *target == base);
    log_texts() || most.is_none_or(|(_, level)| metadata.level() <= level)
}

/// Spans that are there in any case.
fn ours(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("edgewise") && *metadata.level() <= Level::INFO
}

/// Keeps our spans alive whatever lines are filtered.
struct Spans;

impl Layer<Registry> for Spans {}

/// Starts logging to standard error, and the export of traces if it is asked for. Once per process.
pub fn init(options: &TelemetryOptions) -> Result<TelemetryGuard, TelemetryError> {
    let filter = filter(&options.filter)?;
    // The levels are said beside the filters: a filter that says none counts as one that wants everything, and then each
    // finest line of a library is made up only to be thrown away.
    let spans = || FilterFn::new(ours as Judge).with_max_level_hint(LevelFilter::INFO);
    let discreet = FilterFn::new(discreet as Judge).with_max_level_hint(LevelFilter::TRACE);
    let filter = filter.or(spans()).and(discreet);
    let (tracer, provider) = options.otlp.as_ref().map(otlp::start).transpose()?.unzip();
    let lines = match options.format {
        Format::Text => fmt::layer().with_writer(io::stderr).with_ansi(options.ansi).with_filter(filter).boxed(),
        Format::Json => fmt::layer()
            .json()
            .event_format(Traced(Layout::default().json().flatten_event(true)))
            .with_writer(io::stderr)
            .with_ansi(false)
            .with_filter(filter)
            .boxed(),
    };
    let mut layers = vec![lines, Spans.with_filter(spans()).boxed()];
    if let Some(tracer) = tracer {
        let layer = tracing_opentelemetry::layer().with_tracer(tracer).with_location(false).with_threads(false);
        layers.push(layer.with_filter(spans()).boxed());
    }
    // Filters ask for it as soon as they are installed.
    let before = LOG_TEXTS.swap(options.log_texts, Ordering::Relaxed);
    tracing_subscriber::registry().with(layers).try_init().map_err(|_| {
        LOG_TEXTS.store(before, Ordering::Relaxed);
        TelemetryError::LogsInstalled
    })?;
    Ok(TelemetryGuard { provider })
}

/// JSON lines with the identity of the trace they belong to.
struct Traced(Layout<Json>);

impl<S, N> FormatEvent<S, N> for Traced
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std_fmt::Result {
        let mut scope = context.event_scope().into_iter().flatten();
        let Some(carried) = scope.find_map(|span| span.extensions().get::<Carried>().cloned()) else {
            return self.0.format_event(context, writer, event);
        };
        let mut line = String::new();
        self.0.format_event(context, Writer::new(&mut line), event)?;
        let context = carried.context;
        let ids = format!("\"trace_id\":\"{:032x}\",\"span_id\":\"{:016x}\"", context.trace_id, context.span_id);
        match line.trim_end().strip_suffix('}') {
            Some("{") => writeln!(writer, "{{{ids}}}"),
            Some(open) => writeln!(writer, "{open},{ids}}}"),
            None => writer.write_str(&line),
        }
    }
}

fn filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    let refused = |reason: String| TelemetryError::Filter { filter: text.to_owned(), reason };
    // A lone word that is not a level parses as the name of a target and would switch everything else off.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let lone = !text.contains(['=', ',', '[', ':']);
    if lone && !levels.contains(&text.trim().to_ascii_lowercase().as_str()) {
        return Err(refused("not a level".to_owned()));
    }
    EnvFilter::try_new(text).map_err(|error| refused(error.to_string()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn filters_are_levels_or_directives() {
        for good in ["info", "WARN", "off", "info,edgewise_engine=debug", "edgewise_gateway[request]=trace"] {
            filter(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in ["", "verbose", "infos", "info,edgewise_engine=loud"] {
            let message = filter(bad).expect_err(bad).to_string();
            assert!(message.contains(&format!("`{bad}`")) && message.contains("use error, warn"), "{message}");
        }
    }

    /// What a layer writes.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_of_json_carry_the_trace_of_their_request() {
        let written = Written::default();
        let writer = written.clone();
        let layout = Traced(Layout::default().json().flatten_event(true));
        let layer = fmt::layer().json().event_format(layout).with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(FilterFn::new(discreet)));
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("before");
            let span = tracing::info_span!("request", id = "r");
            crate::begin_trace(&span, Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"), None).unwrap();
            span.in_scope(|| tracing::info_span!("plan").in_scope(|| tracing::warn!(n = 3, "a \"quoted\" }} line")));
            tracing::trace!(target: "tantivy::query", "what a user asked");
            tracing::trace!(target: "edgewise_planner", "fine");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0].get("trace_id"), None);
        assert_eq!(lines[1]["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(lines[1]["span_id"].as_str().map(str::len), Some(16));
        assert_eq!((&lines[1]["n"], &lines[1]["message"]), (&3.into(), &"a \"quoted\" } line".into()));
    }

    #[test]
    fn a_second_start_is_refused() {
        let first = init(&TelemetryOptions::default()).unwrap();
        let again = init(&TelemetryOptions { format: Format::Json, ..TelemetryOptions::default() });
        assert!(matches!(again, Err(TelemetryError::LogsInstalled)));
        drop(first);
    }
}
