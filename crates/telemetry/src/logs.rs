//! Log lines on standard error.

use std::io;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _};

use crate::TelemetryError;

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people: time, level, target, message, fields.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelemetryOptions {
    /// A level, or directives of [`EnvFilter`].
    pub filter: String,
    /// The look of a line.
    pub format: Format,
    /// Whether text lines are coloured; the caller knows whether standard error is a terminal and `NO_COLOR` is set.
    pub ansi: bool,
}

impl Default for TelemetryOptions {
    fn default() -> Self {
        Self { filter: "info".to_owned(), format: Format::Text, ansi: false }
    }
}

/// Starts logging to standard error. Once per process.
pub fn init(options: &TelemetryOptions) -> Result<(), TelemetryError> {
    let filter = filter(&options.filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = match options.format {
        Format::Text => registry.with(fmt::layer().with_writer(io::stderr).with_ansi(options.ansi)).try_init(),
        Format::Json => {
            registry.with(fmt::layer().json().flatten_event(true).with_writer(io::stderr).with_ansi(false)).try_init()
        }
    };
    started.map_err(|_| TelemetryError::LogsInstalled)
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

    #[test]
    fn a_second_start_is_refused() {
        init(&TelemetryOptions::default()).unwrap();
        let again = init(&TelemetryOptions { format: Format::Json, ..TelemetryOptions::default() });
        assert!(matches!(again, Err(TelemetryError::LogsInstalled)));
    }
}
