//! Features, cost model, route choice, budgets, placement, composition and citations.
//!
//! A question goes through these modules in order: `limits` and `features` measure what there is, `select`, `place`,
//! `compose` and `draft` make the real prompt of every route, `cost` and `quality` predict what each would cost, take and be
//! worth, `choose` picks one, `answer` has it generated, and `cite` ties the answer to the sources. `judge` says how likely
//! the sources do not hold the answer, and `escalate` then widens once. `history` reads the earlier turns of a
//! conversation, and `extend` makes the prompts that continue theirs, or a first answer's.
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
mod escalate;
mod extend;
mod features;
mod history;
mod judge;
mod limits;
mod options;
mod place;
mod planner;
mod quality;
mod select;
#[cfg(test)]
mod testing;

pub use api::{
    Answer, AnswerEvent, AnswerSentence, Budget, Candidate, Citation, CitationMethod, Drop, Escalated, Explanation,
    Features, Objective, Query, Route, Segment, SegmentKind, SourceRef,
};
pub use error::{PlannerError, PlannerErrorKind};
pub use escalate::{Escalation, EscalationPlan};
pub use history::{Attempt, MAX_TURN_BYTES, MAX_TURNS, Turn, TurnSource, TurnSourceKind};
pub use judge::{JUDGE_FORMAT, JudgeCoefficients, JudgeFile, JudgeProvenance, Judgement};
pub use options::PlannerOptions;
pub use planner::Planner;
