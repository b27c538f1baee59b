//! What answers turned out to be like lately: how long they are, and how long checking their citations takes.
//!
//! Medians over the last answers, so that one long one does not spoil the next prediction. Nothing here is kept beyond
//! the process.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::Route;

/// Answers remembered.
const RECENT: usize = 64;
/// Answers before their median length replaces the configured one.
const ENOUGH: usize = 12;

/// The last answers. Shared by all requests of a planner.
#[derive(Debug, Default)]
pub(crate) struct Observed(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    output: VecDeque<f64>,
    cite_ms: HashMap<Route, VecDeque<f64>>,
}

impl Observed {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of a complete answer.
    pub(crate) fn note(&self, route: Route, output_tokens: usize, cite_ms: f64) {
        let mut state = self.state();
        push(&mut state.output, output_tokens as f64);
        push(state.cite_ms.entry(route).or_default(), cite_ms);
    }

    /// Tokens to expect of the next answer: `configured` until enough have been seen, and at most `most`.
    pub(crate) fn output_tokens(&self, configured: usize, most: usize) -> usize {
        let state = self.state();
        let seen = if state.output.len() >= ENOUGH { median(&state.output) } else { None };
        seen.map_or(configured, |tokens| tokens.round().max(1.0) as usize).min(most)
    }

    /// Milliseconds from the last token of the next answer on `route` to its end; 0 before the first.
    pub(crate) fn after_ms(&self, route: Route) -> f64 {
        let state = self.state();
        let of_others = || {
            state
                .cite_ms
                .values()
                .filter_map(median)
                .fold(None, |most: Option<f64>, ms| Some(most.map_or(ms, |most| most.max(ms))))
        };
        state.cite_ms.get(&route).and_then(median).or_else(of_others).unwrap_or(0.0)
    }
}

fn push(values: &mut VecDeque<f64>, value: f64) {
    if values.len() == RECENT {
        values.pop_front();
    }
    values.push_back(value);
}

fn median(values: &VecDeque<f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.iter().copied().collect();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted.get(sorted.len() / 2)?;
    let lower = sorted.get(sorted.len().saturating_sub(1) / 2)?;
    Some((lower + upper) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_learned_from_enough_answers_and_stay_below_the_most() {
        let observed = Observed::default();
        for tokens in 1..ENOUGH {
            observed.note(Route::Passages, 10 * tokens, 1.0);
            assert_eq!(observed.output_tokens(96, 256), 96);
        }
        observed.note(Route::Full, 5000, 1.0);
        assert_eq!(observed.output_tokens(96, 256), 65, "the median of 10 to 110 and 5,000");
        assert_eq!(observed.output_tokens(96, 40), 40);
        assert_eq!(Observed::default().output_tokens(96, 40), 40);
    }

    #[test]
    fn the_time_for_citations_is_that_of_the_route_and_forgets() {
        let observed = Observed::default();
        assert_eq!(observed.after_ms(Route::Full), 0.0);
        observed.note(Route::Passages, 1, 40.0);
        assert_eq!(observed.after_ms(Route::Full), 40.0, "better than nothing");
        observed.note(Route::Full, 1, 90.0);
        assert_eq!((observed.after_ms(Route::Passages), observed.after_ms(Route::Full)), (40.0, 90.0));
        for _ in 0..RECENT {
            observed.note(Route::Full, 1, 50.0);
        }
        assert_eq!(observed.after_ms(Route::Full), 50.0);
    }
}
