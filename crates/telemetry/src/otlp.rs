//! Export of traces to a collector by OTLP over HTTP, in protobuf.
//!
//! Spans are sent in batches by a thread of their own. A collector that is slow or gone costs spans, which is logged, and
//! never time of a request.

use std::time::Duration;

use opentelemetry::{KeyValue, trace::TracerProvider as _};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};

use crate::TelemetryError;

/// How long a batch may take, and the last one at the end of the program.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct OtlpOptions {
    /// Address of the collector, such as `http://localhost:4318`; `/v1/traces` is added where it is missing.
    pub endpoint: String,
    /// Share of the traces begun here that are recorded, 0 to 1. Those of a caller are recorded if the caller's are.
    pub sample: f64,
    /// Version of the program.
    pub version: String,
}

/// Sends what is left when it is dropped. To be kept until the program ends.
#[derive(Debug, Default)]
#[must_use = "spans are lost that were not sent when it is dropped"]
pub struct TelemetryGuard {
    pub(crate) provider: Option<SdkTracerProvider>,
}

impl Drop for TelemetryGuard {
    fn drop(&mut self) {
        if let Some(provider) = self.provider.take()
            && let Err(error) = provider.shutdown_with_timeout(PATIENCE)
        {
            tracing::warn!(%error, "the last traces could not be exported");
        }
    }
}

/// The address that traces are posted to.
fn address(endpoint: &str) -> Result<String, TelemetryError> {
    let endpoint = endpoint.trim().trim_end_matches('/');
    let host = endpoint.strip_prefix("http://").or(endpoint.strip_prefix("https://"));
    if host.is_none_or(|host| host.is_empty() || host.starts_with('/') || host.contains(char::is_whitespace)) {
        return Err(TelemetryError::Otlp(format!(
            "`{endpoint}` is no address of a collector: write telemetry.otlp_endpoint as http://host:4318"
        )));
    }
    Ok(if endpoint.ends_with("/v1/traces") { endpoint.to_owned() } else { format!("{endpoint}/v1/traces") })
}

/// A tracer that exports, and what ends it.
pub(crate) fn start(options: &OtlpOptions) -> Result<(SdkTracer, SdkTracerProvider), TelemetryError> {
    let address = address(&options.endpoint)?;
    // Another part of the program may have done so; any provider will do.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(address)
        .with_timeout(PATIENCE)
        .build()
        .map_err(|error| TelemetryError::Otlp(format!("traces cannot be exported: {error}")))?;
    let resource = Resource::builder()
        .with_service_name("edgewise")
        .with_attribute(KeyValue::new("service.version", options.version.clone()))
        .build();
    let begun_here = Sampler::TraceIdRatioBased(options.sample.clamp(0.0, 1.0));
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(begun_here)))
        .with_resource(resource)
        .build();
    Ok((provider.tracer("edgewise"), provider))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_path_is_added_where_it_is_missing() {
        for (given, taken) in [
            ("http://localhost:4318", "http://localhost:4318/v1/traces"),
            ("https://otel.example/base/", "https://otel.example/base/v1/traces"),
            ("http://a:1/v1/traces", "http://a:1/v1/traces"),
        ] {
            assert_eq!(address(given).unwrap(), taken);
        }
        for wrong in ["localhost:4318", "http://", "grpc://a:4317", "http:///v1", "http://a b"] {
            assert!(address(wrong).unwrap_err().to_string().contains("otlp_endpoint"), "{wrong}");
        }
    }
}
