//! How likely the prefix of a prompt is to be read again before it expires.
//!
//! Writing a prefix is an investment: whether it pays depends on who comes next. Every question makes a prompt for each
//! route, so what is counted is not how often a prefix was used but how often it *would have been*: a collection that is
//! asked every minute is worth prefilling even if that never happened yet.
//!
//! Of each prefix, of all prefixes of a route into one collection, and of the route in all collections, it is remembered
//! how many of the occurrences were followed by another within the time it would be kept. The share, drawn towards that
//! of the wider group while little is known, is the probability `q` that the next question finds it. No arrival process
//! is assumed, so bursts of follow-up questions count for what they are.
//!
//! The next two readers are counted, `q + q²`. All of them would be `q / (1 − q)`, which grows without bound as `q` nears
//! 1: among many prefixes those would then be written whose share is overestimated by chance, and each error costs a
//! whole prefix.
//!
//! Where the engine did not keep what it was asked to, an occurrence in time counts as none.
//!
//! Deliberately not here: prices, a clock of its own, and anything about what was asked.

use std::{
    collections::{HashMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use edgewise_model_api::{Prompt, Retention};
use edgewise_types::{CollectionName, TenantId};

use crate::Route;

/// Prefixes remembered; the one not seen for longest goes first.
const MOST: usize = 4096;
/// Occurrences that the share of the wider group counts for.
const SHRINK: f64 = 2.0;
/// Share assumed of a route before anything is known, and the occurrences it counts for. At common prices this is about
/// where keeping a prefix begins to pay, so that a new server keeps what it reads and invests in nothing else.
const PRIOR: (f64, f64) = (0.25, 1.0);
/// What an occurrence counts for relative to the one after it.
const AGEING: f64 = 0.97;
/// A prefix was kept if at least this share of it was resident.
const KEPT: f64 = 0.5;

/// The stable prefix of one candidate prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Prefix {
    key: u64,
    /// Tenant and collection.
    group: u64,
    route: Route,
    /// Where it ends.
    at: usize,
    kept_for: Duration,
    /// How much of it was resident when the question came.
    resident: usize,
}

impl Prefix {
    /// The prefix before the last boundary of `prompt`, unless that is what all prompts to the collection have in
    /// common anyway or the engine does not keep it.
    pub(crate) fn of(
        route: Route,
        tenant: &TenantId,
        collection: &CollectionName,
        prompt: &Prompt,
        min_prefix: usize,
        resident: usize,
    ) -> Option<Self> {
        let [_, .., last] = prompt.boundaries.as_slice() else { return None };
        let tokens = prompt.tokens.get(..last.at).filter(|tokens| tokens.len() >= min_prefix.max(1))?;
        let mut hasher = DefaultHasher::new();
        (tenant.0.as_ref(), collection.as_str()).hash(&mut hasher);
        let group = hasher.finish();
        tokens.hash(&mut hasher);
        let kept_for = match last.retention {
            Retention::FiveMinutes => Duration::from_secs(5 * 60),
            Retention::OneHour => Duration::from_secs(60 * 60),
        };
        Some(Self { key: hasher.finish(), group, route, at: last.at, kept_for, resident })
    }
}

/// Occurrences, and how many were followed by another in time.
#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    occurrences: f64,
    followed: f64,
}

impl Tally {
    fn occurred(&mut self) {
        self.occurrences = AGEING * self.occurrences + 1.0;
        self.followed *= AGEING;
    }

    fn share(self, prior: f64, weight: f64) -> f64 {
        // The last occurrence is still open: it may be followed yet.
        (self.followed + prior * weight) / ((self.occurrences - 1.0).max(0.0) + weight)
    }
}

#[derive(Debug)]
struct Seen {
    last: Duration,
    /// Whether the prefix was in the prompt that was answered then.
    written: bool,
    tally: Tally,
}

#[derive(Debug, Default)]
struct State {
    prefixes: HashMap<u64, Seen>,
    /// By tenant and collection, and route.
    groups: HashMap<(u64, Route), (Duration, Tally)>,
    routes: HashMap<Route, Tally>,
}

/// What is known of all prefixes. Shared by all requests of a planner.
#[derive(Debug, Default)]
pub(crate) struct Reuse(Mutex<State>);

impl Reuse {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many of the next two questions are expected to read `prefix` before it lapses, if it is in the cache after
    /// this one.
    pub(crate) fn follow_ups(&self, prefix: &Prefix, now: Duration) -> f64 {
        let state = self.state();
        let route = state.routes.get(&prefix.route).copied().unwrap_or_default();
        let of_route = (route.followed + PRIOR.0 * PRIOR.1) / (route.occurrences + PRIOR.1);
        let group = state.groups.get(&(prefix.group, prefix.route)).map_or_else(Tally::default, |(_, tally)| *tally);
        let of_group = (group.followed + of_route * SHRINK) / (group.occurrences + SHRINK);
        let mut tally = Tally { occurrences: 1.0, followed: 0.0 };
        if let Some(seen) = state.prefixes.get(&prefix.key) {
            tally = seen.tally;
            tally.occurred();
            if follows(seen, prefix, now) {
                tally.followed += 1.0;
            }
        }
        let share = tally.share(of_group, SHRINK).clamp(0.0, 1.0);
        share + share * share
    }

    /// Takes note of a question whose candidate prompts began with `prefixes`; that of the route `kept`, if any, is to be
    /// kept.
    pub(crate) fn note(&self, prefixes: &[Prefix], kept: Option<Route>, now: Duration) {
        let mut state = self.state();
        for prefix in prefixes {
            let written = kept == Some(prefix.route);
            let followed = state.prefixes.get(&prefix.key).is_some_and(|seen| follows(seen, prefix, now));
            let seen = state.prefixes.entry(prefix.key);
            let seen = seen.or_insert(Seen { last: now, written, tally: Tally::default() });
            seen.tally.occurred();
            seen.tally.followed += f64::from(u8::from(followed));
            // What is resident stays written, whoever is answered otherwise.
            seen.written = written || seen.written && followed && is_kept(prefix);
            seen.last = now;
            let route = state.routes.entry(prefix.route).or_default();
            route.occurred();
            route.followed += f64::from(u8::from(followed));
            let (last, group) = state.groups.entry((prefix.group, prefix.route)).or_default();
            *last = now;
            group.occurred();
            group.followed += f64::from(u8::from(followed));
        }
        while state.groups.len() > MOST {
            let oldest = state.groups.iter().min_by_key(|(key, (last, _))| (*last, **key)).map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            state.groups.remove(&oldest);
        }
        while state.prefixes.len() > MOST {
            let oldest = state.prefixes.iter().min_by_key(|(key, seen)| (seen.last, **key)).map(|(key, _)| *key);
            let Some(oldest) = oldest else { break };
            state.prefixes.remove(&oldest);
        }
    }
}

fn is_kept(prefix: &Prefix) -> bool {
    prefix.resident as f64 >= KEPT * prefix.at as f64
}

/// Whether `prefix`, at `now`, follows its last occurrence in time.
fn follows(seen: &Seen, prefix: &Prefix, now: Duration) -> bool {
    now.saturating_sub(seen.last) <= prefix.kept_for && (!seen.written || is_kept(prefix))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use edgewise_model_api::Boundary;

    fn prompt(first: u32) -> Prompt {
        Prompt {
            tokens: (first..first + 100).collect(),
            boundaries: vec![
                Boundary { at: 10, retention: Retention::OneHour },
                Boundary { at: 90, retention: Retention::FiveMinutes },
            ],
            public_tokens: 0,
        }
    }

    fn prefix(first: u32, resident: usize) -> Prefix {
        let collection = "guide".parse().unwrap();
        Prefix::of(Route::Full, &TenantId::local(), &collection, &prompt(first), 0, resident).unwrap()
    }

    /// Follow-ups expected after questions `gap` seconds apart.
    fn after(gaps: &[u64], resident: usize) -> f64 {
        let (reuse, mut now) = (Reuse::default(), Duration::ZERO);
        for gap in gaps {
            reuse.note(&[prefix(0, resident)], Some(Route::Full), now);
            now += Duration::from_secs(*gap);
        }
        reuse.follow_ups(&prefix(0, resident), now)
    }

    #[test]
    fn what_is_asked_often_is_expected_again() {
        let unknown = Reuse::default().follow_ups(&prefix(0, 0), Duration::ZERO);
        assert!((0.2..0.5).contains(&unknown), "{unknown}");
        let busy = after(&[60; 30], 90);
        assert!(busy > 1.8, "{busy}");
        let rare = after(&[3000; 30], 0);
        assert!(rare < 0.05, "{rare}");
        assert!(after(&[60, 60, 60], 90) > after(&[60], 90), "the more, the surer");
        // Three questions in a session, sessions an hour apart: two of three are followed.
        let sessions: Vec<u64> = (0..60).map(|n| if n % 3 == 2 { 3600 } else { 60 }).collect();
        let sessions = after(&sessions, 90);
        assert!((0.8..1.4).contains(&sessions), "{sessions}");
    }

    #[test]
    fn what_the_engine_did_not_keep_is_not_expected_again() {
        let lost = after(&[60; 30], 0);
        assert!(lost < 0.2, "{lost}");
    }

    #[test]
    fn another_prefix_of_a_busy_route_is_expected_to_be_like_it() {
        let (reuse, mut now) = (Reuse::default(), Duration::ZERO);
        for _ in 0..30 {
            reuse.note(&[prefix(0, 90)], Some(Route::Passages), now);
            now += Duration::from_secs(60);
        }
        let new = reuse.follow_ups(&prefix(1000, 0), now);
        assert!(new > 1.0, "{new}");
        for first in 0..60 {
            reuse.note(&[prefix(2000 * (1 + first), 0)], Some(Route::Passages), now);
        }
        assert!(reuse.follow_ups(&prefix(999_999, 0), now) < new);
    }

    #[test]
    fn prompts_without_a_prefix_of_their_own_have_none_and_memory_is_bounded() {
        let collection = "guide".parse().unwrap();
        let mut passages = prompt(0);
        passages.boundaries.pop();
        let of = |prompt: &Prompt, min| Prefix::of(Route::Passages, &TenantId::local(), &collection, prompt, min, 0);
        assert_eq!(of(&passages, 0), None);
        assert_eq!(of(&prompt(0), 91), None, "too short to be kept");
        let other = TenantId("other".into());
        assert_ne!(Prefix::of(Route::Full, &other, &collection, &prompt(0), 0, 0).unwrap(), prefix(0, 0));
        let reuse = Reuse::default();
        for first in 0..5000_u32 {
            reuse.note(&[prefix(first, 0)], Some(Route::Full), Duration::from_secs(u64::from(first)));
        }
        assert_eq!(reuse.state().prefixes.len(), MOST);
        assert!(reuse.state().prefixes.contains_key(&prefix(4999, 0).key));
    }
}
