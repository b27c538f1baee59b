//! The paged key-value cache of an engine, as plain data: which page holds what, who may read it, what stays and for
//! how long. The keys and values themselves belong to the engine, which executes the [`Move`]s given out here.
//!
//! Deliberately not here: tensors, devices, files, threads, a clock (time comes in as an argument).

mod page;

pub use page::{HostSlot, Move, PageId};
