//! One setting for all: which does best over several sets, and what that way of choosing is worth on a set it has not
//! seen.
//!
//! The rule: of the settings measured on every set, the one with the largest mean of the sets' nDCG@10, each set counting
//! the same; of equal ones, the first. Held out: for each set, the setting the rule picks from the *other* sets, and what
//! it gets on this one. A rule that follows the oddities of single sets does badly there (leave-one-out cross-validation
//! with sets as units; Stone 1974).
//!
//! Deliberately not here: applying a choice.

use serde::{Deserialize, Serialize};

use crate::{Estimate, RetrievalReport, System, SystemReport};

/// Sets below which leaving one out says nothing.
const LEAST_SETS: usize = 3;

/// What is chosen among.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// Parameters of BM25.
    Bm25,
    /// Methods and weights of fusion.
    Fusion,
}

impl Family {
    fn holds(self, system: &System) -> bool {
        match self {
            Self::Bm25 => matches!(system, System::Lexical | System::Bm25(_)),
            Self::Fusion => matches!(system, System::Fused(_)),
        }
    }
}

/// What a set gets from the choice that the other sets make.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// The set.
    pub dataset: String,
    /// What the others choose.
    pub chosen: String,
    /// nDCG@10 of that on this set.
    pub value: Estimate,
    /// nDCG@10 of the setting that happens to be best on this set.
    pub best: f64,
    /// Of fusions: nDCG@10 minus that of the better arm.
    pub over_better_arm: Option<Estimate>,
}

/// A choice over several sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// What was chosen among.
    pub family: Family,
    /// Number of settings.
    pub settings: usize,
    /// The best over all sets.
    pub chosen: String,
    /// Its mean nDCG@10 over the sets.
    pub mean: f64,
    /// One line a set.
    pub held_out: Vec<HeldOut>,
}

/// The choice in each family of which several settings were measured; none for fewer than three sets.
pub fn choose(reports: &[RetrievalReport]) -> Vec<Choice> {
    if reports.len() < LEAST_SETS {
        return Vec::new();
    }
    [Family::Bm25, Family::Fusion].into_iter().filter_map(|family| in_family(family, reports)).collect()
}

fn in_family(family: Family, reports: &[RetrievalReport]) -> Option<Choice> {
    // By place: all reports of one run list the same systems.
    let sets: Vec<Vec<&SystemReport>> = reports
        .iter()
        .map(|report| report.systems.iter().filter(|report| family.holds(&report.system)).collect())
        .collect();
    let settings = sets.iter().map(Vec::len).min()?;
    if settings < 2 {
        return None;
    }
    let best = |without: Option<usize>| {
        let used = || sets.iter().enumerate().filter(|(at, _)| Some(*at) != without).map(|(_, set)| set);
        let mean = |setting: usize| {
            let values = used().filter_map(|set| set.get(setting).and_then(|report| ndcg(report)));
            values.map(|estimate| estimate.mean).sum::<f64>() / used().count() as f64
        };
        let means = (0..settings).map(|setting| (setting, mean(setting)));
        // The first of equal ones.
        means.reduce(|best, other| if other.1 > best.1 { other } else { best })
    };
    let (chosen, mean) = best(None)?;
    let mut held_out = Vec::with_capacity(reports.len());
    for (at, (report, set)) in reports.iter().zip(&sets).enumerate() {
        let picked = set.get(best(Some(at))?.0)?;
        held_out.push(HeldOut {
            dataset: report.dataset.clone(),
            chosen: picked.name.clone(),
            value: ndcg(picked)?,
            best: set.iter().filter_map(|report| Some(ndcg(report)?.mean)).fold(0.0, f64::max),
            over_better_arm: picked.over_better_arm,
        });
    }
    let chosen = sets.first()?.get(chosen)?.name.clone();
    Some(Choice { family, settings, chosen, mean, held_out })
}

/// The first metric of every report.
fn ndcg(report: &SystemReport) -> Option<Estimate> {
    report.metrics.first().map(|(_, estimate)| *estimate)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use edgewise_retrieval::Fusion;

    use super::*;
    use crate::{Bootstrap, Metric};

    fn report(dataset: &str, values: &[f64]) -> RetrievalReport {
        let system = |(at, mean): (usize, &f64)| {
            let system = System::Fused(Fusion::Rrf { k: at as f32 });
            let estimate = Estimate { mean: *mean, low: *mean, high: *mean };
            let metrics = vec![(Metric::Ndcg(10), estimate)];
            SystemReport { name: system.name(), system, metrics, over_better_arm: Some(estimate) }
        };
        RetrievalReport {
            dataset: dataset.to_owned(),
            documents: 1,
            without_text: 0,
            chunks: 1,
            queries: 1,
            unlabelled: 0,
            embedder: String::new(),
            embedder_digest: String::new(),
            profile: String::new(),
            bootstrap: Bootstrap::default(),
            systems: values.iter().enumerate().map(system).collect(),
        }
    }

    #[test]
    fn a_set_gets_what_the_others_choose() {
        // The third setting shines on one set alone; the second is best on the others, and ties with the first on one.
        let reports = [report("a", &[0.5, 0.5, 0.1]), report("b", &[0.4, 0.6, 0.1]), report("c", &[0.3, 0.4, 1.0])];
        let [choice] = &choose(&reports)[..] else { panic!("only fusions were varied") };
        assert_eq!((choice.family, choice.settings, choice.chosen.as_str()), (Family::Fusion, 3, "rrf k=1"));
        assert!((choice.mean - 0.5).abs() < 1e-12);
        let lines: Vec<(&str, f64, f64)> =
            choice.held_out.iter().map(|held| (held.chosen.as_str(), held.value.mean, held.best)).collect();
        // Without a: 0.35, 0.5, 0.55. Without b: 0.4, 0.45, 0.55. Without c: 0.45, 0.55, 0.1.
        assert_eq!(lines, [("rrf k=2", 0.1, 0.5), ("rrf k=2", 0.1, 0.6), ("rrf k=1", 0.4, 1.0)]);
        assert!(choose(&reports[..2]).is_empty(), "two sets are too few");
    }

    #[test]
    fn of_equal_settings_the_first_is_taken() {
        let reports = ["a", "b", "c"].map(|name| report(name, &[0.5, 0.5]));
        assert_eq!(choose(&reports)[0].chosen, "rrf k=0");
    }
}
