//! Searching chunks and summaries together, under a budget of tokens.
//!
//! - **One ranking.** Both arms are read over chunks and over nodes. A node's cosine and BM25 are comparable with a chunk's,
//!   so the two are fused as one list, exactly as chunks are.
//! - **Collapsed** (the default): every node of every level competes with every chunk. **Traversal**: from the highest nodes
//!   down, keeping the nearest few of each layer; what was reached competes.
//! - **Breadth** says how much the question is about the whole, 0 to 1. Up to 0.5 it takes back a prior against summaries
//!   (see `select`). From 0.5 on, a growing share of the budget, all of it at 1, goes to nodes that together cover the scope
//!   (see `cover`), whatever words the question has. What matches is taken first, with the other share.
//! - **No budget is left unused** while there is text that fits: summaries that were taken give way to what they are of.
//! - **Focus**: a question about the whole of something names it. Where few documents of many match far better than the
//!   others, and the question has much of the title of one of them, these are the whole that is covered. Words in a text
//!   name nothing: "What is this all about, as a whole?" must not be narrowed to the document that happens to say "whole".
//! - **Nothing stale.** A node is considered only if every chunk below it is live and in the scope, and its text is read
//!   together with its chunks in one transaction: a summary of deleted text is never returned.
//!
//! Deliberately not here: deciding how broad a question is, rerankers, prompts.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Instant,
};

use edgewise_catalog::{Below, NodeRow};
use edgewise_types::{Chunk, ChunkId, DocumentId};

use super::{
    Picked, TreeIndex, TreeMode, TreePick, TreeResults, TreeSearchRequest, TreeStanding,
    cover::{Terrain, cover},
    index::{key, row},
    select::{Candidate, Choice, select},
    shape::Taken,
};
use crate::{
    Arm, ArmScore, Collection, RetrievalError, SearchRequest,
    error::of,
    fusion::fuse,
    search::{Embedded, profile_fusion},
    state::State,
    vectors::VectorsGuard,
};

/// Chunks and nodes are read to four times this depth in each arm.
const POOL: usize = 64;

/// Marks a node among chunk ids while both are in one ranking: ids count from 1 and never come near.
const NODE_BIT: u64 = 1 << 63;

/// Similar texts make way for different ones by this much where all of a question is about the whole, which is better told
/// without repetition. A detail is where it is, twice or not: up to a breadth of 0.5 nothing makes way.
const DIVERSITY_OF_THE_WHOLE: f32 = 0.3;

/// Documents whose best matches reach this share of those of the best document are what a broad question is about, …
const FOCUS_REACH: f32 = 0.75;
/// … provided that they are at most one in this many of those that match at all, …
const FOCUS_SHARE: usize = 4;
/// … and that the question has this share of the title of one of them, by the weight of its words.
const FOCUS_TITLE: f32 = 0.5;
/// So many matches of a document count for it.
const FOCUS_MATCHES: usize = 3;

/// Most nodes of a layer that a traversal goes on from.
const MAX_BEAM: usize = 64;

impl Collection {
    /// What there is of a summary tree.
    pub fn tree_standing(&self) -> Result<TreeStanding, RetrievalError> {
        self.standing(&*self.current()?)
    }

    fn standing(&self, state: &State) -> Result<TreeStanding, RetrievalError> {
        let found = state.catalog().tree_standing().map_err(of(self.name()))?;
        Ok(TreeStanding {
            version: found.version.0,
            nodes: found.nodes,
            without: found.without,
            collection_current: found.collection_current,
        })
    }

    /// The chunks and summaries that answer a question best within a budget. Without a tree, chunks alone, and a note.
    ///
    /// # Errors
    /// As of [`Self::search`].
    pub fn search_tree(&self, request: &TreeSearchRequest) -> Result<TreeResults, RetrievalError> {
        validate(request)?;
        let plain = SearchRequest {
            filter: request.filter.clone(),
            documents: request.documents.clone(),
            ..SearchRequest::new(request.query.clone(), POOL)
        };
        let state = self.ready(&plain)?;
        let standing = self.standing(&state)?;
        let tree = state.tree()?;
        let (arms, embedded) = self.read_arms(&state, &plain)?;
        let start = Instant::now();
        let scope = self.scope(&state, &plain)?;
        let vectors = state.vectors();
        let served =
            tree.shape.served(|chunk| vectors.live(chunk) && scope.as_ref().is_none_or(|scope| scope.contains(&chunk)));
        let mut field = Field {
            collection: self,
            state: &state,
            tree: &tree,
            vectors: &vectors,
            served: &served,
            query: &embedded,
            asked: &request.query,
            relevance: HashMap::new(),
            lexical: HashMap::new(),
            vector: HashMap::new(),
            chunks: HashMap::new(),
        };
        field.rank(request, arms.lexical, arms.vector)?;
        let picked = field.pick(request)?;
        let picks = field.load(picked)?;
        let mut notes = arms.notes;
        notes.extend(standing.note(self.name().as_str()));
        Ok(TreeResults {
            tokens: picks.iter().map(|pick| pick.tokens).sum(),
            picks,
            standing,
            embed_ms: arms.embed_ms,
            lexical_ms: arms.lexical_ms,
            vector_ms: arms.vector_ms,
            select_ms: start.elapsed().as_secs_f64() * 1000.0,
            generation: arms.generation,
            notes,
        })
    }
}

/// One search at work.
struct Field<'s> {
    collection: &'s Collection,
    state: &'s State,
    tree: &'s TreeIndex,
    vectors: &'s VectorsGuard<'s>,
    served: &'s HashSet<NodeRow>,
    query: &'s Embedded,
    /// The question.
    asked: &'s str,
    /// 0 to 1, of what came up in an arm.
    relevance: HashMap<Below, f32>,
    lexical: HashMap<Below, ArmScore>,
    vector: HashMap<Below, ArmScore>,
    /// Chunks that were read.
    chunks: HashMap<ChunkId, Chunk>,
}

fn name(item: Below) -> ChunkId {
    match item {
        Below::Chunk(chunk) => chunk,
        Below::Node(node) => ChunkId(node.0 | NODE_BIT),
    }
}

fn item(name: ChunkId) -> Below {
    if name.0 & NODE_BIT == 0 { Below::Chunk(name) } else { Below::Node(NodeRow(name.0 & !NODE_BIT)) }
}

impl Field<'_> {
    /// Puts chunks and nodes in one ranking.
    fn rank(&mut self, request: &TreeSearchRequest, lexical: Arm, vector: Arm) -> Result<(), RetrievalError> {
        let depth = 4 * POOL;
        let fail = of(self.collection.name());
        let wanted = |name: ChunkId| self.served.contains(&row(name));
        let mut nodes =
            self.tree.vectors.search(&self.query.vector, depth, Some(&wanted)).map_err(of(self.collection.name()))?;
        nodes.retain(|hit| self.served.contains(&row(hit.chunk)));
        let mut vector_hits: BTreeMap<ChunkId, f32> = vector.hits.iter().copied().collect();
        vector_hits.extend(nodes.iter().map(|hit| (name(Below::Node(row(hit.chunk))), hit.score)));
        let mut lexical_hits: BTreeMap<ChunkId, f32> = lexical.hits.iter().copied().collect();
        let mut exhausted = lexical.exhausted;
        if let Some(index) = self.state.lexical() {
            let found = self
                .tree
                .lexical
                .search(&index, Default::default(), &request.query, depth, Some(&wanted))
                .map_err(fail)?;
            exhausted &= found.len() < depth;
            lexical_hits.extend(found.iter().map(|hit| (name(Below::Node(row(hit.chunk))), hit.score)));
        }
        // What one arm alone brought up has a cosine too, and it is at hand.
        for found in lexical_hits.keys() {
            if let std::collections::btree_map::Entry::Vacant(entry) = vector_hits.entry(*found)
                && let Some(cosine) = cosine(self.tree, self.vectors, self.query, item(*found))
            {
                entry.insert(cosine);
            }
        }
        let arm = |hits: BTreeMap<ChunkId, f32>, exhausted| Arm { hits: hits.into_iter().collect(), exhausted };
        let method = profile_fusion(self.state.profile());
        let fused = fuse(method, &arm(lexical_hits, exhausted), &arm(vector_hits, true));
        let (Some(first), Some(last)) = (fused.first(), fused.last()) else { return Ok(()) };
        let (best, range) = (first.score, first.score - last.score);
        for hit in &fused {
            let item = item(hit.chunk);
            let relevance = if range > 0.0 { 1.0 - (best - hit.score) / range } else { 1.0 };
            self.relevance.insert(item, relevance);
            self.lexical.extend(hit.lexical.map(|score| (item, score)));
            self.vector.extend(hit.vector.map(|score| (item, score)));
        }
        Ok(())
    }

    /// What is taken, with its score.
    fn pick(&mut self, request: &TreeSearchRequest) -> Result<Vec<(Below, f32)>, RetrievalError> {
        let shape = &self.tree.shape;
        if let TreeMode::Traversal { beam } = request.mode {
            self.descend(beam);
        }
        let mut pool: Vec<Below> = self.relevance.keys().copied().collect();
        pool.sort_by(|a, b| self.relevance[b].total_cmp(&self.relevance[a]).then(a.cmp(b)));
        let costs = self.tokens(&pool)?;

        let candidates: Vec<Candidate> = pool
            .iter()
            .zip(costs)
            .filter_map(|(item, tokens)| {
                Some(Candidate {
                    item: *item,
                    relevance: self.relevance(*item),
                    tokens: tokens?,
                    vector: vector(self.tree, self.vectors, *item),
                })
            })
            .collect();
        let budget = request.budget_tokens;
        // Squared, so that little goes to the whole before it is clear that the question is about it.
        let share = if self.served.is_empty() { 0.0 } else { (2.0 * request.breadth - 1.0).max(0.0).powi(2) };
        let whole = (f64::from(share) * budget as f64) as usize;
        let tops = if whole > 0 {
            let among = self.focus(&pool)?;
            shape.highest(among.as_ref().unwrap_or(self.served))
        } else {
            Vec::new()
        };
        let choice = |budget| Choice {
            budget,
            breadth: request.breadth,
            diversity: request.diversity.unwrap_or(DIVERSITY_OF_THE_WHOLE * (2.0 * request.breadth - 1.0).max(0.0)),
            allow_ancestors: request.allow_ancestors,
        };
        let covered = if request.allow_ancestors {
            // What matches is not in the way of what covers.
            cover(shape, self.served, &tops, &[], whole, self)?
        } else {
            let matching = choice(budget.saturating_sub(whole));
            let matching = select(shape, &candidates, matching, &mut Taken::default(), &[]);
            let matching: Vec<Below> = matching.into_iter().map(|at| candidates[at].item).collect();
            cover(shape, self.served, &tops, &matching, budget, self)?
        };
        let (mut taken, mut picked, mut used, mut vectors) = (Taken::default(), Vec::new(), 0, Vec::new());
        for item in covered {
            used += self.tokens(&[item])?.first().copied().flatten().unwrap_or(0);
            taken.take(shape, item);
            picked.push((item, self.relevance(item)));
            vectors.extend(vector(self.tree, self.vectors, item));
        }
        let rest = select(shape, &candidates, choice(budget.saturating_sub(used)), &mut taken, &vectors);
        picked.extend(rest.into_iter().map(|at| (candidates[at].item, candidates[at].relevance)));
        picked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        Ok(picked)
    }

    /// The nodes of the documents that a broad question is about, if it is about few of many.
    fn focus(&self, pool: &[Below]) -> Result<Option<HashSet<NodeRow>>, RetrievalError> {
        let mut matches: HashMap<&DocumentId, Vec<f32>> = HashMap::new();
        for item in pool {
            let document = match item {
                Below::Chunk(chunk) => self.chunks.get(chunk).map(|chunk| &chunk.document),
                Below::Node(node) => self.tree.shape.place(*node).and_then(|place| place.document.as_ref()),
            };
            let Some(document) = document else { continue };
            matches.entry(document).or_default().push(self.relevance(*item));
        }
        let strength = |scores: &Vec<f32>| {
            // The pool is in falling order.
            let best = scores.iter().take(FOCUS_MATCHES);
            best.sum::<f32>() / FOCUS_MATCHES as f32
        };
        let most = matches.values().map(strength).fold(0.0, f32::max);
        let about: HashSet<&DocumentId> =
            matches.iter().filter(|(_, scores)| strength(scores) >= FOCUS_REACH * most).map(|(id, _)| *id).collect();
        if about.len() * FOCUS_SHARE > matches.len() || !self.names_any(&about)? {
            return Ok(None);
        }
        let of_them = |node: &&NodeRow| {
            let document = self.tree.shape.place(**node).and_then(|place| place.document.as_ref());
            document.is_some_and(|document| about.contains(document))
        };
        let nodes: HashSet<NodeRow> = self.served.iter().filter(of_them).copied().collect();
        Ok((!nodes.is_empty()).then_some(nodes))
    }

    /// Whether the question has much of the title of one of these documents.
    fn names_any(&self, documents: &HashSet<&DocumentId>) -> Result<bool, RetrievalError> {
        let fail = of(self.collection.name());
        let Some(index) = self.state.lexical() else { return Ok(false) };
        for id in documents {
            let Some(document) = self.state.catalog().document(id).map_err(&fail)? else { continue };
            if index.share_in(&document.title, self.asked).map_err(of(self.collection.name()))? >= FOCUS_TITLE {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Keeps of the ranking what a traversal reaches, and adds what it reaches beyond. Chunks that no node leads to stay.
    fn descend(&mut self, beam: usize) {
        let shape = &self.tree.shape;
        let near = |item: Below| cosine(self.tree, self.vectors, self.query, item).unwrap_or(-1.0);
        let mut reached: HashMap<Below, f32> = HashMap::new();
        let mut layer: Vec<Below> = shape.highest(self.served).into_iter().map(Below::Node).collect();
        while !layer.is_empty() {
            layer.sort_by(|a, b| near(*b).total_cmp(&near(*a)).then(a.cmp(b)));
            layer.dedup();
            layer.truncate(beam);
            let mut next = Vec::new();
            for item in layer.drain(..) {
                if reached.insert(item, near(item)).is_none()
                    && let Below::Node(node) = item
                {
                    next.extend(shape.place(node).map(|place| place.members.as_slice()).unwrap_or_default());
                }
            }
            layer = next;
        }
        let led_to = |item: &Below| shape.above(*item).iter().any(|node| self.served.contains(node));
        let free: Vec<(Below, f32)> = self
            .relevance
            .keys()
            .filter(|item| matches!(item, Below::Chunk(_)) && !led_to(item))
            .map(|item| (*item, near(*item)))
            .collect();
        reached.extend(free);
        let (low, high) = reached.values().fold((f32::MAX, f32::MIN), |(low, high), x| (low.min(*x), high.max(*x)));
        let scaled = |x: f32| if high > low { (x - low) / (high - low) } else { 1.0 };
        self.relevance = reached.into_iter().map(|(item, x)| (item, scaled(x))).collect();
    }

    /// Reads what was picked, in one state of the catalog for each kind; what is gone since is left out.
    fn load(&self, picked: Vec<(Below, f32)>) -> Result<Vec<TreePick>, RetrievalError> {
        let fail = of(self.collection.name());
        let catalog = self.state.catalog();
        let rows: Vec<NodeRow> = picked
            .iter()
            .filter_map(|(item, _)| if let Below::Node(node) = item { Some(*node) } else { None })
            .collect();
        let nodes = catalog.tree_nodes(&rows).map_err(&fail)?;
        let mut below: Vec<ChunkId> = nodes.iter().flat_map(|node| node.leaves.iter().flatten().copied()).collect();
        below.sort_unstable();
        below.dedup();
        let owned: HashMap<ChunkId, DocumentId> = catalog.documents_of(&below).map_err(&fail)?.into_iter().collect();
        let mut nodes: HashMap<NodeRow, _> = nodes.into_iter().map(|node| (node.row, node)).collect();
        let mut names: HashMap<DocumentId, (String, String)> = HashMap::new();
        let mut named = |id: &DocumentId| -> Result<Option<(String, String)>, RetrievalError> {
            if let Some(found) = names.get(id) {
                return Ok(Some(found.clone()));
            }
            let Some(document) = catalog.document(id).map_err(&fail)? else { return Ok(None) };
            Ok(Some(names.entry(id.clone()).or_insert((document.title, document.uri)).clone()))
        };
        let live: HashSet<ChunkId> = {
            let chunks: Vec<ChunkId> = picked
                .iter()
                .filter_map(|(item, _)| if let Below::Chunk(chunk) = item { Some(*chunk) } else { None })
                .collect();
            catalog.documents_of(&chunks).map_err(&fail)?.into_iter().map(|(chunk, _)| chunk).collect()
        };
        let mut picks = Vec::with_capacity(picked.len());
        for (item, score) in picked {
            let (lexical, vector) = (self.lexical.get(&item).copied(), self.vector.get(&item).copied());
            match item {
                Below::Chunk(id) => {
                    let Some(chunk) = self.chunks.get(&id).filter(|_| live.contains(&id)) else { continue };
                    let Some((title, uri)) = named(&chunk.document)? else { continue };
                    picks.push(TreePick {
                        level: 0,
                        score,
                        lexical,
                        vector,
                        text: chunk.text.clone(),
                        tokens: chunk.generator_tokens,
                        leaves: vec![id],
                        documents: vec![chunk.document.clone()],
                        document: Some(chunk.document.clone()),
                        title,
                        uri,
                        picked: Picked::Chunk { chunk: chunk.clone() },
                    });
                }
                Below::Node(row) => {
                    let Some(node) = nodes.remove(&row) else { continue };
                    let Some(leaves) = node.leaves else { continue };
                    let documents = owners(&leaves, &owned);
                    let (title, uri) = match &node.document {
                        Some(id) => match named(id)? {
                            Some(found) => found,
                            None => continue,
                        },
                        None => Default::default(),
                    };
                    picks.push(TreePick {
                        picked: Picked::Node { node: node.id, method: node.summary.method },
                        level: node.level,
                        score,
                        lexical,
                        vector,
                        text: node.summary.text,
                        tokens: node.summary.tokens,
                        leaves,
                        documents,
                        document: node.document,
                        title,
                        uri,
                    });
                }
            }
        }
        Ok(picks)
    }
}

/// The documents of chunks that are in order of document, each once.
pub(super) fn owners(leaves: &[ChunkId], owned: &HashMap<ChunkId, DocumentId>) -> Vec<DocumentId> {
    let mut documents: Vec<DocumentId> = Vec::new();
    for leaf in leaves {
        documents.extend(owned.get(leaf).filter(|id| documents.last() != Some(*id)).cloned());
    }
    documents
}

impl Terrain for Field<'_> {
    type Error = RetrievalError;

    fn tokens(&mut self, items: &[Below]) -> Result<Vec<Option<usize>>, RetrievalError> {
        let unknown: Vec<ChunkId> = items
            .iter()
            .filter_map(|item| match item {
                Below::Chunk(chunk) if !self.chunks.contains_key(chunk) => Some(*chunk),
                _ => None,
            })
            .collect();
        if !unknown.is_empty() {
            let chunks = self.state.catalog().chunks(&unknown).map_err(of(self.collection.name()))?;
            self.chunks.extend(chunks.into_iter().map(|chunk| (chunk.id, chunk)));
        }
        let tokens = |item: &Below| match item {
            Below::Chunk(chunk) => self.chunks.get(chunk).map(|chunk| chunk.generator_tokens),
            Below::Node(node) => self.tree.tokens(*node),
        };
        Ok(items.iter().map(tokens).collect())
    }

    fn relevance(&self, item: Below) -> f32 {
        self.relevance.get(&item).copied().unwrap_or(0.0)
    }
}

fn vector(tree: &TreeIndex, vectors: &VectorsGuard<'_>, item: Below) -> Option<Vec<f32>> {
    match item {
        Below::Chunk(chunk) => vectors.index().vector(chunk),
        Below::Node(node) => tree.vectors.vector(key(node)),
    }
}

fn cosine(tree: &TreeIndex, vectors: &VectorsGuard<'_>, query: &Embedded, item: Below) -> Option<f32> {
    let vector = vector(tree, vectors, item)?;
    Some(vector.iter().zip(&query.vector).map(|(a, b)| a * b).sum())
}

fn validate(request: &TreeSearchRequest) -> Result<(), RetrievalError> {
    let invalid = |reason: String| Err(RetrievalError::InvalidRequest(reason));
    if request.budget_tokens == 0 {
        return invalid("budget_tokens is 0, but must be at least 1".to_owned());
    }
    if !(0.0..=1.0).contains(&request.breadth) {
        return invalid(format!("breadth is {}, but must be between 0 and 1", request.breadth));
    }
    if let Some(diversity) = request.diversity.filter(|diversity| !(0.0..=1.0).contains(diversity)) {
        return invalid(format!("diversity is {diversity}, but must be between 0 and 1"));
    }
    match request.mode {
        TreeMode::Traversal { beam } if !(1..=MAX_BEAM).contains(&beam) => {
            invalid(format!("beam is {beam}, but must be between 1 and {MAX_BEAM}"))
        }
        _ => Ok(()),
    }
}
