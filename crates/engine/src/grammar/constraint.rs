//! One generation's way through a grammar.

use std::sync::Arc;

use llguidance::{Matcher, api::StopReason, toktrie::SimpleVob};

use super::compile::first_line;
use crate::{EngineError, constraint::TokenConstraint};

/// Where an output stands in its grammar. Cloning takes the state along, for several outputs of one prompt.
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

    /// Sets the logits of all tokens that cannot come next to negative infinity. At least one stays.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] if a bound on the work of one step is passed, or nothing can follow what was written
    /// because no token of the vocabulary fits.
    pub(crate) fn mask(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
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

    /// Takes note of the token that was drawn.
    ///
    /// # Errors
    /// [`EngineError::Grammar`] if the grammar does not allow it here, or a bound is passed.
    pub(crate) fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        self.matcher.consume_token(token).map_err(|e| stuck(&self.matcher, &e))
    }

    /// The output is complete and nothing can follow: the generation ends here, whether or not the model would.
    pub(crate) fn is_finished(&self) -> bool {
        matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence)
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

impl TokenConstraint for GrammarConstraint {
    fn allowed(&mut self, logits: &mut [f32]) -> Result<(), EngineError> {
        self.mask(logits)
    }

    fn accept(&mut self, token: u32) -> Result<(), EngineError> {
        self.accept(token)
    }

    fn is_finished(&self) -> bool {
        self.is_finished()
    }

    fn fork(&self) -> Box<dyn TokenConstraint> {
        Box::new(self.clone())
    }
}
