//! What the tests of this binary share.

use std::{path::Path, sync::Arc};

use edgewise_documents::IndexProfile;
use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};
use edgewise_retrieval::{
    Collection, Collections, IngestOptions, IngestReport, Outcome, RetrievalModels, SearchRequest, SearchResults,
    Silent, Source, SourceContent,
};
use edgewise_test_support::{HashEmbedder, WordTokenizer};
use edgewise_types::CollectionName;

pub(crate) fn models() -> RetrievalModels {
    models_with(Arc::new(HashEmbedder::new()))
}

pub(crate) fn models_with(embedder: Arc<dyn Embedder>) -> RetrievalModels {
    let tokenizer = Arc::new(WordTokenizer::new());
    RetrievalModels { embedder, tokenizer, tokenizer_name: "words".to_owned(), reranker: None }
}

pub(crate) fn name() -> CollectionName {
    "guide".parse().unwrap()
}

pub(crate) fn open(root: &Path) -> Collections {
    Collections::open(root, models()).unwrap()
}

/// The collection `guide` under `root`, made if missing, as a process of its own would open it.
pub(crate) fn guide(root: &Path) -> Arc<Collection> {
    open(root).get_or_create(&name(), &IndexProfile::default()).unwrap()
}

pub(crate) fn source(uri: &str, text: &str) -> Source {
    Source { uri: uri.to_owned(), content: SourceContent::Bytes(text.as_bytes().to_vec()), media_type: None }
}

pub(crate) fn sources(files: &[(&str, &str)]) -> Vec<Source> {
    files.iter().map(|(uri, text)| source(uri, text)).collect()
}

/// Documents about different things.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("bread.md", "# Bread\n\nSourdough rises slowly in a cold oven.\n\n## Crust\n\nSteam makes the crust crackle."),
    ("engine.md", "# Engine\n\nThe engine caches prefixes of prompts.\n\n## Eviction\n\nPages are evicted by age."),
    ("whales.txt", "Whales sing under water and migrate over thousands of kilometres."),
];

pub(crate) fn ingest(collection: &Collection, files: &[(&str, &str)]) -> IngestReport {
    collection.ingest(sources(files), &IngestOptions::default(), &Silent).unwrap()
}

/// Outcomes by URI, in the order of the report.
pub(crate) fn outcomes(report: &IngestReport) -> Vec<(&str, &'static str)> {
    let word = |outcome: &Outcome| match outcome {
        Outcome::Added => "added",
        Outcome::Changed => "changed",
        Outcome::Unchanged => "unchanged",
        Outcome::Removed => "removed",
        Outcome::Failed { .. } => "failed",
    };
    report.sources.iter().map(|s| (s.uri.as_str(), word(&s.outcome))).collect()
}

pub(crate) fn request(query: &str) -> SearchRequest {
    SearchRequest::new(query, 10)
}

pub(crate) fn search(collection: &Collection, query: &str) -> SearchResults {
    collection.search(&request(query)).unwrap()
}

/// URIs of the hits, best first, each document once.
pub(crate) fn found(collection: &Collection, query: &str) -> Vec<String> {
    let mut uris: Vec<String> = search(collection, query).hits.into_iter().map(|hit| hit.uri).collect();
    let mut seen = std::collections::BTreeSet::new();
    uris.retain(|uri| seen.insert(uri.clone()));
    uris
}

/// An embedder that does what a closure says to each text, and otherwise what [`HashEmbedder`] does.
pub(crate) struct Moody<F> {
    pub(crate) inner: HashEmbedder,
    pub(crate) mood: F,
}

impl<F: Fn(&str) -> Result<(), ModelError> + Send + Sync> Embedder for Moody<F> {
    fn info(&self) -> &EmbedderInfo {
        self.inner.info()
    }
    fn tokenizer(&self) -> &dyn Tokenizer {
        self.inner.tokenizer()
    }
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        texts.iter().try_for_each(|text| (self.mood)(text))?;
        self.inner.embed(texts)
    }
}
