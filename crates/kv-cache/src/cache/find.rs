//! Following a prompt through the tree, taking hold of what was found, and saying why the rest wasn't.

use std::collections::HashMap;

use crate::{
    KvCache, Miss, MissReason, Move, OpenRequest, PageId, Place,
    budget::AccountId,
    ghosts::Cause,
    identity::AnyTenant,
    tree::{Found, NodeId, Walk},
};

/// How many pages there are of a prefix, whoever may read them.
#[derive(Debug, Default)]
pub(super) struct AnyTenantCounts(HashMap<AnyTenant, u32>);

impl AnyTenantCounts {
    pub(super) fn add(&mut self, name: AnyTenant) {
        *self.0.entry(name).or_default() += 1;
    }

    pub(super) fn subtract(&mut self, name: AnyTenant) {
        if let Some(count) = self.0.get_mut(&name) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&name);
            }
        }
    }

    fn contains(&self, name: AnyTenant) -> bool {
        self.0.contains_key(&name)
    }
}

/// What [`KvCache::hold`] took hold of.
pub(super) struct Held {
    /// In the order of their positions. The last may be shared and only partly of use.
    pub(super) pages: Vec<PageId>,
    /// How many of `pages` are whole.
    pub(super) published: usize,
    /// Tokens of the walk that can be used.
    pub(super) tokens: usize,
}

/// A prompt without its last token, whose logits are needed.
pub(super) fn reusable(prompt: &[u32]) -> &[u32] {
    &prompt[..prompt.len().saturating_sub(1)]
}

impl KvCache {
    pub(super) fn find(&self, request: &OpenRequest<'_>, account: Option<AccountId>) -> Walk {
        let long_enough = request.prompt.len() >= self.options.min_prefix_tokens;
        let tokens = if long_enough { reusable(request.prompt) } else { &[] };
        self.tree.walk(account, self.public_pages(request), tokens)
    }

    /// Refers to the pages of a walk from the `skip`-th on, which need their predecessors held by the caller. Pages in
    /// host memory come back as long as pages are to be had without touching what is retained within budget.
    pub(super) fn hold(&mut self, walk: &Walk, skip: usize) -> Held {
        let page_tokens = self.options.page_tokens;
        let mut pages = Vec::with_capacity(walk.path.len() + 1 - skip);
        // First all references, so that making room for one page doesn't cost another.
        for &id in &walk.path[skip..] {
            match self.tree.node(id).place {
                Some(Place::Device(page)) => {
                    self.use_page(id, page);
                    pages.push(page);
                }
                Some(Place::Host(slot)) => self.host.pin(slot),
                None => {}
            }
        }
        if let Some((id, _)) = walk.part {
            match self.tree.node(id).place {
                Some(Place::Device(page)) => self.use_page(id, page),
                Some(Place::Host(slot)) => self.host.pin(slot),
                None => {}
            }
        }
        let back = &walk.path[skip + pages.len()..];
        let returned =
            back.iter().take_while(|&&id| self.bring_back(id).map(|page| pages.push(page)).is_some()).count();
        for &id in back[returned..].iter().rev() {
            self.unpin(id);
        }
        let mut tokens = (skip + pages.len()) * page_tokens;
        let published = pages.len();
        if let Some((id, part)) = walk.part {
            let complete = returned == back.len();
            match self.tree.node(id).place {
                Some(Place::Device(page)) if complete => {
                    pages.push(page);
                    tokens += part;
                }
                Some(Place::Device(page)) => self.release_page(page),
                Some(Place::Host(slot)) => {
                    // A copy for the sequence alone; the page itself stays where it is.
                    if let Some(page) = complete.then(|| self.take_page(false)).flatten() {
                        self.moves.push(Move::FromHost { slot, page });
                        self.stats.from_host += 1;
                        pages.push(page);
                        tokens += part;
                    }
                    self.unpin(id);
                }
                None => {}
            }
        }
        Held { pages, published, tokens }
    }

    /// One more reference to a published page that was found.
    fn use_page(&mut self, id: NodeId, page: PageId) {
        self.pool.acquire(page);
        self.tree.prefer(id);
        let now = self.now;
        let node = self.tree.node_mut(id);
        (node.last_used, node.reused, node.lapsed) = (now, true, false);
    }

    /// Moves a pinned page from host memory to the device, with one reference.
    fn bring_back(&mut self, id: NodeId) -> Option<PageId> {
        let Some(Place::Host(slot)) = self.tree.node(id).place else { return None };
        let page = self.take_page(false)?;
        self.moves.push(Move::FromHost { slot, page });
        self.stats.from_host += 1;
        self.host.make_free(slot);
        self.arrive(id, page);
        let now = self.now;
        let node = self.tree.node_mut(id);
        (node.last_used, node.reused, node.lapsed) = (now, true, false);
        Some(page)
    }

    fn unpin(&mut self, id: NodeId) {
        let node = self.tree.node(id);
        if let Some(Place::Host(slot)) = node.place {
            self.host.unpin(slot, node.is_retained(), self.now);
        }
    }

    /// Why what was found isn't all of the stable prefix. Says nothing that depends on other tenants' private pages.
    pub(super) fn miss(
        &self,
        request: &OpenRequest<'_>,
        account: Option<AccountId>,
        walk: &Walk,
        coming: usize,
    ) -> Option<Miss> {
        let wanted = wanted(request);
        if walk.matched >= wanted {
            return None;
        }
        if request.prompt.len() < self.options.min_prefix_tokens {
            return Some(Miss::BelowMinimum);
        }
        if coming > walk.matched {
            return Some(Miss::InFlight);
        }
        match self.ghost(request, account, walk, wanted) {
            Some(Cause::Expired) => return Some(Miss::Expired),
            Some(Cause::Evicted) => return Some(Miss::Evicted),
            None => {}
        }
        if walk.diverged {
            let token = walk.matched;
            let segment = request.boundaries.iter().filter(|boundary| boundary.at <= token).count();
            return Some(Miss::DivergedAt { token, segment });
        }
        Some(Miss::NeverWritten)
    }

    /// What became of the page after the last whole one: as a page, or as the end of a retained prefix.
    fn ghost(
        &self,
        request: &OpenRequest<'_>,
        account: Option<AccountId>,
        walk: &Walk,
        wanted: usize,
    ) -> Option<Cause> {
        let start = walk.path.len() * self.options.page_tokens;
        let parent = self.digest_before(request.tenant, account, self.public_pages(request), &walk.path);
        let rest = &request.prompt[start..];
        let page = rest.get(..self.options.page_tokens).and_then(|tokens| {
            // A page that holds the last token of a prompt may have been written by a longer one.
            self.ghosts.get(&self.chain.page(&parent, tokens))
        });
        page.or_else(|| {
            let end = wanted - start;
            (end < self.options.page_tokens).then(|| self.ghosts.get(&self.chain.page(&parent, &rest[..end]))).flatten()
        })
    }

    /// The reason to count a miss under.
    pub(super) fn reason(&self, request: &OpenRequest<'_>, account: AccountId, walk: &Walk, miss: Miss) -> MissReason {
        match miss {
            Miss::NeverWritten | Miss::DivergedAt { .. } if self.is_with_another(request, account, walk) => {
                MissReason::OtherTenant
            }
            _ => miss.reason(),
        }
    }

    /// Whether the next page is another tenant's. For the operator's statistics only.
    fn is_with_another(&self, request: &OpenRequest<'_>, account: AccountId, walk: &Walk) -> bool {
        let start = walk.path.len() * self.options.page_tokens;
        let Some(tokens) = request.prompt.get(start..start + self.options.page_tokens) else { return false };
        // The tenant's own page of these tokens would have been found, unless it ends the prompt.
        let own = self.tree.gate(walk.end, account).unwrap_or(walk.end);
        !matches!(self.tree.child(own, tokens), Found::Whole(_))
            && self.any_tenant.contains(self.chain.any_tenant(&self.tree.node(walk.end).any_tenant, tokens))
    }

    pub(super) fn count_open(&mut self, request: &OpenRequest<'_>, resident: usize, reason: Option<MissReason>) {
        self.stats.opened += 1;
        self.stats.prompt_tokens += request.prompt.len() as u64;
        self.stats.hit_tokens += resident as u64;
        if let Some(reason) = reason {
            let count = &mut self.stats.misses[reason as usize];
            count.prompts += 1;
            count.tokens += (wanted(request) - resident) as u64;
        }
    }
}

/// Tokens of the stable prefix: up to the last boundary, or everything that could be reused if there is none.
pub(super) fn wanted(request: &OpenRequest<'_>) -> usize {
    let all = reusable(request.prompt).len();
    request.boundaries.iter().map(|boundary| boundary.at).max().map_or(all, |at| at.min(all))
}
