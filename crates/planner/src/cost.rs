//! What a prompt will cost and how long it will take.
//!
//! Cost: `p_in·(T−P−W) + p_read·P + p_write·W + p_out·O`, where of `T` prompt tokens `P` are resident now, `W` more stand
//! before the end of a stable prefix and are written for later, and `O` tokens come out.
//! Time: the engine's own curve for `T` and `P`, after the work that is ahead in its queue.

use edgewise_ledger::ModelPrices;
use edgewise_model_api::{LatencyCurve, Prompt, QueueState, Retention};
use edgewise_types::{Money, Usage};

/// What a request is predicted to use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forecast {
    pub(crate) cost: Money,
    pub(crate) ttft_ms: f64,
    pub(crate) latency_ms: f64,
}

/// How the tokens of `prompt` will be counted when the first `resident` of them are in the cache.
pub(crate) fn expected_usage(prompt: &Prompt, resident: usize, output: usize) -> Usage {
    let mut usage = Usage { cache_read_tokens: resident, output_tokens: output, ..Usage::default() };
    let mut counted = resident;
    for boundary in &prompt.boundaries {
        let written = boundary.at.saturating_sub(counted);
        match boundary.retention {
            Retention::FiveMinutes => usage.cache_write_5m_tokens += written,
            Retention::OneHour => usage.cache_write_1h_tokens += written,
        }
        counted = counted.max(boundary.at);
    }
    usage.input_tokens = prompt.tokens.len().saturating_sub(counted);
    usage
}

/// Cost and time of a request that uses `usage`.
pub(crate) fn forecast(usage: &Usage, prices: &ModelPrices, curve: LatencyCurve, queue: QueueState) -> Forecast {
    let prompt = usage.prompt_tokens();
    let ttft_ms = queue_ms(curve, queue) + curve.prefill_ms(prompt, usage.cache_read_tokens);
    Forecast { cost: prices.cost(usage), ttft_ms, latency_ms: ttft_ms + curve.decode_ms(prompt, usage.output_tokens) }
}

/// Time until the queued prompts are prefilled. Decoding runs beside other requests' prefill and is left out; so this
/// is a lower bound on an engine that takes one request at a time.
fn queue_ms(curve: LatencyCurve, queue: QueueState) -> f64 {
    if queue.requests == 0 { 0.0 } else { curve.prefill_ms(queue.prefill_tokens, 0) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use edgewise_ledger::PriceBook;
    use edgewise_model_api::Boundary;

    fn prompt() -> Prompt {
        Prompt {
            tokens: (0..100).collect(),
            boundaries: vec![
                Boundary { at: 10, retention: Retention::OneHour },
                Boundary { at: 90, retention: Retention::FiveMinutes },
            ],
            public_tokens: 0,
        }
    }

    #[test]
    fn every_prompt_token_is_counted_once_whatever_is_resident() {
        for resident in [0, 5, 10, 50, 90, 99] {
            let usage = expected_usage(&prompt(), resident, 7);
            assert_eq!(usage.prompt_tokens(), 100, "{resident}");
            assert_eq!(usage.cache_read_tokens, resident);
        }
        let cold = expected_usage(&prompt(), 0, 7);
        assert_eq!((cold.cache_write_1h_tokens, cold.cache_write_5m_tokens, cold.input_tokens), (10, 80, 10));
        let partly = expected_usage(&prompt(), 50, 7);
        assert_eq!((partly.cache_write_1h_tokens, partly.cache_write_5m_tokens, partly.input_tokens), (0, 40, 10));
        let warm = expected_usage(&prompt(), 95, 7);
        assert_eq!((warm.cache_write_5m_tokens, warm.input_tokens), (0, 5));
    }

    #[test]
    fn the_price_formula_by_hand() {
        let book = PriceBook::parse(
            "effective = \"2026-01-01\"\n[default]\ninput = \"1\"\ncache_read = \"0.1\"\ncache_write_5m = \"1.25\"\n\
             cache_write_1h = \"2\"\noutput = \"5\"",
            "test",
        )
        .unwrap();
        let curve = LatencyCurve { a: 1.0, b: 2.0, c: 0.0, d: 10.0, e: 0.0 };
        let usage = expected_usage(&prompt(), 50, 7);
        let idle = forecast(&usage, &book.default, curve, QueueState::default());
        assert_eq!(idle.cost.nanos(), 50 * 100 + 40 * 1250 + 10 * 1000 + 7 * 5000);
        assert_eq!((idle.ttft_ms, idle.latency_ms), (1.0 + 2.0 * 50.0, 101.0 + 70.0));
        let busy = forecast(&usage, &book.default, curve, QueueState { requests: 1, prefill_tokens: 20 });
        assert_eq!(busy.ttft_ms, idle.ttft_ms + 41.0);
    }
}
