//! Summary trees: groups of texts that belong together, a summary of each group, groups of these, up to one root.
//!
//! Follows RAPTOR (Sarthi et al. 2024): soft clusters of a Gaussian mixture in few dimensions, their number by the
//! Bayesian information criterion, summarised, and again upon the summaries. Departs from it where it can't be kept up:
//! principal components in place of UMAP, which gives other coordinates in every run, diagonal covariances, a bound on the
//! size of groups that are clustered in one piece, so that time grows as n·log n, and clusters that stay as they are until
//! what is in them changes.
//!
//! [`TreeBuilder`] builds the tree of a document and the layers above documents; [`Extractive`] and [`Abstractive`] make
//! the summaries; a [`SummaryStore`] keeps them by what they were made from.
//!
//! Invariants:
//! - Equal texts, embeddings and options give equal trees, on any number of threads. What was stored before decides only
//!   how much is made.
//! - Any input makes a tree: no text, one text, equal texts, texts over every limit.
//! - A failure of a summariser is an error, never a text.
//!
//! Deliberately not here: storage, search, threads of its own, chunks' life in a catalog.

mod abstractive;
mod builder;
mod cluster;
mod error;
mod extractive;
mod faithful;
mod layer;
mod make;
mod model;
mod past;
mod plan;
mod summarise;

pub use abstractive::{Abstractive, AbstractiveOptions};
pub use builder::{BuildEvent, Control, SummaryStore, TreeBuilder, TreeOptions, Unattended};
pub use cluster::{Cluster, ClusterOptions, Mixture, MixtureFit, MixtureOptions, Points, Projection, cluster};
pub use error::{ClusterError, Halt, StoreError, SummariseError, TreeError};
pub use extractive::{Extractive, ExtractiveOptions};
pub use layer::{FormerCluster, Layer, LayerOptions, full as full_layer, update as update_layer};
pub use model::{DocumentLeaves, Leaf, Node, RootMember, Summary, TreePart, leaf_ids};
pub use plan::{PlannedRoot, PlannedWork};
pub use summarise::{Effort, MemberText, Summariser, SummaryLimits, SummaryRequest, SummaryText};
