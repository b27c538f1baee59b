//! What a sampler needs of a grammar.
//!
//! A constraint is consulted before every draw and told what was drawn; how it knows which tokens may follow is its own
//! affair (see the grammar module). It never sees the prompt: it begins with the first generated token.

use crate::EngineError;

/// The state of a constraint on one output.
pub(crate) trait TokenConstraint: Send {
    /// Sets the logits of tokens that may not come next to −∞. Ends of turn are allowed exactly where the output may
    /// end.
    fn allowed(&mut self, logits: &mut [f32]) -> Result<(), EngineError>;

    /// Takes note of the token drawn, which [`TokenConstraint::allowed`] left possible.
    fn accept(&mut self, token: u32) -> Result<(), EngineError>;

    /// Whether the output is complete and nothing can follow.
    fn is_finished(&self) -> bool;

    /// The same state once more, for another sample of the same request.
    fn fork(&self) -> Box<dyn TokenConstraint>;
}
