//! What a candidate prompt costs, takes and is worth, and whether it stays inside the limits.
//!
//! Invariant: the candidates of one choice are priced by the same curve, the same queue and the same clock.

use std::time::Duration;

use edgewise_model_api::{Ahead, LatencyCurve, Prompt};
use edgewise_retrieval::Collection;
use edgewise_types::{CollectionName, Money, Usage};

use crate::{
    Candidate, Query, Route,
    choose::{Keeping, Priced},
    cost::{self, Conditions, Forecast},
    draft::Draft,
    escalate::Spent,
    extend::Material,
    limits::{Exceeded, RefusedBy},
    narrow::Excess,
    planner::Planner,
    reuse::Prefix,
};

/// What all candidates of one choice are priced by.
pub(crate) struct Pricing<'a> {
    query: &'a Query,
    pub(crate) material: &'a Material,
    collection: &'a CollectionName,
    curve: LatencyCurve,
    ahead: Ahead,
    /// Time from the question until the engine is asked, in milliseconds.
    before_ms: f64,
    now: Duration,
    /// What the request has used before.
    pub(crate) spent: Spent,
}

impl Planner {
    /// Conditions as they are now, `before_ms` after the question came.
    pub(crate) fn pricing<'a>(
        &self,
        collection: &'a Collection,
        query: &'a Query,
        material: &'a Material,
        before_ms: f64,
        spent: Spent,
    ) -> Pricing<'a> {
        let (curve, ahead) = (self.generator.latency(), self.generator.ahead());
        Pricing { query, material, collection: collection.name(), curve, ahead, before_ms, now: self.now(), spent }
    }

    /// How the tokens of a draft are going to be counted, and its stable prefix.
    fn usage(&self, draft: &Draft, pricing: &Pricing<'_>) -> (Usage, Option<Prefix>) {
        let output = pricing.material.limits.expected_output;
        let (prompt, needed) = match &draft.composed {
            Ok(composed) => (Some(&composed.prompt), 0),
            Err(refusal) => (refusal.prompt.as_ref(), refusal.needed_tokens),
        };
        let Some(prompt) = prompt else {
            return (Usage { input_tokens: needed, output_tokens: output, ..Usage::default() }, None);
        };
        let tenant = &pricing.query.tenant;
        let resident = self.generator.prefix_state(tenant, prompt).resident_tokens;
        let min_prefix = self.generator.min_prefix_tokens();
        let prefix = Prefix::of(draft.route, tenant, pricing.collection, prompt, min_prefix, resident);
        (cost::expected_usage(prompt, resident, min_prefix, output), prefix)
    }

    fn forecast(&self, route: Route, usage: &Usage, pricing: &Pricing<'_>) -> Forecast {
        let prices = self.model_prices();
        let Pricing { curve, ahead, before_ms, .. } = *pricing;
        cost::forecast(usage, &prices, &Conditions { curve, ahead, before_ms, after_ms: self.observed.after_ms(route) })
    }

    /// Cost and time of an answer of the expected length to `prompt`, of which `resident` tokens are in the cache, with
    /// `more` resident tokens in it that it does not show yet.
    pub(crate) fn foresee(
        &self,
        route: Route,
        prompt: &Prompt,
        [resident, more]: [usize; 2],
        pricing: &Pricing<'_>,
    ) -> (Money, f64) {
        let output = pricing.material.limits.expected_output;
        let mut usage = cost::expected_usage(prompt, resident, self.generator.min_prefix_tokens(), output);
        usage.cache_read_tokens += more;
        let forecast = self.forecast(route, &usage, pricing);
        (forecast.cost, forecast.latency_ms)
    }

    /// What a request that uses `usage` costs if the answer is as long as it may be.
    fn worst_cost(&self, usage: &Usage, pricing: &Pricing<'_>) -> Money {
        let usage = Usage { output_tokens: pricing.material.limits.max_output, ..*usage };
        self.model_prices().cost_of(&usage, cost::work_ms(&usage, &pricing.curve))
    }

    /// How far a draft is over a limit of money or time.
    pub(crate) fn excess(&self, draft: &Draft, pricing: &Pricing<'_>) -> Option<Excess> {
        let (usage, _) = self.usage(draft, pricing);
        let worst = pricing.spent.cost + self.worst_cost(&usage, pricing);
        let latency_ms = pricing.spent.ms + self.forecast(draft.route, &usage, pricing).latency_ms;
        let limit = pricing.material.limits.exceeded(worst, latency_ms)?;
        let prices = self.model_prices();
        let each_ms = pricing.curve.b + 2.0 * pricing.curve.c * usage.prompt_tokens() as f64;
        let tokens = match limit {
            Exceeded::Cost(most, _) => {
                let each = [prices.input, prices.cache_write_5m, prices.cache_write_1h];
                let each = each.iter().map(|price| price.cost(1)).max().unwrap_or(Money::ZERO);
                let each = each + prices.cost_of(&Usage::default(), each_ms);
                (worst - most).nanos() as f64 / (each.nanos() as f64).max(1.0)
            }
            Exceeded::Latency(most, _) => (latency_ms - most as f64) / each_ms.max(1e-9),
        };
        Some(Excess { limit, tokens })
    }

    /// Predicts cost, time and quality of a draft that continues `turns` turns, and checks them, together with what was
    /// spent before, against the limits. Also gives its stable prefix.
    pub(crate) fn price(&self, draft: &Draft, turns: usize, pricing: &Pricing<'_>) -> (Priced, Option<Prefix>) {
        let Pricing { material, spent, .. } = pricing;
        let limits = &material.limits;
        let (usage, prefix) = self.usage(draft, pricing);
        let (forecast, worst_cost) = (self.forecast(draft.route, &usage, pricing), self.worst_cost(&usage, pricing));
        let (prompt, sources, refusal) = match &draft.composed {
            Ok(composed) => (Some(&composed.prompt), composed.sources.len(), None),
            Err(refusal) => (refusal.prompt.as_ref(), 0, Some(refusal)),
        };
        let refused = match refusal {
            Some(refusal) => Some((refusal.by, refusal.reason.clone())),
            None => limits
                .over_budget(spent.cost + worst_cost, spent.ms + forecast.latency_ms)
                .map(|reason| (RefusedBy::Budget, reason)),
        };
        let expected = prefix.as_ref().filter(|_| self.options.amortise);
        let expected_follow_ups = expected.map_or(0.0, |prefix| self.reuse.follow_ups(prefix, pricing.now));
        let (min_prefix, output) = (self.generator.min_prefix_tokens(), limits.expected_output);
        let keeping = prompt.filter(|_| expected.is_some()).map(|prompt| {
            let unkept = cost::unkept_usage(prompt, usage.cache_read_tokens, min_prefix, output);
            let warm = self.forecast(draft.route, &cost::warm_usage(prompt, min_prefix, output), pricing);
            Keeping {
                // A conversation goes on from its whole prompt, which no other question's prompt shows.
                instead: (turns == 0).then(|| (unkept, self.forecast(draft.route, &unkept, pricing).cost)),
                warm: (warm.cost, warm.latency_ms),
            }
        });
        let tokens = usage.prompt_tokens();
        let (window, read) = (limits.readable_window(), tokens + output);
        let (quality, feedback_shift) = self.learned.expected(
            (&pricing.query.tenant, pricing.collection),
            draft.route,
            &material.features,
            read,
            window,
        );
        let priced = Priced {
            refused: refused.as_ref().map(|(by, _)| *by),
            worst_cost,
            keeping,
            candidate: Candidate {
                route: draft.route,
                turns,
                feasible: refused.is_none(),
                prompt_tokens: tokens,
                resident_tokens: usage.cache_read_tokens,
                output_tokens: output,
                usage,
                cost: forecast.cost,
                expected_follow_ups,
                kept: true,
                worth_of_keeping: 0.0,
                ttft_ms: forecast.ttft_ms,
                latency_ms: forecast.latency_ms,
                quality,
                feedback_shift,
                score: 0.0,
                sources,
                reason: refused.map(|(_, reason)| reason).unwrap_or_default(),
            },
        };
        (priced, prefix)
    }
}
