//! An engine without a model: pages hold, for each position, who wrote it and a hash of all tokens up to it, as keys and
//! values would depend on them. Every move is executed; every forward pass reads what it attends to and checks it.

use super::*;
use crate::{Boundary, KvCache, Miss, Move, OpenRequest, OutOfPages, PageId, PrefixId, Sequence};

/// What a position's keys and values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    /// Who wrote it; none in the public part of a prompt.
    pub(super) tenant: Option<usize>,
    pub(super) hash: u64,
}

type Page = [Option<Cell>; PAGE];

/// A sequence and what it should hold.
pub(super) struct Live {
    pub(super) sequence: Sequence,
    pub(super) tenant: usize,
    pub(super) prompt: Vec<u32>,
    pub(super) public_pages: usize,
    /// As opened.
    pub(super) resident: usize,
    pub(super) coming: usize,
    pub(super) miss: Option<Miss>,
}

/// Cache and memory.
pub(super) struct Simulation {
    pub(super) cache: KvCache,
    pub(super) device: Vec<Page>,
    pub(super) host: Vec<Page>,
    pub(super) now: Duration,
    pub(super) moves: usize,
}

pub(super) const TENANTS: [&str; 3] = ["a", "b", "c"];

impl Simulation {
    pub(super) fn new(options: CacheOptions) -> Self {
        Self {
            device: vec![[None; PAGE]; options.pages],
            host: vec![[None; PAGE]; options.host_pages],
            cache: KvCache::new(options).unwrap(),
            now: Duration::ZERO,
            moves: 0,
        }
    }

    pub(super) fn open(&mut self, tenant: usize, prompt: &[u32], public: usize, boundaries: &[Boundary]) -> Live {
        let name = super::tenant(TENANTS[tenant]);
        let request = OpenRequest { tenant: &name, prompt, public_tokens: public, boundaries };
        let lookup = self.cache.lookup(&request, self.now);
        let opened = self.cache.open(&request, self.now);
        assert!(opened.resident <= lookup.resident && opened.resident + lookup.host >= lookup.resident);
        assert!(opened.resident < prompt.len().max(1));
        assert_eq!(opened.sequence.tokens(), opened.resident);
        assert_eq!(opened.coming, lookup.coming);
        if opened.resident == lookup.resident {
            assert_eq!(opened.miss, lookup.miss);
        }
        self.execute(opened.moves);
        let live = Live {
            sequence: opened.sequence,
            tenant,
            prompt: prompt.to_vec(),
            public_pages: public.min(prompt.len()) / PAGE,
            resident: opened.resident,
            coming: opened.coming,
            miss: opened.miss,
        };
        self.check(&live);
        live
    }

    /// A forward pass over `tokens`.
    pub(super) fn step(&mut self, live: &mut Live, tokens: &[u32]) -> Result<(), OutOfPages> {
        let moves = self.cache.reserve(&mut live.sequence, tokens.len(), self.now)?;
        self.execute(moves);
        self.write(live, tokens);
        self.cache.commit(&mut live.sequence, tokens, self.now);
        self.check(live);
        Ok(())
    }

    fn write(&mut self, live: &Live, tokens: &[u32]) {
        let held = live.sequence.tokens();
        let all = hashes(live.sequence.token_ids().iter().chain(tokens));
        for (position, &hash) in all.iter().enumerate().skip(held) {
            let tenant = (position / PAGE >= live.public_pages).then_some(live.tenant);
            let page = live.sequence.pages()[position / PAGE];
            // Nobody else may see a page that is being written.
            assert!(!self.cache.is_shared(page), "a shared page is written");
            self.device[page.0 as usize][position % PAGE] = Some(Cell { tenant, hash });
        }
    }

    /// The next `count` tokens of the prompt, then generated ones.
    pub(super) fn next(&self, live: &Live, count: usize) -> Vec<u32> {
        let held = live.sequence.tokens();
        (held..held + count).map(|i| live.prompt.get(i).copied().unwrap_or(9000 + i as u32 % 3)).collect()
    }

    /// Computes the rest of the prompt.
    pub(super) fn prefill(&mut self, live: &mut Live) -> Result<(), OutOfPages> {
        let rest = live.prompt[live.sequence.tokens()..].to_vec();
        self.step(live, &rest)
    }

    /// A whole request. Returns how many tokens were resident.
    pub(super) fn request(&mut self, tenant: usize, prompt: &[u32], boundaries: &[Boundary]) -> usize {
        let mut live = self.open(tenant, prompt, 0, boundaries);
        self.prefill(&mut live).unwrap();
        let resident = live.resident;
        self.close(live, true);
        resident
    }

    pub(super) fn close(&mut self, live: Live, keep: bool) {
        self.cache.close(live.sequence, keep, self.now);
    }

    pub(super) fn refresh(&mut self, live: &mut Live) -> usize {
        let before = live.sequence.tokens();
        let refreshed = self.cache.refresh(&mut live.sequence, &live.prompt, self.now);
        assert!(refreshed.resident >= before && refreshed.resident == live.sequence.tokens());
        live.coming = refreshed.coming;
        self.execute(refreshed.moves);
        self.check(live);
        refreshed.resident
    }

    pub(super) fn fork(&mut self, live: &Live) -> Live {
        let sequence = self.cache.fork(&live.sequence);
        let live = Live { sequence, prompt: live.prompt.clone(), ..*live };
        self.check(&live);
        live
    }

    pub(super) fn execute(&mut self, moves: Vec<Move>) {
        self.moves += moves.len();
        for change in moves {
            match change {
                Move::Copy { from, to, tokens } => {
                    assert_ne!(from, to);
                    let mut page = [None; PAGE];
                    page[..tokens].copy_from_slice(&self.device[from.0 as usize][..tokens]);
                    self.device[to.0 as usize] = page;
                }
                Move::ToHost { page, slot } => self.host[slot.0 as usize] = self.device[page.0 as usize],
                Move::FromHost { slot, page } => self.device[page.0 as usize] = self.host[slot.0 as usize],
            }
        }
    }

    /// A sequence reads exactly its own tokens, written by its tenant or by anybody in the public part.
    pub(super) fn check(&self, live: &Live) {
        for (position, hash) in hashes(live.sequence.token_ids()).into_iter().enumerate() {
            let page = live.sequence.pages()[position / PAGE];
            let tenant = (position / PAGE >= live.public_pages).then_some(live.tenant);
            let cell = self.device[page.0 as usize][position % PAGE];
            assert_eq!(cell, Some(Cell { tenant, hash }), "position {position}");
        }
    }

    /// Takes a prefix out of this cache and puts it into another.
    pub(super) fn transfer(&mut self, id: PrefixId, to: &mut Self) -> Option<PrefixId> {
        let export = self.cache.export(id, self.now)?;
        self.execute(export.moves);
        let contents: Vec<Page> = export
            .pages
            .iter()
            .map(|place| match place {
                crate::Place::Device(page) => self.device[page.0 as usize],
                crate::Place::Host(slot) => self.host[slot.0 as usize],
            })
            .collect();
        let importing = to.cache.import(export.record, to.now).ok()?;
        to.execute(importing.moves.clone());
        for &(index, PageId(page)) in &importing.write {
            to.device[page as usize] = contents[index];
        }
        to.cache.finish_import(importing, true, to.now)
    }
}

/// For each position, a hash (FNV-1a over tokens) of everything up to it.
fn hashes<'a>(tokens: impl IntoIterator<Item = &'a u32>) -> Vec<u64> {
    let step = |hash: &mut u64, &token: &u32| {
        *hash = (*hash ^ u64::from(token)).wrapping_mul(0x100_0000_01b3);
        Some(*hash)
    };
    tokens.into_iter().scan(0xcbf2_9ce4_8422_2325, step).collect()
}
