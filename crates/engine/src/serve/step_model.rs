//! What the worker needs of a decoder, so that scheduling and caching can be tested on a scripted one.

use crate::EngineError;

/// A model that extends a sequence by some tokens and gives the logits after them.
///
/// Contract: the logits depend on the sequence's tokens alone, not on how it was cut into calls, copied or truncated.
pub(crate) trait StepModel: Send + 'static {
    /// Keys and values of one sequence.
    type State: Send;

    /// Length of the logits.
    fn vocabulary(&self) -> usize;

    /// An empty sequence.
    fn new_state(&self) -> Self::State;

    /// Appends `tokens`, at least one, and returns the logits of the last.
    fn forward(&self, state: &mut Self::State, tokens: &[u32]) -> Result<Vec<f32>, EngineError>;

    /// Another sequence with the first `tokens` tokens of `state`.
    fn copy_prefix(&self, state: &Self::State, tokens: usize) -> Self::State;

    /// Forgets all but the first `tokens` tokens.
    fn truncate(&self, state: &mut Self::State, tokens: usize);

    /// Memory `state` takes.
    fn bytes(&self, state: &Self::State) -> usize;
}
