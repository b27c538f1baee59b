//! A sequence's hold on its pages.

use edgewise_types::TenantId;

use crate::{Boundary, PageId, budget::AccountId};

/// One sequence of tokens and its block table. Made by [`crate::KvCache::open`] and [`crate::KvCache::fork`], given back
/// by [`crate::KvCache::close`] or [`crate::KvCache::preempt`]; one that is dropped instead keeps its pages for good,
/// which is a bug.
#[derive(Debug)]
pub struct Sequence {
    pub(crate) id: u64,
    pub(crate) tenant: TenantId,
    pub(crate) account: AccountId,
    /// Pages shared by all tenants, if they are complete.
    pub(crate) public_pages: usize,
    pub(crate) boundaries: Vec<Boundary>,
    /// Tokens whose keys and values it holds.
    pub(crate) tokens: Vec<u32>,
    /// Block table; those beyond the tokens are reserved.
    pub(crate) pages: Vec<PageId>,
    /// Leading pages that are in the tree. Of the others, all but a last one found partly matching are its own.
    pub(crate) published: usize,
    /// Leading tokens that may be published.
    pub(crate) shareable: usize,
    pub(crate) closed: bool,
}

impl Sequence {
    /// Its block table. [`crate::KvCache::commit`] and [`crate::KvCache::refresh`] may replace a page by another of the
    /// same content: read it anew for every forward pass.
    pub fn pages(&self) -> &[PageId] {
        &self.pages
    }

    /// Tokens whose keys and values it holds.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// The tokens.
    pub fn token_ids(&self) -> &[u32] {
        &self.tokens
    }

    /// Whose it is.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }
}

impl Drop for Sequence {
    fn drop(&mut self) {
        debug_assert!(self.closed || std::thread::panicking(), "a sequence was dropped without being closed");
    }
}
