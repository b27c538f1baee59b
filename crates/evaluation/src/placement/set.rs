//! Questions with one passage that answers and many that look like it: `lost_in_the_middle.jsonl` of
//! `{id, question, answers, gold_id, distractor_ids}` beside `passages.jsonl` of `{_id, title, text}` (questions and
//! distractors of Liu et al. 2023).

use std::{collections::HashMap, fs, path::Path};

use serde::Deserialize;

use crate::{EvaluationError, Passage};

const QUESTIONS: &str = "lost_in_the_middle.jsonl";
const PASSAGES: &str = "passages.jsonl";

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacementQuestion {
    /// Its name.
    pub id: String,
    /// The question.
    pub text: String,
    /// What counts as an answer; the first is the one whose likelihood is measured.
    pub answers: Vec<String>,
    /// Index of the passage that answers.
    pub gold: usize,
    /// Indexes of passages that do not, the most alike first.
    pub distractors: Vec<usize>,
}

/// A set.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacementSet {
    /// The questions, in the file's order.
    pub questions: Vec<PlacementQuestion>,
    /// Passages of all of them.
    pub passages: Vec<Passage>,
}

#[derive(Deserialize)]
struct QuestionLine {
    id: String,
    question: String,
    answers: Vec<String>,
    gold_id: String,
    distractor_ids: Vec<String>,
}

#[derive(Deserialize)]
struct PassageLine {
    #[serde(rename = "_id")]
    id: String,
    #[serde(default)]
    title: String,
    text: String,
}

impl PlacementSet {
    /// Reads a set.
    ///
    /// # Errors
    /// A file is missing or malformed, or names a passage that does not exist.
    pub fn load(folder: &Path) -> Result<Self, EvaluationError> {
        let expected = "a folder with lost_in_the_middle.jsonl and passages.jsonl";
        let read = |name: &str| {
            let path = folder.join(name);
            let text = fs::read_to_string(&path).map_err(EvaluationError::read(&path, expected))?;
            Ok::<_, EvaluationError>((path, text))
        };
        let (path, text) = read(PASSAGES)?;
        let mut at = HashMap::new();
        let mut passages = Vec::new();
        for (line, content) in lines(&text) {
            let wrong = |reason: String| EvaluationError::Line { path: path.clone(), line, reason };
            let passage: PassageLine = serde_json::from_str(content).map_err(|error| wrong(error.to_string()))?;
            if at.insert(passage.id.clone(), passages.len()).is_some() {
                return Err(wrong(format!("passage {} comes twice", passage.id)));
            }
            passages.push(Passage { id: passage.id, title: passage.title, text: passage.text });
        }
        let (path, text) = read(QUESTIONS)?;
        let mut questions = Vec::new();
        for (line, content) in lines(&text) {
            let wrong = |reason: String| EvaluationError::Line { path: path.clone(), line, reason };
            let question: QuestionLine = serde_json::from_str(content).map_err(|error| wrong(error.to_string()))?;
            let find = |id: &String| at.get(id).copied().ok_or_else(|| wrong(format!("there is no passage {id}")));
            if question.answers.iter().all(|answer| answer.trim().is_empty()) {
                return Err(wrong("it has no answer".to_owned()));
            }
            questions.push(PlacementQuestion {
                gold: find(&question.gold_id)?,
                distractors: question.distractor_ids.iter().map(find).collect::<Result<_, _>>()?,
                id: question.id,
                text: question.question,
                answers: question.answers.into_iter().filter(|answer| !answer.trim().is_empty()).collect(),
            });
        }
        match questions.is_empty() {
            true => Err(EvaluationError::Dataset {
                name: folder.display().to_string(),
                reason: format!("{QUESTIONS} has no question"),
            }),
            false => Ok(Self { questions, passages }),
        }
    }
}

fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    /// `count` questions over passages of `words` words, each with `distractors` that look like the gold one.
    pub(crate) fn made(count: usize, distractors: usize, words: usize) -> PlacementSet {
        let mut set = PlacementSet { questions: Vec::new(), passages: Vec::new() };
        for n in 0..count {
            let first = set.passages.len();
            for other in 0..=distractors {
                let fact = match other {
                    0 => format!("The code of door {n} is gold{n}."),
                    _ => format!("The code of gate {n} in yard {other} is lost{n}x{other}."),
                };
                let text = format!("{fact} {}", "and so on ".repeat(words / 3));
                let title = format!("Doors {n}");
                set.passages.push(Passage { id: format!("p{}", first + other), title, text });
            }
            set.questions.push(PlacementQuestion {
                id: format!("q{n}"),
                text: format!("What is the code of door {n}?"),
                answers: vec![format!("gold{n}")],
                gold: first,
                distractors: (first + 1..=first + distractors).collect(),
            });
        }
        set
    }

    #[test]
    fn a_set_is_read_and_mistakes_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        assert!(matches!(PlacementSet::load(folder.path()), Err(EvaluationError::Read { .. })));
        write(PASSAGES, "{\"_id\": \"a\", \"title\": \"A\", \"text\": \"x\"}\n\n{\"_id\": \"b\", \"text\": \"y\"}\n");
        let question = "{\"id\": \"q\", \"question\": \"?\", \"answers\": [\"x\", \"\"], \"gold_id\": \"a\", \"distractor_ids\": [\"b\"]}";
        write(QUESTIONS, question);
        let set = PlacementSet::load(folder.path()).unwrap();
        assert_eq!((set.questions[0].gold, &set.questions[0].distractors[..]), (0, &[1][..]));
        assert_eq!(set.questions[0].answers, ["x"]);
        for (text, named) in [
            (question.replace("\"b\"", "\"c\""), "no passage c"),
            (question.replace("\"x\"", "\" \""), "no answer"),
            ("{}".to_owned(), "line 1"),
            (String::new(), "no question"),
        ] {
            write(QUESTIONS, &text);
            let error = PlacementSet::load(folder.path()).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
