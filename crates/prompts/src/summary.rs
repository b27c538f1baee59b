//! The task `summary`: several texts in one short one.

use std::path::Path;

use edgewise_types::ContentHash;
use minijinja::context;

use crate::{
    PromptError,
    declaration::Interface,
    task::{Embedded, Task},
};

const EMBEDDED: Embedded = Embedded {
    declaration: include_str!("../../../prompts/summary/prompt.toml"),
    templates: &[
        ("system", include_str!("../../../prompts/summary/system.jinja")),
        ("text", include_str!("../../../prompts/summary/text.jinja")),
        ("instruction", include_str!("../../../prompts/summary/instruction.jinja")),
        ("again", include_str!("../../../prompts/summary/again.jinja")),
    ],
};

const INTERFACES: &[Interface] = &[
    Interface { template: "system", supplied: &[], required: &[] },
    Interface { template: "text", supplied: &["headings", "text"], required: &["text"] },
    Interface { template: "instruction", supplied: &["title", "words"], required: &["words"] },
    Interface { template: "again", supplied: &["title", "words", "unsupported"], required: &["words"] },
];

/// The templates of the task.
#[derive(Debug, Clone)]
pub struct SummaryPrompt {
    task: Task,
}

impl SummaryPrompt {
    /// From `folder` if it has the task, else built in: folders made before there was this task stay valid.
    pub(crate) fn load(folder: Option<&Path>) -> Result<Self, PromptError> {
        let folder = folder.filter(|folder| folder.join("summary").exists());
        Ok(Self { task: Task::load(folder, "summary", &EMBEDDED, INTERFACES)? })
    }

    /// The system message.
    pub fn system(&self) -> Result<String, PromptError> {
        self.task.render("system", context! {})
    }

    /// A text to summarise, inserted verbatim, ended by a blank line.
    pub fn text(&self, headings: &[String], text: &str) -> Result<String, PromptError> {
        Ok(self
            .task
            .render("text", context! { headings => headings.to_vec(), text })?
            .trim_end_matches('\n')
            .to_owned()
            + "\n\n")
    }

    /// What to do with the texts, in about `words` words. An empty title is none.
    pub fn instruction(&self, title: &str, words: usize) -> Result<String, PromptError> {
        self.task.render("instruction", context! { title, words })
    }

    /// What to do after a summary that was rejected, perhaps for names and numbers it made up.
    pub fn again(&self, title: &str, words: usize, unsupported: &[String]) -> Result<String, PromptError> {
        self.task.render("again", context! { title, words, unsupported => unsupported.to_vec() })
    }

    /// Identifies the templates.
    pub fn template_hash(&self) -> &ContentHash {
        self.task.hash()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pieces_say_what_they_are_given_and_nothing_else() {
        let prompt = SummaryPrompt::load(None).unwrap();
        let headings = ["A".to_owned(), "B".to_owned()];
        assert_eq!(prompt.text(&headings, "{{ text }}\n").unwrap(), "A > B\n{{ text }}\n\n");
        assert_eq!(prompt.text(&[], "x").unwrap(), "x\n\n");
        assert!(prompt.instruction("", 90).unwrap().contains("in at most 90 words"));
        assert!(prompt.instruction("Emma", 90).unwrap().contains("\"Emma\""));
        let again = prompt.again("", 90, &["Gandalf".to_owned(), "1999".to_owned()]).unwrap();
        assert!(again.ends_with("Do not mention Gandalf, 1999."));
        assert!(prompt.again("", 90, &[]).unwrap().ends_with("Say nothing twice."));
    }
}
