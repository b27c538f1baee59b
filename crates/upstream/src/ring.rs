//! Which replica gets a request: rendezvous hashing (Thaler and Ravishankar, "A Name-Based Mapping Scheme for
//! Rendezvous", 1996) with bounded loads (Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads",
//! 2018). Requests with the same key go to the same replica, where their prefix is cached, unless that one has more than
//! its share; several gateways agree without talking; a replica that comes or goes moves only its own keys.

use edgewise_model_api::Prompt;
use edgewise_types::TenantId;

/// Tokens that decide where a prompt without stable prefixes goes.
const UNMARKED: usize = 256;

/// What decides where a request goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key([u8; 32]);

impl Key {
    /// The key of a prompt: its tenant and first stable prefix.
    pub(crate) fn of(tenant: &TenantId, prompt: &Prompt) -> Self {
        let end = prompt.boundaries.first().map_or(UNMARKED, |boundary| boundary.at).min(prompt.tokens.len());
        let mut hasher = blake3::Hasher::new_derive_key("edgewise 2026 upstream affinity 1");
        hasher.update(&(tenant.0.len() as u64).to_le_bytes()).update(tenant.0.as_bytes());
        for token in &prompt.tokens[..end] {
            hasher.update(&token.to_le_bytes());
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// How much a replica wants it.
    fn weight(&self, replica: &str) -> u64 {
        let hash = blake3::keyed_hash(&self.0, replica.as_bytes());
        let (first, _) = hash.as_bytes().split_at(8);
        first.iter().fold(0, |value, byte| (value << 8) | u64::from(*byte))
    }
}

/// A replica as far as the choice needs to know it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing<'a> {
    /// Its address.
    pub(crate) name: &'a str,
    /// Requests it has.
    pub(crate) in_flight: usize,
    /// Whether it may get requests at all.
    pub(crate) usable: bool,
    /// Whether it answered when last looked at, and has not asked to be spared.
    pub(crate) ready: bool,
}

/// Requests a replica may have when one more comes and `running` are under way on `replicas` of them.
fn share(running: usize, replicas: usize, factor: f64) -> usize {
    let fair = (running + 1) as f64 / replicas.max(1) as f64;
    (fair * factor.max(1.0)).ceil() as usize
}

/// The usable replicas, by their index, in the order in which to try them: ready ones below their share as the key has
/// them, then ready ones by load, then the others.
pub(crate) fn order(key: &Key, replicas: &[Standing<'_>], factor: f64) -> Vec<usize> {
    let ready: Vec<usize> =
        (0..replicas.len()).filter(|i| replicas.get(*i).is_some_and(|r| r.usable && r.ready)).collect();
    let running = ready.iter().filter_map(|i| replicas.get(*i)).map(|r| r.in_flight).sum();
    let most = share(running, ready.len(), factor);
    let mut ranked: Vec<_> = replicas
        .iter()
        .enumerate()
        .filter(|(_, replica)| replica.usable)
        .map(|(i, replica)| {
            let class = match (replica.ready, replica.in_flight < most) {
                (true, true) => (0, 0),
                (true, false) => (1, replica.in_flight),
                (false, _) => (2, 0),
            };
            (class, std::cmp::Reverse(key.weight(replica.name)), i)
        })
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, i)| i).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use edgewise_model_api::{Boundary, Retention};
    use proptest::prelude::*;

    fn key(n: u32) -> Key {
        let prompt = Prompt { tokens: vec![n, 7, 9], ..Prompt::default() };
        Key::of(&TenantId::local(), &prompt)
    }

    fn idle(names: &[String]) -> Vec<Standing<'_>> {
        names.iter().map(|name| Standing { name, in_flight: 0, usable: true, ready: true }).collect()
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|i| format!("http://replica-{i}:8000")).collect()
    }

    #[test]
    fn the_key_is_the_tenant_and_the_first_stable_prefix() {
        let prompt = |tail: u32| Prompt {
            tokens: vec![1, 2, 3, tail],
            boundaries: vec![Boundary { at: 3, retention: Retention::OneHour }],
            public_tokens: 0,
        };
        let tenant = |name: &str| TenantId(name.into());
        assert_eq!(Key::of(&tenant("a"), &prompt(4)), Key::of(&tenant("a"), &prompt(5)));
        assert_ne!(Key::of(&tenant("a"), &prompt(4)), Key::of(&tenant("b"), &prompt(4)));
        let mut other = prompt(4);
        other.tokens[1] = 9;
        assert_ne!(Key::of(&tenant("a"), &prompt(4)), Key::of(&tenant("a"), &other));
    }

    #[test]
    fn keys_spread_evenly() {
        let names = names(5);
        let mut counts = [0usize; 5];
        for n in 0..5000 {
            counts[order(&key(n), &idle(&names), 1.25)[0]] += 1;
        }
        // Binomial, 1000 ± 28: six standard deviations.
        assert!(counts.iter().all(|count| (830..1170).contains(count)), "{counts:?}");
    }

    #[test]
    fn unusable_ones_get_nothing_and_unready_ones_come_last() {
        let names = names(3);
        let mut replicas = idle(&names);
        let first = order(&key(1), &replicas, 1.25)[0];
        replicas[first].ready = false;
        assert_eq!(order(&key(1), &replicas, 1.25)[2], first);
        replicas[first].usable = false;
        assert_eq!(order(&key(1), &replicas, 1.25).len(), 2);
        assert!(order(&key(1), &[], 1.25).is_empty());
    }

    proptest! {
        #[test]
        fn a_replica_that_goes_moves_only_its_own_keys(count in 2usize..9, gone in 0usize..9, first in 0u32..1_000_000) {
            let all = names(count);
            let gone = gone % count;
            let left: Vec<String> = all.iter().enumerate().filter(|(i, _)| *i != gone).map(|(_, n)| n.clone()).collect();
            for n in first..first + 50 {
                let before = &all[order(&key(n), &idle(&all), 1.25)[0]];
                let after = &left[order(&key(n), &idle(&left), 1.25)[0]];
                prop_assert!(before == after || *before == all[gone]);
            }
        }

        #[test]
        fn no_replica_gets_more_than_its_share(
            count in 1usize..7, requests in 1usize..120, hot in any::<bool>(), factor in 1.0f64..2.0,
        ) {
            let names = names(count);
            let mut loads = vec![0usize; count];
            for n in 0..requests {
                // All with one key, or each with its own.
                let key = key(if hot { 1 } else { u32::try_from(n).unwrap() });
                let replicas: Vec<_> = names.iter().zip(&loads)
                    .map(|(name, load)| Standing { name, in_flight: *load, usable: true, ready: true }).collect();
                let chosen = order(&key, &replicas, factor)[0];
                loads[chosen] += 1;
                prop_assert!(loads[chosen] <= share(n, count, factor), "{loads:?} after {n}");
            }
        }

        #[test]
        fn a_key_spills_in_an_order_of_its_own(count in 2usize..7, n in any::<u32>()) {
            let names = names(count);
            let mut replicas = idle(&names);
            let by_wish = order(&key(n), &replicas, 1.25);
            replicas[by_wish[0]].in_flight = 10;
            prop_assert_eq!(order(&key(n), &replicas, 1.25)[0], by_wish[1]);
        }
    }
}
