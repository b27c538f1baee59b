//! Collections through their public interface, with an embedder without weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod durability;
mod filter;
mod graph;
mod ingest;
mod maintain;
mod processes;
mod rebuild;
mod search;
mod support;
