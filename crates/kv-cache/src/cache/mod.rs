//! The cache: a sequence's life from [`KvCache::open`] to [`KvCache::close`].

use std::{sync::Arc, time::Duration};

use crate::{
    CacheError, CacheOptions, Evicted, Lookup, Miss, MissReason, Move, OpenRequest, Opened, OutOfPages, PageId, Place,
    PrefixId, Refreshed, Sequence, Stats,
    budget::{AccountId, Budgets},
    ghosts::Ghosts,
    host::Host,
    identity::Chain,
    pool::Pool,
    prefixes::Prefixes,
    running::{Running, RunningSet, Waiting},
    tree::{NodeId, Tree, Walk},
};

mod evict;
mod find;
mod publish;
mod retain;
mod transfer;

#[cfg(test)]
mod tests;

/// Block pool, prefix tree and retention of one engine.
///
/// `now` is the time since any fixed start; a value before an earlier one counts as that. Moves that come back are to be
/// executed in the order they come, before the next forward pass.
#[derive(Debug)]
pub struct KvCache {
    options: CacheOptions,
    chain: Chain,
    pool: Pool,
    tree: Tree,
    host: Host,
    budgets: Budgets,
    prefixes: Prefixes,
    ghosts: Ghosts,
    /// How many tenants hold a page of the same tokens after the same tokens. For statistics only.
    any_tenant: find::AnyTenantCounts,
    running: RunningSet,
    /// Whether nothing beyond the prompt a sequence was opened with is published.
    prompts_only: bool,
    /// Moves not given out yet. A call that fails leaves its own for the next one.
    moves: Vec<Move>,
    stats: Stats,
    /// Evictions since they were last asked for.
    evicted: Vec<Evicted>,
    now: Duration,
}

impl KvCache {
    /// An empty cache.
    pub fn new(options: CacheOptions) -> Result<Self, CacheError> {
        options.validate()?;
        let chain = Chain::new(options.secret, &options.identity);
        let mut pool = Pool::new(options.pages);
        pool.add_account();
        Ok(Self {
            tree: Tree::new(options.page_tokens, chain.root()),
            host: Host::new(options.host_pages),
            budgets: Budgets::new(options.reserved.clone()),
            prefixes: Prefixes::default(),
            // A few times what the cache can hold, so that a prefix is remembered for a while after it went.
            ghosts: Ghosts::new(4 * (options.pages + options.host_pages)),
            any_tenant: find::AnyTenantCounts::default(),
            running: RunningSet::new(options.page_tokens, options.min_prefix_tokens),
            prompts_only: false,
            moves: Vec::new(),
            stats: Stats::default(),
            evicted: Vec::new(),
            now: Duration::ZERO,
            pool,
            chain,
            options,
        })
    }

    /// From now on, publishes only the prompts that sequences are opened with, not what follows them: for models that
    /// compute generated tokens in another way than prompts, so that their keys and values differ in the last bits. A
    /// preempted sequence is then to be opened again with its prompt alone.
    #[must_use]
    pub fn with_prompts_only(mut self) -> Self {
        self.prompts_only = true;
        self
    }

    /// Whether [`Self::with_prompts_only`] was asked for.
    pub fn prompts_only(&self) -> bool {
        self.prompts_only
    }

    /// What is resident of a prompt. A snapshot: it counts as no use and may change before the prompt is opened.
    pub fn lookup(&self, request: &OpenRequest<'_>, now: Duration) -> Lookup {
        let _ = now; // Whatever is resident can be used, whether its retention has ended or not.
        let account = self.budgets.find(request.tenant);
        let walk = self.find(request, account);
        let coming = self.coming(request, account, u64::MAX, walk.matched);
        Lookup {
            resident: walk.matched,
            host: self.tokens_on_host(&walk),
            coming,
            miss: self.miss(request, account, &walk, coming),
        }
    }

    /// Takes hold of the resident prefix of a prompt. Never fails for lack of pages: what finds no room is not reused.
    pub fn open(&mut self, request: &OpenRequest<'_>, now: Duration) -> Opened {
        self.advance(now);
        let account = self.account(request.tenant);
        let walk = self.find(request, Some(account));
        let mut sequence = self.new_sequence(request, account);
        let coming = self.coming(request, Some(account), sequence.id, walk.matched);
        let mut miss = self.miss(request, Some(account), &walk, coming);
        let mut reason = miss.map(|miss| self.reason(request, account, &walk, miss));
        let held = self.hold(&walk, 0);
        if miss.is_none() && held.tokens < find::wanted(request) {
            // In host memory, without room to come back.
            (miss, reason) = (Some(Miss::Evicted), Some(MissReason::Evicted));
        }
        sequence.tokens.extend_from_slice(&request.prompt[..held.tokens]);
        sequence.pages = held.pages;
        sequence.published = held.published;
        self.hit_prefixes(&sequence, &walk, request.boundaries);
        self.count_open(request, held.tokens, reason);
        self.note(&sequence);
        Opened { resident: held.tokens, sequence, coming, moves: std::mem::take(&mut self.moves), miss }
    }

    /// Looks a sequence up again whose prompt isn't wholly computed and may meanwhile have been published by another;
    /// extends what it holds. `prompt` is the one it was opened with. If the resident count grew, what was reserved is
    /// given back: reserve again.
    pub fn refresh(&mut self, sequence: &mut Sequence, prompt: &[u32], now: Duration) -> Refreshed {
        self.advance(now);
        let boundaries = std::mem::take(&mut sequence.boundaries);
        let tenant = sequence.tenant.clone();
        let public_tokens = sequence.public_pages * self.options.page_tokens;
        let request = OpenRequest { tenant: &tenant, prompt, public_tokens, boundaries: &boundaries };
        let walk = self.find(&request, Some(sequence.account));
        if walk.matched > sequence.tokens.len() && walk.path.len() >= sequence.published {
            let held = self.hold(&walk, sequence.published);
            let tokens = held.tokens;
            if tokens > sequence.tokens.len() {
                for page in sequence.pages.split_off(sequence.published).into_iter().rev() {
                    self.release_page(page);
                }
                self.stats.hit_tokens += (tokens - sequence.tokens.len()) as u64;
                sequence.tokens.extend_from_slice(&prompt[sequence.tokens.len()..tokens]);
                sequence.pages.extend(held.pages);
                sequence.published += held.published;
                self.hit_prefixes(sequence, &walk, &boundaries);
            } else {
                for page in held.pages.into_iter().rev() {
                    self.release_page(page);
                }
            }
        }
        let coming = self.coming(&request, Some(sequence.account), sequence.id, sequence.tokens.len());
        sequence.boundaries = boundaries;
        self.note(sequence);
        Refreshed { resident: sequence.tokens.len(), coming, moves: std::mem::take(&mut self.moves) }
    }

    /// Makes room for the keys and values of `tokens` more positions than the sequence holds. Positions reserved
    /// earlier count. A last page that others can see is copied first.
    ///
    /// Free pages go first, then unretained ones, then retained ones beyond a budget, each by last use. Retained pages
    /// within budget go only if no other sequence holds pages: a sequence that is alone gets every page of the pool.
    pub fn reserve(&mut self, sequence: &mut Sequence, tokens: usize, now: Duration) -> Result<Vec<Move>, OutOfPages> {
        self.advance(now);
        let alone = self.running.is_alone(sequence.id);
        self.reserve_pages(sequence, tokens, alone)?;
        Ok(std::mem::take(&mut self.moves))
    }

    fn reserve_pages(&mut self, sequence: &mut Sequence, tokens: usize, alone: bool) -> Result<(), OutOfPages> {
        let page = self.options.page_tokens;
        let held = sequence.tokens.len();
        let wanted = (held + tokens).div_ceil(page);
        let last = held / page;
        let mut copy = tokens > 0 && !held.is_multiple_of(page) && self.is_shared(sequence.pages[last]);
        let needed = wanted.saturating_sub(sequence.pages.len()) + usize::from(copy);
        let out_of_pages = |available| OutOfPages { needed, available, total: self.options.pages };
        if wanted > self.options.pages {
            return Err(out_of_pages(self.pool.free()));
        }
        let mut taken = Vec::with_capacity(needed);
        while taken.len() < needed
            && let Some(page) = self.take_page(alone)
        {
            taken.push(page);
        }
        if copy && alone && taken.len() + 1 == needed && self.pool.references(sequence.pages[last]) == 1 {
            // The page to be copied takes the place of the copy: make it the sequence's own instead.
            self.unpublish(sequence.pages[last]);
            copy = false;
        } else if taken.len() < needed {
            let available = taken.len();
            taken.into_iter().for_each(|page| self.release_page(page));
            return Err(OutOfPages { needed, available, total: self.options.pages });
        }
        let mut taken = taken.into_iter();
        if copy && let Some(to) = taken.next() {
            let from = std::mem::replace(&mut sequence.pages[last], to);
            self.moves.push(Move::Copy { from, to, tokens: held % page });
            self.release_page(from);
        }
        sequence.pages.extend(taken);
        self.note(sequence);
        Ok(())
    }

    /// The keys and values of `tokens` were written behind what the sequence holds, in room reserved for them. Pages
    /// that are complete are published at once.
    pub fn commit(&mut self, sequence: &mut Sequence, tokens: &[u32], now: Duration) {
        self.advance(now);
        sequence.tokens.extend_from_slice(tokens);
        debug_assert!(
            sequence.tokens.len() <= sequence.pages.len() * self.options.page_tokens,
            "commit without reserve"
        );
        self.publish_complete(sequence);
        self.note(sequence);
    }

    /// Another sequence with the same tokens that shares every page. Pages reserved beyond the tokens stay with the
    /// first.
    pub fn fork(&mut self, sequence: &Sequence) -> Sequence {
        let pages = sequence.pages[..sequence.tokens.len().div_ceil(self.options.page_tokens)].to_vec();
        pages.iter().for_each(|&page| self.pool.acquire(page));
        let prompt = self.running.get(sequence.id).map_or_else(|| Arc::from([]), |running| running.prompt.clone());
        let (account, public_pages) = (sequence.account, sequence.public_pages);
        let running = Running { account, public_pages, prompt, tokens: sequence.tokens.len(), pages: pages.len() };
        Sequence {
            id: self.running.add(running),
            tenant: sequence.tenant.clone(),
            account,
            public_pages,
            boundaries: sequence.boundaries.clone(),
            tokens: sequence.tokens.clone(),
            pages,
            published: sequence.published,
            shareable: sequence.shareable,
            closed: false,
        }
    }

    /// Ends a sequence. The end of it is published, too, and its boundaries become retained prefixes. With `keep` false,
    /// after a failure, neither happens, and nothing stays that wasn't published before.
    pub fn close(&mut self, sequence: Sequence, keep: bool, now: Duration) {
        self.advance(now);
        self.end(sequence, keep, keep, None);
    }

    /// Ends a sequence to make room; it is to be opened again later. Its boundaries become retained prefixes as far as
    /// their pages are complete. What is published stays as long as nobody needs the pages.
    pub fn preempt(&mut self, sequence: Sequence, now: Duration) {
        self.advance(now);
        self.end(sequence, false, true, None);
    }

    /// Returns the name of the last boundary's prefix, if it was retained.
    fn end(&mut self, mut sequence: Sequence, publish: bool, retain: bool, left: Option<Duration>) -> Option<PrefixId> {
        sequence.closed = true;
        self.running.remove(sequence.id);
        let tail = if publish { self.publish_tail(&sequence) } else { None };
        let prefix = if retain { self.retain_boundaries(&sequence, tail, left) } else { None };
        for page in std::mem::take(&mut sequence.pages).into_iter().rev() {
            self.release_page(page);
        }
        prefix
    }

    /// Ends the retention of what was last used too long ago; other calls that take the time do the same. Returns how
    /// many pages are no longer retained. They stay as long as nobody needs them.
    pub fn expire(&mut self, now: Duration) -> usize {
        self.advance(now)
    }

    /// Counts.
    pub fn stats(&self) -> Stats {
        let (total, free, used) = (self.pool.total(), self.pool.free(), self.pool.used());
        Stats {
            total,
            free,
            used,
            cached: total - free - used,
            retained: self.budgets.retained(),
            host_total: self.host.total(),
            host_used: self.host.used(),
            sequences: self.running.len(),
            prefixes: self.prefixes.len(),
            ..self.stats.clone()
        }
    }

    /// Pages evicted since the last call; of very many the first ones.
    pub fn take_evicted(&mut self) -> Vec<Evicted> {
        std::mem::take(&mut self.evicted)
    }

    /// Lets time pass. Returns the number of pages whose retention ended.
    fn advance(&mut self, now: Duration) -> usize {
        self.now = self.now.max(now);
        self.expire_due()
    }

    fn account(&mut self, tenant: &edgewise_types::TenantId) -> AccountId {
        self.budgets.find(tenant).unwrap_or_else(|| {
            self.pool.add_account();
            self.budgets.add(tenant)
        })
    }

    fn new_sequence(&mut self, request: &OpenRequest<'_>, account: AccountId) -> Sequence {
        let public_pages = self.public_pages(request);
        let prompt = Arc::from(request.prompt);
        Sequence {
            id: self.running.add(Running { account, public_pages, prompt, tokens: 0, pages: 0 }),
            tenant: request.tenant.clone(),
            account,
            public_pages,
            boundaries: request.boundaries.to_vec(),
            tokens: Vec::new(),
            pages: Vec::new(),
            published: 0,
            shareable: if self.prompts_only { request.prompt.len() } else { usize::MAX },
            closed: false,
        }
    }

    fn public_pages(&self, request: &OpenRequest<'_>) -> usize {
        request.public_tokens.min(request.prompt.len()) / self.options.page_tokens
    }

    /// Tells the others what a sequence holds.
    fn note(&mut self, sequence: &Sequence) {
        self.running.note(sequence.id, sequence.tokens.len(), sequence.pages.len());
    }

    fn coming(&self, request: &OpenRequest<'_>, account: Option<AccountId>, before: u64, resident: usize) -> usize {
        if request.prompt.len() < self.options.min_prefix_tokens {
            return 0;
        }
        let (public_pages, tokens) = (self.public_pages(request), find::reusable(request.prompt));
        let coming = self.running.coming(&Waiting { account, public_pages, tokens, before });
        if coming > resident { coming } else { 0 }
    }

    fn node_of(&self, page: PageId) -> Option<NodeId> {
        self.pool.node(page)
    }

    /// Whether somebody else may read a page.
    fn is_shared(&self, page: PageId) -> bool {
        self.pool.references(page) > 1 || self.node_of(page).is_some()
    }

    fn tokens_on_host(&self, walk: &Walk) -> usize {
        let on_host = |&id: &NodeId| matches!(self.tree.node(id).place, Some(Place::Host(_)));
        let whole = walk.path.iter().rev().take_while(|id| on_host(id)).count() * self.options.page_tokens;
        whole + walk.part.filter(|(id, _)| on_host(id)).map_or(0, |(_, tokens)| tokens)
    }
}
