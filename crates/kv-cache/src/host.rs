//! The host tier: slots for pages that had to leave the device but are worth keeping.
//!
//! A page is on the device or in a slot, never both. Slots are given up oldest first, those of unretained pages before
//! those of retained ones. A slot in neither list is pinned: its page is on its way back.

use std::time::Duration;

use crate::{HostSlot, list::Lists, tree::NodeId};

const FREE: u32 = 0;
const UNRETAINED: u32 = 1;
const RETAINED: u32 = 2;

fn list(retained: bool) -> u32 {
    if retained { RETAINED } else { UNRETAINED }
}

/// The slots.
#[derive(Debug)]
pub(crate) struct Host {
    nodes: Vec<Option<NodeId>>,
    lists: Lists,
}

impl Host {
    pub(crate) fn new(slots: usize) -> Self {
        let mut lists = Lists::new(slots, 3);
        for slot in 0..slots as u32 {
            lists.push(FREE, slot, Duration::ZERO);
        }
        Self { nodes: vec![None; slots], lists }
    }

    pub(crate) fn total(&self) -> usize {
        self.lists.entries()
    }

    pub(crate) fn used(&self) -> usize {
        self.total() - self.lists.length(FREE)
    }

    /// A free slot, now holding `node`'s page.
    pub(crate) fn take(&mut self, node: NodeId, retained: bool, now: Duration) -> Option<HostSlot> {
        let slot = self.lists.pop_first(FREE)?;
        self.nodes[slot as usize] = Some(node);
        self.lists.push(list(retained), slot, now);
        Some(HostSlot(slot))
    }

    /// What has to go for another page: an unretained one, or a retained one for a retained one.
    pub(crate) fn victim(&self, for_retained: bool) -> Option<NodeId> {
        let unretained = self.lists.iter(UNRETAINED).next();
        let slot = unretained.or_else(|| for_retained.then(|| self.lists.iter(RETAINED).next()).flatten())?;
        self.nodes[slot as usize]
    }

    pub(crate) fn make_free(&mut self, slot: HostSlot) {
        self.nodes[slot.0 as usize] = None;
        self.lists.remove(slot.0);
        self.lists.push_first(FREE, slot.0);
    }

    /// Keeps a slot from being given up.
    pub(crate) fn pin(&mut self, slot: HostSlot) {
        self.lists.remove(slot.0);
    }

    /// Ends [`Self::pin`].
    pub(crate) fn unpin(&mut self, slot: HostSlot, retained: bool, now: Duration) {
        self.lists.push(list(retained), slot.0, now);
    }

    /// The page's retention began or ended.
    pub(crate) fn relist(&mut self, slot: HostSlot, retained: bool) {
        if self.lists.list_of(slot.0).is_some_and(|at| at != list(retained)) {
            let stamp = self.lists.stamp(slot.0);
            self.lists.remove(slot.0);
            self.lists.insert(list(retained), slot.0, stamp, None);
        }
    }

    /// What a slot holds, and whether its list says retained; none of a free slot.
    #[cfg(test)]
    pub(crate) fn holds(&self, slot: HostSlot) -> Option<(NodeId, Option<bool>)> {
        let node = self.nodes[slot.0 as usize]?;
        Some((node, self.lists.list_of(slot.0).map(|list| list == RETAINED)))
    }
}
