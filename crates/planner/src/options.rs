//! What an operator can set.

use crate::{Budget, PlannerError};

/// What a prompt longer than the model's measured effective window is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EffectiveWindow {
    /// As good as any.
    Ignore,
    /// Expected to be answered worse: a prompt is judged by how much of the effective window it fills.
    #[default]
    Penalise,
    /// Refused.
    Refuse,
}

/// Options of a [`crate::Planner`]. The defaults suit a small model on a CPU.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannerOptions {
    /// Longest prompt in tokens on any route; `None` is what the window leaves beside the answer.
    pub max_input_tokens: Option<usize>,
    /// Most tokens of passages on the route `passages`. Passages of lower rank that exceed it are dropped and reported.
    pub passages_budget_tokens: usize,
    /// Longest section, in tokens, that is placed in one piece when several passages of it came up that are at least
    /// half of it. 0 places passages as they are.
    pub section_tokens: usize,
    /// Most tokens of documents on the route `documents`.
    pub documents_budget_tokens: usize,
    /// Most documents on the route `documents`.
    pub max_documents: usize,
    /// Passages to place at most, where the query does not say.
    pub top_k: usize,
    /// Cosine similarity to the question, -1 to 1, below which a passage is weak in the vector arm. A passage that is weak
    /// in both arms is dropped: a distracting passage costs more than an absent one. -1 keeps all.
    pub score_floor: f32,
    /// Most tokens of key excerpts: passages of long documents in the prompt, repeated next to the question. 0 is none.
    pub excerpts_budget_tokens: usize,
    /// What becomes of prompts longer than the model's measured effective window.
    pub respect_effective_window: EffectiveWindow,
    /// Most tokens of an answer, where the query does not say.
    pub default_max_output_tokens: usize,
    /// Tokens an answer is expected to have, for predictions, until enough answers have been seen. Hard cost limits assume the most it may have.
    pub expected_output_tokens: usize,
    /// Limits of every request, whatever its budget says.
    pub ceiling: Budget,
    /// Whether the questions that are expected to read a prefix again bear their part of writing it. Without, each
    /// question is compared by its own cost alone.
    pub amortise: bool,
    /// Whether to take a wider route once when the sources seem not to hold the answer, where the query does not say and
    /// the planner chose the route.
    pub escalate: bool,
    /// Probability, 0 to 1, that the sources do not hold the answer above which a wider route is taken.
    pub escalate_above: f64,
    /// Whether the model judges the kind of question first, in one word.
    pub pre_route: bool,
}

impl Default for PlannerOptions {
    fn default() -> Self {
        Self {
            max_input_tokens: None,
            passages_budget_tokens: 1200,
            section_tokens: 400,
            documents_budget_tokens: 4096,
            max_documents: 3,
            top_k: 6,
            score_floor: 0.2,
            excerpts_budget_tokens: 256,
            respect_effective_window: EffectiveWindow::default(),
            default_max_output_tokens: 256,
            expected_output_tokens: 96,
            ceiling: Budget::default(),
            amortise: true,
            escalate: true,
            escalate_above: 0.9,
            pre_route: false,
        }
    }
}

impl PlannerOptions {
    pub(crate) fn validate(&self) -> Result<(), PlannerError> {
        let checks = [
            (self.max_input_tokens != Some(0), "max_input_tokens must be at least 1"),
            (self.passages_budget_tokens > 0, "passages_budget_tokens must be at least 1"),
            (self.documents_budget_tokens > 0, "documents_budget_tokens must be at least 1"),
            (self.max_documents > 0, "max_documents must be at least 1"),
            ((1..=200).contains(&self.top_k), "top_k must be between 1 and 200"),
            ((-1.0..=1.0).contains(&self.score_floor), "score_floor must be between -1 and 1"),
            (self.default_max_output_tokens > 0, "default_max_output_tokens must be at least 1"),
            ((0.0..=1.0).contains(&self.escalate_above), "escalate_above must be between 0 and 1"),
            (self.expected_output_tokens > 0, "expected_output_tokens must be at least 1"),
            (self.ceiling.max_input_tokens != Some(0), "the ceiling's max_input_tokens must be at least 1"),
        ];
        match checks.iter().find(|(ok, _)| !ok) {
            Some((_, why)) => Err(PlannerError::InvalidOptions((*why).to_owned())),
            None => Ok(()),
        }
    }
}
