//! Who is above and below whom in a tree: plain data.

use std::collections::{HashMap, HashSet};

use edgewise_catalog::{Below, NodeRow, TreeShape};
use edgewise_types::{ChunkId, DocumentId};

/// A node's place.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) document: Option<DocumentId>,
    pub(crate) members: Vec<Below>,
}

/// The places of all nodes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shape {
    /// Lower levels first.
    order: Vec<NodeRow>,
    places: HashMap<NodeRow, Place>,
    parents: HashMap<Below, Vec<NodeRow>>,
}

impl From<TreeShape> for Shape {
    fn from(shape: TreeShape) -> Self {
        let mut made = Self::default();
        for node in shape.nodes {
            for member in &node.members {
                made.parents.entry(*member).or_default().push(node.row);
            }
            made.order.push(node.row);
            let place = Place { document: node.document, members: node.members };
            made.places.insert(node.row, place);
        }
        made
    }
}

impl Shape {
    pub(crate) fn place(&self, node: NodeRow) -> Option<&Place> {
        self.places.get(&node)
    }

    /// The nodes all of whose chunks `wanted` lets through, none of them gone.
    pub(crate) fn served(&self, wanted: impl Fn(ChunkId) -> bool) -> HashSet<NodeRow> {
        let mut served = HashSet::new();
        for node in &self.order {
            let below = |member: &Below| match member {
                Below::Chunk(chunk) => wanted(*chunk),
                Below::Node(node) => served.contains(node),
            };
            if self.place(*node).is_some_and(|place| !place.members.is_empty() && place.members.iter().all(below)) {
                served.insert(*node);
            }
        }
        served
    }

    /// Those of `among` that no other of them is above, lower levels first.
    pub(crate) fn highest(&self, among: &HashSet<NodeRow>) -> Vec<NodeRow> {
        let free = |node: &&NodeRow| {
            among.contains(node)
                && !self.parents.get(&Below::Node(**node)).is_some_and(|above| above.iter().any(|n| among.contains(n)))
        };
        self.order.iter().filter(free).copied().collect()
    }

    /// Every node above an item.
    pub(crate) fn above(&self, item: Below) -> HashSet<NodeRow> {
        let mut found = HashSet::new();
        let mut open = vec![item];
        while let Some(item) = open.pop() {
            for parent in self.parents.get(&item).into_iter().flatten() {
                if found.insert(*parent) {
                    open.push(Below::Node(*parent));
                }
            }
        }
        found
    }

    /// Everything below a node.
    pub(crate) fn below(&self, node: NodeRow) -> HashSet<Below> {
        let mut found = HashSet::new();
        let mut open = vec![node];
        while let Some(node) = open.pop() {
            for member in self.place(node).map(|place| place.members.as_slice()).unwrap_or_default() {
                if found.insert(*member)
                    && let Below::Node(node) = member
                {
                    open.push(*node);
                }
            }
        }
        found
    }

    /// How many chunks are below an item; 1 for a chunk.
    pub(crate) fn chunks(&self, item: Below) -> usize {
        match item {
            Below::Chunk(_) => 1,
            Below::Node(node) => self.below(node).iter().filter(|item| matches!(item, Below::Chunk(_))).count(),
        }
    }
}

/// What was taken so far, so that nothing is taken together with what is above or below it.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    items: HashSet<Below>,
    above: HashSet<NodeRow>,
    below: HashSet<Below>,
}

impl Taken {
    pub(crate) fn take(&mut self, shape: &Shape, item: Below) {
        self.items.insert(item);
        self.above.extend(shape.above(item));
        if let Below::Node(node) = item {
            self.below.extend(shape.below(node));
        }
    }

    /// Whether it was taken itself.
    pub(crate) fn has(&self, item: Below) -> bool {
        self.items.contains(&item)
    }

    /// Whether something above or below it was taken.
    pub(crate) fn related(&self, item: Below) -> bool {
        self.below.contains(&item) || matches!(item, Below::Node(node) if self.above.contains(&node))
    }
}
