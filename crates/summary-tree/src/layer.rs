//! The clusters of one layer of a tree, from nothing or kept up.
//!
//! Clustering anew at each change would move members between clusters and so make most summaries anew. [`update`] is
//! sticky: what was together stays together, and only clusters that a change falls into change. It starts from nothing
//! again when more than a share of the members has come or gone, so a layer never drifts far from its clusters.
//!
//! Invariants, of both:
//! - Every member is in a cluster; none is empty, and no two are equal.
//! - A cluster of more than one member is within the limits.
//! - Equal input gives equal clusters, on any number of threads.

use rayon::prelude::*;

use crate::{Cluster, ClusterError, ClusterOptions, Points, cluster};

/// Comparisons of a member with a centroid from which on threads share them.
const PARALLEL: usize = 4096;

/// How a layer is kept up.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerOptions {
    /// Limits and clustering from nothing.
    pub cluster: ClusterOptions,
    /// Fewest members of a cluster that lost some; what falls under it is dissolved into others.
    pub least: usize,
    /// Share of the members that may come or go before the layer is clustered from nothing.
    pub changed: f64,
}

impl Default for LayerOptions {
    fn default() -> Self {
        Self { cluster: ClusterOptions::default(), least: 2, changed: 0.3 }
    }
}

/// A former cluster, as far as its members are still there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FormerCluster {
    /// Rows of the members that are.
    pub members: Vec<usize>,
    /// Whether it lost some.
    pub shrunk: bool,
}

/// A layer kept up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its clusters, in the order of their members.
    pub clusters: Vec<Cluster>,
    /// For each cluster, the former one that it goes on from.
    pub from: Vec<Option<usize>>,
    /// Whether it was clustered from nothing.
    pub full: bool,
}

/// Clusters a layer from nothing: in one piece if all fits.
///
/// # Errors
/// As [`cluster`].
pub fn full(points: &Points, weights: &[usize], options: &LayerOptions) -> Result<Layer, ClusterError> {
    let all: Vec<usize> = (0..points.rows()).collect();
    let clusters = match fits(&all, weights, &options.cluster) {
        _ if all.is_empty() => Vec::new(),
        true => vec![Cluster { members: all }],
        false => cluster(points, weights, &options.cluster)?,
    };
    Ok(Layer { from: vec![None; clusters.len()], clusters, full: true })
}

/// Keeps a layer up: `former` are its clusters as far as their members are still there, and members in none of them are
/// new. `changed` is the number of members that came or went since the layer was last clustered from nothing, these
/// included.
///
/// # Errors
/// As [`cluster`].
pub fn update(
    points: &Points,
    weights: &[usize],
    former: &[FormerCluster],
    changed: usize,
    options: &LayerOptions,
) -> Result<Layer, ClusterError> {
    if former.iter().all(|cluster| cluster.members.is_empty())
        || changed as f64 > options.changed * points.rows() as f64
    {
        return full(points, weights, options);
    }
    let mut kept: Vec<Kept> = former
        .iter()
        .enumerate()
        .filter(|(_, cluster)| !cluster.members.is_empty())
        .map(|(at, cluster)| Kept {
            members: cluster.members.clone(),
            from: at,
            touched: cluster.shrunk,
            sum: sum(points, &cluster.members),
        })
        .collect();
    let dissolved = |cluster: &Kept| cluster.touched && cluster.members.len() < options.least;
    if !kept.iter().all(dissolved) {
        kept.retain(|cluster| !dissolved(cluster));
    }
    let mut placed = vec![false; points.rows()];
    kept.iter().flat_map(|cluster| &cluster.members).for_each(|member| placed[*member] = true);
    for member in (0..points.rows()).filter(|member| !placed[*member]) {
        let at = nearest(points.row(member), &kept);
        let cluster = &mut kept[at];
        cluster.members.push(member);
        cluster.members.sort_unstable();
        cluster.touched = true;
        cluster.sum.iter_mut().zip(points.row(member)).for_each(|(sum, x)| *sum += x);
    }
    let mut found: Vec<(Cluster, Option<usize>)> = Vec::new();
    for Kept { members, from, .. } in kept {
        if fits(&members, weights, &options.cluster) {
            found.push((Cluster { members }, Some(from)));
            continue;
        }
        let own: Vec<usize> = members.iter().map(|member| weights[*member]).collect();
        for piece in cluster(&points.select(&members), &own, &options.cluster)? {
            let members = piece.members.into_iter().map(|at| members[at]).collect();
            found.push((Cluster { members }, Some(from)));
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.cmp(&b.1)));
    found.dedup_by(|a, b| a.0 == b.0);
    let (clusters, from) = found.into_iter().unzip();
    Ok(Layer { clusters, from, full: false })
}

struct Kept {
    members: Vec<usize>,
    from: usize,
    touched: bool,
    /// Of its members: as good as the centroid where only directions count.
    sum: Vec<f64>,
}

fn sum(points: &Points, members: &[usize]) -> Vec<f64> {
    let mut sum = vec![0.0; points.dims()];
    for member in members {
        sum.iter_mut().zip(points.row(*member)).for_each(|(sum, x)| *sum += x);
    }
    sum
}

/// The cluster whose centroid has the largest cosine with `point`; the first one of equals. There is one.
fn nearest(point: &[f64], kept: &[Kept]) -> usize {
    let cosine = |(at, cluster): (usize, &Kept)| {
        let length = cluster.sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        let product: f64 = cluster.sum.iter().zip(point).map(|(a, b)| a * b).sum();
        (if length > 0.0 { product / length } else { 0.0 }, at)
    };
    let better = |a: (f64, usize), b: (f64, usize)| match a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)) {
        std::cmp::Ordering::Less => b,
        _ => a,
    };
    let none = (f64::NEG_INFINITY, 0);
    if kept.len() < PARALLEL {
        kept.iter().enumerate().map(cosine).fold(none, better).1
    } else {
        kept.par_iter().enumerate().map(cosine).reduce(|| none, better).1
    }
}

pub(crate) fn fits(members: &[usize], weights: &[usize], options: &ClusterOptions) -> bool {
    let weight: usize = members.iter().map(|member| weights[*member]).sum();
    members.len() <= 1 || members.len() <= options.most_members && weight <= options.most_weight
}

/// Clusters that are fewer than the members, so that a tree of them ends in one root: `clusters` if they are few enough,
/// else the members hard in a row, as many as the limits allow and two at least.
pub(crate) fn shrinking(clusters: Vec<Cluster>, weights: &[usize], options: &ClusterOptions) -> Vec<Cluster> {
    let rows = weights.len();
    // Soft clusters may be as many as their members; a tenth fewer in each layer still ends soon.
    if clusters.len() * 10 <= rows * 9 || rows <= 1 {
        return clusters;
    }
    let mut found: Vec<Cluster> = Vec::new();
    let mut weight = 0;
    for (row, own) in weights.iter().enumerate() {
        match found.last_mut() {
            Some(last)
                if last.members.len() < 2
                    || last.members.len() < options.most_members && weight + own <= options.most_weight =>
            {
                last.members.push(row);
                weight += own;
            }
            _ => {
                found.push(Cluster { members: vec![row] });
                weight = *own;
            }
        }
    }
    found
}
