//! Hard limits of a request, and why a route is refused.

use edgewise_model_api::Prompt;
use edgewise_types::Money;

use crate::{Budget, EffectiveWindow, PlannerError, PlannerOptions, Query};

/// Who set the limit that a route breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedBy {
    /// The model's window, the operator's options, or the collection: the caller's budget cannot change it.
    Model,
    /// The caller's budget.
    Budget,
}

/// Why a route cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) by: RefusedBy,
    /// The least prompt tokens the route needs.
    pub(crate) needed_tokens: usize,
    /// The prompt that was refused, if it was composed: what `needed_tokens` is exact for.
    pub(crate) prompt: Option<Prompt>,
    pub(crate) reason: String,
}

/// Limits of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) window: usize,
    /// Tokens set aside in the window for the answer.
    pub(crate) max_output: usize,
    /// Tokens an answer is expected to have.
    pub(crate) expected_output: usize,
    /// Longest prompt the model was measured to read well, if that is known and counts.
    pub(crate) effective_window: Option<usize>,
    /// Most prompt tokens that window and options allow.
    hard_input: usize,
    budget: Budget,
}

impl Limits {
    pub(crate) fn new(window: usize, options: &PlannerOptions, query: &Query) -> Result<Self, PlannerError> {
        let max_output = query.max_output_tokens.unwrap_or(options.default_max_output_tokens);
        if max_output == 0 {
            return Err(PlannerError::InvalidQuery("max_output_tokens must be at least 1".to_owned()));
        }
        if max_output >= window {
            return Err(PlannerError::InvalidQuery(format!(
                "max_output_tokens is {max_output}, but the model's window holds {window} tokens of prompt and answer together: ask for fewer"
            )));
        }
        let beside_output = window - max_output;
        Ok(Self {
            window,
            max_output,
            expected_output: options.expected_output_tokens.min(max_output),
            effective_window: None,
            hard_input: options.max_input_tokens.map_or(beside_output, |most| most.min(beside_output)),
            budget: query.budget,
        })
    }

    /// The same limits for a model that was measured to read prompts of up to `effective` tokens well.
    pub(crate) fn reading_to(self, effective: Option<usize>, respect: EffectiveWindow) -> Self {
        match (effective, respect) {
            (None, _) | (_, EffectiveWindow::Ignore) => self,
            (Some(_), EffectiveWindow::Penalise) => Self { effective_window: effective, ..self },
            (Some(most), EffectiveWindow::Refuse) => {
                Self { effective_window: effective, hard_input: self.hard_input.min(most), ..self }
            }
        }
    }

    /// The window that a prompt is judged to fill: the effective one, where it is known and counts.
    pub(crate) fn readable_window(&self) -> usize {
        self.effective_window.map_or(self.window, |effective| effective.min(self.window))
    }

    /// Most prompt tokens.
    pub(crate) fn input(&self) -> usize {
        self.budget.max_input_tokens.map_or(self.hard_input, |most| most.min(self.hard_input))
    }

    /// Where [`Self::input`] comes from, in words.
    pub(crate) fn input_origin(&self) -> String {
        match self.budget.max_input_tokens {
            Some(most) if most < self.hard_input => "max_input_tokens of the budget".to_owned(),
            _ if self.effective_window == Some(self.hard_input) => {
                "as much as the model was measured to read well, see planner.respect_effective_window".to_owned()
            }
            _ if self.hard_input < self.window - self.max_output => "max_input_tokens of the server".to_owned(),
            _ => format!("a window of {} tokens less {} for the answer", self.window, self.max_output),
        }
    }

    /// Refuses, before it is loaded and composed, what is too long for the model at its `tokens` in the catalog; `what`
    /// begins the reason. What is only over the caller's budget is composed nevertheless, to tell what would be enough.
    pub(crate) fn refuse_unloaded(&self, tokens: usize, what: &str) -> Option<Refusal> {
        let reason =
            format!("{what} needs {tokens} tokens or more, but at most {} fit ({})", self.input(), self.input_origin());
        (tokens > self.hard_input).then_some(Refusal {
            by: RefusedBy::Model,
            needed_tokens: tokens,
            prompt: None,
            reason,
        })
    }

    /// Refuses `prompt` if it is too long; `what` begins the reason.
    pub(crate) fn refuse_input(&self, prompt: &Prompt, what: &str) -> Option<Refusal> {
        let tokens = prompt.tokens.len();
        (tokens > self.input()).then(|| Refusal {
            by: if tokens > self.hard_input { RefusedBy::Model } else { RefusedBy::Budget },
            needed_tokens: tokens,
            prompt: Some(prompt.clone()),
            reason: format!("{what} needs {tokens} tokens, but at most {} fit ({})", self.input(), self.input_origin()),
        })
    }

    /// Why a request that may cost, or is predicted to take, more than the budget is refused.
    pub(crate) fn over_budget(&self, worst_cost: Money, latency_ms: f64) -> Option<String> {
        match (self.budget.max_cost, self.budget.max_latency_ms) {
            (Some(most), _) if worst_cost > most => Some(format!(
                "it may cost ${worst_cost} with an answer of {} tokens, over the budget of ${most}",
                self.max_output
            )),
            (_, Some(most)) if latency_ms > most as f64 => {
                Some(format!("it is predicted to take {latency_ms:.0} ms, over the budget of {most} ms"))
            }
            _ => None,
        }
    }
}
