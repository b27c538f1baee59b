//! The stage after fusion, with a reranker that counts words.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::SeqCst},
};

use edgewise_model_api::{ModelError, Reranker, RerankerInfo, Tokenizer};
use edgewise_retrieval::{Collection, Collections, Reranking, RetrievalError, RetrievalModels, SearchRequest};
use edgewise_test_support::WordTokenizer;

use crate::support::{FILES, ingest, models, name, request};

/// Scores a passage by how often it has the word of the reranker, and keeps what it was asked.
struct Counting {
    info: RerankerInfo,
    tokenizer: WordTokenizer,
    word: &'static str,
    asked: Mutex<Vec<(String, Vec<String>)>>,
    broken: AtomicBool,
    short: AtomicBool,
}

impl Reranker for Counting {
    fn info(&self) -> &RerankerInfo {
        &self.info
    }
    fn tokenizer(&self) -> &dyn Tokenizer {
        &self.tokenizer
    }
    fn score(&self, query: &str, passages: &[&str], cancelled: &dyn Fn() -> bool) -> Result<Vec<f32>, ModelError> {
        if cancelled() {
            return Err(ModelError::Stopped("the call was cancelled".to_owned()));
        }
        self.asked.lock().unwrap().push((query.to_owned(), passages.iter().map(|p| (*p).to_owned()).collect()));
        let score = |passage: &&str| passage.matches(self.word).count() as f32;
        let mut scores: Vec<f32> = passages.iter().map(score).collect();
        if self.broken.load(SeqCst) {
            scores.iter_mut().for_each(|score| *score = f32::NAN);
        }
        scores.truncate(if self.short.load(SeqCst) { scores.len() - 1 } else { scores.len() });
        Ok(scores)
    }
}

fn counting(word: &'static str) -> Arc<Counting> {
    let (model, digest) = ("counting".to_owned(), "00".to_owned());
    Arc::new(Counting {
        info: RerankerInfo { model, digest, max_query_tokens: 5, max_tokens: 100 },
        tokenizer: WordTokenizer::new(),
        word,
        asked: Mutex::default(),
        broken: AtomicBool::new(false),
        short: AtomicBool::new(false),
    })
}

fn guide_with(model: &Arc<Counting>, depth: usize) -> (tempfile::TempDir, Arc<Collection>) {
    let folder = tempfile::tempdir().unwrap();
    let models = RetrievalModels { reranker: Some(Reranking { model: model.clone(), depth }), ..models() };
    let guide = Collections::open(folder.path(), models).unwrap().get_or_create_default(&name()).unwrap();
    ingest(&guide, FILES);
    (folder, guide)
}

#[test]
fn the_rerankers_order_wins_and_raw_scores_stay() {
    let model = counting("sing");
    let (_folder, guide) = guide_with(&model, 100);
    let query = "engine prefixes prompts";
    let fused = guide.search(&SearchRequest { rerank: Some(false), ..request(query) }).unwrap();
    assert_eq!(fused.hits[0].uri, "engine.md");
    assert!(fused.hits.iter().all(|hit| hit.rerank.is_none()) && fused.rerank_ms == 0.0);
    assert!(model.asked.lock().unwrap().is_empty());
    for rerank in [None, Some(true)] {
        let results = guide.search(&SearchRequest { rerank, ..request(query) }).unwrap();
        assert_eq!((results.hits[0].uri.as_str(), results.hits[0].rerank), ("whales.txt", Some(1.0)));
        assert!(results.rerank_ms > 0.0 && results.notes.is_empty());
        // Equal scores stay in fused order, and everything else of a hit is as it was.
        let mut expected = fused.hits.clone();
        expected.sort_by_key(|hit| hit.uri != "whales.txt");
        assert_eq!(results.hits.len(), expected.len());
        for (hit, expected) in results.hits.iter().zip(expected) {
            assert_eq!((&hit.chunk, hit.score), (&expected.chunk, expected.score));
            assert_eq!((hit.lexical, hit.vector), (expected.lexical, expected.vector));
        }
    }
    let (asked, passages) = model.asked.lock().unwrap()[0].clone();
    assert_eq!(asked, query);
    assert!(passages.iter().any(|p| p.contains("Crust") && p.contains("crackle")), "headings are read: {passages:?}");
}

#[test]
fn it_reads_deeper_than_the_limit_and_no_deeper_than_its_depth() {
    let model = counting("sing");
    let (_folder, guide) = guide_with(&model, 4);
    let query = "engine prefixes prompts";
    let fused = guide.search(&SearchRequest { rerank: Some(false), ..request(query) }).unwrap().hits;
    assert!(fused.len() > 4);
    // Beyond the limit, within the depth.
    let one = guide.search(&SearchRequest { limit: 1, ..request(query) }).unwrap().hits;
    let whales = fused.iter().position(|hit| hit.uri == "whales.txt").unwrap();
    assert_eq!(one.len(), 1);
    assert_eq!(one[0].uri == "whales.txt", whales < 4);
    // Within the limit, beyond the depth: as they were.
    let all = guide.search(&request(query)).unwrap().hits;
    assert_eq!(all.len(), fused.len());
    assert!(all[..4].iter().all(|hit| hit.rerank.is_some()) && all[4..].iter().all(|hit| hit.rerank.is_none()));
    assert_eq!(all[4..], fused[4..]);
    assert!(model.asked.lock().unwrap().iter().all(|(_, passages)| passages.len() == 4));
    // Out of range as without.
    for limit in [0, 1001] {
        let error = guide.search(&SearchRequest { limit, ..request(query) }).unwrap_err();
        assert!(error.to_string().contains("limit is"), "{error}");
    }
}

#[test]
fn copies_are_suppressed_after_it() {
    let model = counting("hales");
    let (_folder, guide) = guide_with(&model, 100);
    let copies = [("copy.txt", FILES[2].1), ("other.txt", "Many whales are grey.")];
    ingest(&guide, &copies);
    let plain = guide.search(&SearchRequest { limit: 3, ..request("whales") }).unwrap().hits;
    let uris = |hits: &[edgewise_retrieval::Hit]| hits.iter().map(|hit| hit.uri.clone()).collect::<Vec<_>>();
    let diverse = SearchRequest { limit: 2, diversity: Some(0.5), ..request("whales") };
    let diverse = guide.search(&diverse).unwrap().hits;
    assert_eq!(plain.iter().filter(|hit| hit.chunk.text == FILES[2].1).count(), 2);
    assert!(diverse.iter().filter(|hit| hit.chunk.text == FILES[2].1).count() == 1, "{:?}", uris(&diverse));
    let error = guide.search(&SearchRequest { diversity: Some(1.5), ..request("whales") }).unwrap_err();
    assert!(error.to_string().contains("diversity is 1.5"), "{error}");
}

#[test]
fn long_questions_are_cut_for_it_alone_with_a_note() {
    let model = counting("sing");
    let (_folder, guide) = guide_with(&model, 3);
    let results = guide.search(&request("one two three four five six seven")).unwrap();
    assert_eq!(model.asked.lock().unwrap()[0].0, "one two three four five");
    assert!(results.notes.iter().any(|note| note.contains("has 7 tokens and the reranker reads 5")));
}

#[test]
fn failures_are_errors_and_absence_says_what_to_set() {
    let model = counting("sing");
    let (_folder, guide) = guide_with(&model, 3);
    let cancelled = guide.search_until(&request("whales"), &|| true).unwrap_err();
    assert!(matches!(cancelled, RetrievalError::Model(ModelError::Stopped(_))), "{cancelled}");
    assert!(guide.search_until(&SearchRequest { rerank: Some(false), ..request("whales") }, &|| true).is_ok());
    model.broken.store(true, SeqCst);
    let broken = guide.search(&request("whales")).unwrap_err();
    assert!(broken.to_string().contains("not all of them finite"), "{broken}");
    model.broken.store(false, SeqCst);
    model.short.store(true, SeqCst);
    let short = guide.search(&request("whales")).unwrap_err();
    assert!(short.to_string().contains("the reranker gave 2 scores") && short.to_string().contains("for 3 passages"));

    let folder = tempfile::tempdir().unwrap();
    let plain = crate::support::guide(folder.path());
    ingest(&plain, FILES);
    assert!(plain.search(&request("whales")).unwrap().hits.iter().all(|hit| hit.rerank.is_none()));
    let error = plain.search(&SearchRequest { rerank: Some(true), ..request("whales") }).unwrap_err();
    assert!(matches!(error, RetrievalError::InvalidRequest(_)) && error.to_string().contains("`retrieval.reranker`"));
}
