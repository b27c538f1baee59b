//! Hard limits of a request, and why a route is refused.
//!
//! Limits come from the request's own budget and from ceilings that others set: the API key, the collection, the server.
//! The tightest of each kind holds, and a refusal names whose it was.

use edgewise_model_api::Prompt;
use edgewise_types::Money;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Budget, EffectiveWindow, PlannerError, PlannerOptions, Query};

/// Who set a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The request's own budget.
    Request,
    /// Whoever gave out the API key.
    Key,
    /// Whoever keeps the collection.
    Collection,
    /// The operator.
    Server,
}

impl Origin {
    /// `name`, a limit of a budget, with its owner.
    fn owned(self, name: &str) -> String {
        let owner = match self {
            Self::Request => "the budget",
            Self::Key => "the API key",
            Self::Collection => "the collection",
            Self::Server => "the server",
        };
        format!("{name} of {owner}")
    }
}

/// A budget that holds whatever the request says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceiling {
    /// Who set it.
    pub origin: Origin,
    /// The limits.
    pub budget: Budget,
}

/// The tightest limit of one kind, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "limit", rename_all = "snake_case")]
pub enum LimitInForce {
    /// Cost of the request.
    MaxCost {
        /// The most it may be.
        most: Money,
        /// Who set it.
        origin: Origin,
    },
    /// Tokens of the prompt, where fewer than the model could read.
    MaxInputTokens {
        /// The most there may be.
        most: usize,
        /// Who set it.
        origin: Origin,
    },
    /// Time until the answer is complete, in milliseconds.
    MaxLatencyMs {
        /// The most it may take.
        most: u64,
        /// Who set it.
        origin: Origin,
    },
}

/// Who set the limit that a route breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedBy {
    /// The model's window, the operator's options, or the collection: no budget can change it.
    Model,
    /// A budget or a ceiling.
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
#[derive(Debug, Clone, Copy, PartialEq)]
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
    input: Option<(usize, Origin)>,
    cost: Option<(Money, Origin)>,
    latency: Option<(u64, Origin)>,
    /// Most prompt tokens that stay under a limit of money or time, found out by pricing longer ones, and the limit.
    narrowed: Option<(usize, Exceeded)>,
}

/// A limit of money or time that a prompt is over.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Exceeded {
    Cost(Money, Origin),
    Latency(u64, Origin),
}

impl Exceeded {
    /// The limit and whose it is, in words.
    pub(crate) fn limit(self) -> String {
        match self {
            Self::Cost(most, origin) => format!("${most} ({})", origin.owned("max_cost")),
            Self::Latency(most, origin) => format!("{most} ms ({})", origin.owned("max_latency_ms")),
        }
    }
}

/// The least of the limits of one kind. Of equal ones, the first.
fn tightest<T: Ord + Copy>(ceilings: &[Ceiling], limit: impl Fn(&Budget) -> Option<T>) -> Option<(T, Origin)> {
    let set = ceilings.iter().filter_map(|ceiling| Some((limit(&ceiling.budget)?, ceiling.origin)));
    set.min_by_key(|(most, _)| *most)
}

impl Limits {
    /// The limits of `query` with an answer of about `expected_output` tokens, to a collection with the ceiling
    /// `collection`.
    pub(crate) fn new(
        window: usize,
        options: &PlannerOptions,
        query: &Query,
        collection: Budget,
        expected_output: usize,
    ) -> Result<Self, PlannerError> {
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
        let mut ceilings = vec![Ceiling { origin: Origin::Request, budget: query.budget }];
        ceilings.extend(&query.ceilings);
        ceilings.push(Ceiling { origin: Origin::Collection, budget: collection });
        ceilings.push(Ceiling { origin: Origin::Server, budget: options.ceiling });
        let hard_input = options.max_input_tokens.map_or(beside_output, |most| most.min(beside_output));
        Ok(Self {
            window,
            max_output,
            expected_output: expected_output.min(max_output),
            effective_window: None,
            hard_input,
            input: tightest(&ceilings, |budget| budget.max_input_tokens).filter(|(most, _)| *most < hard_input),
            cost: tightest(&ceilings, |budget| budget.max_cost),
            latency: tightest(&ceilings, |budget| budget.max_latency_ms),
            narrowed: None,
        })
    }

    /// The tightest limit of each kind, whoever set it.
    pub(crate) fn in_force(&self) -> Vec<LimitInForce> {
        let cost = self.cost.map(|(most, origin)| LimitInForce::MaxCost { most, origin });
        let input = self.input.map(|(most, origin)| LimitInForce::MaxInputTokens { most, origin });
        let latency = self.latency.map(|(most, origin)| LimitInForce::MaxLatencyMs { most, origin });
        [cost, input, latency].into_iter().flatten().collect()
    }

    /// These limits for prompts of at most `tokens`, since longer ones are over `exceeded`.
    pub(crate) fn narrowed(self, tokens: usize, exceeded: Exceeded) -> Self {
        Self { narrowed: Some((tokens, exceeded)), ..self }
    }

    /// The same limits for a model that was measured to read prompts of up to `effective` tokens well.
    pub(crate) fn reading_to(self, effective: Option<usize>, respect: EffectiveWindow) -> Self {
        match (effective, respect) {
            (None, _) | (_, EffectiveWindow::Ignore) => self,
            (Some(_), EffectiveWindow::Penalise) => Self { effective_window: effective, ..self },
            (Some(most), EffectiveWindow::Refuse) => {
                let hard_input = self.hard_input.min(most);
                let input = self.input.filter(|(input, _)| *input < hard_input);
                Self { effective_window: effective, hard_input, input, ..self }
            }
        }
    }

    /// The window that a prompt is judged to fill: the effective one, where it is known and counts.
    pub(crate) fn readable_window(&self) -> usize {
        self.effective_window.map_or(self.window, |effective| effective.min(self.window))
    }

    /// Most prompt tokens.
    pub(crate) fn input(&self) -> usize {
        let most = self.input.map_or(self.hard_input, |(most, _)| most);
        self.narrowed.map_or(most, |(tokens, _)| tokens.min(most))
    }

    /// Most prompt tokens that a budget allows, and whose it is, if one does below what the model does.
    pub(crate) fn input_ceiling(&self) -> Option<(usize, String)> {
        self.input.map(|(most, origin)| (most, origin.owned("max_input_tokens")))
    }

    /// Where [`Self::input`] comes from, in words.
    pub(crate) fn input_origin(&self) -> String {
        if let Some((_, exceeded)) = self.narrowed {
            return format!("to stay under {}", exceeded.limit());
        }
        match self.input {
            Some((_, origin)) => origin.owned("max_input_tokens"),
            None if self.effective_window == Some(self.hard_input) => {
                "as much as the model was measured to read well, see planner.respect_effective_window".to_owned()
            }
            None if self.hard_input < self.window - self.max_output => "max_input_tokens of the server".to_owned(),
            None => format!("a window of {} tokens less {} for the answer", self.window, self.max_output),
        }
    }

    /// Refuses, before it is loaded and composed, what is too long for the model at its `tokens` in the catalog; `what`
    /// begins the reason. What is only over a budget is composed nevertheless, to tell what would be enough.
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

    /// The limit that a request is over which may cost, or is predicted to take, so much.
    pub(crate) fn exceeded(&self, worst_cost: Money, latency_ms: f64) -> Option<Exceeded> {
        match (self.cost, self.latency) {
            (Some((most, origin)), _) if worst_cost > most => Some(Exceeded::Cost(most, origin)),
            (_, Some((most, origin))) if latency_ms > most as f64 => Some(Exceeded::Latency(most, origin)),
            _ => None,
        }
    }

    /// Why a request that may cost, or is predicted to take, more than a budget is refused.
    pub(crate) fn over_budget(&self, worst_cost: Money, latency_ms: f64) -> Option<String> {
        let exceeded = self.exceeded(worst_cost, latency_ms)?;
        Some(match exceeded {
            Exceeded::Cost(..) => format!(
                "it may cost ${worst_cost} with an answer of {} tokens, over {}",
                self.max_output,
                exceeded.limit()
            ),
            Exceeded::Latency(..) => format!("it is predicted to take {latency_ms:.0} ms, over {}", exceeded.limit()),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn cost(nanos: i64) -> Budget {
        Budget { max_cost: Some(Money::from_nanos(nanos)), ..Budget::default() }
    }

    fn limits(query: &Query, collection: Budget, server: Budget) -> Limits {
        let options = PlannerOptions { ceiling: server, ..PlannerOptions::default() };
        Limits::new(8192, &options, query, collection, 96).unwrap()
    }

    #[test]
    fn the_tightest_limit_holds_and_says_whose_it_is() {
        let over = |request, key, collection, server| {
            let ceilings = vec![Ceiling { origin: Origin::Key, budget: cost(key) }];
            let query = Query { budget: cost(request), ceilings, ..Query::new("why?") };
            limits(&query, cost(collection), cost(server)).over_budget(Money::from_nanos(50), 0.0)
        };
        assert_eq!(over(50, 60, 70, 80), None);
        for (nanos, whose) in [
            ((49, 60, 70, 80), "of the budget"),
            ((90, 40, 70, 80), "of the API key"),
            ((90, 90, 30, 80), "of the collection"),
            ((90, 90, 90, 20), "of the server"),
        ] {
            let reason = over(nanos.0, nanos.1, nanos.2, nanos.3).unwrap();
            assert!(reason.contains("max_cost") && reason.contains(whose), "{reason}");
        }
        let collection = Budget { max_latency_ms: Some(900), ..cost(30) };
        let query = Query { budget: cost(90), ..Query::new("why?") };
        let [LimitInForce::MaxCost { most, origin }, LimitInForce::MaxLatencyMs { most: 900, origin: second }] =
            limits(&query, collection, cost(40)).in_force()[..]
        else {
            unreachable!("one of money and one of time")
        };
        assert_eq!((most.nanos(), origin, second), (30, Origin::Collection, Origin::Collection));
    }

    #[test]
    fn input_limits_of_all_owners_and_of_the_window_are_told_apart() {
        let input = |most| Budget { max_input_tokens: Some(most), ..Budget::default() };
        let query = Query { budget: input(9000), ..Query::new("why?") };
        let wide = limits(&query, input(9000), Budget::default());
        assert_eq!(wide.input(), 8192 - 256);
        assert!(wide.input_origin().contains("window"), "{}", wide.input_origin());
        let collection = limits(&query, input(700), input(800));
        assert_eq!(
            (collection.input(), collection.input_origin().as_str()),
            (700, "max_input_tokens of the collection")
        );
        let narrowed = collection.narrowed(300, Exceeded::Latency(250, Origin::Server));
        assert_eq!(narrowed.input(), 300);
        assert_eq!(narrowed.input_origin(), "to stay under 250 ms (max_latency_ms of the server)");
        let refused = narrowed.refuse_unloaded(8000, "it").unwrap();
        assert_eq!(refused.by, RefusedBy::Model, "longer than the window is no matter of budgets");
        assert_eq!(narrowed.refuse_unloaded(500, "it"), None);
    }
}
