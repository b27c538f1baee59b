//! The first latency curve of a loaded model, from a short measurement.
//!
//! Three prefills (a small one, a larger one, and a small one behind the larger) determine `a`, `b` and `c`; decode
//! steps at two context lengths determine `d` and `e`. How many tokens that takes is derived from a first, small
//! prefill, which also warms caches and thread pools, so that loading a large model is not held up for long.
//!
//! The measurement overwrites the first pages, so it comes before anything is cached.

use edgewise_kv_cache::PageId;

use super::{
    clock::Clock,
    latency_fit::{Decode, LatencyFit, Prefill},
};
use crate::{
    EngineError,
    step_model::{BatchEntry, StepModel},
};

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
    kv: &'a mut M::Kv,
    clock: &'a dyn Clock,
    chunk: usize,
}

impl<M: StepModel> Probe<'_, M> {
    /// Milliseconds to append `count` tokens behind `held`, at most `chunk` at a time.
    fn append(&mut self, held: usize, count: usize, chunk: usize) -> Result<f64, EngineError> {
        // Any ids do: the arithmetic is the same for all.
        let ids: Vec<u32> =
            (held..held + count).map(|i| u32::try_from(i * 7919 % self.model.vocabulary()).unwrap_or(0)).collect();
        let pages = (held + count).div_ceil(self.model.page_tokens());
        let pages: Vec<PageId> = (0..u32::try_from(pages).unwrap_or(u32::MAX)).map(PageId).collect();
        // Single tokens stand for generated ones, which some models compute in another way.
        let generated_from = if chunk == 1 { held } else { usize::MAX };
        let begun = self.clock.now();
        let mut position = held;
        for tokens in ids.chunks(chunk) {
            self.model.forward(self.kv, &[BatchEntry { tokens, position, pages: &pages, logits: true, generated_from }])?;
            position += tokens.len();
        }
        Ok((self.clock.now() - begun).as_secs_f64() * 1e3)
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

/// Measures `model` as the worker would run it, within `window` tokens that `kv` has pages for.
pub(crate) fn calibrate<M: StepModel>(
    model: &M,
    kv: &mut M::Kv,
    clock: &dyn Clock,
    chunk: usize,
    window: usize,
) -> Result<LatencyFit, EngineError> {
    let mut probe = Probe { model, kv, clock, chunk };
    let warm_up = WARM_UP.min(window);
    let warm_up_ms = probe.append(0, warm_up, chunk)?.max(1e-3);
    let affordable = TARGET_MS / (warm_up_ms / warm_up as f64);
    let fitting = window.saturating_sub(STEPS) * 6 / 5;
    let tokens = (affordable as usize).clamp(*TOKENS.start(), *TOKENS.end()).min(fitting);
    let (small, large) = (tokens / 6, tokens * 4 / 6);
    if small < 2 {
        return Err(EngineError::Unsupported {
            what: format!("a context window of {window} tokens"),
            supported: "give the model and the cache of keys and values room for more".to_owned(),
        });
    }
    let cold_small = probe.prefill(0, small)?;
    let decode_small = probe.decode(small)?;
    let cold_large = probe.prefill(0, large)?;
    let small_behind = probe.prefill(large, small)?;
    let decode_large = probe.decode(large + small)?;
    Ok(LatencyFit::calibrated(&[cold_small, cold_large, small_behind], &[decode_small, decode_large]))
}
