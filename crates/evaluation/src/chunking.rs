//! How well chunks of several sizes carry what questions ask for, and no more.
//!
//! The measures are those of Smith and Troynikov, "Evaluating Chunking Strategies for Retrieval" (Chroma technical
//! report, 2024, <https://research.trychroma.com/evaluating-chunking>), over characters rather than tokens, so that they
//! do not depend on a tokenizer. With `e` the characters of the gold spans of a question and `r` those of the chunks
//! retrieved for it, overlapping chunks counting twice:
//!
//! - recall `|e ∩ r| / |e|`, precision `|e ∩ r| / |r|`, intersection over union `|e ∩ r| / (|e| + |r| − |e ∩ r|)`;
//! - precision Ω: precision if all chunks that touch a gold span, and no others, were retrieved. What chunking alone
//!   costs, whatever the search.
//!
//! A fixed number of chunks favours large ones. So recall is also measured at a fixed budget of embedder tokens, which is
//! what a prompt has room for: hits are taken in order while they fit.
//!
//! Documents are ingested as plain text, through the same ingest as any other. Gold spans count code points of the file;
//! chunks are bytes of the normalised text; [`Aligned`] leads from one to the other.
//!
//! Deliberately not here: choosing a size.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    ops::Range,
    path::Path,
    sync::Arc,
};

use edgewise_documents::{ChunkOptions, IndexProfile};
use edgewise_model_api::Embedder;
use edgewise_retrieval::{
    Collection, Fusion, RetrievalError, SearchRequest, Source, SourceContent, fuse, profile_fusion,
};
use edgewise_types::{ChunkId, DocumentId};
use serde::{Deserialize, Serialize};

use crate::{
    Bootstrap, Estimate, EvaluationError, Progress, System,
    beir::json_lines,
    scratch::{Scratch, Unembedded},
    spread::spread,
};

/// What a folder must hold.
const FILES: &str = "a folder with questions.jsonl and corpora/<name>.md";
/// Hits of a search: enough for any budget.
const LIMIT: usize = 100;

/// A question with where its answer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkingQuestion {
    /// Its id.
    pub id: String,
    /// Name of the document.
    pub corpus: String,
    /// The question.
    pub text: String,
    /// Gold spans, in code points of the document, ascending and apart.
    pub references: Vec<Range<usize>>,
}

/// Documents and questions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkingSet {
    /// Name of its folder.
    pub name: String,
    /// Texts by name.
    pub corpora: BTreeMap<String, String>,
    /// Questions, in the order of the file.
    pub questions: Vec<ChunkingQuestion>,
}

#[derive(Deserialize)]
struct QuestionLine {
    #[serde(rename = "_id")]
    id: String,
    corpus_id: String,
    question: String,
    references: Vec<Reference>,
}

#[derive(Deserialize)]
struct Reference {
    content: String,
    start_index: usize,
    end_index: usize,
}

impl ChunkingSet {
    /// Reads the set in `folder`; of `only` these documents, unless it is empty.
    ///
    /// # Errors
    /// [`EvaluationError::Read`], [`EvaluationError::Line`], and [`EvaluationError::Dataset`] if a gold span does not hold
    /// the text it says, a document of `only` is not there, or no question is left.
    pub fn load(folder: &Path, only: &[String]) -> Result<Self, EvaluationError> {
        let name = folder.file_name().map_or_else(|| "set".to_owned(), |name| name.to_string_lossy().into_owned());
        let invalid = |reason: String| EvaluationError::Dataset { name: name.clone(), reason };
        let lines: Vec<QuestionLine> = json_lines(&folder.join("questions.jsonl"), FILES)?;
        if let Some(missing) = only.iter().find(|corpus| lines.iter().all(|line| line.corpus_id != **corpus)) {
            return Err(invalid(format!("no question is about a document `{missing}`")));
        }
        let mut corpora: BTreeMap<String, String> = BTreeMap::new();
        let mut characters: HashMap<String, Vec<char>> = HashMap::new();
        let mut questions = Vec::new();
        for line in lines {
            if !only.is_empty() && !only.contains(&line.corpus_id) {
                continue;
            }
            if !corpora.contains_key(&line.corpus_id) {
                let path = folder.join("corpora").join(format!("{}.md", line.corpus_id));
                let text = fs::read_to_string(&path).map_err(EvaluationError::read(&path, FILES))?;
                characters.insert(line.corpus_id.clone(), text.chars().collect());
                corpora.insert(line.corpus_id.clone(), text);
            }
            let text = characters.get(&line.corpus_id).map(Vec::as_slice).unwrap_or_default();
            let mut references = Vec::with_capacity(line.references.len());
            for reference in &line.references {
                let range = reference.start_index..reference.end_index;
                let holds =
                    text.get(range.clone()).is_some_and(|found| found.iter().copied().eq(reference.content.chars()));
                if range.is_empty() || !holds {
                    let Range { start, end } = range;
                    return Err(invalid(format!(
                        "question `{}`: characters {start} to {end} of {} are not its reference",
                        line.id, line.corpus_id
                    )));
                }
                references.push(range);
            }
            if references.is_empty() {
                return Err(invalid(format!("question `{}` has no reference", line.id)));
            }
            let references = union(references);
            questions.push(ChunkingQuestion { id: line.id, corpus: line.corpus_id, text: line.question, references });
        }
        if questions.is_empty() {
            return Err(invalid("it has no question".to_owned()));
        }
        Ok(Self { name, corpora, questions })
    }
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct ChunkingOptions {
    /// All but chunks: analyser, fusion.
    pub profile: IndexProfile,
    /// Chunk limits to compare.
    pub chunks: Vec<ChunkOptions>,
    /// Chunks retrieved for a question.
    pub k: usize,
    /// Embedder tokens retrieved for a question, for the recall at a fixed budget.
    pub budget: usize,
    /// Measure BM25 alone: nothing is embedded.
    pub lexical_only: bool,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

/// Figures of one arm, or both fused, under one chunking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkingSystem {
    /// Its name, as in tables.
    pub name: String,
    /// Share of the gold characters retrieved.
    pub recall: Estimate,
    /// Share of the retrieved characters that are gold.
    pub precision: Estimate,
    /// Intersection over union.
    pub iou: Estimate,
    /// Share of the gold characters retrieved within the budget.
    pub budget_recall: Estimate,
    /// The same minus that of the first chunking, question by question.
    pub budget_recall_over_first: Estimate,
}

/// Figures of one chunking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkingFigures {
    /// Its limits.
    pub options: ChunkOptions,
    /// Chunks it made.
    pub chunks: usize,
    /// Their mean length in characters.
    pub mean_characters: f64,
    /// Precision if retrieval were perfect.
    pub precision_omega: Estimate,
    /// BM25, vectors, and both fused as the profile says.
    pub systems: Vec<ChunkingSystem>,
}

/// All figures of a set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChunkingReport {
    /// Name of the set.
    pub dataset: String,
    /// Its documents.
    pub documents: usize,
    /// Its questions.
    pub questions: usize,
    /// Chunks retrieved for a question.
    pub k: usize,
    /// Embedder tokens retrieved for a question, for the recall at a fixed budget.
    pub budget: usize,
    /// Registry name of the embedder.
    pub embedder: String,
    /// Digest of the embedder.
    pub embedder_digest: String,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// One entry a chunking, in the order asked for.
    pub chunkings: Vec<ChunkingFigures>,
}

/// Measures each chunking in `options` on `set`, each in a collection of its own in a temporary folder.
///
/// # Errors
/// [`EvaluationError::Dataset`] if a document can't be ingested or its normalised text does not fit its file;
/// [`EvaluationError::Retrieval`].
pub fn evaluate_chunking(
    set: &ChunkingSet,
    embedder: &Arc<dyn Embedder>,
    options: &ChunkingOptions,
    progress: &dyn Progress,
) -> Result<ChunkingReport, EvaluationError> {
    let embedder: Arc<dyn Embedder> =
        if options.lexical_only { Arc::new(Unembedded::new(embedder)) } else { Arc::clone(embedder) };
    let mut chunkings = Vec::with_capacity(options.chunks.len());
    let mut first: Option<Vec<Vec<f64>>> = None;
    for chunk in &options.chunks {
        let profile = IndexProfile { chunk: *chunk, ..options.profile.clone() };
        let sources = set.corpora.iter().map(|(name, text)| Source {
            uri: format!("{name}.txt"),
            content: SourceContent::Bytes(text.clone().into_bytes()),
            media_type: Some("text/plain".to_owned()),
        });
        let scratch = Scratch::of(&set.name, sources.collect(), &embedder, &profile, progress)?;
        let pieces = pieces(set, &scratch.collection)?;
        let systems = systems(options);
        let values = ask(set, &scratch.collection, &pieces, &systems, options, progress)?;
        let within_budget: Vec<Vec<f64>> =
            values.iter().map(|of| of.iter().map(|value| value.budget_recall).collect()).collect();
        let first = first.get_or_insert_with(|| within_budget.clone());
        let estimate =
            |of: &[Value], get: fn(&Value) -> f64| options.bootstrap.estimate(&of.iter().map(get).collect::<Vec<_>>());
        let systems = systems.iter().zip(&values).enumerate();
        let systems = systems.map(|(at, (system, of))| ChunkingSystem {
            name: system.name(),
            recall: estimate(of, |value| value.recall),
            precision: estimate(of, |value| value.precision),
            iou: estimate(of, |value| value.iou),
            budget_recall: estimate(of, |value| value.budget_recall),
            budget_recall_over_first: options.bootstrap.difference(&within_budget[at], &first[at]),
        });
        let characters: usize = pieces.values().map(|piece| piece.range.len()).sum();
        let omega: Vec<f64> = set.questions.iter().map(|question| precision_omega(question, pieces.values())).collect();
        chunkings.push(ChunkingFigures {
            options: *chunk,
            chunks: pieces.len(),
            mean_characters: characters as f64 / pieces.len().max(1) as f64,
            precision_omega: options.bootstrap.estimate(&omega),
            systems: systems.collect(),
        });
    }
    Ok(ChunkingReport {
        dataset: set.name.clone(),
        documents: set.corpora.len(),
        questions: set.questions.len(),
        k: options.k,
        budget: options.budget,
        embedder: embedder.info().model.clone(),
        embedder_digest: embedder.info().digest.clone(),
        bootstrap: options.bootstrap,
        chunkings,
    })
}

fn systems(options: &ChunkingOptions) -> Vec<System> {
    if options.lexical_only {
        return vec![System::Lexical];
    }
    vec![System::Lexical, System::Vector, System::Fused(profile_fusion(&options.profile))]
}

/// A chunk in terms of the file.
struct Piece {
    corpus: String,
    /// In code points of the file.
    range: Range<usize>,
    /// Length in the embedder's tokens.
    tokens: usize,
}

fn pieces(set: &ChunkingSet, collection: &Collection) -> Result<HashMap<ChunkId, Piece>, EvaluationError> {
    let mut pieces = HashMap::new();
    for (name, text) in &set.corpora {
        let document = DocumentId::from_uri(&format!("{name}.txt"));
        let normalised = collection.document_text(&document)?;
        let aligned = Aligned::new(text, &normalised).ok_or_else(|| EvaluationError::Dataset {
            name: set.name.clone(),
            reason: format!("the text of {name} does not survive normalisation: gold spans would not fit"),
        })?;
        for chunk in collection.chunks_of(&document)? {
            let range = aligned.range(chunk.span.start..chunk.span.end);
            pieces.insert(chunk.id, Piece { corpus: name.clone(), range, tokens: chunk.embedder_tokens });
        }
    }
    Ok(pieces)
}

/// Where the characters of a normalised text stand in its source.
struct Aligned {
    /// By character of the normalised text that is no white space: its first byte, and its place in the source, in code
    /// points.
    places: Vec<(usize, usize)>,
}

impl Aligned {
    /// `None` unless the two agree in everything but white space.
    fn new(source: &str, normalised: &str) -> Option<Self> {
        let mut left = source.chars().enumerate().filter(|(_, character)| !character.is_whitespace());
        let mut places = Vec::with_capacity(normalised.len());
        for (byte, character) in normalised.char_indices().filter(|(_, character)| !character.is_whitespace()) {
            let (place, other) = left.next()?;
            if other != character {
                return None;
            }
            places.push((byte, place));
        }
        left.next().is_none().then_some(Self { places })
    }

    /// Code points of the source between the first and the last character of a byte range, without white space around.
    fn range(&self, bytes: Range<usize>) -> Range<usize> {
        let from = self.places.partition_point(|(byte, _)| *byte < bytes.start);
        let to = self.places.partition_point(|(byte, _)| *byte < bytes.end);
        match self.places.get(from..to) {
            Some([(_, first), .., (_, last)]) => *first..last + 1,
            Some([(_, only)]) => *only..only + 1,
            _ => 0..0,
        }
    }
}

/// What one system is worth on one question.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Value {
    recall: f64,
    precision: f64,
    iou: f64,
    budget_recall: f64,
}

/// Values by system and question.
fn ask(
    set: &ChunkingSet,
    collection: &Collection,
    pieces: &HashMap<ChunkId, Piece>,
    systems: &[System],
    options: &ChunkingOptions,
    progress: &dyn Progress,
) -> Result<Vec<Vec<Value>>, EvaluationError> {
    let answered: Vec<Vec<Value>> = spread(&set.questions, |question| -> Result<_, RetrievalError> {
        let arms = collection.arms(&SearchRequest::new(&question.text, LIMIT.max(options.k)))?;
        let of = |system: &System| {
            let method = match system {
                System::Fused(method) => *method,
                System::Lexical | System::Bm25(_) => Fusion::Convex { lexical_weight: 1.0 },
                System::Vector => Fusion::Convex { lexical_weight: 0.0 },
            };
            let ranked = match system {
                System::Lexical | System::Bm25(_) => fuse(method, &arms.lexical, &Default::default()),
                System::Vector => fuse(method, &Default::default(), &arms.vector),
                System::Fused(_) => fuse(method, &arms.lexical, &arms.vector),
            };
            let found: Vec<&Piece> = ranked.iter().filter_map(|hit| pieces.get(&hit.chunk)).collect();
            value(question, &found, options)
        };
        Ok(systems.iter().map(of).collect())
    })?;
    progress.answered(set.questions.len(), set.questions.len());
    Ok((0..systems.len()).map(|at| answered.iter().map(|values| values[at]).collect()).collect())
}

/// What the hits are worth, best first.
fn value(question: &ChunkingQuestion, hits: &[&Piece], options: &ChunkingOptions) -> Value {
    let gold = question.references.iter().map(Range::len).sum::<usize>() as f64;
    let top = hits.get(..options.k.min(hits.len())).unwrap_or_default();
    let (common, retrieved) = (covered(question, top), top.iter().map(|piece| piece.range.len()).sum::<usize>() as f64);
    let mut left = options.budget;
    let affordable: Vec<&Piece> = hits
        .iter()
        .copied()
        .take_while(|piece| {
            let fits = piece.tokens <= left;
            left = left.saturating_sub(piece.tokens);
            fits
        })
        .collect();
    Value {
        recall: common / gold,
        precision: if retrieved > 0.0 { common / retrieved } else { 0.0 },
        iou: common / (gold + retrieved - common),
        budget_recall: covered(question, &affordable) / gold,
    }
}

/// Gold characters that the pieces cover, each counted once.
fn covered(question: &ChunkingQuestion, pieces: &[&Piece]) -> f64 {
    let of_corpus = pieces.iter().filter(|piece| piece.corpus == question.corpus);
    let united = union(of_corpus.map(|piece| piece.range.clone()).collect());
    let common = |gold: &Range<usize>| united.iter().map(|range| overlap(gold, range)).sum::<usize>();
    question.references.iter().map(common).sum::<usize>() as f64
}

fn precision_omega<'p>(question: &ChunkingQuestion, pieces: impl Iterator<Item = &'p Piece>) -> f64 {
    let touches = |piece: &&Piece| {
        piece.corpus == question.corpus && question.references.iter().any(|gold| overlap(gold, &piece.range) > 0)
    };
    let touching: Vec<&Piece> = pieces.filter(touches).collect();
    let retrieved: usize = touching.iter().map(|piece| piece.range.len()).sum();
    if retrieved > 0 { covered(question, &touching) / retrieved as f64 } else { 0.0 }
}

fn overlap(a: &Range<usize>, b: &Range<usize>) -> usize {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

/// The same places, ascending and apart.
fn union(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| (range.start, range.end));
    let mut united: Vec<Range<usize>> = Vec::with_capacity(ranges.len());
    for range in ranges.into_iter().filter(|range| !range.is_empty()) {
        match united.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => united.push(range),
        }
    }
    united
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
