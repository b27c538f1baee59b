//! The summary tree of a collection: building it and keeping it up, its state, its nodes, and finding them beside the
//! chunks.
//!
//! Nodes and summaries are kept in the catalog; `edgewise_summary_tree` decides what they are. Deliberately not here:
//! clustering, summarising, and threads that work in the background.

mod build;
mod cover;
mod found;
mod index;
mod lookup;
mod options;
mod plan;
mod report;
mod search;
mod select;
mod shape;
mod status;
mod store;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
mod view;
mod watch;

pub use found::{Picked, TreeMode, TreePick, TreeResults, TreeSearchRequest, TreeStanding};
pub use options::{SummariserKind, TreeBuildOptions, TreeControl, TreeGenerator, TreeHalt};
pub use report::{
    TreeBudget, TreeItem, TreeLeaf, TreeMethods, TreeNode, TreePlan, TreeProgress, TreeReport, TreeStage, TreeStatus,
    TreeView, TreeWork,
};
pub use view::TreeScopeView;

pub(crate) use index::TreeIndex;
