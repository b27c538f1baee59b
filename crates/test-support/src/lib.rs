//! What tests of the other crates share: scripted models that run in microseconds, a clock that moves when told, a tiny
//! corpus, tolerance matchers, and the contracts of `edgewise-model-api` as functions any implementation can be put
//! through.
//!
//! Everything here is deterministic. The scripted models keep the contracts of the traits to the letter (the same
//! [`contract`] functions run on them and on the real engine), so a test that passes on them fails on a real model
//! only for reasons of quality.
//!
//! Deliberately not here: anything that needs a crate above `model-api`, and anything shipped in the binary.

// A failed expectation in this crate is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod approx;
mod clock;
pub mod contract;
pub mod corpus;
mod hash_embedder;
mod models;
mod pem;
mod scripted;
mod words;

pub use approx::{approx_eq, assert_approx_eq};
pub use clock::ManualClock;
pub use hash_embedder::HashEmbedder;
pub use models::test_model;
pub use pem::pem;
pub use scripted::{Reply, ScriptedGenerator};
pub use words::WordTokenizer;
