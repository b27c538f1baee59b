//! The paged key-value cache of an engine, as plain data: which page holds what, who may read it, what stays and for
//! how long. The keys and values themselves belong to the engine, which executes the [`Move`]s given out here.
//!
//! Deliberately not here: tensors, devices, files, threads, a clock (time comes in as an argument).

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
pub use stats::{Evictions, MissCount, Stats, Times};
