//! One collection: access to its documents, and who may write.
//!
//! A process becomes the writer with its first write, by taking the collection's lock, and stays it until the collection
//! is dropped: a server that has taken in a document keeps others from writing under it, while one that only answers
//! questions leaves them free to. Writes of one process come one after the other; reads never wait for them.
//!
//! Every use first looks whether another process replaced or deleted the collection, which costs reading one small file.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use edgewise_catalog::{Batch, Catalog, OpenMode};
use edgewise_documents::IndexProfile;
use edgewise_model_api::{Embedder, Reranker, Tokenizer};
use edgewise_types::{Chunk, ChunkId, CollectionName, Document, DocumentId, Generation, PageMap};

use crate::{
    CollectionStats, RetrievalError,
    error::of,
    folder::{self, Folder},
    lock::WriterLock,
    state::State,
};

/// How often a write that waits for another one looks whether it should go on waiting.
const WRITER_LOOK: Duration = Duration::from_millis(5);

/// A reranker and how much it reads.
#[derive(Clone)]
pub struct Reranking {
    /// The model.
    pub model: Arc<dyn Reranker>,
    /// How many of the best hits of a search it reads.
    pub depth: usize,
}

/// What a collection needs from models.
#[derive(Clone)]
pub struct RetrievalModels {
    /// Embeds chunks and queries.
    pub embedder: Arc<dyn Embedder>,
    /// The generator's tokenizer, for token counts of texts.
    pub tokenizer: Arc<dyn Tokenizer>,
    /// Its name.
    pub tokenizer_name: String,
    /// Reads the best hits of a search once more, if there is one.
    pub reranker: Option<Reranking>,
}

/// One collection. Share it in an `Arc`; all methods take `&self` and block.
pub struct Collection {
    name: CollectionName,
    root: PathBuf,
    pub(crate) models: RetrievalModels,
    state: RwLock<Arc<State>>,
    writer: Mutex<Option<Writer>>,
    /// Set when the collection is being deleted: a running ingest stops.
    pub(crate) closing: AtomicBool,
    /// Set while its summary tree is being built.
    pub(crate) building_tree: AtomicBool,
}

/// What only the writing process has.
pub(crate) struct Writer {
    /// The catalog of the current state, open for writing.
    pub(crate) catalog: Catalog,
    /// Last, so that it is released last.
    _lock: WriterLock,
}

impl std::fmt::Debug for Collection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collection").field("root", &self.root).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Drop for Collection {
    /// The lock goes with this: nothing may be published from then on.
    fn drop(&mut self) {
        self.state().begin_write();
    }
}

impl Collection {
    pub(crate) fn open(root: &Path, name: &CollectionName, models: RetrievalModels) -> Result<Self, RetrievalError> {
        let state = Arc::new(State::open(name, Folder::of(root, name))?);
        let collection = Self {
            name: name.clone(),
            root: root.to_owned(),
            models,
            state: RwLock::new(state),
            writer: Mutex::new(None),
            closing: AtomicBool::new(false),
            building_tree: AtomicBool::new(false),
        };
        let state = collection.state();
        if state.snapshot_due() || state.lexical_behind()? {
            collection.repair(&state);
        }
        Ok(collection)
    }

    /// Completes what a killed writer left behind, if no process is writing. A failure is no error for the caller: search
    /// works without, and says so in its notes; a write meets the same failure and reports it.
    pub(crate) fn repair(&self, state: &State) {
        let _lock = match WriterLock::acquire(&self.root, &self.name) {
            Ok(lock) => lock,
            Err(error) => {
                // Either its writer is at work, or nothing may be written here.
                tracing::debug!(collection = %self.name, %error, "leaving the indexes as they are");
                return;
            }
        };
        tracing::info!(collection = %self.name, "bringing the indexes up to the catalog");
        let repaired =
            state.follow_as_writer().and_then(|()| state.save_vectors(false)).and_then(|()| state.release_lexical());
        if let Err(error) = repaired {
            tracing::warn!(collection = %self.name, %error, "could not bring the indexes up to the catalog");
        }
    }

    /// Its name.
    pub fn name(&self) -> &CollectionName {
        &self.name
    }

    /// The profile it is indexed with.
    pub fn profile(&self) -> Arc<IndexProfile> {
        self.state().profile().clone()
    }

    /// Size and state.
    pub fn stats(&self) -> Result<CollectionStats, RetrievalError> {
        let state = self.current()?;
        state.follow_as_reader()?;
        let stats = state.catalog().stats().map_err(of(&self.name))?;
        Ok(CollectionStats {
            name: self.name.clone(),
            generation: stats.generation,
            documents: stats.documents,
            chunks: stats.chunks,
            text_bytes: stats.text_bytes,
            tokens: stats.generator_tokens,
            embedder: state.catalog().meta().embedder.model.clone(),
            lexical_generation: state.lexical_generation(),
            vector_generation: state.vectors().index().generation(),
            graph_vectors: state.vectors().index().stats().graph,
            building_graph: state.building_graph(),
        })
    }

    /// Generation of the last commit, also of another process.
    pub fn generation(&self) -> Result<Generation, RetrievalError> {
        self.current()?.generation()
    }

    /// Documents in order of URI, `limit` of them after the first `offset`. Reads the skipped ones too; to go through
    /// many, use [`Self::documents_after`].
    pub fn documents(&self, offset: usize, limit: usize) -> Result<Vec<Document>, RetrievalError> {
        let mut documents =
            self.current()?.catalog().documents(None, offset.saturating_add(limit)).map_err(of(&self.name))?;
        documents.drain(..offset.min(documents.len()));
        Ok(documents)
    }

    /// Documents in order of URI, `limit` of them after the one with the URI `after`.
    pub fn documents_after(&self, after: Option<&str>, limit: usize) -> Result<Vec<Document>, RetrievalError> {
        self.current()?.catalog().documents(after, limit).map_err(of(&self.name))
    }

    /// One document.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownDocument`].
    pub fn document(&self, id: &DocumentId) -> Result<Document, RetrievalError> {
        let document = self.current()?.catalog().document(id).map_err(of(&self.name))?;
        document.ok_or_else(|| self.unknown_document(id))
    }

    /// Normalised text of a document: what all spans of its chunks point into.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownDocument`].
    pub fn document_text(&self, id: &DocumentId) -> Result<Arc<str>, RetrievalError> {
        let text = self.current()?.catalog().document_text(id).map_err(of(&self.name))?;
        text.map(Arc::from).ok_or_else(|| self.unknown_document(id))
    }

    /// Where pages begin in the text of a document; empty for formats without pages.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownDocument`].
    pub fn document_pages(&self, id: &DocumentId) -> Result<PageMap, RetrievalError> {
        let pages = self.current()?.catalog().document_pages(id).map_err(of(&self.name))?;
        pages.ok_or_else(|| self.unknown_document(id))
    }

    /// Chunks of a document in order.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownDocument`].
    pub fn chunks_of(&self, id: &DocumentId) -> Result<Vec<Chunk>, RetrievalError> {
        let state = self.current()?;
        let chunks = state.catalog().chunks_of(id).map_err(of(&self.name))?;
        if chunks.is_empty() && state.catalog().document(id).map_err(of(&self.name))?.is_none() {
            return Err(self.unknown_document(id));
        }
        Ok(chunks)
    }

    /// Every chunk with the document it is of.
    pub fn chunk_documents(&self) -> Result<Vec<(ChunkId, DocumentId)>, RetrievalError> {
        self.current()?.catalog().chunk_documents().map_err(of(&self.name))
    }

    /// Hash of documents, texts, chunks and metadata, whatever the order in which they came. Embeddings are left out:
    /// their last bits may depend on how texts were batched.
    pub fn content_fingerprint(&self) -> Result<String, RetrievalError> {
        let fingerprint = self.current()?.catalog().content_fingerprint().map_err(of(&self.name))?;
        Ok(fingerprint.content.to_string())
    }

    /// Deletes one document.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownDocument`]; [`RetrievalError::Locked`] if another process writes.
    pub fn delete_document(&self, id: &DocumentId) -> Result<(), RetrievalError> {
        self.delete_documents(std::slice::from_ref(id))
    }

    /// Deletes documents in one commit: all of them, or none if one is unknown.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownDocument`]; [`RetrievalError::Locked`] if another process writes.
    pub fn delete_documents(&self, ids: &[DocumentId]) -> Result<(), RetrievalError> {
        let mut writer = self.writer();
        let (state, writer) = self.write(&mut writer)?;
        for id in ids {
            if state.catalog().document(id).map_err(of(&self.name))?.is_none() {
                return Err(self.unknown_document(id));
            }
        }
        let batch = Batch { upserts: Vec::new(), deletes: ids.to_vec() };
        writer.catalog.commit(&batch).map_err(of(&self.name))?;
        state.follow_as_writer()?;
        state.end_write()
    }

    /// Brings the indexes on disk up to the catalog, with the graph over the vectors if one is due. Ingest does so by
    /// itself, but for the graph; without it, the next start replays what is missing. Does nothing in a process that does
    /// not write.
    pub fn flush(&self) -> Result<(), RetrievalError> {
        let writer = self.writer();
        if writer.is_none() {
            return Ok(());
        }
        let state = self.current()?;
        state.follow_as_writer()?;
        state.build_graph_in_background();
        state.wait_for_graph();
        state.save_vectors(true)
    }

    /// Deletes all files, after a running write of this process has stopped.
    pub(crate) fn delete_files(&self) -> Result<(), RetrievalError> {
        self.closing.store(true, Ordering::Release);
        let mut writer = self.writer();
        self.state().begin_write();
        let delete = || -> Result<(), RetrievalError> {
            let _lock = if writer.is_none() { Some(WriterLock::acquire(&self.root, &self.name)?) } else { None };
            Folder::recover(&self.root, &self.name)?;
            Folder::next(&self.root, &self.name).remove()?;
            Folder::of(&self.root, &self.name).discard()
        };
        let deleted = delete();
        match deleted {
            // Gives the lock back.
            Ok(()) => *writer = None,
            Err(_) => self.closing.store(false, Ordering::Release),
        }
        deleted
    }

    /// Runs `work` after this process's running write, with the writer lock and the indexes' own locks given back.
    pub(crate) fn aside<T>(&self, work: impl FnOnce() -> Result<T, RetrievalError>) -> Result<T, RetrievalError> {
        let mut writer = self.writer();
        if writer.take().is_some() {
            self.state().release_lexical()?;
        }
        work()
    }

    /// Whether it is being deleted.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn unknown_document(&self, id: &DocumentId) -> RetrievalError {
        RetrievalError::UnknownDocument { collection: self.name.clone(), document: id.clone() }
    }

    /// The state as this process knows it.
    pub(crate) fn state(&self) -> Arc<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The state as it is on disk: opened again if another process replaced the collection.
    pub(crate) fn current(&self) -> Result<Arc<State>, RetrievalError> {
        let state = self.state();
        let folder = Folder::of(&self.root, &self.name);
        if folder.manifest_text()?.as_deref() == state.manifest() && folder.exists() {
            return Ok(state);
        }
        self.reopen()
    }

    /// Opens the state again after a replacement.
    pub(crate) fn reopen(&self) -> Result<Arc<State>, RetrievalError> {
        let folder = Folder::of(&self.root, &self.name);
        if !folder.exists() {
            let known = folder::names(&self.root).unwrap_or_default();
            return Err(RetrievalError::UnknownCollection { name: self.name.clone(), known });
        }
        let state = Arc::new(State::open(&self.name, folder)?);
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = state.clone();
        Ok(state)
    }

    /// Waits for other writes of this process.
    pub(crate) fn writer(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As [`Self::writer`], unless `stop` says so before it is free.
    pub(crate) fn writer_until(&self, stop: &dyn Fn() -> bool) -> Option<MutexGuard<'_, Option<Writer>>> {
        loop {
            match self.writer.try_lock() {
                Ok(writer) => return Some(writer),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if stop() => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(WRITER_LOOK),
            }
        }
    }

    /// As [`Self::write`], for what the indexes of chunks do not follow.
    pub(crate) fn write_catalog<'w>(&self, writer: &'w mut Option<Writer>) -> Result<&'w mut Writer, RetrievalError> {
        let fresh = writer.is_none();
        let (state, writer) = self.write(writer)?;
        if fresh {
            state.end_write()?;
        } else {
            state.write_over();
        }
        Ok(writer)
    }

    /// Makes this process the writer, unless it is already.
    pub(crate) fn write<'w>(
        &self,
        writer: &'w mut Option<Writer>,
    ) -> Result<(Arc<State>, &'w mut Writer), RetrievalError> {
        let writer = match writer {
            Some(writer) => writer,
            None => {
                let lock = WriterLock::acquire(&self.root, &self.name)?;
                Folder::recover(&self.root, &self.name)?;
                let state = self.current()?;
                let catalog = Catalog::open(state.catalog().path(), OpenMode::ReadWrite).map_err(of(&self.name))?;
                state.follow_as_writer()?;
                writer.insert(Writer { catalog, _lock: lock })
            }
        };
        // Nobody else replaces the collection while this process holds the lock, so the two go together.
        let state = self.current()?;
        state.begin_write();
        Ok((state, writer))
    }
}
