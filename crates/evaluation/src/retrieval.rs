//! Retrieval on a labelled set: each arm by itself, and both fused in several ways.
//!
//! Both arms are read once per query, as deep as a search of the same limit reads them, and fused many times. A passage
//! is ingested as Markdown with its title as heading, every sign of its text escaped, so that title and text are what
//! they are in the set.
//!
//! Deliberately not here: loading sets and models; showing the report.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use edgewise_documents::IndexProfile;
use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};
use edgewise_retrieval::{
    Arm, Arms, Bm25, Collections, Fusion, IngestOptions, IngestProgress, Outcome, RetrievalError, RetrievalModels,
    SearchRequest, Source, SourceContent, SourceReport, fuse,
};
use edgewise_types::{ChunkId, DocumentId};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Bootstrap, Dataset, Estimate, EvaluationError, LabelledQuery, Metric, Passage, measure};

/// Documents in one commit: fewer commits than an interactive ingest, since nothing here outlives the process.
const BATCH_DOCUMENTS: usize = 2048;
const BATCH_CHUNKS: usize = 4096;
/// Queries embedded together before they are asked one by one.
const QUERY_BATCH: usize = 256;

/// What ranks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// BM25 alone.
    Lexical,
    /// BM25 alone, with other parameters.
    Bm25(Bm25),
    /// Cosine alone.
    Vector,
    /// Both, fused.
    Fused(Fusion),
}

impl System {
    /// Name in tables.
    pub fn name(&self) -> String {
        match self {
            Self::Lexical => "bm25".to_owned(),
            Self::Bm25(p) => {
                let Bm25 { k1, b, title, heading_path, body, phrase } = p;
                format!("bm25 k1={k1} b={b} title={title} heading={heading_path} body={body} phrase={phrase}")
            }
            Self::Vector => "vector".to_owned(),
            Self::Fused(Fusion::Rrf { k }) => format!("rrf k={k}"),
            Self::Fused(Fusion::Convex { lexical_weight }) => format!("convex w={lexical_weight:.2}"),
        }
    }
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct RetrievalOptions {
    /// How the collection is indexed.
    pub profile: IndexProfile,
    /// Parameters of BM25 to try, beside those in force.
    pub bm25: Vec<Bm25>,
    /// Measure BM25 alone: nothing is embedded.
    pub lexical_only: bool,
    /// Fusions to try, beside the two arms.
    pub fusions: Vec<Fusion>,
    /// Cut-offs of recall, and of both-gold on sets whose every query has two relevant documents.
    pub recall_at: Vec<usize>,
    /// Hits asked for; a search of this limit decides how deep the arms are read. At least every cut-off.
    pub limit: usize,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

impl Default for RetrievalOptions {
    fn default() -> Self {
        let weights = (1..10).map(|tenths| Fusion::Convex { lexical_weight: tenths as f32 / 10.0 });
        Self {
            profile: IndexProfile::default(),
            bm25: Vec::new(),
            lexical_only: false,
            fusions: std::iter::once(Fusion::Rrf { k: 60.0 }).chain(weights).collect(),
            recall_at: vec![5, 10, 20, 100],
            limit: 100,
            bootstrap: Bootstrap::default(),
        }
    }
}

/// One ranking system on a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SystemReport {
    /// Its name, as in tables.
    pub name: String,
    /// What it is.
    pub system: System,
    /// Metrics with intervals, in the order measured.
    pub metrics: Vec<(Metric, Estimate)>,
    /// nDCG@10 minus that of the better arm, query by query; of fused systems.
    pub over_better_arm: Option<Estimate>,
}

/// All of a set's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalReport {
    /// Name of the set.
    pub dataset: String,
    /// Its documents.
    pub documents: usize,
    /// Chunks they were cut into.
    pub chunks: usize,
    /// Queries measured.
    pub queries: usize,
    /// Queries left out for want of a relevant document.
    pub unlabelled: usize,
    /// Registry name of the embedder.
    pub embedder: String,
    /// Digest of the embedder.
    pub embedder_digest: String,
    /// Hash of the index profile.
    pub profile: String,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// Arms first, then fusions.
    pub systems: Vec<SystemReport>,
}

/// Told how a measurement goes.
pub trait Progress: Sync {
    /// This many of so many documents are in the collection.
    fn ingested(&self, done: usize, total: usize);
    /// This many of so many queries are answered.
    fn answered(&self, done: usize, total: usize);
}

/// Measures `embedder` and the profile in `options` on `dataset`. The collection is made in a temporary folder.
///
/// # Errors
/// [`EvaluationError::Dataset`] if a document can't be ingested; [`EvaluationError::Retrieval`].
pub fn evaluate_retrieval(
    dataset: &Dataset,
    embedder: &Arc<dyn Embedder>,
    options: &RetrievalOptions,
    progress: &dyn Progress,
) -> Result<RetrievalReport, EvaluationError> {
    let folder = tempfile::tempdir().map_err(EvaluationError::Folder)?;
    let embedder: Arc<dyn Embedder> =
        if options.lexical_only { Arc::new(Unembedded::new(embedder)) } else { Arc::clone(embedder) };
    let models = RetrievalModels {
        embedder: Arc::clone(&embedder),
        // Token counts of the generator play no part here, so that none needs to be installed.
        tokenizer: Arc::new(EmbedderTokenizer(Arc::clone(&embedder))),
        tokenizer_name: embedder.info().model.clone(),
        reranker: None,
    };
    let invalid = |reason: String| EvaluationError::Dataset { name: dataset.name.clone(), reason };
    let name = "evaluation".parse().map_err(|error| invalid(format!("{error}")))?;
    let collection = Collections::open(folder.path(), models)?.get_or_create(&name, &options.profile)?;
    let sources = dataset.passages.iter().map(source).collect();
    let ingest =
        IngestOptions { batch_documents: BATCH_DOCUMENTS, batch_chunks: BATCH_CHUNKS, ..IngestOptions::default() };
    let bar = IngestBar { progress, done: Default::default(), total: dataset.passages.len() };
    let report = collection.ingest(sources, &ingest, &bar)?;
    for source in &report.sources {
        if let Outcome::Failed { reason } = &source.outcome {
            return Err(invalid(format!("document `{}`: {reason}", source.uri)));
        }
    }
    let passages: HashMap<DocumentId, &str> =
        dataset.passages.iter().map(|passage| (DocumentId::from_uri(&passage.id), passage.id.as_str())).collect();
    let owners: HashMap<ChunkId, &str> = collection
        .chunk_documents()?
        .into_iter()
        .filter_map(|(chunk, document)| Some((chunk, *passages.get(&document)?)))
        .collect();

    let deepest = options.recall_at.iter().copied().chain([10]).max().unwrap_or(10);
    let limit = options.limit.max(deepest);
    let metrics = metrics(dataset, options);
    let mut systems = vec![System::Lexical];
    systems.extend(options.bm25.iter().copied().map(System::Bm25));
    if !options.lexical_only {
        systems.push(System::Vector);
        systems.extend(options.fusions.iter().copied().map(System::Fused));
    }
    let mut values: Vec<Vec<Vec<f64>>> =
        vec![vec![Vec::with_capacity(dataset.queries.len()); metrics.len()]; systems.len()];
    for batch in dataset.queries.chunks(QUERY_BATCH) {
        // One call, so that a caching embedder sorts and remembers them.
        let texts: Vec<&str> = batch.iter().map(|query| query.text.as_str()).collect();
        embedder.embed(&texts).map_err(RetrievalError::from)?;
        let answered: Vec<(Arms, Vec<Arm>)> = batch
            .par_iter()
            .map(|query| {
                let request = SearchRequest::new(&query.text, limit);
                let others = options.bm25.iter().map(|bm25| collection.lexical_with(*bm25, &request));
                Ok((collection.arms(&request)?, others.collect::<Result<_, RetrievalError>>()?))
            })
            .collect::<Result<_, RetrievalError>>()?;
        for (query, (arms, others)) in batch.iter().zip(&answered) {
            let mut others = others.iter();
            for (system, values) in systems.iter().zip(&mut values) {
                let arm = if matches!(system, System::Bm25(_)) { others.next() } else { None };
                let ranking = ranking(*system, arms, arm.unwrap_or(&arms.lexical), &owners, deepest);
                for (metric, values) in metrics.iter().zip(values) {
                    values.push(measure(*metric, &ranking, &query.relevant));
                }
            }
        }
        let done = values.first().and_then(|system| system.first()).map_or(0, Vec::len);
        progress.answered(done, dataset.queries.len());
    }
    Ok(RetrievalReport {
        dataset: dataset.name.clone(),
        documents: dataset.passages.len(),
        chunks: owners.len(),
        queries: dataset.queries.len(),
        unlabelled: dataset.unlabelled,
        embedder: embedder.info().model.clone(),
        embedder_digest: embedder.info().digest.clone(),
        profile: options.profile.hash(),
        bootstrap: options.bootstrap,
        systems: reports(&systems, &metrics, &values, options.bootstrap),
    })
}

/// What is measured on a set, nDCG@10 first.
fn metrics(dataset: &Dataset, options: &RetrievalOptions) -> Vec<Metric> {
    let mut metrics = vec![Metric::Ndcg(10), Metric::Mrr(10)];
    metrics.extend(options.recall_at.iter().map(|k| Metric::Recall(*k)));
    let two_hops = |query: &LabelledQuery| query.relevant.len() == 2;
    if dataset.queries.iter().all(two_hops) {
        metrics.extend(options.recall_at.iter().map(|k| Metric::BothGold(*k)));
    }
    metrics
}

fn reports(
    systems: &[System],
    metrics: &[Metric],
    values: &[Vec<Vec<f64>>],
    bootstrap: Bootstrap,
) -> Vec<SystemReport> {
    let mean = |values: &[Vec<f64>]| values.first().map_or(0.0, |ndcg| ndcg.iter().sum::<f64>());
    let arms = systems.iter().zip(values).filter(|(system, _)| matches!(system, System::Lexical | System::Vector));
    let better = arms.map(|(_, values)| values).max_by(|a, b| mean(a).total_cmp(&mean(b)));
    systems
        .par_iter()
        .zip(values)
        .map(|(system, values)| SystemReport {
            name: system.name(),
            system: *system,
            metrics: metrics.iter().zip(values).map(|(m, values)| (*m, bootstrap.estimate(values))).collect(),
            over_better_arm: match (system, values.first(), better.and_then(|better| better.first())) {
                (System::Fused(_), Some(fused), Some(better)) => Some(bootstrap.difference(fused, better)),
                _ => None,
            },
        })
        .collect()
}

/// Documents by their best chunk, at most `k`.
fn ranking<'p>(
    system: System,
    arms: &Arms,
    lexical: &Arm,
    owners: &HashMap<ChunkId, &'p str>,
    k: usize,
) -> Vec<&'p str> {
    let chunks: Vec<ChunkId> = match system {
        System::Lexical | System::Bm25(_) => lexical.hits.iter().map(|(chunk, _)| *chunk).collect(),
        System::Vector => arms.vector.hits.iter().map(|(chunk, _)| *chunk).collect(),
        System::Fused(method) => fuse(method, &arms.lexical, &arms.vector).iter().map(|hit| hit.chunk).collect(),
    };
    let mut seen = HashSet::new();
    let documents = chunks.iter().filter_map(|chunk| owners.get(chunk).copied());
    documents.filter(|document| seen.insert(*document)).take(k).collect()
}

/// A passage as Markdown.
fn source(passage: &Passage) -> Source {
    let mut text = String::with_capacity(passage.title.len() + passage.text.len() + 16);
    let title = one_line(&passage.title);
    if !title.is_empty() {
        text.push_str("# ");
        escape(&title, &mut text);
        text.push_str("\n\n");
    }
    escape(&one_line(&passage.text), &mut text);
    text.push('\n');
    Source {
        uri: passage.id.clone(),
        content: SourceContent::Bytes(text.into_bytes()),
        media_type: Some("text/markdown".to_owned()),
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Any ASCII punctuation may be escaped: <https://spec.commonmark.org/0.31.2/#backslash-escapes>.
fn escape(text: &str, into: &mut String) {
    // A number and a dot begin a list; escaping the dot is enough.
    for character in text.chars() {
        if character.is_ascii_punctuation() {
            into.push('\\');
        }
        into.push(character);
    }
}

struct IngestBar<'p> {
    progress: &'p dyn Progress,
    done: std::sync::atomic::AtomicUsize,
    total: usize,
}

impl IngestProgress for IngestBar<'_> {
    fn total(&self, _sources: usize) {}
    fn source_done(&self, _report: &SourceReport) {
        let done = self.done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1;
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
struct Unembedded {
    inner: Arc<dyn Embedder>,
    info: EmbedderInfo,
}

impl Unembedded {
    fn new(inner: &Arc<dyn Embedder>) -> Self {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
