//! Registry, download, checksum and storage of model files.
//!
//! On disk: `<root>/<model>/` holds the files of an installed model and a record of their check; `<root>/.partial/`
//! holds pulls that are under way or were killed; `<root>/.locks/` holds one lock file per model. Invariants:
//! - A model's folder appears under its name by one rename, after every file was hashed and synced. Nothing
//!   half-written is ever where [`ModelStore::resolve`] looks.
//! - A file whose SHA-256 differs from the registry's is refused, wherever it comes from, and removed.
//! - Two pulls of one model, in any processes, run one after the other. What a killed pull left behind is removed by
//!   the next.
//! - [`ModelStore::resolve`] gives only files whose hash was checked since they last changed (by size and time of
//!   modification); it hashes again when they did.
//!
//! Deliberately not here: inference, drawing progress, choosing a model.

mod error;
mod marker;
mod progress;
mod pull;
mod registry;
mod sources;
mod store;
mod write;

pub use error::StoreError;
pub use progress::{NoProgress, Progress};
pub use pull::{PullOptions, Pulled};
pub use registry::{FileSpec, ModelKind, ModelSpec, Registry, Source, SourceKind};
pub use sources::{HubOptions, PipPrograms};
pub use store::{FileCheck, ModelFiles, ModelState, ModelStatus, ModelStore};
