//! Summary trees: summaries by what decides their text, and nodes by scope.
//!
//! Invariants:
//! - A summary is durable when [`crate::Catalog::put_summary`] returns, whether a node has it or not: a build that is
//!   killed finds it again.
//! - The part of a document is of the chunks the document has now. [`crate::Catalog::commit`] of another text, or of a
//!   deletion, takes the part away in the same transaction, and [`crate::Catalog::commit_tree`] refuses one of other
//!   chunks.
//! - The layers above documents may be of documents that are gone; what is read of a node says so
//!   ([`TreeNodeRecord::leaves`]).
//! - The tree has a version of its own and leaves the generation as it is.
//! - All rows are sealed like the rest of the catalog.
//!
//! Deliberately not here: clustering, summarising, and which node answers what.

mod changes;
mod check;
mod commit;
mod read;
mod records;
mod schema;
mod summaries;

pub use records::{
    Below, DocumentTree, NewTreePart, NodeRow, PartOverview, ShapeNode, SummaryRecord, TreeChanges, TreeCommit,
    TreeNode, TreeNodeRecord, TreeOverview, TreePartRecord, TreeShape, TreeStanding, TreeVersion,
};

pub(crate) use check::{content_findings, seal_findings};
pub(crate) use commit::{documents_changed, next_version, remove_document};
pub(crate) use schema::{JOB_SEAL, PART_SEAL, TABLES, VERSION};
