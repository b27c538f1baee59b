//! Fits the kinds of questions: multinomial logistic regression over surface and n-grams, the fixed cues as offsets.

use std::collections::BTreeMap;

use edgewise_planner::{BUCKETS, Head, QuestionKind, SURFACE_NAMES, Sparse, Surface, ngrams};

const KINDS: usize = QuestionKind::TRAINED.len();
const ROUNDS: usize = 200;
const RATE: f64 = 1.0;
const MOMENTUM: f64 = 0.9;
/// Surface measures are larger than n-grams: scaled so that one rate suits both.
const SURFACE_SCALE: f64 = 0.3;
/// Ridge penalty on every weight.
const PENALTY: f64 = 1e-3;

/// A labelled question, read once.
#[derive(Debug, Clone)]
pub(crate) struct Labelled {
    pub(crate) surface: Surface,
    pub(crate) ngrams: Sparse,
    pub(crate) kind: usize,
    /// The document it is about, if it is one of the routing set's.
    pub(crate) document: Option<usize>,
    /// The file it is from; 0 is the routing set.
    pub(crate) source: usize,
    /// Questions of one group of a source are left out together.
    pub(crate) group: usize,
    pub(crate) text: String,
}

impl Labelled {
    /// A question about a document of the routing set. None for a kind that is not trained.
    pub(crate) fn new(text: &str, kind: QuestionKind, document: usize) -> Option<Self> {
        Some(Self { document: Some(document), ..Self::other(text, kind, 0, document)? })
    }

    /// A question from another file. None for a kind that is not trained.
    pub(crate) fn other(text: &str, kind: QuestionKind, source: usize, group: usize) -> Option<Self> {
        let kind = QuestionKind::TRAINED.iter().position(|known| *known == kind)?;
        let (surface, ngrams) = (Surface::of(text), ngrams(text));
        Some(Self { surface, ngrams, kind, document: None, source, group, text: text.to_owned() })
    }
}

/// What each question counts. Each kind's half that is of the routing set counts the same, however many questions it has,
/// and so does each half that is of other files. Within such a half, a file counts by the square root of its number of
/// questions: a small one, of another sort, is not lost beside a large one, nor does a single question outweigh many.
fn shares(questions: &[&Labelled]) -> Vec<f64> {
    let mut counts: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    for question in questions {
        *counts.entry((question.kind, question.source)).or_default() += 1.0;
    }
    let mut halves: BTreeMap<(usize, bool), f64> = BTreeMap::new();
    for ((kind, source), count) in &counts {
        *halves.entry((*kind, *source > 0)).or_default() += count.sqrt();
    }
    let present = halves.len().max(1) as f64;
    let share = |question: &&Labelled| {
        let count = counts.get(&(question.kind, question.source)).copied().unwrap_or(1.0);
        let half = halves.get(&(question.kind, question.source > 0)).copied().unwrap_or(1.0);
        1.0 / (present * half * count.sqrt())
    };
    questions.iter().map(share).collect()
}

/// Heads fitted on `questions`, see [`shares`].
pub(crate) fn fit(questions: &[&Labelled]) -> Vec<Head> {
    let shares = shares(questions);
    let width = SURFACE_NAMES.len() + BUCKETS;
    let mut weights = vec![vec![0.0f64; width + 1]; KINDS];
    let mut velocity = weights.clone();
    for _ in 0..ROUNDS {
        let mut gradient: Vec<Vec<f64>> =
            weights.iter().map(|weights| weights.iter().map(|weight| PENALTY * weight).collect()).collect();
        for (question, share) in questions.iter().zip(&shares) {
            for (kind, p) in probabilities(&weights, question).into_iter().enumerate() {
                let error = share * (p - if kind == question.kind { 1.0 } else { 0.0 });
                let gradient = &mut gradient[kind];
                for (at, value) in inputs(question) {
                    gradient[at] += error * value;
                }
                gradient[width] += error;
            }
        }
        // Momentum (Polyak 1964).
        for ((weights, velocity), gradient) in weights.iter_mut().zip(&mut velocity).zip(&gradient) {
            for ((weight, speed), slope) in weights.iter_mut().zip(velocity).zip(gradient) {
                *speed = MOMENTUM * *speed - RATE * slope;
                *weight += *speed;
            }
        }
    }
    let head = |weights: &Vec<f64>| Head {
        bias: weights[width] as f32,
        dense: weights[..SURFACE_NAMES.len()].iter().map(|weight| (SURFACE_SCALE * weight) as f32).collect(),
        ngrams: weights[SURFACE_NAMES.len()..width].iter().map(|weight| *weight as f32).collect(),
    };
    weights.iter().map(head).collect()
}

fn inputs(question: &Labelled) -> impl Iterator<Item = (usize, f64)> + '_ {
    let surface =
        question.surface.values().iter().enumerate().map(|(at, value)| (at, SURFACE_SCALE * f64::from(*value)));
    let grams = question.ngrams.iter().map(|(at, value)| (SURFACE_NAMES.len() + *at as usize, f64::from(*value)));
    surface.chain(grams)
}

fn probabilities(weights: &[Vec<f64>], question: &Labelled) -> [f64; KINDS] {
    let mut logits = question.surface.cues().map(f64::from);
    for (logit, weights) in logits.iter_mut().zip(weights) {
        *logit += weights.last().copied().unwrap_or(0.0);
        *logit += inputs(question).map(|(at, value)| weights[at] * value).sum::<f64>();
    }
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps = logits.map(|logit| (logit - most).exp());
    let total: f64 = exps.iter().sum();
    exps.map(|exp| exp / total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgewise_planner::{Features, RouterInput, Scope, kinds, measure_hits};

    #[test]
    fn halves_count_the_same_and_files_by_the_root_of_their_size() {
        let of = |source: usize, kind, count: usize| {
            (0..count).filter_map(move |n| match source {
                0 => Labelled::new("who was it", kind, n),
                _ => Labelled::other("who was it", kind, source, n),
            })
        };
        let all: Vec<Labelled> = of(0, QuestionKind::LocalFact, 10)
            .chain(of(1, QuestionKind::LocalFact, 64))
            .chain(of(2, QuestionKind::LocalFact, 4))
            .chain(of(2, QuestionKind::Global, 3))
            .collect();
        let shares = shares(&all.iter().collect::<Vec<_>>());
        let sum = |of: fn(&Labelled) -> bool| -> f64 {
            all.iter().zip(&shares).filter(|(question, _)| of(question)).map(|(_, share)| share).sum()
        };
        let third = |value: f64| (value - 1.0 / 3.0).abs() < 1e-9;
        assert!(third(sum(|q| q.source == 0)) && third(sum(|q| q.kind == 3)));
        assert!((sum(|q| q.source == 1) / sum(|q| q.source == 2 && q.kind == 0) - 4.0).abs() < 1e-9);
    }

    #[test]
    fn kinds_are_learned_and_kinds_without_questions_stay_unlikely() {
        let labelled: Vec<Labelled> = (0..30)
            .flat_map(|n| {
                [
                    Labelled::other(&format!("who built the bridge number {n}"), QuestionKind::LocalFact, 1, n),
                    Labelled::new(&format!("why did the mayor of {n} resign after that"), QuestionKind::MultiHop, n),
                ]
            })
            .flatten()
            .collect();
        let heads = fit(&labelled.iter().collect::<Vec<_>>());
        let features: Features = measure_hits(&[], Scope { documents: 1, tokens: 1 }, Default::default());
        let of = |text: &str| kinds(&heads, &RouterInput::new(text, &features));
        assert_eq!(of("who built the old bridge").likeliest(), QuestionKind::LocalFact);
        assert_eq!(of("why did the mayor resign").likeliest(), QuestionKind::MultiHop);
        assert!(of("who built the old bridge").global < 0.2);
    }
}
