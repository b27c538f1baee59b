//! All collections under one data root: finding, creating and deleting them.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use edgewise_catalog::Catalog;
use edgewise_documents::IndexProfile;
use edgewise_types::CollectionName;

use crate::{
    Collection, CollectionStats, RetrievalError, RetrievalModels,
    error::{io, of},
    folder::{self, Folder, Manifest},
    lock::WriterLock,
    maintain::{self, Compacted, Repaired},
    state,
};

/// Room an embedder needs around a text for its special tokens.
pub(crate) const SPECIAL_TOKENS: usize = 2;

/// A collection that may be open. Its lock is held while it is being opened, so that it is opened once.
type Slot = Arc<Mutex<Option<Arc<Collection>>>>;

/// All collections under one data root. Share it in an `Arc`.
///
/// Any number of processes may have the same root open. A collection is opened when it is first asked for and then stays
/// open; what other processes do to it is noticed on the next use.
pub struct Collections {
    root: PathBuf,
    models: RetrievalModels,
    slots: Mutex<HashMap<CollectionName, Slot>>,
}

/// What [`Collections::list`] found.
#[derive(Debug, Default)]
pub struct Listing {
    /// Collections in order of name.
    pub collections: Vec<CollectionStats>,
    /// Collections that can't be opened, and why.
    pub damaged: Vec<(CollectionName, RetrievalError)>,
}

impl std::fmt::Debug for Collections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collections").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Collections {
    /// The collections under `root`, which is created if missing.
    pub fn open(root: impl Into<PathBuf>, models: RetrievalModels) -> Result<Self, RetrievalError> {
        let root = root.into();
        std::fs::create_dir_all(&root).map_err(io("cannot create the data folder", &root))?;
        folder::sweep(&root);
        Ok(Self { root, models, slots: Mutex::default() })
    }

    /// Other collections, under another root, with the same models.
    pub fn beside(&self, root: impl Into<PathBuf>) -> Result<Self, RetrievalError> {
        Self::open(root, self.models.clone())
    }

    /// The data root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Names of all collections, in order, without opening any.
    pub fn names(&self) -> Result<Vec<CollectionName>, RetrievalError> {
        folder::names(&self.root)
    }

    /// Every collection with its size. One that can't be opened is reported beside the others, never an error.
    pub fn list(&self) -> Result<Listing, RetrievalError> {
        let mut listing = Listing::default();
        for name in self.names()? {
            match self.get(&name).and_then(|collection| collection.stats()) {
                Ok(stats) => listing.collections.push(stats),
                // Deleted since its name was read.
                Err(RetrievalError::UnknownCollection { .. }) => {}
                Err(error) => listing.damaged.push((name, error)),
            }
        }
        Ok(listing)
    }

    /// An existing collection.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownCollection`], which names those there are.
    pub fn get(&self, name: &CollectionName) -> Result<Arc<Collection>, RetrievalError> {
        let slot = self.slot(name);
        let mut open = slot.lock().unwrap_or_else(PoisonError::into_inner);
        self.get_in(&mut open, name)
    }

    /// An existing collection, whatever its profile (see [`crate::IngestOptions::profile`] to change it), or a new one
    /// with this profile.
    ///
    /// # Errors
    /// [`RetrievalError::InvalidRequest`] if the profile's chunks don't fit the embedder; [`RetrievalError::Locked`] if
    /// another process is creating it right now.
    pub fn get_or_create(
        &self,
        name: &CollectionName,
        profile: &IndexProfile,
    ) -> Result<Arc<Collection>, RetrievalError> {
        let slot = self.slot(name);
        let mut open = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match self.get_in(&mut open, name) {
            Err(RetrievalError::UnknownCollection { .. }) => {}
            found => return found,
        }
        let lock = WriterLock::acquire(&self.root, name)?;
        // Another process may have been faster.
        if !Folder::of(&self.root, name).exists() {
            let next = Folder::next(&self.root, name);
            create(&next, name, profile, &self.models)?;
            complete(&next, name, profile)?;
            next.publish()?;
        }
        drop(lock);
        self.get_in(&mut open, name)
    }

    /// As [`Self::get_or_create`], with the default profile.
    pub fn get_or_create_default(&self, name: &CollectionName) -> Result<Arc<Collection>, RetrievalError> {
        self.get_or_create(name, &IndexProfile::default())
    }

    /// Removes a collection and all its files. A running ingest of this process is cancelled first.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownCollection`]; [`RetrievalError::Locked`] if another process writes to it.
    pub fn delete(&self, name: &CollectionName) -> Result<(), RetrievalError> {
        let slot = self.slot(name);
        let mut open = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if !Folder::of(&self.root, name).exists() && !Folder::needs_recovery(&self.root, name) {
            return Err(self.unknown(name));
        }
        // Not opened for this: a damaged collection can be deleted too.
        match open.as_ref() {
            Some(collection) => collection.delete_files()?,
            None => {
                let _lock = WriterLock::acquire(&self.root, name)?;
                Folder::recover(&self.root, name)?;
                Folder::next(&self.root, name).remove()?;
                Folder::of(&self.root, name).discard()?;
            }
        }
        *open = None;
        Ok(())
    }

    /// As [`maintain::repair`], also where this process itself has the collection open for writing.
    pub fn repair(&self, name: &CollectionName) -> Result<Repaired, RetrievalError> {
        self.aside(name, || maintain::repair(&self.root, name))
    }

    /// As [`maintain::compact`], also where this process itself has the collection open for writing. Searches go on
    /// meanwhile.
    pub fn compact(&self, name: &CollectionName) -> Result<Compacted, RetrievalError> {
        self.aside(name, || maintain::compact(&self.root, name))
    }

    /// As [`maintain::rename`], also where this process itself has the collection open for writing.
    pub fn rename(&self, name: &CollectionName, to: &CollectionName) -> Result<(), RetrievalError> {
        let slot = self.slot(name);
        let mut open = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match open.take() {
            Some(collection) => collection.aside(|| maintain::rename(&self.root, name, to)),
            None => maintain::rename(&self.root, name, to),
        }
    }

    /// Runs `work`, which takes the writer lock itself, while this process does not hold it.
    fn aside<T>(
        &self,
        name: &CollectionName,
        work: impl FnOnce() -> Result<T, RetrievalError>,
    ) -> Result<T, RetrievalError> {
        let slot = self.slot(name);
        let open = slot.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match open {
            Some(collection) => {
                let done = collection.aside(work)?;
                // What another process would have noticed by itself: the indexes are other files now.
                collection.reopen()?;
                Ok(done)
            }
            None => work(),
        }
    }

    fn slot(&self, name: &CollectionName) -> Slot {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(name.clone()).or_default().clone()
    }

    fn get_in(
        &self,
        open: &mut Option<Arc<Collection>>,
        name: &CollectionName,
    ) -> Result<Arc<Collection>, RetrievalError> {
        if Folder::needs_recovery(&self.root, name) {
            let _lock = WriterLock::acquire(&self.root, name)?;
            Folder::recover(&self.root, name)?;
        }
        if !Folder::of(&self.root, name).exists() {
            *open = None;
            return Err(self.unknown(name));
        }
        if let Some(collection) = open {
            return Ok(collection.clone());
        }
        let collection = Arc::new(Collection::open(&self.root, name, self.models.clone())?);
        *open = Some(collection.clone());
        Ok(collection)
    }

    fn unknown(&self, name: &CollectionName) -> RetrievalError {
        RetrievalError::UnknownCollection { name: name.clone(), known: self.names().unwrap_or_default() }
    }
}

/// Makes an empty collection in `folder`, without manifest. Under the writer lock.
pub(crate) fn create(
    folder: &Folder,
    name: &CollectionName,
    profile: &IndexProfile,
    models: &RetrievalModels,
) -> Result<(), RetrievalError> {
    check_profile(profile, models)?;
    folder.create_empty()?;
    let meta = state::blueprint(name, profile, models)?;
    Catalog::create(&folder.catalog(), &meta).map_err(of(name))?;
    Ok(())
}

/// Gives a collection made in `folder` its manifest, which makes it fit to be published.
pub(crate) fn complete(folder: &Folder, name: &CollectionName, profile: &IndexProfile) -> Result<(), RetrievalError> {
    let catalog = Catalog::open(&folder.catalog(), edgewise_catalog::OpenMode::ReadOnly).map_err(of(name))?;
    folder.write_manifest(&Manifest::new(catalog.id(), state::profile_text(name, profile)?))
}

/// Refuses profiles this version or this embedder can't serve.
pub(crate) fn check_profile(profile: &IndexProfile, models: &RetrievalModels) -> Result<(), RetrievalError> {
    let info = models.embedder.info();
    let room = info.max_tokens.saturating_sub(SPECIAL_TOKENS);
    if profile.chunk.max_tokens > room {
        return Err(RetrievalError::InvalidRequest(format!(
            "the index profile allows chunks of {} tokens, but the embedder `{}` reads at most {room}: lower chunk.max_tokens",
            profile.chunk.max_tokens, info.model
        )));
    }
    if !profile.analyser.stop_words && profile.analyser.language != edgewise_documents::Language::None {
        return Err(RetrievalError::InvalidRequest(
            "the index profile keeps stop words of a language, which the lexical index can't: set analyser.stop_words to true, or analyser.language to \"none\"".to_owned(),
        ));
    }
    Ok(())
}
