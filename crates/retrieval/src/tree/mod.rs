//! The summary tree of a collection: building it and keeping it up, its state, its nodes.
//!
//! Nodes and summaries are kept in the catalog; `edgewise_summary_tree` decides what they are. Deliberately not here:
//! clustering, summarising, and threads that work in the background.

mod build;
mod options;
mod plan;
mod report;
mod status;
mod store;
mod view;
mod watch;

pub use options::{SummariserKind, TreeBuildOptions, TreeControl, TreeGenerator, TreeHalt};
pub use report::{
    TreeBudget, TreeItem, TreeLeaf, TreeMethods, TreeNode, TreePlan, TreeProgress, TreeReport, TreeStage, TreeStatus,
    TreeView, TreeWork,
};
pub use view::TreeScopeView;
