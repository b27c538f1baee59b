//! Opening, creating and searching the index.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use edgewise_types::{ChunkId, Generation};
use serde::{Deserialize, Serialize};
use tantivy::{
    Directory, Index, IndexReader, IndexSettings, IndexWriter, ReloadPolicy, TantivyError,
    directory::META_LOCK,
    indexer::NoMergePolicy,
    schema::{FAST, Field, INDEXED, IndexRecordOption, Schema, TextFieldIndexing, TextOptions},
    tokenizer::TextAnalyzer,
};

use crate::{
    Language, LexicalError, LexicalUpdate,
    analyser::{ANALYSER, analyser},
    directory::CheckedDirectory,
    lengths::Lengths,
    query,
    update::WRITER_MEMORY_BYTES,
};

/// Changes with the schema, the analyser or the meaning of a field; an index of another format is rebuilt.
const FORMAT: u32 = 3;

/// Parameters of the score; see [`LexicalIndex::search`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bm25 {
    /// Saturation: how much a second occurrence still adds.
    pub k1: f32,
    /// Length normalisation, 0 to 1.
    pub b: f32,
    /// Weight of a term in the document's title.
    pub title: f32,
    /// Weight of a term in the titles of the sections around the chunk.
    pub heading_path: f32,
    /// Weight of a term in the chunk's text.
    pub body: f32,
    /// Weight of two neighbouring words that stay neighbours, relative to one word; 0 leaves phrases out.
    pub phrase: f32,
}

impl Default for Bm25 {
    /// Chosen by the largest mean nDCG@10 over four labelled sets, among k1 0.9 and 1.2, b 0.4, 0.6 and 0.75, titles
    /// weighted 1, 1.5 and 2. Whichever set is left out, the other three choose the same. Against 0.9, 0.4 and plain
    /// titles it gains 0.01 to 0.03 on three of the sets and loses 0.006 on the fourth. Headings weigh what text does:
    /// no measured set has any.
    fn default() -> Self {
        Self { k1: 1.2, b: 0.6, title: 2.0, heading_path: 1.0, body: 1.0, phrase: 0.0 }
    }
}

/// How a collection is indexed.
#[derive(Debug, Clone, PartialEq)]
pub struct LexicalConfig {
    /// Language of the texts. An index of another language must be rebuilt.
    pub language: Language,
    /// Parameters of the score. May change at any time: they only enter queries.
    pub bm25: Bm25,
    /// Identity of the catalog it derives from. An index of another catalog must be rebuilt.
    pub source: String,
}

/// A chunk to index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LexicalEntry {
    /// Its id; an entry with the same id is replaced.
    pub chunk: ChunkId,
    /// Title of its document.
    pub title: String,
    /// Titles of the sections it stands in, outermost first.
    pub heading_path: Vec<String>,
    /// Its text.
    pub body: String,
}

/// A chunk found.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LexicalHit {
    /// Its id.
    pub chunk: ChunkId,
    /// BM25 score, above 0; comparable within one query only.
    pub score: f32,
}

/// What the commit payload says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload {
    format: u32,
    language: Language,
    source: String,
    pub(crate) generation: u64,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields {
    pub(crate) chunk: Field,
    pub(crate) title: Field,
    pub(crate) heading_path: Field,
    pub(crate) body: Field,
}

/// The index of one collection. Shared between threads: searches run in parallel, also beside an update.
pub struct LexicalIndex {
    pub(crate) path: PathBuf,
    pub(crate) config: LexicalConfig,
    pub(crate) index: Index,
    pub(crate) fields: Fields,
    pub(crate) reader: IndexReader,
    pub(crate) analyser: TextAnalyzer,
    pub(crate) lengths: Lengths,
    /// Opened, and the lock file taken, by the first update.
    pub(crate) writer: Mutex<Option<IndexWriter>>,
    pub(crate) generation: AtomicU64,
}

impl std::fmt::Debug for LexicalIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LexicalIndex")
            .field("path", &self.path)
            .field("config", &self.config)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

impl LexicalIndex {
    /// Opens the index in the folder `path`, or creates an empty one of generation 0 there, folder included.
    ///
    /// # Errors
    /// As [`Self::open`], except for [`LexicalError::Missing`].
    pub fn open_or_create(path: &Path, config: LexicalConfig) -> Result<Self, LexicalError> {
        match Self::open(path, config.clone()) {
            Err(LexicalError::Missing { .. }) => Self::rebuild(path, config),
            opened => opened,
        }
    }

    /// Opens the index in the folder `path`. Takes no writer's lock and changes nothing, so any number of processes may.
    /// All checksums are verified, which reads the whole index once.
    ///
    /// # Errors
    /// [`LexicalError::Missing`] if there is none; [`LexicalError::NeedsRebuild`] if it is damaged, or of another
    /// format, language or catalog: then call [`Self::rebuild`].
    pub fn open(path: &Path, config: LexicalConfig) -> Result<Self, LexicalError> {
        let exists = path.join("meta.json").try_exists().map_err(|error| LexicalError::io(path, &error))?;
        if !exists {
            return Err(LexicalError::Missing { path: path.to_owned() });
        }
        // tantivy indexes by lengths it reads, and panics on some damaged files before it has seen their checksum.
        catch_unwind(|| Self::open_checked(path, config))
            .unwrap_or_else(|_| Err(LexicalError::rebuild(path, "its files are damaged")))
    }

    fn open_checked(path: &Path, config: LexicalConfig) -> Result<Self, LexicalError> {
        let fail = |error: TantivyError| LexicalError::tantivy(path, &error);
        let directory = CheckedDirectory::open(path).map_err(|error| fail(error.into()))?;
        let index = Index::open(directory).map_err(fail)?;
        let payload =
            read_payload(&index, path)?.ok_or_else(|| LexicalError::rebuild(path, "its creation was interrupted"))?;
        let (schema, _) = schema();
        if payload.format != FORMAT || index.schema() != schema {
            return Err(LexicalError::rebuild(path, format!("its format is {}, expected {FORMAT}", payload.format)));
        }
        if payload.language != config.language {
            let reason = format!("its language is `{}`, expected `{}`", payload.language, config.language);
            return Err(LexicalError::rebuild(path, reason));
        }
        if payload.source != config.source {
            return Err(LexicalError::rebuild(path, "it belongs to another catalog"));
        }
        let damaged = {
            // Keeps a writer in another process from deleting merged files while they are read.
            let _lock = index.directory().acquire_lock(&META_LOCK).map_err(|error| fail(error.into()))?;
            index.validate_checksum().map_err(fail)?
        };
        if let Some(file) = damaged.iter().min() {
            return Err(LexicalError::rebuild(path, format!("file `{}` has a wrong checksum", file.display())));
        }
        Self::assemble(path, config, index, payload.generation)
    }

    /// Deletes whatever the folder `path` holds and creates an empty index of generation 0 there. The owner then applies
    /// the catalog's changes since 0.
    pub fn rebuild(path: &Path, config: LexicalConfig) -> Result<Self, LexicalError> {
        match fs::remove_dir_all(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(LexicalError::io(path, &error)),
            _ => {}
        }
        fs::create_dir_all(path).map_err(|error| LexicalError::io(path, &error))?;
        let fail = |error: TantivyError| LexicalError::tantivy(path, &error);
        let (schema, _) = schema();
        let directory = CheckedDirectory::open(path).map_err(|error| fail(error.into()))?;
        let index = Index::create(directory, schema, IndexSettings::default()).map_err(fail)?;
        let created = Self::assemble(path, config, index, 0)?;
        // Without this commit there is no payload, and the index would be taken for an interrupted creation.
        created.update()?.commit(Generation(0))?;
        Ok(created)
    }

    fn assemble(path: &Path, config: LexicalConfig, index: Index, generation: u64) -> Result<Self, LexicalError> {
        let analyser = analyser(config.language);
        index.tokenizers().register(ANALYSER, analyser.clone());
        let (_, fields) = schema();
        let reader = index
            .reader_builder()
            .reload_policy(ReloadPolicy::Manual)
            .try_into()
            .map_err(|error| LexicalError::tantivy(path, &error))?;
        Ok(Self {
            path: path.to_owned(),
            config,
            index,
            fields,
            reader,
            analyser,
            lengths: Lengths::default(),
            writer: Mutex::new(None),
            generation: AtomicU64::new(generation),
        })
    }

    /// The catalog generation that searches reflect.
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    /// Number of chunks.
    pub fn len(&self) -> usize {
        usize::try_from(self.reader.searcher().num_docs()).unwrap_or(usize::MAX)
    }

    /// Every chunk it holds, in no particular order; one that stands in it twice comes twice.
    pub fn chunks(&self) -> Result<Vec<ChunkId>, LexicalError> {
        let fail = |error: TantivyError| LexicalError::tantivy(&self.path, &error);
        let searcher = self.reader.searcher();
        let mut chunks = Vec::with_capacity(self.len());
        for segment in searcher.segment_readers() {
            let ids = segment.fast_fields().u64("chunk").map_err(fail)?;
            chunks.extend(segment.doc_ids_alive().filter_map(|document| ids.first(document)).map(ChunkId));
        }
        Ok(chunks)
    }

    /// Merges all segments into one, without removed chunks, and deletes files that nothing needs. Takes the lock file
    /// unless this index holds it already.
    pub fn compact(&self) -> Result<(), LexicalError> {
        let fail = |error: TantivyError| LexicalError::tantivy(&self.path, &error);
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = writer.take() {
            // Its merges must not take segments away from the one below.
            open.wait_merging_threads().map_err(fail)?;
        }
        let mut merger: IndexWriter = self.index.writer_with_num_threads(1, WRITER_MEMORY_BYTES).map_err(fail)?;
        merger.set_merge_policy(Box::new(NoMergePolicy));
        self.refresh()?;
        let segments = self.index.searchable_segment_ids().map_err(fail)?;
        if segments.len() > 1 || self.has_removed() {
            merger.merge(&segments).wait().map_err(fail)?;
        }
        merger.garbage_collect_files().wait().map_err(fail)?;
        merger.wait_merging_threads().map_err(fail)?;
        self.reader.reload().map_err(fail)
    }

    fn has_removed(&self) -> bool {
        self.reader.searcher().segment_readers().iter().any(|segment| segment.has_deletes())
    }

    /// Whether it holds no chunk.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sees what another process committed since.
    pub fn refresh(&self) -> Result<(), LexicalError> {
        // The generation first: the reader may then be ahead of it, never behind.
        let generation = read_payload(&self.index, &self.path)?.map_or(0, |payload| payload.generation);
        self.reader.reload().map_err(|error| LexicalError::tantivy(&self.path, &error))?;
        self.generation.store(generation, Ordering::Release);
        Ok(())
    }

    /// The `k` best chunks for a question in plain language, among those that `filter` lets through.
    ///
    /// The text is analysed like a document, except that words which only make it a question are left out too. A chunk's
    /// score is BM25F over title, heading path and body, a repeated term counting as often as it is repeated, plus a
    /// bonus for phrases. Of a text with more than 512 different terms the 512 rarest count.
    pub fn search(
        &self,
        text: &str,
        k: usize,
        filter: Option<&dyn Fn(ChunkId) -> bool>,
    ) -> Result<Vec<LexicalHit>, LexicalError> {
        self.search_with(self.config.bm25, text, k, filter)
    }

    /// As [`Self::search`], with other parameters of the score: for measuring them.
    pub fn search_with(
        &self,
        bm25: Bm25,
        text: &str,
        k: usize,
        filter: Option<&dyn Fn(ChunkId) -> bool>,
    ) -> Result<Vec<LexicalHit>, LexicalError> {
        query::search(self, bm25, text, k, filter).map_err(|error| LexicalError::tantivy(&self.path, &error))
    }

    /// How much of `text`, by the weight of its words in this index, `other` has too: 0 to 1. 0 for a text without words.
    pub fn share_in(&self, text: &str, other: &str) -> Result<f32, LexicalError> {
        let weigh = |text| {
            query::weights(self, self.config.bm25, text).map_err(|error| LexicalError::tantivy(&self.path, &error))
        };
        let (text, other) = (weigh(text)?, weigh(other)?);
        // Terms are in order.
        let has = |term: &String| other.terms.binary_search_by(|(known, _)| known.cmp(term)).is_ok();
        let all: f32 = text.terms.iter().map(|(_, weight)| weight).sum();
        let shared: f32 = text.terms.iter().filter(|(term, _)| has(term)).map(|(_, weight)| weight).sum();
        Ok(if all > 0.0 { shared / all } else { 0.0 })
    }

    /// Starts an update. Waits for another thread's to end; takes the lock file unless this index holds it already.
    ///
    /// # Errors
    /// [`LexicalError::Locked`] if another process holds the lock.
    pub fn update(&self) -> Result<LexicalUpdate<'_>, LexicalError> {
        LexicalUpdate::begin(self)
    }

    /// One update with all of `removed` and `added` in it.
    pub fn apply(
        &self,
        added: impl IntoIterator<Item = LexicalEntry>,
        removed: &[ChunkId],
        generation: Generation,
    ) -> Result<(), LexicalError> {
        let mut update = self.update()?;
        for chunk in removed {
            update.remove(*chunk)?;
        }
        for entry in added {
            update.add(entry)?;
        }
        update.commit(generation)
    }

    /// Waits for merges in the background and releases the lock file. Without it, a drop abandons running merges, which
    /// costs nothing but their work.
    pub fn close(self) -> Result<(), LexicalError> {
        let writer = self.writer.into_inner().unwrap_or_else(PoisonError::into_inner);
        match writer {
            Some(writer) => writer.wait_merging_threads().map_err(|error| LexicalError::tantivy(&self.path, &error)),
            None => Ok(()),
        }
    }

    pub(crate) fn payload(&self, generation: Generation) -> Payload {
        Payload {
            format: FORMAT,
            language: self.config.language,
            source: self.config.source.clone(),
            generation: generation.0,
        }
    }
}

/// `None` before the first commit.
fn read_payload(index: &Index, path: &Path) -> Result<Option<Payload>, LexicalError> {
    let metas = index.load_metas().map_err(|error| LexicalError::tantivy(path, &error))?;
    let parse = |payload: String| {
        serde_json::from_str(&payload)
            .map_err(|error| LexicalError::rebuild(path, format!("unreadable payload: {error}")))
    };
    metas.payload.map(parse).transpose()
}

fn schema() -> (Schema, Fields) {
    // Nothing is stored: texts are in the catalog.
    let text = TextOptions::default().set_indexing_options(
        TextFieldIndexing::default().set_tokenizer(ANALYSER).set_index_option(IndexRecordOption::WithFreqsAndPositions),
    );
    let mut builder = Schema::builder();
    let fields = Fields {
        chunk: builder.add_u64_field("chunk", FAST | INDEXED),
        title: builder.add_text_field("title", text.clone()),
        heading_path: builder.add_text_field("heading_path", text.clone()),
        body: builder.add_text_field("body", text),
    };
    (builder.build(), fields)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_creation_interrupted_before_its_first_commit_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let directory = CheckedDirectory::open(folder.path()).unwrap();
        Index::create(directory, schema().0, IndexSettings::default()).unwrap();
        let config = LexicalConfig { language: Language::None, bm25: Bm25::default(), source: String::new() };
        let result = LexicalIndex::open_or_create(folder.path(), config.clone());
        assert!(matches!(result, Err(LexicalError::NeedsRebuild { .. })), "{result:?}");
        assert!(LexicalIndex::rebuild(folder.path(), config).unwrap().is_empty());
    }
}
