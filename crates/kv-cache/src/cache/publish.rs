//! Publication: pages that are complete become findable.

use std::time::Duration;

use crate::{
    Digest, KvCache, PageId, Place, Sequence,
    budget::{AccountId, PUBLIC},
    tree::{Found, NewNode, NodeId, ROOT},
};

impl KvCache {
    /// Publishes the complete pages of a sequence that aren't yet. A page that another sequence has published meanwhile
    /// is given back for the other's: keys and values depend on nothing but the tokens, bit for bit.
    pub(super) fn publish_complete(&mut self, sequence: &mut Sequence) {
        let page_tokens = self.options.page_tokens;
        if sequence.tokens.len() < self.options.min_prefix_tokens {
            return;
        }
        let end = sequence.tokens.len().min(sequence.shareable);
        while (sequence.published + 1) * page_tokens <= end {
            let index = sequence.published;
            let own = sequence.pages[index];
            let parent = self.parent(sequence, index);
            let tokens = &sequence.tokens[index * page_tokens..][..page_tokens];
            match self.tree.child(parent, tokens) {
                Found::Whole(id) => match self.tree.node(id).place {
                    Some(Place::Device(theirs)) if theirs != own => {
                        self.pool.acquire(theirs);
                        self.release_page(own);
                        sequence.pages[index] = theirs;
                    }
                    Some(Place::Host(slot)) => {
                        self.host.make_free(slot);
                        self.arrive(id, own);
                    }
                    _ => {}
                },
                beside => {
                    let account = if index < sequence.public_pages { PUBLIC } else { sequence.account };
                    let id = self.publish(parent, tokens, account, own);
                    self.supersede(beside, id);
                }
            }
            sequence.published += 1;
        }
    }

    /// Publishes the last, incomplete page of a sequence that ends, unless it ended within the public part, of which only
    /// whole pages are shared. Returns the node that holds the last tokens, this one or another.
    pub(super) fn publish_tail(&mut self, sequence: &Sequence) -> Option<NodeId> {
        let index = sequence.published;
        let end = sequence.tokens.len().min(sequence.shareable);
        let tokens = sequence.tokens.get(index * self.options.page_tokens..end).unwrap_or_default();
        let short = sequence.tokens.len() < self.options.min_prefix_tokens;
        let whole = tokens.len() >= self.options.page_tokens;
        if tokens.is_empty() || short || whole || index < sequence.public_pages {
            return None;
        }
        let own = sequence.pages[index];
        let parent = self.parent(sequence, index);
        match self.tree.child(parent, tokens) {
            // Somebody's page holds all of it. It needn't be held: it has children and retention of its own.
            Found::Part(id, common) if common == tokens.len() => Some(id),
            _ if self.node_of(own).is_some() => {
                self.tree.prune(parent);
                None
            }
            beside => {
                let id = self.publish(parent, tokens, sequence.account, own);
                self.supersede(beside, id);
                Some(id)
            }
        }
    }

    fn publish(&mut self, parent: NodeId, tokens: &[u32], account: AccountId, page: PageId) -> NodeId {
        let before = self.tree.node(parent);
        let digest = self.chain.page(&before.digest, tokens);
        let any_tenant = self.chain.any_tenant(&before.any_tenant, tokens);
        let id = self.tree.insert(NewNode { parent, tokens, account, digest, any_tenant, now: self.now });
        if account != PUBLIC {
            self.any_tenant.add(any_tenant);
        }
        self.ghosts.remove(&digest);
        self.arrive(id, page);
        id
    }

    /// Gives up an incomplete page that `by` begins with, if nobody is about to copy it.
    fn supersede(&mut self, beside: Found, by: NodeId) {
        let Found::Part(id, common) = beside else { return };
        if common != self.tree.tokens(id).len() {
            return;
        }
        let idle = match self.tree.node(id).place {
            Some(Place::Device(page)) => self.pool.references(page) == 0,
            _ => true,
        };
        if idle {
            for prefix in std::mem::take(&mut self.tree.node_mut(id).ends) {
                self.move_end(prefix, id, by);
            }
            let digest = self.tree.node(id).digest;
            self.drop_subtree(id);
            self.ghosts.remove(&digest); // Nothing was lost.
        }
    }

    /// The node below which a sequence's `index`-th page belongs. The pages before it are published.
    fn parent(&mut self, sequence: &Sequence, index: usize) -> NodeId {
        let before = index.checked_sub(1).and_then(|i| self.node_of(sequence.pages[i])).unwrap_or(ROOT);
        if index != sequence.public_pages {
            return before;
        }
        let account = sequence.account;
        self.tree.gate(before, account).unwrap_or_else(|| {
            let digest = self.chain.gate(&self.tree.node(before).digest, &sequence.tenant);
            self.tree.add_gate(before, account, digest, Duration::ZERO)
        })
    }

    /// The digest of the prefix that `path` holds, ready to be followed by one more page.
    pub(super) fn digest_before(
        &self,
        tenant: &edgewise_types::TenantId,
        account: Option<AccountId>,
        public_pages: usize,
        path: &[NodeId],
    ) -> Digest {
        let before = path.last().copied().unwrap_or(ROOT);
        let digest = self.tree.node(before).digest;
        if path.len() != public_pages {
            return digest;
        }
        match account.and_then(|account| self.tree.gate(before, account)) {
            Some(gate) => self.tree.node(gate).digest,
            None => self.chain.gate(&digest, tenant),
        }
    }
}
