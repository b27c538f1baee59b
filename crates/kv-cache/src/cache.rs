//! The cache.

use std::time::Duration;

use crate::{
    CacheError, CacheOptions, Export, Importing, Lookup, Miss, Move, OpenRequest, Opened, OutOfPages, PageId, PrefixId,
    PrefixInfo, PrefixRecord, Refreshed, Sequence, Stats,
};

/// Block pool, prefix tree and retention of one engine. `now` is the time since any fixed start and never goes back.
#[derive(Debug)]
pub struct KvCache {
    options: CacheOptions,
    free: Vec<PageId>,
    references: Vec<u32>,
    sequences: u64,
    open: usize,
}

impl KvCache {
    /// An empty cache.
    pub fn new(options: CacheOptions) -> Result<Self, CacheError> {
        options.validate()?;
        let free = (0..options.pages as u32).rev().map(PageId).collect();
        Ok(Self { references: vec![0; options.pages], free, sequences: 0, open: 0, options })
    }

    /// What is resident of a prompt. A snapshot: it counts as no use and may change before the prompt is opened.
    pub fn lookup(&self, request: &OpenRequest<'_>, now: Duration) -> Lookup {
        let _ = (request, now);
        Lookup { resident: 0, host: 0, coming: 0, miss: Some(Miss::NeverWritten) }
    }

    /// Takes hold of the resident prefix of a prompt. Never fails for lack of pages: what finds no room is not reused.
    pub fn open(&mut self, request: &OpenRequest<'_>, now: Duration) -> Opened {
        let _ = now;
        self.open += 1;
        self.sequences += 1;
        let sequence = Sequence {
            id: self.sequences,
            tenant: request.tenant.clone(),
            public_pages: request.public_tokens.min(request.prompt.len()) / self.options.page_tokens,
            boundaries: request.boundaries.to_vec(),
            tokens: Vec::new(),
            pages: Vec::new(),
            closed: false,
        };
        Opened { sequence, resident: 0, coming: 0, moves: Vec::new(), miss: Some(Miss::NeverWritten) }
    }

    /// Looks a sequence up again whose prompt isn't wholly computed and may meanwhile have been published by another;
    /// extends what it holds. `prompt` is the one it was opened with.
    pub fn refresh(&mut self, sequence: &mut Sequence, prompt: &[u32], now: Duration) -> Refreshed {
        let _ = (prompt, now);
        Refreshed { resident: sequence.tokens(), coming: 0, moves: Vec::new() }
    }

    /// Makes room for the keys and values of `tokens` more positions than the sequence holds. Positions reserved
    /// earlier count. A last page that others can see is copied first.
    pub fn reserve(&mut self, sequence: &mut Sequence, tokens: usize, now: Duration) -> Result<Vec<Move>, OutOfPages> {
        let _ = now;
        let page = self.options.page_tokens;
        let held = sequence.tokens.len();
        let wanted = (held + tokens).div_ceil(page);
        let shared = held % page != 0 && tokens > 0 && self.references[sequence.pages[held / page].0 as usize] > 1;
        let needed = wanted.saturating_sub(sequence.pages.len()) + usize::from(shared);
        if needed > self.free.len() {
            return Err(OutOfPages { needed, available: self.free.len(), total: self.options.pages });
        }
        let mut moves = Vec::new();
        if let Some(to) = shared.then(|| self.take()).flatten() {
            let from = std::mem::replace(&mut sequence.pages[held / page], to);
            self.give(from);
            moves.push(Move::Copy { from, to, tokens: held % page });
        }
        while sequence.pages.len() < wanted {
            let Some(page) = self.take() else { break };
            sequence.pages.push(page);
        }
        Ok(moves)
    }

    /// The keys and values of `tokens` were written behind what the sequence holds, in room reserved for them. Pages
    /// that are complete are published at once.
    pub fn commit(&mut self, sequence: &mut Sequence, tokens: &[u32], now: Duration) {
        let _ = now;
        sequence.tokens.extend_from_slice(tokens);
        debug_assert!(
            sequence.tokens.len() <= sequence.pages.len() * self.options.page_tokens,
            "commit without reserve"
        );
    }

    /// Another sequence with the same tokens that shares every page.
    pub fn fork(&mut self, sequence: &Sequence) -> Sequence {
        self.open += 1;
        self.sequences += 1;
        let pages = sequence.pages[..sequence.tokens.len().div_ceil(self.options.page_tokens)].to_vec();
        for page in &pages {
            self.references[page.0 as usize] += 1;
        }
        Sequence {
            id: self.sequences,
            tenant: sequence.tenant.clone(),
            public_pages: sequence.public_pages,
            boundaries: sequence.boundaries.clone(),
            tokens: sequence.tokens.clone(),
            pages,
            closed: false,
        }
    }

    /// Ends a sequence. Its boundaries become retained prefixes. With `keep` false, after a failure, they don't, and
    /// nothing stays that isn't published yet.
    pub fn close(&mut self, mut sequence: Sequence, keep: bool, now: Duration) {
        let _ = (keep, now);
        self.open -= 1;
        sequence.closed = true;
        for page in std::mem::take(&mut sequence.pages) {
            self.give(page);
        }
    }

    /// Ends a sequence to make room; it is to be opened and computed again later. What is published stays, as long as
    /// nobody needs the pages.
    pub fn preempt(&mut self, sequence: Sequence, now: Duration) {
        self.close(sequence, false, now);
    }

    /// Ends the retention of what was last used too long ago. Returns how many pages are no longer retained.
    pub fn expire(&mut self, now: Duration) -> usize {
        let _ = now;
        0
    }

    /// Counts.
    pub fn stats(&self) -> Stats {
        let (total, free) = (self.options.pages, self.free.len());
        Stats { total, free, used: total - free, sequences: self.open, ..Stats::default() }
    }

    /// The retained prefixes, longest to live first.
    pub fn prefixes(&self, now: Duration) -> Vec<PrefixInfo> {
        let _ = now;
        Vec::new()
    }

    /// Ends the retention of a prefix. False if there is no such prefix.
    pub fn release(&mut self, id: PrefixId) -> bool {
        let _ = id;
        false
    }

    /// A retained prefix, to be written elsewhere. None if there is no such prefix or not all of it is resident.
    pub fn export(&self, id: PrefixId, now: Duration) -> Option<Export> {
        let _ = (id, now);
        None
    }

    /// Begins to put a prefix back: finds pages for it, evicting nothing that is retained within budget.
    pub fn import(&mut self, record: PrefixRecord, now: Duration) -> Result<Importing, CacheError> {
        let request = OpenRequest { tenant: &record.tenant, prompt: &record.tokens, public_tokens: 0, boundaries: &[] };
        let mut sequence = self.open(&request, now).sequence;
        match self.reserve(&mut sequence, record.tokens.len(), now) {
            Ok(moves) => {
                let write = sequence.pages.iter().copied().enumerate().collect();
                Ok(Importing { sequence, record, moves, write })
            }
            Err(error) => {
                self.close(sequence, false, now);
                Err(error.into())
            }
        }
    }

    /// Ends an import. `written` false, after a failure, leaves nothing of it. Returns the name of the prefix.
    pub fn finish_import(&mut self, importing: Importing, written: bool, now: Duration) -> Option<PrefixId> {
        let Importing { mut sequence, record, .. } = importing;
        if written {
            self.commit(&mut sequence, &record.tokens, now);
        }
        self.close(sequence, written, now);
        None
    }

    fn take(&mut self) -> Option<PageId> {
        let page = self.free.pop()?;
        self.references[page.0 as usize] = 1;
        Some(page)
    }

    fn give(&mut self, page: PageId) {
        self.references[page.0 as usize] -= 1;
        if self.references[page.0 as usize] == 0 {
            self.free.push(page);
        }
    }
}
