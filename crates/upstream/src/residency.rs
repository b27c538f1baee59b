//! What a replica's prefix cache probably holds: the prompts it was sent, corrected by what it reports of them.
//!
//! Prompts are remembered in blocks, as servers cache them: a block is named by the hash of everything up to its end, so
//! one look-up a block finds the longest known prefix. Blocks that were used longest ago are forgotten first, as servers
//! evict them; a report that something is gone which should have been there also takes everything that was used before
//! it. A server that has never reported how many tokens it had cached is taken to hold nothing: what can't be confirmed
//! must not make a route look cheap.
//!
//! Names are keyed by tenant, so no tenant is told what others have sent.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use edgewise_types::TenantId;

/// Name of a block.
type BlockId = [u8; 16];

/// The blocks of a prompt that a cache may hold: all complete ones that leave the last token to be computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chain {
    blocks: Vec<BlockId>,
    block_tokens: usize,
}

impl Chain {
    /// The blocks of `tokens` for `tenant`.
    pub(crate) fn of(tenant: &TenantId, tokens: &[u32], block_tokens: usize) -> Self {
        let block_tokens = block_tokens.max(1);
        let whole = tokens.len().saturating_sub(1) / block_tokens;
        let mut hasher = blake3::Hasher::new_derive_key("edgewise 2026 upstream residency 1");
        hasher.update(&(tenant.0.len() as u64).to_le_bytes()).update(tenant.0.as_bytes());
        let blocks = tokens.chunks_exact(block_tokens).take(whole).map(|block| {
            for token in block {
                hasher.update(&token.to_le_bytes());
            }
            let mut id = BlockId::default();
            hasher.finalize_xof().fill(&mut id);
            id
        });
        Self { blocks: blocks.collect(), block_tokens }
    }
}

/// What one replica probably holds.
#[derive(Debug)]
pub(crate) struct Residency {
    most_blocks: usize,
    ttl: Duration,
    entries: HashMap<BlockId, Entry>,
    /// Blocks by their last use.
    by_use: BTreeMap<u64, BlockId>,
    uses: u64,
    /// Whether the server has ever said how many tokens it had.
    reports: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    used: u64,
    at: Instant,
}

impl Residency {
    /// Remembers at most `most_blocks`, each for `ttl` after its last use.
    pub(crate) fn new(most_blocks: usize, ttl: Duration) -> Self {
        let (entries, by_use) = (HashMap::new(), BTreeMap::new());
        Self { most_blocks: most_blocks.max(1), ttl, entries, by_use, uses: 0, reports: false }
    }

    /// Leading tokens of a prompt that are probably cached.
    pub(crate) fn resident(&self, chain: &Chain, now: Instant) -> usize {
        if self.reports { self.known(chain, now) * chain.block_tokens } else { 0 }
    }

    fn known(&self, chain: &Chain, now: Instant) -> usize {
        let fresh = |id: &&BlockId| self.entries.get(*id).is_some_and(|e| now.duration_since(e.at) < self.ttl);
        chain.blocks.iter().take_while(fresh).count()
    }

    /// The server has read the whole prompt, and told with how many of its tokens `cached`, if it tells.
    pub(crate) fn read(&mut self, chain: &Chain, cached: Option<usize>, now: Instant) {
        if let Some(cached) = cached {
            self.reports = true;
            let reported = cached / chain.block_tokens;
            if reported < self.known(chain, now)
                && let Some(gone) = chain.blocks.get(reported).and_then(|id| self.entries.get(id)).map(|e| e.used)
            {
                self.forget_used_before(gone + 1);
            }
        }
        // From the last to the first: of one prompt, the end goes first.
        for id in chain.blocks.iter().rev() {
            self.uses += 1;
            let entry = Entry { used: self.uses, at: now };
            if let Some(before) = self.entries.insert(*id, entry) {
                self.by_use.remove(&before.used);
            }
            self.by_use.insert(self.uses, *id);
        }
        while self.entries.len() > self.most_blocks {
            let Some((_, id)) = self.by_use.pop_first() else { break };
            self.entries.remove(&id);
        }
    }

    /// The server has been restarted.
    pub(crate) fn forget_all(&mut self) {
        self.entries.clear();
        self.by_use.clear();
    }

    fn forget_used_before(&mut self, used: u64) {
        let kept = self.by_use.split_off(&used);
        for id in std::mem::replace(&mut self.by_use, kept).into_values() {
            self.entries.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(60);

    fn chain(tokens: impl IntoIterator<Item = u32>) -> Chain {
        Chain::of(&TenantId::local(), &tokens.into_iter().collect::<Vec<_>>(), 4)
    }

    #[test]
    fn the_last_token_is_always_computed_and_blocks_are_whole() {
        for (tokens, blocks) in [(0, 0), (1, 0), (4, 0), (5, 1), (8, 1), (9, 2), (11, 2)] {
            assert_eq!(chain(0..tokens).blocks.len(), blocks, "{tokens}");
        }
    }

    #[test]
    fn nothing_is_taken_to_be_cached_before_the_server_has_said_so_once() {
        let now = Instant::now();
        let mut held = Residency::new(100, TTL);
        held.read(&chain(0..20), None, now);
        assert_eq!(held.resident(&chain(0..20), now), 0);
        held.read(&chain(50..60), Some(0), now);
        assert_eq!(held.resident(&chain(0..20), now), 16);
        assert_eq!(held.resident(&chain((0..10).chain(90..100)), now), 8, "up to where they differ");
        let other = Chain::of(&TenantId("other".into()), &(0..20).collect::<Vec<u32>>(), 4);
        assert_eq!(held.resident(&other, now), 0);
        assert_eq!(held.resident(&chain(0..20), now + TTL), 0, "its time is over");
        held.forget_all();
        assert_eq!(held.resident(&chain(0..20), now), 0);
    }

    #[test]
    fn what_is_reported_gone_takes_what_was_used_before_it() {
        let now = Instant::now();
        let mut held = Residency::new(100, TTL);
        for first in [0, 100, 200] {
            held.read(&chain(first..first + 20), Some(0), now);
        }
        // The second prompt is half gone.
        held.read(&chain(100..120), Some(8), now);
        assert_eq!(held.resident(&chain(0..20), now), 0);
        assert_eq!(held.resident(&chain(200..220), now), 16);
        assert_eq!(held.resident(&chain(100..120), now), 16, "it was read again");
    }

    #[test]
    fn more_than_was_expected_is_learned_with_the_prompt() {
        let now = Instant::now();
        let mut held = Residency::new(100, TTL);
        held.read(&chain(0..20), Some(12), now);
        assert_eq!(held.resident(&chain(0..20), now), 16);
    }

    proptest! {
        #[test]
        fn memory_is_bounded_and_the_latest_prompt_is_known(
            prompts in proptest::collection::vec((0u32..6, 1usize..60, 0usize..70), 1..40), most in 1usize..20,
        ) {
            let now = Instant::now();
            let mut held = Residency::new(most, TTL);
            for (first, length, cached) in prompts {
                let tokens: Vec<u32> = (0..length).map(|i| if i < 10 { 1 } else { first }).collect();
                let chain = Chain::of(&TenantId::local(), &tokens, 4);
                held.read(&chain, Some(cached), now);
                prop_assert!(held.entries.len() <= most);
                prop_assert_eq!(held.entries.len(), held.by_use.len());
                prop_assert_eq!(held.known(&chain, now), chain.blocks.len().min(most));
            }
        }
    }
}
