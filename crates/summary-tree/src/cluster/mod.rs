//! Clusters of points.

mod mixture;
mod partition;
mod points;
mod projection;
mod symmetric;

pub use mixture::{Mixture, MixtureFit, MixtureOptions};
pub use partition::{Cluster, ClusterOptions, cluster};
pub use points::Points;
pub use projection::Projection;
