//! Loads prompt templates, checks their variables at start-up, and identifies them by hash.
//!
//! A task is a folder of `prompts/`: minijinja templates `<name>.jinja` and a declaration `prompt.toml`. Invariants:
//! - After loading, rendering cannot meet an unknown variable: every template uses exactly the variables its
//!   declaration lists, and the declaration lists only what the program supplies.
//! - Values are inserted verbatim. Nothing in them is escaped, interpreted or trimmed, whatever it looks like.
//! - The same templates have the same [`Answer::template_hash`], on every machine; any changed byte changes it.
//! - Pieces are made to be joined without separator: those that others follow end in a blank line.
//!
//! Deliberately not here: token budgets, the order of pieces, the chat template of a model.

mod answer;
mod declaration;
mod error;
mod route;
mod summary;
mod task;

use std::path::Path;

pub use answer::{Answer, DocumentVars, ExcerptVars, PassageVars, PreambleVars, QuestionVars, RecapVars};
pub use error::PromptError;
pub use route::RoutePrompt;
pub use summary::SummaryPrompt;

/// All prompts. Cheap to clone, and shared between threads.
#[derive(Debug, Clone)]
pub struct Prompts {
    answer: Answer,
    route: RoutePrompt,
    summary: SummaryPrompt,
}

impl Prompts {
    /// Loads and checks the templates of `folder`, laid out like `prompts/`, or the built-in ones.
    pub fn load(folder: Option<&Path>) -> Result<Self, PromptError> {
        Ok(Self {
            answer: Answer::load(folder)?,
            route: RoutePrompt::load(folder)?,
            summary: SummaryPrompt::load(folder)?,
        })
    }

    /// The task of answering a question from passages or documents.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// The task of naming the kind of a question.
    pub fn route(&self) -> &RoutePrompt {
        &self.route
    }

    /// The task of summarising texts.
    pub fn summary(&self) -> &SummaryPrompt {
        &self.summary
    }
}
