//! The whole service over scripted models: every path, every error, streams, and a real socket where it matters.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs, unreachable_pub)]

mod collections;
mod dialects;
mod documents;
mod errors;
mod feedback;
mod fuzz;
mod harness;
mod isolation;
mod keys;
mod limits;
mod mcp;
mod native;
mod questions;
mod server;
mod slow;
mod surroundings;
mod tls;
mod trees;
mod usage;
