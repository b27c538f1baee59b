//! Everything that must hold between the parts of a cache, counted anew.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::{
    KvCache, PageId, Place, Sequence,
    budget::PUBLIC,
    tree::{NodeId, ROOT},
};

impl KvCache {
    /// Checks the whole state, given the sequences that are open.
    pub(super) fn audit(&self, open: &[&Sequence]) {
        let stats = self.stats();
        assert_eq!(stats.free + stats.used + stats.cached, stats.total);
        assert_eq!(stats.sequences, open.len());

        let mut references = vec![0; stats.total];
        for sequence in open {
            sequence.pages.iter().for_each(|page| references[page.0 as usize] += 1);
            let running = self.running.get(sequence.id).unwrap();
            assert_eq!((running.tokens, running.pages), (sequence.tokens.len(), sequence.pages.len()));
            for (i, page) in sequence.pages[..sequence.published].iter().enumerate() {
                let id = self.node_of(*page).expect("a published page is in the tree");
                assert_eq!(self.tree.tokens(id), &sequence.tokens[i * PAGE..(i + 1) * PAGE]);
            }
        }
        let (mut free, mut used) = (0, 0);
        for page in (0..stats.total as u32).map(PageId) {
            assert_eq!(self.pool.references(page), references[page.0 as usize], "{page:?}");
            match (self.pool.references(page), self.node_of(page)) {
                (0, None) => {
                    assert!(self.pool.is_free(page));
                    free += 1;
                }
                (0, Some(id)) => assert!(self.pool.is_on(page, self.shelf(id)), "{page:?} is on the wrong shelf"),
                _ => used += 1,
            }
            if let Some(id) = self.node_of(page) {
                assert_eq!(self.tree.node(id).place, Some(Place::Device(page)));
            }
        }
        assert_eq!((free, used), (stats.free, stats.used));
        self.audit_tree();
    }

    fn audit_tree(&self) {
        let nodes: BTreeSet<NodeId> = self.tree.pages().collect();
        let mut reachable = BTreeSet::new();
        let mut children: BTreeMap<NodeId, u32> = BTreeMap::new();
        let mut retained: BTreeMap<_, usize> = BTreeMap::new();
        let mut retentions: BTreeMap<NodeId, [u32; 2]> = BTreeMap::new();
        for (id, prefix) in self.prefixes.iter() {
            assert!(self.tree.node(prefix.end).ends.contains(&id));
            for node in self.tree.back(prefix.end) {
                retentions.entry(node).or_default()[prefix.ttl.priority() as usize] += 1;
            }
        }
        let (mut on_host, mut gates) = (0, 0);
        let mut ends = 0;
        for id in self.tree.below(ROOT) {
            if id == ROOT {
                continue;
            }
            let node = self.tree.node(id);
            let sorted = node.children.windows(2).all(|pair| self.tree.tokens(pair[0]) < self.tree.tokens(pair[1]));
            assert!(sorted, "children out of order");
            if self.tree.is_gate(id) {
                assert!(node.place.is_none() && !node.children.is_empty(), "an empty gate");
                gates += 1;
                continue;
            }
            assert!(reachable.insert(id));
            assert!(self.tree.likely_child(id).is_none_or(|child| node.children.contains(&child)));
            assert!(node.children.is_empty() || self.tree.tokens(id).len() == PAGE);
            assert_eq!(node.retentions(), retentions.get(&id).copied().unwrap_or_default());
            ends += node.ends.len();
            match node.place.expect("a page is somewhere") {
                Place::Device(page) => {
                    assert_eq!(self.node_of(page), Some(id));
                    if let Some(before) = self.tree.page_before(id) {
                        *children.entry(before).or_default() += 1;
                        // What is left of a prefix on the device is its beginning.
                        assert!(matches!(self.tree.node(before).place, Some(Place::Device(_))));
                    }
                    *retained.entry(node.account).or_default() += usize::from(node.is_retained());
                }
                Place::Host(slot) => {
                    on_host += 1;
                    assert_eq!(self.host.holds(slot), Some((id, Some(node.is_retained()))));
                }
            }
            // Who may read a page is whose it is.
            let before = self.tree.node(node.parent);
            assert!(before.account == node.account || (node.parent == ROOT && node.account == PUBLIC));
        }
        assert_eq!(reachable, nodes, "pages that can't be found");
        assert_eq!(gates, self.tree.gate_count());
        assert_eq!(on_host, self.host.used());
        assert_eq!(ends, self.prefixes.len());
        for &id in &nodes {
            assert_eq!(self.tree.node(id).device_children, children.get(&id).copied().unwrap_or(0));
        }
        for account in self.budgets.all() {
            assert_eq!(self.budgets.retained_of(account), retained.get(&account).copied().unwrap_or(0));
        }
    }
}
