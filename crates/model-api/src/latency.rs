//! The latency model of an engine.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Prefill time `a + b·(T−P) + c·(T²−P²) + r·P` for a prompt of `T` tokens of which `P` are resident, and decode time
/// `d + e·T` per output token. Linear work is matrix products; the quadratic term is attention. Milliseconds.
///
/// `r` is what reading the resident keys and values takes, whatever number of tokens attends to them. It shows where few
/// do, as when a question follows a long prefix that is in the cache. A decode step reads them too, for one token and two
/// pairs of positions per token of context, so `r = e − 2c`, or 0 where attention is bound by arithmetic alone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LatencyCurve {
    /// Fixed cost of a request.
    pub a: f64,
    /// Per token prefilled.
    pub b: f64,
    /// Per pair of positions attended to.
    pub c: f64,
    /// Per token generated, at an empty context.
    pub d: f64,
    /// Added per token generated and token of context.
    pub e: f64,
}

impl LatencyCurve {
    /// Prefill time in milliseconds of a prompt of `prompt` tokens, `resident` of them in the cache.
    pub fn prefill_ms(&self, prompt: usize, resident: usize) -> f64 {
        let t = prompt as f64;
        let p = resident.min(prompt) as f64;
        self.a + self.b * (t - p) + self.c * (t * t - p * p) + if p < t { self.reading() * p } else { 0.0 }
    }

    /// Time to read the keys and values of one resident token, in milliseconds.
    fn reading(&self) -> f64 {
        (self.e - 2.0 * self.c).max(0.0)
    }

    /// Decode time in milliseconds of `output` tokens after a prompt of `prompt` tokens.
    pub fn decode_ms(&self, prompt: usize, output: usize) -> f64 {
        let (t, n) = (prompt as f64, output as f64);
        n * self.d + self.e * (n * t + n * (n - 1.0).max(0.0) / 2.0)
    }
}

/// The work a new request finds before and beside itself, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Ahead {
    /// Prefilling the prompts ahead of it, nothing else running.
    pub prefill_ms: f64,
    /// What the sequences that decode now add to each step.
    pub step_ms: f64,
    /// How long a step's prompt tokens take beside them.
    pub chunk_ms: f64,
    /// Steps for which some of them will go on at most.
    pub steps: usize,
    /// What they add to each token of a sequence that decodes together with them.
    pub token_ms: f64,
}

impl Ahead {
    /// Only prompts ahead.
    pub fn of_prompts(prefill_ms: f64) -> Self {
        Self { prefill_ms, ..Self::default() }
    }

    /// Steps beside decoding that it takes until `work_ms` of prefill is done.
    fn shared_steps(&self, work_ms: f64) -> f64 {
        let needed = if self.chunk_ms > 0.0 { work_ms / self.chunk_ms } else { 0.0 };
        needed.min(self.steps as f64)
    }

    /// Time to the first token of a prompt that takes `prefill_ms` alone.
    pub fn ttft_ms(&self, prefill_ms: f64) -> f64 {
        let work = self.prefill_ms + prefill_ms;
        work + self.shared_steps(work) * self.step_ms
    }

    /// Time from the first to the last of `tokens` tokens that take `decode_ms` alone, behind a prompt that takes
    /// `prefill_ms`.
    pub fn decode_ms(&self, prefill_ms: f64, decode_ms: f64, tokens: usize) -> f64 {
        let left = self.steps as f64 - self.shared_steps(self.prefill_ms + prefill_ms);
        decode_ms + left.clamp(0.0, tokens as f64) * self.token_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURVE: LatencyCurve = LatencyCurve { a: 5.0, b: 2.0, c: 0.001, d: 10.0, e: 0.01 };

    #[test]
    fn resident_tokens_save_their_linear_and_quadratic_share() {
        assert_eq!(CURVE.prefill_ms(100, 100), 5.0);
        assert_eq!(CURVE.prefill_ms(100, 0), 5.0 + 200.0 + 10.0);
        assert!(CURVE.prefill_ms(100, 50) < CURVE.prefill_ms(100, 49));
        // Ten tokens behind ninety: 20 for themselves, 1.9 for pairs, and 0.72 to read the ninety.
        assert!((CURVE.prefill_ms(100, 90) - (5.0 + 20.0 + 1.9 + 0.72)).abs() < 1e-9);
        let arithmetic = LatencyCurve { e: 0.001, ..CURVE };
        assert!((arithmetic.prefill_ms(100, 90) - (5.0 + 20.0 + 1.9)).abs() < 1e-9);
        assert_eq!(CURVE.prefill_ms(100, 500), 5.0, "more resident than prompt costs the fixed part");
    }

    #[test]
    fn sequences_that_decode_slow_a_prompt_down_until_they_end() {
        let idle = Ahead::default();
        assert_eq!((idle.ttft_ms(500.0), idle.decode_ms(500.0, 80.0, 8)), (500.0, 80.0));
        assert_eq!(Ahead::of_prompts(300.0).ttft_ms(500.0), 800.0);
        // 800 ms of prefill in chunks of 100 ms: eight steps, each 20 ms longer, of the hundred there may be.
        let busy = Ahead { prefill_ms: 300.0, step_ms: 20.0, chunk_ms: 100.0, steps: 100, token_ms: 5.0 };
        assert_eq!(busy.ttft_ms(500.0), 960.0);
        assert_eq!(busy.decode_ms(500.0, 80.0, 8), 120.0);
        let ending = Ahead { steps: 3, ..busy };
        assert_eq!(ending.ttft_ms(500.0), 860.0);
        assert_eq!(ending.decode_ms(500.0, 80.0, 8), 80.0);
    }

    #[test]
    fn decode_time_sums_the_growing_context() {
        let by_hand: f64 = (0..8).map(|i| 10.0 + 0.01 * (100.0 + f64::from(i))).sum();
        assert!((CURVE.decode_ms(100, 8) - by_hand).abs() < 1e-9);
        assert_eq!(CURVE.decode_ms(100, 0), 0.0);
    }
}
