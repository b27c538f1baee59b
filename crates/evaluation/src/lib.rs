//! Measures retrieval on labelled sets: ranking metrics per arm and fused, with confidence intervals.
//!
//! A set is a folder in the format of BEIR (Thakur et al. 2021): [`Dataset::load`]. Its documents go through the same
//! ingest as any other collection, its queries through the same search, so a figure says what a user of the collection
//! gets, chunking included; a document's rank is that of its best chunk. Vectors are kept in a file by the hash of what
//! was embedded ([`CachedEmbedder`]), so a change of anything but chunks and embedder is measured in seconds.
//!
//! Invariants: equal input and seed give equal figures; a query without a labelled document is left out and counted;
//! a document that could not be ingested ends the measurement.
//!
//! Deliberately not here: how figures are shown, where models come from, and any choice made from the figures.

mod beir;
mod bootstrap;
mod cache;
mod error;
mod metrics;
mod retrieval;

pub use beir::{Dataset, LabelledQuery, Passage};
pub use bootstrap::{Bootstrap, Estimate};
pub use cache::CachedEmbedder;
pub use error::EvaluationError;
pub use metrics::{Metric, measure};
pub use retrieval::{Progress, RetrievalOptions, RetrievalReport, System, SystemReport, evaluate_retrieval};
