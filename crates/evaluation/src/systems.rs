//! Search systems side by side on one collection: each arm by itself, and both fused in several ways.
//!
//! Both arms are read once a question, as deep as a search of the same limit reads them, and fused many times. What is
//! ranked (documents, or chunks) is the caller's choice; a document's rank is that of its best chunk.
//!
//! A further system, such as a reranker over one of these, is a variant of [`System`] and an arm of `ranking`.
//!
//! Deliberately not here: where questions and collections come from.

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    sync::Arc,
};

use edgewise_model_api::Embedder;
use edgewise_retrieval::{Arm, Arms, Bm25, Collection, Fusion, RetrievalError, SearchRequest, fuse};
use edgewise_types::ChunkId;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Bootstrap, Estimate, EvaluationError, Metric, Progress, measure, spread::spread};

/// Questions embedded together before they are asked one by one.
const QUERY_BATCH: usize = 256;

/// What ranks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// BM25 alone.
    Lexical,
    /// BM25 alone, with other parameters.
    Bm25(Bm25),
    /// Cosine alone.
    Vector,
    /// Both, fused.
    Fused(Fusion),
}

impl System {
    /// Name in tables.
    pub fn name(&self) -> String {
        match self {
            Self::Lexical => "bm25".to_owned(),
            Self::Bm25(tried) => {
                let force = Bm25::default();
                let mut name = format!("bm25 k1={} b={}", tried.k1, tried.b);
                for (field, value, usual) in [
                    ("title", tried.title, force.title),
                    ("heading", tried.heading_path, force.heading_path),
                    ("body", tried.body, force.body),
                    ("phrase", tried.phrase, force.phrase),
                ] {
                    if value != usual {
                        let _ = write!(name, " {field}={value}");
                    }
                }
                name
            }
            Self::Vector => "vector".to_owned(),
            Self::Fused(Fusion::Rrf { k }) => format!("rrf k={k}"),
            Self::Fused(Fusion::Convex { lexical_weight }) => format!("convex w={lexical_weight:.2}"),
        }
    }
}

/// One ranking system on a set of questions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SystemReport {
    /// Its name, as in tables.
    pub name: String,
    /// What it is.
    pub system: System,
    /// Metrics with intervals, in the order measured.
    pub metrics: Vec<(Metric, Estimate)>,
    /// nDCG@10 minus that of the better arm, question by question; of fused systems.
    pub over_better_arm: Option<Estimate>,
}

/// A question with what answers it, by the names of what is ranked.
#[derive(Debug, Clone)]
pub(crate) struct Asked<'q> {
    pub(crate) text: &'q str,
    pub(crate) relevant: &'q BTreeMap<String, u32>,
}

/// One line of a ranking: what is ranked, and its score.
pub(crate) type Ranked<'u> = (&'u str, f32);

/// Is shown a question by its place, a system, and its ranking.
pub(crate) type Observe<'o, 'u> = dyn FnMut(usize, &System, &[Ranked<'u>]) -> Result<(), EvaluationError> + 'o;

/// What is asked, of whom, and how it is scored.
pub(crate) struct Comparison<'a> {
    pub(crate) collection: &'a Collection,
    /// Given the questions beforehand, many at once, if it remembers.
    pub(crate) embedder: Option<&'a Arc<dyn Embedder>>,
    pub(crate) systems: &'a [System],
    /// The first decides which arm is the better one.
    pub(crate) metrics: &'a [Metric],
    /// Hits of a search; decides how deep the arms are read.
    pub(crate) limit: usize,
}

/// Values by system, metric and question.
pub(crate) type Values = Vec<Vec<Vec<f64>>>;

impl Comparison<'_> {
    /// Asks every system every question. `unit` names what a chunk counts as in the ranking of a question, given by its
    /// place; a chunk without is left out. Every ranking is shown to `observe`.
    pub(crate) fn run<'u>(
        &self,
        questions: &[Asked<'_>],
        unit: &dyn Fn(usize, ChunkId) -> Option<&'u str>,
        observe: &mut Observe<'_, 'u>,
        progress: &dyn Progress,
    ) -> Result<Values, EvaluationError> {
        let mut values = vec![vec![Vec::with_capacity(questions.len()); self.metrics.len()]; self.systems.len()];
        let mut at = 0;
        for batch in questions.chunks(QUERY_BATCH) {
            // One call, so that a caching embedder sorts and remembers them.
            let texts: Vec<&str> = batch.iter().map(|question| question.text).collect();
            if let Some(embedder) = self.embedder {
                embedder.embed(&texts).map_err(RetrievalError::from)?;
            }
            let answered: Vec<(Arms, Vec<Arm>)> = spread(batch, |question| self.ask(question.text))?;
            for (question, (arms, others)) in batch.iter().zip(&answered) {
                let mut others = others.iter();
                for (system, values) in self.systems.iter().zip(&mut values) {
                    let other = if matches!(system, System::Bm25(_)) { others.next() } else { None };
                    let ranking = ranking(*system, arms, other, |chunk| unit(at, chunk));
                    observe(at, system, &ranking)?;
                    let names: Vec<&str> = ranking.iter().map(|(name, _)| *name).collect();
                    for (metric, values) in self.metrics.iter().zip(values) {
                        values.push(measure(*metric, &names, question.relevant));
                    }
                }
                at += 1;
            }
            progress.answered(at, questions.len());
        }
        Ok(values)
    }

    /// Both arms, and the lexical one with each of the other parameters.
    fn ask(&self, text: &str) -> Result<(Arms, Vec<Arm>), RetrievalError> {
        let request = SearchRequest::new(text, self.limit);
        let others = self.systems.iter().filter_map(|system| match system {
            System::Bm25(bm25) => Some(self.collection.lexical_with(*bm25, &request)),
            _ => None,
        });
        let others = others.collect::<Result<_, _>>()?;
        Ok((self.collection.arms(&request)?, others))
    }

    /// Means with intervals.
    pub(crate) fn reports(&self, values: &Values, bootstrap: Bootstrap) -> Vec<SystemReport> {
        let better = better_arm(self.systems, values);
        let estimated = self.systems.par_iter().zip(values);
        estimated
            .map(|(system, values)| SystemReport {
                name: system.name(),
                system: *system,
                metrics: self.metrics.iter().zip(values).map(|(m, values)| (*m, bootstrap.estimate(values))).collect(),
                over_better_arm: match (system, values.first(), better) {
                    (System::Fused(_), Some(fused), Some(better)) => Some(bootstrap.difference(fused, better)),
                    _ => None,
                },
            })
            .collect()
    }
}

/// Values of the first metric of the arm that has the larger mean.
fn better_arm<'v>(systems: &[System], values: &'v Values) -> Option<&'v Vec<f64>> {
    let arms = systems.iter().zip(values).filter(|(system, _)| matches!(system, System::Lexical | System::Vector));
    let first = arms.filter_map(|(_, values)| values.first());
    first.max_by(|a, b| a.iter().sum::<f64>().total_cmp(&b.iter().sum::<f64>()))
}

/// What a system says of a question: units by their best chunk, best first.
fn ranking<'u>(
    system: System,
    arms: &Arms,
    other: Option<&Arm>,
    unit: impl Fn(ChunkId) -> Option<&'u str>,
) -> Vec<Ranked<'u>> {
    let chunks: Vec<(ChunkId, f32)> = match system {
        System::Lexical => arms.lexical.hits.clone(),
        System::Bm25(_) => other.map(|arm| arm.hits.clone()).unwrap_or_default(),
        System::Vector => arms.vector.hits.clone(),
        System::Fused(method) => {
            fuse(method, &arms.lexical, &arms.vector).iter().map(|hit| (hit.chunk, hit.score)).collect()
        }
    };
    let mut seen = HashSet::new();
    let units = chunks.into_iter().filter_map(|(chunk, score)| Some((unit(chunk)?, score)));
    units.filter(|(unit, _)| seen.insert(*unit)).collect()
}
