//! Features, cost model, route choice, budgets, placement, composition and citations.
//!
//! A question goes through these modules in order: `limits` and `features` measure what there is, `select`, `place`,
//! `compose` and `draft` make the real prompt of every route, `cost` and `quality` predict what each would cost, take and be
//! worth, `choose` picks one, `answer` has it generated, and `cite` ties the answer to the sources.
//!
//! Invariants:
//! - What is predicted of a prompt's length is exact: the prompt that is priced is the prompt that is generated from.
//! - Budgets and windows are enforced before any generation.
//! - Everything retrieval brought up is a source or a reported drop.
//! - A citation's quote equals the text of its document at its span.
//!
//! Deliberately not here: HTTP, the ledger's records, a concrete engine. The same inputs, cache and queue always give
//! the same choice; time enters only as a measurement.

mod answer;
mod api;
mod choose;
mod cite;
mod compose;
mod cost;
mod draft;
mod error;
mod features;
mod limits;
mod monitor;
mod options;
mod place;
mod planner;
mod profile;
mod quality;
mod select;
#[cfg(test)]
mod testing;

pub use api::{
    Answer, AnswerEvent, AnswerSentence, Budget, Candidate, Citation, CitationMethod, Drop, Explanation, Features,
    Objective, Query, Route, Segment, SegmentKind, SourceRef,
};
pub use error::{PlannerError, PlannerErrorKind};
pub use monitor::{
    FALSE_ALARM, PromptRegion, ReadingBlock, ReadingMonitor, ReadingSignal, RegionFigures, Sighting, SignalReport,
};
pub use options::{EffectiveWindow, PlannerOptions};
pub use place::{arrange, edges};
pub use planner::Planner;
pub use profile::{
    CurvePoint, EFFECTIVE_SHARE, Interval, Measurement, Observation, PositionCurve, ProfileStore, ProfileStoreError,
    ReadingCell, ReadingCurve, ReadingLength, ReadingProfile, ReadingTask,
};
