//! One task: its templates, compiled and checked.

use std::{collections::BTreeMap, fs, path::Path, sync::Arc};

use edgewise_types::ContentHash;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value};

use crate::{
    PromptError,
    declaration::{Declaration, Interface},
};

/// The built-in files of a task.
pub(crate) struct Embedded {
    pub(crate) declaration: &'static str,
    /// Source by template name.
    pub(crate) templates: &'static [(&'static str, &'static str)],
}

/// A loaded task.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    environment: Arc<Environment<'static>>,
    pub(crate) declaration: Arc<Declaration>,
    hash: ContentHash,
}

impl Task {
    /// Loads `<folder>/<task>/`, or the built-in files.
    pub(crate) fn load(
        folder: Option<&Path>,
        task: &str,
        embedded: &Embedded,
        interfaces: &[Interface],
    ) -> Result<Self, PromptError> {
        let read = |name: &str, built_in: &str| match folder {
            None => Ok((format!("prompts/{task}/{name}"), built_in.to_owned())),
            Some(folder) => {
                let path = folder.join(task).join(name);
                let file = path.display().to_string();
                match fs::read_to_string(&path) {
                    Ok(text) => Ok((file, text)),
                    Err(source) => Err(PromptError::Read { file, source }),
                }
            }
        };
        let (file, text) = read("prompt.toml", embedded.declaration)?;
        let declaration = Declaration::parse(&file, &text, task, interfaces)?;

        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        let mut sources = BTreeMap::new();
        for (name, built_in) in embedded.templates {
            let (file, source) = read(&format!("{name}.jinja"), built_in)?;
            let declared = declaration.templates.get(*name).map_or(&[][..], |template| &template.variables);
            add_checked(&mut environment, name, &file, &source, declared)?;
            sources.insert(*name, source);
        }
        let hash = hash(task, &declaration.unanswerable, &sources);
        Ok(Self { environment: Arc::new(environment), declaration: Arc::new(declaration), hash })
    }

    /// BLAKE3 over the task's name, its templates in the order of their names, and its unanswerable wordings; each text
    /// preceded by its length, so that no two sets of texts run together alike.
    pub(crate) fn hash(&self) -> &ContentHash {
        &self.hash
    }

    /// Renders a template.
    pub(crate) fn render(&self, name: &str, values: Value) -> Result<String, PromptError> {
        let rendered = self.environment.get_template(name).and_then(|template| template.render(values));
        rendered.map_err(|error| PromptError::Render { file: format!("{name}.jinja"), message: error.to_string() })
    }
}

fn add_checked(
    environment: &mut Environment<'static>,
    name: &str,
    file: &str,
    source: &str,
    declared: &[String],
) -> Result<(), PromptError> {
    let invalid = |error: minijinja::Error| {
        let line = error.line().map_or(String::new(), |line| format!("line {line}: "));
        let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
        PromptError::Template { file: file.to_owned(), message: format!("{line}{detail}") }
    };
    environment.add_template_owned(name.to_owned(), source.to_owned()).map_err(invalid)?;
    let template = environment.get_template(name).map_err(invalid)?;
    let mut used: Vec<String> = template.undeclared_variables(false).into_iter().collect();
    used.sort_unstable();
    if let Some(variable) = used.iter().find(|variable| !declared.contains(variable)) {
        let declared = if declared.is_empty() { "none".to_owned() } else { declared.join(", ") };
        return Err(PromptError::Undeclared { file: file.to_owned(), variable: variable.clone(), declared });
    }
    match declared.iter().find(|variable| !used.contains(variable)) {
        Some(variable) => Err(PromptError::Unused { file: file.to_owned(), variable: variable.clone() }),
        None => Ok(()),
    }
}

fn hash(task: &str, unanswerable: &[String], sources: &BTreeMap<&str, String>) -> ContentHash {
    let mut content = Vec::new();
    let texts = unanswerable.iter().map(String::as_str);
    let texts = texts.chain(sources.iter().flat_map(|(name, source)| [*name, source.as_str()]));
    for text in [task].into_iter().chain(texts) {
        content.extend_from_slice(&(text.len() as u64).to_le_bytes());
        content.extend_from_slice(text.as_bytes());
    }
    ContentHash::of(&content)
}
