//! Which route is taken, what it is predicted to cost, and what is refused.

use edgewise_model_api::Tokenizer;
use edgewise_planner::{
    Answer, Budget, Explanation, Objective, PlannerError, PlannerErrorKind, PlannerOptions, Query, Route,
};
use edgewise_test_support::{ScriptedGenerator, WordTokenizer};
use edgewise_types::{DocumentId, Money, TenantId};

use crate::fixture::{Fixture, SLOW, candidate, forced, padded, query, tiny};

const QUESTION: &str = "When was the harbour founded, and by whom?";
const ROUTES: [Route; 3] = [Route::Passages, Route::Documents, Route::Full];

/// A question about no document in particular.
const BROAD: &str = "What else is worth knowing?";

#[test]
fn predictions_are_exact_cold_and_warm() {
    let reply = "The harbour was founded in 1742 by Elsa Brandt [1].";
    let output = WordTokenizer::new().count(reply).unwrap();
    for route in ROUTES {
        let options = PlannerOptions { expected_output_tokens: output, ..PlannerOptions::default() };
        let fixture = Fixture::with(ScriptedGenerator::new(move |_| reply), options, &tiny());
        for (question, warm) in [(QUESTION, false), ("Who founded the harbour?", true), (QUESTION, true)] {
            let answer = fixture.answer(&forced(question, route)).unwrap();
            let predicted = &answer.explanation.candidates[0];
            assert_eq!((predicted.route, answer.explanation.forced), (route, true));
            assert_eq!(predicted.prompt_tokens, answer.usage.prompt_tokens(), "{route}");
            assert_eq!(predicted.resident_tokens, answer.usage.cache_read_tokens, "{route}");
            assert_eq!(predicted.resident_tokens > 0, warm, "{route}");
            assert_eq!(predicted.cost, answer.cost, "{route}");
            let cached: usize = answer.prompt_map.iter().map(|segment| segment.cached_tokens).sum();
            assert_eq!(cached, answer.usage.cache_read_tokens, "{route}");
        }
    }
}

#[test]
fn a_warm_full_scope_wins_where_a_cold_one_loses() {
    // Reading a thousand cached tokens costs as much as a hundred new ones: that is where cheapest turns. Balanced turns
    // where no few documents stand out.
    for (objective, words, question) in [(Objective::Balanced, 3300, BROAD), (Objective::Cheapest, 0, QUESTION)] {
        let model = ScriptedGenerator::new(|_| "ok").with_latency(SLOW);
        let fixture = Fixture::with(model, PlannerOptions::default(), &padded(words));
        let ask = |question: &str| Query { objective, ..query(question) };
        let cold = fixture.explain(&ask(question)).unwrap();
        assert_ne!(cold.chosen, Route::Full, "{objective:?} {cold:#?}");
        assert!(candidate(&cold, Route::Full).feasible);

        fixture.answer(&forced("How many eggs does a queen lay?", Route::Full)).unwrap();
        let warm = fixture.explain(&ask(question)).unwrap();
        assert_eq!(warm.chosen, Route::Full, "{objective:?} {warm:#?}");
        let full = candidate(&warm, Route::Full);
        assert!(full.resident_tokens * 10 > full.prompt_tokens * 9, "{full:?}");
        assert!(full.cost < candidate(&cold, Route::Full).cost);

        let other = Query { tenant: TenantId("other".into()), ..ask(question) };
        assert_eq!(fixture.explain(&other).unwrap().chosen, cold.chosen, "the cache of another tenant is no help");
    }
}

#[test]
fn explaining_generates_nothing_and_agrees_with_answering() {
    let fixture = Fixture::new(ScriptedGenerator::new(|_| "ok"));
    let explanation = fixture.explain(&query(QUESTION)).unwrap();
    assert!(fixture.model.requests().is_empty());
    let answer = fixture.answer(&query(QUESTION)).unwrap();
    assert_eq!(explanation.prompt_map.last().unwrap().end, explanation.candidates[0].prompt_tokens);
    assert!(explanation.escalation.is_some());
    // All but the time that planning took, which is in every candidate's, and what is only asked of an explanation.
    let timeless = |mut explanation: Explanation| {
        for candidate in &mut explanation.candidates {
            (candidate.ttft_ms, candidate.latency_ms, candidate.score) = (0.0, 0.0, 0.0);
            candidate.worth_of_keeping = 0.0;
        }
        Explanation { prompt_map: Vec::new(), escalation: None, ..explanation }
    };
    assert_eq!(timeless(explanation.clone()), timeless(answer.explanation));
    assert_eq!(explanation.candidates[0].route, explanation.chosen);
    let mut routes: Vec<Route> = explanation.candidates.iter().map(|c| c.route).collect();
    routes.sort();
    assert_eq!(routes, [ROUTES[0], Route::Tree, ROUTES[1], ROUTES[2]], "every route is listed");
    assert!(explanation.candidates.iter().all(|c| !c.reason.is_empty()));
}

#[test]
fn budgets_are_enforced_before_generating_and_their_advice_holds() {
    let fixture = Fixture::new(ScriptedGenerator::new(|_| "ok").with_latency(SLOW));
    let budgets = [
        Budget { max_cost: Some(Money::from_nanos(1)), ..Budget::default() },
        Budget { max_latency_ms: Some(1), ..Budget::default() },
        Budget { max_input_tokens: Some(100), ..Budget::default() },
    ];
    for budget in budgets {
        for route in [None, Some(Route::Full)] {
            let asked = Query { budget, route, ..query(QUESTION) };
            let error = fixture.answer(&asked).unwrap_err();
            assert_eq!(error.kind(), PlannerErrorKind::Budget, "{error}");
            let message = error.to_string();
            let PlannerError::BudgetTooSmall { needed_tokens, needed_cost, needed_latency_ms, .. } = error else {
                panic!("{error}")
            };
            assert!(
                message.contains(&needed_tokens.to_string()) && message.contains(&needed_cost.to_string()),
                "{message}"
            );
            assert!(fixture.model.requests().is_empty(), "nothing was generated");
            let allowed = Budget {
                max_cost: Some(needed_cost),
                max_input_tokens: Some(needed_tokens),
                max_latency_ms: Some(needed_latency_ms),
            };
            let explanation = fixture.explain(&Query { budget: allowed, ..asked }).unwrap();
            assert!(explanation.candidates[0].feasible, "{explanation:?}");
        }
    }
}

#[test]
fn a_tighter_input_budget_drops_the_lowest_ranked_passages() {
    let options = PlannerOptions { score_floor: -1.0, ..PlannerOptions::default() };
    let fixture = Fixture::with(ScriptedGenerator::new(|_| "ok"), options, &tiny());
    let all = fixture.answer(&forced(QUESTION, Route::Passages)).unwrap();
    assert!(all.sources.len() >= 2, "{:?}", all.sources);
    let max_input_tokens = Some(all.usage.prompt_tokens() - 1);
    let budget = Budget { max_input_tokens, ..Budget::default() };
    let fewer = fixture.answer(&Query { budget, ..forced(QUESTION, Route::Passages) }).unwrap();
    assert!(fewer.usage.prompt_tokens() < all.usage.prompt_tokens());
    let worst = all.sources.iter().map(|source| source.rank).max().unwrap();
    assert!(fewer.sources.iter().all(|source| source.rank < worst));
    let over: Vec<_> =
        fewer.explanation.dropped.iter().filter(|drop| drop.reason.contains("over the budget")).collect();
    assert_eq!(over.len(), all.sources.len() - fewer.sources.len());
}

#[test]
fn everything_retrieved_is_a_source_or_a_reported_drop() {
    let documents = padded(1500);
    for (top_k, budget, floor) in [(1, 1200, -1.0), (4, 60, -1.0), (6, 1200, 0.3), (12, 200, 0.1), (40, 5000, -1.0)] {
        let options = PlannerOptions {
            passages_budget_tokens: budget,
            score_floor: floor,
            max_documents: 2,
            ..PlannerOptions::default()
        };
        let fixture = Fixture::with(ScriptedGenerator::new(|_| "ok"), options, &documents);
        let asked = Query { top_k: Some(top_k), ..forced(QUESTION, Route::Passages) };
        let answer = fixture.answer(&asked).unwrap();
        let dropped = &answer.explanation.dropped;
        let placed: usize = answer.sources.iter().map(|source| source.passages).sum();
        assert_eq!(placed + dropped.len(), answer.explanation.features.hits, "top_k {top_k}");
        assert!(answer.sources.len() <= top_k);
        let placed: usize = answer.prompt_map.iter().filter(|s| s.source.is_some()).map(|s| s.end - s.start).sum();
        assert!(placed <= budget, "{placed} tokens of passages in {budget}");

        let answer = fixture.answer(&Query { top_k: Some(top_k), ..forced(QUESTION, Route::Documents) }).unwrap();
        let mut seen: Vec<DocumentId> = answer.sources.iter().map(|s| s.document.clone()).collect();
        seen.extend(answer.explanation.dropped.iter().map(|d| d.document.clone()));
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count, "no document is both placed and dropped");
        assert!(answer.sources.len() <= 2 && count >= answer.sources.len());
    }
}

#[test]
fn the_best_passages_stand_at_the_edges() {
    let options = PlannerOptions { score_floor: -1.0, ..PlannerOptions::default() };
    let fixture = Fixture::with(ScriptedGenerator::new(|_| "ok"), options, &tiny());
    let sources =
        fixture.answer(&forced("harbour ferries pier storm bees loaf mirror", Route::Passages)).unwrap().sources;
    assert!(sources.len() >= 3, "{sources:?}");
    assert_eq!(sources.iter().map(|source| source.n).collect::<Vec<_>>(), (1..=sources.len()).collect::<Vec<_>>());
    assert_eq!(sources.last().unwrap().rank, 1);
    let middle = &sources[1..sources.len() - 1];
    assert!(middle.iter().all(|source| source.rank > sources[0].rank), "{sources:?}");
}

#[test]
fn whole_documents_come_in_order_of_uri_whatever_their_rank() {
    let fixture = Fixture::new(ScriptedGenerator::new(|_| "ok"));
    let full = fixture.answer(&forced(QUESTION, Route::Full)).unwrap();
    let uris: Vec<&str> = full.sources.iter().map(|source| source.uri.as_str()).collect();
    assert_eq!(uris, ["beekeeping.md", "harbour.md", "sourdough.md", "telescope.md"]);
    for source in &full.sources {
        let text = fixture.document_text(&source.uri);
        assert_eq!((source.span.start, source.span.end), (0, text.len()));
    }
    let few =
        fixture.answer(&forced("Which storm destroyed the pier, and what do bees harvest?", Route::Documents)).unwrap();
    assert!(few.sources.len() >= 2 && few.sources.is_sorted_by_key(|source| &source.uri), "{:?}", few.sources);
}

#[test]
fn the_scope_can_be_narrowed_to_named_documents() {
    let fixture = Fixture::new(ScriptedGenerator::new(|_| "ok"));
    let bees = DocumentId::from_uri("beekeeping.md");
    for route in ROUTES {
        let asked = Query { documents: Some(vec![bees.clone(), bees.clone()]), ..forced(QUESTION, route) };
        let answer = fixture.answer(&asked).unwrap();
        assert!(!answer.sources.is_empty() && answer.sources.iter().all(|source| source.document == bees), "{route}");
        assert_eq!(answer.explanation.features.scope_documents, 1);
    }
    let unknown = Query { documents: Some(vec![DocumentId::from_uri("nowhere.md")]), ..query(QUESTION) };
    assert_eq!(fixture.explain(&unknown).unwrap_err().kind(), PlannerErrorKind::NotFound);
}

#[test]
fn what_does_not_fit_the_window_is_refused_with_the_numbers() {
    let model = ScriptedGenerator::new(|_| "ok").with_context_window(700);
    let fixture = Fixture::with(model, PlannerOptions::default(), &padded(3000));
    let explanation = fixture.explain(&query(QUESTION)).unwrap();
    let full = candidate(&explanation, Route::Full);
    assert!(!full.feasible && full.prompt_tokens > 3000, "{full:?}");

    let error = fixture.answer(&forced(QUESTION, Route::Full)).unwrap_err();
    assert_eq!(error.kind(), PlannerErrorKind::TooLarge);
    assert!(error.to_string().contains(&full.prompt_tokens.to_string()), "{error}");

    let long = "why ".repeat(900);
    let error = fixture.answer(&query(&long)).unwrap_err();
    assert!(matches!(error, PlannerError::QuestionTooLong { limit: 444, .. }), "{error}");
    let wide = Query { max_output_tokens: Some(700), ..query(QUESTION) };
    assert!(matches!(fixture.answer(&wide).unwrap_err(), PlannerError::InvalidQuery(_)));
    assert!(fixture.model.requests().is_empty());
}

#[test]
fn the_longest_possible_answer_still_fits_beside_every_prompt() {
    let window = 600;
    let model = ScriptedGenerator::new(|_| "word ".repeat(400)).with_context_window(window);
    let fixture = Fixture::with(model, PlannerOptions::default(), &padded(3000));
    for max_output in [1, 100, 256] {
        let asked = Query { max_output_tokens: Some(max_output), escalate: Some(false), ..query(QUESTION) };
        let answer = fixture.answer(&asked).unwrap();
        assert_eq!(answer.usage.output_tokens, max_output);
        assert!(answer.usage.prompt_tokens() + max_output <= window);
    }
}

#[test]
fn questions_that_ask_for_nothing_are_refused() {
    let fixture = Fixture::new(ScriptedGenerator::new(|_| "ok"));
    assert!(matches!(fixture.answer(&query(" \n")), Err(PlannerError::EmptyQuestion)));
    let invalid = [
        Query { top_k: Some(0), ..query(QUESTION) },
        Query { top_k: Some(201), ..query(QUESTION) },
        Query { stop: vec![String::new()], ..query(QUESTION) },
        Query { documents: Some(vec![]), ..query(QUESTION) },
        Query { max_output_tokens: Some(0), ..query(QUESTION) },
        Query { sampling: edgewise_model_api::Sampling { top_p: 0.0, ..Default::default() }, ..query(QUESTION) },
    ];
    for asked in invalid {
        let error = fixture.answer(&asked).unwrap_err();
        assert_eq!(error.kind(), PlannerErrorKind::InvalidRequest, "{error}");
    }
    let empty = Fixture::with(ScriptedGenerator::new(|_| "ok"), PlannerOptions::default(), &[]);
    let error = empty.answer(&query(QUESTION)).unwrap_err();
    assert!(matches!(&error, PlannerError::EmptyScope { collection } if collection.as_str() == "guide"), "{error}");
    assert!(fixture.model.requests().is_empty());
}

#[test]
fn options_out_of_range_are_refused() {
    let broken = [
        PlannerOptions { top_k: 0, ..Default::default() },
        PlannerOptions { score_floor: 1.5, ..Default::default() },
        PlannerOptions { score_floor: f32::NAN, ..Default::default() },
        PlannerOptions { passages_budget_tokens: 0, ..Default::default() },
        PlannerOptions { max_input_tokens: Some(0), ..Default::default() },
    ];
    for options in broken {
        let planner = edgewise_planner::Planner::new(
            std::sync::Arc::new(ScriptedGenerator::new(|_| "ok")),
            std::sync::Arc::new(edgewise_test_support::HashEmbedder::new()),
            edgewise_prompts::Prompts::load(None).unwrap(),
            edgewise_ledger::PriceBook::embedded().unwrap(),
            options.clone(),
        );
        assert!(matches!(planner.err(), Some(PlannerError::InvalidOptions(_))), "{options:?}");
    }
}

#[test]
fn a_filter_narrows_every_route_and_one_that_nothing_satisfies_is_refused() {
    let fixture = Fixture::new(ScriptedGenerator::new(|_| "ok"));
    let filtered = |filter: &str| Some(filter.parse().unwrap());
    for route in [Route::Passages, Route::Documents, Route::Full] {
        let asked = Query { filter: filtered("uri like 'b*' or title = 'Sourdough'"), ..forced(QUESTION, route) };
        let answer = fixture.answer(&asked).unwrap();
        assert!(!answer.sources.is_empty());
        assert!(answer.sources.iter().all(|s| ["beekeeping.md", "sourdough.md"].contains(&s.uri.as_str())), "{route}");
        assert_eq!(answer.explanation.features.scope_documents, 2);
    }
    let both = Query {
        filter: filtered("uri like 'b*' or uri like 'h*'"),
        documents: Some(vec![DocumentId::from_uri("harbour.md"), DocumentId::from_uri("sourdough.md")]),
        ..forced(QUESTION, Route::Full)
    };
    let sources = fixture.answer(&both).unwrap().sources;
    assert_eq!(sources.iter().map(|source| source.uri.as_str()).collect::<Vec<_>>(), ["harbour.md"]);
    let error = fixture.explain(&Query { filter: filtered("year > 2030"), ..query(QUESTION) }).unwrap_err();
    assert!(matches!(&error, PlannerError::NothingMatches { filter, .. } if filter == "year > 2030"), "{error}");
    assert_eq!(error.kind(), PlannerErrorKind::InvalidRequest);
}

#[test]
fn a_short_section_takes_the_place_of_its_passages() {
    let sentence = |n: usize| format!("Valve {n} of the harbour pump opens at {n}0 bar and closes again at {n} bar. ");
    let paragraphs = |range: std::ops::Range<usize>| range.map(sentence).collect::<String>();
    let text = format!(
        "# Pump\n\n## Valves\n\n{}\n\n{}\n\n{}\n\n## Paint\n\nGreen.\n",
        paragraphs(1..12),
        paragraphs(12..24),
        paragraphs(24..36)
    );
    let documents = [("pump.md".to_owned(), text), ("bees.md".to_owned(), "# Bees\n\nBees live in hives.".to_owned())];
    let with = |section_tokens: usize| {
        let options = PlannerOptions {
            section_tokens,
            passages_budget_tokens: 4000,
            score_floor: -1.0,
            ..PlannerOptions::default()
        };
        let fixture = Fixture::with(ScriptedGenerator::new(|_| "ok"), options, &documents);
        let asked =
            Query { top_k: Some(3), ..forced("Which valve of the harbour pump opens at 30 bar?", Route::Passages) };
        (fixture.answer(&asked).unwrap(), fixture.document_text("pump.md"))
    };
    let valves = |answer: &Answer| {
        answer
            .sources
            .iter()
            .filter(|s| s.heading_path.last().is_some_and(|h| h == "Valves"))
            .cloned()
            .collect::<Vec<_>>()
    };
    let (apart, _) = with(0);
    assert!(valves(&apart).len() >= 2, "{:?}", apart.sources);
    let (together, text) = with(2000);
    let [section] = valves(&together).try_into().unwrap();
    let (start, end) = (text.find("Valve 1 ").unwrap(), text.find("## Paint").unwrap_or(text.find("Paint").unwrap()));
    assert!(section.span.start <= start && section.span.end <= end, "{section:?}");
    assert!(text[section.span.start..section.span.end].contains("Valve 35 "), "the whole section is there");
    assert_eq!(section.rank, valves(&apart).iter().map(|source| source.rank).min().unwrap());
    assert_eq!(section.passages, valves(&apart).len(), "pieces of the section are not placed again");
    let (short, _) = with(20);
    assert_eq!(short.sources, apart.sources, "too long a section stays in pieces");
}
