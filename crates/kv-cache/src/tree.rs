//! The prefix tree: one node per published page, below the node of the page before it.
//!
//! Pages that all tenants share hang below the root. Where the public part of a prompt ends, a *gate* node without a page
//! leads on to one tenant's private pages; nothing else does, so a walk for one tenant can't reach another's. A prompt
//! without public part passes the gate at the root.
//!
//! Children are sorted by their tokens. The longest common beginning with any child is therefore one with a neighbour of
//! the place where the tokens would go, so that look-up needs no hash and finds partial matches, too. A node of fewer
//! tokens than a page (the end of a closed sequence) has no children.
//!
//! Deliberately not here: what happens to pages. The fields of [`Node`] that belong to eviction and retention are kept
//! by the cache.

use std::{cmp::Ordering, collections::HashMap, time::Duration};

use crate::{
    Digest, Place, PrefixId, Priority,
    budget::{AccountId, PUBLIC},
    identity::AnyTenant,
};

/// Index of a node. Reused once the node is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeId(u32);

/// The empty prefix. Always there.
pub(crate) const ROOT: NodeId = NodeId(0);

/// A page and what is known of it.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) children: Vec<NodeId>,
    length: u32,
    /// Where its page is; none for the root and for gates.
    pub(crate) place: Option<Place>,
    /// Prefixes whose last page it is.
    pub(crate) ends: Vec<PrefixId>,
    pub(crate) parent: NodeId,
    pub(crate) account: AccountId,
    /// Children, or children of gates below, with a page on the device.
    pub(crate) device_children: u32,
    /// Prefixes it is part of, by priority.
    retained: [u32; 2],
    /// Its retention ended by expiry and it wasn't used since.
    pub(crate) lapsed: bool,
    /// It was found after it was published.
    pub(crate) reused: bool,
    pub(crate) digest: Digest,
    pub(crate) any_tenant: AnyTenant,
    pub(crate) published: Duration,
    pub(crate) last_used: Duration,
}

impl Node {
    fn new(parent: NodeId, account: AccountId, digest: Digest, any_tenant: AnyTenant, now: Duration) -> Self {
        Self {
            children: Vec::new(),
            length: 0,
            place: None,
            ends: Vec::new(),
            parent,
            account,
            device_children: 0,
            retained: [0; 2],
            lapsed: false,
            reused: false,
            digest,
            any_tenant,
            published: now,
            last_used: now,
        }
    }

    /// The highest priority it is retained with.
    pub(crate) fn priority(&self) -> Option<Priority> {
        match self.retained {
            [0, 0] => None,
            [_, 0] => Some(Priority::Normal),
            _ => Some(Priority::High),
        }
    }

    pub(crate) fn is_retained(&self) -> bool {
        self.retained != [0; 2]
    }

    /// Counts one more prefix that it is part of. True if it is the first.
    pub(crate) fn retain(&mut self, priority: Priority) -> bool {
        let first = !self.is_retained();
        self.retained[priority as usize] += 1;
        first
    }

    /// Counts one prefix less. True if it was the last.
    pub(crate) fn unretain(&mut self, priority: Priority) -> bool {
        self.retained[priority as usize] -= 1;
        !self.is_retained()
    }

    /// Prefixes it is part of, by priority.
    #[cfg(test)]
    pub(crate) fn retentions(&self) -> [u32; 2] {
        self.retained
    }

    fn is_gate(&self) -> bool {
        self.length == 0
    }
}

/// What a new node needs.
pub(crate) struct NewNode<'a> {
    pub(crate) parent: NodeId,
    pub(crate) tokens: &'a [u32],
    pub(crate) account: AccountId,
    pub(crate) digest: Digest,
    pub(crate) any_tenant: AnyTenant,
    pub(crate) now: Duration,
}

/// The children of a node, searched for some tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// A whole page of exactly these tokens.
    Whole(NodeId),
    /// A page with the longest common beginning, of so many tokens.
    Part(NodeId, usize),
    /// No child has the first token.
    Nothing,
}

/// How far a prompt can be followed.
#[derive(Debug)]
pub(crate) struct Walk {
    /// The nodes of its whole pages.
    pub(crate) path: Vec<NodeId>,
    /// Where the walk ended: the last of the path, or the root, or the gate behind it.
    pub(crate) end: NodeId,
    /// A page below `end` that begins with the next so many tokens.
    pub(crate) part: Option<(NodeId, usize)>,
    /// Tokens followed.
    pub(crate) matched: usize,
    /// Whether something else is held where the prompt goes on.
    pub(crate) diverged: bool,
}

/// The tree.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: Vec<Node>,
    /// The nodes' tokens, `page` for each node, so that a walk reads them in one sweep.
    tokens: Vec<u32>,
    page: usize,
    /// For each node, the whole page below it that was last added or found; the root, which is below nothing, if there is
    /// none. With the tokens all that a walk along a well-trodden path reads.
    likely: Vec<NodeId>,
    vacant: Vec<NodeId>,
    gates: HashMap<(NodeId, AccountId), NodeId>,
}

impl Tree {
    /// A tree of pages of `page` tokens.
    pub(crate) fn new(page: usize, root: Digest) -> Self {
        let root = Node::new(ROOT, PUBLIC, root, AnyTenant::default(), Duration::ZERO);
        Self {
            nodes: vec![root],
            tokens: vec![0; page],
            page,
            likely: vec![ROOT],
            vacant: Vec::new(),
            gates: HashMap::new(),
        }
    }

    pub(crate) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    pub(crate) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The tokens of its page.
    pub(crate) fn tokens(&self, id: NodeId) -> &[u32] {
        let start = id.0 as usize * self.page;
        &self.tokens[start..start + self.node(id).length as usize]
    }

    /// The node of the page before.
    pub(crate) fn page_before(&self, id: NodeId) -> Option<NodeId> {
        let parent = self.node(id).parent;
        let before = if self.node(parent).is_gate() { self.node(parent).parent } else { parent };
        (before != ROOT).then_some(before)
    }

    /// The nodes of a prefix from its last page to its first.
    pub(crate) fn back(&self, from: NodeId) -> impl Iterator<Item = NodeId> {
        std::iter::successors(Some(from), |&id| self.page_before(id))
    }

    /// Looks for `want`, at most a page of tokens, among the children of `parent`.
    pub(crate) fn child(&self, parent: NodeId, want: &[u32]) -> Found {
        let likely = self.likely[parent.0 as usize];
        let start = likely.0 as usize * self.page;
        if likely != ROOT && self.tokens[start..start + self.page] == *want {
            return Found::Whole(likely);
        }
        let children = &self.node(parent).children;
        let at = children.partition_point(|&child| self.tokens(child).cmp(want) != Ordering::Greater);
        let before = at.checked_sub(1).map(|before| children[before]);
        if let Some(before) = before
            && want.len() == self.page
            && self.tokens(before) == want
        {
            return Found::Whole(before);
        }
        let neighbours = before.into_iter().chain(children.get(at).copied());
        let longest = neighbours.map(|child| (common(self.tokens(child), want), child)).max_by_key(|&(n, _)| n);
        match longest {
            Some((n, child)) if n > 0 => Found::Part(child, n),
            _ => Found::Nothing,
        }
    }

    /// Follows `tokens`, of which `public_pages` whole pages are public, as far as they are held.
    pub(crate) fn walk(&self, account: Option<AccountId>, public_pages: usize, tokens: &[u32]) -> Walk {
        let mut walk = Walk { path: Vec::new(), end: ROOT, part: None, matched: 0, diverged: false };
        walk.path.reserve(tokens.len() / self.page);
        loop {
            if walk.path.len() == public_pages && !self.node(walk.end).is_private_gate() {
                match account.and_then(|account| self.gate(walk.end, account)) {
                    Some(gate) => walk.end = gate,
                    None => return walk,
                }
            }
            let rest = &tokens[walk.matched..];
            if rest.is_empty() {
                return walk;
            }
            let want = &rest[..self.page.min(rest.len())];
            match self.child(walk.end, want) {
                Found::Whole(child) => {
                    walk.path.push(child);
                    walk.matched += self.page;
                    walk.end = child;
                }
                Found::Part(child, n) => {
                    walk.part = Some((child, n));
                    walk.matched += n;
                    walk.diverged = n < self.node(child).length as usize && n < want.len();
                    return walk;
                }
                Found::Nothing => {
                    walk.diverged = walk.matched > 0 && !self.node(walk.end).children.is_empty();
                    return walk;
                }
            }
        }
    }

    pub(crate) fn gate(&self, before: NodeId, account: AccountId) -> Option<NodeId> {
        self.gates.get(&(before, account)).copied()
    }

    pub(crate) fn add_gate(&mut self, before: NodeId, account: AccountId, digest: Digest, now: Duration) -> NodeId {
        let node = Node::new(before, account, digest, self.node(before).any_tenant, now);
        let id = self.add(node, &[]);
        self.gates.insert((before, account), id);
        id
    }

    /// Whether it is a gate, and hasn't been removed.
    pub(crate) fn is_gate(&self, id: NodeId) -> bool {
        self.gate(self.node(id).parent, self.node(id).account) == Some(id)
    }

    /// Adds a page. It has no place yet.
    pub(crate) fn insert(&mut self, new: NewNode<'_>) -> NodeId {
        let NewNode { parent, tokens, account, digest, any_tenant, now } = new;
        let id = self.add(Node::new(parent, account, digest, any_tenant, now), tokens);
        let at = self.node(parent).children.partition_point(|&child| self.tokens(child) < tokens);
        self.node_mut(parent).children.insert(at, id);
        self.prefer(id);
        id
    }

    /// The node was added or found: it is the first to be looked at below its parent.
    pub(crate) fn prefer(&mut self, id: NodeId) {
        if self.node(id).length as usize == self.page {
            let parent = self.node(id).parent;
            self.likely[parent.0 as usize] = id;
        }
    }

    fn add(&mut self, mut node: Node, tokens: &[u32]) -> NodeId {
        node.length = tokens.len() as u32;
        let id = match self.vacant.pop() {
            Some(id) => {
                self.nodes[id.0 as usize] = node;
                self.likely[id.0 as usize] = ROOT;
                id
            }
            None => {
                self.nodes.push(node);
                self.likely.push(ROOT);
                self.tokens.resize(self.nodes.len() * self.page, 0);
                NodeId(self.nodes.len() as u32 - 1)
            }
        };
        let start = id.0 as usize * self.page;
        self.tokens[start..start + tokens.len()].copy_from_slice(tokens);
        id
    }

    /// The node and everything below it, gates included, parents before children.
    pub(crate) fn below(&self, id: NodeId) -> Vec<NodeId> {
        let mut found = vec![id];
        let mut next = 0;
        while let Some(&node) = found.get(next) {
            found.extend_from_slice(&self.node(node).children);
            if self.node(node).account == PUBLIC {
                // Rare: public pages are few, and given up last.
                found.extend(self.gates.iter().filter(|((before, _), _)| *before == node).map(|(_, &gate)| gate));
            }
            next += 1;
        }
        found
    }

    /// Removes a node without children, and the gate before it if that leads nowhere else.
    pub(crate) fn remove(&mut self, id: NodeId) {
        debug_assert!(self.node(id).children.is_empty(), "removed from the middle of the tree");
        let Node { parent, account, .. } = *self.node(id);
        if self.node(id).is_gate() {
            self.gates.remove(&(parent, account));
        } else {
            let tokens = self.tokens(id);
            let children = &self.node(parent).children;
            let at = children.partition_point(|&child| self.tokens(child) < tokens);
            debug_assert_eq!(children.get(at), Some(&id), "children out of order");
            self.node_mut(parent).children.remove(at);
            if self.likely[parent.0 as usize] == id {
                self.likely[parent.0 as usize] = ROOT;
            }
        }
        let node = self.node_mut(id);
        node.length = 0;
        node.place = None;
        self.vacant.push(id);
        self.prune(parent);
    }

    /// Removes a gate that leads nowhere.
    pub(crate) fn prune(&mut self, id: NodeId) {
        if self.is_gate(id) && self.node(id).children.is_empty() {
            self.remove(id);
        }
    }

    /// Nodes with a page.
    #[cfg(test)]
    pub(crate) fn pages(&self) -> impl Iterator<Item = NodeId> {
        (1..self.nodes.len() as u32).map(NodeId).filter(|&id| !self.node(id).is_gate())
    }

    /// The first to be looked at.
    #[cfg(test)]
    pub(crate) fn likely_child(&self, id: NodeId) -> Option<NodeId> {
        Some(self.likely[id.0 as usize]).filter(|&child| child != ROOT)
    }

    /// Gates.
    #[cfg(test)]
    pub(crate) fn gate_count(&self) -> usize {
        self.gates.len()
    }
}

impl Node {
    /// A gate rather than the root.
    fn is_private_gate(&self) -> bool {
        self.is_gate() && self.account != PUBLIC
    }
}

/// Leading tokens that two sequences have in common.
pub(crate) fn common(a: &[u32], b: &[u32]) -> usize {
    // Whole blocks first: comparing for equality is vectorised, looking for the difference is not.
    const BLOCK: usize = 64;
    let equal = a.chunks_exact(BLOCK).zip(b.chunks_exact(BLOCK)).take_while(|(a, b)| a == b).count() * BLOCK;
    equal + a[equal..].iter().zip(&b[equal..]).take_while(|(a, b)| a == b).count()
}
