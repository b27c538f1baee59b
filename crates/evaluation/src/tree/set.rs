//! Stories with questions about the whole of them, as SQuALITY keeps them (Wang et al., "SQuALITY: Building a
//! Long-Document Summarization Dataset the Hard Way", 2022): one JSON object a line with `metadata.passage_id`,
//! `document`, and `questions` of `question_text`, `question_number` and `responses` of `response_text`.
//!
//! Deliberately not here: what is measured.

use std::{io::BufRead, path::Path};

use serde::{Deserialize, Serialize};

use crate::EvaluationError;

/// The number of the question about the plot.
const PLOT: u32 = 1;

/// What a question asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// The plot of the whole story.
    Plot,
    /// A person, a place, an event or a theme in it.
    Specific,
}

/// A question and how people answered it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoryQuestion {
    /// What it asks about: for the report alone.
    pub about: About,
    /// The question.
    pub text: String,
    /// Answers.
    pub references: Vec<String>,
}

/// A story.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    /// Its name, which is its document's URI.
    pub id: String,
    /// The text.
    pub text: String,
    /// Questions about it.
    pub questions: Vec<StoryQuestion>,
}

/// Which of the stories.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stories {
    /// All of them.
    #[default]
    All,
    /// One half, to choose settings by.
    Tuning,
    /// The other half, to report what was chosen.
    HeldOut,
}

#[derive(Deserialize)]
struct Line {
    metadata: Metadata,
    document: String,
    questions: Vec<Question>,
}

#[derive(Deserialize)]
struct Metadata {
    passage_id: String,
}

#[derive(Deserialize)]
struct Question {
    question_text: String,
    question_number: u32,
    responses: Vec<Response>,
}

#[derive(Deserialize)]
struct Response {
    response_text: String,
}

impl Story {
    /// The stories in a file, at most `most` of those asked for.
    ///
    /// # Errors
    /// [`EvaluationError::Read`], [`EvaluationError::Line`]; [`EvaluationError::Dataset`] if there are none.
    pub fn read(path: &Path, which: Stories, most: Option<usize>) -> Result<Vec<Self>, EvaluationError> {
        let expected = "a file with one story a line, as squality.jsonl";
        let file = std::fs::File::open(path).map_err(EvaluationError::read(path, expected))?;
        let mut stories = Vec::new();
        for (number, line) in (1..).zip(std::io::BufReader::new(file).lines()) {
            let line = line.map_err(EvaluationError::read(path, expected))?;
            if line.trim().is_empty() {
                continue;
            }
            let wrong = |reason: String| EvaluationError::Line { path: path.to_owned(), line: number, reason };
            let story: Line = serde_json::from_str(&line).map_err(|error| wrong(error.to_string()))?;
            if story.document.trim().is_empty() {
                return Err(wrong("the story has no text".to_owned()));
            }
            let questions: Vec<StoryQuestion> = story.questions.into_iter().map(question).collect();
            if questions.iter().any(|question| question.references.is_empty()) {
                return Err(wrong("a question has no answers".to_owned()));
            }
            stories.push(Self { id: story.metadata.passage_id, text: story.document, questions });
        }
        stories.retain(|story| which == Stories::All || which == half(&story.id));
        stories.truncate(most.unwrap_or(usize::MAX));
        if stories.iter().all(|story| story.questions.is_empty()) {
            let reason = "there is no story with a question".to_owned();
            return Err(EvaluationError::Dataset { name: path.display().to_string(), reason });
        }
        Ok(stories)
    }
}

/// The half that a story belongs to: by its name, so that it stays there whatever else is in the file.
fn half(id: &str) -> Stories {
    if blake3::hash(id.as_bytes()).as_bytes().first().is_some_and(|byte| byte % 2 == 0) {
        Stories::Tuning
    } else {
        Stories::HeldOut
    }
}

fn question(Question { question_text, question_number, responses }: Question) -> StoryQuestion {
    let about = if question_number == PLOT { About::Plot } else { About::Specific };
    let references = responses.into_iter().map(|response| response.response_text);
    StoryQuestion {
        about,
        text: question_text,
        references: references.filter(|text| !text.trim().is_empty()).collect(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn stories_are_read_in_halves_that_make_up_the_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("stories.jsonl");
        let story = |n: usize| {
            let question = |number: usize| {
                serde_json::json!({"question_text": "Why?", "question_number": number,
                    "responses": [{"response_text": "So."}, {"response_text": " "}]})
            };
            let questions = [question(1), question(2)];
            serde_json::json!({"metadata": {"passage_id": n.to_string()}, "document": "Once.", "questions": questions})
        };
        let lines: Vec<String> = (0..20).map(|n| story(n).to_string()).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        let read = |which| Story::read(&path, which, None).unwrap();
        let (all, tuning, held_out) = (read(Stories::All), read(Stories::Tuning), read(Stories::HeldOut));
        assert_eq!(all.len(), tuning.len() + held_out.len());
        assert!(tuning.len() >= 5 && held_out.len() >= 5 && tuning.iter().all(|story| !held_out.contains(story)));
        let questions = &all[0].questions;
        assert_eq!((questions[0].about, questions[1].about), (About::Plot, About::Specific));
        assert_eq!(questions[0].references, ["So."]);
        assert_eq!(Story::read(&path, Stories::All, Some(3)).unwrap().len(), 3);

        std::fs::write(&path, "{\"metadata\": {}}\n").unwrap();
        let error = Story::read(&path, Stories::All, None).unwrap_err().to_string();
        assert!(error.contains("line 1") && error.contains("passage_id"), "{error}");
    }
}
