//! Builds the tree of a document, and the layers above documents, from nothing or on from a former tree.
//!
//! One layer upon another is clustered and summarised until one member is left: the root. A summary is looked up by what
//! it would be made from before it is made, and stored as soon as it is, so that whatever ended a build, the next one goes
//! on from there and makes nothing twice.
//!
//! Invariants:
//! - Equal leaves, options and summariser give equal nodes, whatever was stored before; a former tree may give other
//!   clusters, never a node that does not summarise exactly its members.
//! - Every leaf is below the root. Every build ends: each layer of new clusters is smaller than the one below it.
//! - A former tree whose members all are still there is returned unchanged.

use std::collections::HashSet;

use edgewise_model_api::{Embedder, Tokenizer};
use edgewise_types::{LeafId, Member, SummaryKey, TreeScope};

use crate::{
    Cluster, ClusterOptions, DocumentLeaves, Effort, FormerCluster, Halt, LayerOptions, Node, Points, RootMember,
    StoreError, Summariser, Summary, SummaryLimits, TreeError, TreePart, layer, make::Real, past::Past,
};

/// Keeps summaries by what they were made from. An answered `put` is durable.
pub trait SummaryStore: Sync {
    /// The summary of this key.
    ///
    /// # Errors
    /// [`StoreError`] if it can't be told whether there is one.
    fn get(&self, key: &SummaryKey) -> Result<Option<Summary>, StoreError>;

    /// Keeps a summary.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it is kept.
    fn put(&self, summary: &Summary) -> Result<(), StoreError>;

    /// Keeps several, as by [`Self::put`] one after another.
    ///
    /// # Errors
    /// As [`Self::put`]; some may be kept then.
    fn put_all(&self, summaries: &[Summary]) -> Result<(), StoreError> {
        summaries.iter().try_for_each(|summary| self.put(summary))
    }
}

/// What a build is about to do or has done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum BuildEvent<'a> {
    /// A layer was clustered.
    Clustered {
        /// Whose.
        scope: &'a TreeScope,
        /// The layer, from 0.
        layer: u32,
        /// Its members.
        members: usize,
        /// Nodes above them.
        nodes: usize,
    },
    /// A summary is about to be made.
    Before {
        /// Whose.
        scope: &'a TreeScope,
        /// Members it is made from.
        members: usize,
        /// What it is expected to take.
        expected: Effort,
    },
    /// A summary was made and stored.
    Made {
        /// Whose.
        scope: &'a TreeScope,
        /// It.
        summary: &'a Summary,
    },
    /// A summary was found in the store.
    Kept {
        /// Whose.
        scope: &'a TreeScope,
        /// It.
        summary: &'a Summary,
    },
    /// A summariser waits for something. Comes several times a second meanwhile.
    Waiting,
}

/// Follows a build, and holds or ends it.
pub trait Control: Sync {
    /// Told of every event. May block for as long as the build is to pause.
    ///
    /// # Errors
    /// Whatever ends the build here. Everything made until then is stored.
    fn step(&self, event: BuildEvent<'_>) -> Result<(), Halt>;
}

/// Lets a build run to its end.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unattended;

impl Control for Unattended {
    fn step(&self, _: BuildEvent<'_>) -> Result<(), Halt> {
        Ok(())
    }
}

/// How trees are shaped, beyond the limits of the summariser.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TreeOptions {
    /// Clustering and upkeep of a layer. The most members and the most weight, which is in the generator's tokens, are at
    /// most those of the summariser's limits.
    pub layer: LayerOptions,
}

/// Builds trees.
#[derive(Clone, Copy)]
pub struct TreeBuilder<'a> {
    /// Makes summaries.
    pub summariser: &'a dyn Summariser,
    /// Embeds them. The members' embeddings are of the same one.
    pub embedder: &'a dyn Embedder,
    /// The generator's.
    pub tokenizer: &'a dyn Tokenizer,
    /// Shape.
    pub options: TreeOptions,
    /// Keeps them.
    pub store: &'a dyn SummaryStore,
    /// Follows.
    pub control: &'a dyn Control,
}

/// A member of a layer while it is built.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) member: Member,
    pub(crate) headings: Vec<String>,
    pub(crate) text: String,
    pub(crate) embedding: Vec<f32>,
    pub(crate) tokens: usize,
    pub(crate) level: u32,
    /// Whether text and embedding are what they will be, not an estimate.
    pub(crate) known: bool,
}

/// Makes the summaries of a layer, or says what they would be.
pub(crate) trait Maker {
    /// One for each cluster: key, text, embedding, tokens, and whether these are known.
    fn make(&mut self, scope: &TreeScope, title: &str, clusters: &[Vec<&Entry>]) -> Result<Vec<Made>, TreeError>;
}

/// What a [`Maker`] gives.
pub(crate) struct Made {
    pub(crate) key: SummaryKey,
    pub(crate) text: String,
    pub(crate) embedding: Vec<f32>,
    pub(crate) tokens: usize,
    pub(crate) known: bool,
}

impl TreeBuilder<'_> {
    /// The tree of a document, on from the one it had.
    ///
    /// # Errors
    /// [`TreeError`]; what was stored before it is kept.
    pub fn document(&self, document: &DocumentLeaves, former: Option<&TreePart>) -> Result<TreePart, TreeError> {
        let scope = TreeScope::Document(document.document.clone());
        let (part, _) = self.grow(&scope, &document.title, leaves(document), &[], former, &mut Real(self))?;
        Ok(part)
    }

    /// The layers above documents, on from those there were.
    ///
    /// # Errors
    /// [`TreeError`]; what was stored before it is kept.
    pub fn collection(&self, roots: &[RootMember], former: Option<&TreePart>) -> Result<TreePart, TreeError> {
        let entries: Vec<Entry> = roots.iter().map(|root| root_entry(root, true)).collect();
        let (part, _) =
            self.grow(&TreeScope::Collection, "", entries, &replaced(roots.iter()), former, &mut Real(self))?;
        Ok(part)
    }

    /// The limits that hold: of the summariser and of the options.
    pub(crate) fn layer_options(&self) -> LayerOptions {
        let SummaryLimits { members, source_tokens, .. } = self.summariser.limits();
        let cluster = self.options.layer.cluster;
        let most_members = cluster.most_members.min(members.max(2));
        let cluster = ClusterOptions {
            most_members,
            least_members: cluster.least_members.min(most_members),
            most_weight: cluster.most_weight.min(source_tokens),
            ..cluster
        };
        LayerOptions { cluster, ..self.options.layer }
    }

    /// What decides the text and the vector of a summary of these members.
    pub(crate) fn key(&self, title: &str, members: &[&Entry]) -> SummaryKey {
        let (identity, limits) = (self.summariser.identity(), self.summariser.limits());
        let limits = [limits.tokens, limits.members, limits.source_tokens].map(|limit| (limit as u64).to_le_bytes());
        let headings: Vec<String> =
            members.iter().map(|member| serde_json::Value::from(member.headings.clone()).to_string()).collect();
        let fixed =
            [identity.as_bytes(), self.embedder.info().digest.as_bytes(), limits.as_flattened(), title.as_bytes()];
        let texts =
            members.iter().zip(&headings).flat_map(|(member, headings)| [headings.as_bytes(), member.text.as_bytes()]);
        SummaryKey::of(fixed.into_iter().chain(texts))
    }

    /// Layer upon layer over `entries` until one is left. `replaced` names members of the former tree's lowest layer and
    /// those that stand in their place now.
    pub(crate) fn grow(
        &self,
        scope: &TreeScope,
        title: &str,
        entries: Vec<Entry>,
        replaced: &[(Member, Member)],
        former: Option<&TreePart>,
        maker: &mut dyn Maker,
    ) -> Result<(TreePart, Option<Entry>), TreeError> {
        let expected = self.embedder.info().dimension;
        if let Some(entry) = entries.iter().find(|entry| entry.embedding.len() != expected) {
            return Err(TreeError::Dimension { expected, found: entry.embedding.len() });
        }
        let options = self.layer_options();
        let mut past = Past::new(former, &entries, replaced);
        let changed = past.changed;
        let mut part = TreePart { changed, ..TreePart::default() };
        // Every member there has been so far, since a former cluster may name one from further below.
        let mut all: Vec<Entry> = entries;
        let mut current: Vec<usize> = (0..all.len()).collect();
        for layer in 0.. {
            let former = past.clusters(&mut current);
            if current.len() <= 1 && former.is_empty() {
                break;
            }
            let values: Vec<f32> = current.iter().flat_map(|at| all[*at].embedding.iter().copied()).collect();
            let points = Points::from_f32(&values, current.len(), expected)?;
            drop(values);
            let weights: Vec<usize> = current.iter().map(|at| all[*at].tokens).collect();
            let (clusters, from) = if former.is_empty() {
                past.forget();
                let found = layer::full(&points, &weights, &options)?.clusters;
                (layer::shrinking(found, &weights, &options.cluster), Vec::new())
            } else {
                let lists: Vec<FormerCluster> = former.iter().map(|(_, cluster)| cluster.clone()).collect();
                let came_and_went = if layer == 0 { changed } else { past.unsettled(&lists, current.len()) };
                let found = layer::update(&points, &weights, &lists, came_and_went, &options)?;
                if found.full {
                    past.forget();
                    (layer::shrinking(found.clusters, &weights, &options.cluster), Vec::new())
                } else {
                    (found.clusters, found.from)
                }
            };
            if layer == 0 && from.is_empty() {
                part.changed = 0;
            }
            let mut next = Vec::new();
            let mut made_of: Vec<(usize, Vec<usize>)> = Vec::new();
            let mut successors: Vec<(Option<usize>, usize)> = Vec::new();
            for (number, Cluster { members }) in clusters.iter().enumerate() {
                let origin = from.get(number).copied().flatten();
                let members: Vec<usize> = members.iter().map(|row| current[*row]).collect();
                match members.as_slice() {
                    [one] => {
                        next.push(*one);
                        successors.push((origin, *one));
                    }
                    _ => {
                        let at = all.len() + made_of.len();
                        next.push(at);
                        successors.push((origin, at));
                        made_of.push((at, members));
                    }
                }
            }
            let nodes = made_of.len();
            self.control.step(BuildEvent::Clustered { scope, layer, members: current.len(), nodes })?;
            let sources: Vec<Vec<&Entry>> =
                made_of.iter().map(|(_, members)| members.iter().map(|at| &all[*at]).collect()).collect();
            let made = maker.make(scope, title, &sources)?;
            let entries: Vec<Entry> = sources
                .iter()
                .zip(made)
                .map(|(members, made)| {
                    let level = 1 + members.iter().map(|member| member.level).max().unwrap_or(0);
                    let ids = members.iter().map(|member| member.member).collect();
                    let node = Node::new(scope.clone(), level, ids, made.key);
                    let member = Member::Node(node.id);
                    part.nodes.push(node);
                    let headings = common(members.iter().map(|member| member.headings.as_slice()));
                    let Made { text, embedding, tokens, known, .. } = made;
                    Entry { member, headings, text, embedding, tokens, level, known }
                })
                .collect();
            all.extend(entries);
            for (origin, at) in successors {
                if let Some((Some(old), _)) = origin.and_then(|origin| former.get(origin)) {
                    past.go_on(*old, at);
                }
            }
            // A cluster may come out twice, kept and new; its node is one.
            let mut seen = HashSet::new();
            next.retain(|at| seen.insert(all[*at].member));
            current = next;
        }
        part.nodes.sort_by_key(|node| (node.level, node.id));
        part.nodes.dedup();
        let root = current.first().map(|at| all[*at].clone());
        part.root = root.as_ref().map(|root| root.member);
        Ok((part, root))
    }
}

/// The entries of a document's leaves.
pub(crate) fn leaves(document: &DocumentLeaves) -> Vec<Entry> {
    let entry = |leaf: &crate::Leaf| Entry {
        member: Member::Leaf(leaf.id),
        headings: leaf.heading_path.clone(),
        text: leaf.text.clone(),
        embedding: leaf.embedding.clone(),
        tokens: leaf.tokens,
        level: 0,
        known: true,
    };
    let mut seen: HashSet<LeafId> = HashSet::new();
    document.leaves.iter().filter(|leaf| seen.insert(leaf.id)).map(entry).collect()
}

pub(crate) fn root_entry(root: &RootMember, known: bool) -> Entry {
    Entry {
        member: root.member,
        headings: Some(root.title.clone()).filter(|title| !title.is_empty()).into_iter().collect(),
        text: root.text.clone(),
        embedding: root.embedding.clone(),
        tokens: root.tokens,
        level: root.level,
        known,
    }
}

pub(crate) fn replaced<'a>(roots: impl Iterator<Item = &'a RootMember>) -> Vec<(Member, Member)> {
    roots.filter_map(|root| Some((root.former?, root.member))).collect()
}

/// The longest path that all of these begin with.
pub(crate) fn common<'a>(mut paths: impl Iterator<Item = &'a [String]>) -> Vec<String> {
    let mut shared = paths.next().unwrap_or(&[]);
    for path in paths {
        let same = shared.iter().zip(path).take_while(|(a, b)| a == b).count();
        shared = &shared[..same];
    }
    shared.to_vec()
}
