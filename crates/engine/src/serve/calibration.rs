//! The first latency curve of a loaded model, from a short measurement.
//!
//! Three prefills determine `a`, `b` and `c`: a short one, a long one, and the short one again far behind, which differs
//! from the first by attention alone, so that the quadratic term is measured where it is large instead of extrapolated
//! from prompts that hardly show it. What lies before the far one need not be computed: the arithmetic is the same
//! whatever the pages hold, so they are filled with copies of computed ones. Decode steps at both places determine `d`
//! and `e`.
//!
//! The measurements take turns and the quickest of each counts: other work of the machine only ever adds time. How many
//! tokens they take is derived from a first, small prefill, which also warms caches and thread pools, so that loading a
//! large model is not held up for long.
//!
//! The measurement overwrites the first pages, so it comes before anything is cached.

use edgewise_kv_cache::PageId;

use super::{
    clock::Clock,
    latency_fit::{Decode, LatencyFit, Prefill},
};
use crate::{
    EngineError,
    step_model::{BatchEntry, Demand, StepModel},
};

/// Tokens of the first prefill.
const WARM_UP: usize = 16;
/// Time one round of prefills is meant to take, in milliseconds.
const ROUND_MS: f64 = 250.0;
/// Rounds go on until they have taken this long together, in milliseconds.
const ENOUGH_MS: f64 = 450.0;
/// Least and most rounds.
const ROUNDS: std::ops::RangeInclusive<usize> = 2..=5;
/// Limits of the tokens of a round's prefills.
const TOKENS: std::ops::RangeInclusive<usize> = 48..=256;
/// How far behind the far prefill begins at most: there attention of a small model takes longer than its products.
const FAR: usize = 4096;
/// Decode steps at each of the two places.
const STEPS: usize = 3;

struct Probe<'a, M: StepModel> {
    model: &'a M,
    kv: &'a mut M::Kv,
    clock: &'a dyn Clock,
    chunk: usize,
}

fn page(index: usize) -> PageId {
    PageId(u32::try_from(index).unwrap_or(u32::MAX))
}

impl<M: StepModel> Probe<'_, M> {
    /// Milliseconds to append `count` tokens behind `held`, at most `chunk` at a time.
    fn append(&mut self, held: usize, count: usize, chunk: usize) -> Result<f64, EngineError> {
        // Any ids do: the arithmetic is the same for all.
        let ids: Vec<u32> =
            (held..held + count).map(|i| u32::try_from(i * 7919 % self.model.vocabulary()).unwrap_or(0)).collect();
        let pages = (held + count).div_ceil(self.model.page_tokens());
        let pages: Vec<PageId> = (0..pages).map(page).collect();
        // Single tokens stand for generated ones, which some models compute in another way.
        let generated_from = if chunk == 1 { held } else { usize::MAX };
        let begun = self.clock.now();
        let mut position = held;
        for tokens in ids.chunks(chunk) {
            let entry = BatchEntry { tokens, position, pages: &pages, logits: true, generated_from };
            self.model.forward_for(self.kv, &[entry], &[Demand::Likeliest(1)])?;
            position += tokens.len();
        }
        Ok((self.clock.now() - begun).as_secs_f64() * 1e3)
    }

    /// Fills the pages up to position `end` with copies of those that hold the first `computed` positions.
    fn fill(&mut self, computed: usize, end: usize) {
        let page_tokens = self.model.page_tokens();
        let whole = (computed / page_tokens).max(1);
        for to in whole..end.div_ceil(page_tokens) {
            self.model.copy_page(self.kv, page(to % whole), page(to), page_tokens);
        }
    }

    fn prefill(&mut self, resident: usize, count: usize) -> Result<Prefill, EngineError> {
        let ms = self.append(resident, count, self.chunk)?;
        Ok(Prefill { prompt: resident + count, resident, ms })
    }

    fn decode(&mut self, context: usize) -> Result<Decode, EngineError> {
        let ms = self.append(context, STEPS, 1)?;
        Ok(Decode { steps: STEPS, positions: STEPS * context + STEPS * (STEPS - 1) / 2, ms })
    }
}

/// What one round measures.
struct Round {
    prefills: [Prefill; 3],
    decodes: [Decode; 2],
}

impl Round {
    fn ms(&self) -> f64 {
        self.prefills.iter().map(|p| p.ms).chain(self.decodes.iter().map(|d| d.ms)).sum()
    }

    /// The quicker of each measurement. A clock that did not move measured nothing.
    fn quickest(mut self, other: &Self) -> Self {
        let quicker = |mine: f64, other: f64| if mine > 0.0 && (mine < other || other <= 0.0) { mine } else { other };
        for (mine, other) in self.prefills.iter_mut().zip(&other.prefills) {
            mine.ms = quicker(mine.ms, other.ms);
        }
        for (mine, other) in self.decodes.iter_mut().zip(&other.decodes) {
            mine.ms = quicker(mine.ms, other.ms);
        }
        self
    }
}

/// Measures `model` as the worker would run it, within `window` tokens that `kv` has pages for.
pub(crate) fn calibrate<M: StepModel>(
    model: &M,
    kv: &mut M::Kv,
    clock: &dyn Clock,
    chunk: usize,
    window: usize,
) -> Result<LatencyFit, EngineError> {
    let page_tokens = model.page_tokens();
    let mut probe = Probe { model, kv, clock, chunk };
    let warm_up = WARM_UP.min(window);
    let warm_up_ms = probe.append(0, warm_up, chunk)?.max(1e-3);
    let affordable = ROUND_MS / (warm_up_ms / warm_up as f64);
    let fitting = window.saturating_sub(STEPS) * 6 / 5;
    let tokens = (affordable as usize).clamp(*TOKENS.start(), *TOKENS.end()).min(fitting);
    // The far prefill takes the time of about three near ones.
    let (small, large) = (tokens / 6, tokens * 4 / 6);
    let beyond = small + STEPS;
    // Where the far one begins: between pages that are written and those that are read there must be a boundary.
    let far = window.saturating_sub(beyond).min(FAR) / page_tokens * page_tokens;
    if small < 2 || far <= small {
        return Err(EngineError::Unsupported {
            what: format!("a context window of {window} tokens"),
            supported: "give the model and the cache of keys and values room for more".to_owned(),
        });
    }
    probe.append(0, large.min(window), chunk)?;
    probe.fill(large, far);
    let mut spent = 0.0;
    let mut best: Option<Round> = None;
    for round in 1..=*ROUNDS.end() {
        let measured = Round {
            prefills: [probe.prefill(0, small)?, probe.prefill(far, small)?, probe.prefill(0, large)?],
            decodes: [probe.decode(small)?, probe.decode(far + small)?],
        };
        spent += measured.ms();
        best = Some(match best {
            Some(best) => best.quickest(&measured),
            None => measured,
        });
        if round >= *ROUNDS.start() && spent >= ENOUGH_MS {
            break;
        }
    }
    Ok(best
        .map_or_else(|| LatencyFit::calibrated(&[], &[]), |best| LatencyFit::calibrated(&best.prefills, &best.decodes)))
}
