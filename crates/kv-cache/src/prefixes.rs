//! The table of retained prefixes and the order in which they expire.
//!
//! Deliberately not here: what a prefix's pages are, and why this is no cache library; see the crate's documentation.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use crate::{Digest, PrefixId, Ttl, budget::AccountId, tree::NodeId};

/// A retained prefix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prefix {
    pub(crate) account: AccountId,
    pub(crate) digest: Digest,
    /// Its length.
    pub(crate) at: usize,
    pub(crate) ttl: Ttl,
    pub(crate) expires: Duration,
    pub(crate) hits: u64,
    /// The node of its last page, or of the last one that is left.
    pub(crate) end: NodeId,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct Prefixes {
    table: BTreeMap<PrefixId, Prefix>,
    /// Two tenants may retain the same public prefix.
    by_digest: HashMap<(Digest, AccountId), PrefixId>,
    queue: BTreeSet<(Duration, PrefixId)>,
    last: u64,
}

impl Prefixes {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (PrefixId, &Prefix)> {
        self.table.iter().map(|(&id, prefix)| (id, prefix))
    }

    pub(crate) fn get(&self, id: PrefixId) -> Option<&Prefix> {
        self.table.get(&id)
    }

    pub(crate) fn find(&self, digest: Digest, account: AccountId) -> Option<PrefixId> {
        self.by_digest.get(&(digest, account)).copied()
    }

    pub(crate) fn insert(&mut self, prefix: Prefix) -> PrefixId {
        self.last += 1;
        let id = PrefixId(self.last);
        self.by_digest.insert((prefix.digest, prefix.account), id);
        self.queue.insert((prefix.expires, id));
        self.table.insert(id, prefix);
        id
    }

    /// Changes anything but the digest and the account.
    pub(crate) fn update(&mut self, id: PrefixId, change: impl FnOnce(&mut Prefix)) {
        if let Some(prefix) = self.table.get_mut(&id) {
            self.queue.remove(&(prefix.expires, id));
            change(prefix);
            self.queue.insert((prefix.expires, id));
        }
    }

    pub(crate) fn remove(&mut self, id: PrefixId) -> Option<Prefix> {
        let prefix = self.table.remove(&id)?;
        self.queue.remove(&(prefix.expires, id));
        // A prefix that was told apart from one of the same digest by its tokens has taken the place in the map.
        if self.find(prefix.digest, prefix.account) == Some(id) {
            self.by_digest.remove(&(prefix.digest, prefix.account));
        }
        Some(prefix)
    }

    /// A prefix whose time has come.
    pub(crate) fn due(&self, now: Duration) -> Option<PrefixId> {
        self.queue.first().filter(|&&(expires, _)| expires <= now).map(|&(_, id)| id)
    }
}
