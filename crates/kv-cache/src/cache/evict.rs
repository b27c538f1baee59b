//! Making room: which cached page goes, and where to.
//!
//! Order: unretained pages, then pages of accounts over their budget, then, as a last resort for a sequence that is alone
//! in the pool, any retained page; within each by priority and last use. A page goes only if no page behind it is on the
//! device, so what is left of a prefix is always its beginning.

use std::time::Duration;

use crate::{
    Evicted, KvCache, Move, PageId, Place, PrefixId, Priority,
    budget::{AccountId, PUBLIC},
    ghosts::Cause,
    pool::Shelf,
    tree::NodeId,
};

/// Evictions that are remembered until somebody asks for them; more are only counted.
const MOST_TOLD: usize = 8192;

/// Under what rule a page is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rule {
    Unretained,
    OverBudget,
    LastResort,
}

impl KvCache {
    /// A page with one reference. With `last_resort`, retained pages within budget are evicted, too.
    pub(super) fn take_page(&mut self, last_resort: bool) -> Option<PageId> {
        if self.pool.free() == 0 {
            let (id, page, rule) = self.victim(last_resort)?;
            self.evict(id, page, rule);
        }
        self.pool.take()
    }

    fn victim(&self, last_resort: bool) -> Option<(NodeId, PageId, Rule)> {
        let unretained = self.oldest(Shelf::Unretained).map(|(id, page, _)| (id, page, Rule::Unretained));
        unretained.or_else(|| self.least(self.budgets.over()).map(|(id, page)| (id, page, Rule::OverBudget))).or_else(
            || {
                last_resort
                    .then(|| self.least(self.budgets.all()))
                    .flatten()
                    .map(|(id, page)| (id, page, Rule::LastResort))
            },
        )
    }

    /// The retained page that matters least among those of some accounts.
    fn least(&self, accounts: impl Iterator<Item = AccountId>) -> Option<(NodeId, PageId)> {
        let of_account = |account| {
            let of = |priority| {
                let (id, page, stamp) = self.oldest(Shelf::Retained(account, priority))?;
                Some((priority, stamp, id, page))
            };
            of(Priority::Normal).or_else(|| of(Priority::High))
        };
        accounts
            .filter_map(of_account)
            .min_by_key(|&(priority, stamp, ..)| (priority, stamp))
            .map(|(.., id, page)| (id, page))
    }

    /// The least recently used page on a shelf with nothing behind it. That is the first one, except where public pages
    /// have private ones behind them, which are on other shelves.
    fn oldest(&self, shelf: Shelf) -> Option<(NodeId, PageId, Duration)> {
        self.pool.shelf(shelf).find_map(|(page, stamp)| {
            let id = self.node_of(page)?;
            (self.tree.node(id).device_children == 0).then_some((id, page, stamp))
        })
    }

    fn evict(&mut self, id: NodeId, page: PageId, rule: Rule) {
        let node = self.tree.node(id);
        let (idle, residency) = (self.now.saturating_sub(node.last_used), self.now.saturating_sub(node.published));
        self.stats.idle_before_eviction.add(idle);
        self.stats.residency.add(residency);
        if self.evicted.len() < MOST_TOLD {
            self.evicted.push(Evicted { idle, residency });
        }
        let evictions = &mut self.stats.evictions;
        *match rule {
            Rule::Unretained if node.lapsed => &mut evictions.expired,
            Rule::Unretained => &mut evictions.unretained,
            Rule::OverBudget => &mut evictions.over_budget,
            Rule::LastResort => &mut evictions.within_budget,
        } += 1;
        let (retained, worth_keeping) = (node.is_retained(), node.is_retained() || node.reused);
        self.depart(id, page);
        self.pool.make_free(page);
        let slot = if worth_keeping { self.host_slot(id, retained) } else { None };
        match slot {
            Some(slot) => {
                self.tree.node_mut(id).place = Some(Place::Host(slot));
                self.moves.push(Move::ToHost { page, slot });
                self.stats.to_host += 1;
            }
            None => self.drop_subtree(id),
        }
    }

    fn host_slot(&mut self, id: NodeId, retained: bool) -> Option<crate::HostSlot> {
        if self.host.total() == self.host.used() {
            let victim = self.host.victim(retained)?;
            self.drop_subtree(victim);
        }
        self.host.take(id, retained, self.now)
    }

    /// The node's page is on the device from now on.
    pub(super) fn arrive(&mut self, id: NodeId, page: PageId) {
        self.pool.set_node(page, Some(id));
        if let Some(before) = self.tree.page_before(id) {
            self.tree.node_mut(before).device_children += 1;
        }
        let node = self.tree.node_mut(id);
        node.place = Some(Place::Device(page));
        if node.is_retained() {
            self.budgets.charge(node.account);
        }
    }

    /// The node's page isn't on the device any more.
    fn depart(&mut self, id: NodeId, page: PageId) {
        self.pool.set_node(page, None);
        if let Some(before) = self.tree.page_before(id) {
            self.tree.node_mut(before).device_children -= 1;
        }
        let node = self.tree.node_mut(id);
        node.place = None;
        if node.is_retained() {
            self.budgets.discharge(node.account);
        }
    }

    /// Forgets a node and everything behind it, none of which is referred to.
    pub(super) fn drop_subtree(&mut self, id: NodeId) {
        for id in self.tree.below(id).into_iter().rev() {
            for prefix in std::mem::take(&mut self.tree.node_mut(id).ends) {
                self.shorten_prefix(prefix, id);
            }
            match self.tree.node(id).place {
                Some(Place::Device(page)) => {
                    self.depart(id, page);
                    self.pool.make_free(page);
                }
                Some(Place::Host(slot)) => {
                    self.host.make_free(slot);
                    self.stats.host_evictions += 1;
                }
                None => {}
            }
            self.forget(id);
        }
    }

    /// Takes a page that only one sequence refers to out of the tree. What the sequence holds stays as it is.
    pub(super) fn unpublish(&mut self, page: PageId) {
        let Some(id) = self.node_of(page) else { return };
        self.depart(id, page);
        self.drop_subtree(id);
    }

    /// Removes a node without page, children and retention.
    fn forget(&mut self, id: NodeId) {
        let node = self.tree.node(id);
        let is_gate = self.tree.tokens(id).is_empty();
        debug_assert!(!node.is_retained(), "forgotten while retained");
        if !is_gate {
            self.ghosts.insert(node.digest, if node.lapsed { Cause::Expired } else { Cause::Evicted });
            if node.account != PUBLIC {
                self.any_tenant.subtract(node.any_tenant);
            }
        }
        // The last page behind a gate takes the gate with it; a gate among what is dropped is empty by now.
        if !is_gate || self.tree.is_gate(id) {
            self.tree.remove(id);
        }
    }

    /// A prefix that ended at `id` ends at the page before from now on, or is no more.
    fn shorten_prefix(&mut self, prefix: PrefixId, id: NodeId) {
        let Some(&held) = self.prefixes.get(prefix) else { return };
        self.unretain_node(id, held.ttl.priority());
        self.ghosts.insert(held.digest, Cause::Evicted);
        match self.tree.page_before(id) {
            Some(before) => {
                self.tree.node_mut(before).ends.push(prefix);
                self.prefixes.update(prefix, |prefix| prefix.end = before);
            }
            None => {
                self.prefixes.remove(prefix);
            }
        }
    }

    /// One reference to a page less.
    pub(super) fn release_page(&mut self, page: PageId) {
        if self.pool.release(page) {
            match self.node_of(page) {
                None => self.pool.make_free(page),
                Some(id) => {
                    self.pool.shelve(page, self.shelf(id), self.now);
                    self.tree.node_mut(id).last_used = self.now;
                }
            }
        }
    }

    pub(super) fn shelf(&self, id: NodeId) -> Shelf {
        let node = self.tree.node(id);
        node.priority().map_or(Shelf::Unretained, |priority| Shelf::Retained(node.account, priority))
    }
}
