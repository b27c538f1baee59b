//! The summary tree of a collection: finding its nodes beside the chunks.
//!
//! Nodes and summaries are kept in the catalog.

mod cover;
mod index;
mod lookup;
mod search;
mod select;
mod shape;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use search::{Picked, TreeMode, TreePick, TreeResults, TreeSearchRequest, TreeStanding};

pub(crate) use index::TreeIndex;
