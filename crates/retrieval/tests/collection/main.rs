//! Collections through their public interface, with an embedder without weights.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, missing_docs)]

mod damage;
mod durability;
mod fault_run;
mod filter;
mod graph;
mod ingest;
mod maintain;
mod processes;
mod rebuild;
mod rerank;
mod search;
mod support;
mod tree;
mod tree_build;
