use std::collections::BTreeMap;

use edgewise_test_support::HashEmbedder;

use super::*;

struct Quiet;

impl Progress for Quiet {
    fn ingested(&self, _done: usize, _total: usize) {}
    fn answered(&self, _done: usize, _total: usize) {}
}

fn set() -> Dataset {
    let words = ["bread", "engine", "whale", "glacier", "violin", "harbour", "copper", "meadow"];
    let passage = |(at, word): (usize, &&str)| Passage {
        id: format!("d/{at} #1*"),
        title: format!("1. On [{word}] & *more*"),
        text: format!("- {word} is <b>what</b> this is about\n\n# no heading; {}", "filler text. ".repeat(at * 40)),
    };
    let query = |(at, word): (usize, &&str)| LabelledQuery {
        id: at.to_string(),
        text: format!("what about the {word}?"),
        relevant: BTreeMap::from([(format!("d/{at} #1*"), 1), (format!("d/{} #1*", (at + 1) % words.len()), 1)]),
    };
    Dataset {
        name: "words".to_owned(),
        passages: words.iter().enumerate().map(passage).collect(),
        queries: words.iter().enumerate().map(query).collect(),
        unlabelled: 3,
    }
}

#[test]
fn what_can_be_found_is_found_and_figures_are_the_same_each_time() {
    let embedder: Arc<dyn Embedder> = Arc::new(HashEmbedder::new());
    let options = RetrievalOptions { bm25: vec![Bm25::default()], ..RetrievalOptions::default() };
    let report = evaluate_retrieval(&set(), &embedder, &options, &Quiet).unwrap();
    assert_eq!((report.documents, report.queries, report.unlabelled), (8, 8, 3));
    assert!(report.chunks > 8, "long passages are cut: {}", report.chunks);
    let bm25 = &report.systems[0];
    let mean = |metric: Metric| bm25.metrics.iter().find(|(m, _)| *m == metric).unwrap().1.mean;
    // One of the two relevant documents holds the word and comes first.
    assert_eq!((mean(Metric::Mrr(10)), mean(Metric::Recall(5)) >= 0.5), (1.0, true));
    assert_eq!(mean(Metric::BothGold(5)), 0.0);
    assert_eq!(report.systems[1].metrics, bm25.metrics, "the same parameters give the same figures");
    assert_eq!(report.systems.len(), 3 + options.fusions.len());
    assert!(report.systems[3].over_better_arm.is_some() && bm25.over_better_arm.is_none());
    assert_eq!(evaluate_retrieval(&set(), &embedder, &options, &Quiet).unwrap(), report);

    let lexical = RetrievalOptions { lexical_only: true, ..RetrievalOptions::default() };
    let alone = evaluate_retrieval(&set(), &embedder, &lexical, &Quiet).unwrap();
    assert_eq!((alone.systems.len(), &alone.systems[0]), (1, bm25));
}
