//! Collections: a catalog and its indexes kept in step, ingest, hybrid search and fusion.
//!
//! The path of a document: [`discover`] names files → [`Collection::ingest`] reads, parses, cuts and embeds what is new
//! and commits it to the catalog → the lexical and the vector index follow. The path of a question:
//! [`Collection::search`] reads both indexes, fuses what they say and loads the chunks; [`Collection::search_tree`] reads
//! summaries beside them.
//!
//! Invariants:
//! - What an ingest has committed is never lost, whenever the process is killed; indexes are brought up to the catalog at
//!   the next start, and rebuilt from it when they are missing or damaged.
//! - A search never returns a chunk that is not in the catalog, and never mixes vectors of two embedders.
//! - At most one process writes to a collection; any number read, and see each commit.
//! - One bad file never stops a batch; a failing disk stops it with what was committed intact.
//!
//! Deliberately not here: how files are parsed and cut, how indexes store what they store, models, routes, prompts.

mod api;
mod ceiling;
mod collection;
mod collections;
mod commit;
mod discover;
mod error;
mod filter;
mod folder;
mod fusion;
mod ingest;
mod jobs;
mod lock;
mod maintain;
mod mmr;
mod plan;
mod prepare;
mod rerank;
mod scope;
mod search;
mod section;
mod state;
mod tree;
mod vectors;

pub use api::{
    ArmScore, CollectionStats, Fusion, Hit, IngestReport, Outcome, SearchRequest, SearchResults, Source, SourceContent,
    SourceReport,
};
pub use collection::{Collection, Reranking, RetrievalModels};
pub use collections::{Collections, Listing};
pub use discover::{Discovered, Skipped, discover};
pub use edgewise_documents::{Ceiling, Passwords};
pub use edgewise_lexical_index::Bm25;
pub use error::{Cause, RetrievalError};
pub use filter::{Filter, FilterError};
pub use folder::names;
pub use fusion::{Arm, Fused, fuse};
pub use ingest::{IngestOptions, IngestProgress, Silent};
pub use jobs::{Job, JobState, jobs_of};
pub use maintain::{CheckReport, Compacted, Finding, Part, Repaired, check, compact, export, import, rename, repair};
pub use plan::Plan;
pub use search::{Arms, MAX_LIMIT, profile_fusion};
pub use section::Section;
pub use tree::{
    Picked, SummariserKind, TreeBudget, TreeBuildOptions, TreeControl, TreeGenerator, TreeHalt, TreeItem, TreeLeaf,
    TreeMethods, TreeMode, TreeNode, TreePick, TreePlan, TreeProgress, TreeReport, TreeResults, TreeScopeView,
    TreeSearchRequest, TreeStage, TreeStanding, TreeStatus, TreeView, TreeWork,
};
