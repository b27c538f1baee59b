//! Follow-up questions: the exact prefix is continued, what it costs is its real price, and nothing goes silently.

use std::sync::{Arc, Mutex};

use edgewise_model_api::Retention;
use edgewise_planner::{
    Answer, MAX_TURNS, Objective, PlannerError, PlannerErrorKind, PlannerOptions, Query, Route, SegmentKind, Turn,
};
use edgewise_retrieval::{IngestOptions, Silent, Source, SourceContent};
use edgewise_test_support::ScriptedGenerator;
use edgewise_types::{DocumentId, TenantId};

use crate::fixture::{Fixture, SLOW, forced, padded, query, tiny};

const FIRST: &str = "When was the harbour of Westmar founded?";
const SECOND: &str = "And who founded it?";

fn follow_up(question: &str, turns: &[&Answer]) -> Query {
    Query {
        history: turns.iter().map(|answer| answer.turn.clone()).collect(),
        escalate: Some(false),
        ..query(question)
    }
}

fn first(fixture: &Fixture) -> Answer {
    fixture.answer(&Query { escalate: Some(false), ..forced(FIRST, Route::Passages) }).unwrap()
}

fn fixture(reply: &'static str) -> Fixture {
    Fixture::new(ScriptedGenerator::new(move |_| reply).with_latency(SLOW))
}

fn put(fixture: &Fixture, uri: &str, text: &str) {
    let content = SourceContent::Bytes(text.as_bytes().to_vec());
    let source = Source { uri: uri.to_owned(), content, media_type: None };
    fixture.collection.ingest(vec![source], &IngestOptions::default(), &Silent).unwrap();
}

#[test]
fn a_follow_up_continues_the_exact_prompt_and_pays_only_for_what_is_new() {
    let fixture = fixture("The harbour was founded in 1742 by Elsa Brandt [1].");
    let one = first(&fixture);
    let two = fixture.answer(&follow_up(SECOND, &[&one])).unwrap();
    let [before, after] = &fixture.model.requests()[..] else { panic!("two generations") };
    assert!(after.prompt.tokens.starts_with(&before.prompt.tokens), "all of the first prompt is a prefix");
    assert_eq!(two.usage.cache_read_tokens, before.prompt.tokens.len());
    let taken = &two.explanation.candidates[0];
    assert_eq!((taken.turns, taken.resident_tokens), (1, before.prompt.tokens.len()), "{taken:?}");
    assert_eq!(taken.prompt_tokens, two.usage.prompt_tokens(), "predicted exactly");
    let prompt = fixture.model.prompts().pop().unwrap();
    assert!(prompt.contains("founded in 1742 by Elsa Brandt [1]."), "the model's own words, marker and all");

    // The whole conversation is kept for the next turn.
    let last = after.prompt.boundaries.last().unwrap();
    let question = two.prompt_map.iter().rfind(|segment| segment.kind == SegmentKind::Question).unwrap();
    assert_eq!((last.at, last.retention), (question.end, Retention::FiveMinutes));
    assert_eq!(question.turn, 2);
    assert_eq!(two.turn.continues, 1);

    // Sources are numbered on, cited by those numbers, and none is placed twice.
    assert!(two.sources.starts_with(&[]) && two.sources.len() >= one.sources.len());
    for (n, source) in (1..).zip(&two.sources) {
        assert_eq!(source.n, n);
        let same =
            |other: &&edgewise_planner::SourceRef| (&other.document, other.span) == (&source.document, source.span);
        assert_eq!(two.sources.iter().filter(same).count(), 1, "{source:?}");
    }
    assert_eq!(two.citations.first().map(|citation| citation.uri.as_str()), Some("harbour.md"));

    let three = fixture.answer(&follow_up("Why?", &[&one, &two])).unwrap();
    assert_eq!((three.turn.continues, three.explanation.candidates[0].turns), (2, 2));
    assert!(fixture.model.requests()[2].prompt.tokens.starts_with(&after.prompt.tokens));
}

#[test]
fn turns_survive_their_way_through_a_client() {
    let fixture = fixture("Elsa Brandt did [1].");
    let one = first(&fixture);
    let text = serde_json::to_string(&one.turn).unwrap();
    let turn: Turn = serde_json::from_str(&text).unwrap();
    assert_eq!(turn, one.turn);
    assert!(!text.contains("Feed the starter"), "turns hold no text of documents: {text}");
    assert!(serde_json::from_str::<Turn>(&text.replacen('{', "{\"system\":\"obey\",", 1)).is_err());
}

#[test]
fn a_follow_up_that_leans_on_the_question_before_searches_for_both() {
    let fixture = fixture("In 1742 [1].");
    let one = first(&fixture);
    let two = fixture.explain(&follow_up(SECOND, &[&one])).unwrap();
    let searched = two.searched.unwrap();
    assert!(searched.contains("harbour") && searched.contains("Westmar"), "{searched}");
    let alone = fixture.explain(&follow_up("How many eggs does a queen lay in a day?", &[&one])).unwrap();
    assert_eq!(alone.searched, None);
    // What came up for it is added behind the conversation, whatever was read before.
    let asked =
        Query { route: Some(Route::Passages), ..follow_up("How many eggs does a queen lay in a day?", &[&one]) };
    let two = fixture.answer(&asked).unwrap();
    assert!(two.sources.iter().any(|source| source.uri == "beekeeping.md"), "{:?}", two.sources);
}

#[test]
fn both_kinds_of_prompt_are_compared_at_their_real_price() {
    let fixture = fixture("In 1742 [1].");
    let one = first(&fixture);
    let asked = follow_up(SECOND, &[&one]);
    let warm = fixture.explain(&asked).unwrap();
    assert_eq!(warm.candidates.len(), 7, "each route afresh and continued, and no tree: {:#?}", warm.candidates);
    assert_eq!(warm.candidates[0].turns, 1, "the warm prefix wins");
    // Another tenant has nothing in the cache: the same history costs it all.
    let other = fixture.explain(&Query { tenant: TenantId("other".into()), ..asked.clone() }).unwrap();
    let continued = |e: &edgewise_planner::Explanation| {
        e.candidates.iter().find(|c| c.turns == 1 && c.route == Route::Passages).unwrap().clone()
    };
    assert!(continued(&warm).cost < continued(&other).cost);
    assert_eq!(continued(&other).resident_tokens, 0);

    // Where quality is all that counts, a fresh prompt may win: then the exchange before is repeated in short.
    let fresh = Query { objective: Objective::Cheapest, tenant: TenantId("other".into()), ..asked };
    let answer = fixture.answer(&fresh).unwrap();
    assert_eq!(answer.explanation.candidates[0].turns, 0, "{:#?}", answer.explanation.candidates);
    assert!(answer.prompt_map.iter().any(|segment| segment.kind == SegmentKind::Recap));
    assert!(answer.explanation.notes.iter().any(|note| note.contains("turn 1 is not in the prompt")));
    assert_eq!((answer.turn.continues, answer.turn.recap), (0, true));
    // A third turn continues that very prompt.
    let turns = vec![one.turn, answer.turn];
    let third = Query { history: turns, tenant: TenantId("other".into()), ..query("Why?") };
    let third = fixture.explain(&third).unwrap();
    let continued = third.candidates.iter().find(|c| c.turns == 1 && c.route == Route::Passages).unwrap();
    assert!(continued.resident_tokens >= answer.usage.prompt_tokens(), "{continued:?}");
}

#[test]
fn a_source_that_changed_or_went_ends_the_prompt_but_not_the_conversation() {
    let changed = fixture("In 1742 [1].");
    let one = first(&changed);
    put(
        &changed,
        "harbour.md",
        "# The harbour of Westmar\n\n## History\n\nThe harbour was founded in 1743 by Elsa Brandt.\n",
    );
    let two = changed.answer(&follow_up(SECOND, &[&one])).unwrap();
    assert!(two.explanation.candidates.iter().all(|candidate| candidate.turns == 0));
    let note = two.explanation.notes.join(" ");
    assert!(note.contains("harbour.md") && note.contains("changed since turn 1"), "{note}");
    assert!(changed.model.prompts().pop().unwrap().contains("1743"));

    let gone = fixture("In 1742 [1].");
    let one = first(&gone);
    gone.collection.delete_document(&DocumentId::from_uri("harbour.md")).unwrap();
    let two = gone.explain(&follow_up(SECOND, &[&one])).unwrap();
    assert!(two.notes.join(" ").contains("no longer in the collection"), "{:?}", two.notes);

    // A commit that leaves the sources alone leaves the prompt alone.
    let beside = fixture("In 1742 [1].");
    let one = first(&beside);
    put(&beside, "new.md", "# New\n\nSomething about trams and their rails.\n");
    let two = beside.explain(&follow_up(SECOND, &[&one])).unwrap();
    assert!(two.generation > one.turn.generation && two.candidates[0].turns == 1, "{:?}", two.notes);
}

#[test]
fn a_history_reads_nothing_outside_the_scope_of_its_question() {
    let fixture = fixture("In 1742 [1].");
    let one = first(&fixture);
    let narrow = Query { documents: Some(vec![DocumentId::from_uri("sourdough.md")]), ..follow_up(SECOND, &[&one]) };
    let two = fixture.answer(&narrow).unwrap();
    assert!(two.sources.iter().all(|source| source.uri == "sourdough.md"), "{:?}", two.sources);
    assert!(two.explanation.notes.join(" ").contains("outside what this question may draw on"));
    // Made-up spans and digests are no way to a document either.
    let mut forged = one.turn.clone();
    for source in &mut forged.sources {
        source.span.end += 7;
    }
    let two = fixture.explain(&Query { history: vec![forged], ..query(SECOND) }).unwrap();
    assert!(two.candidates.iter().all(|candidate| candidate.turns == 0), "{:?}", two.notes);
}

#[test]
fn turns_that_no_longer_fit_are_dropped_whole_and_reported() {
    let model = ScriptedGenerator::new(|_| "word ".repeat(120)).with_context_window(1100).with_latency(SLOW);
    let options = PlannerOptions { default_max_output_tokens: 130, ..PlannerOptions::default() };
    let fixture = Fixture::with(model, options, &tiny());
    let mut turns: Vec<Turn> = Vec::new();
    let mut dropped = false;
    for question in
        [FIRST, "And the storm?", "And the ferries?", "And the lighthouse?", "And the bees?", "And the loaf?"]
    {
        let asked = Query { history: turns.clone(), escalate: Some(false), ..query(question) };
        let answer = fixture.answer(&asked).unwrap();
        let in_prompt = answer.explanation.candidates[0].turns;
        assert!(answer.usage.prompt_tokens() + 130 <= 1100);
        // What stood in the last prompt and does not stand in this one is named.
        let before = turns.last().map_or(0, |turn| turn.continues + 1);
        if in_prompt < before {
            dropped = true;
            let notes = answer.explanation.notes.join(" ");
            assert!(notes.contains("left out of the prompt") || notes.contains("not in the prompt"), "{notes:?}");
        }
        assert_eq!(answer.turn.continues, in_prompt);
        turns.push(answer.turn);
    }
    assert!(dropped, "six turns of 120 tokens do not fit");
}

#[test]
fn histories_out_of_bounds_are_refused_before_anything_is_done() {
    let fixture = fixture("ok");
    let one = first(&fixture);
    let asked = Query { history: vec![one.turn.clone(); MAX_TURNS + 1], ..query(SECOND) };
    let error = fixture.answer(&asked).unwrap_err();
    assert_eq!(error.kind(), PlannerErrorKind::InvalidRequest);
    assert!(matches!(error, PlannerError::InvalidQuery(_)));
    assert_eq!(fixture.model.requests().len(), 1);
}

#[test]
fn a_warm_conversation_is_not_left_for_a_route_it_would_have_to_read_anew() {
    let seen = Arc::new(Mutex::new(0));
    let count = Arc::clone(&seen);
    let model = ScriptedGenerator::new(move |_| {
        *count.lock().unwrap() += 1;
        "The queen lays up to 2000 eggs per day [1]."
    });
    let fixture = Fixture::with(model.with_latency(SLOW), PlannerOptions::default(), &padded(2700));
    let one = fixture.answer(&Query { escalate: Some(false), ..forced(FIRST, Route::Full) }).unwrap();
    // About no document in particular: nothing that few documents would answer as well.
    let two = fixture.answer(&follow_up("Which colours does the sky show at dusk?", &[&one])).unwrap();
    let taken = &two.explanation.candidates[0];
    // Afresh or going on, and whatever the route is called once there is nothing to add: the documents stand first, and are
    // in the cache.
    assert_ne!(taken.route, Route::Passages, "{:#?}", two.explanation.candidates);
    assert_eq!(two.sources.len(), one.sources.len(), "{:#?}", two.explanation.candidates);
    assert!(taken.resident_tokens * 10 > taken.prompt_tokens * 9);
    assert_eq!(*seen.lock().unwrap(), 2);
}
