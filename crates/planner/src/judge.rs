//! How likely it is that the sources of an answer do not hold what was asked.
//!
//! A small model says "I don't know" beside the right passage and makes something up without it, so its word is one sign
//! among several: what it says, how sure it was of each token, whether the sources support a sentence of it, and how well
//! retrieval matched the question. A logistic model weighs them:
//! `p = 1 / (1 + exp(−(bias + Σ weight · sign)))`.
//!
//! Weights are fitted per model on real questions whose sources do or do not hold the answer (`edgewise eval judge`) and
//! shipped in `config/judge.json` with their provenance. A model that was not measured takes the default, which leaves
//! the probabilities of tokens out: their scale differs between models, what sources support does not.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{AnswerSentence, Features, PlannerError};

/// Version of the file's format.
pub const JUDGE_FORMAT: u32 = 1;

const EMBEDDED: &str = include_str!("../../../config/judge.json");

/// The signs, and what became of them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Judgement {
    /// 1 if the answer says that the sources do not hold one, else 0.
    pub says_unanswerable: f64,
    /// Share of the answer's sentences that no source supports; 1 for an answer without sentences.
    pub unsupported: f64,
    /// 1 if the answer is empty or only repeats words of the question, else 0.
    pub empty: f64,
    /// Mean natural logarithm of the probability of the answer's tokens.
    pub mean_logprob: f64,
    /// The least of them.
    pub min_logprob: f64,
    /// That of the first token.
    pub first_logprob: f64,
    /// Cosine of the best hit.
    pub top_cosine: f64,
    /// Fused score of the best hit minus that of the second.
    pub gap: f64,
    /// Share of the first ten hits that both arms found.
    pub arm_overlap: f64,
    /// Why no wider route was taken although the answer seemed not to be in the sources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_escalated: Option<String>,
}

impl Judgement {
    /// The signs by their names in the file of coefficients.
    pub fn signs(&self) -> [(&'static str, f64); 9] {
        [
            ("says_unanswerable", self.says_unanswerable),
            ("unsupported", self.unsupported),
            ("empty", self.empty),
            ("mean_logprob", self.mean_logprob),
            ("min_logprob", self.min_logprob),
            ("first_logprob", self.first_logprob),
            ("top_cosine", self.top_cosine),
            ("gap", self.gap),
            ("arm_overlap", self.arm_overlap),
        ]
    }

    /// Reads the signs off an answer.
    pub(crate) fn of(
        question: &str,
        text: &str,
        says_unanswerable: bool,
        sentences: &[AnswerSentence],
        logprobs: &[f32],
        features: &Features,
    ) -> Self {
        let said = edgewise_text::stems(text);
        let asked = edgewise_text::stems(question);
        let supported = sentences.iter().filter(|sentence| sentence.supported).count();
        let sum: f64 = logprobs.iter().map(|p| f64::from(*p)).sum();
        Self {
            says_unanswerable: f64::from(u8::from(says_unanswerable)),
            unsupported: if sentences.is_empty() { 1.0 } else { 1.0 - supported as f64 / sentences.len() as f64 },
            empty: f64::from(u8::from(said.is_subset(&asked))),
            mean_logprob: if logprobs.is_empty() { 0.0 } else { sum / logprobs.len() as f64 },
            min_logprob: logprobs.iter().copied().min_by(f32::total_cmp).map_or(0.0, f64::from),
            first_logprob: logprobs.first().copied().map_or(0.0, f64::from),
            top_cosine: f64::from(features.top_cosine),
            gap: f64::from(features.gap),
            arm_overlap: f64::from(features.arm_overlap),
            not_escalated: None,
        }
    }
}

/// Where coefficients come from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeProvenance {
    /// The command that made them.
    pub command: String,
    /// The questions.
    pub data: String,
    /// The model that answered them.
    pub model: String,
    /// Number of answers.
    pub answers: usize,
    /// Area under the ROC curve on held-out questions.
    pub auc: f64,
    /// Brier score on held-out questions.
    pub brier: f64,
    /// Expected calibration error on held-out questions.
    pub ece: f64,
}

/// A fitted judge.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeCoefficients {
    /// Constant.
    pub bias: f64,
    /// Weight by the name of the sign; a sign without one has none.
    pub weights: BTreeMap<String, f64>,
    /// Where it comes from.
    pub provenance: JudgeProvenance,
}

impl JudgeCoefficients {
    /// The probability that the sources do not hold the answer.
    pub fn probability(&self, judgement: &Judgement) -> f64 {
        let weight = |name: &str| self.weights.get(name).copied().unwrap_or(0.0);
        let score = judgement.signs().iter().fold(self.bias, |sum, (name, value)| sum + weight(name) * value);
        1.0 / (1.0 + (-score).exp())
    }
}

/// The file of coefficients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeFile {
    /// Version of the format: [`JUDGE_FORMAT`].
    pub format: u32,
    /// For models that were not measured.
    pub default: JudgeCoefficients,
    /// By digest of the model.
    pub models: BTreeMap<String, JudgeCoefficients>,
}

impl JudgeFile {
    /// The shipped coefficients.
    pub fn embedded() -> Result<Self, PlannerError> {
        Self::parse(EMBEDDED)
    }

    /// Reads and checks a file.
    pub fn parse(text: &str) -> Result<Self, PlannerError> {
        let invalid = |why: String| PlannerError::InvalidOptions(format!("judge.json {why}"));
        let file: Self = serde_json::from_str(text).map_err(|error| invalid(format!("cannot be read: {error}")))?;
        if file.format != JUDGE_FORMAT {
            return Err(invalid(format!("has format {}, but this program reads {JUDGE_FORMAT}", file.format)));
        }
        let names: Vec<&str> = Judgement::default().signs().iter().map(|(name, _)| *name).collect();
        for coefficients in file.models.values().chain([&file.default]) {
            let unknown = coefficients.weights.keys().find(|name| !names.contains(&name.as_str()));
            if let Some(name) = unknown {
                return Err(invalid(format!("weighs `{name}`, but the signs are {}", names.join(", "))));
            }
            if coefficients.weights.values().chain([&coefficients.bias]).any(|weight| !weight.is_finite()) {
                return Err(invalid("holds a weight that is not a number".to_owned()));
            }
        }
        Ok(file)
    }

    /// The coefficients for the model with this digest.
    pub fn of(&self, digest: &str) -> &JudgeCoefficients {
        self.models.get(digest).unwrap_or(&self.default)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        features::{self, Scope},
        testing::hit,
    };
    use edgewise_model_api::QueueState;
    use edgewise_types::Span;

    fn features(top_cosine: f32) -> Features {
        let hits = [hit("a.md", 1, 0.7, Some(5.0), Some(top_cosine)), hit("b.md", 2, 0.5, None, Some(0.1))];
        features::measure(&hits, Scope { documents: 10, tokens: 3000 }, QueueState::default())
    }

    fn sentence(supported: bool) -> AnswerSentence {
        AnswerSentence { span: Span::new(0, 1), citations: Vec::new(), supported }
    }

    #[test]
    fn signs_are_read_off_an_answer() {
        let logprobs = [-0.5, -0.1, -3.0];
        let sentences = [sentence(true), sentence(false)];
        let judged =
            Judgement::of("Who founded the harbour?", "Elsa did. So.", false, &sentences, &logprobs, &features(0.5));
        assert_eq!((judged.unsupported, judged.says_unanswerable, judged.empty), (0.5, 0.0, 0.0));
        assert!((judged.mean_logprob + 1.2).abs() < 1e-6);
        assert_eq!((judged.min_logprob, judged.first_logprob), (-3.0, -0.5));
        let echo = Judgement::of("Who founded the harbour?", "The harbour.", false, &[], &[], &features(0.5));
        assert_eq!((echo.empty, echo.unsupported, echo.mean_logprob), (1.0, 1.0, 0.0));
    }

    #[test]
    fn the_shipped_coefficients_tell_a_refusal_from_a_supported_answer() {
        let file = JudgeFile::embedded().unwrap();
        for coefficients in file.models.values().chain([&file.default]) {
            let judge = |refusal: bool, cosine: f32, logprob: f32| {
                let sentences = [sentence(!refusal)];
                let text = if refusal { "I don't know." } else { "Elsa Brandt founded it." };
                let signs = Judgement::of("Who?", text, refusal, &sentences, &[logprob; 5], &features(cosine));
                coefficients.probability(&signs)
            };
            assert!(judge(true, 0.2, -2.0) > judge(false, 0.7, -0.05) + 0.1);
            assert!((0.0..=1.0).contains(&judge(true, -1.0, -50.0)) && (0.0..=1.0).contains(&judge(false, 1.0, 0.0)));
        }
    }

    #[test]
    fn a_file_that_is_not_one_is_refused_with_the_reason() {
        let good = JudgeFile::embedded().unwrap();
        let with = |change: &dyn Fn(&mut JudgeFile)| {
            let mut file = good.clone();
            change(&mut file);
            JudgeFile::parse(&serde_json::to_string(&file).unwrap()).map_err(|error| error.to_string())
        };
        assert_eq!(with(&|_| {}), Ok(good.clone()));
        assert!(with(&|file| file.format = 2).unwrap_err().contains("format 2"));
        let unknown = |file: &mut JudgeFile| file.default.weights.extend([("luck".to_owned(), 1.0)]);
        assert!(with(&unknown).unwrap_err().contains("luck"));
        assert!(JudgeFile::parse("{}").is_err());
    }
}
