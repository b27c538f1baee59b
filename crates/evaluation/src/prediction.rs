//! How good the planner's predictions are: real questions on a real engine, cold and warm, on each route.
//!
//! Each question is asked by a tenant of its own, so that nothing of its prompt is resident but what is everybody's, and
//! then once more in other words, so that what its first prompt left in the cache is found. The router is not asked: the
//! routes are forced, or the figures would be those of whichever it prefers.
//!
//! Deliberately not here: whether answers are good.

use std::ops::ControlFlow;

use edgewise_documents::sentences;
use edgewise_ledger::{Compared, PredictionErrors};
use edgewise_planner::{Answer, Planner, PlannerError, Query, Route};
use edgewise_retrieval::Collection;
use edgewise_types::TenantId;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{EvaluationError, Progress};

/// Words of a sentence that makes a question.
const WORDS: std::ops::RangeInclusive<usize> = 6..=25;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PredictionOptions {
    /// Routes to take.
    pub routes: Vec<Route>,
    /// Questions on each, asked twice.
    pub questions: usize,
    /// Most tokens of an answer.
    pub max_output_tokens: usize,
    /// Seed of the choice of questions.
    pub seed: u64,
}

/// What was predicted, and what became of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictionReport {
    /// The model.
    pub model: String,
    /// Documents and tokens of the collection.
    pub collection: (usize, usize),
    /// Errors by route, cold and warm.
    pub errors: Vec<PredictionErrors>,
    /// Routes that could not be taken, and why.
    pub left_out: Vec<(Route, String)>,
}

/// Asks, and compares.
///
/// # Errors
/// [`EvaluationError::Queries`] if the collection has no sentence to ask for; what answering fails with.
pub fn evaluate_prediction(
    planner: &Planner,
    collection: &Collection,
    options: &PredictionOptions,
    progress: &dyn Progress,
) -> Result<PredictionReport, EvaluationError> {
    let questions = questions(collection, options)?;
    let total = 2 * questions.len() * options.routes.len();
    let (mut compared, mut left_out) = (Vec::new(), Vec::new());
    let (mut done, mut model) = (0, String::new());
    for &route in &options.routes {
        'questions: for (number, question) in questions.iter().enumerate() {
            let tenant = TenantId(format!("prediction {route} {number}").into());
            for question in [question.clone(), format!("{question} Answer in one sentence.")] {
                let query = Query {
                    route: Some(route),
                    max_output_tokens: Some(options.max_output_tokens),
                    tenant: tenant.clone(),
                    ..Query::new(question)
                };
                match planner.answer(collection, &query, &mut |_| ControlFlow::Continue(())) {
                    Ok(answer) => compared.extend(compare(&answer)),
                    Err(error @ PlannerError::DoesNotFit { .. }) => {
                        left_out.push((route, error.to_string()));
                        break 'questions;
                    }
                    Err(error) => return Err(error.into()),
                }
                done += 1;
                progress.answered(done, total);
            }
        }
        if model.is_empty() {
            model = planner.model().to_owned();
        }
    }
    let stats = collection.stats()?;
    let errors = PredictionErrors::of(compared);
    Ok(PredictionReport { model, collection: (stats.documents, stats.tokens), errors, left_out })
}

fn compare(answer: &Answer) -> Option<Compared> {
    let predicted = answer.explanation.candidates.first()?;
    Some(Compared {
        route: predicted.route.to_string(),
        usage: (predicted.usage, answer.usage),
        cost: (predicted.cost, answer.cost),
        ttft_ms: (predicted.ttft_ms, answer.timings.ttft_ms),
        total_ms: (predicted.latency_ms, answer.timings.total_ms),
    })
}

/// Sentences of the collection as questions, from different chunks.
fn questions(collection: &Collection, options: &PredictionOptions) -> Result<Vec<String>, EvaluationError> {
    let mut rng = ChaCha8Rng::seed_from_u64(options.seed);
    let mut documents: Vec<_> = collection.chunk_documents()?.into_iter().map(|(_, document)| document).collect();
    documents.sort();
    documents.dedup();
    let mut candidates = Vec::new();
    for document in documents {
        for chunk in collection.chunks_of(&document)? {
            let spans = sentences(&chunk.text).into_iter().filter_map(|span| span.slice(&chunk.text).ok());
            let fitting = spans.filter(|sentence| WORDS.contains(&sentence.split_whitespace().count()));
            candidates.extend(fitting.take(1).map(|sentence| {
                let words: Vec<&str> = sentence.split_whitespace().take(*WORDS.start()).collect();
                format!("What is said about \u{201c}{}\u{201d}?", words.join(" "))
            }));
        }
    }
    candidates.shuffle(&mut rng);
    candidates.truncate(options.questions);
    if candidates.is_empty() {
        let name = collection.name();
        return Err(EvaluationError::Queries(format!("collection {name} has no sentence to ask about")));
    }
    Ok(candidates)
}
