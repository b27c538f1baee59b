//! What a search returns.

use edgewise_retrieval::{Fusion, RetrievalError, SearchRequest};
use edgewise_types::DocumentId;

use crate::support::*;

#[test]
fn both_arms_bring_their_scores() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    ingest(&guide, FILES);
    for fusion in [None, Some(Fusion::Rrf { k: 60.0 }), Some(Fusion::Convex { lexical_weight: 0.3 })] {
        let results = guide.search(&SearchRequest { fusion, ..request("how are pages evicted?") }).unwrap();
        let hit = &results.hits[0];
        assert_eq!((hit.uri.as_str(), hit.title.as_str()), ("engine.md", "Engine"));
        assert_eq!(hit.chunk.heading_path, ["Engine", "Eviction"]);
        let (lexical, vector) = (hit.lexical.unwrap(), hit.vector.unwrap());
        assert!(lexical.rank == 1 && lexical.score > 0.0);
        assert!(vector.rank == 1 && vector.score > 0.3 && vector.score <= 1.0);
        assert!(results.hits.windows(2).all(|w| w[0].score >= w[1].score));
        assert_eq!(results.generation, guide.generation().unwrap());
        assert!(results.notes.is_empty(), "{:?}", results.notes);
    }
}

#[test]
fn limits_cut_and_the_best_stay() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    ingest(&guide, FILES);
    let all = search(&guide, "engine crust whales").hits;
    let two = guide.search(&SearchRequest { limit: 2, ..request("engine crust whales") }).unwrap().hits;
    assert_eq!(two.len(), 2);
    assert_eq!(two, all[..2]);
    for limit in [0, 1001] {
        let error = guide.search(&SearchRequest { limit, ..request("x") }).unwrap_err();
        assert!(matches!(error, RetrievalError::InvalidRequest(_)), "{error}");
    }
}

#[test]
fn a_scope_is_searched_however_much_lies_outside_it() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    // Far more better matches outside the scope than an arm is deep.
    let noise: Vec<(String, String)> =
        (0..300).map(|i| (format!("noise/{i}.txt"), "engine caches prefixes".to_owned())).collect();
    let noise: Vec<(&str, &str)> = noise.iter().map(|(uri, text)| (uri.as_str(), text.as_str())).collect();
    ingest(&guide, &noise);
    ingest(&guide, FILES);
    let documents = Some(vec![DocumentId::from_uri("engine.md"), DocumentId::from_uri("bread.md")]);
    let scoped = SearchRequest { documents, ..request("engine caches prefixes") };
    let hits = guide.search(&scoped).unwrap().hits;
    assert_eq!(hits[0].uri, "engine.md");
    assert!(hits[0].lexical.is_some() && hits[0].vector.is_some());
    assert!(hits.iter().all(|hit| ["engine.md", "bread.md"].contains(&hit.uri.as_str())));

    let nowhere = SearchRequest { documents: Some(vec![DocumentId::from_uri("nope")]), ..request("x") };
    assert!(matches!(guide.search(&nowhere), Err(RetrievalError::UnknownDocument { .. })));
    let nothing = SearchRequest { documents: Some(Vec::new()), ..request("x") };
    assert!(guide.search(&nothing).unwrap().hits.is_empty());
}

#[test]
fn questions_without_an_answer() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    let empty = search(&guide, "anything");
    assert!(empty.hits.is_empty() && empty.notes.is_empty());
    ingest(&guide, FILES);
    for blank in ["", " \n\t"] {
        assert!(matches!(guide.search(&request(blank)), Err(RetrievalError::EmptyQuery)));
    }
    let only_stop_words = search(&guide, "what is the");
    assert!(only_stop_words.hits.iter().all(|hit| hit.lexical.is_none() && hit.vector.is_some()));
    for fusion in [Fusion::Convex { lexical_weight: 1.5 }, Fusion::Rrf { k: f32::NAN }] {
        let error = guide.search(&SearchRequest { fusion: Some(fusion), ..request("x") }).unwrap_err();
        assert!(matches!(error, RetrievalError::InvalidRequest(_)), "{error}");
    }
}

#[test]
fn a_query_longer_than_the_embedder_reads_is_cut_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    ingest(&guide, FILES);
    let results = search(&guide, &format!("whales {}", "and so on ".repeat(200)));
    assert_eq!(results.hits[0].uri, "whales.txt");
    assert_eq!(results.notes.len(), 1);
    assert!(results.notes[0].contains("602") && results.notes[0].contains("254"), "{}", results.notes[0]);
}

#[test]
fn diversity_takes_near_copies_away_and_leaves_scores_alone() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    // Five releases of one page, and two other pages on the subject.
    let page = "The engine evicts pages of prefixes by age, the least recently used ones first, in release";
    let copies: Vec<(String, String)> = (0..5).map(|n| (format!("v{n}.txt"), format!("{page} {n}."))).collect();
    let copies: Vec<(&str, &str)> = copies.iter().map(|(uri, text)| (uri.as_str(), text.as_str())).collect();
    ingest(&guide, &copies);
    ingest(&guide, FILES);
    ingest(&guide, &[("cost.txt", "What it costs when pages are evicted: the prompt is computed once more.")]);
    let ask = |diversity: Option<f32>| {
        guide.search(&SearchRequest { limit: 3, diversity, ..request("which pages are evicted by age?") }).unwrap().hits
    };
    let copies_of = |hits: &[edgewise_retrieval::Hit]| hits.iter().filter(|hit| hit.uri.starts_with('v')).count();
    let plain = ask(None);
    assert_eq!(ask(Some(0.0)), plain, "no diversity is no change");
    assert!(copies_of(&plain) >= 2, "{plain:?}");
    let diverse = ask(Some(0.5));
    assert_eq!((copies_of(&diverse), diverse.len()), (1, 3), "{diverse:?}");
    assert_eq!(diverse[0], plain[0]);
    let all = guide.search(&request("which pages are evicted by age?")).unwrap().hits;
    for hit in &diverse {
        let before = all.iter().find(|other| other.chunk.id == hit.chunk.id).unwrap();
        assert_eq!((before.lexical, before.vector), (hit.lexical, hit.vector), "raw scores stay");
    }
}

#[test]
fn several_hits_of_a_section_lead_to_the_section() {
    let root = tempfile::tempdir().unwrap();
    let guide = guide(root.path());
    let body = |word: &str| format!("Whales sing about {word} in a long song. ").repeat(40);
    let text = format!("# Sea\n\n## Songs\n\n{}\n\n{}\n\n## Ships\n\nNothing here.", body("krill"), body("ice"));
    ingest(&guide, &[("sea.md", &text), ("bread.md", "# Bread\n\nNo whales.")]);
    let hits = search(&guide, "whales sing").hits;
    let sections = guide.sections(&hits, 2, 10_000).unwrap();
    assert_eq!(sections.len(), 1, "{sections:?}");
    let section = &sections[0];
    assert_eq!(
        (section.uri.as_str(), &section.heading_path[..]),
        ("sea.md", &["Sea".to_owned(), "Songs".to_owned()][..])
    );
    assert!(section.hits.len() >= 2 && section.text.contains("krill") && section.text.contains("ice"));
    assert!(!section.text.contains("Nothing here"));
    let whole = guide.document_text(&section.document).unwrap();
    assert_eq!(section.span.slice(&whole).unwrap(), section.text);
    assert!(guide.sections(&hits, 2, 10).unwrap().is_empty(), "too long");
    assert!(guide.sections(&hits, 50, 10_000).unwrap().is_empty(), "too few");
}
