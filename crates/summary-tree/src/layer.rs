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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn points(rows: &[Vec<f64>]) -> Points {
        Points::new(rows.concat(), rows.len(), 4).unwrap()
    }

    fn options() -> LayerOptions {
        let cluster =
            ClusterOptions { most_members: 6, most_weight: 100, least_members: 3, ..ClusterOptions::default() };
        LayerOptions { cluster, ..LayerOptions::default() }
    }

    fn sound(clusters: &[Cluster], weights: &[usize]) {
        let covered: BTreeSet<usize> = clusters.iter().flat_map(|cluster| cluster.members.clone()).collect();
        assert_eq!(covered, (0..weights.len()).collect());
        assert!(clusters.is_sorted() && clusters.windows(2).all(|pair| pair[0] != pair[1]));
        for Cluster { members } in clusters {
            assert!(!members.is_empty() && members.is_sorted() && fits(members, weights, &options().cluster));
        }
    }

    fn kept(layer: &Layer) -> Vec<FormerCluster> {
        let former = |cluster: &Cluster| FormerCluster { members: cluster.members.clone(), shrunk: false };
        layer.clusters.iter().map(former).collect()
    }

    /// The clusters without some rows, named by the rows that are left.
    fn without(former: &[FormerCluster], gone: &BTreeSet<usize>) -> Vec<FormerCluster> {
        let place = |row: usize| row - gone.range(..row).count();
        let left = |cluster: &FormerCluster| FormerCluster {
            members: cluster.members.iter().filter(|row| !gone.contains(row)).map(|row| place(*row)).collect(),
            shrunk: cluster.members.iter().any(|row| gone.contains(row)),
        };
        former.iter().map(left).collect()
    }

    #[test]
    fn little_input_is_one_cluster_or_none() {
        let no = points(&[]);
        assert!(full(&no, &[], &options()).unwrap().clusters.is_empty());
        assert!(update(&no, &[], &[], 0, &options()).unwrap().clusters.is_empty());
        for n in 1..=6 {
            let same = points(&vec![vec![0.5; 4]; n]);
            let layer = full(&same, &vec![10; n], &options()).unwrap();
            assert_eq!(layer.clusters, [Cluster { members: (0..n).collect() }]);
        }
    }

    #[test]
    fn giants_stand_alone_and_still_become_fewer() {
        let rows: Vec<Vec<f64>> = (0..9).map(|row| vec![f64::from(row), 1.0, 0.0, 0.0]).collect();
        let weights = vec![500; 9];
        let layer = full(&points(&rows), &weights, &options()).unwrap();
        assert_eq!(layer.clusters.len(), 9);
        let fewer = shrinking(layer.clusters, &weights, &options().cluster);
        assert!(fewer.len() == 5 && fewer.iter().map(|cluster| cluster.members.len()).sum::<usize>() == 9);
    }

    #[test]
    fn a_new_member_joins_the_nearest_and_a_lonely_one_is_taken_in() {
        let mut rows: Vec<Vec<f64>> = (0..4).map(|_| vec![1.0, 0.0, 0.0, 0.0]).collect();
        rows.extend((0..4).map(|_| vec![0.0, 1.0, 0.0, 0.0]));
        rows.push(vec![0.1, 0.9, 0.0, 0.0]);
        let cluster = |members: &[usize], shrunk| FormerCluster { members: members.to_vec(), shrunk };
        let former = [cluster(&[0, 1, 2, 3], false), cluster(&[4, 5, 6, 7], false)];
        let layer = update(&points(&rows), &[1; 9], &former, 1, &options()).unwrap();
        assert_eq!(layer.clusters[1].members, [4, 5, 6, 7, 8]);
        assert_eq!((layer.from, layer.full), (vec![Some(0), Some(1)], false));
        let former = [cluster(&[0, 1, 2, 3, 5, 6], false), cluster(&[4, 7], false), cluster(&[8], true)];
        let layer = update(&points(&rows), &[1; 9], &former, 1, &options()).unwrap();
        assert_eq!(layer.clusters[1].members, [4, 7, 8]);
        assert_eq!(layer.clusters.len(), 2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn an_update_touches_only_what_changed(
            rows in prop::collection::vec((prop::collection::vec(-1.0..1.0f64, 4), 1usize..30), 2..80),
            fresh in prop::collection::vec((prop::collection::vec(-1.0..1.0f64, 4), 1usize..120), 0..6),
            gone in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let vectors = |rows: &[(Vec<f64>, usize)]| rows.iter().map(|(row, _)| row.clone()).collect::<Vec<_>>();
            let weigh = |rows: &[(Vec<f64>, usize)]| rows.iter().map(|(_, weight)| *weight).collect::<Vec<_>>();
            let weights = weigh(&rows);
            let layer = full(&points(&vectors(&rows)), &weights, &options()).unwrap();
            sound(&layer.clusters, &weights);
            let same = update(&points(&vectors(&rows)), &weights, &kept(&layer), 0, &options()).unwrap();
            prop_assert_eq!(&same.clusters, &layer.clusters);
            prop_assert!(!same.full);

            let gone: BTreeSet<usize> = gone.iter().map(|at| at.index(rows.len())).collect();
            let mut now: Vec<(Vec<f64>, usize)> =
                rows.iter().enumerate().filter(|(row, _)| !gone.contains(row)).map(|(_, row)| row.clone()).collect();
            let stayed = now.len();
            now.extend(fresh.clone());
            let weights = weigh(&now);
            let former = without(&kept(&layer), &gone);
            let changed = gone.len().max(fresh.len());
            let next = update(&points(&vectors(&now)), &weights, &former, changed, &options()).unwrap();
            sound(&next.clusters, &weights);
            prop_assert_eq!(&next, &update(&points(&vectors(&now)), &weights, &former, changed, &options()).unwrap());
            let many = changed as f64 > options().changed * now.len() as f64;
            prop_assert_eq!(next.full, many || former.iter().all(|cluster| cluster.members.is_empty()));
            if !next.full {
                // What is neither new nor of a dissolved cluster may join; every other cluster stays as it was.
                let dissolved = |cluster: &&FormerCluster| cluster.shrunk && cluster.members.len() < options().least;
                let joined = fresh.len() + former.iter().filter(dissolved).count();
                let stay = former.iter().filter(|cluster| !cluster.shrunk);
                let kept = stay.clone().filter(|old| next.clusters.iter().any(|new| new.members == old.members)).count();
                prop_assert!(kept + joined >= stay.count(), "{kept} kept, {joined} joined");
                let old = |row: &usize| *row < stayed;
                for (new, from) in next.clusters.iter().zip(&next.from) {
                    let before = &former[from.unwrap()].members;
                    let moved = new.members.iter().filter(|row| old(row) && !before.contains(row)).count();
                    prop_assert!(moved <= former.iter().filter(dissolved).count());
                }
            }
        }
    }
}
