//! The SQLite catalog: the only source of truth of a collection.
//!
//! One file, `catalog.sqlite`, holds documents with their normalised text, chunks as byte spans into it, embeddings,
//! tombstones, and a [`Generation`](edgewise_types::Generation) that grows by one with each committed batch. Every
//! other index of a collection is derived: it remembers the generation it has reached and catches up from
//! [`Catalog::changes_since`].
//!
//! Beside them stand summary trees over the documents, with a version of their own, and the jobs of the collection.
//!
//! Invariants:
//! - A [`Catalog::commit`] that returned is durable (write-ahead log, `synchronous=FULL`); one that did not return has
//!   happened completely or not at all.
//! - Every chunk's span is a range of whole characters of its document's text; every chunk has an embedding of the
//!   catalog's dimension; ordinals of a document are 0, 1, 2, …
//! - A [`ChunkId`](edgewise_types::ChunkId) is never used twice.
//! - All content is sealed with checksums, which [`Catalog::check`] verifies.
//! - Each read sees one committed state; a read of several tables does not mix two.
//!
//! Deliberately not here: parsing, chunking, embedding, search, the lock that keeps a second writing process out
//! (SQLite serialises single commits, but two ingests would still interleave), clocks, and telling a write-ahead log whose
//! end is lost from one that ended there: whoever followed the catalog knows the generation it had reached.

mod catalog;
mod check;
mod connections;
mod error;
mod jobs;
mod maintain;
mod read;
mod records;
mod rows;
mod schema;
mod seals;
mod tree;
mod write;

pub use catalog::{Catalog, OpenMode};
pub use error::CatalogError;
pub use jobs::{JobRecord, JobState};
pub use records::{
    Batch, CatalogMeta, Changes, ChunkRecord, Committed, ContentFingerprint, EmbedderIdentity, NewChunk, NewDocument,
    Stats,
};
pub use tree::{
    Below, DocumentTree, NewTreePart, NodeRow, PartOverview, ShapeNode, SummaryRecord, TreeChanges, TreeCommit,
    TreeNode, TreeNodeRecord, TreeOverview, TreePartRecord, TreeShape, TreeStanding, TreeVersion,
};
