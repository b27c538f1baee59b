//! Installed models: finding, checking, listing and removing them.

use std::{
    collections::BTreeMap,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::{
    FileSpec, ModelKind, ModelSpec, NoProgress, Progress, Registry, StoreError,
    error::io,
    marker::{Checked, Marker, Stamp},
    write::{hex, sha256_of, sync_folder},
};

/// The folder of models, and the registry that says what should be in it.
#[derive(Debug, Clone)]
pub struct ModelStore {
    pub(crate) root: PathBuf,
    registry: Registry,
}

/// An installed and checked model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelFiles {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ModelKind,
    /// Its folder.
    pub dir: PathBuf,
    /// Path of each of its files, by name.
    pub files: BTreeMap<String, PathBuf>,
    /// SHA-256 over names and hashes of all its files, lower-case hexadecimal: two models with the same digest are the
    /// same model.
    pub digest: String,
}

impl ModelFiles {
    /// The first file, by name, that ends in `suffix`, such as `.gguf`.
    pub fn find(&self, suffix: &str) -> Option<&Path> {
        self.files.iter().find(|(name, _)| name.ends_with(suffix)).map(|(_, path)| path.as_path())
    }
}

/// Whether a model is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelState {
    /// All files are there and are what they should be.
    Installed,
    /// Not there.
    Missing,
    /// Something is there, and not right.
    Damaged {
        /// Which file, and how.
        reason: String,
    },
}

/// A model of the registry and its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelStatus {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ModelKind,
    /// One line about it.
    pub description: String,
    /// SPDX identifier of its licence.
    pub license: String,
    /// Size of its files.
    pub bytes: u64,
    /// Where it is, or would be.
    pub dir: PathBuf,
    /// Whether it is there.
    pub state: ModelState,
}

/// The result of hashing one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileCheck {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: PathBuf,
    /// The SHA-256 it should have: the registry's, or that of its first check.
    pub expected: String,
    /// The SHA-256 it has; `None` if it is not there.
    pub actual: Option<String>,
}

impl FileCheck {
    /// Whether the file is what it should be.
    pub fn is_ok(&self) -> bool {
        self.actual.as_deref() == Some(self.expected.as_str())
    }

    fn reason(&self) -> Option<String> {
        let Self { name, expected, actual, .. } = self;
        match actual {
            None => Some(format!("{name} is missing")),
            Some(actual) if actual != expected => {
                Some(format!("{name} has the SHA-256 {actual}, but it should be {expected}"))
            }
            Some(_) => None,
        }
    }
}

impl ModelStore {
    /// The store in `root`, which is made when something is first put there.
    pub fn open(root: impl Into<PathBuf>, registry: Registry) -> Self {
        Self { root: root.into(), registry }
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What may be in it.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The files of an installed model, checked: every file is there, with the size and hash of the registry. A file is
    /// hashed only if it changed since it was last hashed.
    pub fn resolve(&self, name: &str) -> Result<ModelFiles, StoreError> {
        let spec = self.registry.get(name)?;
        let dir = self.dir(name);
        let Some(checks) = self.checks(spec)? else {
            return Err(StoreError::NotInstalled { name: name.to_owned(), root: self.root.clone() });
        };
        if let Some(reason) = checks.iter().find_map(FileCheck::reason) {
            return Err(StoreError::Damaged { name: name.to_owned(), reason });
        }
        let digest = digest(&checks);
        let files = checks.into_iter().map(|check| (check.name, check.path)).collect();
        Ok(ModelFiles { name: name.to_owned(), kind: spec.kind, dir, files, digest })
    }

    /// Every model of the registry and its state, by name.
    pub fn list(&self) -> Result<Vec<ModelStatus>, StoreError> {
        let status = |spec: &ModelSpec| {
            Ok(ModelStatus {
                name: spec.name.clone(),
                kind: spec.kind,
                description: spec.description.clone(),
                license: spec.license.clone(),
                bytes: spec.bytes(),
                dir: self.dir(&spec.name),
                state: self.state(spec)?,
            })
        };
        self.registry.models().map(status).collect()
    }

    /// Hashes every file of an installed model, whatever was recorded before.
    pub fn verify(&self, name: &str, progress: &dyn Progress) -> Result<Vec<FileCheck>, StoreError> {
        let spec = self.registry.get(name)?;
        let dir = self.dir(name);
        if !dir.is_dir() {
            return Err(StoreError::NotInstalled { name: name.to_owned(), root: self.root.clone() });
        }
        progress.start(&format!("checking {name}"), spec.bytes());
        let nothing_hashed = Marker { first: Marker::read(&dir).first, ..Marker::default() };
        let checks = check_files(spec, &dir, &nothing_hashed, progress)?;
        progress.finish();
        Ok(checks)
    }

    /// Removes an installed model and gives the bytes freed.
    pub fn remove(&self, name: &str) -> Result<u64, StoreError> {
        self.registry.get(name)?;
        let dir = self.dir(name);
        if !dir.exists() {
            return Err(StoreError::NotInstalled { name: name.to_owned(), root: self.root.clone() });
        }
        let _lock = self.lock(name, &NoProgress)?;
        let bytes = folder_bytes(&dir);
        // Renamed first, so that a kill between two files never leaves a model that lacks some.
        let aside = self.partial(name)?;
        let removed = aside.join("removed");
        fs::rename(&dir, &removed).map_err(io("remove", &dir))?;
        sync_folder(&self.root)?;
        fs::remove_dir_all(&aside).map_err(io("remove", &aside))?;
        Ok(bytes)
    }

    pub(crate) fn state(&self, spec: &ModelSpec) -> Result<ModelState, StoreError> {
        Ok(match self.checks(spec)? {
            None => ModelState::Missing,
            Some(checks) => match checks.iter().find_map(FileCheck::reason) {
                Some(reason) => ModelState::Damaged { reason },
                None => ModelState::Installed,
            },
        })
    }

    /// The model's files against what they should be; `None` if it has no folder.
    fn checks(&self, spec: &ModelSpec) -> Result<Option<Vec<FileCheck>>, StoreError> {
        let dir = self.dir(&spec.name);
        match dir.is_dir() {
            true => check_files(spec, &dir, &Marker::read(&dir), &NoProgress).map(Some),
            false => Ok(None),
        }
    }

    /// Waits until no other pull or removal of the model is under way, and keeps others waiting until dropped. The lock
    /// is the operating system's, so a killed process holds none.
    pub(crate) fn lock(&self, name: &str, progress: &dyn Progress) -> Result<File, StoreError> {
        let folder = self.root.join(".locks");
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        let path = folder.join(format!("{name}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                progress.message(&format!("waiting for another process that is changing {name}"));
                file.lock().map_err(io("lock", &path))?;
                Ok(file)
            }
            Err(TryLockError::Error(error)) => Err(io("lock", &path)(error)),
        }
    }

    /// A new, empty folder for work on the model; what earlier, killed work left is removed. Call with the lock held.
    pub(crate) fn partial(&self, name: &str) -> Result<PathBuf, StoreError> {
        let folder = self.root.join(".partial");
        fs::create_dir_all(&folder).map_err(io("create", &folder))?;
        for entry in fs::read_dir(&folder).map_err(io("read", &folder))? {
            let path = entry.map_err(io("read", &folder))?.path();
            let of_model = path.file_name().and_then(|file| file.to_str()).and_then(|file| file.strip_prefix(name));
            let id = of_model.and_then(|rest| rest.strip_prefix('.'));
            if id.is_some_and(|id| !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit())) {
                tracing::info!(path = %path.display(), "removing what an interrupted pull left behind");
                fs::remove_dir_all(&path).map_err(io("remove", &path))?;
            }
        }
        let path = folder.join(format!("{name}.{}", std::process::id()));
        fs::create_dir(&path).map_err(io("create", &path))?;
        Ok(path)
    }
}

/// Compares every file with the registry, hashing those that `marker` does not vouch for, and records what was hashed.
fn check_files(
    spec: &ModelSpec,
    dir: &Path,
    marker: &Marker,
    progress: &dyn Progress,
) -> Result<Vec<FileCheck>, StoreError> {
    let mut found = Marker { first: marker.first.clone(), ..Marker::default() };
    let mut checks = Vec::new();
    for FileSpec { name, sha256, .. } in &spec.files {
        let path = dir.join(name);
        let mut actual = None;
        if let Some(stamp) = Stamp::of(&path)? {
            let known = marker.files.get(name).filter(|checked| checked.stamp == stamp);
            let sum = match known {
                Some(checked) => checked.sha256.clone(),
                None => sha256_of(&path, progress)?,
            };
            found.files.insert(name.clone(), Checked { sha256: sum.clone(), stamp });
            actual = Some(sum);
        }
        let expected = match (sha256, &actual) {
            (Some(pinned), _) => pinned.clone(),
            (None, Some(actual)) => found.first.entry(name.clone()).or_insert_with(|| actual.clone()).clone(),
            (None, None) => found.first.get(name).cloned().unwrap_or_default(),
        };
        checks.push(FileCheck { name: name.clone(), path, expected, actual });
    }
    if found != *marker {
        // A folder that cannot be written is no reason to refuse its models; they are only hashed at every start.
        if let Err(error) = found.write(dir) {
            tracing::warn!(%error, "cannot record that {} was checked, so it is hashed at every start", spec.name);
        }
    }
    Ok(checks)
}

fn digest(checks: &[FileCheck]) -> String {
    let mut hasher = Sha256::new();
    for FileCheck { name, expected: sha256, .. } in checks {
        // Neither contains a line break or a space, so no two lists of files run together alike.
        hasher.update(format!("{name} {sha256}\n"));
    }
    hex(&hasher.finalize())
}

/// Size of all files below `path`; what cannot be read counts nothing.
pub(crate) fn folder_bytes(path: &Path) -> u64 {
    let entries = fs::read_dir(path).into_iter().flatten().filter_map(io::Result::ok);
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => folder_bytes(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
