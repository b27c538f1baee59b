//! The router's file: JSON, checked as a whole before anything is read with it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{RouterInput, text::BUCKETS};
use crate::{QuestionKind, question::SURFACE_NAMES};

/// Number of the format. A change of an input's meaning, order or hash is a new one.
pub const FORMAT: u32 = 1;

/// Why a router can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RouterError {
    /// The file can't be read.
    #[error(
        "cannot read the router file {file} ({source}): name another in planner.router, or leave it empty for the built-in one"
    )]
    Read {
        /// The file.
        file: String,
        /// Why.
        source: std::io::Error,
    },
    /// It is not of this format.
    #[error(
        "{file} is no router file of format {FORMAT}: {reason}. Train a new one with `edgewise eval routing --train FILE`, \
         or leave planner.router empty for the built-in one"
    )]
    Format {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

/// Everything in the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouterFile {
    /// [`FORMAT`].
    pub format: u32,
    /// Where it comes from.
    pub provenance: Provenance,
    /// [`RouterInput::names`].
    pub features: Vec<String>,
    /// Buckets of the n-grams.
    pub buckets: usize,
    /// Mean and deviation of each dense input.
    pub scaling: Vec<Scale>,
    /// One head for each of [`QuestionKind::TRAINED`], over the question's surface (unscaled) and n-grams.
    pub kinds: Vec<Head>,
    /// Quality of passages.
    pub passages: Head,
    /// Quality of the full context minus that of passages.
    pub gain: Head,
    /// Probability that the full context is better by more than a tenth, from the gain.
    pub better: Platt,
    /// What is particular to models, by their names.
    pub models: BTreeMap<String, ModelHead>,
    /// Hashes of words that are common in the training questions, rising.
    pub common_words: Vec<u32>,
    /// Share of a training question's words that are among them, on average.
    pub usual_share: f32,
}

/// Where a router comes from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Day of the training.
    pub date: String,
    /// Command that made it.
    pub command: String,
    /// BLAKE3 of each data file, by name.
    pub data: BTreeMap<String, String>,
    /// Embedder that the hits came from, and its digest.
    pub embedder: String,
    /// Figures, cross-validated by document unless their name says otherwise.
    pub figures: BTreeMap<String, f64>,
}

/// Mean and standard deviation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Mean over the training questions.
    pub mean: f32,
    /// Standard deviation, above 0.
    pub sd: f32,
}

/// A linear model over dense inputs and n-grams.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Intercept.
    pub bias: f32,
    /// One weight a dense input.
    pub dense: Vec<f32>,
    /// One weight a bucket.
    pub ngrams: Vec<f32>,
}

impl Head {
    /// Its value; n-grams count times `share`.
    pub fn apply(&self, dense: &[f32], ngrams: &[(u32, f32)], share: f32) -> f64 {
        let dense: f64 = self.dense.iter().zip(dense).map(|(weight, value)| f64::from(weight * value)).sum();
        let weight = |bucket: u32| self.ngrams.get(bucket as usize).copied().unwrap_or(0.0);
        let words: f64 = ngrams.iter().map(|(bucket, value)| f64::from(weight(*bucket) * value)).sum();
        f64::from(self.bias) + dense + f64::from(share) * words
    }
}

/// What is particular to a model: added to the shared heads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelHead {
    /// Added to the quality of passages.
    pub passages: f32,
    /// Added to the gain.
    pub gain: f32,
    /// Added to the gain for each dense input.
    pub dense: Vec<f32>,
}

impl ModelHead {
    /// What it adds to the gain, given scaled inputs.
    pub fn gain(&self, scaled: &[f32]) -> f64 {
        f64::from(self.gain)
            + self.dense.iter().zip(scaled).map(|(weight, value)| f64::from(weight * value)).sum::<f64>()
    }
}

/// A sigmoid fitted to outcomes (Platt 1999): `1 / (1 + exp(-(slope·x + offset)))`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platt {
    /// Factor of the score.
    pub slope: f64,
    /// Added to it.
    pub offset: f64,
}

impl Platt {
    /// The probability at a score.
    pub fn probability(&self, score: f64) -> f64 {
        1.0 / (1.0 + (-(self.slope * score + self.offset)).exp())
    }
}

#[derive(Deserialize)]
struct Numbered {
    format: u32,
}

impl RouterFile {
    pub(super) fn parse(text: &str, name: &str) -> Result<Self, RouterError> {
        let refuse = |reason: String| RouterError::Format { file: name.to_owned(), reason };
        // The number first: what a later format may have added should not be the complaint.
        let Numbered { format } = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        if format != FORMAT {
            return Err(refuse(format!("it is of format {format}")));
        }
        let file: Self = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        file.check(name)?;
        Ok(file)
    }

    /// Checks that lengths agree and that every number can be computed with.
    pub(super) fn check(&self, name: &str) -> Result<(), RouterError> {
        let refuse = |reason: String| Err(RouterError::Format { file: name.to_owned(), reason });
        let names = RouterInput::names();
        if self.format != FORMAT {
            return refuse(format!("it is of format {}", self.format));
        }
        if let Some((at, (found, expected))) =
            self.features.iter().zip(&names).enumerate().find(|(_, (found, expected))| found != expected)
        {
            return refuse(format!("its input {} is `{found}` where this program has `{expected}`", at + 1));
        }
        let lengths = [
            ("features", self.features.len(), names.len()),
            ("buckets", self.buckets, BUCKETS),
            ("scaling", self.scaling.len(), names.len()),
            ("kinds", self.kinds.len(), QuestionKind::TRAINED.len()),
        ];
        if let Some((what, found, expected)) = lengths.iter().find(|(_, found, expected)| found != expected) {
            return refuse(format!("`{what}` has {found} where {expected} are expected"));
        }
        let heads = self.kinds.iter().map(|head| ("kinds", head, SURFACE_NAMES.len()));
        let heads = heads.chain([("passages", &self.passages, names.len()), ("gain", &self.gain, names.len())]);
        for (what, head, dense) in heads {
            if head.dense.len() != dense || head.ngrams.len() != BUCKETS {
                return refuse(format!("a head of `{what}` has weights for other inputs"));
            }
            if !head.bias.is_finite() || head.dense.iter().chain(&head.ngrams).any(|weight| !weight.is_finite()) {
                return refuse(format!("a head of `{what}` has a weight that is no finite number"));
            }
        }
        for (model, head) in &self.models {
            let numbers = [head.passages, head.gain];
            if head.dense.len() != names.len() || numbers.iter().chain(&head.dense).any(|number| !number.is_finite()) {
                return refuse(format!("the part of the model `{model}` has weights for other inputs, or none"));
            }
        }
        if self.scaling.iter().any(|scale| !scale.mean.is_finite() || !scale.sd.is_finite() || scale.sd <= 0.0) {
            return refuse("a deviation in `scaling` is not above 0".to_owned());
        }
        if !(self.better.slope.is_finite() && self.better.offset.is_finite() && self.usual_share.is_finite()) {
            return refuse("`better` or `usual_share` is no finite number".to_owned());
        }
        if !self.common_words.is_sorted() {
            return refuse("`common_words` is not in rising order".to_owned());
        }
        Ok(())
    }
}
