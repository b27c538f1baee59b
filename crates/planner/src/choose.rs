//! The choice between priced routes.
//!
//! A route's score is its expected quality minus its cost and its latency, each times a weight that the objective sets,
//! plus what keeping its stable prefix is worth. The best score among the feasible routes wins; equal scores are decided
//! by quality, then cost, then by the shorter context. The same candidates always give the same choice.
//!
//! Keeping a prefix is an investment: writing it costs more than reading it once, and pays only if questions after this
//! one take the same route *because* it is warm, or cheaper. So what it is worth is the number of readers to expect times
//! the score by which the warm route would beat the best there is without it; nothing, if that question would be answered
//! otherwise anyway. This question stands for those. A prefix that isn't worth its price isn't kept.

use std::cmp::Ordering;

use edgewise_types::{Money, Usage};

use crate::{Candidate, Objective, PlannerError, Route, limits::RefusedBy};

/// Expected quality below which `cheapest` does not count a route as one that may answer.
const MAY_ANSWER: f64 = 0.30;

/// What a point of score is worth.
struct Weights {
    quality: f64,
    /// Score lost for each dollar.
    dollar: f64,
    /// Score lost for each second until the last token.
    second: f64,
}

/// `balanced` gives up two hundredths of quality for each second saved and half a hundredth for each hundredth of a
/// cent: so ten seconds of prefill weigh as much as the difference between a good and a mediocre passage prompt.
const fn weights(objective: Objective) -> Weights {
    match objective {
        Objective::Cheapest => Weights { quality: 0.0, dollar: 1000.0, second: 0.0 },
        Objective::Balanced => Weights { quality: 1.0, dollar: 50.0, second: 0.02 },
        Objective::Best => Weights { quality: 1.0, dollar: 0.0, second: 0.0 },
    }
}

/// A candidate before the choice; `score` and the reasons of feasible candidates are still to be filled in.
#[derive(Debug, Clone)]
pub(crate) struct Priced {
    pub(crate) candidate: Candidate,
    /// Who refused it, if it is not feasible.
    pub(crate) refused: Option<RefusedBy>,
    /// What it costs if the answer is as long as it may be.
    pub(crate) worst_cost: Money,
    /// What keeping its prefix means; absent if it has none, or nothing is known of readers.
    pub(crate) keeping: Option<Keeping>,
}

/// What keeping a prompt's last stable prefix means.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keeping {
    /// Tokens and cost without it, if there is that choice.
    pub(crate) instead: Option<(Usage, Money)>,
    /// Cost and time of a question that finds it.
    pub(crate) warm: (Money, f64),
}

/// Chooses a route, or takes the one `forced`. Gives every candidate, the chosen one first, the others by falling
/// score with infeasible ones last.
pub(crate) fn choose(
    mut priced: Vec<Priced>,
    forced: Option<Route>,
    objective: Objective,
) -> Result<Vec<Candidate>, PlannerError> {
    let Weights { quality, dollar, second } = weights(objective);
    let score = |candidate: &Candidate, cost: Money, latency_ms: f64| {
        quality * candidate.quality - dollar * cost.as_dollars_lossy() - second * latency_ms / 1000.0
    };
    let too_poor = |candidate: &Candidate| objective == Objective::Cheapest && candidate.quality < MAY_ANSWER;
    let plain = |Priced { candidate, keeping, .. }: &Priced| {
        let instead = keeping.and_then(|keeping| keeping.instead);
        score(candidate, instead.map_or(candidate.cost, |(_, cost)| cost), candidate.latency_ms)
    };
    let asked_for = |candidate: &Candidate| forced.is_none_or(|route| route == candidate.route);
    let eligible = priced.iter().filter(|p| p.candidate.feasible && asked_for(&p.candidate) && !too_poor(&p.candidate));
    let otherwise = eligible.map(plain).fold(f64::NEG_INFINITY, f64::max);
    for priced in &mut priced {
        let without = plain(priced);
        let Priced { candidate, keeping, .. } = priced;
        candidate.score = score(candidate, candidate.cost, candidate.latency_ms);
        let Some(Keeping { instead, warm }) = *keeping else { continue };
        let gain = (score(candidate, warm.0, warm.1) - otherwise.max(without)).max(0.0);
        candidate.worth_of_keeping = candidate.expected_follow_ups * gain;
        candidate.score += candidate.worth_of_keeping;
        if let Some((usage, cost)) = instead.filter(|_| candidate.score < without) {
            (candidate.usage, candidate.cost, candidate.score) = (usage, cost, without);
            (candidate.kept, candidate.worth_of_keeping) = (false, 0.0);
        }
    }
    priced.sort_by(|a, b| {
        let (a, b) = (&a.candidate, &b.candidate);
        b.feasible.cmp(&a.feasible).then_with(|| too_poor(a).cmp(&too_poor(b))).then_with(|| preference(a, b))
    });
    let chosen = match forced {
        Some(route) => priced.iter().position(|p| p.candidate.route == route && p.candidate.feasible),
        None => priced.iter().position(|p| p.candidate.feasible),
    };
    let Some(chosen) = chosen else { return Err(refusal(&priced, forced)) };
    let mut chosen = priced.remove(chosen).candidate;
    let feasible = 1 + priced.iter().filter(|p| p.candidate.feasible).count();
    chosen.reason = match forced {
        Some(_) => "asked for by the caller".to_owned(),
        None if feasible == 1 => "the only feasible route".to_owned(),
        None => match objective {
            Objective::Cheapest => format!("costs least of the {feasible} feasible routes that may answer"),
            Objective::Balanced => format!("best balance of quality, cost and latency of {feasible} feasible routes"),
            Objective::Best => format!("best expected quality of {feasible} feasible routes"),
        },
    };
    let others = priced.into_iter().map(|Priced { mut candidate, .. }| {
        if candidate.feasible {
            candidate.reason = match forced {
                Some(route) => format!("the caller asked for `{route}`"),
                None if too_poor(&candidate) => format!(
                    "expected quality {:.2} is too low to count as an answer (below {MAY_ANSWER:.2})",
                    candidate.quality
                ),
                None => comparison(&candidate, &chosen),
            };
        }
        candidate
    });
    let others: Vec<Candidate> = others.collect();
    Ok(std::iter::once(chosen).chain(others).collect())
}

/// The better of two candidates first.
fn preference(a: &Candidate, b: &Candidate) -> Ordering {
    b.score
        .total_cmp(&a.score)
        .then_with(|| b.quality.total_cmp(&a.quality))
        .then_with(|| a.cost.cmp(&b.cost))
        .then_with(|| a.route.cmp(&b.route))
}

/// Why `loser` lost against `winner`: the scores, and what the loser has more or less of.
fn comparison(loser: &Candidate, winner: &Candidate) -> String {
    let cost = loser.cost - winner.cost;
    let (sign, cost) = if cost < Money::ZERO { ("-", Money::ZERO - cost) } else { ("+", cost) };
    format!(
        "score {:.3} against {:.3} of `{}`: {:+.2} quality, {sign}${cost}, {:+.1} s",
        loser.score,
        winner.score,
        winner.route,
        loser.quality - winner.quality,
        (loser.latency_ms - winner.latency_ms) / 1000.0
    )
}

/// The error when no route, or not the one asked for, is feasible: the caller's budget is to blame if a larger one
/// would help.
fn refusal(priced: &[Priced], forced: Option<Route>) -> PlannerError {
    let considered = || priced.iter().filter(|p| forced.is_none_or(|route| p.candidate.route == route));
    let mut reasons: Vec<(Route, String)> =
        considered().map(|p| (p.candidate.route, p.candidate.reason.clone())).collect();
    reasons.sort();
    let cheapest = considered()
        .filter(|p| p.refused == Some(RefusedBy::Budget))
        .min_by_key(|p| (p.worst_cost, p.candidate.prompt_tokens, p.candidate.route));
    match cheapest {
        Some(Priced { candidate, worst_cost, .. }) => PlannerError::BudgetTooSmall {
            route: forced,
            reasons,
            needed_tokens: candidate.prompt_tokens,
            needed_cost: *worst_cost,
            // Planning takes not quite as long each time.
            needed_latency_ms: (1.1 * candidate.latency_ms + 50.0).ceil() as u64,
        },
        None => PlannerError::DoesNotFit { route: forced, reasons },
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn priced(route: Route, quality: f64, nanos: i64, latency_ms: f64) -> Priced {
        Priced {
            candidate: Candidate {
                route,
                turns: 0,
                feasible: true,
                prompt_tokens: 100,
                resident_tokens: 0,
                output_tokens: 50,
                usage: Default::default(),
                cost: Money::from_nanos(nanos),
                expected_follow_ups: 0.0,
                kept: true,
                worth_of_keeping: 0.0,
                ttft_ms: latency_ms / 2.0,
                latency_ms,
                quality,
                feedback_shift: 0.0,
                score: 0.0,
                sources: 3,
                reason: String::new(),
            },
            refused: None,
            worst_cost: Money::from_nanos(2 * nanos),
            keeping: None,
        }
    }

    /// A route that costs `nanos` if its prefix is written, `unkept` if not and `warm` once it is there, and is expected
    /// to be read by `follow_ups` more.
    fn keeping(quality: f64, [nanos, unkept, warm]: [i64; 3], follow_ups: f64) -> Priced {
        let mut priced = priced(Route::Full, quality, nanos, 100.0);
        priced.candidate.expected_follow_ups = follow_ups;
        let instead = Some((Usage { input_tokens: 9, ..Usage::default() }, Money::from_nanos(unkept)));
        priced.keeping = Some(Keeping { instead, warm: (Money::from_nanos(warm), 100.0) });
        priced
    }

    #[test]
    fn a_prefix_is_kept_if_those_who_read_it_gain_more_than_it_costs() {
        // A million nano-dollars weigh 0.05.
        let costs = [5_000_000, 4_000_000, 400_000];
        let take = |follow_ups, passages: f64| {
            let others = priced(Route::Passages, passages, 500_000, 100.0);
            choose(vec![others, keeping(0.8, costs, follow_ups)], None, Objective::Balanced).unwrap()
        };
        let [full, _] = &take(0.0, 0.5)[..] else { unreachable!() };
        assert_eq!((full.route, full.kept, full.cost.nanos()), (Route::Full, false, 4_000_000));
        assert_eq!((full.usage.input_tokens, full.worth_of_keeping), (9, 0.0));
        let [full, _] = &take(1.0, 0.5)[..] else { unreachable!() };
        assert_eq!((full.route, full.kept, full.cost.nanos()), (Route::Full, true, 5_000_000));
        assert!((full.worth_of_keeping - 0.18).abs() < 1e-9, "against reading it cold again: {full:?}");
        // Cold it is not worth its price, but for two readers it is.
        assert_eq!(take(0.1, 0.65)[0].route, Route::Passages);
        assert_eq!((take(1.9, 0.65)[0].route, take(1.9, 0.65)[0].kept), (Route::Full, true));
        // Those who would be answered from passages anyway do not count.
        assert_eq!(take(1.9, 0.81)[0].route, Route::Passages);
    }

    #[test]
    fn a_route_that_is_asked_for_is_weighed_against_itself() {
        let others = || priced(Route::Passages, 0.99, 100, 100.0);
        let full = || keeping(0.5, [5_000_000, 4_000_000, 400_000], 1.0);
        let asked = choose(vec![others(), full()], Some(Route::Full), Objective::Balanced).unwrap();
        assert!(asked[0].kept && asked[0].route == Route::Full);
        let free = choose(vec![others(), full()], None, Objective::Balanced).unwrap();
        assert!(!free[1].kept && free[1].route == Route::Full, "{free:?}");
    }

    fn infeasible(route: Route, by: RefusedBy, nanos: i64) -> Priced {
        let mut priced = priced(route, 0.5, nanos, 100.0);
        priced.candidate.feasible = false;
        priced.candidate.reason = "too long".to_owned();
        priced.refused = Some(by);
        priced
    }

    fn order(candidates: &[Priced], forced: Option<Route>, objective: Objective) -> Vec<Route> {
        choose(candidates.to_vec(), forced, objective).unwrap().iter().map(|c| c.route).collect()
    }

    #[test]
    fn a_loser_is_told_what_it_had_more_and_less_of() {
        let candidates =
            vec![priced(Route::Passages, 0.60, 50_000, 1_000.0), priced(Route::Full, 0.52, 20_000, 3_500.0)];
        let reason = choose(candidates, None, Objective::Balanced).unwrap()[1].reason.clone();
        assert!(reason.contains("`passages`") && reason.ends_with("-0.08 quality, -$0.00003, +2.5 s"), "{reason}");
    }

    #[test]
    fn each_objective_weighs_differently() {
        let candidates = [
            priced(Route::Passages, 0.60, 50_000, 1_000.0),
            priced(Route::Documents, 0.68, 200_000, 3_000.0),
            priced(Route::Full, 0.75, 400_000, 15_000.0),
        ];
        assert_eq!(order(&candidates, None, Objective::Cheapest)[0], Route::Passages);
        assert_eq!(order(&candidates, None, Objective::Balanced)[0], Route::Documents);
        assert_eq!(order(&candidates, None, Objective::Best)[0], Route::Full);
        assert_eq!(order(&candidates, Some(Route::Full), Objective::Cheapest)[0], Route::Full);
    }

    #[test]
    fn the_cheapest_route_must_be_able_to_answer() {
        let candidates = [priced(Route::Passages, 0.20, 50_000, 1.0), priced(Route::Full, 0.6, 90_000, 1.0)];
        let chosen = choose(candidates.to_vec(), None, Objective::Cheapest).unwrap();
        assert_eq!(chosen[0].route, Route::Full);
        assert!(chosen[1].reason.contains("too low"), "{}", chosen[1].reason);
        let poor = [priced(Route::Passages, 0.20, 50_000, 1.0), priced(Route::Full, 0.25, 90_000, 1.0)];
        assert_eq!(order(&poor, None, Objective::Cheapest)[0], Route::Passages, "of poor routes, still the cheapest");
    }

    #[test]
    fn ties_do_not_depend_on_the_order_given() {
        let mut candidates = vec![
            priced(Route::Full, 0.5, 100, 10.0),
            priced(Route::Passages, 0.5, 100, 10.0),
            priced(Route::Documents, 0.5, 100, 10.0),
        ];
        let expected = [Route::Passages, Route::Documents, Route::Full];
        for _ in 0..3 {
            candidates.rotate_left(1);
            assert_eq!(order(&candidates, None, Objective::Balanced), expected);
        }
    }

    #[test]
    fn an_infeasible_route_is_never_taken_and_stays_listed() {
        let candidates =
            [infeasible(Route::Full, RefusedBy::Model, 1), priced(Route::Passages, 0.1, 1_000_000, 60_000.0)];
        let chosen = choose(candidates.to_vec(), None, Objective::Best).unwrap();
        assert_eq!(chosen[0].route, Route::Passages);
        assert_eq!((chosen[1].feasible, chosen[1].reason.as_str()), (false, "too long"));
    }

    #[test]
    fn errors_blame_the_budget_only_where_it_is_to_blame() {
        let both =
            vec![infeasible(Route::Full, RefusedBy::Model, 9), infeasible(Route::Passages, RefusedBy::Budget, 7)];
        match choose(both.clone(), None, Objective::Best) {
            Err(PlannerError::BudgetTooSmall { route: None, reasons, needed_cost, .. }) => {
                assert_eq!((reasons.len(), needed_cost.nanos()), (2, 14));
            }
            other => panic!("{other:?}"),
        }
        match choose(both, Some(Route::Full), Objective::Best) {
            Err(PlannerError::DoesNotFit { route: Some(Route::Full), reasons }) => assert_eq!(reasons.len(), 1),
            other => panic!("{other:?}"),
        }
    }
}
