//! Metrics of one ranking, all between 0 and 1, higher is better.
//!
//! Definitions follow trec_eval (<https://github.com/usnistgov/trec_eval>), which published BEIR figures use: the gain of
//! a document is its grade, the discount `log2(rank + 1)` (Järvelin and Kekäläinen 2002).

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// What is measured of a ranking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum Metric {
    /// Discounted cumulative gain of the first k over the best possible.
    Ndcg(usize),
    /// Share of the relevant documents among the first k.
    Recall(usize),
    /// Reciprocal rank of the first relevant document among the first k, 0 if there is none.
    Mrr(usize),
    /// 1 if all relevant documents are among the first k: what a question with two hops needs.
    BothGold(usize),
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ndcg(k) => write!(f, "ndcg@{k}"),
            Self::Recall(k) => write!(f, "recall@{k}"),
            Self::Mrr(k) => write!(f, "mrr@{k}"),
            Self::BothGold(k) => write!(f, "both_gold@{k}"),
        }
    }
}

impl From<Metric> for String {
    fn from(metric: Metric) -> Self {
        metric.to_string()
    }
}

impl TryFrom<String> for Metric {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parsed = text.split_once('@').and_then(|(name, k)| {
            let k = k.parse().ok()?;
            Some(match name {
                "ndcg" => Self::Ndcg(k),
                "recall" => Self::Recall(k),
                "mrr" => Self::Mrr(k),
                "both_gold" => Self::BothGold(k),
                _ => return None,
            })
        });
        parsed.ok_or_else(|| format!("`{text}` is no metric: use ndcg@k, recall@k, mrr@k or both_gold@k"))
    }
}

/// One metric of `ranking` (documents, best first, none twice), given the grades of the relevant documents.
pub fn measure(metric: Metric, ranking: &[&str], relevant: &BTreeMap<String, u32>) -> f64 {
    let found = |k: usize| ranking.iter().take(k).filter(|id| relevant.contains_key(**id)).count();
    match metric {
        Metric::Ndcg(k) => {
            let discount = |at: usize| ((at + 2) as f64).log2();
            let gain = |at: usize, grade: u32| f64::from(grade) / discount(at);
            let mut best: Vec<u32> = relevant.values().copied().collect();
            best.sort_unstable_by(|a, b| b.cmp(a));
            let ideal: f64 = best.iter().take(k).enumerate().map(|(at, grade)| gain(at, *grade)).sum();
            let graded = ranking.iter().take(k).enumerate();
            let actual: f64 = graded.filter_map(|(at, id)| Some(gain(at, *relevant.get(*id)?))).sum();
            if ideal > 0.0 { actual / ideal } else { 0.0 }
        }
        Metric::Recall(k) => found(k) as f64 / relevant.len().max(1) as f64,
        Metric::Mrr(k) => {
            let first = ranking.iter().take(k).position(|id| relevant.contains_key(*id));
            first.map_or(0.0, |at| 1.0 / (at + 1) as f64)
        }
        Metric::BothGold(k) => f64::from(u8::from(found(k) == relevant.len())),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn relevant(grades: &[(&str, u32)]) -> BTreeMap<String, u32> {
        grades.iter().map(|(id, grade)| ((*id).to_owned(), *grade)).collect()
    }

    #[test]
    fn metrics_by_hand() {
        let relevant = relevant(&[("a", 2), ("b", 1), ("c", 1)]);
        let ranking = ["x", "b", "a", "y", "z"];
        // trec_eval's ndcg_cut: (1/log2(3) + 2/log2(4)) / (2/log2(2) + 1/log2(3) + 1/log2(4)).
        let expected = (1.0 / 3f64.log2() + 1.0) / (2.0 + 1.0 / 3f64.log2() + 0.5);
        assert!((measure(Metric::Ndcg(10), &ranking, &relevant) - expected).abs() < 1e-12);
        assert_eq!(measure(Metric::Ndcg(1), &ranking, &relevant), 0.0);
        assert_eq!(measure(Metric::Recall(3), &ranking, &relevant), 2.0 / 3.0);
        assert_eq!(measure(Metric::Mrr(10), &ranking, &relevant), 0.5);
        assert_eq!(measure(Metric::Mrr(1), &ranking, &relevant), 0.0);
        assert_eq!(measure(Metric::BothGold(5), &ranking, &relevant), 0.0);
        assert_eq!(measure(Metric::BothGold(3), &["c", "b", "a"], &relevant), 1.0);
        assert_eq!(measure(Metric::Ndcg(3), &["a", "b", "c"], &relevant), 1.0);
    }

    #[test]
    fn names_round_trip() {
        for metric in [Metric::Ndcg(10), Metric::Recall(100), Metric::Mrr(10), Metric::BothGold(5)] {
            assert_eq!(Metric::try_from(metric.to_string()).unwrap(), metric);
        }
        assert!(Metric::try_from("ndcg".to_owned()).is_err());
    }
}
