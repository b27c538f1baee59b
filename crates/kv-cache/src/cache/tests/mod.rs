//! The cache against a simulation of the engine's memory, as properties and as scenarios.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audit;
mod flood;
mod properties;
mod scenarios;
mod simulation;
mod waste;

use std::{collections::HashMap, time::Duration};

use edgewise_types::TenantId;

use crate::{CacheOptions, Identity, Reserved};

/// Positions of a page in these tests.
const PAGE: usize = 4;

fn tenant(name: &str) -> TenantId {
    TenantId(name.into())
}

fn options(pages: usize, host_pages: usize) -> CacheOptions {
    CacheOptions {
        page_tokens: PAGE,
        pages,
        host_pages,
        min_prefix_tokens: 0,
        identity: Identity::new(&[("model", b"m")]),
        secret: [7; 32],
        reserved: Reserved::default(),
    }
}

/// Budgets of so many pages for the tenants "a" and "b".
fn reserved(a: usize, b: usize) -> Reserved {
    Reserved { public: 0, tenants: HashMap::from([(tenant("a"), a), (tenant("b"), b)]), default: 0, limit: a + b }
}

fn seconds(s: u64) -> Duration {
    Duration::from_secs(s)
}
