//! Features, cost model, route choice, budgets, placement, composition and citations.
//!
//! A question goes through these modules in order: `limits` and `features` measure what there is, `question` and `router`
//! judge the question, `select`, `place`,
//! `compose` and `draft` make the real prompt of every route, `cost` and `quality` predict what each would cost, take and be
//! worth, `narrow` shortens what is over a limit, `choose` picks one, `answer` has it generated, and `cite` ties the answer
//! to the sources. `judge` says how likely the sources do not hold the answer, and `escalate` then widens once. `history`
//! reads the earlier turns of a conversation, and `extend` makes the prompts that continue theirs, or a first answer's.
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
mod bare;
mod choose;
mod cite;
mod compose;
mod cost;
mod draft;
mod error;
mod escalate;
mod extend;
mod features;
mod history;
mod judge;
mod judge_kind;
mod learned;
mod limits;
mod monitor;
mod narrow;
mod observed;
mod options;
mod place;
mod planner;
mod prepared;
mod pricing;
mod profile;
mod quality;
mod question;
mod reuse;
mod router;
mod select;
#[cfg(test)]
mod testing;
mod tree;
mod warm;

pub use api::{
    Answer, AnswerEvent, AnswerSentence, Budget, Candidate, Citation, CitationMethod, Drop, Escalated, Explanation,
    Features, Objective, PreRoute, Query, Route, Segment, SegmentKind, SourceRef, SourceSummary,
};
pub use bare::PromptAnswers;
pub use error::{PlannerError, PlannerErrorKind};
pub use escalate::{Escalation, EscalationPlan};
pub use features::{Scope, ask as measure_question, measure as measure_hits};
pub use history::{Attempt, MAX_TURN_BYTES, MAX_TURNS, Turn, TurnSource, TurnSourceKind};
pub use judge::{JUDGE_FORMAT, JudgeCoefficients, JudgeFile, JudgeProvenance, Judgement};
pub use limits::{Ceiling, LimitInForce, Origin};
pub use monitor::{
    FALSE_ALARM, PromptRegion, ReadingBlock, ReadingMonitor, ReadingSignal, RegionFigures, Sighting, SignalReport,
};
pub use options::{EffectiveWindow, PlannerOptions};
pub use place::{arrange, edges};
pub use planner::Planner;
pub use prepared::Prepared;
pub use profile::{
    CurvePoint, EFFECTIVE_SHARE, Interval, Measurement, Observation, PositionCurve, ProfileStore, ProfileStoreError,
    ReadingCell, ReadingCurve, ReadingLength, ReadingProfile, ReadingTask,
};
pub use question::{KindProbabilities, QuestionKind, SURFACE_NAMES, Surface};
pub use router::{
    BUCKETS, Corrections, FORMAT as ROUTER_FORMAT, Feedback, Head, ModelHead, Platt, Provenance, Router, RouterError,
    RouterFile, RouterInput, RouterReading, Scale, Sparse, kinds, ngrams, scale, word_hashes,
};
pub use tree::breadth as tree_breadth;
pub use warm::Warmed;
