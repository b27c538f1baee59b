//! Collections through their public interface, with an embedder without weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod durability;
mod filter;
mod ingest;
mod maintain;
mod processes;
mod rebuild;
mod rerank;
mod search;
mod support;
