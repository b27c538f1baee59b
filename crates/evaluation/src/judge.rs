//! How well an answer tells whether its sources held what was asked, and the coefficients that say so best.
//!
//! Each question of a labelled set is answered twice by the real planner on the route `passages`: from the whole
//! collection, and from all of it but the passages labelled relevant. What counts as unanswerable is read off the sources
//! that were in the prompt: whether none of them holds one of the known answers, word for word. So a question whose
//! passage was there but not retrieved is unanswerable too, and one whose answer stands in another passage is not.
//!
//! Figures are of held-out questions: five folds by question, both answers to one in the same fold. Rows are appended to
//! a file as they come, so that a run that was stopped goes on where it was.
//!
//! Deliberately not here: putting coefficients in force.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs,
    io::Write,
    ops::ControlFlow,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use edgewise_documents::IndexProfile;
use edgewise_model_api::Embedder;
use edgewise_planner::{Judgement, Planner, Query, Route};
use edgewise_retrieval::{Collection, RetrievalError, Source, SourceContent};
use edgewise_types::DocumentId;

use crate::{
    Bootstrap, Dataset, Estimate, EvaluationError, Progress,
    beir::json_lines,
    logistic::{self, Logistic},
    scratch::Scratch,
};

/// Folds of the cross-validation.
const FOLDS: usize = 5;

/// Penalty on squared standardised weights: that of a prior of unit width.
const RIDGE: f64 = 1.0;

const EXPECTED: &str = "queries.jsonl with `metadata.answers`, beside corpus.jsonl and qrels.tsv";

/// Questions with their known answers, and the passages.
#[derive(Debug, Clone)]
pub struct JudgeSet {
    /// The labelled set.
    pub dataset: Dataset,
    /// Known answers by query.
    answers: BTreeMap<String, Vec<String>>,
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
struct Metadata {
    #[serde(default)]
    answers: Vec<String>,
}

impl JudgeSet {
    /// Reads the set in `folder`.
    pub fn load(folder: &Path) -> Result<Self, EvaluationError> {
        let mut dataset = Dataset::load(folder)?;
        let lines: Vec<Line> = json_lines(&folder.join("queries.jsonl"), EXPECTED)?;
        let answers: BTreeMap<String, Vec<String>> = lines
            .into_iter()
            .filter(|line| line.metadata.answers.iter().any(|answer| !plain(answer).is_empty()))
            .map(|line| (line.id, line.metadata.answers))
            .collect();
        dataset.queries.retain(|query| answers.contains_key(&query.id));
        if dataset.queries.is_empty() {
            let reason = format!("no query has known answers: expected {EXPECTED}");
            return Err(EvaluationError::Dataset { name: dataset.name, reason });
        }
        Ok(Self { dataset, answers })
    }
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgeOptions {
    /// Questions, each answered twice.
    pub questions: usize,
    /// Passages placed at most.
    pub top_k: usize,
    /// Most tokens of an answer.
    pub max_output_tokens: usize,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeRow {
    /// The question.
    pub query: String,
    /// Whether the relevant passages were left out.
    pub removed: bool,
    /// Digest of the model.
    pub digest: String,
    /// Passages placed at most.
    pub top_k: usize,
    /// What was said.
    pub answer: String,
    /// Whether none of the sources held a known answer.
    pub unanswerable: bool,
    /// Whether what was said holds one.
    pub correct: bool,
    /// The signs.
    pub signs: Judgement,
}

/// A judge on held-out questions, and its weights from all of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgedSigns {
    /// Which signs it reads.
    pub name: String,
    /// Area under the ROC curve.
    pub auc: Estimate,
    /// Brier score.
    pub brier: f64,
    /// Expected calibration error, ten bins.
    pub calibration_error: f64,
    /// Share of the unanswerable ones above one half.
    pub found: f64,
    /// Share of the answerable ones above one half.
    pub false_alarms: f64,
    /// Probabilities against outcomes.
    pub reliability: Vec<Reliability>,
    /// Constant, from all rows.
    pub bias: f64,
    /// Weights by sign, from all rows.
    pub weights: BTreeMap<String, f64>,
}

/// One bin of probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// Mean probability.
    pub probability: f64,
    /// Share that was unanswerable.
    pub outcome: f64,
    /// Answers.
    pub answers: usize,
}

/// The measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JudgeReport {
    /// The set.
    pub set: String,
    /// The model.
    pub model: String,
    /// Its digest.
    pub digest: String,
    /// Answers.
    pub answers: usize,
    /// Those whose sources did not hold the answer.
    pub unanswerable: usize,
    /// Share of the answerable ones answered correctly.
    pub correct: f64,
    /// Area under the ROC curve of each sign alone, turned the better way round.
    pub alone: BTreeMap<String, f64>,
    /// All signs.
    pub all: JudgedSigns,
    /// Without the probabilities of tokens.
    pub without_logprobs: JudgedSigns,
}

/// Answers the questions, or those that `rows` does not hold yet, and fits the judge.
///
/// # Errors
/// [`EvaluationError::Answers`] if the file can't be read or is of another model or setting;
/// [`EvaluationError::Planner`] if a question can't be answered.
pub fn evaluate_judge(
    set: &JudgeSet,
    planner: &Planner,
    embedder: &Arc<dyn Embedder>,
    options: &JudgeOptions,
    rows: &Path,
    progress: &dyn Progress,
) -> Result<JudgeReport, EvaluationError> {
    let digest = planner.model_digest().to_owned();
    let mut done = read(rows, &digest, options)?;
    let held: HashSet<(String, bool)> = done.iter().map(|row| (row.query.clone(), row.removed)).collect();
    let questions = sample(&set.dataset, options.questions);
    let wanted: Vec<_> = questions.iter().flat_map(|query| [(*query, false), (*query, true)]).collect();
    if wanted.iter().any(|(query, removed)| !held.contains(&(query.id.clone(), *removed))) {
        let sources = set.dataset.passages.iter().map(|passage| Source {
            uri: uri(&passage.id),
            content: SourceContent::Bytes(format!("# {}\n\n{}\n", passage.title, passage.text).into_bytes()),
            media_type: None,
        });
        let scratch = Scratch::of(&set.dataset.name, sources.collect(), embedder, &IndexProfile::default(), progress)?;
        let mut file = fs::File::options().create(true).append(true).open(rows).map_err(answers(rows))?;
        for (at, (query, removed)) in wanted.iter().enumerate() {
            if !held.contains(&(query.id.clone(), *removed)) {
                let known = set.answers.get(&query.id).map(Vec::as_slice).unwrap_or_default();
                let relevant = if *removed { query.relevant.keys().map(String::as_str).collect() } else { Vec::new() };
                let row = answer(planner, &scratch.collection, &query.id, &query.text, &relevant, known, options)?;
                let line = serde_json::to_string(&row)
                    .map_err(|error| EvaluationError::Answers { path: rows.to_owned(), reason: error.to_string() })?;
                file.write_all(format!("{line}\n").as_bytes()).map_err(answers(rows))?;
                done.push(row);
            }
            progress.answered(at + 1, wanted.len());
        }
    }
    let wanted: BTreeSet<(&str, bool)> = wanted.iter().map(|(query, removed)| (query.id.as_str(), *removed)).collect();
    done.retain(|row| wanted.contains(&(row.query.as_str(), row.removed)));
    report(&set.dataset.name, planner, digest, &done, options)
}

/// Questions spread evenly over the set.
fn sample(dataset: &Dataset, questions: usize) -> Vec<&crate::LabelledQuery> {
    let n = questions.min(dataset.queries.len());
    (0..n).filter_map(|i| dataset.queries.get(i * dataset.queries.len() / n)).collect()
}

fn uri(id: &str) -> String {
    format!("{id}.md")
}

fn answers(path: &Path) -> impl Fn(std::io::Error) -> EvaluationError + '_ {
    |error| EvaluationError::Answers { path: path.to_owned(), reason: error.to_string() }
}

/// The rows of an earlier run.
fn read(path: &Path, digest: &str, options: &JudgeOptions) -> Result<Vec<JudgeRow>, EvaluationError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let rows: Vec<JudgeRow> = json_lines(path, "answers of an earlier run")?;
    match rows.iter().find(|row| row.digest != digest || row.top_k != options.top_k) {
        None => Ok(rows),
        Some(row) => Err(EvaluationError::Answers {
            path: path.to_owned(),
            reason: format!("its answers are of model {} with {} passages", short(&row.digest), row.top_k),
        }),
    }
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

fn answer(
    planner: &Planner,
    collection: &Collection,
    id: &str,
    question: &str,
    without: &[&str],
    known: &[String],
    options: &JudgeOptions,
) -> Result<JudgeRow, EvaluationError> {
    let filter = without.iter().map(|id| format!("uri != '{}'", uri(id))).collect::<Vec<_>>().join(" and ");
    let filter = match filter.is_empty() {
        true => None,
        false => Some(filter.parse().map_err(RetrievalError::Filter)?),
    };
    let query = Query {
        route: Some(Route::Passages),
        escalate: Some(false),
        top_k: Some(options.top_k),
        max_output_tokens: Some(options.max_output_tokens),
        filter,
        ..Query::new(question)
    };
    let answer = planner.answer(collection, &query, &mut |_| ControlFlow::Continue(()))?;
    let mut held = false;
    for source in &answer.sources {
        let text = collection.document_text(&DocumentId::from_uri(&source.uri))?;
        held |= source.span.slice(&text).is_ok_and(|text| holds(text, known));
    }
    Ok(JudgeRow {
        query: id.to_owned(),
        removed: !without.is_empty(),
        digest: planner.model_digest().to_owned(),
        top_k: options.top_k,
        correct: holds(&answer.text, known),
        unanswerable: !held,
        answer: answer.text,
        signs: answer.judgement,
    })
}

/// Lower-case words and numbers between spaces.
fn plain(text: &str) -> String {
    let words = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join(" ")
}

/// Whether `text` holds one of the `known` answers, word for word.
fn holds(text: &str, known: &[String]) -> bool {
    let text = format!(" {} ", plain(text));
    known.iter().map(|answer| plain(answer)).any(|answer| !answer.is_empty() && text.contains(&format!(" {answer} ")))
}

fn report(
    set: &str,
    planner: &Planner,
    digest: String,
    rows: &[JudgeRow],
    options: &JudgeOptions,
) -> Result<JudgeReport, EvaluationError> {
    let labels: Vec<bool> = rows.iter().map(|row| row.unanswerable).collect();
    let unanswerable = labels.iter().filter(|label| **label).count();
    if unanswerable < FOLDS || rows.len() - unanswerable < FOLDS {
        return Err(EvaluationError::Dataset {
            name: set.to_owned(),
            reason: format!(
                "{unanswerable} of {} answers are unanswerable, but the fit needs {FOLDS} of either kind: ask more questions",
                rows.len()
            ),
        });
    }
    let names: Vec<&str> = Judgement::default().signs().iter().map(|(name, _)| *name).collect();
    let alone = names.iter().enumerate().map(|(at, name)| {
        let values: Vec<f64> = rows.iter().map(|row| row.signs.signs()[at].1).collect();
        let auc = logistic::auc(&values, &labels);
        ((*name).to_owned(), auc.max(1.0 - auc))
    });
    let answered = rows.iter().filter(|row| !row.unanswerable);
    let correct = answered.clone().filter(|row| row.correct).count() as f64 / answered.count().max(1) as f64;
    let transferable: Vec<&str> = names.iter().copied().filter(|name| !name.ends_with("logprob")).collect();
    Ok(JudgeReport {
        set: set.to_owned(),
        model: planner.model().to_owned(),
        digest,
        answers: rows.len(),
        unanswerable,
        correct,
        alone: alone.collect(),
        all: judged("all signs", rows, &labels, &names, options),
        without_logprobs: judged("without the probabilities of tokens", rows, &labels, &transferable, options),
    })
}

/// The judge that reads `names`, on held-out questions.
fn judged(name: &str, rows: &[JudgeRow], labels: &[bool], names: &[&str], options: &JudgeOptions) -> JudgedSigns {
    let input = |row: &JudgeRow| -> Vec<f64> {
        row.signs.signs().iter().filter(|(name, _)| names.contains(name)).map(|(_, value)| *value).collect()
    };
    let inputs: Vec<Vec<f64>> = rows.iter().map(input).collect();
    let queries: Vec<&str> = {
        let set: BTreeSet<&str> = rows.iter().map(|row| row.query.as_str()).collect();
        set.into_iter().collect()
    };
    let fold_of = |row: &JudgeRow| queries.binary_search(&row.query.as_str()).unwrap_or(0) % FOLDS;
    let mut held_out = vec![0.0; rows.len()];
    for fold in 0..FOLDS {
        let (mut train, mut train_labels) = (Vec::new(), Vec::new());
        for ((row, input), label) in rows.iter().zip(&inputs).zip(labels) {
            if fold_of(row) != fold {
                train.push(input.clone());
                train_labels.push(*label);
            }
        }
        let model = Logistic::fit(&train, &train_labels, RIDGE);
        for ((row, input), slot) in rows.iter().zip(&inputs).zip(&mut held_out) {
            if fold_of(row) == fold {
                *slot = model.probability(input);
            }
        }
    }
    let share = |wanted: bool| {
        let of: Vec<f64> =
            held_out.iter().zip(labels).filter(|(_, label)| **label == wanted).map(|(p, _)| *p).collect();
        of.iter().filter(|p| **p > 0.5).count() as f64 / of.len().max(1) as f64
    };
    let model = Logistic::fit(&inputs, labels, RIDGE);
    JudgedSigns {
        name: name.to_owned(),
        auc: auc_interval(rows, &held_out, labels, &queries, options.bootstrap),
        brier: logistic::brier(&held_out, labels),
        calibration_error: logistic::calibration_error(&held_out, labels),
        found: share(true),
        false_alarms: share(false),
        reliability: logistic::bins(&held_out, labels, 10)
            .into_iter()
            .filter(|(.., answers)| *answers > 0)
            .map(|(probability, outcome, answers)| Reliability { probability, outcome, answers })
            .collect(),
        bias: rounded(model.bias),
        weights: names
            .iter()
            .zip(&model.weights)
            .map(|(name, weight)| ((*name).to_owned(), rounded(*weight)))
            .collect(),
    }
}

/// Four decimals: more than the data says, and readable in a file.
fn rounded(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}

/// The area under the curve, with its interval by bootstrap over questions.
fn auc_interval(
    rows: &[JudgeRow],
    scores: &[f64],
    labels: &[bool],
    queries: &[&str],
    bootstrap: Bootstrap,
) -> Estimate {
    let mut by_query: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        by_query.entry(row.query.as_str()).or_default().push(at);
    }
    let statistic = |sampled: &[usize]| {
        let picked: Vec<usize> = sampled
            .iter()
            .filter_map(|at| by_query.get(queries.get(*at)?))
            .flat_map(|rows| rows.iter().copied())
            .collect();
        let scores: Vec<f64> = picked.iter().map(|at| scores[*at]).collect();
        let labels: Vec<bool> = picked.iter().map(|at| labels[*at]).collect();
        logistic::auc(&scores, &labels)
    };
    bootstrap.of(queries.len(), &statistic)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn row(query: usize, unanswerable: bool, says: f64, cosine: f64) -> JudgeRow {
        JudgeRow {
            query: format!("q{query:03}"),
            removed: unanswerable,
            digest: "d".to_owned(),
            top_k: 4,
            answer: String::new(),
            unanswerable,
            correct: !unanswerable,
            signs: Judgement { says_unanswerable: says, top_cosine: cosine, ..Judgement::default() },
        }
    }

    fn options() -> JudgeOptions {
        let bootstrap = Bootstrap { resamples: 100, ..Bootstrap::default() };
        JudgeOptions { questions: 10, top_k: 4, max_output_tokens: 32, bootstrap }
    }

    #[test]
    fn a_sign_that_tells_is_weighed_and_one_that_does_not_is_not() {
        // Wrong for every seventh question, so in every fold alike.
        let rows: Vec<JudgeRow> = (0..70)
            .flat_map(|q| {
                let says = f64::from(u8::from(q % 7 != 0));
                [row(q, true, says, 0.4), row(q, false, 1.0 - says, 0.4)]
            })
            .collect();
        let labels: Vec<bool> = rows.iter().map(|row| row.unanswerable).collect();
        let judged = judged("two", &rows, &labels, &["says_unanswerable", "top_cosine"], &options());
        assert!(judged.weights["says_unanswerable"] > 1.0 && judged.weights["top_cosine"] == 0.0, "{judged:?}");
        assert!((judged.auc.mean - 6.0 / 7.0).abs() < 0.03 && judged.auc.low < judged.auc.mean, "{judged:?}");
        assert!((judged.found - 6.0 / 7.0).abs() < 1e-9 && (judged.false_alarms - 1.0 / 7.0).abs() < 1e-9);
        assert!(judged.calibration_error < 0.1);
    }

    #[test]
    fn answers_are_found_word_for_word() {
        let known = ["Wilhelm Conrad Röntgen".to_owned(), "1901".to_owned(), "!".to_owned()];
        assert!(holds("It was wilhelm conrad Röntgen.", &known) && holds("In 1901, he did", &known));
        assert!(!holds("In 19012", &known) && !holds("Wilhelm Röntgen!", &known));
    }

    #[test]
    fn rows_of_another_model_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        fs::write(&path, format!("{}\n", serde_json::to_string(&row(1, true, 1.0, 0.3)).unwrap())).unwrap();
        assert_eq!(read(&path, "d", &options()).unwrap().len(), 1);
        assert!(read(&path, "other", &options()).unwrap_err().to_string().contains("4 passages"));
        assert!(read(Path::new("/nowhere/rows"), "d", &options()).unwrap().is_empty());
    }
}
