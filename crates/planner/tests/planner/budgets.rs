//! Limits of money and time: whose they are, what is left out to stay under them, what is refused.

use edgewise_planner::{
    Budget, Ceiling, Origin, PlannerError, PlannerErrorKind, PlannerOptions, PromptAnswers, Query, Route,
};
use edgewise_test_support::ScriptedGenerator;
use edgewise_types::{Money, TenantId};

use crate::fixture::{Fixture, SLOW, candidate, forced, padded, query};

const QUESTION: &str = "When was the harbour founded, and by whom?";

fn fixture() -> Fixture {
    let options = PlannerOptions { score_floor: -1.0, section_tokens: 0, ..PlannerOptions::default() };
    Fixture::with(ScriptedGenerator::new(|_| "ok").with_latency(SLOW), options, &padded(1500))
}

fn cost(most: Money) -> Budget {
    Budget { max_cost: Some(most), ..Budget::default() }
}

/// What a request on `route` may cost if its answer is as long as it may be.
fn worst(fixture: &Fixture, route: Route) -> Money {
    let explanation = fixture.explain(&forced(QUESTION, route)).unwrap();
    let chosen = candidate(&explanation, route);
    let prices = edgewise_ledger::PriceBook::embedded().unwrap().earliest("");
    let most = PlannerOptions::default().default_max_output_tokens;
    prices.cost(&edgewise_types::Usage { output_tokens: most, ..chosen.usage })
}

#[test]
fn passages_and_documents_are_left_out_to_stay_under_a_cost() {
    for route in [Route::Passages, Route::Documents] {
        let fixture = fixture();
        let all = fixture.explain(&forced(QUESTION, route)).unwrap();
        assert!(candidate(&all, route).sources > 1, "{all:#?}");
        let most = Money::from_nanos(worst(&fixture, route).nanos() - 1);
        let asked = Query { budget: cost(most), ..forced(QUESTION, route) };
        let fewer = fixture.answer(&asked).unwrap();
        let (before, after) = (candidate(&all, route), candidate(&fewer.explanation, route));
        assert!(after.sources < before.sources && after.sources > 0);
        let told = format!("narrowed from {} to {} {route} to stay under ${most}", before.sources, after.sources);
        assert!(after.reason.contains(&told) && after.reason.contains("of the budget"), "{}", after.reason);
        let left_out: Vec<_> =
            fewer.explanation.dropped.iter().filter(|drop| drop.reason.contains(&format!("under ${most}"))).collect();
        assert!(!left_out.is_empty(), "{:#?}", fewer.explanation.dropped);
        assert!(fewer.cost <= most, "{} of {most}", fewer.cost);
    }
}

#[test]
fn passages_are_left_out_to_stay_under_a_time() {
    let fixture = fixture();
    let all = fixture.explain(&forced(QUESTION, Route::Passages)).unwrap();
    let (all, least) = (candidate(&all, Route::Passages).clone(), {
        let one = Query { top_k: Some(1), ..forced(QUESTION, Route::Passages) };
        candidate(&fixture.explain(&one).unwrap(), Route::Passages).latency_ms
    });
    let most = ((all.latency_ms + least) / 2.0) as u64;
    let budget = Budget { max_latency_ms: Some(most), ..Budget::default() };
    let explanation = fixture.explain(&Query { budget, ..forced(QUESTION, Route::Passages) }).unwrap();
    let narrowed = candidate(&explanation, Route::Passages);
    assert!((1..all.sources).contains(&narrowed.sources), "{narrowed:?} of {all:?}");
    assert!(narrowed.latency_ms <= most as f64);
    assert!(narrowed.reason.contains(&format!("to stay under {most} ms (max_latency_ms of the budget)")));
}

#[test]
fn what_is_resident_leaves_room_for_more() {
    let fixture = fixture();
    let full = worst(&fixture, Route::Full);
    let asked = Query { budget: cost(Money::from_nanos(full.nanos() / 2)), ..forced(QUESTION, Route::Full) };
    let error = fixture.explain(&asked).unwrap_err();
    assert_eq!(error.kind(), PlannerErrorKind::Budget, "{error}");
    fixture.answer(&forced("How many eggs does a queen lay?", Route::Full)).unwrap();
    assert!(fixture.explain(&asked).is_ok(), "warm, it stays inside");
}

#[test]
fn the_tightest_limit_is_named_with_its_owner() {
    let one = Money::from_nanos(1);
    let refused = |fixture: &Fixture, query: &Query| {
        let error = fixture.answer(query).unwrap_err();
        assert!(matches!(error, PlannerError::BudgetTooSmall { .. }), "{error}");
        assert!(fixture.model.requests().is_empty(), "nothing was generated");
        error.to_string()
    };
    let with_key = Query { ceilings: vec![Ceiling { origin: Origin::Key, budget: cost(one) }], ..query(QUESTION) };
    let message = refused(&fixture(), &with_key);
    assert!(message.contains("max_cost of the API key"), "{message}");

    let fixture = fixture();
    let ceiling = edgewise_retrieval::Ceiling { max_latency_ms: Some(1), ..Default::default() };
    fixture.collection.set_ceiling(ceiling).unwrap();
    let message = refused(&fixture, &query(QUESTION));
    assert!(message.contains("1 ms (max_latency_ms of the collection)"), "{message}");
    fixture.collection.set_ceiling(Default::default()).unwrap();
    assert!(fixture.answer(&query(QUESTION)).is_ok());

    let options = PlannerOptions { ceiling: cost(one), ..PlannerOptions::default() };
    let server = Fixture::with(ScriptedGenerator::new(|_| "ok"), options, &padded(0));
    let message = refused(&server, &query(QUESTION));
    assert!(message.contains("max_cost of the server"), "{message}");
}

#[test]
fn what_is_asked_often_is_worth_writing() {
    // Under the price of a cold full scope, above that of a warm one.
    let options = PlannerOptions::default();
    let model = || ScriptedGenerator::new(|_| "ok").with_min_prefix_tokens(32);
    let follow_ups = |gap_s: u64| {
        let now = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
        let clock = now.clone();
        let fixture = Fixture::with(model(), options.clone(), &padded(600)).map_planner(|planner| {
            planner.with_clock(move || std::time::Duration::from_secs(clock.load(std::sync::atomic::Ordering::Relaxed)))
        });
        for n in 0..12 {
            fixture.answer(&forced(&format!("What of harbour {n}?"), Route::Passages)).unwrap();
            now.fetch_add(gap_s, std::sync::atomic::Ordering::Relaxed);
        }
        let explanation = fixture.explain(&query(QUESTION)).unwrap();
        candidate(&explanation, Route::Full).clone()
    };
    let (often, rarely) = (follow_ups(30), follow_ups(3000));
    assert!(often.expected_follow_ups > 1.5 && rarely.expected_follow_ups < 0.2, "{often:?} {rarely:?}");
    assert_eq!(often.resident_tokens, rarely.resident_tokens, "of both, only what all prompts begin with is there");
    assert!(often.kept && often.usage.cache_write_5m_tokens > 0, "{often:?}");
    assert!(!rarely.kept && rarely.usage.cache_write_5m_tokens == 0 && rarely.cost < often.cost, "{rarely:?}");
    assert!(often.score > rarely.score && often.worth_of_keeping > 0.0, "{often:?} {rarely:?}");
}

#[test]
fn a_prompt_that_comes_as_it_is_is_admitted_or_refused_with_what_would_do() {
    let fixture = fixture();
    let prompt = edgewise_model_api::Prompt { tokens: vec![7; 300], ..Default::default() };
    let ask = |answers, budget| {
        let ceilings = [Ceiling { origin: Origin::Key, budget }];
        let asked = PromptAnswers { max_tokens: 50, answers };
        fixture.planner.admit_prompt(&prompt, asked, &TenantId::local(), &ceilings)
    };
    ask(1, Budget::default()).unwrap();
    let least = |budget: Budget| match ask(1, budget).unwrap_err() {
        PlannerError::PromptOverBudget { reason, needed_tokens, needed_cost, needed_latency_ms } => {
            assert!(reason.contains("of the API key"), "{reason}");
            (needed_tokens, needed_cost, needed_latency_ms)
        }
        other => panic!("{other}"),
    };
    let least = least(Budget { max_input_tokens: Some(299), ..Budget::default() });
    assert_eq!(least.0, 300);
    let (tokens, needed_cost, ms) = least;
    let enough = Budget { max_input_tokens: Some(tokens), max_cost: Some(needed_cost), max_latency_ms: Some(ms) };
    ask(1, enough).unwrap();
    for less in [
        Budget { max_cost: Some(Money::from_nanos(needed_cost.nanos() - 1)), ..enough },
        Budget { max_latency_ms: Some(ms - 1), ..enough },
    ] {
        assert_eq!(ask(1, less).unwrap_err().kind(), PlannerErrorKind::Budget);
    }
    assert!(ask(2, enough).is_err(), "two answers may cost more");
    assert!(fixture.model.requests().is_empty());
}
