//! Retrieval on a labelled set, in a collection made of its passages.
//!
//! A passage is ingested as Markdown with its title as heading, every sign of its text escaped, so that title and text
//! are what they are in the set. A passage without text can't be found by anything and is left out; labels that name one
//! still count, as a miss of every system.
//!
//! Deliberately not here: loading sets and models; showing the report.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use edgewise_documents::IndexProfile;
use edgewise_model_api::Embedder;
use edgewise_retrieval::{Bm25, Fusion, Source, SourceContent};
use edgewise_types::{ChunkId, DocumentId};
use serde::{Deserialize, Serialize};

use crate::{
    Bootstrap, Dataset, EvaluationError, LabelledQuery, Metric, Passage, System, SystemReport,
    runs::Runs,
    scratch::{Scratch, Unembedded},
    systems::{Asked, Comparison},
};

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
    /// Folder for one file of rankings a set and system; `None` writes none.
    pub runs: Option<PathBuf>,
}

impl Default for RetrievalOptions {
    fn default() -> Self {
        let weights = (1..19).map(|step| Fusion::Convex { lexical_weight: step as f32 / 20.0 });
        Self {
            profile: IndexProfile::default(),
            bm25: Vec::new(),
            lexical_only: false,
            fusions: std::iter::once(Fusion::Rrf { k: 60.0 }).chain(weights).collect(),
            recall_at: vec![5, 10, 20, 100],
            limit: 100,
            bootstrap: Bootstrap::default(),
            runs: None,
        }
    }
}

/// All of a set's figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RetrievalReport {
    /// Name of the set.
    pub dataset: String,
    /// Its documents.
    pub documents: usize,
    /// Documents left out for want of any text.
    pub without_text: usize,
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
/// [`EvaluationError::Dataset`] if a document can't be ingested; [`EvaluationError::Runs`];
/// [`EvaluationError::Retrieval`].
pub fn evaluate_retrieval(
    dataset: &Dataset,
    embedder: &Arc<dyn Embedder>,
    options: &RetrievalOptions,
    progress: &dyn Progress,
) -> Result<RetrievalReport, EvaluationError> {
    let embedder: Arc<dyn Embedder> =
        if options.lexical_only { Arc::new(Unembedded::new(embedder)) } else { Arc::clone(embedder) };
    let with_text = || dataset.passages.iter().filter(|passage| !blank(passage));
    let sources: Vec<Source> = with_text().map(source).collect();
    let without_text = dataset.passages.len() - sources.len();
    let scratch = Scratch::of(&dataset.name, sources, &embedder, &options.profile, progress)?;
    let passages: HashMap<DocumentId, &str> =
        with_text().map(|passage| (DocumentId::from_uri(&passage.id), passage.id.as_str())).collect();
    let owners: HashMap<ChunkId, &str> = scratch
        .collection
        .chunk_documents()?
        .into_iter()
        .filter_map(|(chunk, document)| Some((chunk, *passages.get(&document)?)))
        .collect();

    let systems = systems(options);
    let metrics = metrics(dataset, options);
    let deepest = options.recall_at.iter().copied().chain([10]).max().unwrap_or(10);
    let comparison = Comparison {
        collection: &scratch.collection,
        embedder: Some(&embedder),
        systems: &systems,
        metrics: &metrics,
        limit: options.limit.max(deepest),
    };
    let questions: Vec<Asked<'_>> =
        dataset.queries.iter().map(|query| Asked { text: &query.text, relevant: &query.relevant }).collect();
    let mut runs = options.runs.as_deref().map(|folder| Runs::create(folder, &dataset.name, &systems)).transpose()?;
    let values = comparison.run(
        &questions,
        &|_, chunk| owners.get(&chunk).copied(),
        &mut |at, system, ranking| match (&mut runs, dataset.queries.get(at)) {
            (Some(runs), Some(query)) => runs.write(&query.id, system, ranking),
            _ => Ok(()),
        },
        progress,
    )?;
    if let Some(runs) = runs {
        runs.finish()?;
    }
    Ok(RetrievalReport {
        dataset: dataset.name.clone(),
        documents: dataset.passages.len(),
        without_text,
        chunks: owners.len(),
        queries: dataset.queries.len(),
        unlabelled: dataset.unlabelled,
        embedder: embedder.info().model.clone(),
        embedder_digest: embedder.info().digest.clone(),
        profile: options.profile.hash(),
        bootstrap: options.bootstrap,
        systems: comparison.reports(&values, options.bootstrap),
    })
}

fn systems(options: &RetrievalOptions) -> Vec<System> {
    let mut systems = vec![System::Lexical];
    systems.extend(options.bm25.iter().copied().map(System::Bm25));
    if !options.lexical_only {
        systems.push(System::Vector);
        systems.extend(options.fusions.iter().copied().map(System::Fused));
    }
    systems
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

fn blank(passage: &Passage) -> bool {
    passage.title.trim().is_empty() && passage.text.trim().is_empty()
}

/// The passages of a set that have a text, with their names, as Markdown.
pub(crate) fn markdown(dataset: &Dataset) -> impl Iterator<Item = (&str, String)> {
    let passages = dataset.passages.iter().filter(|passage| !blank(passage));
    passages.map(|passage| (passage.id.as_str(), markdown_of(passage)))
}

fn source(passage: &Passage) -> Source {
    Source {
        uri: passage.id.clone(),
        content: SourceContent::Bytes(markdown_of(passage).into_bytes()),
        media_type: Some("text/markdown".to_owned()),
    }
}

fn markdown_of(passage: &Passage) -> String {
    let mut text = String::with_capacity(passage.title.len() + passage.text.len() + 16);
    let title = one_line(&passage.title);
    if !title.is_empty() {
        text.push_str("# ");
        escape(&title, &mut text);
        text.push_str("\n\n");
    }
    escape(&one_line(&passage.text), &mut text);
    text.push('\n');
    text
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
