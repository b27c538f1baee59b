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

    /// Grades, ranking, and what comes of them.
    type Case<'c> = (&'c [(&'c str, u32)], &'c [&'c str], [f64; 6]);

    /// What pytrec_eval, the Python face of trec_eval, gives for the same rankings and grades. Its `recip_rank` has no
    /// cut-off.
    #[test]
    fn figures_are_those_of_trec_eval() {
        let many: Vec<(String, u32)> = (0..15).map(|n| (format!("r{n}"), 1)).collect();
        let many: Vec<(&str, u32)> = many.iter().map(|(id, grade)| (id.as_str(), *grade)).collect();
        let mixed: Vec<String> = (0..15).map(|n| if n % 3 == 0 { format!("n{n}") } else { format!("r{n}") }).collect();
        let mixed: Vec<&str> = mixed.iter().map(String::as_str).collect();
        // Grades, ranking; then nDCG@3, nDCG@10, recall@3, recall@10, recall@100, reciprocal rank.
        let cases: [Case<'_>; 4] = [
            (
                // Of different grades, one of them never found; `d` was judged and found wanting.
                &[("a", 3), ("b", 2), ("c", 1), ("e", 1)],
                &["d", "b", "u", "c", "a"],
                [0.264_993_014_861_125_64, 0.549_460_697_255_856_3, 0.25, 0.75, 0.75, 0.5],
            ),
            (&[("x", 1)], &["p", "q", "x"], [0.5, 0.5, 1.0, 1.0, 1.0, 1.0 / 3.0]),
            (
                // More relevant documents than places: the ideal is cut too, recall is not.
                &many,
                &mixed,
                [0.530_721_273_977_243_4, 0.548_135_159_034_057_3, 2.0 / 15.0, 0.4, 10.0 / 15.0, 0.5],
            ),
            (&[("z", 2)], &["a", "b"], [0.0; 6]),
        ];
        for (grades, ranking, expected) in cases {
            let metrics = [
                Metric::Ndcg(3),
                Metric::Ndcg(10),
                Metric::Recall(3),
                Metric::Recall(10),
                Metric::Recall(100),
                Metric::Mrr(100),
            ];
            for (metric, expected) in metrics.into_iter().zip(expected) {
                let value = measure(metric, ranking, &relevant(grades));
                assert!((value - expected).abs() < 1e-12, "{metric} of {ranking:?}: {value}, expected {expected}");
            }
        }
    }

    #[test]
    fn nothing_relevant_and_nothing_found_are_worth_nothing() {
        for metric in [Metric::Ndcg(10), Metric::Recall(10), Metric::Mrr(10)] {
            assert_eq!(measure(metric, &["a"], &relevant(&[])), 0.0, "{metric}");
            assert_eq!(measure(metric, &[], &relevant(&[("a", 1)])), 0.0, "{metric}");
        }
        assert_eq!(measure(Metric::BothGold(10), &[], &relevant(&[("a", 1), ("b", 1)])), 0.0);
        assert_eq!(measure(Metric::BothGold(1), &["a", "b"], &relevant(&[("a", 1), ("b", 1)])), 0.0);
    }

    proptest::proptest! {
        #[test]
        fn metrics_stay_between_0_and_1_and_a_better_place_never_costs(
            grades in proptest::collection::btree_map("[a-j]", 1u32..4, 1..6),
            order in proptest::sample::subsequence(vec!["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"], 1..=10),
            k in 1usize..12,
            pick in proptest::prelude::any::<proptest::sample::Index>(),
        ) {
            let at = pick.index(order.len());
            for metric in [Metric::Ndcg(k), Metric::Recall(k), Metric::Mrr(k), Metric::BothGold(k)] {
                let value = measure(metric, &order, &grades);
                proptest::prop_assert!((0.0..=1.0 + 1e-12).contains(&value), "{metric} {value}");
                // One place up for a relevant document that follows an irrelevant one.
                if at > 0 && grades.contains_key(order[at]) && !grades.contains_key(order[at - 1]) {
                    let mut better = order.clone();
                    better.swap(at - 1, at);
                    proptest::prop_assert!(measure(metric, &better, &grades) >= value - 1e-12);
                }
            }
        }
    }

    #[test]
    fn names_round_trip() {
        for metric in [Metric::Ndcg(10), Metric::Recall(100), Metric::Mrr(10), Metric::BothGold(5)] {
            assert_eq!(Metric::try_from(metric.to_string()).unwrap(), metric);
        }
        assert!(Metric::try_from("ndcg".to_owned()).is_err());
    }
}
