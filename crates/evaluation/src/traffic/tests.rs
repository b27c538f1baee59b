//! Small days on scripted models.

#![allow(clippy::panic)]

use super::{figures::cost_of_quality, *};
use edgewise_test_support::{HashEmbedder, WordTokenizer, corpus};

struct Quiet;

impl Progress for Quiet {
    fn ingested(&self, _: usize, _: usize) {}
    fn answered(&self, _: usize, _: usize) {}
}

fn texts() -> Vec<Text> {
    let filler = |d: usize| {
        let paragraph = |p: usize| format!("Part {p} of chapter {d} tells of town {} and its river.", (7 * d + p) % 50);
        let text = (0..40).map(paragraph).collect::<Vec<_>>().join("\n\n");
        Text { name: format!("chapter-{d}.md"), text }
    };
    let real = corpus::DOCUMENTS.iter().map(|(name, text)| Text { name: (*name).into(), text: (*text).into() });
    real.chain((0..30).map(filler)).collect()
}

fn options() -> TrafficOptions {
    let Ok(prices) = PriceBook::embedded().map(|book| book.earliest("")) else { unreachable!("the built-in prices") };
    TrafficOptions {
        sizes: vec![600, 2500],
        questions: 60,
        follow_ups: 2.0,
        think_s: 60.0,
        zipf: 1.0,
        days: 2,
        machine: Machine::cpu(),
        objective: Objective::Balanced,
        prices,
        factors: vec![0.1],
        bootstrap: Bootstrap { resamples: 50, ..Bootstrap::default() },
    }
}

fn run() -> TrafficReport {
    let embedder: Arc<dyn Embedder> = Arc::new(HashEmbedder::with_dimension(128));
    let tokenizer: Arc<dyn Tokenizer> = Arc::new(WordTokenizer::new());
    evaluate_traffic(texts(), &embedder, &tokenizer, &options(), &Quiet).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_day_gives_the_same_figures_twice_and_they_fit_together() {
    let report = run();
    assert_eq!(report, run());
    assert_eq!((report.days, report.collections.len(), report.policies.len()), (2, 2, 7));
    assert!((60..=200).contains(&report.questions), "{}", report.questions);
    assert!(report.sessions < report.questions);
    let of = |wanted: TrafficPolicy| report.policies.iter().find(|report| report.policy == wanted);
    let (Some(passages), Some(full)) = (of(TrafficPolicy::Passages), of(TrafficPolicy::Full)) else {
        panic!("{report:?}")
    };
    assert_eq!(passages.routes.get(&Route::Passages).map(|share| share.round()), Some(1.0));
    assert_eq!(full.routes.get(&Route::Full).map(|share| share.round()), Some(1.0));
    assert!(full.hit_rate > passages.hit_rate && full.hit_rate < 1.0);
    for policy in &report.policies {
        assert!(policy.ttft_ms.0 <= policy.ttft_ms.1 && policy.ttft_ms.0 < policy.total_ms.0, "{policy:?}");
        assert!((policy.routes.values().sum::<f64>() - 1.0).abs() < 1e-9);
        assert!(policy.cost.mean > 0.0 && (0.0..=1.0).contains(&policy.quality.mean));
    }
}

#[test]
fn too_few_texts_are_refused() {
    let embedder: Arc<dyn Embedder> = Arc::new(HashEmbedder::with_dimension(32));
    let tokenizer: Arc<dyn Tokenizer> = Arc::new(WordTokenizer::new());
    let wanted = TrafficOptions { sizes: vec![10_000_000], ..options() };
    let error = evaluate_traffic(texts(), &embedder, &tokenizer, &wanted, &Quiet).map(drop);
    assert!(error.is_err_and(|error| error.to_string().contains("too few for a collection")));
}

#[test]
fn cost_at_equal_quality_is_read_off_between_settings() {
    let points = [(1.0, 0.5), (3.0, 0.7), (10.0, 0.6)];
    let cost = |quality| cost_of_quality(&points, quality);
    assert_eq!(cost(0.5), Some(1.0));
    assert_eq!(cost(0.7), Some(3.0));
    assert!(cost(0.6).is_some_and(|cost| (cost - 2.0).abs() < 1e-9), "half of each, not the dear one");
    assert_eq!(cost(0.4), Some(1.0), "better for less is taken");
    assert_eq!(cost(0.8), None);
}
