//! Questions to the person at the terminal.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::error::CliError;

/// Asks a yes-or-no question on standard error; yes is the default. Without a terminal to ask at, it is an error that
/// names `--yes`, so that a script never hangs or agrees by accident.
pub(crate) fn confirm(question: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(format!("{question} There is no terminal to ask at: pass --yes to agree")));
    }
    write!(io::stderr(), "{question} [Y/n] ")?;
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer)?;
    let answer = answer.trim().to_lowercase();
    Ok(read > 0 && (answer.is_empty() || answer == "y" || answer == "yes"))
}
