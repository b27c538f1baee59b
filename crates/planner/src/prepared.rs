//! A question that was searched for and composed, and is not decided on yet.
//!
//! Invariant: nothing in it depends on what is resident, on the queue, on the time of day or on earlier questions, as long
//! as no limit of money or time has to be kept. So one preparation can be decided on as often as these change.
//!
//! Deliberately not here: making one, and deciding.

use std::sync::Arc;

use edgewise_types::{Generation, Timings};

use crate::{
    PlannerError, PreRoute, Query,
    compose::{Recap, Step},
    draft::Draft,
    extend::Material,
};

/// What a choice is made of: see [`crate::Planner::prepare`].
pub struct Prepared {
    pub(crate) question: String,
    pub(crate) material: Arc<Material>,
    pub(crate) variants: Vec<Variant>,
    /// The conversation so far.
    pub(crate) steps: Vec<Step>,
    /// Whether the question means little without it.
    pub(crate) leans: bool,
    /// What fresh prompts repeat of the turn before.
    pub(crate) recap: Option<Recap>,
    pub(crate) notes: Vec<String>,
    pub(crate) search_notes: Vec<String>,
    pub(crate) pre_route: Option<PreRoute>,
    /// What was searched for, where that is not the question.
    pub(crate) searched: Option<String>,
    pub(crate) generation: Generation,
    /// What searching and composing took.
    pub(crate) timings: Timings,
    /// The same by the planner's clock, in milliseconds.
    pub(crate) ms: f64,
}

/// A prompt among those compared.
pub(crate) struct Variant {
    pub(crate) draft: Draft,
    /// What was left out for a limit's sake.
    pub(crate) note: Option<String>,
    /// Exchanges of the conversation it leaves out from the front; all of them in a fresh prompt.
    pub(crate) without: usize,
    /// Turns it continues.
    pub(crate) turns: usize,
}

impl Prepared {
    /// Whether it was made for this question.
    pub(crate) fn check(&self, query: &Query) -> Result<(), PlannerError> {
        match self.question == query.question {
            true => Ok(()),
            false => Err(PlannerError::InvalidQuery("another question was prepared than is asked".to_owned())),
        }
    }
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("question", &self.question).finish_non_exhaustive()
    }
}
