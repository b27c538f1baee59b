//! W3C trace context (w3.org/TR/trace-context): taken from a request, shown in log lines, passed on to other servers.
//!
//! The span of a request carries the identity of its trace. Where traces are exported, OpenTelemetry gives every span an
//! identity below it; where they are not, the request's own is passed on, so that logs here and elsewhere can be joined
//! in any case.

use std::fmt;

use opentelemetry::{
    Context, SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceContextExt as _, TraceState},
};
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Registry, registry::LookupSpan};

/// Longest `tracestate` that is passed on, in bytes: what the specification asks for at least.
const MOST_STATE: usize = 512;

/// The identity of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, never 0.
    pub trace_id: u128,
    /// The span, never 0.
    pub span_id: u64,
    /// Whether somebody records it.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a `traceparent`; `None` if it is malformed, in which case a new trace begins.
    pub fn parse(header: &str) -> Option<Self> {
        let header = header.trim();
        let mut parts = header.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        if !hex(version, 2) || version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        if !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
            return None;
        }
        let trace_id = u128::from_str_radix(trace, 16).ok().filter(|id| *id != 0)?;
        let span_id = u64::from_str_radix(span, 16).ok().filter(|id| *id != 0)?;
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(Self { trace_id, span_id, sampled })
    }
}

impl fmt::Display for TraceContext {
    /// As a `traceparent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, u8::from(self.sampled))
    }
}

/// What a request's span carries.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    pub(crate) context: TraceContext,
    state: Option<String>,
}

/// Puts `span` into the trace of a request's headers, or into a new one, and says which. To be called before the span is
/// entered. `None` where nothing records spans.
pub fn begin_trace(span: &Span, traceparent: Option<&str>, tracestate: Option<&str>) -> Option<TraceContext> {
    let parent = traceparent.and_then(TraceContext::parse);
    let state = tracestate.filter(|state| parent.is_some() && !state.is_empty() && state.len() <= MOST_STATE);
    if let Some(parent) = parent {
        let remote = SpanContext::new(
            TraceId::from(parent.trace_id),
            SpanId::from(parent.span_id),
            if parent.sampled { TraceFlags::SAMPLED } else { TraceFlags::default() },
            true,
            state.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default(),
        );
        // Fails only where nothing is exported, and then there is nothing to set.
        let _ = span.set_parent(Context::new().with_remote_span_context(remote));
    }
    let context = exported(span).unwrap_or_else(|| {
        let ids = RandomIdGenerator::default();
        TraceContext {
            trace_id: parent.map_or_else(|| u128::from_be_bytes(ids.new_trace_id().to_bytes()), |p| p.trace_id),
            span_id: u64::from_be_bytes(ids.new_span_id().to_bytes()),
            sampled: parent.is_some_and(|parent| parent.sampled),
        }
    });
    let carried = Carried { context, state: state.map(str::to_owned) };
    span.with_subscriber(|(id, subscriber)| {
        let span = subscriber.downcast_ref::<Registry>()?.span(id)?;
        span.extensions_mut().replace(carried);
        Some(context)
    })
    .flatten()
}

/// The headers that pass the current span's trace on to another server: `traceparent`, and `tracestate` if there is one.
pub fn trace_headers() -> Vec<(&'static str, String)> {
    let span = Span::current();
    let carried = span
        .with_subscriber(|(id, subscriber)| {
            let span = subscriber.downcast_ref::<Registry>()?.span(id)?;
            span.scope().find_map(|span| span.extensions().get::<Carried>().cloned())
        })
        .flatten();
    let context = exported(&span).or(carried.as_ref().map(|carried| carried.context));
    let state = carried.and_then(|carried| carried.state);
    let parent = context.map(|context| ("traceparent", context.to_string()));
    parent.into_iter().chain(context.and(state).map(|state| ("tracestate", state))).collect()
}

/// The identity OpenTelemetry has given a span.
fn exported(span: &Span) -> Option<TraceContext> {
    let context = span.context();
    let span = context.span();
    let known = span.span_context();
    known.is_valid().then(|| TraceContext {
        trace_id: u128::from_be_bytes(known.trace_id().to_bytes()),
        span_id: u64::from_be_bytes(known.span_id().to_bytes()),
        sampled: known.is_sampled(),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_parents_are_taken() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parsed = TraceContext::parse(good).unwrap();
        assert_eq!(parsed.to_string(), good);
        assert!(parsed.sampled);
        assert!(!TraceContext::parse(&good.replace("-01", "-00")).unwrap().sampled);
        assert!(
            TraceContext::parse(&format!("cc{}-what-comes", &good[2..])).is_some(),
            "a later version may have more"
        );
        for bad in [
            "".to_owned(),
            "00".to_owned(),
            good.replace("00-4", "ff-4"),
            good.to_uppercase(),
            format!("{good}-more"),
            good.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            good.replace("00f067aa0ba902b7", &"0".repeat(16)),
            good.replace("-01", "-1"),
            good.replace('b', "é"),
        ] {
            assert_eq!(TraceContext::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn without_a_subscriber_there_is_no_trace() {
        let span = Span::none();
        assert_eq!(begin_trace(&span, None, None), None);
        assert!(trace_headers().is_empty());
    }
}
