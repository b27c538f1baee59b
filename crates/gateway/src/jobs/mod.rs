//! Background work: started by a request, going on after its response, durable, and told as it goes.
//!
//! A job is a [`Work`] on a thread of its own. Jobs of a server take turns, in the order in which they came: two builds at
//! once would only share the same cores and model. Uploads have a line of their own. A paused job gives its turn away.
//!
//! Invariants:
//! - A job's record is in its collection's catalog as soon as no ingest holds it, and again at each change of its state and every
//!   few seconds. A server that was killed, or stopped, takes up at its next start what was not over; a paused job stays
//!   paused.
//! - A job that is over never changes again, and is over exactly once.
//! - Work is never interrupted, it asks: [`Control::check`] waits while the job is paused and says when to end.
//!
//! Deliberately not here: what a kind of job does (see `tree` and `batch`).

pub(crate) mod api;
mod control;
mod queue;

pub use api::JobList;
pub(crate) use control::{Control, Stop};
pub(crate) use queue::{Jobs, NewJob};

use serde_json::Value;

use crate::ApiError;

/// How work ended.
pub(crate) enum Ended {
    /// It did what it could; how it went.
    Done(Value),
    /// It asked [`Control::check`] and was told to end; how far it came.
    Stopped(Value),
    /// It met an error; how far it came.
    Failed(ApiError, Value),
}

/// What a job does. Called once, on the job's own thread; blocks.
pub(crate) type Work = Box<dyn FnOnce(&Control) -> Ended + Send>;
