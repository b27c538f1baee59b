//! The former tree while a new one goes on from it: which of its clusters stand at a layer, and who stands in the place of
//! their members.
//!
//! Layers of the former tree are told by height: one more than the largest height of the members that are nodes of the
//! same part. A member that the former tree had passed to a higher layer waits in a cluster of its own until then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use edgewise_types::{Member, NodeId};

use crate::{FormerCluster, Node, TreePart, builder::Entry};

/// See the module.
pub(crate) struct Past<'a> {
    /// Former nodes by height, from 1.
    layers: BTreeMap<usize, Vec<&'a Node>>,
    /// For members of the former tree, the entries that stand in their place.
    now: HashMap<Member, Vec<usize>>,
    /// Members of the lowest layer that came or went, with those of earlier changes; one in the place of another is one.
    pub(crate) changed: usize,
}

impl<'a> Past<'a> {
    pub(crate) fn new(former: Option<&'a TreePart>, entries: &[Entry], replaced: &[(Member, Member)]) -> Self {
        let mut past = Self { layers: BTreeMap::new(), now: HashMap::new(), changed: 0 };
        let Some(former) = former.filter(|former| !former.nodes.is_empty()) else { return past };
        let own: HashSet<Member> = former.nodes.iter().map(|node| Member::Node(node.id)).collect();
        let members = former.nodes.iter().flat_map(|node| &node.members);
        let lowest: BTreeSet<Member> = members.filter(|member| !own.contains(member)).copied().collect();
        let at: HashMap<Member, usize> = entries.iter().enumerate().map(|(at, entry)| (entry.member, at)).collect();
        let instead: HashMap<Member, Member> = replaced.iter().copied().collect();
        for member in &lowest {
            if let Some(at) = at.get(member).or_else(|| at.get(instead.get(member)?)) {
                past.now.insert(*member, vec![*at]);
            }
        }
        let stayed: HashSet<usize> = past.now.values().flatten().copied().collect();
        let (went, came) = (lowest.len() - past.now.len(), entries.len() - stayed.len());
        past.changed = former.changed + went.max(came);
        // Members stand before what summarises them, by level.
        let mut nodes: Vec<&Node> = former.nodes.iter().collect();
        nodes.sort_by_key(|node| node.level);
        let mut heights: HashMap<Member, usize> = HashMap::new();
        for node in nodes {
            let below = node.members.iter().filter_map(|member| heights.get(member)).max().copied();
            let height = 1 + below.unwrap_or(0);
            heights.insert(Member::Node(node.id), height);
            past.layers.entry(height).or_default().push(node);
        }
        past
    }

    /// From here on, clusters are made from nothing.
    pub(crate) fn forget(&mut self) {
        self.layers.clear();
    }

    /// The clusters of the next former layer, as rows of `current`, with the nodes they are of; none if there is no such
    /// layer. Their members that are not in `current`, but stand further below, join it.
    pub(crate) fn clusters(&mut self, current: &mut Vec<usize>) -> Vec<(Option<NodeId>, FormerCluster)> {
        let Some((_, nodes)) = self.layers.pop_first() else { return Vec::new() };
        let mut rows: HashMap<usize, usize> = current.iter().enumerate().map(|(row, at)| (*at, row)).collect();
        let mut clusters: Vec<(Option<NodeId>, FormerCluster)> = Vec::new();
        for node in nodes {
            let shrunk = node.members.iter().any(|member| !self.now.contains_key(member));
            let mut members = Vec::new();
            for at in node.members.iter().filter_map(|member| self.now.get(member)).flatten() {
                members.push(*rows.entry(*at).or_insert_with(|| {
                    current.push(*at);
                    current.len() - 1
                }));
            }
            members.sort_unstable();
            members.dedup();
            clusters.push((Some(node.id), FormerCluster { members, shrunk }));
        }
        let placed: HashSet<usize> = clusters.iter().flat_map(|(_, cluster)| cluster.members.iter().copied()).collect();
        let known: HashSet<usize> = self.now.values().flatten().copied().collect();
        let waiting = current.iter().enumerate().filter(|(row, at)| !placed.contains(row) && known.contains(at));
        clusters.extend(waiting.map(|(row, _)| (None, FormerCluster { members: vec![row], shrunk: false })));
        clusters
    }

    /// Members of a layer above the lowest that no former cluster holds, or clusters that lost some if these are more.
    pub(crate) fn unsettled(&self, former: &[FormerCluster], rows: usize) -> usize {
        let placed: HashSet<usize> = former.iter().flat_map(|cluster| cluster.members.iter().copied()).collect();
        (rows - placed.len()).max(former.iter().filter(|cluster| cluster.shrunk).count())
    }

    /// The entry at `at` stands in the place of a former node now.
    pub(crate) fn go_on(&mut self, node: NodeId, at: usize) {
        self.now.entry(Member::Node(node)).or_default().push(at);
    }
}
