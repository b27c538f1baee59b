//! The command line's errors and their exit codes. Every lower error is mapped here, once.

use std::{io, path::PathBuf};

use edgewise_access::AccessError;
use edgewise_evaluation::EvaluationError;
use edgewise_gateway::GatewayError;
use edgewise_ledger::LedgerError;
use edgewise_model_api::ModelError;
use edgewise_model_store::StoreError;
use edgewise_planner::{PlannerError, PlannerErrorKind, ProfileStoreError};
use edgewise_prompts::PromptError;
use edgewise_retrieval::RetrievalError;
use edgewise_settings::SettingsError;
use edgewise_telemetry::TelemetryError;

/// Exit codes. 0 is success and 2, as everywhere, a mistake in the arguments or the configuration.
pub(crate) mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    /// Some files failed; the others were ingested.
    pub(crate) const PARTIAL: u8 = 3;
    pub(crate) const NOT_FOUND: u8 = 4;
    pub(crate) const BUSY: u8 = 5;
    pub(crate) const DOES_NOT_FIT: u8 = 6;
    /// The server refused the key, or wants one.
    pub(crate) const DENIED: u8 = 7;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Failure of a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Prompts(#[from] PromptError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Retrieval(#[from] RetrievalError),
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    #[error(transparent)]
    Planner(#[from] PlannerError),
    #[error(transparent)]
    Profiles(#[from] ProfileStoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// A mistake in the arguments that clap can't see.
    #[error("{0}")]
    Usage(String),
    /// What was named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// A check found something wrong; what it found has been printed.
    #[error("{0}")]
    Failed(String),
    /// Something is running already that must not run twice.
    #[error("{0}")]
    Busy(String),
    /// The server answered with an error.
    #[error("{message}")]
    Server {
        /// HTTP status.
        status: u16,
        /// What it said, and its hint.
        message: String,
    },
    /// The server can't be reached or does not speak as expected.
    #[error("cannot talk to the server at {url}: {reason}")]
    Connection {
        /// Its address.
        url: String,
        /// Why.
        reason: String,
    },
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried, such as `cannot read`.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Standard output or input can't be used.
    #[error("cannot use the terminal: {0}")]
    Terminal(#[from] io::Error),
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Some sources failed; the report has been printed.
    #[error("{}", partial(*failed, *total))]
    Partial {
        /// How many failed.
        failed: usize,
        /// How many there were.
        total: usize,
    },
    /// The user said no, or pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

fn partial(failed: usize, total: usize) -> String {
    match total.saturating_sub(failed) {
        0 if total == 1 => "the file could not be ingested: see the line above".to_owned(),
        0 => format!("none of the {total} files could be ingested: see the lines above"),
        _ => format!("{failed} of {total} files failed, see the lines above; the others were ingested"),
    }
}

impl CliError {
    /// Whether the same may work later without anybody changing the command.
    pub(crate) fn may_pass(&self) -> bool {
        !matches!(self.exit_code(), exit::USAGE | exit::NOT_FOUND | exit::INTERRUPTED)
    }

    /// The process's exit code.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Usage(_) | Self::Telemetry(_) | Self::Prompts(_) => exit::USAGE,
            Self::Store(StoreError::UnknownModel { .. } | StoreError::NotInstalled { .. }) => exit::NOT_FOUND,
            Self::Retrieval(error) | Self::Evaluation(EvaluationError::Retrieval(error)) => retrieval_code(error),
            Self::Evaluation(EvaluationError::Interrupted) => exit::INTERRUPTED,
            Self::Evaluation(EvaluationError::Model(ModelError::Overloaded { .. })) => exit::BUSY,
            Self::Evaluation(EvaluationError::Model(_) | EvaluationError::Prompt(_)) => exit::FAILED,
            Self::Evaluation(_) => exit::USAGE,
            Self::Planner(PlannerError::Retrieval(error)) => retrieval_code(error),
            Self::Planner(error) => match error.kind() {
                PlannerErrorKind::InvalidRequest => exit::USAGE,
                PlannerErrorKind::NotFound => exit::NOT_FOUND,
                PlannerErrorKind::TooLarge | PlannerErrorKind::Budget => exit::DOES_NOT_FIT,
                PlannerErrorKind::Overloaded | PlannerErrorKind::Unavailable => exit::BUSY,
                PlannerErrorKind::Cancelled => exit::INTERRUPTED,
                PlannerErrorKind::Internal => exit::FAILED,
            },
            Self::Model(ModelError::WindowExceeded { .. }) => exit::DOES_NOT_FIT,
            Self::Model(ModelError::Overloaded { .. }) => exit::BUSY,
            Self::Gateway(GatewayError::PortTaken { .. }) => exit::BUSY,
            Self::Access(AccessError::UnknownKey { .. }) => exit::NOT_FOUND,
            Self::Access(AccessError::Invalid(_) | AccessError::AlreadyRevoked { .. }) => exit::USAGE,
            Self::Busy(_) => exit::BUSY,
            Self::NotFound(_) => exit::NOT_FOUND,
            Self::Server { status, .. } => match status {
                400 => exit::USAGE,
                401 | 403 => exit::DENIED,
                404 => exit::NOT_FOUND,
                409 | 429 | 503 => exit::BUSY,
                422 => exit::DOES_NOT_FIT,
                _ => exit::FAILED,
            },
            Self::Partial { .. } => exit::PARTIAL,
            Self::Interrupted => exit::INTERRUPTED,
            _ => exit::FAILED,
        }
    }
}

fn retrieval_code(error: &RetrievalError) -> u8 {
    match error {
        RetrievalError::UnknownCollection { .. }
        | RetrievalError::UnknownDocument { .. }
        | RetrievalError::UnknownTreeNode { .. } => exit::NOT_FOUND,
        RetrievalError::Locked { .. } | RetrievalError::TreeBusy { .. } => exit::BUSY,
        RetrievalError::EmptyQuery
        | RetrievalError::InvalidRequest(_)
        | RetrievalError::Filter(_)
        | RetrievalError::CollectionExists { .. }
        | RetrievalError::FileExists { .. }
        | RetrievalError::UnusableExport { .. }
        | RetrievalError::NotCovered { .. }
        | RetrievalError::Discover(_) => exit::USAGE,
        RetrievalError::Cancelled => exit::INTERRUPTED,
        _ => exit::FAILED,
    }
}

/// For `map_err`: an I/O error with what was tried on which path.
pub(crate) fn io_error(what: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CliError {
    let path = path.into();
    move |source| CliError::Io { what, path, source }
}
