//! The first latency curve of a loaded model, from a short measurement.
//!
//! Three prefills (a small one, a larger one, and a small one behind the larger) determine `a`, `b` and `c`; decode
//! steps at two context lengths determine `d` and `e`. How many tokens that takes is derived from a first, small
//! prefill, which also warms caches and thread pools, so that loading a large model is not held up for long.

use super::{
    clock::Clock,
    latency_fit::{Decode, LatencyFit, Prefill},
    step_model::StepModel,
};
use crate::EngineError;

/// Tokens of the first prefill.
const WARM_UP: usize = 16;
/// Time all prefills of the measurement are meant to take together, in milliseconds.
const TARGET_MS: f64 = 700.0;
/// Limits of their tokens together.
const TOKENS: std::ops::RangeInclusive<usize> = 48..=384;
/// Decode steps at each of the two context lengths.
const STEPS: usize = 4;

struct Probe<'a, M: StepModel> {
    model: &'a M,
    clock: &'a dyn Clock,
    chunk: usize,
}

impl<M: StepModel> Probe<'_, M> {
    /// Milliseconds to append `count` tokens behind `held`, at most `chunk` at a time.
    fn append(&self, state: &mut M::State, held: usize, count: usize, chunk: usize) -> Result<f64, EngineError> {
        // Any ids do: the arithmetic is the same for all.
        let ids: Vec<u32> =
            (held..held + count).map(|i| u32::try_from(i * 7919 % self.model.vocabulary()).unwrap_or(0)).collect();
        let begun = self.clock.now();
        for ids in ids.chunks(chunk) {
            self.model.forward(state, ids)?;
        }
        Ok((self.clock.now() - begun).as_secs_f64() * 1e3)
    }

    fn prefill(&self, state: &mut M::State, resident: usize, count: usize) -> Result<Prefill, EngineError> {
        let ms = self.append(state, resident, count, self.chunk)?;
        Ok(Prefill { prompt: resident + count, resident, ms })
    }

    fn decode(&self, state: &mut M::State, context: usize) -> Result<Decode, EngineError> {
        let ms = self.append(state, context, STEPS, 1)?;
        Ok(Decode { context, steps: STEPS, ms })
    }
}

/// Measures `model` as the worker would run it, within `window` tokens.
pub(crate) fn calibrate<M: StepModel>(
    model: &M,
    clock: &dyn Clock,
    chunk: usize,
    window: usize,
) -> Result<LatencyFit, EngineError> {
    let probe = Probe { model, clock, chunk };
    let mut state = model.new_state();
    let warm_up = WARM_UP.min(window);
    let warm_up_ms = probe.append(&mut state, 0, warm_up, chunk)?.max(1e-3);
    let affordable = TARGET_MS / (warm_up_ms / warm_up as f64);
    let tokens = (affordable as usize).clamp(*TOKENS.start(), *TOKENS.end());
    let (small, large) = (tokens / 6, tokens * 4 / 6);
    if small + large + STEPS > window {
        return Err(EngineError::Unsupported {
            what: format!("a context window of {window} tokens"),
            supported: format!("give the model at least {} tokens", small + large + STEPS),
        });
    }

    let mut state = model.new_state();
    let cold_small = probe.prefill(&mut state, 0, small)?;
    let decode_small = probe.decode(&mut state, small)?;
    let mut state = model.new_state();
    let cold_large = probe.prefill(&mut state, 0, large)?;
    let small_behind = probe.prefill(&mut state, large, small)?;
    let decode_large = probe.decode(&mut state, large + small)?;
    Ok(LatencyFit::calibrated(&[cold_small, cold_large, small_behind], &[decode_small, decode_large]))
}
