//! Clusters within limits, of any number of points.
//!
//! A group of up to [`ClusterOptions::direct`] points is clustered in one piece: projected, fitted with every number of
//! components that gives clusters of acceptable size, and the number with the least BIC taken. A larger group is first
//! divided, again and again, into a few parts that do not overlap; so no fit grows with the number of all points, and
//! time grows as n·log n. What is over a limit afterwards is divided further.

use rayon::prelude::*;

use super::{
    mixture::{Mixture, MixtureOptions},
    points::{Points, dot},
    projection::Projection,
};
use crate::ClusterError;

/// Parts that a group too large for one piece is divided into at most.
const PARTS: usize = 16;
/// Points that such a division is fitted on; of more, every so many-th is taken.
const DIVISION_SAMPLE: usize = 8192;
/// Numbers of components tried without a better BIC before the search ends.
const PATIENCE: usize = 5;
/// Regularisation as a share of the mean variance of the projected points.
const REGULARISATION: f64 = 1e-3;

/// How points are clustered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterOptions {
    /// Most principal components that clusters are found in. RAPTOR reduces to 10.
    pub dims: usize,
    /// Fewest points that a cluster should have on average.
    pub least_members: usize,
    /// Most points of a cluster.
    pub most_members: usize,
    /// Most weight of a cluster of more than one point, in the unit of the weights given.
    pub most_weight: usize,
    /// Probability from which on a point belongs to a cluster besides its likeliest one. RAPTOR takes 0.1.
    pub membership: f64,
    /// Points clustered in one piece.
    pub direct: usize,
    /// Seed of all random choices.
    pub seed: u64,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self { dims: 10, least_members: 4, most_members: 12, most_weight: 2400, membership: 0.1, direct: 64, seed: 1 }
    }
}

impl ClusterOptions {
    fn validate(&self) -> Result<(), ClusterError> {
        let checks = [
            (self.dims > 0, "the number of dimensions must be at least 1"),
            (self.least_members > 0, "the least number of members must be at least 1"),
            (self.most_members >= 2, "the most members of a cluster must be at least 2"),
            (self.most_members >= self.least_members, "the most members must not be fewer than the least"),
            (self.membership > 0.0 && self.membership <= 1.0, "the membership must be above 0 and at most 1"),
            (self.direct >= 2 * self.most_members, "a piece must have room for two clusters of the most members"),
        ];
        checks.iter().find(|(ok, _)| !ok).map_or(Ok(()), |(_, why)| Err(ClusterError::Options(why)))
    }
}

/// Points that belong together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cluster {
    /// Their rows, increasing.
    pub members: Vec<usize>,
}

/// Clusters `points`, whose weights, such as their texts' tokens, are `weights`. Clusters come in the order of their first
/// members. A point may be in several.
///
/// # Errors
/// [`ClusterError::Options`], and [`ClusterError::Shape`] where there are not as many weights as points.
pub fn cluster(points: &Points, weights: &[usize], options: &ClusterOptions) -> Result<Vec<Cluster>, ClusterError> {
    options.validate()?;
    if weights.len() != points.rows() {
        return Err(ClusterError::Shape { values: weights.len(), rows: points.rows(), dims: 1 });
    }
    let all = Task { points, weights, options };
    let mut clusters = all.divide((0..points.rows()).collect());
    clusters.iter_mut().for_each(|members| members.sort_unstable());
    clusters.sort_unstable();
    clusters.dedup();
    Ok(clusters.into_iter().map(|members| Cluster { members }).collect())
}

struct Task<'a> {
    points: &'a Points,
    weights: &'a [usize],
    options: &'a ClusterOptions,
}

impl Task<'_> {
    fn fits(&self, members: &[usize]) -> bool {
        let weight: usize = members.iter().map(|member| self.weights[*member]).sum();
        members.len() <= 1 || members.len() <= self.options.most_members && weight <= self.options.most_weight
    }

    /// Clusters of a group, disjoint from those of other groups.
    fn divide(&self, group: Vec<usize>) -> Vec<Vec<usize>> {
        if group.len() <= self.options.direct {
            return self.settle(self.direct(group));
        }
        let parts = self.parts(&group);
        parts.into_par_iter().flat_map_iter(|part| self.divide(part)).collect()
    }

    /// Clusters without those of one member where that member is elsewhere too, or there is room in the cluster nearest to
    /// it: a summary of one text says nothing new.
    fn settle(&self, mut clusters: Vec<Vec<usize>>) -> Vec<Vec<usize>> {
        let mut at = 0;
        while at < clusters.len() {
            let &[member] = clusters[at].as_slice() else {
                at += 1;
                continue;
            };
            let elsewhere =
                clusters.iter().enumerate().any(|(other, members)| other != at && members.contains(&member));
            let likeness = |members: &Vec<usize>| {
                let mut sum = vec![0.0; self.points.dims()];
                for member in members {
                    sum.iter_mut().zip(self.points.row(*member)).for_each(|(sum, x)| *sum += x);
                }
                dot(&sum, self.points.row(member)) / dot(&sum, &sum).sqrt().max(f64::MIN_POSITIVE)
            };
            let room = |members: &Vec<usize>| {
                let weight: usize = members.iter().map(|member| self.weights[*member]).sum();
                members.len() < self.options.most_members && weight + self.weights[member] <= self.options.most_weight
            };
            let nearest = (0..clusters.len())
                .filter(|other| !elsewhere && *other != at && room(&clusters[*other]))
                .map(|other| (likeness(&clusters[other]), other))
                .max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
            if let Some((_, other)) = nearest {
                clusters[other].push(member);
            }
            if elsewhere || nearest.is_some() {
                clusters.remove(at);
                at = 0;
            } else {
                at += 1;
            }
        }
        clusters
    }

    /// A large group in a few disjoint parts, each smaller than the group.
    fn parts(&self, group: &[usize]) -> Vec<Vec<usize>> {
        let points = self.points.select(group);
        let projection = Projection::fit(&points, self.options.dims, self.options.seed);
        if projection.dims() == 0 {
            return slices(group, self.options.direct);
        }
        let projected = projection.apply(&points);
        let k = group.len().div_ceil(self.options.direct).clamp(2, PARTS);
        let step = projected.rows().div_ceil(DIVISION_SAMPLE).max(1);
        let sample: Vec<usize> = (0..projected.rows()).step_by(step).collect();
        let fit = Mixture::fit(&projected.select(&sample), k, self.options.seed, mixture_options(&projection));
        let mut parts = vec![Vec::new(); k];
        for (member, shares) in group.iter().zip(fit.mixture.memberships(&projected).iter()) {
            parts[likeliest(shares)].push(*member);
        }
        parts.retain(|part| !part.is_empty());
        match parts.len() {
            1 => slices(&along(group, &projected), group.len().div_ceil(2)),
            _ => parts,
        }
    }

    /// Clusters of a group that is small enough for one piece.
    fn direct(&self, group: Vec<usize>) -> Vec<Vec<usize>> {
        if group.is_empty() {
            return Vec::new();
        }
        let enough = group.len() < 2 * self.options.least_members;
        if enough && self.fits(&group) {
            return vec![group];
        }
        let points = self.points.select(&group);
        let projection = Projection::fit(&points, self.options.dims, self.options.seed);
        if projection.dims() == 0 {
            return self.within_limits(&group);
        }
        let projected = projection.apply(&points);
        let weight: usize = group.iter().map(|member| self.weights[*member]).sum();
        let by_weight = weight.div_ceil(self.options.most_weight.max(1));
        let fewest = group.len().div_ceil(self.options.most_members).max(by_weight).clamp(1, group.len());
        let most = (group.len() / self.options.least_members).clamp(fewest, group.len());
        let options = mixture_options(&projection);
        let mut best = None;
        let mut worse = 0;
        for k in fewest..=most {
            let fit = Mixture::fit(&projected, k, self.options.seed, options);
            if best.as_ref().is_none_or(|(bic, _)| fit.bic < *bic) {
                best = Some((fit.bic, fit.mixture));
                worse = 0;
            } else {
                worse += 1;
                if worse == PATIENCE {
                    break;
                }
            }
        }
        let Some((_, mixture)) = best else { return self.within_limits(&group) };
        let mut clusters = vec![Vec::new(); mixture.weights.len()];
        for (at, shares) in mixture.memberships(&projected).iter().enumerate() {
            let first = likeliest(shares);
            for (component, share) in shares.iter().enumerate() {
                if component == first || *share >= self.options.membership {
                    clusters[component].push(at);
                }
            }
        }
        clusters.retain(|cluster| !cluster.is_empty());
        let named = |at: &Vec<usize>| at.iter().map(|at| group[*at]).collect::<Vec<_>>();
        clusters
            .iter()
            .flat_map(|cluster| {
                let members = named(cluster);
                match members.len() {
                    _ if self.fits(&members) => vec![members],
                    // As large as the group it is from: by its coordinates alone it can't be divided any more.
                    n if n == group.len() => self.within_limits(&along(&group, &projected)),
                    _ => self.direct(members),
                }
            })
            .collect()
    }

    /// Members in the given order, cut wherever the next one would break a limit.
    fn within_limits(&self, members: &[usize]) -> Vec<Vec<usize>> {
        let mut clusters: Vec<Vec<usize>> = Vec::new();
        let mut weight = 0;
        for member in members {
            let own = self.weights[*member];
            match clusters.last_mut() {
                Some(last) if last.len() < self.options.most_members && weight + own <= self.options.most_weight => {
                    last.push(*member);
                    weight += own;
                }
                _ => {
                    clusters.push(vec![*member]);
                    weight = own;
                }
            }
        }
        clusters
    }
}

/// Members in the order of their first coordinates.
fn along(group: &[usize], projected: &Points) -> Vec<usize> {
    let mut order: Vec<usize> = (0..group.len()).collect();
    let first = |at: &usize| projected.row(*at).first().copied().unwrap_or(0.0);
    order.sort_by(|a, b| first(a).total_cmp(&first(b)).then(a.cmp(b)));
    order.into_iter().map(|at| group[at]).collect()
}

fn slices(group: &[usize], size: usize) -> Vec<Vec<usize>> {
    group.chunks(size.max(1)).map(<[usize]>::to_vec).collect()
}

fn likeliest(shares: &[f64]) -> usize {
    let better = |best: usize, (at, share): (usize, &f64)| if *share > shares[best] { at } else { best };
    shares.iter().enumerate().fold(0, better)
}

fn mixture_options(projection: &Projection) -> MixtureOptions {
    let variances = projection.variances();
    let mean = variances.iter().sum::<f64>() / variances.len().max(1) as f64;
    MixtureOptions { regularisation: REGULARISATION * mean, iterations: 30, ..MixtureOptions::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    fn groups(groups: usize, each: usize, dims: usize, noise: f64, seed: u64) -> Points {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let centres: Vec<Vec<f64>> =
            (0..groups).map(|_| (0..dims).map(|_| random.random_range(-1.0..1.0)).collect()).collect();
        let values: Vec<f64> = (0..groups * each)
            .flat_map(|i| {
                centres[i % groups].iter().map(|c| c + noise * random.random_range(-1.0..1.0)).collect::<Vec<_>>()
            })
            .collect();
        Points::new(values, groups * each, dims).unwrap()
    }

    #[test]
    fn groups_that_are_apart_are_found() {
        let points = groups(9, 8, 64, 0.05, 1);
        let clusters = cluster(&points, &[100; 72], &ClusterOptions::default()).unwrap();
        assert_eq!(clusters.len(), 9);
        for Cluster { members } in &clusters {
            assert!(members.iter().all(|member| member % 9 == members[0] % 9), "{members:?}");
        }
    }

    #[test]
    fn large_groups_are_divided_and_still_pure() {
        let points = groups(300, 8, 32, 0.02, 2);
        let clusters = cluster(&points, &[1; 2400], &ClusterOptions::default()).unwrap();
        let pure = clusters.iter().filter(|c| c.members.iter().all(|m| m % 300 == c.members[0] % 300)).count();
        assert!(pure * 10 >= clusters.len() * 8, "{pure} of {}", clusters.len());
    }

    #[test]
    fn the_number_of_threads_changes_nothing() {
        let points = groups(40, 20, 48, 0.3, 3);
        let on = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| cluster(&points, &[10; 800], &ClusterOptions::default()).unwrap())
        };
        assert_eq!(on(1), on(5));
    }

    #[test]
    fn wrong_options_and_shapes_are_refused() {
        let points = groups(1, 3, 2, 0.1, 1);
        let options = ClusterOptions { most_members: 1, ..ClusterOptions::default() };
        assert!(matches!(cluster(&points, &[1; 3], &options), Err(ClusterError::Options(_))));
        assert!(matches!(cluster(&points, &[1; 2], &ClusterOptions::default()), Err(ClusterError::Shape { .. })));
        assert_eq!(Points::new(vec![0.0, f64::NAN], 1, 2), Err(ClusterError::NotFinite { row: 0 }));
        let none = Points::new(Vec::new(), 0, 4).unwrap();
        assert!(cluster(&none, &[], &ClusterOptions::default()).unwrap().is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_point_is_in_a_cluster_within_the_limits(
            rows in prop::collection::vec(
                (prop::collection::vec(prop_oneof![Just(0.0), Just(1.0), -1.0..1.0f64], 5), 0..900usize), 1..90),
            copies in 1..5usize,
            least in 1..5usize,
            extra in 1..8usize,
            most_weight in 1..3000usize,
        ) {
            let rows: Vec<_> = std::iter::repeat_n(rows, copies).flatten().collect();
            let values = rows.iter().flat_map(|(row, _)| row.clone()).collect();
            let weights: Vec<usize> = rows.iter().map(|(_, weight)| *weight).collect();
            let points = Points::new(values, rows.len(), 5).unwrap();
            let most_members = least + extra;
            let options = ClusterOptions { least_members: least, most_members, most_weight, direct: 2 * most_members + 20, ..ClusterOptions::default() };
            let clusters = cluster(&points, &weights, &options).unwrap();
            let mut seen = vec![false; rows.len()];
            for Cluster { members } in &clusters {
                prop_assert!(!members.is_empty() && members.is_sorted());
                let weight: usize = members.iter().map(|member| weights[*member]).sum();
                prop_assert!(members.len() == 1 || members.len() <= most_members && weight <= most_weight);
                members.iter().for_each(|member| seen[*member] = true);
            }
            prop_assert!(seen.into_iter().all(|seen| seen));
            prop_assert_eq!(clusters, cluster(&points, &weights, &options).unwrap());
        }
    }
}
