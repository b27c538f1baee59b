//! Taking retained prefixes out and putting them back.

use std::time::Duration;

use crate::{
    Boundary, CacheError, Export, Importing, KvCache, OpenRequest, PrefixId, PrefixRecord, Sequence, budget::PUBLIC,
};

impl KvCache {
    /// A retained prefix, to be written elsewhere after its moves were executed. None if there is no such prefix or not
    /// all of it is resident.
    pub fn export(&mut self, id: PrefixId, now: Duration) -> Option<Export> {
        self.advance(now);
        let prefix = *self.prefixes.get(id)?;
        let mut path: Vec<_> = self.tree.back(prefix.end).collect();
        path.reverse();
        let mut tokens: Vec<u32> = path.iter().flat_map(|&id| self.tree.tokens(id)).copied().collect();
        let public_pages = path.iter().take_while(|&&id| self.tree.node(id).account == PUBLIC).count();
        let public_tokens = public_pages * self.options.page_tokens;
        if tokens.len() < prefix.at {
            return None;
        }
        // A page can be found again only if it is public as a whole, so a public last page keeps all its tokens.
        tokens.truncate(prefix.at.max(public_tokens));
        let pages = path.iter().map(|&id| self.tree.node(id).place).collect::<Option<Vec<_>>>()?;
        let tenant = self.budgets.tenant(prefix.account)?.clone();
        let record = PrefixRecord {
            tenant,
            public_tokens,
            tokens,
            at: prefix.at,
            ttl: prefix.ttl,
            left: prefix.expires.saturating_sub(self.now),
        };
        Some(Export { digest: prefix.digest, record, pages, moves: std::mem::take(&mut self.moves) })
    }

    /// Begins to put a prefix back: finds pages for it, evicting nothing that is retained within budget.
    pub fn import(&mut self, record: PrefixRecord, now: Duration) -> Result<Importing, CacheError> {
        self.advance(now);
        let refuse = |why: &str| Err(CacheError::Import(why.to_owned()));
        if record.at == 0 || record.at > record.tokens.len() {
            return refuse("its length and its tokens disagree");
        }
        if record.tokens.len() < self.options.min_prefix_tokens {
            return refuse("it is shorter than the cache takes");
        }
        if record.left.is_zero() {
            return refuse("its time has run out");
        }
        let mut sequence = self.open_import(&record);
        let first = sequence.published;
        let tokens = record.tokens.len() - sequence.tokens.len();
        if let Err(error) = self.reserve_pages(&mut sequence, tokens, false) {
            self.end(sequence, false, false, None);
            return Err(error.into());
        }
        let write = sequence.pages.iter().copied().enumerate().skip(first).collect();
        Ok(Importing { sequence, record, moves: std::mem::take(&mut self.moves), write })
    }

    /// Like [`Self::open`] of the prefix alone; not a use, and of whole pages only.
    fn open_import(&mut self, record: &PrefixRecord) -> Sequence {
        let boundaries = [Boundary { at: record.at, ttl: record.ttl }];
        let request = OpenRequest {
            tenant: &record.tenant,
            prompt: &record.tokens,
            public_tokens: record.public_tokens,
            boundaries: &boundaries,
        };
        let account = self.account(&record.tenant);
        let mut sequence = self.new_sequence(&request, account);
        let mut walk = self.tree.walk(Some(account), sequence.public_pages, &record.tokens);
        walk.part = None;
        let held = self.hold(&walk, 0);
        sequence.tokens.extend_from_slice(&record.tokens[..held.tokens]);
        sequence.pages = held.pages;
        sequence.published = held.published;
        self.note(&sequence);
        sequence
    }

    /// Ends an import. `written` false, after a failure, leaves nothing of it. Returns the name of the prefix.
    pub fn finish_import(&mut self, importing: Importing, written: bool, now: Duration) -> Option<PrefixId> {
        self.advance(now);
        let Importing { mut sequence, record, .. } = importing;
        if written {
            let held = sequence.tokens.len();
            sequence.tokens.extend_from_slice(&record.tokens[held..]);
            self.publish_complete(&mut sequence);
        }
        self.end(sequence, written, written, Some(record.left.min(record.ttl.duration())))
    }
}
