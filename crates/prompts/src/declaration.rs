//! The declaration of a task, `prompt.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::PromptError;

/// `prompt.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declaration {
    /// Name of the task; that of its folder.
    pub(crate) task: String,
    /// What the task is for.
    pub(crate) purpose: String,
    /// How the model says that it cannot answer: what the prompt asks for, then what models write instead.
    #[serde(default)]
    pub(crate) unanswerable: Vec<String>,
    /// The templates by name.
    pub(crate) templates: BTreeMap<String, TemplateDeclaration>,
}

/// A template's part of `prompt.toml`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TemplateDeclaration {
    /// What it is for.
    pub(crate) purpose: String,
    /// The variables it uses, all of them.
    pub(crate) variables: Vec<String>,
}

/// What the program supplies to a template and what the template cannot do without.
pub(crate) struct Interface {
    pub(crate) template: &'static str,
    pub(crate) supplied: &'static [&'static str],
    pub(crate) required: &'static [&'static str],
}

impl Declaration {
    /// Reads and checks a declaration against the program's side of it.
    pub(crate) fn parse(file: &str, text: &str, task: &str, interfaces: &[Interface]) -> Result<Self, PromptError> {
        let refuse = |message: String| PromptError::Declaration { file: file.to_owned(), message };
        let declaration: Self = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|b| *b == b'\n').count();
            refuse(format!("line {line}: {}", error.message()))
        })?;
        if declaration.task != task {
            return Err(refuse(format!("`task` is `{}` in the folder of `{task}`", declaration.task)));
        }
        let purposes = declaration.templates.values().map(|template| &template.purpose);
        if purposes.chain([&declaration.purpose]).any(|purpose| purpose.trim().is_empty()) {
            return Err(refuse("every `purpose` needs a text".to_owned()));
        }
        for name in declaration.templates.keys() {
            if !interfaces.iter().any(|interface| interface.template == name) {
                let known: Vec<&str> = interfaces.iter().map(|interface| interface.template).collect();
                return Err(refuse(format!("unknown template `{name}`; the task has {}", known.join(", "))));
            }
        }
        for Interface { template, supplied, required } in interfaces {
            let Some(declared) = declaration.templates.get(*template) else {
                return Err(refuse(format!("the template `{template}` is missing; add [templates.{template}]")));
            };
            for variable in &declared.variables {
                if !supplied.contains(&variable.as_str()) {
                    let has = if supplied.is_empty() { "none".to_owned() } else { supplied.join(", ") };
                    return Err(refuse(format!("`{template}` gets no variable `{variable}`; it gets {has}")));
                }
            }
            if let Some(missing) = required.iter().find(|name| !declared.variables.iter().any(|v| v == *name)) {
                return Err(refuse(format!("`{template}` must list and use the variable `{missing}`")));
            }
        }
        Ok(declaration)
    }
}
