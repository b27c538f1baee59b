//! Groups of texts that belong together, from their embeddings: what every layer of a summary tree is made of.
//!
//! Follows RAPTOR (Sarthi et al. 2024): soft clusters of a Gaussian mixture in few dimensions, their number by the
//! Bayesian information criterion. Departs from it where it can't be kept up: principal components in place of UMAP,
//! which gives other coordinates in every run, diagonal covariances, and a bound on the size of groups that are clustered
//! in one piece, so that time grows as n·log n.
//!
//! Invariants:
//! - Equal points and options give equal clusters, on any number of threads.
//! - Every point is in a cluster; no cluster is empty or over the limits of [`ClusterOptions`].
//! - Any input is clustered: one point, equal points, more dimensions than points.
//!
//! Deliberately not here: texts, summaries, storage.

mod cluster;
mod error;

pub use cluster::{Cluster, ClusterOptions, Mixture, MixtureFit, MixtureOptions, Points, Projection, cluster};
pub use error::ClusterError;
