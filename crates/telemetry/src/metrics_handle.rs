//! The metrics recorder and its handle.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::{TelemetryError, names};

/// Upper bounds in seconds, half a decade apart: from a cached look-up to a long prefill on a small machine.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0];

/// Upper bounds in seconds of how long pages of keys and values stay: from a tight pool to days of idleness.
const STAYS: &[f64] = &[0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 43_200.0, 172_800.0];

/// Upper bounds of relative errors.
const RATIOS: &[f64] = &[0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0];

/// Upper bounds of sequences computed together.
const SEQUENCES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// Buckets by the end of the metric's name, or by all of it, which counts more.
fn buckets() -> [(Matcher, &'static [f64]); 5] {
    let full = |name: &str| Matcher::Full(name.to_owned());
    [
        (Matcher::Suffix("_seconds".to_owned()), SECONDS),
        (full(names::KV_RESIDENCY_SECONDS), STAYS),
        (full(names::KV_IDLE_BEFORE_EVICTION_SECONDS), STAYS),
        (Matcher::Suffix("_ratio".to_owned()), RATIOS),
        (full(names::ENGINE_BATCH_SEQUENCES), SEQUENCES),
    ]
}

/// How often recorded samples are moved into buckets when nobody reads `/metrics`; bounds their memory.
const UPKEEP: Duration = Duration::from_secs(5);

/// Reads what was recorded. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MetricsHandle(PrometheusHandle);

impl MetricsHandle {
    /// Everything recorded so far in the Prometheus text format, version 0.0.4.
    pub fn render(&self) -> String {
        self.0.render()
    }
}

/// Installs the recorder of this process and describes all metrics. Later calls return the same recorder's handle, so
/// that several servers and tests may live in one process.
pub fn install_metrics() -> Result<MetricsHandle, TelemetryError> {
    // The recorder of the `metrics` facade is one per process by design; this only remembers its handle.
    static INSTALLED: Mutex<Option<MetricsHandle>> = Mutex::new(None);
    let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(handle) = &*installed {
        return Ok(handle.clone());
    }
    let recorder = recorder()?;
    let handle = MetricsHandle(recorder.handle());
    metrics::set_global_recorder(recorder).map_err(|_| TelemetryError::RecorderInstalled)?;
    names::describe_all();
    let upkeep = handle.0.clone();
    let drain = move || loop {
        thread::sleep(UPKEEP);
        upkeep.run_upkeep();
    };
    thread::Builder::new().name("edgewise-metrics".to_owned()).spawn(drain).map_err(TelemetryError::Thread)?;
    *installed = Some(handle.clone());
    Ok(handle)
}

/// A recorder of its own, for `metrics::with_local_recorder` in a test that must see nothing but its own samples.
pub fn local_metrics() -> Result<(PrometheusRecorder, MetricsHandle), TelemetryError> {
    let recorder = recorder()?;
    let handle = MetricsHandle(recorder.handle());
    Ok((recorder, handle))
}

fn recorder() -> Result<PrometheusRecorder, TelemetryError> {
    let mut builder = PrometheusBuilder::new();
    for (matcher, bounds) in buckets() {
        builder = builder
            .set_buckets_for_metric(matcher, bounds)
            .map_err(|error| TelemetryError::Recorder(error.to_string()))?;
    }
    Ok(builder.build_recorder())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use metrics::{counter, gauge, histogram, with_local_recorder};

    use super::*;
    use crate::names::{ALL, MetricKind, labels};

    #[test]
    fn every_metric_is_rendered_with_its_type_and_help() {
        let (recorder, handle) = local_metrics().unwrap();
        with_local_recorder(&recorder, || {
            names::describe_all();
            for metric in ALL {
                let of_metric: Vec<metrics::Label> =
                    metric.labels.iter().map(|label| metrics::Label::new(*label, "x")).collect();
                match metric.kind {
                    MetricKind::Counter => counter!(metric.name, of_metric).increment(3),
                    MetricKind::Gauge => gauge!(metric.name, of_metric).set(1.0),
                    MetricKind::Histogram => histogram!(metric.name, of_metric).record(0.7),
                }
            }
        });
        let text = handle.render();
        for metric in ALL {
            let kind = match metric.kind {
                MetricKind::Counter => "counter",
                MetricKind::Gauge => "gauge",
                MetricKind::Histogram => "histogram",
            };
            assert!(text.contains(&format!("# TYPE {} {kind}\n", metric.name)), "{} in\n{text}", metric.name);
            assert!(text.contains(&format!("# HELP {} {}\n", metric.name, metric.help)), "{} in\n{text}", metric.name);
        }
        assert!(text.contains("edgewise_output_tokens_total 3\n"), "{text}");
    }

    #[test]
    fn every_distribution_has_buckets() {
        let (recorder, handle) = local_metrics().unwrap();
        let all = || ALL.iter().filter(|metric| metric.kind == MetricKind::Histogram);
        with_local_recorder(&recorder, || all().for_each(|metric| histogram!(metric.name).record(0.7)));
        let text = handle.render();
        for metric in all() {
            assert!(text.contains(&format!("{}_bucket{{le=\"+Inf\"}} 1\n", metric.name)), "{} in\n{text}", metric.name);
        }
        assert!(text.contains("edgewise_kv_residency_seconds_bucket{le=\"172800\"}"), "{text}");
    }

    #[test]
    fn seconds_fall_into_cumulative_buckets() {
        let (recorder, handle) = local_metrics().unwrap();
        with_local_recorder(&recorder, || {
            for seconds in [0.0005, 0.3, 9999.0] {
                histogram!(names::QUERY_DURATION_SECONDS, labels::ROUTE => "full").record(seconds);
            }
        });
        let text = handle.render();
        for (bound, count) in [("0.001", 1), ("0.25", 1), ("0.5", 2), ("250", 2), ("+Inf", 3)] {
            let line = format!("edgewise_query_duration_seconds_bucket{{route=\"full\",le=\"{bound}\"}} {count}\n");
            assert!(text.contains(&line), "{line} in\n{text}");
        }
    }

    #[test]
    fn installing_twice_gives_one_recorder() {
        let first = install_metrics().unwrap();
        let second = install_metrics().unwrap();
        counter!(names::INGEST_CHUNKS_TOTAL).increment(7);
        for handle in [first, second] {
            assert!(handle.render().contains("edgewise_ingest_chunks_total 7\n"));
        }
    }
}
