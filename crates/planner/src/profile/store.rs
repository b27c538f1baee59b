//! Profiles on disk: one small JSON file for each model digest, replaced whole or not at all.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use edgewise_model_api::GeneratorInfo;

use super::ReadingProfile;

/// A profile can't be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum ProfileStoreError {
    /// The folder or a file in it can't be used.
    #[error("cannot {what} {path} ({source}): check its permissions and the disk, or set another `paths.profiles`")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A file is not a profile, or one of another version.
    #[error("{path} is not a reading profile ({reason}): delete it and run `edgewise probe` again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// The folder of profiles.
#[derive(Debug, Clone)]
pub struct ProfileStore {
    folder: PathBuf,
}

impl ProfileStore {
    /// Profiles in `folder`, which is made when the first one is saved.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// A file for this model in the folder; `kind` is its suffix. Digests are hexadecimal; anything else in one is left
    /// out, so that no name leads out of the folder.
    pub fn path(&self, info: &GeneratorInfo, kind: &str) -> PathBuf {
        let name: String = info.digest.chars().filter(char::is_ascii_alphanumeric).collect();
        self.folder.join(format!("{name}.{kind}"))
    }

    /// The profile of this model, if there is one.
    ///
    /// # Errors
    /// The file can't be read, or is not a profile of this model.
    pub fn load(&self, info: &GeneratorInfo) -> Result<Option<ReadingProfile>, ProfileStoreError> {
        let path = self.path(info, "json");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ProfileStoreError::Io { what: "read", path, source }),
        };
        let damaged = |reason: String| ProfileStoreError::Damaged { path: path.clone(), reason };
        let profile: ReadingProfile = serde_json::from_slice(&bytes).map_err(|error| damaged(error.to_string()))?;
        match profile.is_of(info) {
            true => Ok(Some(profile)),
            false => Err(damaged(format!("it is of {}, another model", profile.model))),
        }
    }

    /// Puts `profile` in the place of any other of its model. After a crash there is the old one or the new one.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, profile: &ReadingProfile) -> Result<PathBuf, ProfileStoreError> {
        let info = GeneratorInfo {
            model: profile.model.clone(),
            digest: profile.digest.clone(),
            context_window: profile.window,
        };
        let path = self.path(&info, "json");
        let bytes = serde_json::to_vec_pretty(profile)
            .map_err(|error| ProfileStoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
        write_whole(&path, &bytes)?;
        Ok(path)
    }
}

/// Writes a file aside, syncs it and puts it in its place, making the folder if it is missing.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), ProfileStoreError> {
    let failed = |what| {
        let path = path.to_owned();
        move |source| ProfileStoreError::Io { what, path, source }
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    let aside = path.with_extension(format!("tmp-{}", std::process::id()));
    let written = File::create(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let placed = written.and_then(|()| fs::rename(&aside, path)).and_then(|()| File::open(folder)?.sync_all());
    placed.map_err(|source| {
        // What was written aside is of no use; that it can't be removed either changes nothing.
        let _ = fs::remove_file(&aside);
        failed("write")(source)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::profile::tests::{info, measurement, observed};

    #[test]
    fn a_profile_comes_back_and_another_models_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = ProfileStore::new(folder.path().join("profiles"));
        assert_eq!(store.load(&info()).unwrap(), None);
        let profile = ReadingProfile::of(&info(), measurement(), &observed(&[512], 3, 4, |_, _| 0.5));
        let path = store.save(&profile).unwrap();
        assert_eq!(store.load(&info()).unwrap(), Some(profile));
        let other = GeneratorInfo { digest: "e".to_owned(), ..info() };
        assert_eq!(store.load(&other).unwrap(), None);
        fs::rename(&path, store.path(&other, "json")).unwrap();
        let error = store.load(&other).unwrap_err().to_string();
        assert!(error.contains("another model") && error.contains("edgewise probe"), "{error}");
    }

    #[test]
    fn damage_is_said_and_a_failed_save_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = ProfileStore::new(folder.path());
        let profile = ReadingProfile::of(&info(), measurement(), &observed(&[512], 3, 4, |_, _| 0.5));
        let path = store.save(&profile).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in [0, 1, whole.len() / 2] {
            fs::write(&path, &whole[..cut]).unwrap();
            assert!(matches!(store.load(&info()), Err(ProfileStoreError::Damaged { .. })));
        }
        fs::write(&path, &whole).unwrap();
        // A folder in the place of the file that is written aside.
        fs::create_dir(path.with_extension(format!("tmp-{}", std::process::id()))).unwrap();
        assert!(matches!(store.save(&profile), Err(ProfileStoreError::Io { .. })));
        assert_eq!(store.load(&info()).unwrap(), Some(profile));
    }

    #[test]
    fn no_digest_leads_out_of_the_folder() {
        let store = ProfileStore::new("profiles");
        let sly = GeneratorInfo { digest: "../../etc/passwd".to_owned(), ..info() };
        assert_eq!(store.path(&sly, "json"), Path::new("profiles/etcpasswd.json"));
    }
}
