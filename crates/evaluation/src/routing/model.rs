//! Fits the quality heads of a router, on all questions or on those outside some documents.
//!
//! The gain (quality of the full context minus that of passages) and the quality of passages are fitted on the mean over
//! the models, by ridge regression over scaled dense inputs and n-grams; what is particular to a model, on dense inputs
//! alone and held back more. A gain counts as at most a half either way: one answer missed altogether says as much as one
//! missed by half.

use std::collections::BTreeMap;

use edgewise_planner::{BUCKETS, Head, KindProbabilities, ModelHead, RouterInput, Scale, kinds, scale};

use super::{
    RoutingSet,
    fit::{Ridge, mean},
    kinds::{self as fit_kinds, Labelled},
    shape::Shapes,
};

/// Penalties of the shared heads and of what is particular to a model.
const SHARED: f64 = 10.0;
const PARTICULAR: f64 = 30.0;
/// A gain or loss beyond this counts as this.
const MOST_GAIN: f64 = 0.5;
/// Questions that a model's own intercept is held back by.
const HELD_BACK: f64 = 50.0;

/// Heads, as in the router's file.
pub(crate) struct Fitted {
    pub(crate) scaling: Vec<Scale>,
    pub(crate) kinds: Vec<Head>,
    pub(crate) passages: Head,
    pub(crate) gain: Head,
    pub(crate) models: BTreeMap<String, ModelHead>,
}

impl Fitted {
    /// The gain predicted for a question and a model.
    pub(crate) fn gain(&self, input: &RouterInput, model: &str) -> f64 {
        let kinds = kinds(&self.kinds, input);
        let input = input.clone().with_kinds(&kinds);
        let scaled = scale(&self.scaling, &input.dense);
        let particular = self.models.get(model).map_or(0.0, |head| head.gain(&scaled));
        self.gain.apply(&scaled, &input.ngrams, 1.0) + particular
    }
}

/// Everything there is to fit on.
pub(crate) struct Material<'a> {
    pub(crate) set: &'a RoutingSet,
    pub(crate) shapes: &'a Shapes,
    /// Questions of known kinds, those of the set among them.
    pub(crate) labelled: &'a [Labelled],
    /// [`likeness`] of the questions.
    pub(crate) likeness: &'a [Vec<f64>],
}

/// Inner products of the questions' n-grams.
pub(crate) fn likeness(shapes: &Shapes) -> Vec<Vec<f64>> {
    let words: Vec<Vec<f32>> = shapes.inputs.iter().map(|input| spread_out(&input.ngrams)).collect();
    gram(&words, |a, b| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum())
}

/// Fits on the questions whose document is not in `without`.
pub(crate) fn fit(material: &Material<'_>, without: &[usize]) -> Fitted {
    let labelled: Vec<&Labelled> = material
        .labelled
        .iter()
        .filter(|question| question.document.is_none_or(|document| !without.contains(&document)))
        .collect();
    fit_with(material, without, fit_kinds::fit(&labelled))
}

/// The same with kinds fitted before.
pub(crate) fn fit_with(material: &Material<'_>, without: &[usize], kind_heads: Vec<Head>) -> Fitted {
    let Material { set, shapes, .. } = material;
    let rows: Vec<usize> =
        (0..set.questions.len()).filter(|at| !without.contains(&set.questions[*at].document)).collect();
    let inputs: Vec<RouterInput> = rows
        .iter()
        .map(|at| {
            let kinds: KindProbabilities = kinds(&kind_heads, &shapes.inputs[*at]);
            shapes.inputs[*at].clone().with_kinds(&kinds)
        })
        .collect();
    let scaling = scaling(&inputs);
    let scaled: Vec<Vec<f32>> = inputs.iter().map(|input| scale(&scaling, &input.dense)).collect();
    let width = scaling.len() as f64;
    let dense_gram = gram(&scaled, |a, b| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>() / width);
    let both: Vec<Vec<f64>> = dense_gram
        .iter()
        .zip(&rows)
        .map(|(dense, at)| {
            dense.iter().zip(&rows).map(|(dense, other)| dense + material.likeness[*at][*other]).collect()
        })
        .collect();
    let all: Vec<usize> = (0..rows.len()).collect();
    let (shared, particular) = (Ridge::new(&both, &all, SHARED), Ridge::new(&dense_gram, &all, PARTICULAR));

    // Of the rows: the mean over the models, and each model's difference from it.
    let gain = |at: usize, model: usize| {
        let score = &set.questions[at].scores[model];
        (score.full - score.passages).clamp(-MOST_GAIN, MOST_GAIN)
    };
    let passages = |at: usize, model: usize| set.questions[at].scores[model].passages;
    let over_models = |value: &dyn Fn(usize, usize) -> f64| -> Vec<f64> {
        rows.iter().map(|at| mean((0..set.models.len()).map(|model| value(*at, model)))).collect()
    };
    let (mean_gain, mean_passages) = (over_models(&gain), over_models(&passages));
    let head = |targets: &[f64]| {
        let level = mean(targets.iter().copied());
        let centred: Vec<f64> = targets.iter().map(|target| target - level).collect();
        let coefficients = shared.solve(&centred);
        let mut ngrams = vec![0.0f64; BUCKETS];
        for (coefficient, input) in coefficients.iter().zip(&inputs) {
            for (bucket, value) in &input.ngrams {
                if let Some(weight) = ngrams.get_mut(*bucket as usize) {
                    *weight += coefficient * f64::from(*value);
                }
            }
        }
        Head {
            bias: level as f32,
            dense: primal(&coefficients, &scaled),
            ngrams: ngrams.into_iter().map(|weight| weight as f32).collect(),
        }
    };
    let backed = rows.len() as f64 / (rows.len() as f64 + HELD_BACK);
    let models = set.models.iter().enumerate().map(|(model, name)| {
        let differences = |value: &dyn Fn(usize, usize) -> f64, means: &[f64]| -> Vec<f64> {
            rows.iter().zip(means).map(|(at, mean)| value(*at, model) - mean).collect()
        };
        let gains = differences(&gain, &mean_gain);
        let level = mean(gains.iter().copied());
        let centred: Vec<f64> = gains.iter().map(|gain| gain - level).collect();
        let head = ModelHead {
            passages: (backed * mean(differences(&passages, &mean_passages))) as f32,
            gain: (backed * level) as f32,
            dense: primal(&particular.solve(&centred), &scaled),
        };
        (name.clone(), head)
    });
    Fitted {
        models: models.collect(),
        passages: head(&mean_passages),
        gain: head(&mean_gain),
        scaling,
        kinds: kind_heads,
    }
}

/// Weights of the dense inputs, from coefficients of the rows.
fn primal(coefficients: &[f64], scaled: &[Vec<f32>]) -> Vec<f32> {
    let width = scaled.first().map_or(0, Vec::len);
    let weight = |at: usize| -> f64 {
        coefficients.iter().zip(scaled).map(|(coefficient, row)| coefficient * f64::from(row[at])).sum()
    };
    (0..width).map(|at| (weight(at) / width as f64) as f32).collect()
}

fn gram(rows: &[Vec<f32>], product: impl Fn(&[f32], &[f32]) -> f64) -> Vec<Vec<f64>> {
    let mut gram = vec![vec![0.0; rows.len()]; rows.len()];
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate().take(i + 1) {
            gram[i][j] = product(a, b);
            gram[j][i] = gram[i][j];
        }
    }
    gram
}

fn spread_out(sparse: &[(u32, f32)]) -> Vec<f32> {
    let mut dense = vec![0.0; BUCKETS];
    for (at, value) in sparse {
        if let Some(slot) = dense.get_mut(*at as usize) {
            *slot = *value;
        }
    }
    dense
}

/// Mean and deviation of every dense input; an input that never varies gets a deviation of 1.
fn scaling(inputs: &[RouterInput]) -> Vec<Scale> {
    let width = inputs.first().map_or(0, |input| input.dense.len());
    let scale = |at: usize| {
        let values = || inputs.iter().map(|input| f64::from(input.dense[at]));
        let level = mean(values());
        let sd = mean(values().map(|value| (value - level).powi(2))).sqrt();
        Scale { mean: level as f32, sd: if sd < 1e-6 { 1.0 } else { sd as f32 } }
    };
    (0..width).map(scale).collect()
}
