//! One setting for all: which does best over several sets, and what that way of choosing is worth on a set it has not
//! seen.
//!
//! The rules, among the settings measured on every set:
//! - BM25 parameters: the largest mean of the sets' nDCG@10, each set counting the same;
//! - fusions: the largest *smallest* gain in nDCG@10 over the better arm of a set. The point of fusing is to be no worse
//!   than either arm whatever the collection; a mean would buy much on one set with a loss on another.
//!
//! Of equal settings the first is taken. Held out: for each set, the setting the rule picks from the *other* sets, and
//! what it gets on this one. A rule that follows the oddities of single sets does badly there (leave-one-out
//! cross-validation with sets as units; Stone 1974).
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

    /// What a setting is worth by the family's rule, given its figures on some sets.
    fn worth<'r>(self, reports: impl Iterator<Item = &'r SystemReport>) -> f64 {
        match self {
            Self::Bm25 => {
                let values: Vec<f64> = reports.filter_map(ndcg).map(|estimate| estimate.mean).collect();
                values.iter().sum::<f64>() / values.len().max(1) as f64
            }
            Self::Fusion => {
                let gains = reports.filter_map(|report| report.over_better_arm);
                gains.map(|gain| gain.mean).fold(f64::INFINITY, f64::min)
            }
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
    /// What the rule makes of it: of BM25 its mean nDCG@10, of a fusion its smallest gain over the better arm.
    pub worth: f64,
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
        let worth = |setting: usize| family.worth(used().filter_map(|set| set.get(setting).copied()));
        let all = (0..settings).map(|setting| (setting, worth(setting)));
        // The first of equal ones.
        all.reduce(|best, other| if other.1 > best.1 { other } else { best })
    };
    let (chosen, worth) = best(None)?;
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
    Some(Choice { family, settings, chosen, worth, held_out })
}

/// The first metric of every report.
fn ndcg(report: &SystemReport) -> Option<Estimate> {
    report.metrics.first().map(|(_, estimate)| *estimate)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use edgewise_retrieval::{Bm25, Fusion};

    use super::*;
    use crate::{Bootstrap, Metric};

    fn report(dataset: &str, systems: Vec<SystemReport>) -> RetrievalReport {
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
            systems,
        }
    }

    fn exactly(mean: f64) -> Estimate {
        Estimate { mean, low: mean, high: mean }
    }

    /// Fusions with these gains over an arm of 0.5.
    fn fused(dataset: &str, gains: &[f64]) -> RetrievalReport {
        let system = |(at, gain): (usize, &f64)| {
            let system = System::Fused(Fusion::Rrf { k: at as f32 });
            let metrics = vec![(Metric::Ndcg(10), exactly(0.5 + gain))];
            SystemReport { name: system.name(), system, metrics, over_better_arm: Some(exactly(*gain)) }
        };
        report(dataset, gains.iter().enumerate().map(system).collect())
    }

    /// BM25 in force and with other parameters.
    fn lexical(dataset: &str, values: &[f64]) -> RetrievalReport {
        let system = |(at, value): (usize, &f64)| {
            let bm25 = Bm25 { k1: at as f32, ..Bm25::default() };
            let system = if at == 0 { System::Lexical } else { System::Bm25(bm25) };
            let metrics = vec![(Metric::Ndcg(10), exactly(*value))];
            SystemReport { name: at.to_string(), system, metrics, over_better_arm: None }
        };
        report(dataset, values.iter().enumerate().map(system).collect())
    }

    fn held_out(choice: &Choice) -> Vec<(&str, f64, f64)> {
        choice.held_out.iter().map(|held| (held.chosen.as_str(), held.value.mean, held.best)).collect()
    }

    #[test]
    fn a_set_gets_the_parameters_the_others_choose() {
        // The third shines on one set alone.
        let reports = [lexical("a", &[0.5, 0.5, 0.1]), lexical("b", &[0.4, 0.6, 0.1]), lexical("c", &[0.3, 0.4, 1.0])];
        let choices = choose(&reports);
        assert_eq!(choices.len(), 1, "only BM25 was varied");
        let choice = &choices[0];
        assert_eq!((choice.family, choice.settings, choice.chosen.as_str()), (Family::Bm25, 3, "1"));
        assert!((choice.worth - 0.5).abs() < 1e-12);
        // Without a: 0.35, 0.5, 0.55. Without b: 0.4, 0.45, 0.55. Without c: 0.45, 0.55, 0.1.
        assert_eq!(held_out(choice), [("2", 0.1, 0.5), ("2", 0.1, 0.6), ("1", 0.4, 1.0)]);
        assert!(choose(&reports[..2]).is_empty(), "two sets are too few");
    }

    #[test]
    fn a_fusion_is_chosen_by_the_set_it_suits_least() {
        // The first gains most on the whole, and loses on one set; the second gains a little everywhere.
        let reports = [fused("a", &[0.25, 0.125]), fused("b", &[0.25, 0.0625]), fused("c", &[-0.125, 0.03125])];
        let choices = choose(&reports);
        assert_eq!(choices.len(), 1, "only fusions were varied");
        let choice = &choices[0];
        assert_eq!((choice.family, choice.chosen.as_str(), choice.worth), (Family::Fusion, "rrf k=1", 0.03125));
        assert_eq!(
            held_out(choice),
            [("rrf k=1", 0.625, 0.75), ("rrf k=1", 0.5625, 0.75), ("rrf k=0", 0.375, 0.53125)]
        );
        assert_eq!(choice.held_out[2].over_better_arm, Some(exactly(-0.125)));
    }

    #[test]
    fn of_equal_settings_the_first_is_taken() {
        let reports = ["a", "b", "c"].map(|name| fused(name, &[0.5, 0.5]));
        assert_eq!(choose(&reports)[0].chosen, "rrf k=0");
    }
}
