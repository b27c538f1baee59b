//! The trained part of the choice of a route: small linear models over question, hits and scope.
//!
//! Three heads share one input ([`RouterInput`]): the kind of question, the quality that passages are expected to reach,
//! and how much better the full context is expected to be (the *gain*). They were fitted by `edgewise eval routing
//! --train` and come as one JSON file with its provenance; `config/router.json` is built in.
//!
//! What was learned on one set of documents is not known to hold elsewhere. So every reading carries its *trust*, which
//! falls as question or scope leave the range of the training data, and [`crate`]'s quality moves its priors by what was
//! learned only within bounds and only as far as it is trusted.
//!
//! Invariants: a file that is not exactly of this format is refused; a reading is finite whatever the input; nothing here
//! depends on time, and equal inputs give equal readings.
//!
//! Deliberately not here: fitting, which is the evaluation's, and budgets.

mod correction;
mod file;
mod text;

use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Features, KindProbabilities, QuestionKind,
    question::{SURFACE_NAMES, Surface},
};

pub use correction::{Corrections, Feedback};
pub use file::{FORMAT, Head, ModelHead, Platt, Provenance, RouterError, RouterFile, Scale};
pub use text::{BUCKETS, Sparse, ngrams, word_hashes};

/// The built-in file.
const EMBEDDED: &str = include_str!("../../../config/router.json");

/// Names of the dense inputs, in order: first these, then those of the question's surface, then its kinds.
const SHAPE_NAMES: [&str; 12] = [
    "top_cosine",
    "cosine_gap",
    "bm25_per_word",
    "gap",
    "entropy",
    "arm_overlap",
    "sections_in_top",
    "hit_share",
    "content_words",
    "covered_by_first",
    "covered_by_top",
    "ln_scope_tokens",
];

/// Standard deviations from the training mean at which a dense input is cut off.
const MOST_DEVIATION: f32 = 3.0;

/// Tokens of a chunk, roughly: BM25 grows with the logarithm of the number of chunks.
const CHUNK_TOKENS: f32 = 150.0;

/// What the heads read.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterInput {
    /// Unscaled, in the order of [`RouterInput::names`]; without the kinds until these are known.
    pub dense: Vec<f32>,
    /// Surface of the question.
    pub surface: Surface,
    /// Hashed n-grams of the question.
    pub ngrams: Sparse,
    /// Hashes of its words.
    pub words: Vec<u32>,
}

impl RouterInput {
    /// Names of the dense inputs: part of the file's format.
    pub fn names() -> Vec<String> {
        let kinds = QuestionKind::TRAINED.iter().map(|kind| format!("kind_{}", kind.as_str()));
        SHAPE_NAMES.iter().chain(&SURFACE_NAMES).map(|name| (*name).to_owned()).chain(kinds).collect()
    }

    /// Reads a question and what was measured of its hits and scope. Does not look at the queue, the cache or the kind.
    pub fn new(question: &str, features: &Features) -> Self {
        let surface = Surface::of(question);
        let chunks = (2.0 + features.scope_tokens as f32 / CHUNK_TOKENS).ln();
        let mut dense = vec![
            features.top_cosine,
            features.cosine_gap,
            features.top_bm25 / (features.content_words.max(1) as f32 * chunks),
            features.gap,
            features.entropy,
            features.arm_overlap,
            features.sections_in_top as f32,
            features.hit_share,
            features.content_words as f32,
            features.covered_by_first,
            features.covered_by_top,
            (features.scope_tokens as f32 + 1.0).ln(),
        ];
        dense.extend_from_slice(surface.values());
        Self { dense, surface, ngrams: ngrams(question), words: word_hashes(question) }
    }

    /// The same with the kinds appended, as the quality heads read it.
    pub fn with_kinds(mut self, kinds: &KindProbabilities) -> Self {
        self.dense.truncate(SHAPE_NAMES.len() + SURFACE_NAMES.len());
        self.dense.extend_from_slice(&kinds.values()[..QuestionKind::TRAINED.len()]);
        self
    }
}

/// What the router makes of a question and its hits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RouterReading {
    /// Quality that passages are expected to reach, as measured on the training set, 0 to 1.
    pub passages: f64,
    /// By how much the full context is expected to be better; negative where passages are.
    pub gain: f64,
    /// Probability that the full context is better by more than a tenth.
    pub full_better: f64,
    /// How much this question and scope are like those trained on, 0 (not at all) to 1.
    pub trust: f64,
}

/// A loaded router. Share it in an `Arc`.
#[derive(Debug, Clone, PartialEq)]
pub struct Router {
    file: RouterFile,
}

impl Router {
    /// The built-in one.
    ///
    /// # Errors
    /// Only if the program was built with a file that does not match it.
    pub fn embedded() -> Result<Self, RouterError> {
        Self::parse(EMBEDDED, "the built-in config/router.json")
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// [`RouterError::Read`]; [`RouterError::Format`] if it is not of this format, is damaged or does not fit together.
    pub fn load(path: &Path) -> Result<Self, RouterError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RouterError::Read { file: path.display().to_string(), source })?;
        Self::parse(&text, &path.display().to_string())
    }

    /// Reads `text`, which errors call `name`.
    ///
    /// # Errors
    /// [`RouterError::Format`].
    pub fn parse(text: &str, name: &str) -> Result<Self, RouterError> {
        Ok(Self { file: RouterFile::parse(text, name)? })
    }

    /// From a file just made.
    ///
    /// # Errors
    /// [`RouterError::Format`] if it does not fit together.
    pub fn of(file: RouterFile) -> Result<Self, RouterError> {
        file.check("the new router")?;
        Ok(Self { file })
    }

    /// Where it comes from.
    pub fn provenance(&self) -> &Provenance {
        &self.file.provenance
    }

    /// How likely each kind is.
    pub fn kinds(&self, input: &RouterInput) -> KindProbabilities {
        kinds(&self.file.kinds, input)
    }

    /// What the heads say of a question asked of `model`, whose kinds are given. A model that the file does not know gets
    /// what holds on average.
    pub fn read(&self, input: &RouterInput, model: &str) -> RouterReading {
        let file = &self.file;
        let scaled = scale(&file.scaling, &input.dense);
        let familiarity = self.familiarity(&input.words);
        let mut passages = file.passages.apply(&scaled, &input.ngrams, familiarity);
        let mut gain = file.gain.apply(&scaled, &input.ngrams, familiarity);
        if let Some(head) = file.models.get(model) {
            passages += f64::from(head.passages);
            gain += head.gain(&scaled);
        }
        RouterReading {
            passages: passages.clamp(0.0, 1.0),
            gain: gain.clamp(-1.0, 1.0),
            full_better: file.better.probability(gain),
            trust: f64::from(self.trust(input) * (0.5 + 0.5 * familiarity)),
        }
    }

    /// Share of the question's words that are common in the training questions, as a share of what is usual there, 0 to
    /// 1: low for another language.
    fn familiarity(&self, words: &[u32]) -> f32 {
        let known = words.iter().filter(|word| self.file.common_words.binary_search(word).is_ok()).count();
        let share = known as f32 / words.len().max(1) as f32;
        (share / self.file.usual_share.max(0.01)).min(1.0)
    }

    /// How far scope and hits are inside the range trained on: 1 within two standard deviations, falling beyond. The size
    /// of the scope alone can bring it to nothing, since the gain was measured for one size of documents. A file that was
    /// fitted on no data is not trusted at all.
    fn trust(&self, input: &RouterInput) -> f32 {
        if self.file.provenance.data.is_empty() {
            return 0.0;
        }
        let beyond = |at: usize| {
            let (Some(scale), Some(value)) = (self.file.scaling.get(at), input.dense.get(at)) else { return 0.0 };
            (((value - scale.mean) / scale.sd).abs() - 2.0).max(0.0)
        };
        let shape =
            (0..SHAPE_NAMES.len() - 1).map(|at| beyond(at).min(4.0)).sum::<f32>() / (SHAPE_NAMES.len() - 1) as f32;
        // In powers of e of tokens, not in standard deviations: those of a set of alike documents are tiny.
        let size = self.file.scaling.get(SHAPE_NAMES.len() - 1).zip(input.dense.get(SHAPE_NAMES.len() - 1));
        let size = size.map_or(0.0, |(scale, value)| ((value - scale.mean).abs() - 1.0).max(0.0));
        (-shape - 0.5 * size).exp()
    }
}

/// Softmax of the kind heads and the fixed cues, with the rule for conversations.
pub fn kinds(heads: &[Head], input: &RouterInput) -> KindProbabilities {
    let dense = input.surface.values();
    let cues = input.surface.cues();
    let logits: Vec<f64> =
        heads.iter().zip(cues).map(|(head, cue)| head.apply(dense, &input.ngrams, 1.0) + f64::from(cue)).collect();
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    let conversation = input.surface.conversation();
    let mut values = [0.0, 0.0, 0.0, 0.0, conversation];
    for (value, weight) in values.iter_mut().zip(&weights).take(QuestionKind::TRAINED.len()) {
        *value = (weight / total) as f32 * (1.0 - conversation);
    }
    KindProbabilities::of(values)
}

/// Dense inputs in standard deviations from the training mean, cut off.
pub fn scale(scaling: &[Scale], dense: &[f32]) -> Vec<f32> {
    let scaled = scaling.iter().zip(dense);
    scaled.map(|(scale, value)| ((value - scale.mean) / scale.sd).clamp(-MOST_DEVIATION, MOST_DEVIATION)).collect()
}

#[cfg(test)]
mod tests;
