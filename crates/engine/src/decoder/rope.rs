//! Rotary position embedding: the frequencies of every scaling, from its parameters.
//!
//! Sources: Su et al. (<https://arxiv.org/abs/2104.09864>); position interpolation, Chen et al.
//! (<https://arxiv.org/abs/2306.15595>); NTK-aware scaling, as bloc97 and emozilla describe it and transformers
//! implements it (`modeling_rope_utils.py`); YaRN, Peng et al. (<https://arxiv.org/abs/2309.00071>); Llama 3
//! (<https://arxiv.org/abs/2407.21783>, frequencies as in Meta's `llama-models`).
//!
//! Invariant: the frequencies are fixed when a model is loaded, so that a key depends only on its token, its position
//! and the tokens before it. **Dynamic NTK** stretches the base with the length of the sequence, which is not known
//! when the first keys are cached; recomputing it as a sequence grows would leave older keys turned by another base,
//! and cached and cold results would differ. Here it is computed once for the window that is served: exactly the
//! reference's result for a sequence that fills the window, plain RoPE where the window is the trained one, and one
//! consistent, slightly wider base for shorter sequences.

use edgewise_kernels::Pairing;

use super::DecoderError;

/// Rotary position embedding of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Leading dimensions of each head that are rotated; even.
    pub rotary_dim: usize,
    /// Base of the frequencies.
    pub theta: f64,
    /// Which dimensions are turned together: adjacent ones in Llama's weights as GGUF stores them, halves of a head
    /// elsewhere.
    pub pairing: Pairing,
    /// How the window was extended.
    pub scaling: RopeScaling,
    /// What each frequency is divided by, beyond the scaling (GGUF's `rope_freqs.weight`); empty for none.
    pub factors: Vec<f32>,
    /// Positions that are served; what dynamic NTK is computed for.
    pub served: usize,
}

/// How a model's window was extended beyond what it was first trained for.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// Positions divided by `factor`.
    Linear {
        /// How many times longer the window becomes.
        factor: f64,
    },
    /// NTK-aware with a fixed `alpha`: base `θ·α^(d/(d−2))`.
    Ntk {
        /// The multiplier.
        alpha: f64,
    },
    /// Dynamic NTK: base `θ·(f·L/M − (f−1))^(d/(d−2))` for a sequence of length `L` beyond the trained `M`.
    Dynamic {
        /// `f`.
        factor: f64,
        /// `M`.
        trained: usize,
    },
    /// YaRN: high frequencies kept, low ones interpolated, a ramp between, and warmer attention.
    Yarn {
        /// How many times longer the window becomes.
        factor: f64,
        /// The window before.
        original: usize,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// Turns within the original window above which a frequency is kept.
        beta_fast: f64,
        /// Turns below which it is interpolated.
        beta_slow: f64,
        /// Whether the ends of the ramp are rounded outwards to whole dimensions.
        truncate: bool,
    },
    /// Llama 3: wavelengths beyond the original window divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// What low frequencies are divided by.
        factor: f64,
        /// The ramp starts at wavelengths of `original / low`.
        low: f64,
        /// The ramp ends at wavelengths of `original / high`.
        high: f64,
        /// The window before.
        original: usize,
    },
}

/// Frequencies ready for use.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RopeTable {
    /// Radians per position of each pair.
    pub(crate) frequencies: Vec<f64>,
    /// What cosines and sines are multiplied by.
    pub(crate) attention_factor: f64,
}

impl RopeConfig {
    /// The window to serve by default, and the largest that may be asked for, of a model whose file says `trained`.
    pub(super) fn windows(&self, trained: usize) -> (usize, usize) {
        let times = |window: usize, factor: f64| (window as f64 * factor.max(1.0)) as usize;
        match self.scaling {
            RopeScaling::None => (trained, trained),
            RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor, .. } => (trained, times(trained, factor)),
            RopeScaling::Ntk { alpha } => (trained, times(trained, alpha)),
            RopeScaling::Yarn { factor, original, .. } => {
                let extended = trained.max(times(original, factor));
                (extended, extended)
            }
            RopeScaling::Llama3 { factor, original, .. } => (trained, trained.max(times(original, factor))),
        }
    }

    /// Refuses numbers the formulas have no meaning for.
    pub(super) fn check(&self) -> Result<(), DecoderError> {
        let positive = |values: &[f64]| values.iter().all(|v| v.is_finite() && *v > 0.0);
        let pairs = self.rotary_dim / 2;
        let sound = positive(&[self.theta])
            && (self.factors.is_empty() || self.factors.len() == pairs)
            && self.factors.iter().all(|f| f.is_finite() && *f > 0.0)
            && match self.scaling {
                RopeScaling::None => true,
                RopeScaling::Linear { factor } => positive(&[factor]),
                RopeScaling::Ntk { alpha } => positive(&[alpha]) && self.rotary_dim > 2,
                RopeScaling::Dynamic { factor, trained } => {
                    positive(&[factor]) && factor >= 1.0 && trained > 0 && self.rotary_dim > 2
                }
                RopeScaling::Yarn { factor, original, attention_factor, beta_fast, beta_slow, .. } => {
                    positive(&[factor, attention_factor, beta_fast, beta_slow]) && original > 0 && self.theta > 1.0
                }
                RopeScaling::Llama3 { factor, low, high, original } => {
                    positive(&[factor, low, high]) && high > low && original > 0
                }
            };
        if sound {
            Ok(())
        } else {
            Err(DecoderError::Unsupported { reason: format!("its RoPE parameters make no sense: {self:?}") })
        }
    }

    /// The frequencies to rotate by.
    pub(crate) fn table(&self) -> RopeTable {
        let dim = self.rotary_dim as f64;
        let stretched = |times: f64| self.theta * times.powf(dim / (dim - 2.0));
        let theta = match self.scaling {
            RopeScaling::Ntk { alpha } => stretched(alpha),
            RopeScaling::Dynamic { factor, trained } => {
                let length = self.served.max(trained) as f64;
                stretched(factor * length / trained as f64 - (factor - 1.0))
            }
            _ => self.theta,
        };
        let plain = |i: usize| theta.powf(-2.0 * i as f64 / dim);
        let scaled = |i: usize| match self.scaling {
            RopeScaling::None | RopeScaling::Ntk { .. } | RopeScaling::Dynamic { .. } => plain(i),
            RopeScaling::Linear { factor } => plain(i) / factor,
            RopeScaling::Yarn { factor, original, beta_fast, beta_slow, truncate, .. } => {
                let ends = yarn_ramp(dim, theta, original as f64, (beta_fast, beta_slow), truncate);
                let interpolated = ((i as f64 - ends.0) / (ends.1 - ends.0)).clamp(0.0, 1.0);
                plain(i) * (interpolated / factor + 1.0 - interpolated)
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                let turns = original as f64 * plain(i) / std::f64::consts::TAU;
                let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                plain(i) * ((1.0 - kept) / factor + kept)
            }
        };
        let divided = |i: usize| scaled(i) / self.factors.get(i).map_or(1.0, |factor| f64::from(*factor));
        let attention_factor = match self.scaling {
            RopeScaling::Yarn { attention_factor, .. } => attention_factor,
            _ => 1.0,
        };
        let frequencies = (0..self.rotary_dim / 2).map(divided).collect();
        RopeTable { frequencies, attention_factor }
    }
}

/// YaRN's default attention factor for a magnitude `mscale`: `0.1·mscale·ln(factor) + 1`.
pub(super) fn yarn_magnitude(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

/// First and last pair of YaRN's ramp.
fn yarn_ramp(dim: f64, theta: f64, original: f64, betas: (f64, f64), truncate: bool) -> (f64, f64) {
    let pair = |turns: f64| dim * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let (mut first, mut last) = (pair(betas.0), pair(betas.1));
    if truncate {
        (first, last) = (first.floor(), last.ceil());
    }
    let (first, last) = (first.max(0.0), last.min(dim - 1.0));
    if first == last { (first, last + 0.001) } else { (first, last) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn rope(scaling: RopeScaling, served: usize) -> RopeConfig {
        let rope =
            RopeConfig { rotary_dim: 16, theta: 1e4, pairing: Pairing::Half, scaling, factors: Vec::new(), served };
        rope.check().unwrap();
        rope
    }

    #[test]
    fn dynamic_scaling_starts_at_the_trained_window() {
        let dynamic = RopeScaling::Dynamic { factor: 2.0, trained: 64 };
        assert_eq!(rope(dynamic.clone(), 64).table(), rope(RopeScaling::None, 64).table());
        assert_eq!(rope(dynamic.clone(), 32).table(), rope(RopeScaling::None, 64).table());
        // 2·128/64 − 1 = 3
        assert_eq!(rope(dynamic, 128).table(), rope(RopeScaling::Ntk { alpha: 3.0 }, 128).table());
    }

    #[test]
    fn yarn_keeps_high_and_interpolates_low_frequencies() {
        let yarn = RopeScaling::Yarn {
            factor: 4.0,
            original: 4096,
            attention_factor: yarn_magnitude(4.0, 1.0),
            beta_fast: 32.0,
            beta_slow: 1.0,
            truncate: true,
        };
        let (yarn, plain) = (rope(yarn, 1).table(), rope(RopeScaling::None, 1).table());
        assert_eq!(yarn.frequencies[0], plain.frequencies[0]);
        assert_eq!(yarn.frequencies[7], plain.frequencies[7] / 4.0);
        assert!((yarn.attention_factor - 1.1386).abs() < 1e-4);
    }

    #[test]
    fn senseless_parameters_are_refused() {
        let scalings = [
            RopeScaling::Linear { factor: 0.0 },
            RopeScaling::Linear { factor: f64::NAN },
            RopeScaling::Dynamic { factor: 0.5, trained: 64 },
            RopeScaling::Llama3 { factor: 8.0, low: 4.0, high: 4.0, original: 64 },
        ];
        for scaling in scalings {
            let rope = RopeConfig { scaling, ..rope(RopeScaling::None, 1) };
            assert!(rope.check().is_err(), "{rope:?}");
        }
        assert!(RopeConfig { factors: vec![1.0; 3], ..rope(RopeScaling::None, 1) }.check().is_err());
    }
}
