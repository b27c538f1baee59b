//! Which prefixes are resident: a table of finished sequences, without their keys and values.
//!
//! The worker owns the keys and values, under the slot ids given out here; this table decides what is reused, kept,
//! shortened and evicted. It is a plain data structure: time comes in as an argument, and a look-up changes nothing.
//!
//! A slot's tokens carry *marks*, ends of prefixes with a time to live. What lies beyond the last live mark has expired.
//! The marks of a finished request are the boundaries it asked for and, after five minutes' grace for a next turn, its
//! whole length.
//!
//! Invariants:
//! - Slots of one tenant are never found by another. Prefixes are found by comparing tokens, never by hash alone.
//! - The bytes of all slots together never exceed the budget. Within it, the least recently used slot goes first, slots
//!   without a live boundary before those with one.
//! - A prompt's last token is never resident: its logits have to be computed.
//!
//! Deliberately not here: sharing of memory between slots (copies are copies), tiers below memory.

use std::time::{Duration, Instant};

use edgewise_model_api::{Boundary, Retention};
use edgewise_types::TenantId;

/// Name of a slot; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SlotId(u64);

/// How long tokens are kept that no boundary covers.
const GRACE: Duration = Duration::from_secs(5 * 60);

fn time_to_live(retention: Retention) -> Duration {
    match retention {
        Retention::FiveMinutes => Duration::from_secs(5 * 60),
        Retention::OneHour => Duration::from_secs(60 * 60),
    }
}

/// The end of a prefix that is to be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    at: usize,
    time_to_live: Duration,
    expires: Instant,
    /// Whether a request asked for it.
    asked: bool,
}

#[derive(Debug)]
struct Slot {
    id: SlotId,
    tenant: TenantId,
    tokens: Vec<u32>,
    bytes: usize,
    marks: Vec<Mark>,
    last_used: u64,
}

impl Slot {
    /// Tokens that have not expired.
    fn live_tokens(&self, now: Instant) -> usize {
        self.marks.iter().filter(|m| m.expires > now).map(|m| m.at).max().unwrap_or(0)
    }

    fn is_retained(&self, now: Instant) -> bool {
        self.marks.iter().any(|m| m.asked && m.expires > now)
    }

    /// Leading tokens of `prompt` that are resident here.
    fn resident(&self, prompt: &[u32], now: Instant) -> usize {
        common(&self.tokens[..self.live_tokens(now)], prompt)
    }
}

/// Leading tokens of `prompt` that `tokens` begins with, the prompt's last one excluded.
pub(crate) fn common(tokens: &[u32], prompt: &[u32]) -> usize {
    let reusable = &prompt[..prompt.len().saturating_sub(1)];
    tokens.iter().zip(reusable).take_while(|(a, b)| a == b).count()
}

/// How a new request gets its resident prefix.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// Nothing of it is resident.
    Nothing,
    /// Take the slot over and truncate it to `tokens`. It has left the table; `marks` go with it.
    Take { slot: SlotId, tokens: usize, marks: Vec<Mark> },
    /// Copy the first `tokens` tokens of the slot, which stays.
    Copy { slot: SlotId, tokens: usize },
}

/// A finished sequence to be kept.
pub(crate) struct Finished<'a> {
    pub(crate) tenant: TenantId,
    pub(crate) tokens: Vec<u32>,
    pub(crate) bytes: usize,
    pub(crate) boundaries: &'a [Boundary],
    /// Marks of the slot that was taken over.
    pub(crate) inherited: Vec<Mark>,
}

/// What the worker has to do to its keys and values.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// Drop them.
    Drop(SlotId),
    /// Truncate them to so many tokens, then report their size to [`PrefixSlots::set_bytes`].
    Truncate(SlotId, usize),
}

/// The table.
#[derive(Debug)]
pub(crate) struct PrefixSlots {
    slots: Vec<Slot>,
    max_slots: usize,
    max_bytes: usize,
    next_id: u64,
    uses: u64,
}

impl PrefixSlots {
    /// An empty table for at most `max_slots` sequences of `max_bytes` bytes together.
    pub(crate) fn new(max_slots: usize, max_bytes: usize) -> Self {
        Self { slots: Vec::new(), max_slots, max_bytes, next_id: 0, uses: 0 }
    }

    /// Bytes of all slots.
    pub(crate) fn bytes(&self) -> usize {
        self.slots.iter().map(|slot| slot.bytes).sum()
    }

    /// Leading tokens of `prompt` resident for `tenant`. Does not count as a use.
    pub(crate) fn resident(&self, tenant: &TenantId, prompt: &[u32], now: Instant) -> usize {
        self.of(tenant).map(|slot| slot.resident(prompt, now)).max().unwrap_or(0)
    }

    fn of<'a>(&'a self, tenant: &'a TenantId) -> impl Iterator<Item = &'a Slot> {
        self.slots.iter().filter(move |slot| slot.tenant == *tenant)
    }

    /// Finds the longest resident prefix of `prompt` and decides how it is used.
    ///
    /// Taking a slot over destroys what it holds beyond the prefix; copying costs time and memory. A slot is taken over
    /// when nothing beyond the prefix was asked to be kept and less is lost than saved: another question about the same
    /// documents takes over, another conversation under the same system prompt gets a copy.
    pub(crate) fn reuse(&mut self, tenant: &TenantId, prompt: &[u32], now: Instant) -> Reuse {
        let candidates = self.slots.iter().enumerate().filter(|(_, slot)| slot.tenant == *tenant);
        let best = candidates
            .map(|(i, slot)| (slot.resident(prompt, now), slot.tokens.len(), i))
            .max_by_key(|&(tokens, length, _)| (tokens, std::cmp::Reverse(length)));
        let Some((tokens, length, index)) = best.filter(|&(tokens, ..)| tokens > 0) else { return Reuse::Nothing };
        let slot = &mut self.slots[index];
        let asked_beyond = slot.marks.iter().any(|m| m.asked && m.at > tokens && m.expires > now);
        if !asked_beyond && length - tokens <= tokens {
            let slot = self.slots.swap_remove(index);
            let marks = slot.marks.into_iter().filter(|m| m.at <= tokens && m.asked).collect();
            return Reuse::Take { slot: slot.id, tokens, marks };
        }
        self.uses += 1;
        slot.last_used = self.uses;
        for mark in slot.marks.iter_mut().filter(|m| m.at <= tokens && m.expires > now) {
            mark.expires = now + mark.time_to_live;
        }
        Reuse::Copy { slot: slot.id, tokens }
    }

    /// Keeps a finished sequence if the budget allows it at all, and names it and what had to go. Its marks live from
    /// `now` on.
    pub(crate) fn keep(&mut self, finished: Finished<'_>, now: Instant) -> (Option<SlotId>, Vec<Change>) {
        let Finished { tenant, tokens, bytes, boundaries, inherited } = finished;
        let mut changes = Vec::new();
        if bytes > self.max_bytes || self.max_slots == 0 || tokens.is_empty() {
            return (None, changes);
        }
        while self.slots.len() >= self.max_slots || self.bytes() + bytes > self.max_bytes {
            let victim = self.slots.iter().enumerate().min_by_key(|(_, s)| (s.is_retained(now), s.last_used));
            let Some((index, _)) = victim else { break };
            changes.push(Change::Drop(self.slots.swap_remove(index).id));
        }
        let asked = boundaries.iter().map(|b| (b.at, time_to_live(b.retention), true));
        let inherited = inherited.into_iter().map(|m| (m.at, m.time_to_live, m.asked));
        let mut marks: Vec<Mark> = Vec::new();
        for (at, time_to_live, asked) in asked.chain(inherited).chain([(tokens.len(), GRACE, false)]) {
            if at <= tokens.len() {
                marks.push(Mark { at, time_to_live, expires: now + time_to_live, asked });
            }
        }
        self.next_id += 1;
        self.uses += 1;
        let id = SlotId(self.next_id);
        self.slots.push(Slot { id, tenant, tokens, bytes, marks, last_used: self.uses });
        (Some(id), changes)
    }

    /// Drops and shortens what has expired.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        self.slots.retain_mut(|slot| {
            slot.marks.retain(|m| m.expires > now);
            let live = slot.live_tokens(now);
            if live == 0 {
                changes.push(Change::Drop(slot.id));
            } else if live < slot.tokens.len() {
                slot.tokens.truncate(live);
                changes.push(Change::Truncate(slot.id, live));
            }
            live > 0
        });
        changes
    }

    /// Corrects the size of a slot after truncation; it never grows.
    pub(crate) fn set_bytes(&mut self, id: SlotId, bytes: usize) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) {
            slot.bytes = slot.bytes.min(bytes);
        }
    }
}

#[cfg(test)]
#[path = "prefix_slots_tests.rs"]
mod tests;
