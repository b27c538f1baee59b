//! A bounded memory of what was given up and why, to tell a prefix that expired from one that was evicted from one that
//! was never there.
//!
//! It remembers digests, which carry the tenant's salt: nobody can ask it about another's tokens.

use std::collections::{HashMap, VecDeque};

use crate::Digest;

/// Why something is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    Expired,
    Evicted,
}

/// The last so many that were given up.
#[derive(Debug)]
pub(crate) struct Ghosts {
    causes: HashMap<Digest, (Cause, u64)>,
    /// In the order they were given up. An entry counts only if its number is still the one in `causes`.
    order: VecDeque<(Digest, u64)>,
    capacity: usize,
    number: u64,
}

impl Ghosts {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { causes: HashMap::new(), order: VecDeque::new(), capacity, number: 0 }
    }

    pub(crate) fn get(&self, digest: &Digest) -> Option<Cause> {
        self.causes.get(digest).map(|&(cause, _)| cause)
    }

    pub(crate) fn insert(&mut self, digest: Digest, cause: Cause) {
        self.number += 1;
        self.causes.insert(digest, (cause, self.number));
        self.order.push_back((digest, self.number));
        // Entries overtaken by a later one of the same digest, or removed, leave with the rest.
        while self.order.len() > self.capacity {
            let Some((oldest, number)) = self.order.pop_front() else { break };
            if self.causes.get(&oldest).is_some_and(|&(_, latest)| latest == number) {
                self.causes.remove(&oldest);
            }
        }
    }

    /// It is back.
    pub(crate) fn remove(&mut self, digest: &Digest) {
        self.causes.remove(digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_few_are_remembered() {
        let mut ghosts = Ghosts::new(3);
        let digest = |i: u8| Digest([i; 32]);
        (0..4).for_each(|i| ghosts.insert(digest(i), Cause::Evicted));
        assert_eq!(ghosts.get(&digest(0)), None);
        assert_eq!(ghosts.get(&digest(1)), Some(Cause::Evicted));
        ghosts.insert(digest(1), Cause::Expired);
        ghosts.insert(digest(4), Cause::Evicted);
        // 2 and 3 were older than the second 1.
        assert_eq!(ghosts.get(&digest(2)), None);
        assert_eq!(ghosts.get(&digest(1)), Some(Cause::Expired));
        ghosts.remove(&digest(1));
        assert_eq!(ghosts.get(&digest(1)), None);
        (5..200).for_each(|i| ghosts.insert(digest(i), Cause::Evicted));
        assert_eq!((ghosts.order.len(), ghosts.causes.len()), (3, 3));
    }
}
