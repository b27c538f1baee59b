//! The latency model of an engine.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Prefill time `a + b·(T−P) + c·(T²−P²)` for a prompt of `T` tokens of which `P` are resident, and decode time
/// `d + e·T` per output token. Linear work is matrix products; the quadratic term is attention. Milliseconds.
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
        self.a + self.b * (t - p) + self.c * (t * t - p * p)
    }

    /// Decode time in milliseconds of `output` tokens after a prompt of `prompt` tokens.
    pub fn decode_ms(&self, prompt: usize, output: usize) -> f64 {
        let (t, n) = (prompt as f64, output as f64);
        n * self.d + self.e * (n * t + n * (n - 1.0).max(0.0) / 2.0)
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
        assert_eq!(CURVE.prefill_ms(100, 500), 5.0, "more resident than prompt costs the fixed part");
    }

    #[test]
    fn decode_time_sums_the_growing_context() {
        let by_hand: f64 = (0..8).map(|i| 10.0 + 0.01 * (100.0 + f64::from(i))).sum();
        assert!((CURVE.decode_ms(100, 8) - by_hand).abs() < 1e-9);
        assert_eq!(CURVE.decode_ms(100, 0), 0.0);
    }
}
