//! The vector index of one collection: exact scan or a graph over normalised embeddings, with checksummed
//! snapshots.
//!
//! Derived data: everything in it comes from the catalog and can be rebuilt from it. It lives in memory; a snapshot
//! saves reading all embeddings from the catalog at the next start.
//!
//! Invariants:
//! - Vectors and queries are finite and of length 1, so the dot product is the cosine.
//! - Hits come by score, largest first, and by id where scores are equal. Without a graph the result does not depend on
//!   the number of threads or on the order in which chunks were inserted; with one, some near chunk may be missed, but
//!   scores are exact, and no removed chunk is ever returned.
//! - A snapshot is named only when it is complete and on disk; what it does not hold bit by bit is never loaded.
//!
//! Deliberately not here: locking and threads (the owner wraps the index and builds graphs in the background), and reading
//! the catalog.

mod error;
mod flat;
mod graph;
mod index;
mod kernel;
mod snapshot;
#[cfg(test)]
mod testing;
mod top;

pub use error::VectorError;
pub use graph::GraphOptions;
pub use index::{IndexStats, Method, Rebuild, Rebuilt, VectorHit, VectorIndex};
