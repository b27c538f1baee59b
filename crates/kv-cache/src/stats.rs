//! Counts of what the cache holds and did.

use std::time::Duration;

use crate::MissReason;

/// A snapshot. `free + used + cached == total`, always.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Pages of the pool.
    pub total: usize,
    /// Pages that hold nothing.
    pub free: usize,
    /// Pages that a sequence holds.
    pub used: usize,
    /// Pages that no sequence holds and that can be found again.
    pub cached: usize,
    /// Used and cached pages under retention.
    pub retained: usize,
    /// Slots of the host tier.
    pub host_total: usize,
    /// Of which hold a page.
    pub host_used: usize,
    /// Sequences open.
    pub sequences: usize,
    /// Prefixes under retention.
    pub prefixes: usize,
    /// Pages evicted from the device, by cause.
    pub evictions: Evictions,
    /// Prompts opened.
    pub opened: u64,
    /// Tokens of all prompts opened.
    pub prompt_tokens: u64,
    /// Tokens found resident.
    pub hit_tokens: u64,
    /// Misses by reason, in the order of [`MissReason::ALL`].
    pub misses: [MissCount; MissReason::ALL.len()],
    /// Time between the last use of an evicted page and its eviction.
    pub idle_before_eviction: Times,
    /// Time between the publication of an evicted page and its eviction.
    pub residency: Times,
    /// Pages copied to host memory.
    pub to_host: u64,
    /// Pages copied back from host memory.
    pub from_host: u64,
    /// Pages given up in host memory.
    pub host_evictions: u64,
}

impl Stats {
    /// Misses for one reason.
    pub fn missed(&self, reason: MissReason) -> MissCount {
        self.misses[reason as usize]
    }
}

/// Pages evicted from the device, by cause.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evictions {
    /// Never retained; the least recently used.
    pub unretained: u64,
    /// Retained once, and the time had run out.
    pub expired: u64,
    /// Retained beyond the tenant's budget.
    pub over_budget: u64,
    /// Retained within budget, for a request that was alone in the pool and needed the page.
    pub within_budget: u64,
}

/// Misses for one reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MissCount {
    /// Prompts.
    pub prompts: u64,
    /// Tokens of their stable prefixes that weren't resident.
    pub tokens: u64,
}

/// A page that was evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// Time since its last use.
    pub idle: Duration,
    /// Time since its publication.
    pub residency: Duration,
}

/// A sum of durations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// How many.
    pub count: u64,
    /// Their sum.
    pub total: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Times {
    pub(crate) fn add(&mut self, time: Duration) {
        self.count += 1;
        self.total = self.total.saturating_add(time);
        self.longest = self.longest.max(time);
    }

    /// Their mean; zero of none.
    pub fn mean(&self) -> Duration {
        Duration::from_secs_f64(self.total.as_secs_f64() / self.count.max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter() {
        for (index, reason) in MissReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
    }
}
