//! The k best hits.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

use edgewise_types::ChunkId;

use crate::VectorHit;

/// Ordered by quality: larger score, then smaller id. Scores are finite.
#[derive(Debug, PartialEq)]
struct Ranked(VectorHit);

impl Eq for Ranked {}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.score.total_cmp(&other.0.score).then(other.0.chunk.cmp(&self.0.chunk))
    }
}

/// Keeps the `k` best of the hits pushed, whatever their order.
#[derive(Debug)]
pub(crate) struct Top {
    k: usize,
    worst_first: BinaryHeap<Reverse<Ranked>>,
}

impl Top {
    pub(crate) fn new(k: usize) -> Self {
        Self { k, worst_first: BinaryHeap::new() }
    }

    pub(crate) fn push(&mut self, chunk: ChunkId, score: f32) {
        let hit = Ranked(VectorHit { chunk, score });
        if self.worst_first.len() < self.k {
            self.worst_first.push(Reverse(hit));
        } else if let Some(mut worst) = self.worst_first.peek_mut()
            && hit > worst.0
        {
            *worst = Reverse(hit);
        }
    }

    /// The worst score kept, once there are `k`.
    pub(crate) fn least(&self) -> Option<f32> {
        if self.worst_first.len() < self.k { None } else { self.worst_first.peek().map(|worst| worst.0.0.score) }
    }

    /// The best of both.
    pub(crate) fn merge(mut self, other: Self) -> Self {
        for Reverse(Ranked(hit)) in other.worst_first {
            self.push(hit.chunk, hit.score);
        }
        self
    }

    /// Best first.
    pub(crate) fn into_hits(self) -> Vec<VectorHit> {
        self.worst_first.into_sorted_vec().into_iter().map(|Reverse(Ranked(hit))| hit).collect()
    }
}
