//! Measures and trains the choice between passages and the full context, on questions that published models answered from
//! both.
//!
//! Steps: [`RoutingSet::load`]; each document becomes a collection through the ingest of any other, each question a search
//! in it (`shape`); linear models are fitted on what these give (`model`, `kinds`); decisions are replayed with every
//! document left out in turn (`replay`); [`train`] fits on everything and makes the router's file.
//!
//! Invariants: a decision never depends on a score of its own document, nor on anything but question, document and model;
//! equal data and seed give equal figures.
//!
//! Deliberately not here: other routes. The set knows passages and the full context only.

mod curve;
mod data;
mod fit;
mod kinds;
mod model;
mod pre_route;
mod replay;
mod shape;

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use edgewise_documents::IndexProfile;
use edgewise_model_api::Embedder;
use edgewise_planner::{
    BUCKETS, KindProbabilities, Platt, Provenance, QuestionKind, ROUTER_FORMAT, RouterFile, RouterInput, word_hashes,
};

pub use curve::svg as routing_curve;
pub use data::{KindOfFile, KindQuestion, KindQuestions, RoutedQuestion, RoutingSet, Scores};
pub use pre_route::PreRouteReport;
pub use replay::{Calibration, ModelReplay, Point, Policy, Replay};

use crate::{Bootstrap, EvaluationError, Progress};
use fit::mean;
use kinds::Labelled;
use model::Material;

/// Words in at least this share of the training questions are common.
const COMMON: f64 = 0.02;

/// Parts that labelled questions are left out in, to measure how well kinds are told apart.
const KIND_PARTS: usize = 5;

/// What to measure with.
#[derive(Debug, Clone)]
pub struct RoutingOptions {
    /// How documents are cut.
    pub profile: IndexProfile,
    /// Questions of known kinds, besides those of the set.
    pub kinds: KindQuestions,
    /// Most long-context tokens, as a share of those that always reading everything takes.
    pub share: f64,
    /// Measure hits of BM25 alone, without embedding anything.
    pub lexical_only: bool,
    /// How intervals are made.
    pub bootstrap: Bootstrap,
}

/// Questions of one kind from one file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KindsOfSource {
    /// The file; the routing set by its name.
    pub source: String,
    /// The labelled kind.
    pub kind: String,
    /// Questions.
    pub questions: usize,
    /// Mean probability that they are about the whole.
    pub global: f64,
}

/// How well kinds are told apart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KindFigures {
    /// Labelled questions.
    pub questions: usize,
    /// Share of questions whose likeliest kind is the labelled one, and the mean of that share over the kinds.
    pub accuracy: f64,
    /// See there.
    pub macro_recall: f64,
    /// How the questions of each file and kind are seen.
    pub sources: Vec<KindsOfSource>,
    /// Questions by labelled kind, then by likeliest kind.
    pub confusion: BTreeMap<String, BTreeMap<String, usize>>,
}

/// All figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoutingReport {
    /// Name of the set.
    pub set: String,
    /// Its documents.
    pub documents: usize,
    /// Its questions.
    pub questions: usize,
    /// Ids with scores but without a question.
    pub unknown_ids: usize,
    /// Questions left out for want of a score.
    pub unscored: usize,
    /// Tokens of all documents, by the embedder's tokenizer.
    pub tokens: usize,
    /// Registry name and digest of the embedder.
    pub embedder: String,
    /// Share of long-context tokens that was allowed.
    pub share: f64,
    /// How intervals were made.
    pub bootstrap: Bootstrap,
    /// Kinds of questions, left out in parts.
    pub kinds: KindFigures,
    /// Routing, by document left out.
    pub replay: Replay,
}

/// What can be measured and trained on: the set with its documents searched.
pub struct Routing<'a> {
    set: &'a RoutingSet,
    options: &'a RoutingOptions,
    shapes: shape::Shapes,
    labelled: Vec<Labelled>,
    likeness: Vec<Vec<f64>>,
    embedder: String,
}

impl<'a> Routing<'a> {
    /// Makes a collection of every document and searches it for every question about it.
    ///
    /// # Errors
    /// [`EvaluationError::Dataset`] if a document can't be ingested; [`EvaluationError::Retrieval`].
    pub fn measure(
        set: &'a RoutingSet,
        embedder: &Arc<dyn Embedder>,
        options: &'a RoutingOptions,
        progress: &dyn Progress,
    ) -> Result<Self, EvaluationError> {
        let shapes = shape::measure(set, embedder, &options.profile, options.lexical_only, progress)?;
        let own = set
            .questions
            .iter()
            .filter_map(|question| Labelled::new(&question.text, data::kind_of(&question.level)?, question.document));
        let others = labelled(&options.kinds);
        let likeness = model::likeness(&shapes);
        let embedder = match options.lexical_only {
            true => "none: hits of BM25 alone".to_owned(),
            false => format!("{} {}", embedder.info().model, embedder.info().digest),
        };
        Ok(Self { set, options, labelled: own.chain(others).collect(), shapes, likeness, embedder })
    }

    fn material(&self) -> Material<'_> {
        Material { set: self.set, shapes: &self.shapes, labelled: &self.labelled, likeness: &self.likeness }
    }

    /// Replays the decisions.
    pub fn evaluate(&self, progress: &dyn Progress) -> RoutingReport {
        let options = self.options;
        RoutingReport {
            set: self.set.name.clone(),
            documents: self.set.documents.len(),
            questions: self.set.questions.len(),
            unknown_ids: self.set.unknown_ids,
            unscored: self.set.unscored,
            tokens: self.shapes.tokens.iter().sum(),
            embedder: self.embedder.clone(),
            share: options.share,
            bootstrap: options.bootstrap,
            kinds: self.kind_figures(),
            replay: replay::replay(&self.material(), options.share, options.bootstrap, progress),
        }
    }

    /// Fits on everything. `report` is of the same data, and goes into the provenance with `date` and `command`.
    pub fn train(&self, report: &RoutingReport, date: &str, command: &str) -> RouterFile {
        let fitted = model::fit(&self.material(), &[]);
        let (common_words, usual_share) = common_words(self.set);
        let data = self.set.digests.iter().chain(&self.options.kinds.digests);
        let Calibration { slope, offset, .. } = report.replay.calibration;
        let mut file = RouterFile {
            format: ROUTER_FORMAT,
            provenance: Provenance {
                date: date.to_owned(),
                command: command.to_owned(),
                data: data.map(|(name, digest)| (name.clone(), digest.clone())).collect(),
                embedder: self.embedder.clone(),
                figures: figures(report),
            },
            features: RouterInput::names(),
            buckets: BUCKETS,
            scaling: fitted.scaling,
            kinds: fitted.kinds,
            passages: fitted.passages,
            gain: fitted.gain,
            better: Platt { slope: rounded(slope), offset: rounded(offset) },
            models: fitted.models,
            common_words,
            usual_share,
        };
        round(&mut file);
        file
    }

    /// The kinds of every labelled question, by heads that its document or group was left out of.
    fn held_out_kinds(&self) -> Vec<KindProbabilities> {
        let features = edgewise_planner::measure_hits(
            &[],
            edgewise_planner::Scope { documents: 0, tokens: 0 },
            edgewise_model_api::QueueState::default(),
        );
        let blank = RouterInput::new("", &features);
        let mut found = vec![KindProbabilities::default(); self.labelled.len()];
        for out in 0..KIND_PARTS {
            let kept: Vec<&Labelled> =
                self.labelled.iter().filter(|question| question.group % KIND_PARTS != out).collect();
            let heads = kinds::fit(&kept);
            for (question, found) in self.labelled.iter().zip(&mut found) {
                if question.group % KIND_PARTS == out {
                    let ngrams = question.ngrams.clone();
                    let input = RouterInput { surface: question.surface, ngrams, ..blank.clone() };
                    *found = edgewise_planner::kinds(&heads, &input);
                }
            }
        }
        found
    }

    fn kind_figures(&self) -> KindFigures {
        let mut confusion: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
        let mut right = [(0usize, 0usize); QuestionKind::TRAINED.len()];
        let mut sources: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
        for (question, found) in self.labelled.iter().zip(self.held_out_kinds()) {
            let best = likeliest(&found);
            let name = |kind: usize| QuestionKind::TRAINED[kind].as_str().to_owned();
            *confusion.entry(name(question.kind)).or_default().entry(name(best)).or_default() += 1;
            right[question.kind].0 += usize::from(best == question.kind);
            right[question.kind].1 += 1;
            sources.entry((question.source, question.kind)).or_default().push(f64::from(found.global));
        }
        let names = source_names(&self.options.kinds);
        let source = |((source, kind), global): ((usize, usize), Vec<f64>)| KindsOfSource {
            source: source
                .checked_sub(1)
                .and_then(|at| names.get(at))
                .map_or(self.set.name.as_str(), |name| name)
                .to_owned(),
            kind: QuestionKind::TRAINED[kind].as_str().to_owned(),
            questions: global.len(),
            global: mean(global),
        };
        let sources = sources.into_iter().map(source).collect();
        let share = |(right, all): (usize, usize)| right as f64 / all.max(1) as f64;
        let all = right.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        KindFigures {
            questions: self.labelled.len(),
            accuracy: share(all),
            macro_recall: mean(right.iter().filter(|(_, all)| *all > 0).map(|counts| share(*counts))),
            confusion,
            sources,
        }
    }
}

/// The likeliest among the trained kinds: the rule for conversations has no labels to be measured on.
pub(crate) fn likeliest(found: &KindProbabilities) -> usize {
    let values = &found.values()[..QuestionKind::TRAINED.len()];
    (0..values.len()).max_by(|a, b| values[*a].total_cmp(&values[*b])).unwrap_or(0)
}

/// Files in the order of their numbers, from 1.
fn source_names(kinds: &KindQuestions) -> Vec<&str> {
    let mut names: Vec<&str> = kinds.questions.iter().map(|question| question.source.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Questions of other files than the routing set.
fn labelled(kinds: &KindQuestions) -> Vec<Labelled> {
    let names = source_names(kinds);
    let mut groups: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    let mut labelled = Vec::with_capacity(kinds.questions.len());
    for KindQuestion { text, kind, source, group } in &kinds.questions {
        let next = groups.len();
        let group = *groups.entry((source, group)).or_insert(next);
        let source = 1 + names.binary_search(&source.as_str()).unwrap_or_default();
        labelled.extend(Labelled::other(text, *kind, source, group));
    }
    labelled
}

/// The figures that go with the file.
fn figures(report: &RoutingReport) -> BTreeMap<String, f64> {
    let replay = &report.replay;
    let average = |value: &dyn Fn(&ModelReplay) -> f64| mean(replay.models.iter().map(value));
    let at_least = replay.models.iter().filter(|model| model.ours.over_better.mean >= 0.0).count();
    [
        ("recall_passages", average(&|m| m.passages)),
        ("recall_full", average(&|m| m.full)),
        ("recall_oracle", average(&|m| m.oracle)),
        ("recall_ours", average(&|m| m.ours.recall.mean)),
        ("share_ours", average(&|m| m.ours.share)),
        ("over_better_constant_ours", average(&|m| m.ours.over_better.mean)),
        ("recall_ours_unbounded", average(&|m| m.unbounded.recall.mean)),
        ("share_ours_unbounded", average(&|m| m.unbounded.share)),
        ("models_at_or_above_better_constant", at_least as f64),
        ("models", replay.models.len() as f64),
        ("brier_full_better", replay.calibration.brier),
        ("brier_of_share", replay.calibration.brier_of_share),
        ("calibration_error_full_better", replay.calibration.error),
        ("correlation_of_gain", replay.correlation),
        ("kind_accuracy", report.kinds.accuracy),
        ("kind_macro_recall", report.kinds.macro_recall),
        ("questions", report.questions as f64),
        ("documents", report.documents as f64),
    ]
    .into_iter()
    .map(|(name, figure)| (name.to_owned(), rounded(figure)))
    .collect()
}

/// Words that many questions share, and the share of a question's words among them.
fn common_words(set: &RoutingSet) -> (Vec<u32>, f32) {
    let words: Vec<Vec<u32>> = set.questions.iter().map(|question| word_hashes(&question.text)).collect();
    let mut counts: BTreeMap<u32, usize> = BTreeMap::new();
    for word in words.iter().flatten() {
        *counts.entry(*word).or_default() += 1;
    }
    let least = (COMMON * words.len() as f64).ceil() as usize;
    let common: Vec<u32> = counts.into_iter().filter(|(_, count)| *count >= least).map(|(word, _)| word).collect();
    let known = |words: &Vec<u32>| words.iter().filter(|word| common.binary_search(word).is_ok()).count();
    let share = mean(words.iter().map(|words| known(words) as f64 / words.len().max(1) as f64));
    (common, share as f32)
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Four decimals are plenty, and keep the file small.
fn round(file: &mut RouterFile) {
    let near = |value: &mut f32| *value = rounded(f64::from(*value)) as f32;
    for head in file.kinds.iter_mut().chain([&mut file.passages, &mut file.gain]) {
        near(&mut head.bias);
        head.dense.iter_mut().chain(&mut head.ngrams).for_each(near);
    }
    for head in file.models.values_mut() {
        near(&mut head.passages);
        near(&mut head.gain);
        head.dense.iter_mut().for_each(near);
    }
    for scale in &mut file.scaling {
        near(&mut scale.mean);
        scale.sd = scale.sd.max(1e-3);
        near(&mut scale.sd);
    }
    near(&mut file.usual_share);
}

#[cfg(test)]
mod tests;
