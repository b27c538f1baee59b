//! One module a command. Each turns arguments into calls of the libraries and prints what came of it.

pub(crate) mod bench;
mod bench_shape;
pub(crate) mod chat;
pub(crate) mod collections;
pub(crate) mod config;
pub(crate) mod documents;
pub(crate) mod eval;
pub(crate) mod feedback;
pub(crate) mod ingest;
pub(crate) mod keys;
pub(crate) mod mcp;
pub(crate) mod models;
pub(crate) mod probe;
pub(crate) mod query;
pub(crate) mod quickstart;
pub(crate) mod search;
pub(crate) mod serve;
pub(crate) mod tree;
pub(crate) mod usage;
