//! Collections that live as long as a measurement: made in a temporary folder, through the ingest of any other.
//!
//! Deliberately not here: what is measured in them.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use edgewise_documents::IndexProfile;
use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};
use edgewise_retrieval::{
    Collection, Collections, IngestOptions, IngestProgress, Outcome, RetrievalModels, Source, SourceReport,
};

use crate::{EvaluationError, Progress};

/// Documents in one commit: fewer commits than an interactive ingest, since nothing here outlives the process.
const BATCH_DOCUMENTS: usize = 2048;
const BATCH_CHUNKS: usize = 4096;

/// A collection and its folder, which goes when this is dropped.
pub(crate) struct Scratch {
    pub(crate) collection: Arc<Collection>,
    _folder: tempfile::TempDir,
}

impl Scratch {
    /// A collection of `sources`, all of which must be ingested. `set` names them in errors.
    pub(crate) fn of(
        set: &str,
        sources: Vec<Source>,
        embedder: &Arc<dyn Embedder>,
        profile: &IndexProfile,
        progress: &dyn Progress,
    ) -> Result<Self, EvaluationError> {
        let invalid = |reason: String| EvaluationError::Dataset { name: set.to_owned(), reason };
        let folder = tempfile::tempdir().map_err(EvaluationError::Folder)?;
        let models = RetrievalModels {
            embedder: Arc::clone(embedder),
            // Token counts of the generator play no part here, so that none needs to be installed.
            tokenizer: Arc::new(EmbedderTokenizer(Arc::clone(embedder))),
            tokenizer_name: embedder.info().model.clone(),
            reranker: None,
        };
        let name = "evaluation".parse().map_err(|error| invalid(format!("{error}")))?;
        let collection = Collections::open(folder.path(), models)?.get_or_create(&name, profile)?;
        let options =
            IngestOptions { batch_documents: BATCH_DOCUMENTS, batch_chunks: BATCH_CHUNKS, ..IngestOptions::default() };
        let bar = IngestBar { progress, done: AtomicUsize::default(), total: sources.len() };
        for source in &collection.ingest(sources, &options, &bar)?.sources {
            if let Outcome::Failed { reason } = &source.outcome {
                return Err(invalid(format!("document `{}`: {reason}", source.uri)));
            }
        }
        Ok(Self { collection, _folder: folder })
    }
}

struct IngestBar<'p> {
    progress: &'p dyn Progress,
    done: AtomicUsize,
    total: usize,
}

impl IngestProgress for IngestBar<'_> {
    fn total(&self, _sources: usize) {}
    fn source_done(&self, _report: &SourceReport) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        self.progress.ingested(done, self.total);
    }
}

/// The embedder's tokenizer, shared.
struct EmbedderTokenizer(Arc<dyn Embedder>);

impl Tokenizer for EmbedderTokenizer {
    fn encode(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        self.0.tokenizer().encode(text)
    }

    fn offsets(&self, text: &str) -> Result<Vec<std::ops::Range<usize>>, ModelError> {
        self.0.tokenizer().offsets(text)
    }

    fn count(&self, text: &str) -> Result<usize, ModelError> {
        self.0.tokenizer().count(text)
    }

    fn decode(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.0.tokenizer().decode(ids)
    }
}

/// Cuts as an embedder's tokenizer says, and gives every text the same vector.
pub(crate) struct Unembedded {
    inner: Arc<dyn Embedder>,
    info: EmbedderInfo,
}

impl Unembedded {
    pub(crate) fn new(inner: &Arc<dyn Embedder>) -> Self {
        let info =
            EmbedderInfo { model: "none".to_owned(), digest: "none".to_owned(), dimension: 1, ..inner.info().clone() };
        Self { inner: Arc::clone(inner), info }
    }
}

impl Embedder for Unembedded {
    fn info(&self) -> &EmbedderInfo {
        &self.info
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        self.inner.tokenizer()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        Ok(vec![vec![1.0]; texts.len()])
    }
}
