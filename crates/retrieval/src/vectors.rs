//! The vector index of an open collection as threads share it: changes, snapshots, and graphs built in the background.
//!
//! - Searches only wait for single changes: a graph is built beside the index in place, which goes on serving, and a
//!   snapshot is written while searches read.
//! - Graphs are built by fewer threads than there are processors, and never by those that answer searches.
//! - A finished graph is worth a snapshot. The process that writes to the collection publishes it as soon as no write is
//!   under way; elsewhere the graph serves this process, and is built again by the next.
//!
//! Deliberately not here: what the catalog holds.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use edgewise_documents::GraphProfile;
use edgewise_types::{ChunkId, CollectionName};
use edgewise_vector_index::{GraphOptions, Rebuild, Rebuilt, VectorError, VectorIndex};

use crate::{RetrievalError, error::of, folder::Folder};

/// A snapshot is published when at least one in this many of its vectors changed; fewer are replayed faster than all are
/// written.
const SNAPSHOT_SHARE: usize = 10;

/// Snapshot bookkeeping beside the vectors.
#[derive(Debug)]
pub(crate) struct Vectors {
    pub(crate) index: VectorIndex,
    /// Changes since the snapshot on disk.
    pub(crate) unsaved: usize,
}

impl Vectors {
    fn snapshot_due(&self) -> bool {
        self.unsaved > 0 && self.unsaved * SNAPSHOT_SHARE >= self.index.len()
    }
}

/// The index and what goes on with it. All clones are of the same.
#[derive(Debug, Clone)]
pub(crate) struct SharedVectors(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: CollectionName,
    folder: Folder,
    vectors: RwLock<Vectors>,
    /// Held while the index catches up or is saved: neither is done twice at once.
    busy: Mutex<()>,
    /// Whether a graph is being built.
    building: Mutex<bool>,
    built: Condvar,
    /// Whether a finished graph may be published from the background: this process has the writer lock, and no write is
    /// under way. Held while that is done.
    publishing: Mutex<bool>,
}

/// Forgets that a holder of the lock panicked: what it guards is sound after every statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Options of the index under a profile.
pub(crate) fn graph_options(profile: &GraphProfile) -> GraphOptions {
    GraphOptions {
        threshold: profile.threshold,
        neighbours: profile.neighbours,
        ef_construction: profile.ef_construction,
        ef_search: profile.ef_search,
    }
}

impl SharedVectors {
    pub(crate) fn new(name: CollectionName, folder: Folder, index: VectorIndex) -> Self {
        Self(Arc::new(Shared {
            name,
            folder,
            vectors: RwLock::new(Vectors { index, unsaved: 0 }),
            busy: Mutex::new(()),
            building: Mutex::new(false),
            built: Condvar::new(),
            publishing: Mutex::new(false),
        }))
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Vectors> {
        self.0.vectors.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Vectors> {
        self.0.vectors.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps others from catching up and saving.
    pub(crate) fn busy(&self) -> MutexGuard<'_, ()> {
        lock(&self.0.busy)
    }

    /// Whether a graph is being built.
    pub(crate) fn building(&self) -> bool {
        *lock(&self.0.building)
    }

    /// Whether a snapshot is worth the writing.
    pub(crate) fn snapshot_due(&self) -> bool {
        self.read().snapshot_due()
    }

    /// Publishes a snapshot if `when` says so of the vectors and the number of changes. Searches go on meanwhile.
    pub(crate) fn save_if(&self, when: impl Fn(&Vectors) -> bool) -> Result<(), RetrievalError> {
        let _busy = self.busy();
        let vectors = self.read();
        if !when(&vectors) {
            return Ok(());
        }
        let saved = vectors.unsaved;
        vectors.index.save(&self.0.folder.vectors()).map_err(of(&self.0.name))?;
        drop(vectors);
        let mut vectors = self.write();
        vectors.unsaved = vectors.unsaved.saturating_sub(saved);
        Ok(())
    }

    /// Publishes a snapshot if that is worth the writing, or if `always` whenever it is out of date.
    pub(crate) fn save(&self, always: bool) -> Result<(), RetrievalError> {
        self.save_if(|vectors| vectors.snapshot_due() || (always && vectors.unsaved > 0))
    }

    /// To be called by the writer around every write. Forbidding waits for a snapshot that is being published.
    pub(crate) fn allow_publishing(&self, allowed: bool) {
        *lock(&self.0.publishing) = allowed;
    }

    /// Begins to build a graph if one is due; searches go on with what there is, and use the graph once it has found
    /// itself sound.
    pub(crate) fn build_in_background(&self) {
        let Some(rebuild) = self.begin(false) else { return };
        let shared = self.clone();
        let build = move || {
            shared.finish(build_aside(rebuild)).unwrap_or_else(|error| {
                tracing::warn!(collection = %shared.0.name, %error, "no graph over the vectors");
            });
            let publishing = lock(&shared.0.publishing);
            if *publishing && let Err(error) = shared.save(false) {
                tracing::warn!(collection = %shared.0.name, %error, "the graph is not saved yet");
            }
        };
        let spawned = std::thread::Builder::new().name("edgewise-graph".to_owned()).spawn(build);
        if let Err(error) = spawned {
            let failed = VectorError::Graph { reason: format!("no thread can be started: {error}") };
            tracing::warn!(collection = %self.0.name, error = %failed, "cannot build a graph now");
            // It is told as any other failure.
            let _ = self.finish(Err(failed));
        }
    }

    /// Builds a graph now if one is due or, with `always`, if there is one: then without its tombstones. Waits for one
    /// that is being built.
    pub(crate) fn build_now(&self, always: bool) -> Result<bool, RetrievalError> {
        self.wait();
        let Some(rebuild) = self.begin(always) else { return Ok(false) };
        self.finish(rebuild.build()).map_err(of(&self.0.name))?;
        Ok(true)
    }

    /// Waits until no graph is being built.
    pub(crate) fn wait(&self) {
        let building = lock(&self.0.building);
        drop(self.0.built.wait_while(building, |building| *building).unwrap_or_else(PoisonError::into_inner));
    }

    fn begin(&self, always: bool) -> Option<Rebuild> {
        let mut building = lock(&self.0.building);
        if *building {
            return None;
        }
        let mut vectors = self.write();
        let due = vectors.index.rebuild_due() || (always && vectors.index.stats().tombstones > 0);
        *building = due;
        due.then(|| vectors.index.begin_rebuild())
    }

    fn finish(&self, built: Result<Rebuilt, VectorError>) -> Result<(), VectorError> {
        // After a snapshot that is being written: waiting for it here would keep searches waiting too.
        let busy = self.busy();
        let mut vectors = self.write();
        let result = match built {
            Ok(rebuilt) => {
                vectors.index.install(rebuilt);
                // Worth a snapshot even if no vector changed.
                vectors.unsaved = vectors.unsaved.max(vectors.index.len() / SNAPSHOT_SHARE + 1);
                Ok(())
            }
            Err(error) => {
                vectors.index.abandon();
                Err(error)
            }
        };
        drop((vectors, busy));
        *lock(&self.0.building) = false;
        self.0.built.notify_all();
        result
    }
}

/// Builds on threads of its own, so that a search never waits for a part of it; half as many as there are processors.
fn build_aside(rebuild: Rebuild) -> Result<Rebuilt, VectorError> {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get().div_ceil(2));
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(threads).thread_name(|n| format!("edgewise-graph-{n}")).build();
    match pool {
        Ok(pool) => pool.install(|| rebuild.build()),
        Err(error) => Err(VectorError::Graph { reason: format!("no threads can be started: {error}") }),
    }
}

/// A look at the vector index.
pub(crate) struct VectorsGuard<'s>(pub(crate) RwLockReadGuard<'s, Vectors>);

impl VectorsGuard<'_> {
    pub(crate) fn index(&self) -> &VectorIndex {
        &self.0.index
    }

    /// Whether a chunk is live at the generation of the index.
    pub(crate) fn live(&self, chunk: ChunkId) -> bool {
        self.0.index.contains(chunk)
    }
}
