//! An open catalog and its derived indexes, and how they are kept in step with it.
//!
//! - The vector index lives in memory. Every process brings its own up to the catalog, from the snapshot on disk and the
//!   catalog's changes since; only the writer publishes snapshots.
//! - The lexical index lives on disk. Only the writer changes it; readers see what it committed. While it lags behind
//!   the catalog, chunks that are gone are filtered out (the vector index knows which are live) and new ones are found
//!   by the vector arm alone.
//! - The nodes of the summary tree are indexed in memory, at the first search that asks for them.
//! - An index that is missing, damaged, or of another catalog is rebuilt from the catalog. Nothing else is ever needed:
//!   deleting both index folders loses nothing.
//!
//! Deliberately not here: who may write (see `lock`), search, ingest.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
};

use edgewise_catalog::{Catalog, CatalogError, CatalogMeta, ChunkRecord, EmbedderIdentity, OpenMode};
use edgewise_documents::{IndexProfile, embedding_text};
use edgewise_lexical_index::{Bm25, LexicalConfig, LexicalEntry, LexicalError, LexicalIndex};
use edgewise_types::{Chunk, ChunkId, CollectionName, Generation};
use edgewise_vector_index::{GraphOptions, VectorError, VectorIndex};

use crate::{
    Filter, RetrievalError, RetrievalModels,
    error::of,
    folder::{Folder, Manifest},
    tree::TreeIndex,
    vectors::{SharedVectors, Vectors, VectorsGuard, graph_options},
};

/// Chunks read from the catalog at a time when an index catches up.
const CATCH_UP_CHUNKS: usize = 512;

/// Filters whose chunks are remembered.
const REMEMBERED_FILTERS: usize = 16;

/// Documents read at a time when a filter is applied.
const FILTER_PAGE: usize = 1000;

/// First line of the profile in a catalog's metadata, followed by [`IndexProfile::hash`] at the time of making.
const HASH_COMMENT: &str = "# index hash: ";

/// What a catalog made now would say of itself.
pub(crate) fn blueprint(
    name: &CollectionName,
    profile: &IndexProfile,
    models: &RetrievalModels,
) -> Result<CatalogMeta, RetrievalError> {
    let info = models.embedder.info();
    Ok(CatalogMeta {
        collection: name.clone(),
        profile: format!("{HASH_COMMENT}{}\n{}", profile.hash(), profile_text(name, profile)?),
        embedder: EmbedderIdentity {
            model: info.model.clone(),
            digest: info.digest.clone(),
            dimension: info.dimension,
        },
        generator_tokenizer: models.tokenizer_name.clone(),
    })
}

/// The profile hash a catalog was made under.
pub(crate) fn index_hash(meta: &CatalogMeta) -> &str {
    meta.profile.lines().next().and_then(|line| line.strip_prefix(HASH_COMMENT)).unwrap_or_default()
}

/// A profile as TOML.
pub(crate) fn profile_text(name: &CollectionName, profile: &IndexProfile) -> Result<String, RetrievalError> {
    toml::to_string(profile).map_err(of(name))
}

/// One open collection.
#[derive(Debug)]
pub(crate) struct State {
    name: CollectionName,
    folder: Folder,
    /// The manifest's text when this was opened.
    manifest: Option<String>,
    profile: Arc<IndexProfile>,
    catalog: Catalog,
    lexical_config: LexicalConfig,
    lexical: RwLock<Option<Arc<LexicalIndex>>>,
    vectors: SharedVectors,
    tree: RwLock<TreeIndex>,
    /// Chunks of recent filters, of one generation.
    filters: Mutex<FilterCache>,
}

/// What recent filters came to.
#[derive(Debug, Default)]
struct FilterCache {
    generation: Generation,
    chunks: HashMap<String, Arc<HashSet<ChunkId>>>,
}

impl State {
    /// Opens the collection in `folder` for reading.
    pub(crate) fn open(name: &CollectionName, folder: Folder) -> Result<Self, RetrievalError> {
        let state = Self::open_quietly(name, folder)?;
        state.build_graph_in_background();
        Ok(state)
    }

    /// As [`Self::open`], without anything going on in the background.
    pub(crate) fn open_quietly(name: &CollectionName, folder: Folder) -> Result<Self, RetrievalError> {
        let manifest = folder.manifest_text()?;
        let catalog = Catalog::open(&folder.catalog(), OpenMode::ReadOnly).map_err(of(name))?;
        let in_force = manifest.as_deref().map(Manifest::parse).transpose();
        let in_force =
            in_force.map_err(|reason| RetrievalError::ManifestDamaged { collection: name.clone(), reason })?;
        let profile = match &in_force {
            Some(manifest) => &manifest.profile,
            None => &catalog.meta().profile,
        };
        let profile = IndexProfile::parse(profile, &format!("profile of collection {name}")).map_err(of(name))?;
        let lexical_config = lexical_config(name, &profile, &catalog)?;
        let lexical = open_lexical(name, &folder, &lexical_config)?;
        let vectors = load_vectors(name, &folder, &catalog, graph_options(&profile.graph))?;
        let tree = TreeIndex::new(&catalog, lexical_config.language);
        let state = Self {
            name: name.clone(),
            vectors: SharedVectors::new(name.clone(), folder.clone(), vectors),
            folder,
            manifest,
            profile: Arc::new(profile),
            catalog,
            lexical_config,
            lexical: RwLock::new(lexical.map(Arc::new)),
            tree: RwLock::new(tree),
            filters: Mutex::default(),
        };
        state.follow_vectors()?;
        Ok(state)
    }

    pub(crate) fn folder(&self) -> &Folder {
        &self.folder
    }

    pub(crate) fn manifest(&self) -> Option<&str> {
        self.manifest.as_deref()
    }

    pub(crate) fn profile(&self) -> &Arc<IndexProfile> {
        &self.profile
    }

    /// The catalog, open for reading.
    pub(crate) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(crate) fn generation(&self) -> Result<Generation, RetrievalError> {
        self.catalog.generation().map_err(of(&self.name))
    }

    pub(crate) fn lexical(&self) -> Option<Arc<LexicalIndex>> {
        self.lexical.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn lexical_generation(&self) -> Generation {
        self.lexical().map_or(Generation::default(), |index| index.generation())
    }

    /// The chunks of the documents that satisfy `filter`.
    pub(crate) fn filtered(&self, filter: &Filter) -> Result<Arc<HashSet<ChunkId>>, RetrievalError> {
        let generation = self.generation()?;
        {
            let mut cache = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
            if cache.generation != generation || cache.chunks.len() > REMEMBERED_FILTERS {
                *cache = FilterCache { generation, chunks: HashMap::new() };
            }
            if let Some(chunks) = cache.chunks.get(filter.text()) {
                return Ok(chunks.clone());
            }
        }
        let mut documents = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.catalog.documents(after.as_deref(), FILTER_PAGE).map_err(of(&self.name))?;
            documents
                .extend(page.iter().filter(|document| filter.matches(document)).map(|document| document.id.clone()));
            match page.last() {
                Some(last) if page.len() == FILTER_PAGE => after = Some(last.uri.clone()),
                _ => break,
            }
        }
        let chunks = self.catalog.chunk_ids_of(&documents).map_err(of(&self.name))?;
        let chunks: Arc<HashSet<ChunkId>> = Arc::new(chunks.into_iter().collect());
        let mut cache = self.filters.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.generation == generation {
            cache.chunks.insert(filter.text().to_owned(), chunks.clone());
        }
        Ok(chunks)
    }

    /// Begins to build a graph over the vectors if one is due.
    pub(crate) fn build_graph_in_background(&self) {
        self.vectors.build_in_background();
    }

    /// Builds a graph now if one is due or, with `always`, if there are tombstones.
    pub(crate) fn build_graph(&self, always: bool) -> Result<bool, RetrievalError> {
        self.vectors.build_now(always)
    }

    /// Waits for a graph that is being built.
    pub(crate) fn wait_for_graph(&self) {
        self.vectors.wait();
    }

    /// Whether a graph is being built.
    pub(crate) fn building_graph(&self) -> bool {
        self.vectors.building()
    }

    /// To be called when a write begins: nothing is published from the background until it has ended.
    pub(crate) fn begin_write(&self) {
        self.vectors.allow_publishing(false);
    }

    /// To be called when a write has ended that changed no chunk.
    pub(crate) fn write_over(&self) {
        self.vectors.allow_publishing(true);
    }

    /// To be called when a write has ended: saves vectors if that is worth the writing, and begins to build a graph if one
    /// is due.
    pub(crate) fn end_write(&self) -> Result<(), RetrievalError> {
        // Allowed first: a graph that is finished in between is saved by one or the other.
        self.vectors.allow_publishing(true);
        self.save_vectors(false)?;
        self.build_graph_in_background();
        Ok(())
    }

    /// The vector index, kept from changing while the guard lives.
    pub(crate) fn vectors(&self) -> VectorsGuard<'_> {
        VectorsGuard(self.vectors.read())
    }

    /// The nodes of the summary tree, as they are in the catalog, kept from changing while the guard lives.
    pub(crate) fn tree(&self) -> Result<RwLockReadGuard<'_, TreeIndex>, RetrievalError> {
        let version = self.catalog.tree_version().map_err(of(&self.name))?;
        let tree = self.tree.read().unwrap_or_else(PoisonError::into_inner);
        if tree.version() == version {
            return Ok(tree);
        }
        drop(tree);
        let mut tree = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        // Another search may have waited for the same, and brought it further still.
        if tree.version() < version {
            tree.follow(&self.catalog, &self.name)?;
        }
        drop(tree);
        Ok(self.tree.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Sees what was committed since, by this process or another, without writing anything.
    pub(crate) fn follow_as_reader(&self) -> Result<(), RetrievalError> {
        let generation = self.generation()?;
        if self.lexical_generation() < generation {
            let refreshed = match self.lexical() {
                Some(index) => index.refresh(),
                None => Err(LexicalError::Missing { path: self.folder.lexical() }),
            };
            if let Err(error) = refreshed {
                // The writer may have built or rebuilt it since.
                tracing::debug!(collection = %self.name, %error, "opening the lexical index again");
                self.set_lexical(open_lexical(&self.name, &self.folder, &self.lexical_config)?);
            }
        }
        if self.vectors().index().generation() != generation {
            self.follow_vectors()?;
            self.build_graph_in_background();
        }
        Ok(())
    }

    /// Brings both indexes up to the catalog, on disk too. Only under the writer lock.
    pub(crate) fn follow_as_writer(&self) -> Result<(), RetrievalError> {
        self.follow_vectors()?;
        match self.follow_lexical() {
            Err(LexicalError::NeedsRebuild { reason, .. }) => {
                tracing::warn!(collection = %self.name, reason, "rebuilding the lexical index from the catalog");
                let rebuilt = LexicalIndex::rebuild(&self.folder.lexical(), self.lexical_config.clone());
                self.set_lexical(Some(rebuilt.map_err(of(&self.name))?));
                self.follow_lexical().map_err(of(&self.name))
            }
            followed => followed.map_err(of(&self.name)),
        }
    }

    /// Whether the lexical index on disk lacks something the catalog has.
    pub(crate) fn lexical_behind(&self) -> Result<bool, RetrievalError> {
        let generation = self.generation()?;
        Ok(self.lexical().is_none_or(|index| index.generation() != generation))
    }

    /// Whether a snapshot is worth the writing.
    pub(crate) fn snapshot_due(&self) -> bool {
        self.vectors.snapshot_due()
    }

    /// Publishes a snapshot of the vectors if that is worth the writing, or if `always` whenever it is out of date.
    pub(crate) fn save_vectors(&self, always: bool) -> Result<(), RetrievalError> {
        self.vectors.save(always)
    }

    /// Publishes a snapshot of the vectors whatever is on disk.
    pub(crate) fn save_all_vectors(&self) -> Result<(), RetrievalError> {
        self.vectors.save_if(|_| true)
    }

    /// Compacts the lexical index and gives its lock back.
    pub(crate) fn compact_lexical(&self) -> Result<(), RetrievalError> {
        if let Some(index) = self.lexical() {
            index.compact().map_err(of(&self.name))?;
        }
        self.release_lexical()
    }

    /// Gives the lexical index's own lock back, after waiting for its merges.
    pub(crate) fn release_lexical(&self) -> Result<(), RetrievalError> {
        let index = self.lexical.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(index) = index.and_then(Arc::into_inner) {
            index.close().map_err(of(&self.name))?;
        }
        self.set_lexical(open_lexical(&self.name, &self.folder, &self.lexical_config)?);
        Ok(())
    }

    fn set_lexical(&self, index: Option<LexicalIndex>) {
        *self.lexical.write().unwrap_or_else(PoisonError::into_inner) = index.map(Arc::new);
    }

    fn follow_lexical(&self) -> Result<(), LexicalError> {
        let _guard = self.vectors.busy();
        let path = self.folder.lexical();
        let index = match self.lexical() {
            Some(index) => index,
            None => {
                let index = Arc::new(LexicalIndex::open_or_create(&path, self.lexical_config.clone())?);
                *self.lexical.write().unwrap_or_else(PoisonError::into_inner) = Some(index.clone());
                index
            }
        };
        let stale = |error: CatalogError| match error {
            CatalogError::UnknownGeneration { .. } => {
                LexicalError::NeedsRebuild { path: path.clone(), reason: error.to_string() }
            }
            CatalogError::DiskFull { path } => LexicalError::DiskFull { path },
            error => LexicalError::Failed { path: path.clone(), detail: error.to_string() },
        };
        let reached = index.generation();
        let changes = self.catalog.changes_since(reached).map_err(stale)?;
        if changes.generation == reached {
            return Ok(());
        }
        let mut update = index.update()?;
        for chunk in &changes.removed {
            update.remove(*chunk)?;
        }
        for ids in changes.added.chunks(CATCH_UP_CHUNKS) {
            for record in self.catalog.chunk_records(ids).map_err(stale)? {
                update.add(lexical_entry(record))?;
            }
        }
        update.commit(changes.generation)
    }

    fn follow_vectors(&self) -> Result<(), RetrievalError> {
        let _guard = self.vectors.busy();
        let reached = self.vectors().index().generation();
        let changes = match self.catalog.changes_since(reached) {
            Ok(changes) => changes,
            Err(error @ CatalogError::UnknownGeneration { .. }) => {
                tracing::warn!(collection = %self.name, %error, "rebuilding the vector index from the catalog");
                return self.rebuild_vectors();
            }
            Err(error) => return Err(of(&self.name)(error)),
        };
        if changes.generation == reached {
            return Ok(());
        }
        if reached == Generation::default() {
            return self.rebuild_vectors();
        }
        for ids in changes.added.chunks(CATCH_UP_CHUNKS) {
            let records = self.catalog.chunk_records(ids).map_err(of(&self.name))?;
            let mut vectors = self.vectors.write();
            for record in records {
                vectors.index.insert(record.chunk.id, &record.embedding).map_err(of(&self.name))?;
                vectors.unsaved += 1;
            }
        }
        let mut vectors = self.vectors.write();
        for chunk in &changes.removed {
            vectors.unsaved += usize::from(vectors.index.remove(*chunk));
        }
        vectors.index.set_generation(changes.generation);
        // A generation without chunks must still reach the snapshot some time.
        vectors.unsaved = vectors.unsaved.max(1);
        Ok(())
    }

    /// Reads all vectors from the catalog.
    fn rebuild_vectors(&self) -> Result<(), RetrievalError> {
        let options = graph_options(&self.profile.graph);
        let mut index = VectorIndex::with_options(self.catalog.meta().embedder.dimension, self.catalog.id(), options);
        let mut failed: Option<VectorError> = None;
        let generation = self
            .catalog
            .for_each_embedding(|chunk, vector| {
                if let Err(error) = index.insert(chunk, vector) {
                    failed.get_or_insert(error);
                }
            })
            .map_err(of(&self.name))?;
        if let Some(error) = failed {
            return Err(of(&self.name)(error));
        }
        index.set_generation(generation);
        let unsaved = index.len().max(1);
        let mut vectors = self.vectors.write();
        if !vectors.index.rebuilding() {
            *vectors = Vectors { index, unsaved };
            return Ok(());
        }
        // A graph is being built over the index in place: change that one, so that what is installed fits.
        let gone: Vec<ChunkId> = vectors.index.chunks().filter(|chunk| !index.contains(*chunk)).collect();
        for chunk in gone {
            vectors.index.remove(chunk);
        }
        let fresh: Vec<ChunkId> = index.chunks().collect();
        for chunk in fresh {
            if let Some(vector) = index.vector(chunk) {
                vectors.index.insert(chunk, &vector).map_err(of(&self.name))?;
            }
        }
        vectors.index.set_generation(generation);
        vectors.unsaved = unsaved;
        Ok(())
    }
}

/// How a catalog is indexed under a profile.
pub(crate) fn lexical_config(
    name: &CollectionName,
    profile: &IndexProfile,
    catalog: &Catalog,
) -> Result<LexicalConfig, RetrievalError> {
    let language =
        serde_json::to_value(profile.analyser.language).and_then(serde_json::from_value).map_err(of(name))?;
    Ok(LexicalConfig { language, bm25: Bm25::default(), source: catalog.id().to_owned() })
}

/// What the lexical index holds of a chunk: each title in one field only.
fn lexical_entry(record: ChunkRecord) -> LexicalEntry {
    let Chunk { id: chunk, mut heading_path, text, .. } = record.chunk;
    let body = embedding_text(&heading_path, &text);
    // Titles with which the text begins are in its heading path.
    let header = embedding_text(&heading_path, "").len();
    let body = body.get(header..).unwrap_or(&text).trim_start().to_owned();
    heading_path.retain(|heading| *heading != record.title);
    LexicalEntry { chunk, title: record.title, heading_path, body }
}

/// The lexical index if it is there and sound; `None` if the writer must build it first.
fn open_lexical(
    name: &CollectionName,
    folder: &Folder,
    config: &LexicalConfig,
) -> Result<Option<LexicalIndex>, RetrievalError> {
    match LexicalIndex::open(&folder.lexical(), config.clone()) {
        Ok(index) => Ok(Some(index)),
        Err(LexicalError::Missing { .. }) => Ok(None),
        Err(error @ LexicalError::NeedsRebuild { .. }) => {
            tracing::warn!(collection = %name, %error, "the lexical index is not usable");
            Ok(None)
        }
        Err(error) => Err(of(name)(error)),
    }
}

/// The vectors of the snapshot, or none.
fn load_vectors(
    name: &CollectionName,
    folder: &Folder,
    catalog: &Catalog,
    options: GraphOptions,
) -> Result<VectorIndex, RetrievalError> {
    let dimension = catalog.meta().embedder.dimension;
    match VectorIndex::load(&folder.vectors(), dimension, catalog.id(), options) {
        Ok(Some(index)) => Ok(index),
        Ok(None) => Ok(VectorIndex::with_options(dimension, catalog.id(), options)),
        Err(error @ VectorError::NeedsRebuild { .. }) => {
            tracing::warn!(collection = %name, %error, "reading the vectors from the catalog instead");
            Ok(VectorIndex::with_options(dimension, catalog.id(), options))
        }
        Err(error) => Err(of(name)(error)),
    }
}
