//! What can be wrong with prompts.

use std::io;

/// Why prompts were refused or could not be rendered. Messages name the file, and the variable where there is one.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// A file cannot be read.
    #[error("cannot read the prompt file {file}: {source}; `paths.prompts` must hold every file that prompts/ has")]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The declaration is not of the form it must have.
    #[error("{file}: {message}")]
    Declaration {
        /// The file.
        file: String,
        /// What is wrong and what is expected.
        message: String,
    },
    /// The template does not parse.
    #[error("{file}: not a valid template: {message}")]
    Template {
        /// The file.
        file: String,
        /// What the parser says, with the line.
        message: String,
    },
    /// The template uses a variable that its declaration does not list.
    #[error("{file} uses the variable `{variable}`, which prompt.toml does not list; declared: {declared}")]
    Undeclared {
        /// The file.
        file: String,
        /// The variable.
        variable: String,
        /// What is declared.
        declared: String,
    },
    /// The declaration lists a variable that the template does not use.
    #[error("{file} does not use the variable `{variable}`, which prompt.toml lists; use it or take it off the list")]
    Unused {
        /// The file.
        file: String,
        /// The variable.
        variable: String,
    },
    /// Rendering failed, for example in a filter.
    #[error("cannot render {file}: {message}")]
    Render {
        /// The file.
        file: String,
        /// What the template engine says.
        message: String,
    },
}
