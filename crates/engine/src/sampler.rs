//! Drawing the next token from logits.
//!
//! Order, as the model API has it: repetition penalty, temperature, top-k, top-p, min-p. Each filter works on the
//! distribution the one before left, renormalised. Among equal logits the smaller id is the likelier.
//!
//! Draws are reproducible one by one: the number behind token `i` of a seed is a fixed word of a ChaCha8 stream, so it
//! depends neither on how many candidates earlier steps had nor on where a generation was resumed.
//!
//! Greedy and top-k draws need only the likeliest tokens, and are the same from these as from all logits; probabilities
//! then come from a sum that was added in another order, and differ in the last bits of an f32.
//!
//! Deliberately not here: stop strings, detokenisation, anything that outlives one token besides what was seen.

use edgewise_model_api::Sampling;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::{
    EngineError,
    constraint::TokenConstraint,
    step_model::{Demand, Likeliest},
};

/// A token drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Draw {
    /// Its id.
    pub(crate) id: u32,
    /// Natural logarithm of its probability under the unmodified distribution.
    pub(crate) logprob: f32,
}

/// The sampler of one generation.
pub(crate) struct Sampler {
    parameters: Sampling,
    seed: u64,
    drawn: u64,
    /// Whether a token occurred in the prompt or output; empty when there is no penalty.
    seen: Vec<bool>,
}

/// A candidate: probability (not normalised) and id.
type Candidate = (f64, u32);

impl Sampler {
    /// A sampler for a vocabulary of `vocabulary` tokens after `prompt`. Parameters must have been validated. Without a
    /// seed in the parameters, one is drawn from the system's entropy.
    pub(crate) fn new(parameters: Sampling, vocabulary: usize, prompt: &[u32]) -> Self {
        let seed = parameters.seed.unwrap_or_else(rand::random);
        let penalised = parameters.repetition_penalty != 1.0;
        let mut sampler =
            Self { parameters, seed, drawn: 0, seen: vec![false; if penalised { vocabulary } else { 0 }] };
        prompt.iter().for_each(|&id| sampler.see(id));
        sampler
    }

    /// What a token is drawn from with these parameters, without a constraint.
    pub(crate) fn demand(parameters: &Sampling) -> Demand {
        match (parameters.temperature == 0.0, parameters.top_k) {
            _ if parameters.repetition_penalty != 1.0 => Demand::Whole,
            (true, _) => Demand::Likeliest(1),
            (false, 0) => Demand::Whole,
            (false, k) => Demand::Likeliest(k),
        }
    }

    fn see(&mut self, id: u32) {
        if let Some(seen) = self.seen.get_mut(id as usize) {
            *seen = true;
        }
    }

    /// The sampler of sample `index` of the same request: it draws from the same distribution with a seed of its own,
    /// derived from this one's. Sample 0 has this one's.
    pub(crate) fn for_sample(&self, index: usize) -> Self {
        // Multiples of an odd number are distinct; what makes the streams independent is ChaCha's key schedule.
        let seed = self.seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self { parameters: self.parameters.clone(), seed, drawn: self.drawn, seen: self.seen.clone() }
    }

    /// Draws the next token, one that `constraint` allows, and tells it.
    ///
    /// # Errors
    /// [`EngineError::BadLogits`] if a logit is NaN or +∞, or all are −∞; those of the constraint.
    pub(crate) fn draw(
        &mut self,
        logits: &[f32],
        mut constraint: Option<&mut dyn TokenConstraint>,
    ) -> Result<Draw, EngineError> {
        let log_normaliser = log_sum_exp(logits)?;
        let mut adjusted = self.penalised(logits);
        if let Some(constraint) = constraint.as_deref_mut() {
            constraint.allowed(adjusted.to_mut())?;
        }
        let id = if self.parameters.temperature == 0.0 {
            argmax(&adjusted)
        } else {
            let largest = adjusted.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let candidates = self.candidates((0_u32..).zip(adjusted.iter().copied()), largest);
            choose(&candidates, self.uniform())
        };
        self.drawn += 1;
        self.see(id);
        if let Some(constraint) = constraint {
            constraint.accept(id)?;
        }
        let logprob = (f64::from(logits[id as usize]) - log_normaliser) as f32;
        Ok(Draw { id, logprob })
    }

    /// Draws the next token from the likeliest ones, at least as many as [`Self::demand`] says.
    ///
    /// # Errors
    /// [`EngineError::Decoder`] when they are too few, [`EngineError::BadLogits`] when no token is possible.
    pub(crate) fn draw_likeliest(&mut self, likeliest: &Likeliest) -> Result<Draw, EngineError> {
        let Likeliest { tokens, log_sum } = likeliest;
        match Self::demand(&self.parameters) {
            Demand::Likeliest(k) if k <= tokens.len() => {}
            demand => {
                let error = format!("the {} likeliest tokens do not suffice for a draw from {demand:?}", tokens.len());
                return Err(EngineError::Decoder(error));
            }
        }
        let Some(&(first, largest)) = tokens.first().filter(|_| log_sum.is_finite()) else {
            return Err(EngineError::BadLogits("no token that is possible"));
        };
        let id = if self.parameters.temperature == 0.0 {
            first
        } else {
            choose(&self.candidates(tokens.iter().copied(), largest), self.uniform())
        };
        self.drawn += 1;
        let logit = tokens.iter().find(|(token, _)| *token == id).map_or(largest, |(_, logit)| *logit);
        // The sum's rounding must not make anything likelier than certain.
        Ok(Draw { id, logprob: (f64::from(logit) - log_sum).min(0.0) as f32 })
    }

    /// Number `drawn` of the seed's stream, in [0, 1).
    fn uniform(&self) -> f64 {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_word_pos(u128::from(self.drawn) * 2);
        // The upper 53 bits, as many as the significand of a double holds.
        (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn penalised<'a>(&self, logits: &'a [f32]) -> std::borrow::Cow<'a, [f32]> {
        if self.seen.is_empty() {
            return logits.into();
        }
        let penalty = self.parameters.repetition_penalty;
        let penalise = |(&logit, &seen): (&f32, &bool)| match seen {
            true if logit > 0.0 => logit / penalty,
            true => logit * penalty,
            false => logit,
        };
        logits.iter().zip(&self.seen).map(penalise).collect::<Vec<_>>().into()
    }

    /// Temperature and the three filters, over tokens and their logits.
    fn candidates(&self, logits: impl Iterator<Item = (u32, f32)>, largest: f32) -> Vec<Candidate> {
        let Sampling { temperature, top_k, top_p, min_p, .. } = self.parameters;
        let weight = |logit: f32| (f64::from(logit - largest) / f64::from(temperature)).exp();
        let mut candidates: Vec<Candidate> =
            logits.map(|(id, logit)| (weight(logit), id)).filter(|(w, _)| *w > 0.0).collect();
        if top_k > 0 {
            keep_likeliest(&mut candidates, top_k);
        }
        if top_p < 1.0 {
            keep_nucleus(&mut candidates, f64::from(top_p));
        }
        if min_p > 0.0 {
            // The likeliest has weight 1 and passes every filter.
            candidates.retain(|(w, _)| *w >= f64::from(min_p));
        }
        candidates
    }
}

/// Likelier first, then the smaller id.
fn likelier(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.0.total_cmp(&a.0).then(a.1.cmp(&b.1))
}

/// Keeps the `k` likeliest, in no particular order.
fn keep_likeliest(candidates: &mut Vec<Candidate>, k: usize) {
    if k < candidates.len() {
        candidates.select_nth_unstable_by(k, likelier);
        candidates.truncate(k);
    }
}

/// Keeps the smallest set of likeliest candidates with a share of at least `p` together (nucleus sampling, Holtzman et
/// al. 2020). Selects in growing blocks: sorting a whole vocabulary would take longer than the rest of the sampler.
fn keep_nucleus(candidates: &mut Vec<Candidate>, p: f64) {
    let target = p * candidates.iter().map(|(w, _)| w).sum::<f64>();
    let (mut sorted, mut total, mut block) = (0, 0.0, 64);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let size = block.min(rest.len());
        if size < rest.len() {
            rest.select_nth_unstable_by(size, likelier);
        }
        rest[..size].sort_unstable_by(likelier);
        for (i, (w, _)) in rest[..size].iter().enumerate() {
            total += w;
            if total >= target {
                candidates.truncate(sorted + i + 1);
                return;
            }
        }
        sorted += size;
        block *= 4;
    }
}

/// The candidate in whose share of the cumulative distribution `uniform` falls. Sorted by id first, so that the same
/// candidates always give the same choice.
fn choose(candidates: &[Candidate], uniform: f64) -> u32 {
    let mut by_id = candidates.to_vec();
    by_id.sort_unstable_by_key(|&(_, id)| id);
    let mut left = uniform * by_id.iter().map(|(w, _)| w).sum::<f64>();
    for &(w, id) in &by_id {
        left -= w;
        if left < 0.0 {
            return id;
        }
    }
    // Rounding may leave a remainder at the very end.
    by_id.last().map_or(0, |&(_, id)| id)
}

/// The smallest id among the largest logits.
fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (id, &logit) in (0_u32..).zip(logits) {
        if logit > best.0 {
            best = (logit, id);
        }
    }
    best.1
}

/// `ln Σ exp(logit)`, with the checks that make everything after it total.
fn log_sum_exp(logits: &[f32]) -> Result<f64, EngineError> {
    if logits.iter().any(|l| l.is_nan()) {
        return Err(EngineError::BadLogits("NaN"));
    }
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    match largest {
        f32::INFINITY => Err(EngineError::BadLogits("infinity")),
        f32::NEG_INFINITY => Err(EngineError::BadLogits("no token that is possible")),
        _ => Ok(f64::from(largest) + logits.iter().map(|&l| f64::from(l - largest).exp()).sum::<f64>().ln()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn sampler(parameters: Sampling) -> Sampler {
        parameters.validate().unwrap();
        Sampler::new(parameters, 8, &[])
    }

    fn at(temperature: f32) -> Sampling {
        Sampling { temperature, seed: Some(7), ..Sampling::default() }
    }

    fn kept(parameters: Sampling, logits: &[f32]) -> BTreeSet<u32> {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let logits = (0_u32..).zip(logits.iter().copied());
        sampler(parameters).candidates(logits, largest).into_iter().map(|(_, id)| id).collect()
    }

    #[test]
    fn greedy_takes_the_smallest_id_among_the_largest_and_reports_its_probability() {
        let draw = sampler(at(0.0)).draw(&[0.0, 2.0, 2.0, -1.0], None).unwrap();
        assert_eq!(draw.id, 1);
        let by_hand = (2.0_f64.exp() / (1.0 + 2.0 * 2.0_f64.exp() + (-1.0_f64).exp())).ln();
        assert!((f64::from(draw.logprob) - by_hand).abs() < 1e-6);
    }

    #[test]
    fn the_penalty_divides_positive_and_multiplies_negative_logits_of_seen_tokens() {
        let parameters = Sampling { repetition_penalty: 2.0, ..at(0.0) };
        let mut greedy = Sampler::new(parameters, 4, &[0]);
        let logits = [3.0, 2.0, 1.8, -5.0];
        let ids: Vec<_> = (0..3).map(|_| greedy.draw(&logits, None).unwrap().id).collect();
        assert_eq!(ids, [1, 2, 0], "each token loses to the next once it was seen");
        assert_eq!(
            Sampler::new(Sampling { repetition_penalty: 2.0, ..at(0.0) }, 2, &[0])
                .draw(&[-1.0, -1.5], None)
                .unwrap()
                .id,
            1
        );
    }

    #[test]
    fn draws_follow_the_distribution_at_its_temperature() {
        let logits = [1.0, 0.0, 2.0, f32::NEG_INFINITY];
        for temperature in [0.5_f64, 1.0, 2.0] {
            let mut sampler = sampler(at(temperature as f32));
            let n = 20_000;
            let mut counts = [0.0; 4];
            for _ in 0..n {
                counts[sampler.draw(&logits, None).unwrap().id as usize] += 1.0;
            }
            let weights = logits.map(|l| (f64::from(l) / temperature).exp());
            let total: f64 = weights.iter().sum();
            for (count, weight) in counts.iter().zip(weights) {
                let p = weight / total;
                // Five standard deviations of a binomial share.
                let tolerance = 5.0 * (p * (1.0 - p) / f64::from(n)).sqrt();
                assert!((count / f64::from(n) - p).abs() <= tolerance, "{counts:?} at {temperature}");
            }
        }
    }

    #[test]
    fn logits_without_a_distribution_are_an_error() {
        for logits in [&[0.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 2], &[]] {
            for temperature in [0.0, 1.0] {
                assert!(
                    matches!(sampler(at(temperature)).draw(logits, None), Err(EngineError::BadLogits(_))),
                    "{logits:?}"
                );
            }
        }
    }

    #[test]
    fn extreme_logits_stay_finite() {
        let draw = sampler(at(0.01)).draw(&[3e38, -3e38, 0.0], None).unwrap();
        assert_eq!((draw.id, draw.logprob), (0, 0.0));
    }

    #[test]
    fn filters_apply_in_order_each_to_what_the_one_before_left() {
        // Probabilities 0.4, 0.3, 0.2, 0.1. Of the top three (renormalised 0.44, 0.33, 0.22), 0.7 is reached by two.
        let logits = [0.4_f32, 0.3, 0.2, 0.1].map(f32::ln);
        assert_eq!(kept(Sampling { top_p: 0.75, ..at(1.0) }, &logits), [0, 1, 2].into());
        assert_eq!(kept(Sampling { top_k: 3, top_p: 0.75, ..at(1.0) }, &logits), [0, 1].into());
        assert_eq!(kept(Sampling { min_p: 0.6, ..at(1.0) }, &logits), [0, 1].into());
        assert_eq!(kept(Sampling { min_p: 0.6, ..at(0.5) }, &logits), [0].into(), "min-p after temperature");
    }

    /// The largest `k` logits, as a device selects them.
    fn largest(logits: &[f32], k: usize) -> Likeliest {
        let mut tokens: Vec<(u32, f32)> = (0_u32..).zip(logits.iter().copied()).collect();
        tokens.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        tokens.truncate(k);
        Likeliest { tokens, log_sum: log_sum_exp(logits).unwrap() }
    }

    #[test]
    fn too_few_of_the_likeliest_are_refused() {
        let logits = [0.0_f32, 2.0, 1.0, -1.0];
        let draw = |parameters: Sampling, k| sampler(parameters).draw_likeliest(&largest(&logits, k));
        assert_eq!(draw(at(0.0), 1).unwrap().id, 1);
        assert!(draw(Sampling { top_k: 3, ..at(1.0) }, 2).is_err());
        assert!(draw(at(1.0), 4).is_err(), "without top-k, every token may be drawn");
        assert!(draw(Sampling { repetition_penalty: 1.5, ..at(0.0) }, 4).is_err());
        assert!(draw(at(0.0), 0).is_err());
    }

    proptest! {
        #[test]
        fn draws_from_the_likeliest_are_those_from_all(
            steps in prop::collection::vec(prop::collection::vec((-20_i8..20).prop_map(|x| f32::from(x) / 2.0), 40), 1..6),
            seed: u64,
            temperature in prop::sample::select(vec![0.0_f32, 0.3, 1.0, 2.0]),
            top_k in 1_usize..12,
            spare in 0_usize..5,
            top_p in 0.05_f32..1.0,
            min_p in 0.0_f32..0.5,
        ) {
            let parameters = Sampling { temperature, top_k, top_p, min_p, seed: Some(seed), ..Sampling::default() };
            let (mut whole, mut part) = (sampler(parameters.clone()), sampler(parameters.clone()));
            let Demand::Likeliest(k) = Sampler::demand(&parameters) else { unreachable!("it has no penalty") };
            for logits in steps {
                let likeliest = largest(&logits, k + spare);
                prop_assert_eq!(whole.draw(&logits, None).unwrap(), part.draw_likeliest(&likeliest).unwrap());
            }
        }

        #[test]
        fn the_same_seed_gives_the_same_tokens_and_each_draw_stands_alone(
            steps in prop::collection::vec(prop::collection::vec(-8.0_f32..8.0, 8), 1..12),
            seed: u64,
        ) {
            let parameters = Sampling { temperature: 1.0, top_p: 0.9, seed: Some(seed), ..Sampling::default() };
            let run = |from: usize| -> Vec<u32> {
                let mut sampler = Sampler::new(parameters.clone(), 8, &[]);
                sampler.drawn = from as u64;
                steps[from..].iter().map(|logits| sampler.draw(logits, None).unwrap().id).collect()
            };
            let whole = run(0);
            prop_assert_eq!(&whole, &run(0));
            for from in 1..steps.len() {
                prop_assert_eq!(&whole[from..], &run(from)[..]);
            }
        }

        #[test]
        fn filters_keep_what_their_definitions_say(
            logits in prop::collection::vec((-20_i8..20).prop_map(|x| f32::from(x) / 2.0), 1..400),
            top_k in 0_usize..500,
            top_p in 0.01_f32..1.0,
            min_p in 0.0_f32..0.99,
        ) {
            let weights: Vec<f64> = {
                let largest = logits.iter().copied().fold(f32::MIN, f32::max);
                logits.iter().map(|l| f64::from(l - largest).exp()).collect()
            };
            let mut order: Vec<u32> = (0..logits.len() as u32).collect();
            order.sort_by(|&a, &b| weights[b as usize].total_cmp(&weights[a as usize]).then(a.cmp(&b)));
            let set = |ids: &[u32]| ids.iter().copied().collect::<BTreeSet<u32>>();

            let by_k = if top_k == 0 { &order[..] } else { &order[..top_k.min(order.len())] };
            prop_assert_eq!(kept(Sampling { top_k, ..at(1.0) }, &logits), set(by_k));

            let mass = |ids: &[u32]| ids.iter().map(|&id| weights[id as usize]).sum::<f64>();
            let nucleus = kept(Sampling { top_p, ..at(1.0) }, &logits);
            prop_assert_eq!(&nucleus, &set(&order[..nucleus.len()]), "the likeliest");
            let target = f64::from(top_p) * mass(&order);
            prop_assert!(mass(&order[..nucleus.len()]) >= target * (1.0 - 1e-9), "enough");
            prop_assert!(mass(&order[..nucleus.len() - 1]) < target * (1.0 + 1e-9), "no more than needed");

            let by_min_p: Vec<u32> = order.iter().copied().filter(|&id| weights[id as usize] >= f64::from(min_p)).collect();
            prop_assert_eq!(kept(Sampling { min_p, ..at(1.0) }, &logits), set(&by_min_p));
        }
    }
}
