//! Fewer sources, so that a prompt stays under a limit of money or time.
//!
//! How many tokens a limit leaves room for depends on what of the prompt is resident, which is known only of a prompt.
//! So a draft is priced; if it is over, the excess and the price of a token say how long it may be at most, and it is
//! made again with that many. Each turn leaves out at least one source, so this ends, at the latest with the one source
//! that is then refused with what it would need.

use crate::{
    Drop, PlannerError,
    draft::Draft,
    limits::{Exceeded, Limits},
};

/// How far a draft is over a limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Excess {
    pub(crate) limit: Exceeded,
    /// Prompt tokens to save at least, by what a token costs or takes at most.
    pub(crate) tokens: f64,
}

/// A draft within the limits, or the shortest one that is not.
pub(crate) struct Narrowed {
    pub(crate) draft: Draft,
    /// What was done, if anything: "narrowed from 6 to 3 passages to stay under …".
    pub(crate) note: Option<String>,
}

/// Makes a draft, and makes it again with fewer sources until `excess` finds none. `what` are its sources, in the plural.
pub(crate) fn narrowed(
    limits: Limits,
    what: &str,
    mut draft: impl FnMut(Limits) -> Result<Draft, PlannerError>,
    mut excess: impl FnMut(&Draft) -> Option<Excess>,
) -> Result<Narrowed, PlannerError> {
    let first = draft(limits)?;
    let Some((before, known)) = sources(&first).map(|sources| (sources, first.dropped.clone())) else {
        return Ok(Narrowed { draft: first, note: None });
    };
    let mut current = first;
    let mut note = None;
    while let (Some(over), Ok(composed)) = (excess(&current), &current.composed) {
        let length = composed.prompt.tokens.len();
        if composed.source_tokens.len() <= 1 {
            break;
        }
        let save = (over.tokens.ceil() as usize).max(1);
        let mut next = draft(limits.narrowed(length.saturating_sub(save), over.limit))?;
        for drop in next.dropped.iter_mut().filter(|drop| !known.iter().any(|known| same(known, drop))) {
            drop.reason = format!("left out to stay under {}", over.limit.limit());
        }
        if let Some(after) = sources(&next) {
            note = Some(format!("narrowed from {before} to {after} {what} to stay under {}", over.limit.limit()));
        }
        current = next;
    }
    Ok(Narrowed { draft: current, note })
}

fn sources(draft: &Draft) -> Option<usize> {
    draft.composed.as_ref().ok().map(|composed| composed.source_tokens.len())
}

fn same(a: &Drop, b: &Drop) -> bool {
    a.document == b.document && a.span == b.span
}
