//! When which collection is asked what.
//!
//! Sessions begin by a Poisson process whose rate follows the hours: least in the night, most in the afternoon. A session
//! asks one collection, popular ones more often (Zipf), and goes on with a number of further questions that is geometric,
//! with thinking in between that is log-normal.

use std::time::Duration;

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{TrafficOptions, corpus::Corpus};

const DAY_S: f64 = 24.0 * 3600.0;
/// How far the rate of arrivals is above and below its mean in the course of a day.
const SWING: f64 = 0.8;
/// Hour of the highest rate.
const PEAK_H: f64 = 15.0;
/// Standard deviation of the logarithm of the time for thinking: one time in six is more than 2.7 times the median.
const THINK_SIGMA: f64 = 1.0;

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrival {
    /// Time since midnight.
    pub(super) at: Duration,
    /// Index of the collection.
    pub(super) collection: usize,
    /// Index of the question.
    pub(super) question: usize,
}

/// A day of questions.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Day {
    /// In order of time.
    pub(super) arrivals: Vec<Arrival>,
    /// Sessions they belong to.
    pub(super) sessions: usize,
}

impl Day {
    pub(super) fn simulate(corpus: &Corpus, options: &TrafficOptions, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let collections = corpus.len();
        let mut ranks: Vec<usize> = (0..collections).collect();
        ranks.shuffle(&mut rng);
        let weights: Vec<f64> = (1..=collections).map(|rank| (rank as f64).powf(-options.zipf)).collect();
        let per_session = 1.0 + options.follow_ups;
        let mean_rate = options.questions as f64 / per_session / DAY_S;
        let highest = mean_rate * (1.0 + SWING);
        let (mut arrivals, mut sessions, mut at) = (Vec::new(), 0, 0.0);
        loop {
            // Thinning (Lewis and Shedler 1979): candidates at the highest rate, kept by the rate of their hour.
            at += -(1.0 - rng.random::<f64>()).ln() / highest;
            if at >= DAY_S {
                break;
            }
            let phase = (at / 3600.0 - PEAK_H) / 24.0 * std::f64::consts::TAU;
            if rng.random::<f64>() * (1.0 + SWING) > 1.0 + SWING * phase.cos() {
                continue;
            }
            sessions += 1;
            let collection = ranks[weighted(&weights, &mut rng)];
            let mut when = at;
            loop {
                let question = rng.random_range(0..corpus.questions(collection));
                arrivals.push(Arrival { at: Duration::from_secs_f64(when), collection, question });
                if rng.random::<f64>() >= options.follow_ups / per_session {
                    break;
                }
                when += options.think_s * (THINK_SIGMA * normal(&mut rng)).exp();
            }
        }
        arrivals.sort();
        Self { arrivals, sessions }
    }
}

fn weighted(weights: &[f64], rng: &mut ChaCha8Rng) -> usize {
    let mut left = rng.random::<f64>() * weights.iter().sum::<f64>();
    weights
        .iter()
        .position(|weight| {
            left -= weight;
            left < 0.0
        })
        .unwrap_or(weights.len().saturating_sub(1))
}

/// Standard normal (Box and Muller 1958).
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let (u, v) = (1.0 - rng.random::<f64>(), rng.random::<f64>());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}
