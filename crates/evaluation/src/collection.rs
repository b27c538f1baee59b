//! Which fusion suits a collection: measured on queries that someone labelled, or on queries made from its own texts.
//!
//! **Made queries** follow the inverse cloze task (Lee, Chang, Toutanova: "Latent Retrieval for Weakly Supervised Open
//! Domain Question Answering", ACL 2019): a sentence is searched for while the chunk it stands in is left out, and the
//! chunks before and after that one count as right. Nobody need label anything, and the words of the sentence are not
//! simply found where they stand. But a sentence is no question: it shares more words with what is around it than a
//! question does, so such figures lean towards BM25.
//!
//! **The recommendation** is the fusion with the best mean nDCG@10. What it gains over the fusion in force is measured by
//! cross-fitting: in each of five parts of the queries, with the fusion that is best on the other four. Measured on the
//! queries it was chosen on, the best of many would always seem to gain.
//!
//! Deliberately not here: putting a recommendation in force.

use std::{
    collections::{BTreeMap, HashMap, HashSet, btree_map::Entry},
    path::Path,
    str::FromStr,
};

use edgewise_documents::sentences;
use edgewise_retrieval::{Collection, Fusion, RetrievalError, profile_fusion};
use edgewise_types::{Chunk, ChunkId, DocumentId, Span};
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{
    Bootstrap, Estimate, EvaluationError, Metric, Progress, System, SystemReport,
    beir::json_lines,
    systems::{Asked, Comparison, Values},
};

/// Parts of the queries for cross-fitting.
const FOLDS: usize = 5;
/// Queries below which nothing is recommended.
pub const LEAST_QUERIES: usize = 30;
/// Words of a sentence that makes a query: shorter ones say little, longer ones are lists and tables.
const SENTENCE_WORDS: std::ops::RangeInclusive<usize> = 8..=40;
/// Hits of a search.
const LIMIT: usize = 100;

/// Where queries come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case")]
pub enum QuerySource {
    /// Labelled by someone, for documents or passages.
    Labelled,
    /// Sentences of the collection.
    Made {
        /// Seed of the choice.
        seed: u64,
    },
}

impl QuerySource {
    /// What such queries are, and how far figures made with them can be trusted.
    pub fn trust(&self) -> &'static str {
        match self {
            Self::Labelled => "queries labelled by you: the figures hold as far as users ask such questions",
            Self::Made { .. } => {
                "queries made from the collection: each is one of its sentences, searched for with the chunk it stands \
                 in left out, and the chunks before and after count as right. Sentences share more words with what is \
                 around them than questions do, so these figures lean towards BM25; labelled queries (--queries) are better"
            }
        }
    }
}

/// Queries with what answers them, in one collection.
#[derive(Debug, Clone, PartialEq)]
pub struct Queries {
    source: QuerySource,
    queries: Vec<Query>,
}

#[derive(Debug, Clone, PartialEq)]
struct Query {
    text: String,
    /// Names of documents, or of chunks.
    relevant: BTreeMap<String, u32>,
    unit: Unit,
    /// Left out of the ranking.
    without: Option<ChunkId>,
}

/// What is ranked for a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Document,
    Chunk,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    query: String,
    #[serde(alias = "uri")]
    document: String,
    #[serde(default)]
    span: Option<Span>,
}

impl Queries {
    /// Number of queries.
    pub fn len(&self) -> usize {
        self.queries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.queries.is_empty()
    }

    /// Reads labelled queries, one JSON object a line: `query`, `document` (its URI or id), and, where only a part of the
    /// document answers, `span` with `start` and `end` in bytes of its normalised text, as citations have it. A query
    /// with several answers has several lines.
    ///
    /// # Errors
    /// [`EvaluationError::Read`]; [`EvaluationError::Line`] for what is no such object;
    /// [`EvaluationError::Queries`] for a document that is not in the collection, or a span that no chunk overlaps.
    pub fn read(path: &Path, collection: &Collection) -> Result<Self, EvaluationError> {
        let expected = "a file of lines such as {\"query\": \"How do I borrow?\", \"document\": \"ch04.md\"}";
        let lines: Vec<Line> = json_lines(path, expected)?;
        let wrong = |reason: String| EvaluationError::Queries(format!("{}: {reason}", path.display()));
        let mut by_text: BTreeMap<String, Query> = BTreeMap::new();
        for Line { query: text, document: name, span } in lines {
            if text.trim().is_empty() {
                return Err(wrong(format!("the query for document `{name}` is empty")));
            }
            let document = resolve(collection, &name)?
                .ok_or_else(|| wrong(format!("document `{name}` is not in collection {}", collection.name())))?;
            let (unit, found) = match span {
                None => (Unit::Document, vec![document.to_string()]),
                Some(span) => {
                    let chunks = collection.chunks_of(&document)?;
                    let hit = chunks.iter().filter(|chunk| chunk.span.overlaps(span)).map(|chunk| chunk_name(chunk.id));
                    (Unit::Chunk, hit.collect())
                }
            };
            if found.is_empty() {
                return Err(wrong(format!("no chunk of document `{name}` overlaps the span of query `{text}`")));
            }
            let grades = found.into_iter().map(|name| (name, 1));
            match by_text.entry(text.clone()) {
                Entry::Vacant(entry) => {
                    entry.insert(Query { text, relevant: grades.collect(), unit, without: None });
                }
                Entry::Occupied(mut entry) if entry.get().unit == unit => entry.get_mut().relevant.extend(grades),
                Entry::Occupied(_) => {
                    return Err(wrong(format!("query `{text}` has answers with a span and without: give all a span")));
                }
            }
        }
        Ok(Self { source: QuerySource::Labelled, queries: by_text.into_values().collect() })
    }

    /// Makes up to `count` queries from sentences of the collection, at most one a chunk, the same ones for the same
    /// content and seed.
    ///
    /// # Errors
    /// [`EvaluationError::Retrieval`] if the collection can't be read.
    pub fn make(collection: &Collection, count: usize, seed: u64) -> Result<Self, EvaluationError> {
        let mut sizes: HashMap<DocumentId, usize> = HashMap::new();
        let mut owned = collection.chunk_documents()?;
        for (_, document) in &owned {
            *sizes.entry(document.clone()).or_default() += 1;
        }
        // A chunk without neighbours has nothing that could count as right.
        owned.retain(|(_, document)| sizes.get(document).is_some_and(|chunks| *chunks > 1));
        owned.sort();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        owned.shuffle(&mut rng);
        let mut documents: HashMap<DocumentId, Vec<Chunk>> = HashMap::new();
        let mut seen = HashSet::new();
        let mut queries = Vec::new();
        for (id, document) in owned {
            if queries.len() == count {
                break;
            }
            if !documents.contains_key(&document) {
                documents.insert(document.clone(), collection.chunks_of(&document)?);
            }
            let Some(chunks) = documents.get(&document) else { continue };
            let Some(at) = chunks.iter().position(|chunk| chunk.id == id) else { continue };
            let neighbours: Vec<&Chunk> =
                [at.checked_sub(1), at.checked_add(1)].into_iter().flatten().filter_map(|at| chunks.get(at)).collect();
            let Some(text) = sentence(&chunks[at], &neighbours, &mut rng) else { continue };
            if seen.insert(text.clone()) {
                let relevant = neighbours.iter().map(|chunk| (chunk_name(chunk.id), 1)).collect();
                queries.push(Query { text, relevant, unit: Unit::Chunk, without: Some(id) });
            }
        }
        Ok(Self { source: QuerySource::Made { seed }, queries })
    }
}

/// A document by URI, or by id.
fn resolve(collection: &Collection, name: &str) -> Result<Option<DocumentId>, RetrievalError> {
    for id in [Some(DocumentId::from_uri(name)), DocumentId::from_str(name).ok()].into_iter().flatten() {
        match collection.document(&id) {
            Ok(document) => return Ok(Some(document.id)),
            Err(RetrievalError::UnknownDocument { .. }) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

/// One of the chunk's own sentences, if it has one that says something: of a fair number of words, closed by a stop, and
/// not repeated in a neighbour.
fn sentence(chunk: &Chunk, neighbours: &[&Chunk], rng: &mut ChaCha8Rng) -> Option<String> {
    let usable = |span: &Span| {
        let text = span.slice(&chunk.text).ok()?;
        let words = text.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic)).count();
        let whole = text.ends_with(['.', '!', '?', '。']) && SENTENCE_WORDS.contains(&words);
        let repeated = neighbours.iter().any(|other| other.text.contains(text));
        (whole && !repeated).then(|| text.split_whitespace().collect::<Vec<_>>().join(" "))
    };
    let mut found: Vec<String> = sentences(&chunk.text).iter().filter_map(usable).collect();
    if found.is_empty() { None } else { Some(found.swap_remove(rng.random_range(0..found.len()))) }
}

fn chunk_name(chunk: ChunkId) -> String {
    chunk.0.to_string()
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recommendation {
    /// The fusion that did best.
    pub fusion: Fusion,
    /// Its name, as in tables.
    pub name: String,
    /// nDCG@10 gained over the fusion in force, cross-fitted.
    pub gain: Estimate,
    /// Whether to change to it: it is another than the one in force, and the whole interval of the gain is above 0.
    pub change: bool,
    /// The same in a sentence.
    pub reason: String,
}

/// Figures of one collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CollectionReport {
    /// Its name.
    pub collection: String,
    /// Where the queries come from.
    pub source: QuerySource,
    /// How far they can be trusted.
    pub trust: String,
    /// Number of queries.
    pub queries: usize,
    /// Name of the fusion in force.
    pub in_force: String,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// Arms first, then fusions.
    pub systems: Vec<SystemReport>,
    /// What to do.
    pub recommendation: Recommendation,
}

/// Measures both arms and `fusions`, beside the one in force, on a collection, and recommends one.
///
/// # Errors
/// [`EvaluationError::Queries`] for fewer than [`LEAST_QUERIES`] queries; [`EvaluationError::Retrieval`].
pub fn evaluate_collection(
    collection: &Collection,
    queries: &Queries,
    fusions: &[Fusion],
    bootstrap: Bootstrap,
    progress: &dyn Progress,
) -> Result<CollectionReport, EvaluationError> {
    if queries.len() < LEAST_QUERIES {
        let cure = match queries.source {
            QuerySource::Labelled => "label more",
            QuerySource::Made { .. } => {
                "its documents have too few chunks with whole sentences to make more, so label some and give them with --queries"
            }
        };
        let name = collection.name();
        let reason = format!("{} queries are too few to choose a fusion for {name}: {cure}", queries.len());
        return Err(EvaluationError::Queries(format!("{reason} (at least {LEAST_QUERIES})")));
    }
    let in_force = profile_fusion(&collection.profile());
    let mut candidates = vec![in_force];
    candidates.extend(fusions.iter().filter(|fusion| **fusion != in_force));
    let mut systems = vec![System::Lexical, System::Vector];
    let arms = systems.len();
    systems.extend(candidates.iter().copied().map(System::Fused));
    let metrics = [Metric::Ndcg(10), Metric::Mrr(10), Metric::Recall(10), Metric::Recall(100)];
    let comparison = Comparison { collection, embedder: None, systems: &systems, metrics: &metrics, limit: LIMIT };
    let names: HashMap<ChunkId, [String; 2]> = collection
        .chunk_documents()?
        .into_iter()
        .map(|(chunk, document)| (chunk, [document.to_string(), chunk_name(chunk)]))
        .collect();
    let unit = |at: usize, chunk: ChunkId| {
        let (query, [document, own]) = (queries.queries.get(at)?, names.get(&chunk)?);
        match query.unit {
            _ if query.without == Some(chunk) => None,
            Unit::Document => Some(document.as_str()),
            Unit::Chunk => Some(own.as_str()),
        }
    };
    let asked: Vec<Asked<'_>> =
        queries.queries.iter().map(|query| Asked { text: &query.text, relevant: &query.relevant }).collect();
    let values: Values = comparison.run(&asked, &unit, &mut |_, _, _| Ok(()), progress)?;
    let tried: Vec<&[f64]> = values.iter().skip(arms).filter_map(|system| system.first()).map(Vec::as_slice).collect();
    let recommendation = recommend(&candidates, &tried, bootstrap);
    Ok(CollectionReport {
        collection: collection.name().to_string(),
        source: queries.source.clone(),
        trust: queries.source.trust().to_owned(),
        queries: queries.len(),
        in_force: System::Fused(in_force).name(),
        bootstrap,
        systems: comparison.reports(&values, bootstrap),
        recommendation,
    })
}

/// The best of `candidates`, the first of which is in force, given the values of each by query.
fn recommend(candidates: &[Fusion], values: &[&[f64]], bootstrap: Bootstrap) -> Recommendation {
    let total = |values: &[f64], part: &dyn Fn(usize) -> bool| -> f64 {
        values.iter().enumerate().filter(|(at, _)| part(*at)).map(|(_, value)| value).sum()
    };
    // Of equal ones the first, which is the one in force.
    let best = |part: &dyn Fn(usize) -> bool| {
        let totals = values.iter().enumerate().map(|(at, values)| (at, total(values, part)));
        totals.reduce(|best, other| if other.1 > best.1 { other } else { best }).map_or(0, |(at, _)| at)
    };
    let by_fold: Vec<usize> = (0..FOLDS).map(|fold| best(&|at| at % FOLDS != fold)).collect();
    let queries = values.first().map_or(0, |values| values.len());
    let fitted: Vec<f64> = (0..queries).map(|at| values[by_fold[at % FOLDS]][at] - values[0][at]).collect();
    let gain = bootstrap.estimate(&fitted);
    let chosen = best(&|_| true);
    let fusion = candidates[chosen];
    let name = System::Fused(fusion).name();
    let change = chosen != 0 && gain.low > 0.0;
    let interval = format!("{:+.3} [{:+.3}, {:+.3}]", gain.mean, gain.low, gain.high);
    let reason = if chosen == 0 {
        format!("keep {name}, which is in force: nothing tried is better")
    } else if change {
        format!("change to {name}: nDCG@10 {interval} over the fusion in force, on queries it was not chosen on")
    } else {
        let force = System::Fused(candidates[0]).name();
        format!("keep {force}: {name} is best here, but its gain of {interval} may be chance")
    };
    Recommendation { fusion, name, gain, change, reason }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
