//! Routes decided from question and document alone, scored by how the published models really answered.
//!
//! Every decision is made by a router that saw no question about the same document: leave one document out, the kinds of
//! questions included. The threshold that keeps the share of long-context tokens is found on the other documents too, from
//! predictions of routers that left those out in turn. Intervals come from resampling documents, since questions about one
//! document are not independent.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    data::{REFUSAL, Scores},
    fit::{calibration, mean, platt},
    model::{Material, fit, fit_with},
};
use crate::{Bootstrap, Estimate, Progress};

/// A difference smaller than this is a tie.
const TIE: f64 = 0.1;

/// Parts of the remaining documents that are left out in turn to find a threshold.
const INNER: usize = 5;

/// One way of routing, for one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Recall reached.
    pub recall: Estimate,
    /// F1 reached.
    pub f1: f64,
    /// Share of the long-context tokens that always reading everything takes.
    pub share: f64,
    /// Recall minus that of the better constant policy.
    pub over_better: Estimate,
    /// The same where differences under a tenth count as none.
    pub over_better_ties: Estimate,
    /// Recall minus that of the better constant policy, over the questions that the document answers, and over those it does
    /// not (where recall measures how much of the reference refusal is matched).
    pub over_better_answerable: f64,
    /// See there.
    pub over_better_refusals: f64,
}

/// What routing does for one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelReplay {
    /// The model.
    pub model: String,
    /// Recall from passages always, from the full context always, and with the better of the two for every question.
    pub passages: f64,
    /// See there.
    pub full: f64,
    /// See there.
    pub oracle: f64,
    /// Share of long-context tokens of the oracle, which takes passages for ties.
    pub oracle_share: f64,
    /// F1 from passages always, and from the full context always.
    pub f1: (f64, f64),
    /// Ours, within the share of long-context tokens asked for.
    pub ours: Policy,
    /// Ours, wherever a gain is expected, whatever it takes.
    pub unbounded: Policy,
}

/// A point of the curve: means over the models.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// Share of long-context tokens.
    pub share: f64,
    /// Recall.
    pub recall: f64,
}

/// How well the probabilities are calibrated that the full context is better by more than a tenth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Mean squared error, and that of always saying the overall share.
    pub brier: f64,
    /// See there.
    pub brier_of_share: f64,
    /// Expected calibration error over ten bins.
    pub error: f64,
    /// Slope and offset of the sigmoid over all predictions.
    pub slope: f64,
    /// See there.
    pub offset: f64,
}

/// The replay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// One a model.
    pub models: Vec<ModelReplay>,
    /// Ours at rising shares of long-context tokens.
    pub curve: Vec<Point>,
    /// Calibration of the probabilities.
    pub calibration: Calibration,
    /// Correlation of predicted and real gain, over all questions and models.
    pub correlation: f64,
}

/// Replays all questions, allowing `share` of the long-context tokens.
pub(crate) fn replay(material: &Material<'_>, share: f64, bootstrap: Bootstrap, progress: &dyn Progress) -> Replay {
    let (set, documents) = (material.set, material.set.documents.len());
    let models = set.models.len();
    let mut gains = vec![vec![0.0; set.questions.len()]; models];
    // By document left out: predictions for the others, by model and question.
    let mut inner: Vec<Vec<Vec<f64>>> = Vec::with_capacity(documents);
    for out in 0..documents {
        let fitted = fit(material, &[out]);
        let mut others = vec![vec![f64::NAN; set.questions.len()]; models];
        for (at, _) in set.questions.iter().enumerate().filter(|(_, question)| question.document == out) {
            for (model, name) in set.models.iter().enumerate() {
                gains[model][at] = fitted.gain(&material.shapes.inputs[at], name);
            }
        }
        for part in 0..INNER {
            let within = |document: usize| document != out && document % INNER == part;
            let without: Vec<usize> = (0..documents).filter(|document| *document == out || within(*document)).collect();
            let partial = fit_with(material, &without, fitted.kinds.clone());
            for (at, _) in set.questions.iter().enumerate().filter(|(_, question)| within(question.document)) {
                for (model, name) in set.models.iter().enumerate() {
                    others[model][at] = partial.gain(&material.shapes.inputs[at], name);
                }
            }
        }
        inner.push(others);
        progress.answered(out + 1, documents);
    }
    let tokens: Vec<f64> = set.questions.iter().map(|q| material.shapes.tokens[q.document] as f64).collect();
    let context = Context { material, tokens: &tokens, gains: &gains, inner: &inner, bootstrap };
    let replays = (0..models).map(|model| context.of_model(model, share)).collect();
    let shares = (0..=20).map(|step| f64::from(step) / 20.0);
    let curve = shares
        .map(|share| {
            let points: Vec<Point> = (0..models)
                .map(|model| {
                    let full = context.decide(model, share, f64::NEG_INFINITY);
                    let recall = mean(full.iter().enumerate().map(|(at, full)| taken(context.score(at, model), *full)));
                    Point { share: context.share(&full), recall }
                })
                .collect();
            Point { share: mean(points.iter().map(|p| p.share)), recall: mean(points.iter().map(|p| p.recall)) }
        })
        .collect();
    Replay { models: replays, curve, calibration: context.calibrate(), correlation: context.correlation() }
}

struct Context<'a> {
    material: &'a Material<'a>,
    tokens: &'a [f64],
    gains: &'a [Vec<f64>],
    inner: &'a [Vec<Vec<f64>>],
    bootstrap: Bootstrap,
}

fn taken(score: &Scores, full: bool) -> f64 {
    if full { score.full } else { score.passages }
}

impl Context<'_> {
    fn score(&self, question: usize, model: usize) -> &Scores {
        &self.material.set.questions[question].scores[model]
    }

    /// Which questions read the full context: those whose gain is above `least` and among the largest that together keep
    /// within `share` of the tokens, on the documents that the threshold was found on.
    fn decide(&self, model: usize, share: f64, least: f64) -> Vec<bool> {
        let questions = &self.material.set.questions;
        let thresholds: Vec<f64> =
            self.inner.iter().map(|others| threshold(&others[model], self.tokens, share).max(least)).collect();
        (0..questions.len()).map(|at| self.gains[model][at] > thresholds[questions[at].document]).collect()
    }

    fn share(&self, full: &[bool]) -> f64 {
        let read: f64 = self.tokens.iter().zip(full).filter(|(_, full)| **full).map(|(tokens, _)| tokens).sum();
        read / self.tokens.iter().sum::<f64>()
    }

    fn of_model(&self, model: usize, share: f64) -> ModelReplay {
        let set = self.material.set;
        let scores: Vec<&Scores> = (0..set.questions.len()).map(|at| self.score(at, model)).collect();
        let average = |value: &dyn Fn(&Scores) -> f64| mean(scores.iter().map(|score| value(score)));
        let oracle: Vec<bool> = scores.iter().map(|score| score.full - score.passages >= TIE).collect();
        let (full, passages) = (average(&|score| score.full), average(&|score| score.passages));
        let policy = |decided: &[bool]| self.policy(&scores, decided, full > passages);
        ModelReplay {
            model: set.models[model].clone(),
            passages,
            full,
            oracle: average(&|score| score.full.max(score.passages)),
            oracle_share: self.share(&oracle),
            f1: (average(&|score| score.passages_f1), average(&|score| score.full_f1)),
            ours: policy(&self.decide(model, share, 0.0)),
            unbounded: policy(&self.decide(model, 1.0, 0.0)),
        }
    }

    fn policy(&self, scores: &[&Scores], decided: &[bool], full_is_better: bool) -> Policy {
        let questions = &self.material.set.questions;
        let reached: Vec<f64> = scores.iter().zip(decided).map(|(score, full)| taken(score, *full)).collect();
        let over = |ties: bool| -> Vec<f64> {
            let tie = |score: &Scores| ties && (score.full - score.passages).abs() < TIE;
            let pairs = scores.iter().zip(&reached);
            pairs.map(|(s, reached)| if tie(s) { 0.0 } else { reached - taken(s, full_is_better) }).collect()
        };
        let of = |refusals: bool| {
            let over = over(false);
            mean(questions.iter().zip(over).filter(|(q, _)| (q.level == REFUSAL) == refusals).map(|(_, over)| over))
        };
        let f1 = |(score, full): (&&Scores, &bool)| if *full { score.full_f1 } else { score.passages_f1 };
        Policy {
            recall: self.by_document(&reached),
            f1: mean(scores.iter().zip(decided).map(f1)),
            share: self.share(decided),
            over_better: self.by_document(&over(false)),
            over_better_ties: self.by_document(&over(true)),
            over_better_answerable: of(false),
            over_better_refusals: of(true),
        }
    }

    /// The mean over the questions, with an interval from resampling documents.
    fn by_document(&self, values: &[f64]) -> Estimate {
        let groups: Vec<usize> = self.material.set.questions.iter().map(|question| question.document).collect();
        grouped(values, &groups, self.bootstrap)
    }

    /// Predictions, and whether the full context was better by more than a tenth, with the document they are about.
    fn outcomes(&self) -> Vec<(f64, bool, usize)> {
        let questions = self.material.set.questions.iter().enumerate();
        let of_question = questions.flat_map(|(at, question)| {
            question.scores.iter().enumerate().map(move |(model, score)| {
                (self.gains[model][at], score.full - score.passages > TIE, question.document)
            })
        });
        of_question.collect()
    }

    /// The sigmoid is fitted without the documents it is judged on.
    fn calibrate(&self) -> Calibration {
        let all = self.outcomes();
        let fitted = |without: Option<usize>| {
            let kept = || all.iter().filter(|(_, _, document)| without.is_none_or(|part| document % INNER != part));
            let scores: Vec<f64> = kept().map(|(gain, _, _)| *gain).collect();
            let outcomes: Vec<bool> = kept().map(|(_, better, _)| *better).collect();
            platt(&scores, &outcomes)
        };
        let parts: Vec<(f64, f64)> = (0..INNER).map(|part| fitted(Some(part))).collect();
        let probability = |(slope, offset): (f64, f64), gain: f64| 1.0 / (1.0 + (-(slope * gain + offset)).exp());
        let probabilities: Vec<f64> =
            all.iter().map(|(gain, _, document)| probability(parts[document % INNER], *gain)).collect();
        let outcomes: Vec<bool> = all.iter().map(|(_, better, _)| *better).collect();
        let share = mean(outcomes.iter().map(|better| if *better { 1.0 } else { 0.0 }));
        let (brier, error) = calibration(&probabilities, &outcomes);
        let (slope, offset) = fitted(None);
        Calibration { brier, brier_of_share: share * (1.0 - share), error, slope, offset }
    }

    fn correlation(&self) -> f64 {
        let pairs: Vec<(f64, f64)> = (0..self.material.set.questions.len())
            .flat_map(|at| {
                (0..self.gains.len()).map(move |model| {
                    let score = self.score(at, model);
                    (self.gains[model][at], score.full - score.passages)
                })
            })
            .collect();
        let (a, b) = (mean(pairs.iter().map(|p| p.0)), mean(pairs.iter().map(|p| p.1)));
        let covariance = mean(pairs.iter().map(|p| (p.0 - a) * (p.1 - b)));
        let deviations = mean(pairs.iter().map(|p| (p.0 - a).powi(2))) * mean(pairs.iter().map(|p| (p.1 - b).powi(2)));
        if deviations > 0.0 { covariance / deviations.sqrt() } else { 0.0 }
    }
}

/// The gain above which the questions with a prediction keep within `share` of their tokens.
fn threshold(gains: &[f64], tokens: &[f64], share: f64) -> f64 {
    let mut known: Vec<(f64, f64)> =
        gains.iter().copied().zip(tokens.iter().copied()).filter(|(gain, _)| !gain.is_nan()).collect();
    known.sort_by(|a, b| b.0.total_cmp(&a.0));
    let allowed = share * known.iter().map(|(_, tokens)| tokens).sum::<f64>();
    let mut read = 0.0;
    for (gain, tokens) in &known {
        read += tokens;
        if read > allowed * (1.0 + 1e-9) {
            return *gain;
        }
    }
    f64::NEG_INFINITY
}

/// The mean of `values` with an interval from resampling groups with all their values.
fn grouped(values: &[f64], groups: &[usize], bootstrap: Bootstrap) -> Estimate {
    let mut sums: Vec<(f64, f64)> = vec![(0.0, 0.0); groups.iter().max().map_or(0, |most| most + 1)];
    for (value, group) in values.iter().zip(groups) {
        sums[*group] = (sums[*group].0 + value, sums[*group].1 + 1.0);
    }
    sums.retain(|(_, count)| *count > 0.0);
    if sums.is_empty() {
        return Estimate { mean: 0.0, low: 0.0, high: 0.0 };
    }
    let mut rng = ChaCha8Rng::seed_from_u64(bootstrap.seed);
    let mut means: Vec<f64> = (0..bootstrap.resamples.max(1))
        .map(|_| {
            let drawn = (0..sums.len()).map(|_| sums[rng.random_range(0..sums.len())]);
            let (sum, count) = drawn.fold((0.0, 0.0), |all, one| (all.0 + one.0, all.1 + one.1));
            sum / count
        })
        .collect();
    means.sort_by(f64::total_cmp);
    let tail = (1.0 - bootstrap.confidence.clamp(0.0, 1.0)) / 2.0;
    let at = |share: f64| means[((means.len() - 1) as f64 * share).round() as usize];
    Estimate { mean: mean(values.iter().copied()), low: at(tail), high: at(1.0 - tail) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_keeps_within_its_share() {
        let gains = [0.4, f64::NAN, 0.1, 0.3, 0.2];
        let tokens = [10.0, 1000.0, 10.0, 10.0, 10.0];
        let read = |share: f64| gains.iter().filter(|gain| **gain > threshold(&gains, &tokens, share)).count();
        assert_eq!([0.0, 0.25, 0.49, 0.5, 1.0].map(read), [0, 1, 1, 2, 4]);
    }

    #[test]
    fn questions_about_one_document_are_drawn_together() {
        // Half the documents all good, half all bad: with 200 questions it is still only 4 documents.
        let values: Vec<f64> = (0..200).map(|n| if n % 4 < 2 { 1.0 } else { 0.0 }).collect();
        let groups: Vec<usize> = (0..200).map(|n| n % 4).collect();
        let estimate = grouped(&values, &groups, Bootstrap::default());
        assert_eq!(estimate.mean, 0.5);
        assert!(estimate.low <= 0.0 && estimate.high >= 1.0, "{estimate:?}");
        let alone = Bootstrap::default().estimate(&values);
        assert!(alone.low > 0.4);
    }
}
