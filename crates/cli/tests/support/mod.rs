//! Runs the binary in a world of its own: its own home, caches, data root and working folder.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    io::{BufRead, BufReader, Lines, Read},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

/// A temporary folder with everything a run reads or writes.
pub(crate) struct World {
    root: tempfile::TempDir,
    models: PathBuf,
}

impl World {
    /// A world without models.
    pub(crate) fn empty() -> Self {
        let root = tempfile::tempdir().unwrap();
        let models = root.path().join("models");
        Self { root, models }
    }

    /// A world with the real test models.
    pub(crate) fn with_models() -> Self {
        let models = std::env::var_os("EDGEWISE_TEST_MODELS")
            .expect("EDGEWISE_TEST_MODELS is not set: run the tests with ./scripts/test, which fetches the models");
        Self { root: tempfile::tempdir().unwrap(), models: models.into() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file below the world's root.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    /// The binary, ready for arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgewise"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("EDGEWISE_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.root.path())
            .env("HOME", self.root.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("EDGEWISE_PATHS__MODELS", &self.models)
            .env("EDGEWISE_PATHS__DATA", self.path("data"))
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Ran {
        Ran(self.command().args(arguments).output().unwrap())
    }

    /// Starts `edgewise serve` on a free port and waits until it says its address.
    pub(crate) fn serve(&self) -> Server {
        let mut child = self
            .command()
            .args(["serve", "--port", "0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let Some(Ok(first)) = lines.next() else {
            let mut text = String::new();
            child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
            panic!("the server did not start: {text}");
        };
        let url = first.strip_prefix("serving on ").unwrap_or_else(|| panic!("unexpected: {first}")).to_owned();
        Server { child, url, _output: lines }
    }
}

/// A finished run.
pub(crate) struct Ran(Output);

impl Ran {
    pub(crate) fn code(&self) -> i32 {
        self.0.status.code().unwrap_or(-1)
    }

    pub(crate) fn stdout(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Asserts the exit code, showing the output when it differs.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code(), code, "\nstdout: {}\nstderr: {}", self.stdout(), self.stderr());
        self
    }

    /// Asserts a failure with `code` that is one clear sentence containing every one of `parts`.
    #[track_caller]
    pub(crate) fn fails_with(self, code: i32, parts: &[&str]) -> Self {
        let ran = self.expect(code);
        let message = ran.stderr();
        let error = message.lines().find(|line| line.starts_with("error: "));
        let error = error.unwrap_or_else(|| panic!("no error line in: {message}"));
        for part in parts {
            assert!(error.contains(part), "`{part}` is missing in: {error}");
        }
        assert!(!message.contains("panicked"), "{message}");
        ran
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout()).unwrap_or_else(|e| panic!("{e}: {}", self.stdout()))
    }
}

/// A running server; killed when dropped.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
    /// Kept open: what a server prints must have somewhere to go.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Server {
    /// Sends SIGINT and waits.
    pub(crate) fn interrupt(&mut self) -> i32 {
        let sent = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        self.child.wait().unwrap().code().unwrap_or(-1)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files below a folder, for "nothing was damaged".
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    if let Ok(entries) = std::fs::read_dir(folder) {
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
