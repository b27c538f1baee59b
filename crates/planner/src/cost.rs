//! What a prompt will cost and how long it will take.
//!
//! Cost: `p_in·(T−P−W) + p_read·P + p_write·W + p_out·O`, where of `T` prompt tokens `P` are resident now, `W` more stand
//! before the end of a stable prefix that the engine keeps and are written for later, and `O` tokens come out. The
//! classes are counted by the definition the engine bills by, so for the prompt the prediction is exact as long as the
//! cache stays as it is.
//! Time: what planning took already, the engine's own curve for `T` and `P` behind and beside the work it has, and the
//! usual time for checking citations.

use edgewise_ledger::ModelPrices;
use edgewise_model_api::{Ahead, LatencyCurve, Prompt, prompt_usage};
use edgewise_types::{Money, Usage};

/// What a request is predicted to use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Forecast {
    pub(crate) cost: Money,
    pub(crate) ttft_ms: f64,
    pub(crate) latency_ms: f64,
}

/// What a request finds, whatever its prompt.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Conditions {
    pub(crate) curve: LatencyCurve,
    pub(crate) ahead: Ahead,
    /// Time gone since the question came.
    pub(crate) before_ms: f64,
    /// Time from the last token to the answer.
    pub(crate) after_ms: f64,
}

/// How the tokens of `prompt` will be counted when the first `resident` of them are in the cache of an engine that keeps
/// no prefix shorter than `min_prefix`.
pub(crate) fn expected_usage(prompt: &Prompt, resident: usize, min_prefix: usize, output: usize) -> Usage {
    prompt_usage(prompt.tokens.len(), &prompt.boundaries, resident, min_prefix, output)
}

/// Cost and time of a request that uses `usage`.
pub(crate) fn forecast(usage: &Usage, prices: &ModelPrices, conditions: &Conditions) -> Forecast {
    let Conditions { curve, ahead, before_ms, after_ms } = conditions;
    let prompt = usage.prompt_tokens();
    let prefill_ms = curve.prefill_ms(prompt, usage.cache_read_tokens);
    let ttft_ms = before_ms + ahead.ttft_ms(prefill_ms);
    let decode_ms = ahead.decode_ms(prefill_ms, curve.decode_ms(prompt, usage.output_tokens), usage.output_tokens);
    let cost = prices.cost_of(usage, work_ms(usage, curve));
    Forecast { cost, ttft_ms, latency_ms: ttft_ms + decode_ms + after_ms }
}

/// How long the engine works on a request that uses `usage`, nothing else running.
pub(crate) fn work_ms(usage: &Usage, curve: &LatencyCurve) -> f64 {
    let prompt = usage.prompt_tokens();
    curve.prefill_ms(prompt, usage.cache_read_tokens) + curve.decode_ms(prompt, usage.output_tokens)
}

/// How the tokens of `prompt` would be counted if its last stable prefix were not kept.
pub(crate) fn unkept_usage(prompt: &Prompt, resident: usize, min_prefix: usize, output: usize) -> Usage {
    let kept = prompt.boundaries.split_last().map_or(&[][..], |(_, kept)| kept);
    prompt_usage(prompt.tokens.len(), kept, resident, min_prefix, output)
}

/// How they will be counted for a prompt like it that comes while its last stable prefix is in the cache.
pub(crate) fn warm_usage(prompt: &Prompt, min_prefix: usize, output: usize) -> Usage {
    let at = prompt.boundaries.iter().map(|boundary| boundary.at).max().unwrap_or(0);
    expected_usage(prompt, at.min(prompt.tokens.len().saturating_sub(1)), min_prefix, output)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use edgewise_ledger::PriceBook;
    use edgewise_model_api::{Boundary, Retention};

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
            let usage = expected_usage(&prompt(), resident, 0, 7);
            assert_eq!(usage.prompt_tokens(), 100, "{resident}");
            assert_eq!(usage.cache_read_tokens, resident);
        }
        let cold = expected_usage(&prompt(), 0, 0, 7);
        assert_eq!((cold.cache_write_1h_tokens, cold.cache_write_5m_tokens, cold.input_tokens), (10, 80, 10));
        let partly = expected_usage(&prompt(), 50, 0, 7);
        assert_eq!((partly.cache_write_1h_tokens, partly.cache_write_5m_tokens, partly.input_tokens), (0, 40, 10));
        let warm = expected_usage(&prompt(), 95, 0, 7);
        assert_eq!((warm.cache_write_5m_tokens, warm.input_tokens), (0, 5));
        let short = expected_usage(&prompt(), 0, 64, 7);
        assert_eq!((short.cache_write_1h_tokens, short.cache_write_5m_tokens), (0, 90), "10 tokens are not kept");
    }

    #[test]
    fn the_price_formula_by_hand() {
        let book = PriceBook::parse(
            "[[default]]\nfrom = \"2026-01-01\"\ninput = \"1\"\ncache_read = \"0.1\"\ncache_write_5m = \"1.25\"\n\
             cache_write_1h = \"2\"\noutput = \"5\"",
            "test",
        )
        .unwrap()
        .earliest("");
        let curve = LatencyCurve { a: 1.0, b: 2.0, c: 0.0, d: 10.0, e: 0.0 };
        let usage = expected_usage(&prompt(), 50, 0, 7);
        let idle = Conditions { curve, ahead: Ahead::default(), before_ms: 30.0, after_ms: 4.0 };
        let alone = forecast(&usage, &book, &idle);
        assert_eq!(alone.cost.nanos(), 50 * 100 + 40 * 1250 + 10 * 1000 + 7 * 5000);
        assert_eq!((alone.ttft_ms, alone.latency_ms), (30.0 + 1.0 + 2.0 * 50.0, 131.0 + 70.0 + 4.0));
        let busy = forecast(&usage, &book, &Conditions { ahead: Ahead::of_prompts(41.0), ..idle });
        assert_eq!((busy.ttft_ms, busy.latency_ms), (alone.ttft_ms + 41.0, alone.latency_ms + 41.0));
    }

    #[test]
    fn what_is_not_kept_is_read_at_the_plain_price_and_what_is_kept_is_found_again() {
        let unkept = unkept_usage(&prompt(), 0, 0, 7);
        assert_eq!((unkept.cache_write_1h_tokens, unkept.cache_write_5m_tokens, unkept.input_tokens), (10, 0, 90));
        assert_eq!(unkept_usage(&prompt(), 90, 0, 7), expected_usage(&prompt(), 90, 0, 7), "nothing to write");
        let warm = warm_usage(&prompt(), 0, 7);
        assert_eq!((warm.cache_read_tokens, warm.input_tokens, warm.cache_write_5m_tokens), (90, 10, 0));
        let without = Prompt { boundaries: Vec::new(), ..prompt() };
        assert_eq!(warm_usage(&without, 0, 7), unkept_usage(&without, 0, 0, 7));
    }
}
