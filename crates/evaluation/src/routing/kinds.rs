//! Fits the kinds of questions: multinomial logistic regression over surface and n-grams, the fixed cues as offsets.

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
}

impl Labelled {
    /// None for a kind that is not trained.
    pub(crate) fn new(text: &str, kind: QuestionKind, document: Option<usize>) -> Option<Self> {
        let kind = QuestionKind::TRAINED.iter().position(|known| *known == kind)?;
        Some(Self { surface: Surface::of(text), ngrams: ngrams(text), kind, document })
    }
}

/// Heads fitted on `questions`; each kind counts the same, however many questions it has, and so does each half of a
/// kind that is partly of the routing set.
pub(crate) fn fit(questions: &[&Labelled]) -> Vec<Head> {
    let mut counts = [[0usize; 2]; KINDS];
    for question in questions {
        counts[question.kind][usize::from(question.document.is_some())] += 1;
    }
    let present = counts.iter().flatten().filter(|count| **count > 0).count().max(1) as f64;
    let width = SURFACE_NAMES.len() + BUCKETS;
    let mut weights = vec![vec![0.0f64; width + 1]; KINDS];
    let mut velocity = weights.clone();
    for _ in 0..ROUNDS {
        let mut gradient: Vec<Vec<f64>> =
            weights.iter().map(|weights| weights.iter().map(|weight| PENALTY * weight).collect()).collect();
        for question in questions {
            let count = counts[question.kind][usize::from(question.document.is_some())] as f64;
            let share = 1.0 / (present * count);
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
    fn kinds_are_learned_and_kinds_without_questions_stay_unlikely() {
        let labelled: Vec<Labelled> = (0..30)
            .flat_map(|n| {
                [
                    Labelled::new(&format!("who built the bridge number {n}"), QuestionKind::LocalFact, None),
                    Labelled::new(
                        &format!("why did the mayor of {n} resign after that"),
                        QuestionKind::MultiHop,
                        Some(n),
                    ),
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
