//! Output constrained by a grammar: before each token is drawn, the tokens that cannot continue the grammar are ruled
//! out, so that what comes out always conforms.
//!
//! The grammar engine is the `llguidance` library: an Earley parser over a lexer of derivatives, walked along a trie of
//! the vocabulary's bytes. This module gives it our vocabulary ([`vocabulary`]), compiles grammars within bounds
//! ([`compile`]) and follows one generation ([`constraint`]).
//!
//! Invariants:
//! - A token that ends the turn is allowed exactly where the grammar is complete; other control tokens never are.
//! - A grammar that is too large or too ambiguous is an error, at compilation or at the step that finds out, never a
//!   hang: all work is counted against fixed bounds.
//! - A schema with a keyword that cannot be enforced is refused, not half enforced.
//!
//! Deliberately not here: drawing tokens, validation of finished text, grammars over several turns.

mod compile;
mod constraint;
mod vocabulary;

#[cfg(test)]
mod tests;

pub(crate) use compile::{Grammar, GrammarCompiler};
