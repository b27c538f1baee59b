//! Builds the layers of a graph.
//!
//! Rows are inserted in batches. All rows of a batch look for neighbours at once, each on its own, in the graph as it was
//! before the batch and, exhaustively, in the batch; then all links are made. No lock is needed, and the graph does not
//! depend on the number of threads. A batch is small against what is there, so this finds what inserting one by one does.
//!
//! Deliberately not here: probing.

use std::cmp::Reverse;

use rayon::prelude::*;

use super::{GraphOptions, Layer, Near, beam, descend};
use crate::flat::{Flat, NearQuery};

/// Rows of a batch: at most one for so many that are there, and within these limits.
const BATCH_SHARE: usize = 8;
const SMALLEST_BATCH: usize = 32;
const LARGEST_BATCH: usize = 512;
const MOST_LAYERS: usize = 16;

/// A row of a batch.
struct Item {
    row: u32,
    /// Its number in each of its layers, the lowest first.
    nodes: Vec<u32>,
}

/// Number of the highest layer of the `n`-th row: 1 in M rows reach the next (SplitMix64, Steele et al. 2014).
fn top_layer(n: usize, options: GraphOptions) -> usize {
    let mut z = (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let uniform = ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64;
    let layer = -uniform.max(f64::MIN_POSITIVE).ln() / (options.neighbours as f64).ln();
    (layer as usize).min(MOST_LAYERS - 1)
}

/// Layers over `rows`, no two with equal codes, with the threads of the current rayon pool.
pub(super) fn layers(flat: &Flat, mut rows: Vec<u32>, options: GraphOptions) -> Vec<Layer> {
    let options = GraphOptions { neighbours: options.neighbours.clamp(4, 128), ..options };
    // Chunks of a document come one after the other; in another order, early links span everything.
    for at in (1..rows.len()).rev() {
        let mut z = (at as u64).wrapping_mul(0xd134_2543_de82_ef95);
        z ^= z >> 32;
        z = z.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        rows.swap(at, ((u128::from(z) * (at as u128 + 1)) >> 64) as usize);
    }
    let mut layers = vec![Layer::new(2 * options.neighbours)];
    let mut done = 0;
    while done < rows.len() {
        let size = (done / BATCH_SHARE).clamp(SMALLEST_BATCH, LARGEST_BATCH).min(rows.len() - done);
        insert(flat, &mut layers, &rows[done..done + size], done, options);
        done += size;
    }
    layers
}

fn insert(flat: &Flat, layers: &mut Vec<Layer>, rows: &[u32], done: usize, options: GraphOptions) {
    let before: Vec<u32> = layers.iter().map(|layer| layer.rows.len() as u32).collect();
    let mut next = before.clone();
    let items: Vec<Item> = rows
        .iter()
        .enumerate()
        .map(|(at, row)| {
            let top = top_layer(done + at, options);
            next.resize(next.len().max(top + 1), 0);
            let nodes = next[..=top].iter_mut().map(|next| std::mem::replace(next, *next + 1)).collect();
            Item { row: *row, nodes }
        })
        .collect();
    let found: Vec<Vec<Vec<Near>>> =
        items.par_iter().map(|item| neighbours(flat, layers, &items, item, options)).collect();
    layers.resize_with(next.len(), || Layer::new(options.neighbours));
    for item in &items {
        let mut below = None;
        for (layer, node) in layers.iter_mut().zip(&item.nodes) {
            layer.push(item.row, below);
            below = Some(*node);
        }
    }
    for (at, layer) in layers.iter_mut().enumerate() {
        let mut back: Vec<(u32, Near)> = Vec::new();
        for (item, found) in items.iter().zip(&found) {
            let (Some(node), Some(found)) = (item.nodes.get(at), found.get(at)) else { continue };
            let links: Vec<u32> = found.iter().map(|near| near.node).collect();
            layer.set_links(*node, &links);
            back.extend(found.iter().map(|near| (near.node, Near { score: near.score, node: *node })));
        }
        link_back(flat, layer, back);
    }
}

/// Neighbours for a row of a batch in each of its layers, the lowest first.
fn neighbours(flat: &Flat, layers: &[Layer], batch: &[Item], item: &Item, options: GraphOptions) -> Vec<Vec<Near>> {
    let query = flat.row_query(item.row as usize);
    let top = item.nodes.len() - 1;
    let others: Vec<&Item> = batch.iter().filter(|other| other.row != item.row).collect();
    let rows: Vec<u32> = others.iter().map(|other| other.row).collect();
    let mut sums = Vec::new();
    let scores: Vec<f32> = flat.estimates(&query, &rows, &mut sums).map(|estimate| estimate.score).collect();
    let mut chosen = vec![Vec::new(); top + 1];
    let highest = layers.iter().rposition(|layer| !layer.rows.is_empty());
    let from = highest.map_or(0, |highest| top.min(highest));
    let mut entries: Vec<u32> = descend(flat, layers, &query, from).into_iter().collect();
    for at in (0..=top).rev() {
        let mut candidates = Vec::new();
        if let Some(layer) = layers.get(at).filter(|layer| !layer.rows.is_empty()) {
            let ef = options.ef_construction.max(options.neighbours);
            candidates = beam(flat, layer, &query, &entries, ef, usize::MAX, &|_| true).unwrap_or_default();
            if at > 0 {
                entries = candidates.iter().map(|near| layer.below[near.node as usize]).collect();
            }
        }
        let existing = layers.get(at);
        let row_of = |node: u32| existing.and_then(|layer| layer.rows.get(node as usize)).copied();
        let mut pairs: Vec<(Near, u32)> =
            candidates.into_iter().filter_map(|near| Some((near, row_of(near.node)?))).collect();
        for (other, score) in others.iter().zip(&scores) {
            pairs.extend(other.nodes.get(at).map(|node| (Near { score: *score, node: *node }, other.row)));
        }
        if pairs.len() > options.ef_construction.max(options.neighbours) {
            pairs.select_nth_unstable_by(options.ef_construction, |a, b| b.0.cmp(&a.0));
            pairs.truncate(options.ef_construction);
        }
        chosen[at] = choose(flat, pairs, options.neighbours);
    }
    chosen
}

/// Up to `limit` of `candidates`, with their rows, each nearer to the centre than to any chosen before it (algorithm 4 of
/// the paper): such links lead out of a cluster. Best first.
fn choose(flat: &Flat, mut candidates: Vec<(Near, u32)>, limit: usize) -> Vec<Near> {
    candidates.sort_unstable_by_key(|(near, _)| Reverse(*near));
    let mut chosen: Vec<Near> = Vec::with_capacity(limit);
    let mut queries: Vec<NearQuery> = Vec::with_capacity(limit);
    for (near, row) in candidates {
        if queries.iter().all(|other| flat.estimate(other, row as usize).score < near.score) {
            chosen.push(near);
            if chosen.len() == limit {
                break;
            }
            queries.push(flat.row_query(row as usize));
        }
    }
    chosen
}

/// Makes the links of new nodes go both ways: `back` holds node and new neighbour. Nodes with too many links choose.
fn link_back(flat: &Flat, layer: &mut Layer, mut back: Vec<(u32, Near)>) {
    back.sort_unstable_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    let groups: Vec<&[(u32, Near)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
    let held = &*layer;
    let changed: Vec<(u32, Vec<u32>)> = groups
        .par_iter()
        .map(|group| {
            let node = group[0].0;
            let mut links = held.links(node).to_vec();
            let new: Vec<Near> =
                group.iter().map(|(_, near)| *near).filter(|near| !links.contains(&near.node)).collect();
            if links.len() + new.len() <= held.degree() {
                links.extend(new.iter().map(|near| near.node));
                return (node, links);
            }
            let query = flat.row_query(held.rows[node as usize] as usize);
            let rows: Vec<u32> = links.iter().map(|link| held.rows[*link as usize]).collect();
            let mut sums = Vec::new();
            let scores = flat.estimates(&query, &rows, &mut sums).map(|estimate| estimate.score);
            let old = links.iter().zip(scores).map(|(node, score)| Near { score, node: *node });
            let candidates = old.chain(new).map(|near| (near, held.rows[near.node as usize])).collect();
            (node, choose(flat, candidates, held.degree()).iter().map(|near| near.node).collect())
        })
        .collect();
    for (node, links) in changed {
        layer.set_links(node, &links);
    }
}
