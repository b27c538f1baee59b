//! Labelled sets in the format of BEIR (Thakur et al., "BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of
//! Information Retrieval Models", NeurIPS 2021): `corpus.jsonl` with `_id`, `title`, `text`; `queries.jsonl` with `_id`,
//! `text`; `qrels.tsv` with a header and query, document, grade.
//!
//! Deliberately not here: downloading sets.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use serde::{Deserialize, de::DeserializeOwned};

use crate::EvaluationError;

/// What a folder must hold.
const FILES: &str = "a folder with corpus.jsonl, queries.jsonl and qrels.tsv, in the format of BEIR";

/// A document of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Its id in the labels.
    pub id: String,
    /// Its title; may be empty.
    pub title: String,
    /// Its text.
    pub text: String,
}

/// A query with at least one relevant document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelledQuery {
    /// Its id in the labels.
    pub id: String,
    /// The question.
    pub text: String,
    /// Grade by document id, all above 0.
    pub relevant: BTreeMap<String, u32>,
}

/// A labelled set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Name of its folder.
    pub name: String,
    /// Documents, in the order of the file.
    pub passages: Vec<Passage>,
    /// Queries that have a label, in the order of the file.
    pub queries: Vec<LabelledQuery>,
    /// Queries without any relevant document, which are left out.
    pub unlabelled: usize,
}

#[derive(Deserialize)]
struct PassageLine {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

#[derive(Deserialize)]
struct QueryLine {
    #[serde(rename = "_id")]
    id: String,
    text: String,
}

impl Dataset {
    /// Reads the set in `folder`.
    ///
    /// # Errors
    /// [`EvaluationError::Read`], [`EvaluationError::Line`] with file and line, and [`EvaluationError::Dataset`] if a
    /// label names a document that is not there or nothing is labelled.
    pub fn load(folder: &Path) -> Result<Self, EvaluationError> {
        let name = folder.file_name().map_or_else(|| "set".to_owned(), |name| name.to_string_lossy().into_owned());
        let invalid = |reason: String| EvaluationError::Dataset { name: name.clone(), reason };
        let passages: Vec<PassageLine> = json_lines(&folder.join("corpus.jsonl"), FILES)?;
        let queries: Vec<QueryLine> = json_lines(&folder.join("queries.jsonl"), FILES)?;
        let mut labels = labels(&folder.join("qrels.tsv"))?;
        let passages: Vec<Passage> =
            passages.into_iter().map(|p| Passage { id: p.id, title: p.title, text: p.text }).collect();
        let mut known = HashMap::with_capacity(passages.len());
        for passage in &passages {
            if known.insert(passage.id.as_str(), ()).is_some() {
                return Err(invalid(format!("document `{}` is in corpus.jsonl twice", passage.id)));
            }
        }
        if let Some(document) = labels.values().flat_map(BTreeMap::keys).find(|id| !known.contains_key(id.as_str())) {
            return Err(invalid(format!("qrels.tsv names document `{document}`, which is not in corpus.jsonl")));
        }
        let mut asked = HashMap::with_capacity(queries.len());
        if let Some(query) = queries.iter().find(|query| asked.insert(query.id.as_str(), ()).is_some()) {
            return Err(invalid(format!("query `{}` is in queries.jsonl twice", query.id)));
        }
        if let Some(query) = labels.keys().filter(|id| !asked.contains_key(id.as_str())).min() {
            return Err(invalid(format!("qrels.tsv names query `{query}`, which is not in queries.jsonl")));
        }
        let total = queries.len();
        let queries: Vec<LabelledQuery> = queries
            .into_iter()
            .filter_map(|query| {
                let relevant = labels.remove(&query.id)?;
                Some(LabelledQuery { id: query.id, text: query.text, relevant })
            })
            .collect();
        if queries.is_empty() {
            return Err(invalid("no query has a relevant document".to_owned()));
        }
        let unlabelled = total - queries.len();
        Ok(Self { name, passages, queries, unlabelled })
    }
}

/// One value a line; blank lines are skipped.
pub(crate) fn json_lines<T: DeserializeOwned>(path: &Path, expected: &'static str) -> Result<Vec<T>, EvaluationError> {
    let text = fs::read_to_string(path).map_err(EvaluationError::read(path, expected))?;
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            serde_json::from_str(line).map_err(|error| EvaluationError::Line {
                path: path.to_owned(),
                line: at + 1,
                reason: error.to_string(),
            })
        })
        .collect()
}

/// Positive grades by query and document.
fn labels(path: &Path) -> Result<HashMap<String, BTreeMap<String, u32>>, EvaluationError> {
    let text = fs::read_to_string(path).map_err(EvaluationError::read(path, FILES))?;
    let mut labels: HashMap<String, BTreeMap<String, u32>> = HashMap::new();
    for (at, line) in text.lines().enumerate().skip(1).filter(|(_, line)| !line.trim().is_empty()) {
        let fail = |reason: &str| EvaluationError::Line {
            path: path.to_owned(),
            line: at + 1,
            reason: format!("{reason}: expected query, document and a whole number, separated by tabs"),
        };
        let mut columns = line.split('\t');
        let (Some(query), Some(document), Some(grade), None) =
            (columns.next(), columns.next(), columns.next(), columns.next())
        else {
            return Err(fail("not three columns"));
        };
        let grade: i64 = grade.trim().parse().map_err(|_| fail("the grade is no whole number"))?;
        if let Ok(grade @ 1..) = u32::try_from(grade) {
            labels.entry(query.to_owned()).or_default().insert(document.to_owned(), grade);
        }
    }
    Ok(labels)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn folder(corpus: &str, queries: &str, labels: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in [("corpus.jsonl", corpus), ("queries.jsonl", queries), ("qrels.tsv", labels)] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    const CORPUS: &str =
        "{\"_id\":\"a\",\"title\":\"T\",\"text\":\"x\"}\n\n{\"_id\":\"b\",\"text\":\"y\",\"metadata\":{}}\n";
    const QUERIES: &str =
        "{\"_id\":\"1\",\"text\":\"q\"}\n{\"_id\":\"2\",\"text\":\"r\"}\n{\"_id\":\"3\",\"text\":\"s\"}\n";

    #[test]
    fn queries_without_a_relevant_document_are_counted_and_left_out() {
        let set = folder(CORPUS, QUERIES, "query-id\tcorpus-id\tscore\n1\tb\t2\n1\ta\t1\n2\ta\t0\n");
        let set = Dataset::load(set.path()).unwrap();
        assert_eq!((set.passages.len(), set.queries.len(), set.unlabelled), (2, 1, 2));
        assert_eq!(set.queries[0].relevant, BTreeMap::from([("a".to_owned(), 1), ("b".to_owned(), 2)]));
        assert_eq!((set.passages[0].title.as_str(), set.passages[1].title.as_str()), ("T", ""));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (corpus, labels, expected) in [
            ("{", "h\n1\ta\t1\n", "corpus.jsonl, line 1"),
            (CORPUS, "h\n1\ta\n", "qrels.tsv, line 2: not three columns"),
            (CORPUS, "h\n1\ta\tx\n", "no whole number"),
            (CORPUS, "h\n1\tz\t1\n", "document `z`"),
            (CORPUS, "h\n9\ta\t1\n", "query `9`"),
            (CORPUS, "h\n", "no query has a relevant document"),
            (&CORPUS.replace("\"b\"", "\"a\""), "h\n1\ta\t1\n", "twice"),
        ] {
            let error = Dataset::load(folder(corpus, QUERIES, labels).path()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        assert!(matches!(Dataset::load(Path::new("/nowhere")), Err(EvaluationError::Read { .. })));
    }
}
