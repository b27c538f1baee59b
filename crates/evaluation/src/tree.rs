//! What a summary tree is worth: how much of people's answers about whole stories stands in a context from passages alone,
//! and in one from passages and summaries, of as many tokens.
//!
//! Every story is a document of one collection; a question is asked of its story. How much a question is about the whole
//! is decided as in the product, from its words. Figures are averaged within stories first, and intervals are over
//! stories, so that a difference of two systems is paired by story.
//!
//! [`evaluate_hops`] asks whether summaries push out the passages that a question with two hops needs;
//! [`evaluate_upkeep`] what an edit costs, and whether a tree that was kept up for long is as good as a new one.
//!
//! Invariants: equal input, options and summariser give equal figures. No figure is known to what makes a context.
//!
//! Deliberately not here: answers of a generator, which would measure the generator.

mod edits;
mod hops;
mod library;
mod porter;
mod rouge;
mod score;
mod set;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use edgewise_documents::IndexProfile;
use edgewise_model_api::{Embedder, Generator, Tokenizer};
use edgewise_planner::{Planner, PlannerError, PlannerOptions, Query, tree_breadth};
use edgewise_prompts::Prompts;
use edgewise_retrieval::{TreeBuildOptions, TreeMode, TreeReport, TreeSearchRequest};
use edgewise_types::DocumentId;
use serde::{Deserialize, Serialize};

pub use edits::Edit;
pub use hops::{HopsReport, HopsSystem, evaluate_hops};
pub use rouge::Rouge;
pub use score::Found;
pub use set::{About, Stories, Story, StoryQuestion};
pub use upkeep::{Drift, EditCost, Edited, UpkeepOptions, UpkeepReport, evaluate_upkeep};

use crate::{
    Bootstrap, Estimate, EvaluationError, Progress,
    traffic::{Machine, SimulatedEngine, TokenMemo},
};
use library::{Context, Library, Making, Text};
use score::{References, Scorer};

/// How a context is made.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "system", rename_all = "snake_case")]
pub enum TreeSystem {
    /// From passages alone.
    Flat,
    /// From passages and summaries.
    Tree {
        /// How the tree is searched.
        search: TreeMode,
        /// How much the question is taken to be about the whole; absent goes by its words.
        breadth: Option<f32>,
    },
}

impl std::fmt::Display for TreeSystem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flat => f.write_str("passages alone"),
            Self::Tree { search, breadth } => {
                f.write_str("tree")?;
                if let TreeMode::Traversal { beam } = search {
                    write!(f, ", traversal by {beam}")?;
                }
                breadth.map_or(Ok(()), |breadth| write!(f, ", breadth {breadth}"))
            }
        }
    }
}

/// What to measure.
#[derive(Clone)]
pub struct TreeOptions {
    /// How the collection is indexed.
    pub profile: IndexProfile,
    /// Who writes the summaries, and how long.
    pub build: TreeBuildOptions,
    /// Tokens of contexts.
    pub budgets: Vec<usize>,
    /// Ways to make contexts besides passages alone.
    pub systems: Vec<TreeSystem>,
    /// Where collection and tree stay, so that a build that was stopped goes on; a temporary folder if absent.
    pub folder: Option<PathBuf>,
    /// Whether everything is done twice, from nothing, to see whether the trees are equal.
    pub twice: bool,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

/// A figure, and its difference to that of what it is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The figure.
    pub value: Estimate,
    /// Minus that of the other, story by story.
    pub difference: Estimate,
}

/// Figures of one system at one budget for one sort of question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeFigures {
    /// How contexts were made.
    #[serde(flatten)]
    pub system: TreeSystem,
    /// Most tokens.
    pub budget: usize,
    /// What the questions are about.
    pub about: About,
    /// Tokens used, on average.
    pub tokens: f64,
    /// Share of them in summaries.
    pub summaries: f64,
    /// Recalls by name: `rouge_1`, `rouge_2`, `rouge_l` as means over the answers, `best_…` of the best answer, and
    /// `similarity`.
    pub recall: BTreeMap<String, Compared>,
}

/// How like two trees are that were built of the same from nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Twice {
    /// Nodes of each.
    pub nodes: [usize; 2],
    /// Whether ids, members, levels and texts of all nodes are the same.
    pub equal: bool,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TreeEvaluation {
    /// Stories.
    pub stories: usize,
    /// Questions, by what they are about.
    pub questions: BTreeMap<About, usize>,
    /// Registry name of the embedder.
    pub embedder: String,
    /// The build.
    pub build: TreeReport,
    /// How much questions are taken to be about the whole, on average.
    pub breadth: BTreeMap<About, f64>,
    /// Figures.
    pub figures: Vec<TreeFigures>,
    /// Whether a second build gave the same, if it was asked for.
    pub twice: Option<Twice>,
}

/// Measures contexts from a tree over `stories`. `generator_tokenizer` counts tokens.
///
/// # Errors
/// What ingest, building, search and embedding fail with.
pub fn evaluate_tree(
    stories: &[Story],
    embedder: &Arc<dyn Embedder>,
    generator_tokenizer: &Arc<dyn Tokenizer>,
    options: &TreeOptions,
    progress: &dyn Progress,
) -> Result<TreeEvaluation, EvaluationError> {
    let making = Making {
        embedder,
        tokenizer: generator_tokenizer,
        profile: &options.profile,
        folder: options.folder.as_deref(),
    };
    let texts = texts(stories);
    let library = Library::of("stories", &texts, &making, progress)?;
    let build = library.build(&options.build)?;
    let mut measuring = Measuring::new(embedder, generator_tokenizer)?;
    let systems: Vec<TreeSystem> = std::iter::once(TreeSystem::Flat).chain(options.systems.iter().copied()).collect();
    let measured = measuring.measure(&library, stories, &systems, &options.budgets, progress)?;
    let twice = match options.twice {
        true => {
            let other = Library::of("stories", &texts, &Making { folder: None, ..making }, progress)?;
            other.build(&options.build)?;
            let nodes = [library.nodes()?, other.nodes()?];
            Some(Twice { nodes: [nodes[0].len(), nodes[1].len()], equal: nodes[0] == nodes[1] })
        }
        false => None,
    };
    let of = |about| stories.iter().flat_map(|story| &story.questions).filter(|q| q.about == about).count();
    Ok(TreeEvaluation {
        stories: stories.len(),
        questions: [About::Plot, About::Specific].into_iter().map(|about| (about, of(about))).collect(),
        embedder: embedder.info().model.clone(),
        build,
        breadth: measured.breadth(),
        figures: measured.figures(&systems, &options.budgets, &options.bootstrap),
        twice,
    })
}

/// The documents of stories. They are plain text: what looks like a heading in them is none.
fn texts(stories: &[Story]) -> Vec<Text> {
    let text =
        |story: &Story| Text { uri: format!("{}.txt", story.id), text: story.text.clone(), media_type: "text/plain" };
    stories.iter().map(text).collect()
}

/// Asks questions and scores what comes.
struct Measuring {
    planner: Planner,
    scorer: Scorer,
    references: BTreeMap<(String, usize), References>,
}

/// What each question got, by budget and system.
struct Measured(Vec<MeasuredQuestion>);

struct MeasuredQuestion {
    story: usize,
    about: About,
    breadth: f32,
    /// By budget, then system: figures and the share of summaries.
    found: Vec<Vec<(Found, f64)>>,
}

impl Measuring {
    fn new(embedder: &Arc<dyn Embedder>, tokenizer: &Arc<dyn Tokenizer>) -> Result<Self, EvaluationError> {
        // Only the router is asked, which needs a model to count tokens and to say what it costs; it never answers.
        let memo = Arc::new(TokenMemo::new(Arc::clone(tokenizer)));
        let engine = SimulatedEngine::new(&Machine::gpu(), memo, Default::default(), false)
            .map_err(|error| EvaluationError::Simulation(error.to_string()))?;
        let generator: Arc<dyn Generator> = Arc::new(engine);
        let prompts = Prompts::load(None).map_err(PlannerError::from)?;
        let prices =
            edgewise_ledger::PriceBook::embedded().map_err(|error| EvaluationError::Simulation(error.to_string()))?;
        let planner = Planner::new(generator, Arc::clone(embedder), prompts, prices, PlannerOptions::default())?;
        Ok(Self { planner, scorer: Scorer::new(embedder), references: BTreeMap::new() })
    }

    /// How much a question to `document` is about the whole, as the product takes it.
    fn breadth(&self, library: &Library, question: &str, document: &DocumentId) -> Result<f32, EvaluationError> {
        let query = Query { documents: Some(vec![document.clone()]), ..Query::new(question) };
        Ok(tree_breadth(&self.planner.question_kind(&library.collection, &query)?))
    }

    fn measure(
        &mut self,
        library: &Library,
        stories: &[Story],
        systems: &[TreeSystem],
        budgets: &[usize],
        progress: &dyn Progress,
    ) -> Result<Measured, EvaluationError> {
        let total = stories.iter().map(|story| story.questions.len()).sum();
        let mut measured = Vec::with_capacity(total);
        for (number, (story, text)) in stories.iter().zip(texts(stories)).enumerate() {
            let document = DocumentId::from_uri(&text.uri);
            let scope = [document.clone()];
            let order = library.order(&scope)?;
            for (at, question) in story.questions.iter().enumerate() {
                let breadth = self.breadth(library, &question.text, &document)?;
                let context = |system: &TreeSystem, budget: usize| -> Result<Context, EvaluationError> {
                    let TreeSystem::Tree { search, breadth: fixed } = *system else {
                        return library.passages(&question.text, Some(&scope), budget);
                    };
                    library.tree(&TreeSearchRequest {
                        mode: search,
                        breadth: fixed.unwrap_or(breadth),
                        documents: Some(scope.to_vec()),
                        ..TreeSearchRequest::new(question.text.as_str(), budget)
                    })
                };
                let key = (story.id.clone(), at);
                if !self.references.contains_key(&key) {
                    let references = self.scorer.references(&question.references)?;
                    self.references.insert(key.clone(), references);
                }
                let Some(references) = self.references.get(&key) else { continue };
                let mut found = Vec::with_capacity(budgets.len());
                for budget in budgets {
                    let mut row = Vec::with_capacity(systems.len());
                    for system in systems {
                        let context = context(system, *budget)?.in_order(&order);
                        let tokens = context.tokens();
                        let summaries = context.summary_tokens() as f64 / tokens.max(1) as f64;
                        row.push((self.scorer.found(references, &context.text(), tokens)?, summaries));
                    }
                    found.push(row);
                }
                measured.push(MeasuredQuestion { story: number, about: question.about, breadth, found });
                progress.answered(measured.len(), total);
            }
        }
        Ok(Measured(measured))
    }
}

type Recall = fn(&Found) -> f64;

/// What is reported of what was found, by name.
const RECALLS: [(&str, Recall); 7] = [
    ("rouge_1", |found| found.mean.one),
    ("rouge_2", |found| found.mean.two),
    ("rouge_l", |found| found.mean.l),
    ("best_rouge_1", |found| found.best.one),
    ("best_rouge_2", |found| found.best.two),
    ("best_rouge_l", |found| found.best.l),
    ("similarity", |found| found.similarity),
];

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

impl Measured {
    /// A figure of one system at one budget: the mean of the questions about something, story by story.
    fn by_story(&self, about: About, budget: usize, system: usize, of: &dyn Fn(&(Found, f64)) -> f64) -> Vec<f64> {
        let mut stories: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
        for question in self.0.iter().filter(|question| question.about == about) {
            let Some(found) = question.found.get(budget).and_then(|row| row.get(system)) else { continue };
            stories.entry(question.story).or_default().push(of(found));
        }
        stories.values().map(|values| mean(values)).collect()
    }

    fn breadth(&self) -> BTreeMap<About, f64> {
        let of = |about| {
            let asked = self.0.iter().filter(|question| question.about == about);
            mean(&asked.map(|question| f64::from(question.breadth)).collect::<Vec<_>>())
        };
        [About::Plot, About::Specific].into_iter().map(|about| (about, of(about))).collect()
    }

    fn figures(&self, systems: &[TreeSystem], budgets: &[usize], bootstrap: &Bootstrap) -> Vec<TreeFigures> {
        let mut figures = Vec::new();
        for about in [About::Plot, About::Specific] {
            for (at, budget) in budgets.iter().enumerate() {
                for (number, system) in systems.iter().enumerate() {
                    let compared = |of: fn(&Found) -> f64| {
                        let figure = |(found, _): &(Found, f64)| of(found);
                        let [flat, ours] = [0, number].map(|number| self.by_story(about, at, number, &figure));
                        Compared { value: bootstrap.estimate(&ours), difference: bootstrap.difference(&ours, &flat) }
                    };
                    figures.push(TreeFigures {
                        system: *system,
                        budget: *budget,
                        about,
                        tokens: mean(&self.by_story(about, at, number, &|(found, _)| found.tokens)),
                        summaries: mean(&self.by_story(about, at, number, &|(_, summaries)| *summaries)),
                        recall: RECALLS.iter().map(|(name, of)| ((*name).to_owned(), compared(*of))).collect(),
                    });
                }
            }
        }
        figures
    }
}
