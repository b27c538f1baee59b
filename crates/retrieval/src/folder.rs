//! The files of a collection and of the data root, and how a whole collection is put in place.
//!
//! ```text
//! <root>/<name>/collection.json   the manifest: which catalog, which profile in force
//! <root>/<name>/catalog.sqlite    the truth
//! <root>/<name>/lexical/          derived
//! <root>/<name>/vectors/          derived
//! <root>/.next-<name>/            a collection being made; without manifest until it is complete
//! <root>/.trash-<name>-<id>/      a collection being deleted
//! <root>/.locks/<name>            see `lock`
//! ```
//!
//! A collection appears, is replaced and disappears by a rename, so no other process ever sees half of one. Replacing
//! takes two renames; a kill between them leaves a complete `.next-<name>` and no `<name>`, which [`Folder::recover`]
//! finishes. The manifest's text is also how a process notices that another one replaced the collection.
//!
//! All functions that change something must be called under the collection's writer lock.

use std::{
    fs::{self, File},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use edgewise_types::{CollectionName, ContentHash};
use serde::{Deserialize, Serialize};

use crate::{
    RetrievalError,
    error::{io, of},
};

const MANIFEST: &str = "collection.json";
const CATALOG: &str = "catalog.sqlite";

/// After this, an export that a server made for a download was left behind by a kill.
const EXPORT_AGE: Duration = Duration::from_secs(24 * 3600);

/// What `collection.json` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Manifest {
    /// Identity of the catalog it goes with.
    pub(crate) catalog: String,
    /// The profile in force, as TOML. May differ from the one the catalog was made with in what acts on queries only.
    pub(crate) profile: String,
    /// BLAKE3 of the two, a line end between them. The first version wrote none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    checksum: Option<ContentHash>,
}

impl Manifest {
    pub(crate) fn new(catalog: &str, profile: String) -> Self {
        let checksum = Some(Self::sum(catalog, &profile));
        Self { catalog: catalog.to_owned(), profile, checksum }
    }

    /// Reads what [`Folder::write_manifest`] wrote, or says what is wrong with it.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = serde_json::from_str(text).map_err(|error| format!("it is unreadable: {error}"))?;
        match &manifest.checksum {
            Some(checksum) if *checksum != Self::sum(&manifest.catalog, &manifest.profile) => {
                Err("its checksum is wrong".to_owned())
            }
            _ => Ok(manifest),
        }
    }

    fn sum(catalog: &str, profile: &str) -> ContentHash {
        ContentHash::of(format!("{catalog}\n{profile}").as_bytes())
    }
}

/// Where the files of one collection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    root: PathBuf,
    name: CollectionName,
    path: PathBuf,
}

impl Folder {
    /// The folder of the collection `name`.
    pub(crate) fn of(root: &Path, name: &CollectionName) -> Self {
        Self { root: root.to_owned(), name: name.clone(), path: root.join(name.as_str()) }
    }

    /// The folder in which the collection `name` is made.
    pub(crate) fn next(root: &Path, name: &CollectionName) -> Self {
        Self { root: root.to_owned(), name: name.clone(), path: root.join(format!(".next-{name}")) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn catalog(&self) -> PathBuf {
        self.path.join(CATALOG)
    }

    pub(crate) fn lexical(&self) -> PathBuf {
        self.path.join("lexical")
    }

    pub(crate) fn vectors(&self) -> PathBuf {
        self.path.join("vectors")
    }

    /// Whether there is a collection.
    pub(crate) fn exists(&self) -> bool {
        self.catalog().exists()
    }

    /// The manifest as it stands in the file; `None` if there is no file.
    pub(crate) fn manifest_text(&self) -> Result<Option<String>, RetrievalError> {
        let path = self.path.join(MANIFEST);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                let reason = "it is not text".to_owned();
                Err(RetrievalError::ManifestDamaged { collection: self.name.clone(), reason })
            }
            Err(error) => Err(io("cannot read", &path)(error)),
        }
    }

    /// Puts a manifest in place, atomically and durably.
    pub(crate) fn write_manifest(&self, manifest: &Manifest) -> Result<(), RetrievalError> {
        let mut text = serde_json::to_string_pretty(manifest).map_err(of(&self.name))?;
        text.push('\n');
        let aside = self.path.join(format!("{MANIFEST}.new"));
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, self.path.join(MANIFEST))?;
            sync(&self.path)
        };
        write().map_err(of(&self.name))
    }

    /// Makes the folder, empty.
    pub(crate) fn create_empty(&self) -> Result<(), RetrievalError> {
        self.remove()?;
        fs::create_dir_all(&self.path).map_err(of(&self.name))
    }

    /// Deletes the folder and all in it; nothing to do if there is none.
    pub(crate) fn remove(&self) -> Result<(), RetrievalError> {
        match fs::remove_dir_all(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(io("cannot delete", &self.path)(error)),
            _ => Ok(()),
        }
    }

    /// Renames this folder out of the way, then deletes it. After the rename the collection is gone for good.
    pub(crate) fn discard(&self) -> Result<(), RetrievalError> {
        let trash = self.move_away()?;
        sync(&self.root).map_err(io("cannot sync", &self.root))?;
        // The collection is gone; files that stay behind are swept at the next start.
        if let Err(error) = fs::remove_dir_all(&trash) {
            tracing::warn!(path = %trash.display(), %error, "could not delete the files of a deleted collection");
        }
        Ok(())
    }

    fn move_away(&self) -> Result<PathBuf, RetrievalError> {
        let mut trash = self.root.join(format!(".trash-{}", self.name));
        let mut attempt = 0;
        while trash.exists() {
            attempt += 1;
            trash = self.root.join(format!(".trash-{}-{attempt}", self.name));
        }
        fs::rename(&self.path, &trash).map_err(io("cannot rename", &self.path))?;
        Ok(trash)
    }

    /// Puts this complete folder in the place of the collection, deleting what was there.
    pub(crate) fn publish(&self) -> Result<(), RetrievalError> {
        let target = Self::of(&self.root, &self.name);
        let trash = if target.path.exists() { Some(target.move_away()?) } else { None };
        fs::rename(&self.path, &target.path).map_err(io("cannot rename", &self.path))?;
        sync(&self.root).map_err(io("cannot sync", &self.root))?;
        if let Some(trash) = trash
            && let Err(error) = fs::remove_dir_all(&trash)
        {
            tracing::warn!(path = %trash.display(), %error, "could not delete the files of a replaced collection");
        }
        Ok(())
    }

    /// Gives the collection in this folder another name, at once and for good. Nothing has that name.
    pub(crate) fn rename_to(&self, name: &CollectionName) -> Result<Self, RetrievalError> {
        let target = Self::of(&self.root, name);
        fs::rename(&self.path, &target.path).map_err(io("cannot rename", &self.path))?;
        sync(&self.root).map_err(io("cannot sync", &self.root))?;
        Ok(target)
    }

    /// Whether a kill between the two renames of [`Self::publish`] left the collection without its folder.
    pub(crate) fn needs_recovery(root: &Path, name: &CollectionName) -> bool {
        !Self::of(root, name).path.exists() && Self::next(root, name).path.join(MANIFEST).exists()
    }

    /// Finishes an interrupted [`Self::publish`].
    pub(crate) fn recover(root: &Path, name: &CollectionName) -> Result<(), RetrievalError> {
        if Self::needs_recovery(root, name) {
            tracing::warn!(collection = %name, "finishing the replacement of a collection that was interrupted");
            Self::next(root, name).publish()?;
        }
        Ok(())
    }
}

/// Names of the collections under `root`, in order, without opening any; those whose replacement was interrupted
/// included.
pub fn names(root: &Path) -> Result<Vec<CollectionName>, RetrievalError> {
    let mut names = std::collections::BTreeSet::new();
    for entry in fs::read_dir(root).map_err(io("cannot read", root))? {
        let entry = entry.map_err(io("cannot read", root))?;
        let file_name = entry.file_name();
        let Some(text) = file_name.to_str() else { continue };
        let (text, next) = text.strip_prefix(".next-").map_or((text, false), |rest| (rest, true));
        let Ok(name) = text.parse::<CollectionName>() else { continue };
        let exists = if next { Folder::needs_recovery(root, &name) } else { Folder::of(root, &name).exists() };
        if exists {
            names.insert(name);
        }
    }
    Ok(names.into_iter().collect())
}

/// Deletes what interrupted deletions left behind, and exports that were never fetched. Harmless beside a deletion or an
/// export that is going on.
pub(crate) fn sweep(root: &Path) {
    let Ok(entries) = fs::read_dir(root) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let starts_with = |prefix: &str| name.to_str().is_some_and(|name| name.starts_with(prefix));
        let age = || entry.metadata().and_then(|file| file.modified()).ok().and_then(|time| time.elapsed().ok());
        // A failure here costs disk space only, and the next start tries again.
        if starts_with(".trash-") {
            let _ = fs::remove_dir_all(entry.path());
        } else if starts_with(".export-") && age().is_some_and(|age| age > EXPORT_AGE) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Makes the entries of a folder durable. Only Unix can open a folder; elsewhere renames are durable enough by journal.
fn sync(folder: &Path) -> std::io::Result<()> {
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}
