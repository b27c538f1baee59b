//! What can be wrong with a configuration.

use std::{io, path::PathBuf};

/// Why a configuration was refused. Messages name the place (file and line, variable, flag) and what is allowed there.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The configuration file cannot be read.
    #[error(
        "cannot read the configuration file {}: {source}; check the path given with --config or EDGEWISE_CONFIG",
        path.display()
    )]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The configuration file is not TOML.
    #[error("{place}: not valid TOML: {message}")]
    Syntax {
        /// File and line.
        place: String,
        /// What the parser says.
        message: String,
    },
    /// A key or section that does not exist.
    #[error("{place}: unknown {what} `{key}`{suggestion}; allowed: {allowed}")]
    UnknownKey {
        /// File and line, or flag.
        place: String,
        /// `section` or `key`.
        what: &'static str,
        /// As written.
        key: String,
        /// ` (did you mean …?)` or empty.
        suggestion: String,
        /// The names there are.
        allowed: String,
    },
    /// A variable that starts with `EDGEWISE_` and does not exist.
    #[error(
        "unknown environment variable {name}; the nearest is {nearest}; unset it, or see `edgewise config env` for all"
    )]
    UnknownVariable {
        /// Its name.
        name: String,
        /// The most similar known name.
        nearest: String,
    },
    /// A variable of Edgewise whose value is not UTF-8.
    #[error("the value of the environment variable {name} is not valid UTF-8")]
    NotUnicode {
        /// Its name.
        name: String,
    },
    /// A value of the wrong type or out of range.
    #[error("{place}: `{key}` must be {allowed}, not {value}")]
    BadValue {
        /// File and line, variable, or flag.
        place: String,
        /// The key.
        key: String,
        /// What is allowed.
        allowed: String,
        /// The value as written.
        value: String,
    },
    /// Two values that do not fit together.
    #[error("{place}: {message}")]
    Conflict {
        /// Where the value comes from that is easiest to change.
        place: String,
        /// What does not fit and what to do.
        message: String,
    },
    /// A default path is under the home folder and there is none.
    #[error("HOME is not set, so the default folders are unknown; set HOME, or set paths.models and avoid `~`")]
    NoHome,
    /// The working folder is unknown.
    #[error("cannot determine the current folder: {0}")]
    CurrentDir(io::Error),
    /// The table of fields and the typed settings disagree; a defect of Edgewise that its tests exclude.
    #[error("the checked configuration does not fit the settings, which is a defect of Edgewise: {0}")]
    Defect(String),
}

/// The most similar of `candidates`, by Jaro-Winkler similarity, which favours a shared beginning.
pub(crate) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<(&'a str, f64)> {
    let scored = candidates.into_iter().map(|candidate| (candidate, strsim::jaro_winkler(name, candidate)));
    scored.max_by(|a, b| a.1.total_cmp(&b.1))
}

/// ` (did you mean …?)` if one of `candidates` is similar enough that it is probably meant.
pub(crate) fn suggestion<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, candidates) {
        Some((candidate, score)) if score >= 0.8 => format!(" (did you mean `{candidate}`?)"),
        _ => String::new(),
    }
}
