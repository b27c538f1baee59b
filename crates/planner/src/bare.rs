//! Limits of prompts that are taken as they are: conversations with the model itself, and prefixes computed ahead.
//!
//! Nothing can be left out of such a prompt, so it is admitted or refused with what would be enough.

use edgewise_model_api::Prompt;
use edgewise_types::TenantId;

use crate::{
    Budget, Ceiling, Planner, PlannerError, Query,
    cost::{self, Conditions},
    limits::Limits,
};

/// The answers a prompt asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PromptAnswers {
    /// Most tokens of each.
    pub max_tokens: usize,
    /// How many, at least one.
    pub answers: usize,
}

impl Planner {
    /// Checks `prompt` of `tenant` against `ceilings` and the server's own limits, before any prefill: its length, its cost
    /// if every answer is as long as it may be, and its predicted time, by the prefixes and the queue of this moment.
    ///
    /// # Errors
    /// [`PlannerError::PromptOverBudget`], with what would be enough; [`PlannerError::InvalidQuery`] if an answer alone is
    /// longer than the window.
    pub fn admit_prompt(
        &self,
        prompt: &Prompt,
        asked: PromptAnswers,
        tenant: &TenantId,
        ceilings: &[Ceiling],
    ) -> Result<(), PlannerError> {
        let tokens = prompt.tokens.len();
        let max_output = asked.max_tokens.max(1);
        let query = Query { max_output_tokens: Some(max_output), ceilings: ceilings.to_vec(), ..Query::new("") };
        let expected = self.observed.output_tokens(self.options.expected_output_tokens, max_output);
        let generator = self.generator();
        let window = generator.info().context_window;
        let limits = Limits::new(window, &self.options, &query, Budget::default(), expected)?;
        let (min_prefix, curve) = (generator.min_prefix_tokens(), generator.latency());
        let resident = generator.prefix_state(tenant, prompt).resident_tokens;
        let usage = |output| cost::expected_usage(prompt, resident, min_prefix, output);
        let prices = self.model_prices();
        let longest = usage(max_output.saturating_mul(asked.answers.max(1)));
        let worst_cost = prices.cost_of(&longest, cost::work_ms(&longest, &curve));
        let conditions = Conditions { curve, ahead: generator.ahead(), before_ms: 0.0, after_ms: 0.0 };
        let latency_ms = cost::forecast(&usage(expected), &prices, &conditions).latency_ms;
        let long = limits.refuse_input(prompt, "the prompt").map(|refusal| refusal.reason);
        match long.or_else(|| limits.over_budget(worst_cost, latency_ms)) {
            None => Ok(()),
            Some(reason) => Err(PlannerError::PromptOverBudget {
                reason,
                needed_tokens: tokens,
                needed_cost: worst_cost,
                needed_latency_ms: latency_ms.ceil().max(0.0) as u64,
            }),
        }
    }
}
