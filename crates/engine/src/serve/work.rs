//! Which part of a step's time is whose, so that the latency curve learns from steps that several requests share.
//!
//! A step's time is split in the proportion of what the present curve predicts for its parts, a pass over the weights
//! for decoding counted once. If the machine becomes slower, all parts grow, and so does the curve; waiting for others is
//! in nobody's part. What several sequences decoding together take says little of one alone, so such steps teach
//! nothing.

use edgewise_model_api::LatencyCurve;

use super::latency_fit::{Decode, Prefill};

/// A sequence's part of a step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Positions held before.
    pub(crate) held: usize,
    /// Tokens computed.
    pub(crate) tokens: usize,
    /// Whether it is a generated token behind a whole prompt.
    pub(crate) decodes: bool,
}

/// What a request's own computation took so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Work {
    prefill_ms: f64,
    decode: Decode,
    /// Whether some of the prefill can't be told from other things.
    unclear: bool,
}

impl Work {
    /// Takes note of a part and its time, if that is known.
    pub(crate) fn add(&mut self, part: Part, ms: Option<f64>) {
        match (part.decodes, ms) {
            (false, Some(ms)) => self.prefill_ms += ms,
            (false, None) => self.unclear = true,
            (true, Some(ms)) => {
                self.decode.steps += 1;
                self.decode.positions += part.held;
                self.decode.ms += ms;
            }
            (true, None) => {}
        }
    }

    /// Spoils the prefill's time, as when some of it is done twice.
    pub(crate) fn spoil(&mut self) {
        self.unclear = true;
    }

    /// The whole prefill, if its time is known.
    pub(crate) fn prefill(&self, prompt: usize, resident: usize) -> Option<Prefill> {
        (!self.unclear).then_some(Prefill { prompt, resident, ms: self.prefill_ms })
    }

    /// The decode steps whose time is known.
    pub(crate) fn decode(&self) -> Option<Decode> {
        (self.decode.steps > 0).then_some(self.decode)
    }
}

/// Each part's time in a step that took `ms`; none where it can't be told.
pub(crate) fn split(parts: &[Part], ms: f64, curve: LatencyCurve) -> Vec<Option<f64>> {
    if parts.len() == 1 {
        return vec![Some(ms)];
    }
    if parts.iter().filter(|part| part.decodes).count() > 1 {
        return vec![None; parts.len()];
    }
    let cost = |part: &Part| {
        let (held, tokens) = (part.held as f64, part.tokens as f64);
        match part.decodes {
            true => curve.d + curve.e * held,
            false => curve.b * tokens + curve.c * ((held + tokens).powi(2) - held.powi(2)),
        }
    };
    let total: f64 = parts.iter().map(cost).sum();
    parts.iter().map(|part| (total > 0.0).then(|| ms * cost(part) / total)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CURVE: LatencyCurve = LatencyCurve { a: 5.0, b: 2.0, c: 0.001, d: 10.0, e: 0.01 };

    fn part(held: usize, tokens: usize, decodes: bool) -> Part {
        Part { held, tokens, decodes }
    }

    #[test]
    fn shared_steps_are_split_and_nobody_pays_for_waiting() {
        assert_eq!(split(&[part(0, 100, false)], 7.0, CURVE), [Some(7.0)]);
        // 20 + 0.1 for ten tokens; 10 + 1 for a decode at 100: 31.1 predicted, twice that measured.
        let shares = split(&[part(100, 1, true), part(0, 10, false)], 62.2, CURVE);
        assert!((shares[0].unwrap_or(0.0) - 22.0).abs() < 1e-9 && (shares[1].unwrap_or(0.0) - 40.2).abs() < 1e-9);
        assert_eq!(split(&[part(5, 1, true), part(5, 1, true), part(0, 9, false)], 9.0, CURVE), [None; 3]);

        let mut work = Work::default();
        work.add(part(0, 100, false), Some(7.0));
        assert_eq!(work.prefill(100, 0).map(|p| p.ms), Some(7.0));
        work.add(part(100, 1, true), Some(3.0));
        work.add(part(101, 1, true), None);
        assert_eq!(work.decode().map(|d| (d.steps, d.positions, d.ms)), Some((1, 100, 3.0)));
        work.spoil();
        assert!(work.prefill(100, 0).is_none());
    }
}
