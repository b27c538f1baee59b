//! What the model's own word on the kind of a question is worth: [`Routing::pre_route`].
//!
//! Labelled questions are drawn, as many of each kind, and judged three ways: by the trained heads that the question's
//! document or form was left out of, by the model's word alone, and by both blended, as the planner does it with
//! `planner.pre_route`. What the words cost and how long they take is told with it.
//!
//! Deliberately not here: what a better kind would do for a choice of route.

use edgewise_planner::{KindProbabilities, Planner, QuestionKind};
use edgewise_types::TenantId;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{Routing, likeliest, mean};
use crate::{Estimate, EvaluationError, Progress};

/// How often each judge names the labelled kind. Every kind has as many questions, as far as there are so many.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PreRouteReport {
    /// The model.
    pub model: String,
    /// Questions judged, and for how many of them the model said none of the words asked for.
    pub questions: usize,
    /// See there.
    pub unusable: usize,
    /// By the trained heads alone.
    pub trained: Estimate,
    /// By the model's word alone.
    pub word: Estimate,
    /// By both.
    pub both: Estimate,
    /// By both less by the trained heads alone, question by question.
    pub gain: Estimate,
    /// Mean probability of the labelled kind: by the trained heads, and by both.
    pub probability: (f64, f64),
    /// How often the model said which word, by labelled kind: rows and columns in the order of the trained kinds.
    pub said: Vec<Vec<usize>>,
    /// Prompt tokens of a judgement, and how many of them were resident, on average.
    pub prompt_tokens: f64,
    /// See there.
    pub resident_tokens: f64,
    /// Dollars for a thousand judgements.
    pub cost: f64,
    /// Median time of a judgement, in milliseconds.
    pub median_ms: f64,
}

impl Routing<'_> {
    /// Has at most `most` labelled questions judged by the planner's model.
    ///
    /// # Errors
    /// [`EvaluationError::Queries`] without labelled questions; those of the model.
    pub fn pre_route(
        &self,
        planner: &Planner,
        most: usize,
        progress: &dyn Progress,
    ) -> Result<PreRouteReport, EvaluationError> {
        let kinds = QuestionKind::TRAINED.len();
        let mut drawn = Vec::new();
        for kind in 0..kinds {
            let of_kind = self.labelled.iter().enumerate().filter(|(_, question)| question.kind == kind);
            let mut of_kind: Vec<usize> = of_kind.map(|(at, _)| at).collect();
            let mut rng = ChaCha8Rng::seed_from_u64(self.options.bootstrap.seed);
            rng.set_stream(kind as u64);
            of_kind.shuffle(&mut rng);
            of_kind.truncate(most.div_ceil(kinds));
            drawn.extend(of_kind);
        }
        if drawn.is_empty() {
            return Err(EvaluationError::Queries("there are no questions of known kinds to judge".to_owned()));
        }
        let held_out = self.held_out_kinds();
        let tenant = TenantId("pre-route".into());
        let (mut trained, mut word, mut both) = (Vec::new(), Vec::new(), Vec::new());
        let mut probability = (Vec::new(), Vec::new());
        let (mut prompt, mut resident, mut dollars, mut ms) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut said = vec![vec![0; kinds]; kinds];
        let mut unusable = 0;
        for (done, at) in drawn.iter().enumerate() {
            let (Some(question), Some(before)) = (self.labelled.get(*at), held_out.get(*at)) else { continue };
            let (after, judged) = planner.judge_kind(&question.text, &tenant, before)?;
            let right = |holds: bool| f64::from(u8::from(holds));
            let named = judged.kind.and_then(|kind| QuestionKind::TRAINED.iter().position(|known| *known == kind));
            match named {
                Some(named) => said[question.kind][named] += 1,
                None => unusable += 1,
            }
            let of = |kinds: &KindProbabilities| f64::from(kinds.values()[question.kind]);
            trained.push(right(likeliest(before) == question.kind));
            word.push(right(named == Some(question.kind)));
            both.push(right(likeliest(&after) == question.kind));
            probability.0.push(of(before));
            probability.1.push(of(&after));
            prompt.push(judged.usage.prompt_tokens() as f64);
            resident.push(judged.usage.cache_read_tokens as f64);
            dollars.push(judged.cost.as_dollars_lossy());
            ms.push(judged.ms);
            progress.answered(done + 1, drawn.len());
        }
        let bootstrap = self.options.bootstrap;
        ms.sort_by(f64::total_cmp);
        Ok(PreRouteReport {
            model: planner.model().to_owned(),
            questions: drawn.len(),
            unusable,
            gain: bootstrap.difference(&both, &trained),
            trained: bootstrap.estimate(&trained),
            word: bootstrap.estimate(&word),
            both: bootstrap.estimate(&both),
            probability: (mean(probability.0), mean(probability.1)),
            said,
            prompt_tokens: mean(prompt),
            resident_tokens: mean(resident),
            cost: 1000.0 * mean(dollars),
            median_ms: ms.get(ms.len() / 2).copied().unwrap_or(0.0),
        })
    }
}
