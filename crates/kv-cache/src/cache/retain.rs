//! Retention: which prefixes are to stay, until when.

use std::time::Duration;

use crate::{
    Boundary, Digest, KvCache, PageId, Place, PrefixId, PrefixInfo, Priority, Sequence, Ttl,
    ghosts::Cause,
    prefixes::Prefix,
    tree::{NodeId, Walk},
};

impl KvCache {
    /// The retained prefixes, longest to live first.
    pub fn prefixes(&self, now: Duration) -> Vec<PrefixInfo> {
        let now = self.now.max(now);
        let alive = self.prefixes.iter().filter(|(_, prefix)| prefix.expires > now);
        let mut infos: Vec<PrefixInfo> = alive
            .map(|(id, prefix)| {
                let (mut pages, mut host_pages, mut parent) = (0, 0, None);
                for node in self.tree.back(prefix.end) {
                    // Nothing is said of other tenants, who may share public pages.
                    let own = |id: &&PrefixId| self.prefixes.get(**id).is_some_and(|p| p.account == prefix.account);
                    if parent.is_none() && node != prefix.end {
                        parent = self.tree.node(node).ends.iter().find(own).copied();
                    }
                    match self.tree.node(node).place {
                        Some(Place::Device(_)) => pages += 1,
                        Some(Place::Host(_)) => host_pages += 1,
                        None => {}
                    }
                }
                PrefixInfo {
                    id,
                    digest: prefix.digest,
                    parent,
                    // Prefixes belong to tenants, even those of public pages only.
                    tenant: self
                        .budgets
                        .tenant(prefix.account)
                        .cloned()
                        .unwrap_or_else(|| edgewise_types::TenantId("".into())),
                    tokens: prefix.at,
                    pages,
                    host_pages,
                    ttl: prefix.ttl,
                    left: prefix.expires - now,
                    hits: prefix.hits,
                    priority: prefix.ttl.priority(),
                }
            })
            .collect();
        infos.sort_by_key(|info| (std::cmp::Reverse(info.left), info.id));
        infos
    }

    /// Ends the retention of a prefix. Its pages stay as long as nobody needs them. False if there is no such prefix.
    pub fn release(&mut self, id: PrefixId) -> bool {
        self.end_retention(id, false).is_some()
    }

    pub(super) fn expire_due(&mut self) -> usize {
        let mut pages = 0;
        while let Some(id) = self.prefixes.due(self.now) {
            pages += self.end_retention(id, true).unwrap_or(0);
        }
        pages
    }

    /// Returns the number of pages that are no longer retained.
    fn end_retention(&mut self, id: PrefixId, expired: bool) -> Option<usize> {
        let prefix = self.prefixes.remove(id)?;
        self.tree.node_mut(prefix.end).ends.retain(|&end| end != id);
        let released = self.unretain_path(prefix.end, prefix.ttl.priority(), expired);
        if expired {
            // Looked at only once the pages are gone, too.
            self.ghosts.insert(prefix.digest, Cause::Expired);
        }
        Some(released)
    }

    /// Makes the boundaries of a sequence retained prefixes, or extends their time. `tail` is the node of its last,
    /// incomplete page. They get the time that is `left`, if given, rather than their full time. Returns the last one.
    pub(super) fn retain_boundaries(
        &mut self,
        sequence: &Sequence,
        tail: Option<NodeId>,
        left: Option<Duration>,
    ) -> Option<PrefixId> {
        let mut last = None;
        let page_tokens = self.options.page_tokens;
        let pages = &sequence.pages[..sequence.published];
        let path: Vec<NodeId> = pages.iter().filter_map(|&page| self.node_of(page)).collect();
        for &Boundary { at, ttl } in &sequence.boundaries {
            if at == 0 || at > sequence.tokens.len() || at < self.options.min_prefix_tokens {
                continue;
            }
            let index = (at - 1) / page_tokens;
            let tail = tail.filter(|_| index == path.len());
            let Some(end) = path.get(index).copied().or(tail).or(path.last().copied()) else { continue };
            let digest = self.prefix_digest(sequence, &path, &sequence.tokens[..at]);
            let expires = self.now + left.unwrap_or(ttl.duration());
            let known = self.prefixes.find(digest, sequence.account);
            let known = known.filter(|&id| self.is_prefix_of(id, at, &sequence.tokens[..at]));
            match known {
                Some(id) => self.renew(id, end, ttl, expires),
                None => {
                    let account = sequence.account;
                    let id = self.prefixes.insert(Prefix { account, digest, at, ttl, expires, hits: 0, end });
                    self.tree.node_mut(end).ends.push(id);
                    self.retain_path(end, ttl.priority());
                }
            }
            last = self.prefixes.find(digest, sequence.account);
        }
        last
    }

    /// The name of the prefix `tokens` of a sequence whose first whole pages are `path`.
    fn prefix_digest(&self, sequence: &Sequence, path: &[NodeId], tokens: &[u32]) -> Digest {
        let page_tokens = self.options.page_tokens;
        let whole = tokens.len() / page_tokens;
        let path = path.get(..whole).unwrap_or(path);
        match (&tokens[path.len() * page_tokens..], path.last()) {
            ([], Some(&last)) => self.tree.node(last).digest,
            (rest, _) => {
                let (account, public_pages) = (Some(sequence.account), sequence.public_pages);
                self.chain.page(&self.digest_before(&sequence.tenant, account, public_pages, path), rest)
            }
        }
    }

    /// Whether a prefix found by its digest is really these tokens, as far as it is held.
    fn is_prefix_of(&self, id: PrefixId, at: usize, tokens: &[u32]) -> bool {
        let Some(prefix) = self.prefixes.get(id) else { return false };
        let pages: Vec<NodeId> = self.tree.back(prefix.end).collect();
        let held = pages.iter().rev().flat_map(|&id| self.tree.tokens(id));
        prefix.at == at && held.zip(tokens).all(|(a, b)| a == b)
    }

    /// More time for a known prefix, and if need be a higher priority or another end.
    fn renew(&mut self, id: PrefixId, end: NodeId, ttl: Ttl, expires: Duration) {
        let Some(&old) = self.prefixes.get(id) else { return };
        let ttl = ttl.max(old.ttl);
        // What is held under the old end may be another page with the same beginning; one of them is enough.
        let end = if self.depth(old.end) >= self.depth(end) { old.end } else { end };
        if (old.end, old.ttl) != (end, ttl) {
            self.tree.node_mut(old.end).ends.retain(|&other| other != id);
            self.tree.node_mut(end).ends.push(id);
            // In this order, so that no page is let go in between.
            self.retain_path(end, ttl.priority());
            self.unretain_path(old.end, old.ttl.priority(), false);
        }
        self.prefixes.update(id, |prefix| {
            prefix.end = end;
            prefix.ttl = ttl;
            prefix.expires = prefix.expires.max(expires);
        });
    }

    fn depth(&self, id: NodeId) -> usize {
        self.tree.back(id).count()
    }

    /// A prefix that ended at `from` ends at `to` from now on, a page with the same beginning.
    pub(super) fn move_end(&mut self, id: PrefixId, from: NodeId, to: NodeId) {
        let Some(priority) = self.prefixes.get(id).map(|prefix| prefix.ttl.priority()) else { return };
        self.unretain_node(from, priority);
        self.retain_node(to, priority);
        self.tree.node_mut(to).ends.push(id);
        self.prefixes.update(id, |prefix| prefix.end = to);
    }

    /// Counts a use of every prefix of the tenant that a sequence has just been found to begin with.
    pub(super) fn hit_prefixes(&mut self, sequence: &Sequence, walk: &Walk, boundaries: &[Boundary]) {
        let held = sequence.tokens.len();
        let path = &walk.path[..sequence.published];
        let part = walk.part.map(|(id, _)| id).filter(|_| held > path.len() * self.options.page_tokens);
        // Of a whole page, also those that reached beyond it and have lost what came after.
        let mut found: Vec<PrefixId> = Vec::new();
        for &id in path {
            found.extend_from_slice(&self.tree.node(id).ends);
        }
        let ends = part.map_or(&[][..], |id| &self.tree.node(id).ends);
        found.extend(ends.iter().filter(|&&id| self.prefixes.get(id).is_some_and(|prefix| prefix.at <= held)));
        // One that ends in a page beside the last, with the same beginning.
        for &Boundary { at, .. } in boundaries.iter().filter(|boundary| boundary.at <= held && boundary.at > 0) {
            let digest = self.prefix_digest(sequence, path, &sequence.tokens[..at]);
            let known = self.prefixes.find(digest, sequence.account);
            found.extend(known.filter(|&id| self.is_prefix_of(id, at, &sequence.tokens[..at])));
        }
        found.sort_unstable();
        found.dedup();
        for id in found {
            let Some(prefix) = self.prefixes.get(id) else { continue };
            if prefix.account == sequence.account {
                let expires = self.now + prefix.ttl.duration();
                self.prefixes.update(id, |prefix| {
                    prefix.hits += 1;
                    prefix.expires = prefix.expires.max(expires);
                });
            }
        }
    }

    fn retain_path(&mut self, end: NodeId, priority: Priority) {
        let path: Vec<NodeId> = self.tree.back(end).collect();
        let mut hint = None;
        for id in path {
            self.retain_node(id, priority);
            hint = self.reshelve(id, hint);
        }
    }

    /// Returns the number of pages that are no longer retained.
    fn unretain_path(&mut self, end: NodeId, priority: Priority, expired: bool) -> usize {
        let path: Vec<NodeId> = self.tree.back(end).collect();
        let (mut released, mut hint) = (0, None);
        for id in path {
            if self.unretain_node(id, priority) {
                self.tree.node_mut(id).lapsed = expired;
                released += 1;
            }
            hint = self.reshelve(id, hint);
        }
        released
    }

    fn retain_node(&mut self, id: NodeId, priority: Priority) {
        let node = self.tree.node_mut(id);
        node.lapsed = false;
        if node.retain(priority) && matches!(node.place, Some(Place::Device(_))) {
            self.budgets.charge(node.account);
        }
    }

    /// True if the node is no longer retained.
    pub(super) fn unretain_node(&mut self, id: NodeId, priority: Priority) -> bool {
        let node = self.tree.node_mut(id);
        let last = node.unretain(priority);
        if last && matches!(node.place, Some(Place::Device(_))) {
            self.budgets.discharge(node.account);
        }
        last
    }

    /// Puts a page where its retention says. From the end of a prefix to its beginning, each page is the next one's hint.
    fn reshelve(&mut self, id: NodeId, hint: Option<PageId>) -> Option<PageId> {
        match self.tree.node(id).place {
            Some(Place::Device(page)) if self.pool.references(page) == 0 => {
                self.pool.reshelve(page, self.shelf(id), hint);
                Some(page)
            }
            Some(Place::Host(slot)) => {
                self.host.relist(slot, self.tree.node(id).is_retained());
                hint
            }
            _ => hint,
        }
    }
}
