//! Measures retrieval: ranking metrics per arm and fused, how well chunks fit what is asked for, and which fusion suits a
//! collection; and reading: how well a generator finds what stands where in its prompt. All with confidence intervals.
//!
//! A labelled set is a folder in the format of BEIR (Thakur et al. 2021): [`Dataset::load`]. Its documents go through the
//! same ingest as any other collection, its queries through the same search, so a figure says what a user of the
//! collection gets, chunking included; a document's rank is that of its best chunk. Vectors are kept in a file by the
//! hash of what was embedded ([`CachedEmbedder`]), so a change of anything but chunks and embedder is measured in seconds.
//!
//! Invariants: equal input and seed give equal figures; a query without a labelled document is left out and counted;
//! a document that could not be ingested ends the measurement; what is recommended was measured on queries it was not
//! chosen on.
//!
//! A simulated day of questions ([`evaluate_traffic`]) says what knowing the cache is worth.
//!
//! [`evaluate_tree`] says what summaries are worth beside passages, [`evaluate_upkeep`] what keeping them up costs.
//!
//! Deliberately not here: how figures are shown, where models come from, and putting a choice in force.

mod beir;
mod bootstrap;
mod cache;
mod choice;
mod chunking;
mod collection;
mod error;
mod judge;
mod logistic;
mod metrics;
mod placement;
mod prediction;
mod probe;
mod reader;
mod retrieval;
mod routing;
mod rows;
mod runs;
mod scratch;
mod spread;
mod systems;
mod traffic;
mod tree;

pub use beir::{Dataset, LabelledQuery, Passage};
pub use bootstrap::{Bootstrap, Estimate};
pub use cache::CachedEmbedder;
pub use choice::{Choice, Family, HeldOut, choose};
pub use chunking::{
    ChunkingFigures, ChunkingOptions, ChunkingQuestion, ChunkingReport, ChunkingSet, ChunkingSystem, evaluate_chunking,
};
pub use collection::{CollectionReport, LEAST_QUERIES, Queries, QuerySource, Recommendation, evaluate_collection};
pub use error::EvaluationError;
pub use judge::{JudgeOptions, JudgeReport, JudgeRow, JudgeSet, JudgedSigns, Reliability, evaluate_judge};
pub use metrics::{Metric, measure};
pub use placement::{
    Placement, PlacementFigures, PlacementOptions, PlacementPart, PlacementPlan, PlacementReport, PlacementRow,
    set::{PlacementQuestion, PlacementSet},
};
pub use prediction::{PredictionOptions, PredictionReport, evaluate_prediction};
pub use probe::{Probe, ProbeOptions, ProbePlan, ProbeText};
pub use retrieval::{Progress, RetrievalOptions, RetrievalReport, evaluate_retrieval};
pub use routing::{
    Calibration, KindFigures, KindOfFile, KindQuestion, KindQuestions, KindsOfSource, ModelReplay, Point, Policy,
    PreRouteReport, Replay, RoutedQuestion, Routing, RoutingOptions, RoutingReport, RoutingSet, Scores, routing_curve,
};
pub use rows::{Other, Rows};
pub use systems::{System, SystemReport};
pub use traffic::{
    CollectionShare, Machine, Matched, PolicyReport, Text, TrafficOptions, TrafficPolicy, TrafficReport,
    evaluate_traffic,
};
pub use tree::{
    About, Compared, Drift, Edit, EditCost, Edited, Found, HopsReport, HopsSystem, Rouge, Stories, Story,
    StoryQuestion, TreeEvaluation, TreeFigures, TreeOptions, TreeSystem, Twice, UpkeepOptions, UpkeepReport,
    evaluate_hops, evaluate_tree, evaluate_upkeep,
};
