//! Retained prefixes, as seen from outside.

use std::time::Duration;

use edgewise_types::TenantId;

use crate::{Digest, HostSlot, Move, PageId, Priority, Sequence, Ttl};

/// Name of a retained prefix; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PrefixId(pub u64);

/// A retained prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixInfo {
    /// Its name while it lives.
    pub id: PrefixId,
    /// Its name for good: the same prefix has the same digest after a restart.
    pub digest: Digest,
    /// The longest other prefix that it begins with.
    pub parent: Option<PrefixId>,
    /// Whose it is.
    pub tenant: TenantId,
    /// Its length.
    pub tokens: usize,
    /// Pages it has on the device. Below `tokens` divided by the page size if it is over budget or partly in host memory.
    pub pages: usize,
    /// Pages it has in host memory.
    pub host_pages: usize,
    /// How long it stays after a use.
    pub ttl: Ttl,
    /// How long it stays from now on.
    pub left: Duration,
    /// How often it was found.
    pub hits: u64,
    /// See [`Priority`].
    pub priority: Priority,
}

/// Where a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the engine's page storage.
    Device(PageId),
    /// In host memory.
    Host(HostSlot),
}

/// Everything needed to put a prefix back later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrefixRecord {
    /// Whose it is.
    pub tenant: TenantId,
    /// See [`crate::OpenRequest::public_tokens`].
    pub public_tokens: usize,
    /// Its tokens, and after them those of its last page if that is public.
    pub tokens: Vec<u32>,
    /// Its length.
    pub at: usize,
    /// How long it stays after a use.
    pub ttl: Ttl,
    /// How long it stays if it isn't used.
    pub left: Duration,
}

/// A retained prefix to be written elsewhere. The places hold only until the cache is next changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Its name for good.
    pub digest: Digest,
    /// What it is.
    pub record: PrefixRecord,
    /// Where its pages are, in order. Of the last one, the positions beyond the prefix are of no interest.
    pub pages: Vec<Place>,
    /// To be executed, in order, before the pages are read.
    pub moves: Vec<Move>,
}

/// A prefix being put back. After `moves`, write the named pages, then hand it to
/// [`crate::KvCache::finish_import`].
#[derive(Debug)]
#[must_use = "an import holds pages until it is finished"]
pub struct Importing {
    pub(crate) sequence: Sequence,
    pub(crate) record: PrefixRecord,
    /// To be executed, in order, before anything is written.
    pub moves: Vec<Move>,
    /// Pages to be written: index within the prefix, and where it goes. Those missing here are resident already.
    pub write: Vec<(usize, PageId)>,
}
