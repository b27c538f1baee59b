//! Whether summaries push out what a question with two hops needs: both labelled documents among the passages of a context
//! of a given length.
//!
//! Only passages count. A summary of many documents that quotes one of them is not evidence of what that one says.

use std::{collections::HashMap, sync::Arc};

use edgewise_model_api::{Embedder, Tokenizer};
use edgewise_planner::{Query, tree_breadth};
use edgewise_retrieval::TreeSearchRequest;
use edgewise_types::{ChunkId, DocumentId};
use serde::{Deserialize, Serialize};

use super::{Compared, Context, Library, Making, Measuring, TreeOptions, TreeSystem};
use crate::{Dataset, EvaluationError, Progress, retrieval::markdown};

/// One way to make contexts, at one budget.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HopsSystem {
    /// The way.
    #[serde(flatten)]
    pub system: super::TreeSystem,
    /// Most tokens.
    pub budget: usize,
    /// Share of the questions with all labelled documents in the context.
    pub all_gold: Compared,
    /// Share of the context's tokens in summaries.
    pub summaries: f64,
}

/// What was measured on a labelled set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HopsReport {
    /// Its name.
    pub dataset: String,
    /// Documents.
    pub documents: usize,
    /// Questions.
    pub questions: usize,
    /// How much they are taken to be about the whole, on average.
    pub breadth: f64,
    /// Figures.
    pub systems: Vec<HopsSystem>,
}

/// Measures `options.systems` beside passages alone on `dataset`.
///
/// # Errors
/// What ingest, building and search fail with.
pub fn evaluate_hops(
    dataset: &Dataset,
    embedder: &Arc<dyn Embedder>,
    generator_tokenizer: &Arc<dyn Tokenizer>,
    options: &TreeOptions,
    progress: &dyn Progress,
) -> Result<HopsReport, EvaluationError> {
    let making = Making { embedder, tokenizer: generator_tokenizer, profile: &options.profile, folder: None };
    let texts: Vec<super::Text> = markdown(dataset)
        .map(|(id, text)| super::Text { uri: id.to_owned(), text, media_type: "text/markdown" })
        .collect();
    let library = Library::of(&dataset.name, &texts, &making, progress)?;
    library.build(&options.build)?;
    let owners: HashMap<ChunkId, DocumentId> = library.collection.chunk_documents()?.into_iter().collect();
    let measuring = Measuring::new(embedder, generator_tokenizer)?;
    let systems: Vec<TreeSystem> = std::iter::once(TreeSystem::Flat).chain(options.systems.iter().copied()).collect();
    // By system, then budget, then question.
    let mut all = vec![vec![Vec::new(); options.budgets.len()]; systems.len()];
    let mut summaries = vec![vec![Vec::new(); options.budgets.len()]; systems.len()];
    let mut breadths = Vec::new();
    for (number, query) in dataset.queries.iter().enumerate() {
        let kind = measuring.planner.question_kind(&library.collection, &Query::new(query.text.as_str()))?;
        let words = tree_breadth(&kind);
        breadths.push(f64::from(words));
        let gold: Vec<DocumentId> = query.relevant.keys().map(|id| DocumentId::from_uri(id)).collect();
        for (at, system) in systems.iter().enumerate() {
            for (of_budget, budget) in options.budgets.iter().enumerate() {
                let context = match *system {
                    TreeSystem::Flat => library.passages(&query.text, None, *budget)?,
                    TreeSystem::Tree { search, breadth } => library.tree(&TreeSearchRequest {
                        mode: search,
                        breadth: breadth.unwrap_or(words),
                        ..TreeSearchRequest::new(query.text.as_str(), *budget)
                    })?,
                };
                let found = gold.iter().all(|gold| holds(&context, gold, &owners));
                all[at][of_budget].push(f64::from(u8::from(found)));
                summaries[at][of_budget].push(context.summary_tokens() as f64 / context.tokens().max(1) as f64);
            }
        }
        progress.answered(number + 1, dataset.queries.len());
    }
    let mut figures = Vec::new();
    for (of_budget, budget) in options.budgets.iter().enumerate() {
        for (at, system) in systems.iter().enumerate() {
            let (ours, flat) = (&all[at][of_budget], &all[0][of_budget]);
            figures.push(HopsSystem {
                system: *system,
                budget: *budget,
                all_gold: Compared {
                    value: options.bootstrap.estimate(ours),
                    difference: options.bootstrap.difference(ours, flat),
                },
                summaries: super::mean(&summaries[at][of_budget]),
            });
        }
    }
    Ok(HopsReport {
        dataset: dataset.name.clone(),
        documents: texts.len(),
        questions: dataset.queries.len(),
        breadth: super::mean(&breadths),
        systems: figures,
    })
}

/// Whether a passage of `document` is in the context.
fn holds(context: &Context, document: &DocumentId, owners: &HashMap<ChunkId, DocumentId>) -> bool {
    let passages = context.0.iter().filter(|part| part.level == 0);
    passages.flat_map(|part| &part.leaves).any(|leaf| owners.get(leaf) == Some(document))
}
