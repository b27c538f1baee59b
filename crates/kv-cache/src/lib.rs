//! The paged key-value cache of an engine, as plain data: which page holds what, who may read it, what stays and for
//! how long. The keys and values themselves belong to the engine, which executes the [`Move`]s given out here.
//!
//! # A sequence's life
//!
//! ```text
//! lookup ─► open ─► reserve ─► (forward pass) ─► commit ─► … ─► close
//!            │         │                            │            │
//!   hold the resident  make room; copy a      publish the    publish the end; boundaries
//!   prefix's pages     shared last page       whole pages    become retained prefixes
//! ```
//!
//! [`KvCache::refresh`] picks up what others have published meanwhile, [`KvCache::fork`] makes a second sequence of the
//! same pages, [`KvCache::preempt`] gives pages back until there is room again.
//!
//! # Parts
//!
//! - **Pool**: a page is free, used or cached; `free + used + cached = total`. Reference counts, and doubly linked lists
//!   threaded through the pages in order of last use.
//! - **Tree**: a node per published page below the node of the page before it. Found by comparing tokens, children being
//!   sorted by theirs; a hash never finds a page. Named by a keyed BLAKE3 chain over model, rotary embedding, number type,
//!   page size, tenant salt and tokens, computed once, when a page is published.
//! - **Retention**: a boundary makes the pages before it a retained prefix with a priority and an expiry that uses
//!   refresh. Within its tenant's budget a retained page is evicted for nobody but a sequence that is alone in the pool
//!   and can't run otherwise. Beyond the budget it goes after everything unretained. So what is retained within budget
//!   outlives any flood, and no request that fits the pool is refused for good.
//! - **Host tier**: what leaves the device and was retained, or found again at least once, moves to host memory if there
//!   are slots, and comes back when it is found.
//! - **History**: a bounded memory of digests given up, which tells expired from evicted from never written.
//!
//! # Invariants
//!
//! - A page that others can read is never written. Writing begins with a copy.
//! - Below the last public page a walk passes a gate of one tenant: nobody finds another tenant's pages. Nor does anything
//!   a request is told ([`Lookup`], [`Opened`]) depend on other tenants' private pages: that the same tokens are another's
//!   is counted for the operator ([`MissReason::OtherTenant`]), from a chain without salt that finds nothing, and isn't a
//!   [`Miss`]. (How full the pool is, everybody can notice.)
//! - What is left of a prefix is always its beginning: pages go from the end, and the device holds what comes before the
//!   host.
//! - A prompt's last token is never resident: its logits have to be computed.
//! - The same page computed twice is kept once. This rests on keys and values being a function of the tokens, bit for
//!   bit, however they were computed.
//!
//! # Expiry without a cache library
//!
//! Retained prefixes are a map and an ordered set of (time, prefix). moka, with per-entry expiry, was considered: its
//! clock can't be set from outside (`clock` is `pub(crate)` in 0.12), it evicts at its own time rather than at a given
//! one, and a listener that reaches back into the pool would need a lock that nothing else here needs.
//!
//! Deliberately not here: tensors, devices, files, threads, a clock (time comes in as an argument), and the decision
//! whether to wait for a prefix that is [coming](Lookup::coming).

mod budget;
mod cache;
mod error;
mod ghosts;
mod host;
mod identity;
mod list;
mod options;
mod page;
mod pool;
mod prefix;
mod prefixes;
mod request;
mod running;
mod sequence;
mod stats;
mod tree;

pub use cache::KvCache;
pub use error::{CacheError, OutOfPages};
pub use identity::{Digest, Identity};
pub use options::{CacheOptions, Reserved};
pub use page::{HostSlot, Move, PageId};
pub use prefix::{Export, Importing, Place, PrefixId, PrefixInfo, PrefixRecord};
pub use request::{Boundary, Lookup, Miss, MissReason, OpenRequest, Opened, Priority, Refreshed, Ttl};
pub use sequence::Sequence;
pub use stats::{Evicted, Evictions, MissCount, Stats, Times};
