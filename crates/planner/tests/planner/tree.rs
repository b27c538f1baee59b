//! The route through summaries: when it is offered, what it reads, and what its answers cite.

use std::collections::BTreeSet;

use edgewise_planner::{CitationMethod, PlannerError, PlannerOptions, Query, Route, SegmentKind, Turn, TurnSourceKind};
use edgewise_retrieval::{IngestOptions, Silent, Source, SourceContent, TreeBuildOptions};
use edgewise_test_support::ScriptedGenerator;
use edgewise_types::DocumentId;

use crate::fixture::{Fixture, candidate, forced, padded, query};

const WHOLE: &str = "What is the plot as a whole?";
const DETAIL: &str = "When was the harbour founded, and by whom?";

/// Stories of plain sentences, together far longer than what is placed of them.
fn stories() -> Vec<(String, String)> {
    let part = |story: usize, part: usize| {
        let sentence = |n: usize| {
            let barrels = 10 * part + n + 20;
            format!("Captain Reed{story} sailed to island {story}{part}{n} with {barrels} barrels of salt.")
        };
        format!("## Part {part}\n\n{}", (1..5).map(sentence).collect::<Vec<_>>().join(" "))
    };
    let story = |n: usize| (1..6).map(|p| part(n, p)).collect::<Vec<_>>().join("\n\n");
    (1..11).map(|n| (format!("story-{n:02}.md"), format!("# Story {n}\n\n{}\n", story(n)))).collect()
}

/// Room for a part of the texts.
fn small() -> PlannerOptions {
    PlannerOptions { passages_budget_tokens: 400, ..PlannerOptions::default() }
}

fn grown(reply: &'static str, options: PlannerOptions, documents: &[(String, String)]) -> Fixture {
    let fixture = Fixture::with(ScriptedGenerator::new(move |_| reply), options, documents);
    fixture.collection.build_tree(&TreeBuildOptions::extractive(60), &Silent).unwrap();
    assert!(fixture.collection.tree_standing().unwrap().current());
    fixture
}

fn replace(fixture: &Fixture, uri: &str, text: &str) {
    let content = SourceContent::Bytes(text.as_bytes().to_vec());
    let source = Source { uri: uri.to_owned(), content, media_type: None };
    fixture.collection.ingest(vec![source], &IngestOptions::default(), &Silent).unwrap();
}

#[test]
fn without_a_tree_the_route_is_refused_and_says_how_to_build_one() {
    let fixture = Fixture::new(ScriptedGenerator::new(|_| "ok"));
    let explanation = fixture.explain(&query(WHOLE)).unwrap();
    let tree = candidate(&explanation, Route::Tree);
    assert!(!tree.feasible && tree.reason.contains("edgewise tree build guide"), "{tree:?}");
    match fixture.explain(&forced(WHOLE, Route::Tree)) {
        Err(PlannerError::DoesNotFit { route: Some(Route::Tree), reasons }) => {
            assert!(reasons[0].1.contains("edgewise tree build guide"), "{reasons:?}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_question_about_the_whole_reads_summaries_and_one_about_a_detail_its_passage() {
    let fixture = grown("ok", small(), &padded(3000));
    let whole = fixture.answer(&forced(WHOLE, Route::Tree)).unwrap();
    assert_eq!((whole.explanation.chosen, whole.turn.route), (Route::Tree, Route::Tree));
    let kind = whole.explanation.features.kind;
    assert!(whole.sources.iter().any(|source| source.summary.is_some()), "{kind:?} {:?}", whole.sources);
    let tokens: usize =
        whole.prompt_map.iter().filter(|segment| segment.source.is_some()).map(|segment| segment.tokens).sum();
    assert!(tokens <= 400, "{tokens}");
    for segment in whole.prompt_map.iter().filter(|segment| segment.source.is_some()) {
        let source = &whole.sources[segment.source.unwrap() - 1];
        assert_eq!(segment.kind == SegmentKind::Summary, source.summary.is_some());
        if let Some(summary) = &source.summary {
            assert!(summary.level > 0 && summary.passages > 1 && summary.documents > 0, "{summary:?}");
            assert_eq!(summary.of[0], source.document);
            let named =
                source.heading_path.iter().chain([&source.title]).any(|text| text.to_lowercase().contains("summary"));
            assert!(named, "{source:?}");
        }
    }
    // Told in the order of reading.
    assert!(whole.sources.is_sorted_by(|a, b| (&a.uri, a.span) <= (&b.uri, b.span)), "{:?}", whole.sources);

    let detail = fixture.answer(&forced(DETAIL, Route::Tree)).unwrap();
    let harbour = detail.sources.iter().find(|source| source.rank == 1).unwrap();
    assert!(harbour.summary.is_none() && harbour.uri.contains("harbour"), "{harbour:?}");
    // Predicted as exactly as any other route.
    let predicted = candidate(&detail.explanation, Route::Tree);
    assert_eq!(predicted.prompt_tokens, detail.usage.prompt_tokens());
    let explained = fixture.explain(&query(WHOLE)).unwrap();
    let (tree, passages) = (candidate(&explained, Route::Tree), candidate(&explained, Route::Passages));
    assert!(tree.feasible && tree.quality > passages.quality, "{tree:?} {passages:?}");
    let explained = fixture.explain(&query(DETAIL)).unwrap();
    assert!(candidate(&explained, Route::Tree).quality <= candidate(&explained, Route::Passages).quality + 0.02);
}

#[test]
fn what_a_summary_says_is_cited_from_the_document() {
    let probe = grown("ok", small(), &stories());
    let read = probe.answer(&forced(WHOLE, Route::Tree)).unwrap();
    let found = read.sources.iter().find(|source| source.summary.is_some());
    let source = found.unwrap_or_else(|| panic!("{:?} {:?}", read.explanation.features.kind, read.sources)).clone();
    let summary = probe.collection.summary(&source.summary.as_ref().unwrap().node).unwrap().unwrap();
    // The model repeats a sentence of the summary, under its number.
    let sentence = summary.text.split_inclusive(['.', '!']).find(|s| s.split_whitespace().count() > 5).unwrap().trim();
    let reply: &'static str = format!("{} [{}].", sentence.trim_end_matches(['.', '!']), source.n).leak();
    let fixture = grown(reply, small(), &stories());
    let answer = fixture.answer(&forced(WHOLE, Route::Tree)).unwrap();
    assert_eq!(answer.sources, read.sources, "the same tree");
    assert!(!answer.citations.is_empty(), "{answer:?}");
    for citation in &answer.citations {
        let text = fixture.collection.document_text(&citation.document).unwrap();
        assert_eq!(citation.span.slice(&text).unwrap(), citation.quote);
        assert_eq!((citation.n, citation.method), (source.n, CitationMethod::Marker));
        let leaves = fixture.collection.chunks(&summary.leaves).unwrap();
        assert!(leaves.iter().any(|leaf| leaf.document == citation.document && leaf.span.contains(citation.span)));
    }
    // Something that the summary's documents do not say is not cited from it.
    let wrong = grown("The moon is made of 17 kinds of cheese [1].", small(), &stories());
    assert!(wrong.answer(&forced(WHOLE, Route::Tree)).unwrap().citations.is_empty());
}

#[test]
fn a_question_about_the_whole_hears_of_many_documents_before_more_of_one() {
    let fixture = grown("ok", small(), &stories());
    let answer = fixture.answer(&forced(WHOLE, Route::Tree)).unwrap();
    let told: BTreeSet<DocumentId> = answer
        .sources
        .iter()
        .flat_map(|source| match &source.summary {
            Some(summary) => summary.of.clone(),
            None => vec![source.document.clone()],
        })
        .collect();
    // None has two places while another has none.
    assert!(told.len() >= answer.sources.len() && told.len() > 4, "{:?}", answer.sources);
}

#[test]
fn an_outdated_tree_is_used_only_when_asked_for_and_never_for_what_changed() {
    let fixture = grown("ok", PlannerOptions::default(), &padded(1500));
    replace(&fixture, "filler-00.md", "# Filler\n\nSomething else entirely about volcanoes.");
    let explained = fixture.explain(&query(WHOLE)).unwrap();
    let tree = candidate(&explained, Route::Tree);
    assert!(!tree.feasible && tree.reason.contains("out of date"), "{tree:?}");
    let answer = fixture.answer(&forced(WHOLE, Route::Tree)).unwrap();
    assert!(answer.explanation.notes.iter().any(|note| note.contains("out of date")), "{:?}", answer.explanation.notes);
    let changed = DocumentId::from_uri("filler-00.md");
    let over = |source: &&edgewise_planner::SourceRef| {
        source.summary.as_ref().is_some_and(|summary| summary.of.contains(&changed))
    };
    assert!(!answer.sources.iter().any(|source| over(&source)), "{:?}", answer.sources);
    fixture.collection.build_tree(&TreeBuildOptions::extractive(60), &Silent).unwrap();
    assert!(candidate(&fixture.explain(&query(WHOLE)).unwrap(), Route::Tree).feasible);
}

#[test]
fn a_conversation_goes_on_from_summaries_while_they_stand() {
    let fixture = grown("ok", small(), &padded(3000));
    let one = fixture.answer(&forced(WHOLE, Route::Tree)).unwrap();
    let summaries = one.turn.sources.iter().filter(|source| source.kind == TurnSourceKind::Summary).count();
    assert!(summaries > 0 && one.turn.sources.iter().all(|s| s.node.is_some() == (s.kind == TurnSourceKind::Summary)));
    let turn: Turn = serde_json::from_str(&serde_json::to_string(&one.turn).unwrap()).unwrap();
    let follow = |route| Query { history: vec![turn.clone()], ..forced("And what about their harbours?", route) };
    for route in [Route::Tree, Route::Passages] {
        let two = fixture.answer(&follow(route)).unwrap();
        let taken = two.explanation.candidates.iter().find(|c| c.route == route && c.turns == 1).unwrap();
        assert!(taken.feasible, "{:?} {:?}", taken, two.explanation.notes);
        assert!(taken.resident_tokens > 0, "the first prompt is a prefix of it");
    }
    // What the prompt holds already is not placed again.
    let again = Query { history: vec![turn.clone()], ..forced(WHOLE, Route::Tree) };
    let two = fixture.explain(&again).unwrap();
    let taken = two.candidates.iter().find(|c| c.route == Route::Tree && c.turns == 1).unwrap();
    assert!(taken.feasible, "{taken:?}");

    // A text below changes: the prompt would not be true any more.
    replace(&fixture, "filler-00.md", "# Filler\n\nSomething else entirely about volcanoes.");
    let two = fixture.explain(&follow(Route::Passages)).unwrap();
    let note = two.notes.iter().find(|note| note.contains("not continued"));
    let below_changed = one.sources.iter().any(|s| {
        s.document == DocumentId::from_uri("filler-00.md")
            || s.summary.as_ref().is_some_and(|summary| summary.of.contains(&DocumentId::from_uri("filler-00.md")))
    });
    assert_eq!(note.is_some(), below_changed, "{:?}", two.notes);

    // What a client makes up is not read.
    let mut forged = turn.clone();
    forged.sources.iter_mut().for_each(|source| source.node = None);
    let two = fixture.explain(&Query { history: vec![forged], ..forced(DETAIL, Route::Passages) }).unwrap();
    assert!(two.notes.iter().any(|note| note.contains("not continued")), "{:?}", two.notes);
}

#[test]
fn a_question_to_some_documents_reads_no_summary_of_others() {
    let fixture = grown("ok", PlannerOptions::default(), &padded(1500));
    let only = DocumentId::from_uri("filler-01.md");
    let asked = Query { documents: Some(vec![only.clone()]), ..forced(WHOLE, Route::Tree) };
    let answer = fixture.answer(&asked).unwrap();
    assert!(!answer.sources.is_empty());
    for source in &answer.sources {
        assert_eq!(source.document, only);
        assert!(source.summary.as_ref().is_none_or(|summary| summary.of == [only.clone()]), "{source:?}");
    }
}
