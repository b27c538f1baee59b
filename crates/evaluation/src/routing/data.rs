//! A set of answered questions: documents, questions about one document each, and how well several models answered
//! them from the whole document and from what a retriever found in it. The format is that of LaRA (Li et al. 2025,
//! "LaRA: Benchmarking Retrieval-Augmented Generation and Long-Context LLMs"), scored question by question:
//!
//! - `queries.jsonl`: `id`, `doc_type`, `level`, `file`, `question`;
//! - `docs/<doc_type>/<file>`;
//! - `scores.csv`: `id,model,full_f1,rag_f1,full_recall,rag_recall`.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::Path,
};

use serde::Deserialize;

use edgewise_planner::QuestionKind;

use crate::{EvaluationError, beir::json_lines};

/// What a folder must hold.
const FILES: &str = "a folder with queries.jsonl, scores.csv and docs/TYPE/FILE";
const COLUMNS: &str = "id,model,full_f1,rag_f1,full_recall,rag_recall";

/// Level whose questions the document does not answer.
pub(crate) const REFUSAL: &str = "hallu";

/// How well one question was answered, 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// Recall of the reference answer's words, from the whole document.
    pub full: f64,
    /// The same from retrieved passages.
    pub passages: f64,
    /// F1 against the reference answer, from the whole document.
    pub full_f1: f64,
    /// The same from retrieved passages.
    pub passages_f1: f64,
}

/// A question about one document.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutedQuestion {
    /// Its id.
    pub id: String,
    /// The question.
    pub text: String,
    /// What the set calls its difficulty.
    pub level: String,
    /// Index of its document.
    pub document: usize,
    /// Scores, one a model, in the order of [`RoutingSet::models`].
    pub scores: Vec<Scores>,
}

/// The set.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingSet {
    /// Name of its folder.
    pub name: String,
    /// Names and texts of the documents.
    pub documents: Vec<(String, String)>,
    /// Names of the models.
    pub models: Vec<String>,
    /// Questions that every model answered.
    pub questions: Vec<RoutedQuestion>,
    /// Ids in the scores that no question has.
    pub unknown_ids: usize,
    /// Questions left out because a model has no score for them.
    pub unscored: usize,
    /// BLAKE3 of the files read, by name.
    pub digests: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct QueryLine {
    id: String,
    doc_type: String,
    level: String,
    file: String,
    question: String,
}

impl RoutingSet {
    /// Reads the set in `folder`.
    ///
    /// # Errors
    /// [`EvaluationError::Read`], [`EvaluationError::Line`] with file and line, [`EvaluationError::Dataset`].
    pub fn load(folder: &Path) -> Result<Self, EvaluationError> {
        let name = folder.file_name().map_or_else(|| "set".to_owned(), |name| name.to_string_lossy().into_owned());
        let invalid = |reason: String| EvaluationError::Dataset { name: name.clone(), reason };
        let lines: Vec<QueryLine> = json_lines(&folder.join("queries.jsonl"), FILES)?;
        let mut scores = scores(&folder.join("scores.csv"))?;
        let models: Vec<String> =
            scores.values().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>().into_iter().cloned().collect();
        let mut digests = BTreeMap::new();
        for file in ["queries.jsonl", "scores.csv"] {
            digests.insert(format!("{name}/{file}"), digest(&folder.join(file))?);
        }
        let mut documents: Vec<(String, String)> = Vec::new();
        let mut at: HashMap<String, usize> = HashMap::new();
        let (mut questions, mut unscored) = (Vec::with_capacity(lines.len()), 0);
        let mut seen = BTreeSet::new();
        for line in lines {
            if !seen.insert(line.id.clone()) {
                return Err(invalid(format!("question `{}` is in queries.jsonl twice", line.id)));
            }
            let scored = scores.remove(&line.id).unwrap_or_default();
            if scored.len() < models.len() {
                unscored += 1;
                continue;
            }
            let uri = format!("{}/{}", line.doc_type, line.file);
            let document = match at.get(&uri) {
                Some(document) => *document,
                None => {
                    let path = folder.join("docs").join(&line.doc_type).join(&line.file);
                    let text = fs::read_to_string(&path).map_err(EvaluationError::read(&path, FILES))?;
                    documents.push((uri.clone(), text));
                    at.insert(uri, documents.len() - 1);
                    documents.len() - 1
                }
            };
            let scores = scored.into_values().collect();
            questions.push(RoutedQuestion { id: line.id, text: line.question, level: line.level, document, scores });
        }
        if documents.len() < 3 || questions.len() < 10 || models.is_empty() {
            return Err(invalid(format!(
                "{} scored questions about {} documents are too few to leave documents out",
                questions.len(),
                documents.len()
            )));
        }
        let unknown_ids = scores.len();
        Ok(Self { name, documents, models, questions, unknown_ids, unscored, digests })
    }
}

/// Scores by question and model.
fn scores(path: &Path) -> Result<BTreeMap<String, BTreeMap<String, Scores>>, EvaluationError> {
    let text = fs::read_to_string(path).map_err(EvaluationError::read(path, FILES))?;
    let mut scores: BTreeMap<String, BTreeMap<String, Scores>> = BTreeMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let fail = |reason: String| EvaluationError::Line { path: path.to_owned(), line: at + 1, reason };
        if at == 0 {
            if line.trim() != COLUMNS {
                return Err(fail(format!("expected the header {COLUMNS}")));
            }
            continue;
        }
        let columns: Vec<&str> = line.split(',').map(str::trim).collect();
        let [id, model, numbers @ ..] = &columns[..] else { return Err(fail(format!("expected {COLUMNS}"))) };
        let numbers: Option<Vec<f64>> =
            numbers.iter().map(|number| number.parse().ok().filter(|n| (0.0..=1.0).contains(n))).collect();
        let Some([full_f1, passages_f1, full, passages]) = numbers.as_deref() else {
            return Err(fail("expected four numbers from 0 to 1 after id and model".to_owned()));
        };
        let score = Scores { full: *full, passages: *passages, full_f1: *full_f1, passages_f1: *passages_f1 };
        if scores.entry((*id).to_owned()).or_default().insert((*model).to_owned(), score).is_some() {
            return Err(fail(format!("`{id}` has two lines for the model `{model}`")));
        }
    }
    Ok(scores)
}

fn digest(path: &Path) -> Result<String, EvaluationError> {
    let bytes = fs::read(path).map_err(EvaluationError::read(path, FILES))?;
    Ok(blake3::hash(&bytes).to_hex().to_string())
}

/// A question of a known kind.
#[derive(Debug, Clone, PartialEq)]
pub struct KindQuestion {
    /// Its text.
    pub text: String,
    /// Its kind.
    pub kind: QuestionKind,
    /// Name of the file it is from.
    pub source: String,
    /// Questions of one group are left out together: those about one document, or of one form.
    pub group: String,
}

/// Questions of known kinds, for training.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct KindQuestions {
    /// Each text once.
    pub questions: Vec<KindQuestion>,
    /// BLAKE3 of the files read, by name.
    pub digests: BTreeMap<String, String>,
}

/// Which kind the questions of a file are of, where a line does not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KindOfFile {
    /// Of single questions, and of the first one in a list.
    pub first: Option<QuestionKind>,
    /// Of the others in a list; the same if absent.
    pub others: Option<QuestionKind>,
}

#[derive(Deserialize)]
struct KindLine {
    #[serde(alias = "text", alias = "query", alias = "question_text")]
    question: Option<String>,
    #[serde(default)]
    questions: Vec<KindLine>,
    metadata: Option<KindMetadata>,
    kind: Option<QuestionKind>,
    group: Option<String>,
}

#[derive(Deserialize)]
struct KindMetadata {
    #[serde(rename = "type")]
    kind: Option<String>,
}

impl KindQuestions {
    /// Adds the questions in `path`, one JSON object a line with `question`, `text`, `query` or a list of `questions`. They
    /// are of the kind that their line gives as `kind`, of comparison if its `metadata.type` says so, else of that `kind`
    /// says of the file. A line with a `group` belongs to it, any other is a group of its own.
    ///
    /// # Errors
    /// [`EvaluationError::Read`]; [`EvaluationError::Line`] also for a question of no known kind.
    pub fn add(&mut self, kind: KindOfFile, path: &Path) -> Result<(), EvaluationError> {
        let lines: Vec<KindLine> = json_lines(path, "questions, one JSON object a line")?;
        let parts: Vec<_> = path.iter().rev().take(2).map(|part| part.to_string_lossy()).collect();
        let source = parts.into_iter().rev().collect::<Vec<_>>().join("/");
        self.digests.insert(source.clone(), digest(path)?);
        let mut seen: BTreeSet<String> = self.questions.iter().map(|question| question.text.clone()).collect();
        for (at, line) in lines.into_iter().enumerate() {
            let says = line.metadata.and_then(|metadata| metadata.kind);
            let comparison = (says.as_deref() == Some("comparison")).then_some(QuestionKind::Comparison);
            let of_line = line.kind.or(comparison);
            let group = line.group.unwrap_or_else(|| format!("line {}", at + 1));
            let listed = line.questions.into_iter().enumerate().map(|(place, listed)| {
                let of_place = if place == 0 { kind.first } else { kind.others.or(kind.first) };
                (listed.question, listed.kind.or(of_line).or(of_place))
            });
            for (text, kind) in std::iter::once((line.question, of_line.or(kind.first))).chain(listed) {
                let Some(text) = text.filter(|text| !text.trim().is_empty()) else { continue };
                let Some(kind) = kind else {
                    let reason = "it does not say what kind of question it is: give it a `kind`, or name one for the \
                                  file, as in global=FILE"
                        .to_owned();
                    return Err(EvaluationError::Line { path: path.to_owned(), line: at + 1, reason });
                };
                if seen.insert(text.clone()) {
                    self.questions.push(KindQuestion { text, kind, source: source.clone(), group: group.clone() });
                }
            }
        }
        Ok(())
    }
}

/// The kind that a level of LaRA stands for; none for questions that the document does not answer.
pub(crate) fn kind_of(level: &str) -> Option<QuestionKind> {
    match level {
        "location" => Some(QuestionKind::LocalFact),
        "reasoning" => Some(QuestionKind::MultiHop),
        "comp" => Some(QuestionKind::Comparison),
        _ => None,
    }
}
