//! One generation's way through a grammar.

use std::sync::Arc;

use llguidance::{Matcher, api::StopReason, toktrie::SimpleVob};

use super::compile::first_line;
use crate::{EngineError, constraint::TokenConstraint};

/// Where an output stands in its grammar.
pub(crate) struct GrammarConstraint {
    matcher: Matcher,
    /// Tokens that may be drawn at all.
    admissible: Arc<SimpleVob>,
}

impl Clone for GrammarConstraint {
    fn clone(&self) -> Self {
        // Shallow clones share a lock and a growing lexer, whose bound the outputs would then use up together.
        Self { matcher: self.matcher.deep_clone(), admissible: self.admissible.clone() }
    }
}

impl GrammarConstraint {
    /// # Errors
    /// [`EngineError::Grammar`] if the grammar did not compile.
    pub(super) fn new(matcher: Matcher, admissible: Arc<SimpleVob>) -> Result<Self, EngineError> {
        match matcher.get_error() {
            Some(error) => Err(EngineError::Grammar(first_line(&error))),
            None => Ok(Self { matcher, admissible }),
        }
    }
}

impl TokenConstraint for GrammarConstraint {
    /// At least one token stays possible.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] if a bound on the work of one step is passed, or nothing can follow what was written
    /// because no token of the vocabulary fits.
    fn allowed(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        let mut allowed = self.matcher.compute_mask_or_eos().map_err(|e| stuck(&self.matcher, &e))?;
        allowed.and(&self.admissible);
        if allowed.is_zero() {
            return Err(EngineError::Grammar("no token of the vocabulary can come next".to_owned()));
        }
        // 32 tokens a word; words of all or none are the usual case.
        let words = allowed.as_slice();
        for (logits, &word) in logits.chunks_mut(32).zip(words.iter().chain(std::iter::repeat(&0))) {
            match word {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                word => {
                    for (bit, logit) in logits.iter_mut().enumerate() {
                        if word >> bit & 1 == 0 {
                            *logit = f32::NEG_INFINITY;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// # Errors
    /// [`EngineError::Grammar`] if the grammar does not allow the token here, or a bound is passed.
    fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        self.matcher.consume_token(token).map_err(|e| stuck(&self.matcher, &e))
    }

    /// The generation ends here whether or not the model would end it.
    fn is_finished(&self) -> bool {
        matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
    }

    fn fork(&self) -> Box<dyn TokenConstraint> {
        Box::new(self.clone())
    }
}

fn stuck(matcher: &Matcher, error: &dyn std::fmt::Display) -> EngineError {
    EngineError::Grammar(match matcher.stop_reason() {
        StopReason::LexerTooComplex | StopReason::ParserTooComplex => {
            format!("it is too ambiguous to follow within the bounds of a step: {}", first_line(&error.to_string()))
        }
        _ => first_line(&error.to_string()),
    })
}
