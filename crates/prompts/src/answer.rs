//! The task `answer`: a question, numbered passages or documents, an answer with citations.
//!
//! The pieces of the user message stand in this order, joined without separator: preamble, passages or documents,
//! question. System message and preamble are stable, so that their keys and values can stay resident.

use std::path::Path;

use edgewise_types::ContentHash;
use minijinja::context;

use crate::{
    PromptError,
    declaration::Interface,
    task::{Embedded, Task},
};

const EMBEDDED: Embedded = Embedded {
    declaration: include_str!("../../../prompts/answer/prompt.toml"),
    templates: &[
        ("system", include_str!("../../../prompts/answer/system.jinja")),
        ("preamble", include_str!("../../../prompts/answer/preamble.jinja")),
        ("passage", include_str!("../../../prompts/answer/passage.jinja")),
        ("document", include_str!("../../../prompts/answer/document.jinja")),
        ("excerpt", include_str!("../../../prompts/answer/excerpt.jinja")),
        ("recap", include_str!("../../../prompts/answer/recap.jinja")),
        ("instruction", include_str!("../../../prompts/answer/instruction.jinja")),
        ("question", include_str!("../../../prompts/answer/question.jinja")),
    ],
};

const INTERFACES: &[Interface] = &[
    Interface { template: "system", supplied: &[], required: &[] },
    Interface { template: "preamble", supplied: &["collection", "description"], required: &[] },
    Interface { template: "passage", supplied: &["n", "title", "heading_path", "text"], required: &["n", "text"] },
    Interface { template: "document", supplied: &["n", "title", "text"], required: &["n", "text"] },
    Interface { template: "excerpt", supplied: &["n", "title", "text"], required: &["n", "text"] },
    Interface { template: "recap", supplied: &["question", "answer"], required: &["question", "answer"] },
    Interface { template: "instruction", supplied: &[], required: &[] },
    Interface { template: "question", supplied: &["instruction", "question"], required: &["question"] },
];

/// What the preamble is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreambleVars<'a> {
    /// Name of the collection.
    pub collection: &'a str,
    /// What it holds; may be empty.
    pub description: &'a str,
}

/// What a passage is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassageVars<'a> {
    /// Number by which it is cited, from 1.
    pub n: usize,
    /// Title of its document.
    pub title: &'a str,
    /// Titles of the sections it stands in, outermost first.
    pub heading_path: &'a [String],
    /// Its text, inserted verbatim.
    pub text: &'a str,
}

/// What a document is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DocumentVars<'a> {
    /// Number by which it is cited, from 1.
    pub n: usize,
    /// Its title.
    pub title: &'a str,
    /// Its text, inserted verbatim.
    pub text: &'a str,
}

/// What an excerpt is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExcerptVars<'a> {
    /// Number of the document it is part of.
    pub n: usize,
    /// Title of the document.
    pub title: &'a str,
    /// Its text, inserted verbatim.
    pub text: &'a str,
}

/// What is repeated of the exchange before a follow-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecapVars<'a> {
    /// What was asked, inserted verbatim.
    pub question: &'a str,
    /// What was answered, inserted verbatim.
    pub answer: &'a str,
}

/// What ends the user message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuestionVars<'a> {
    /// The question, inserted verbatim.
    pub question: &'a str,
    /// What to do with it; `None` takes the template `instruction`.
    pub instruction: Option<&'a str>,
}

/// The templates of the task.
#[derive(Debug, Clone)]
pub struct Answer {
    task: Task,
}

impl Answer {
    pub(crate) fn load(folder: Option<&Path>) -> Result<Self, PromptError> {
        let task = Task::load(folder, "answer", &EMBEDDED, INTERFACES)?;
        let file = folder.map_or_else(|| "prompts".to_owned(), |folder| folder.display().to_string());
        let refuse = |message: String| PromptError::Declaration { file: format!("{file}/answer/prompt.toml"), message };
        if task.declaration.unanswerable.iter().any(|wording| wording.trim().is_empty()) {
            return Err(refuse("a wording in `unanswerable` is empty and would match every answer".to_owned()));
        }
        let Some(marker) = task.declaration.unanswerable.first() else {
            return Err(refuse("`unanswerable` needs at least one wording".to_owned()));
        };
        let answer = Self { task: task.clone() };
        if !answer.system()?.contains(marker.as_str()) {
            return Err(refuse(format!(
                "system.jinja does not ask for the first wording of `unanswerable`, `{marker}`"
            )));
        }
        Ok(answer)
    }

    /// The system message. Has no variables, so it is the same for every request.
    pub fn system(&self) -> Result<String, PromptError> {
        self.task.render("system", context! {})
    }

    /// The opening of the user message, ending in a blank line.
    pub fn preamble(&self, vars: &PreambleVars<'_>) -> Result<String, PromptError> {
        let PreambleVars { collection, description } = *vars;
        self.piece("preamble", context! { collection, description })
    }

    /// A numbered passage, ending in a blank line.
    pub fn passage(&self, vars: &PassageVars<'_>) -> Result<String, PromptError> {
        let PassageVars { n, title, heading_path, text } = *vars;
        self.piece("passage", context! { n, title, heading_path => heading_path.to_vec(), text })
    }

    /// A numbered document, ending in a blank line.
    pub fn document(&self, vars: &DocumentVars<'_>) -> Result<String, PromptError> {
        let DocumentVars { n, title, text } = *vars;
        self.piece("document", context! { n, title, text })
    }

    /// A part of a numbered document, repeated behind all documents, ending in a blank line.
    pub fn excerpt(&self, vars: &ExcerptVars<'_>) -> Result<String, PromptError> {
        let ExcerptVars { n, title, text } = *vars;
        self.piece("excerpt", context! { n, title, text })
    }

    /// The exchange before a follow-up, in short, ending in a blank line.
    pub fn recap(&self, vars: &RecapVars<'_>) -> Result<String, PromptError> {
        let RecapVars { question, answer } = *vars;
        self.piece("recap", context! { question, answer })
    }

    /// The end of the user message, without a line break after it.
    pub fn question(&self, vars: &QuestionVars<'_>) -> Result<String, PromptError> {
        let instruction = match vars.instruction {
            Some(instruction) => instruction.to_owned(),
            None => self.task.render("instruction", context! {})?,
        };
        self.task.render("question", context! { instruction, question => vars.question })
    }

    /// What the model is asked to say when the passages do not contain the answer.
    pub fn unanswerable(&self) -> &str {
        self.task.declaration.unanswerable.first().map_or("", String::as_str)
    }

    /// Whether `answer` says that the passages do not contain the answer: it contains one of the declared wordings,
    /// compared without regard to case and to the shape of apostrophes.
    pub fn says_unanswerable(&self, answer: &str) -> bool {
        let plain = |text: &str| text.replace(['\u{2019}', '\u{02bc}'], "'").to_lowercase();
        let answer = plain(answer);
        self.task.declaration.unanswerable.iter().any(|wording| answer.contains(&plain(wording)))
    }

    /// Identifies the templates: enters cache identities and ledger records.
    pub fn template_hash(&self) -> &ContentHash {
        self.task.hash()
    }

    fn piece(&self, name: &str, values: minijinja::Value) -> Result<String, PromptError> {
        let mut text = self.task.render(name, values)?;
        text.push_str("\n\n");
        Ok(text)
    }
}
