//! A graph over rows that no longer change: hierarchical navigable small world (Malkov and Yashunin, TPAMI 2020,
//! <https://arxiv.org/abs/1603.09320>).
//!
//! Layers are tables of row numbers and links; nothing of the vectors is copied. A walk compares 8-bit codes and asks for
//! all neighbours of a node ahead, since what it costs is waiting for memory; the best rows are then scored in full.
//!
//! Invariants:
//! - Every row is in the graph once, those with equal codes as one node: its links would else all go to its copies.
//! - The same rows in the same order give the same graph, whatever the number of threads (see `build`).
//! - A graph is used only after its probe: every node is searched for, and those that do not find themselves are kept in
//!   a list that searches scan beside the graph. A graph that loses many is refused.
//! - Links and rows read from a file are within their tables, whatever the file says.
//!
//! Deliberately not here: which rows are live (a search is told which it may return and walks through the others), when a
//! graph is worth building, files.

mod build;
mod layer;

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

pub(crate) use layer::Layer;

use crate::{
    VectorError,
    flat::{Flat, NearQuery},
    kernel::pack,
};

/// How a graph is built and searched.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GraphOptions {
    /// From this many vectors on a graph is built; fewer are scanned.
    pub threshold: usize,
    /// Neighbours of a point, 4 to 128 (M of the paper); twice as many in the lowest layer.
    pub neighbours: usize,
    /// Candidates kept while building.
    pub ef_construction: usize,
    /// Candidates kept while searching, at least; twice the hits asked for if that is more.
    pub ef_search: usize,
}

impl Default for GraphOptions {
    fn default() -> Self {
        Self { threshold: 20_000, neighbours: 16, ef_construction: 200, ef_search: 100 }
    }
}

/// Share of rows that may be out of reach of a new graph.
const MOST_UNREACHED: f64 = 0.02;
/// Candidates kept while a row is searched for itself.
const PROBE_EF: usize = 48;
/// A walk that has seen one in this many nodes is given up: a scan takes less.
const MOST_SEEN: usize = 4;
/// But not before it has seen this many.
const ALWAYS_SEEN: usize = 4096;

/// A node and what codes say of its score. Ordered by score, then by smaller node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Near {
    pub(crate) score: f32,
    pub(crate) node: u32,
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.node.cmp(&self.node))
    }
}

/// A graph over all rows of a [`Flat`].
pub(crate) struct Graph {
    flat: Arc<Flat>,
    /// The lowest first. Empty only if there are no rows.
    pub(crate) layers: Vec<Layer>,
    /// Rows with the same codes as the row of a node, by that row.
    twins: HashMap<u32, Vec<u32>>,
    /// Rows of nodes that the graph does not find, ascending.
    pub(crate) unreached: Vec<u32>,
    pub(crate) options: GraphOptions,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph")
            .field("rows", &self.flat.len())
            .field("unreached", &self.unreached.len())
            .finish_non_exhaustive()
    }
}

/// A walk's answer, or that it was given up.
pub(crate) enum Walk {
    /// Rows that may be returned, about the nearest, all whose score may be among the k best of those seen.
    Rows(Vec<u32>),
    /// Too few nodes may be returned: a scan takes less.
    GivenUp,
}

impl Graph {
    /// Builds and probes a graph, with the threads of the current rayon pool.
    ///
    /// # Errors
    /// [`VectorError::Graph`] if it does not find its own rows.
    pub(crate) fn build(flat: Arc<Flat>, options: GraphOptions) -> Result<Self, VectorError> {
        let rows =
            u32::try_from(flat.len()).map_err(|_| VectorError::Graph { reason: "too many vectors".to_owned() })?;
        let (nodes, twins) = distinct(&flat, rows);
        let layers = build::layers(&flat, nodes, options);
        Self { flat, layers, twins, unreached: Vec::new(), options }.probe()
    }

    /// Searches for the row of every node, and keeps those not found.
    ///
    /// # Errors
    /// [`VectorError::Graph`] if there are many.
    pub(crate) fn probe(mut self) -> Result<Self, VectorError> {
        let nodes = self.layers.first().map_or(&[][..], |layer| &layer.rows);
        let mut unreached: Vec<u32> = nodes.par_iter().copied().filter(|row| !self.finds(*row)).collect();
        unreached.sort_unstable();
        let most = (nodes.len() as f64 * MOST_UNREACHED).ceil() as usize;
        if unreached.len() > most {
            let reason = format!("{} of {} vectors do not find themselves in it", unreached.len(), nodes.len());
            return Err(VectorError::Graph { reason });
        }
        self.unreached = unreached;
        Ok(self)
    }

    /// A graph of layers read from a file.
    ///
    /// # Errors
    /// What does not fit together.
    pub(crate) fn from_parts(
        flat: Arc<Flat>,
        layers: Vec<Layer>,
        unreached: Vec<u32>,
        options: GraphOptions,
    ) -> Result<Self, &'static str> {
        let rows = u32::try_from(flat.len()).map_err(|_| "too many vectors")?;
        let (nodes, twins) = distinct(&flat, rows);
        let mut held: Vec<u32> = layers.first().map_or_else(Vec::new, |layer| layer.rows.clone());
        held.sort_unstable();
        if held != nodes {
            return Err("it is of other vectors");
        }
        if unreached.iter().any(|row| *row >= rows) {
            return Err("it names rows that are not there");
        }
        for (at, layer) in layers.iter().enumerate() {
            let below = at.checked_sub(1).map(|below| &layers[below]);
            layer.check(below)?;
        }
        Ok(Self { flat, layers, twins, unreached, options })
    }

    /// Bytes of links and tables.
    pub(crate) fn bytes(&self) -> usize {
        let twins = self.twins.values().map(|rows| rows.capacity() * 4 + 32).sum::<usize>();
        self.layers.iter().map(Layer::bytes).sum::<usize>() + twins + self.unreached.capacity() * 4
    }

    /// Whether a search for a node's row finds it, or one whose codes are as near.
    fn finds(&self, row: u32) -> bool {
        let query = self.flat.row_query(row as usize);
        let own = self.flat.estimate(&query, row as usize).score;
        let found = self.walk(&query, PROBE_EF, usize::MAX, &|_| true);
        let layer = &self.layers[0];
        found.is_some_and(|found| found.iter().any(|near| layer.rows[near.node as usize] == row || near.score > own))
    }

    /// About the `k` nearest of the rows that `wanted` lets through, and perhaps a few more; rows out of the graph's
    /// reach included. `query` is of the index's dimension.
    pub(crate) fn search(&self, query: &[f32], k: usize, ef: usize, wanted: &dyn Fn(u32) -> bool) -> Walk {
        let Some(layer) = self.layers.first() else { return Walk::Rows(Vec::new()) };
        let query = self.flat.near_query(&pack(query));
        let most = (layer.rows.len() / MOST_SEEN).max(ALWAYS_SEEN);
        let Some(found) = self.walk(&query, ef.max(k), most, wanted) else { return Walk::GivenUp };
        let nodes = found.into_iter().map(|near| layer.rows[near.node as usize]);
        let members = nodes.chain(self.unreached.iter().copied()).flat_map(|row| self.members(row));
        let mut rows: Vec<u32> = members.filter(|row| wanted(*row)).collect();
        rows.sort_unstable();
        rows.dedup();
        // Of what was found, only what can be among the k best need be scored in full.
        let mut sums = Vec::new();
        let bounds: Vec<(f32, f32)> = self
            .flat
            .estimates(&query, &rows, &mut sums)
            .map(|estimate| (estimate.score - estimate.bound, estimate.score + estimate.bound))
            .collect();
        if rows.len() > k && k > 0 {
            let mut lower: Vec<f32> = bounds.iter().map(|(lower, _)| *lower).collect();
            let (_, least, _) = lower.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
            let least = *least;
            rows =
                rows.into_iter().zip(&bounds).filter(|(_, (_, upper))| *upper >= least).map(|(row, _)| row).collect();
        }
        Walk::Rows(rows)
    }

    /// The row of a node and those with the same codes.
    fn members(&self, row: u32) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(row).chain(self.twins.get(&row).into_iter().flatten().copied())
    }

    /// About the `ef` nodes nearest to the query with a row that is wanted. `None` if more than `most` were looked at.
    fn walk(&self, query: &NearQuery, ef: usize, most: usize, wanted: &dyn Fn(u32) -> bool) -> Option<Vec<Near>> {
        let entry = descend(&self.flat, &self.layers, query, 0)?;
        let layer = &self.layers[0];
        let no_twins = self.twins.is_empty();
        let wanted = |node: u32| {
            let row = layer.rows[node as usize];
            if no_twins { wanted(row) } else { self.members(row).any(wanted) }
        };
        beam(&self.flat, layer, query, &[entry], ef, most, &wanted)
    }
}

/// One row of each of the different codes, ascending, and the other rows with the same.
fn distinct(flat: &Flat, rows: u32) -> (Vec<u32>, HashMap<u32, Vec<u32>>) {
    let codes = |row: u32| flat.codes(row as usize);
    let mut order: Vec<u32> = (0..rows).collect();
    order.par_sort_unstable_by(|a, b| codes(*a).cmp(codes(*b)).then(a.cmp(b)));
    let (mut nodes, mut twins) = (Vec::with_capacity(order.len()), HashMap::<u32, Vec<u32>>::new());
    for row in order {
        match nodes.last() {
            Some(last) if codes(*last) == codes(row) => twins.entry(*last).or_default().push(row),
            _ => nodes.push(row),
        }
    }
    nodes.sort_unstable();
    (nodes, twins)
}

/// From the top to the layer `to`: the node of that layer from which to search it. `None` if it is empty.
fn descend(flat: &Flat, layers: &[Layer], query: &NearQuery, to: usize) -> Option<u32> {
    let top = layers.iter().rposition(|layer| !layer.rows.is_empty())?;
    if top < to {
        return None;
    }
    let (mut node, mut sums, mut rows) = (0, Vec::new(), Vec::new());
    for layer in layers[to + 1..=top].iter().rev() {
        let mut best = flat.estimate(query, layer.rows[node as usize] as usize).score;
        loop {
            let links = layer.links(node);
            rows.clear();
            rows.extend(links.iter().map(|link| layer.rows[*link as usize]));
            let mut next = None;
            for (link, estimate) in links.iter().zip(flat.estimates(query, &rows, &mut sums)) {
                if estimate.score > best {
                    (best, next) = (estimate.score, Some(*link));
                }
            }
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node = layer.below[node as usize];
    }
    Some(node)
}

/// About the `ef` nodes of a layer nearest to the query that are wanted, in no particular order (algorithm 2 of the
/// paper). Walks through nodes that are not wanted. `None` if more than `most` nodes were looked at.
fn beam(
    flat: &Flat,
    layer: &Layer,
    query: &NearQuery,
    entries: &[u32],
    ef: usize,
    most: usize,
    wanted: &dyn Fn(u32) -> bool,
) -> Option<Vec<Near>> {
    let mut seen = vec![0u64; layer.rows.len().div_ceil(64)];
    let mut see = |node: u32| {
        let (word, bit) = (node as usize / 64, 1u64 << (node % 64));
        let new = seen[word] & bit == 0;
        seen[word] |= bit;
        new
    };
    let mut open = BinaryHeap::with_capacity(ef);
    let mut found = BinaryHeap::<Reverse<Near>>::with_capacity(ef + 1);
    let (mut nodes, mut rows, mut sums) = (Vec::new(), Vec::new(), Vec::new());
    nodes.extend(entries.iter().copied().filter(|entry| see(*entry)));
    let mut looked_at = 0;
    loop {
        looked_at += nodes.len();
        if looked_at > most {
            return None;
        }
        rows.clear();
        rows.extend(nodes.iter().map(|node| layer.rows[*node as usize]));
        for (node, estimate) in nodes.iter().zip(flat.estimates(query, &rows, &mut sums)) {
            let near = Near { score: estimate.score, node: *node };
            let full = found.len() >= ef;
            if full && found.peek().is_some_and(|worst| near.score <= worst.0.score) {
                continue;
            }
            open.push(near);
            if wanted(*node) {
                if full {
                    found.pop();
                }
                found.push(Reverse(near));
            }
        }
        let Some(next) = open.pop() else { break };
        if found.len() >= ef && found.peek().is_some_and(|worst| next.score < worst.0.score) {
            break;
        }
        nodes.clear();
        nodes.extend(layer.links(next.node).iter().copied().filter(|link| see(*link)));
    }
    Some(found.into_iter().map(|Reverse(near)| near).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
