//! What keeping a tree up costs, and what becomes of it: documents are edited one by one, the tree is brought up to date
//! after each edit, and at the end compared with one built from nothing.
//!
//! The cost of an edit is the number of summaries made for it, relative to those of the tree at the end built anew. The
//! drift is the difference of what contexts from the two trees hold of answers people gave, if there are stories.
//!
//! Deliberately not here: time, which the build's report has.

use std::{collections::BTreeMap, sync::Arc};

use edgewise_model_api::{Embedder, Tokenizer};
use edgewise_types::DocumentId;
use serde::{Deserialize, Serialize};

use super::{
    About, Compared, Edit, Library, Making, Measuring, RECALLS, Story, Text, TreeOptions, TreeSystem,
    edits::{Change, Desk},
};
use crate::{Bootstrap, Estimate, EvaluationError, Progress};

/// What is edited.
#[derive(Debug, Clone, PartialEq)]
pub struct UpkeepOptions {
    /// Edits.
    pub edits: usize,
    /// Documents in the collection to begin with; others are kept back, to be added. At least one less than there are.
    pub documents: usize,
    /// Seed of the edits.
    pub seed: u64,
}

/// Edits of one kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EditCost {
    /// How many.
    pub edits: usize,
    /// Summaries made for one.
    pub made: Estimate,
    /// The same relative to those of the whole tree.
    pub share: Estimate,
    /// Most for one.
    pub most: usize,
}

/// What a kept-up tree and a new one of the same documents come to at one budget for one sort of question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drift {
    /// Most tokens.
    pub budget: usize,
    /// What the questions are about.
    pub about: About,
    /// Recalls by name: of the kept-up tree, and its difference to the new one.
    pub recall: BTreeMap<String, Compared>,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UpkeepReport {
    /// Documents, at the end.
    pub documents: usize,
    /// Chunks, at the end.
    pub chunks: usize,
    /// Summaries made for the first tree.
    pub first: usize,
    /// Summaries of the tree at the end, built from nothing.
    pub rebuilt: usize,
    /// Nodes of the kept-up tree, and of the new one.
    pub nodes: [usize; 2],
    /// Levels, likewise.
    pub levels: [u32; 2],
    /// All edits.
    pub all: EditCost,
    /// By kind.
    pub kinds: BTreeMap<Edit, EditCost>,
    /// Quality, if stories were edited.
    pub drift: Vec<Drift>,
}

/// Documents to edit.
pub enum Edited<'a> {
    /// Markdown documents by name.
    Documents(&'a [(String, String)]),
    /// Stories with questions: their paragraphs are edited, and none is added or deleted.
    Stories(&'a [Story]),
}

/// Edits and measures. With stories, what becomes of quality by `tree.budgets`, too.
///
/// # Errors
/// [`EvaluationError::Dataset`] if there are too few documents; what ingest, building and search fail with.
pub fn evaluate_upkeep(
    edited: &Edited<'_>,
    embedder: &Arc<dyn Embedder>,
    generator_tokenizer: &Arc<dyn Tokenizer>,
    tree: &TreeOptions,
    options: &UpkeepOptions,
    progress: &dyn Progress,
) -> Result<UpkeepReport, EvaluationError> {
    let (mut texts, stories): (Vec<Text>, &[Story]) = match edited {
        Edited::Documents(documents) => (documents.iter().map(document).collect(), &[]),
        Edited::Stories(stories) => (super::texts(stories), stories),
    };
    let count = if stories.is_empty() { options.documents } else { texts.len() };
    if count == 0 || texts.len() < count || options.edits == 0 {
        let reason =
            format!("{} documents are too few for a collection of {count}: give more, or ask for fewer", texts.len());
        return Err(EvaluationError::Dataset { name: "documents".to_owned(), reason });
    }
    let aside = texts.split_off(count);
    let making =
        Making { embedder, tokenizer: generator_tokenizer, profile: &tree.profile, folder: tree.folder.as_deref() };
    let library = Library::of("documents", &texts, &making, progress)?;
    let first = library.build(&tree.build)?.work.summaries_made;
    let mut desk = Desk::new(texts, aside, !stories.is_empty(), options.seed);
    let mut costs: Vec<(Edit, usize)> = Vec::with_capacity(options.edits);
    let mut last = None;
    for number in 0..options.edits {
        let (kind, change) = desk.edit();
        match change {
            Change::Put(text) => library.put("documents", &[text], &Quiet)?,
            Change::Delete(uri) => library.collection.delete_document(&DocumentId::from_uri(&uri))?,
        }
        let report = library.build(&tree.build)?;
        costs.push((kind, report.work.summaries_made));
        last = Some(report);
        progress.answered(number + 1, options.edits);
    }
    let anew = Library::of("documents", desk.documents(), &Making { folder: None, ..making }, progress)?;
    let rebuilt = anew.build(&tree.build)?;
    let drift = match stories {
        [] => Vec::new(),
        stories => drift(&library, &anew, stories, (embedder, generator_tokenizer), tree, progress)?,
    };
    let whole = rebuilt.work.summaries_made;
    let of = |kind: Option<Edit>| {
        let made: Vec<f64> =
            costs.iter().filter(|(of, _)| kind.is_none_or(|kind| kind == *of)).map(|(_, made)| *made as f64).collect();
        cost(&made, whole, &tree.bootstrap)
    };
    let kinds = costs.iter().map(|(kind, _)| (*kind, of(Some(*kind)))).collect();
    Ok(UpkeepReport {
        documents: desk.documents().len(),
        chunks: anew.collection.stats()?.chunks,
        first,
        rebuilt: whole,
        nodes: [last.as_ref().map_or(0, |report| report.nodes), rebuilt.nodes],
        levels: [last.as_ref().map_or(0, |report| report.levels), rebuilt.levels],
        all: of(None),
        kinds,
        drift,
    })
}

fn document((name, text): &(String, String)) -> Text {
    Text { uri: name.clone(), text: text.clone(), media_type: "text/markdown" }
}

fn cost(made: &[f64], whole: usize, bootstrap: &Bootstrap) -> EditCost {
    let shares: Vec<f64> = made.iter().map(|made| made / whole.max(1) as f64).collect();
    EditCost {
        edits: made.len(),
        made: bootstrap.estimate(made),
        share: bootstrap.estimate(&shares),
        most: made.iter().copied().fold(0.0, f64::max) as usize,
    }
}

fn drift(
    kept_up: &Library,
    anew: &Library,
    stories: &[Story],
    (embedder, tokenizer): (&Arc<dyn Embedder>, &Arc<dyn Tokenizer>),
    tree: &TreeOptions,
    progress: &dyn Progress,
) -> Result<Vec<Drift>, EvaluationError> {
    let mut measuring = Measuring::new(embedder, tokenizer)?;
    let systems: Vec<TreeSystem> = tree.systems.iter().copied().take(1).collect();
    let ours = measuring.measure(kept_up, stories, &systems, &tree.budgets, progress)?;
    let new = measuring.measure(anew, stories, &systems, &tree.budgets, progress)?;
    let mut drift = Vec::new();
    for about in [About::Plot, About::Specific] {
        for (at, budget) in tree.budgets.iter().enumerate() {
            let compared = |of: fn(&super::Found) -> f64| {
                let [ours, new] =
                    [&ours, &new].map(|measured| measured.by_story(about, at, 0, &|(found, _)| of(found)));
                Compared { value: tree.bootstrap.estimate(&ours), difference: tree.bootstrap.difference(&ours, &new) }
            };
            let recall = RECALLS.iter().map(|(name, of)| ((*name).to_owned(), compared(*of))).collect();
            drift.push(Drift { budget: *budget, about, recall });
        }
    }
    Ok(drift)
}

/// Says nothing of the ingest of one document.
struct Quiet;

impl Progress for Quiet {
    fn ingested(&self, _done: usize, _total: usize) {}
    fn answered(&self, _done: usize, _total: usize) {}
}
