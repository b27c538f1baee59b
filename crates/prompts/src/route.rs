//! The task `route`: what kind of question is asked, in one word.

use std::path::Path;

use edgewise_types::ContentHash;
use minijinja::context;

use crate::{
    PromptError,
    declaration::Interface,
    task::{Embedded, Task},
};

const EMBEDDED: Embedded = Embedded {
    declaration: include_str!("../../../prompts/route/prompt.toml"),
    templates: &[
        ("system", include_str!("../../../prompts/route/system.jinja")),
        ("question", include_str!("../../../prompts/route/question.jinja")),
    ],
};

const INTERFACES: &[Interface] = &[
    Interface { template: "system", supplied: &[], required: &[] },
    Interface { template: "question", supplied: &["question"], required: &["question"] },
];

/// The templates of the task.
#[derive(Debug, Clone)]
pub struct RoutePrompt {
    task: Task,
}

impl RoutePrompt {
    /// From `folder` if it has the task, else built in: folders made before there was this task stay valid.
    pub(crate) fn load(folder: Option<&Path>) -> Result<Self, PromptError> {
        let folder = folder.filter(|folder| folder.join("route").exists());
        Ok(Self { task: Task::load(folder, "route", &EMBEDDED, INTERFACES)? })
    }

    /// The system message: names the words `fact`, `reasoning`, `comparison` and `summary`.
    pub fn system(&self) -> Result<String, PromptError> {
        self.task.render("system", context! {})
    }

    /// The user message, with the question inserted verbatim.
    pub fn question(&self, question: &str) -> Result<String, PromptError> {
        self.task.render("question", context! { question })
    }

    /// Identifies the templates.
    pub fn template_hash(&self) -> &ContentHash {
        self.task.hash()
    }
}
