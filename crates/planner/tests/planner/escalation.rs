//! A question that no passage answers escalates and succeeds, inside its budget or not at all.

use edgewise_model_api::ModelError;
use edgewise_planner::{Answer, AnswerEvent, Budget, PlannerError, PlannerOptions, Query, Route, SegmentKind};
use edgewise_test_support::{Reply, ScriptedGenerator};
use edgewise_types::Money;

use crate::fixture::{Fixture, SLOW, forced, query};

/// What the passages about it do not say: the code stands in a section that shares no word with the question.
const QUESTION: &str = "What does the warden of the lighthouse keep?";
const SECRET: &str = "brass sextant numbered 4417";

fn documents() -> Vec<(String, String)> {
    let section = |n: usize| {
        format!(
            "## Part {n}\n\nThe lighthouse warden walks the gallery {n} times. {}\n\n",
            "Stairs and lamps. ".repeat(25)
        )
    };
    let tower: String = (1..8).map(section).collect();
    let tower = format!("# Tower\n\n{tower}## Annex\n\nOn a shelf lies a {SECRET}.\n");
    let other =
        |n: usize| (format!("notes-{n}.md"), format!("# Notes {n}\n\nGardens need water, and gate {n} rusts.\n"));
    std::iter::once(("tower.md".to_owned(), tower)).chain((0..4).map(other)).collect()
}

/// A model that answers from what it reads, and says so when it can't.
fn reader() -> ScriptedGenerator {
    ScriptedGenerator::new(|prompt| match prompt.find(SECRET) {
        Some(at) => {
            let n = prompt[..at].rfind("\n[").map_or("1", |open| prompt[open + 2..].split(']').next().unwrap_or("1"));
            format!("On a shelf lies a {SECRET} [{n}].")
        }
        None => "I don't know.".to_owned(),
    })
    .with_latency(SLOW)
}

fn fixture() -> Fixture {
    let options = PlannerOptions { top_k: 2, section_tokens: 0, ..PlannerOptions::default() };
    Fixture::with(reader(), options, &documents())
}

/// Passages first, as `auto` might choose.
fn asked() -> Query {
    Query { escalate: Some(true), ..forced(QUESTION, Route::Passages) }
}

#[test]
fn a_question_no_passage_answers_escalates_and_succeeds() {
    let fixture = fixture();
    let (answer, events) = fixture.events(&asked());
    let escalation = answer.escalation.as_ref().unwrap();
    assert_eq!((escalation.from, escalation.to), (Route::Passages, Route::Documents), "{escalation:#?}");
    assert_eq!(
        (answer.explanation.escalated_from, escalation.explanation.escalated_from),
        (None, Some(Route::Passages))
    );
    assert!(escalation.probability > 0.5 && escalation.first_answer.contains("I don't know"));
    assert!(answer.text.contains(SECRET) && !answer.unanswerable, "{}", answer.text);
    assert!(answer.unanswerable_probability < escalation.probability);
    assert!(answer.sentences.iter().all(|sentence| sentence.supported), "{:?}", answer.citations);

    // The first prompt is a prefix of the second: all of it was in the cache.
    let [first, second] = &fixture.model.requests()[..] else { panic!("two generations") };
    assert!(second.prompt.tokens.starts_with(&first.prompt.tokens));
    let cached: usize = answer.prompt_map.iter().map(|segment| segment.cached_tokens).sum();
    assert!(cached >= first.prompt.tokens.len());
    let first_words = answer.prompt_map.iter().find(|segment| segment.kind == SegmentKind::Answer).unwrap();
    assert!(first_words.start >= first.prompt.tokens.len());
    let numbers: Vec<usize> = answer.sources.iter().map(|source| source.n).collect();
    assert_eq!(numbers, (1..=answer.sources.len()).collect::<Vec<_>>());

    // Accounts are of both.
    let prompts = first.prompt.tokens.len() + second.prompt.tokens.len();
    assert_eq!(answer.usage.prompt_tokens(), prompts);
    assert!(answer.cost > escalation.cost && escalation.cost > Money::ZERO);
    assert_eq!(escalation.usage.prompt_tokens(), first.prompt.tokens.len());

    // Events: the plan, the first answer, the second.
    let at = events.iter().position(|event| matches!(event, AnswerEvent::Escalated(_))).unwrap();
    assert!(matches!(&events[at + 1], AnswerEvent::Sources(sources) if *sources == answer.sources));
    let said = |events: &[AnswerEvent]| -> String {
        let text = |event: &AnswerEvent| if let AnswerEvent::Token(text) = event { Some(text.clone()) } else { None };
        events.iter().filter_map(text).collect()
    };
    assert_eq!(said(&events[..at]), "I don't know.");
    assert!(said(&events[at..]).contains(SECRET));
    let AnswerEvent::Escalated(told) = &events[at] else { panic!("found above") };
    assert_eq!((&told.reason, told.cost), (&escalation.why, escalation.cost));
    assert_eq!(told.explanation, *escalation.explanation);
    assert_eq!(answer.explanation.chosen, Route::Passages, "the first decision stays what it was");
}

#[test]
fn the_turn_of_an_escalated_answer_rebuilds_both_prompts() {
    let fixture = fixture();
    let one = fixture.answer(&asked()).unwrap();
    assert!(one.turn.attempt.is_some() && one.turn.route == Route::Documents);
    let follow = Query { history: vec![one.turn], escalate: Some(false), ..query("And where does it lie?") };
    let two = fixture.answer(&follow).unwrap();
    let requests = fixture.model.requests();
    assert_eq!(two.explanation.candidates[0].turns, 1);
    assert!(requests[2].prompt.tokens.starts_with(&requests[1].prompt.tokens));
}

#[test]
fn explaining_says_what_would_follow() {
    let fixture = fixture();
    let plan = fixture.explain(&asked()).unwrap().escalation.unwrap();
    assert_eq!((plan.enabled, plan.route, plan.extends), (true, Some(Route::Documents), true), "{plan:?}");
    assert!(plan.resident_tokens > 0 && plan.resident_tokens < plan.prompt_tokens);
    assert!(plan.cost > Money::ZERO && plan.latency_ms > 0.0);
    assert!(fixture.model.requests().is_empty());
    let widest = fixture.explain(&Query { escalate: Some(true), ..forced(QUESTION, Route::Full) }).unwrap();
    let plan = widest.escalation.unwrap();
    assert_eq!((plan.route, plan.why.as_str()), (None, "the widest route was taken already"));
}

#[test]
fn a_forced_route_stays_unless_the_caller_says_otherwise_and_so_does_a_setting() {
    let fixture = fixture();
    let once = |asked: &Query| {
        let before = fixture.model.requests().len();
        let answer = fixture.answer(asked).unwrap();
        assert_eq!(fixture.model.requests().len(), before + 1);
        assert!(answer.escalation.is_none());
        answer.judgement.not_escalated.unwrap_or_default()
    };
    assert!(once(&forced(QUESTION, Route::Passages)).contains("asked for this route"));
    assert!(once(&Query { escalate: Some(false), ..asked() }).contains("one answer only"));
    let off = PlannerOptions { escalate: false, top_k: 2, section_tokens: 0, ..PlannerOptions::default() };
    let off = Fixture::with(reader(), off, &documents());
    let answer = off.answer(&query("What is nowhere in the gardens?")).unwrap();
    assert!(answer.escalation.is_none());
}

#[test]
fn a_supported_answer_is_left_alone() {
    let fixture = fixture();
    let answer = fixture
        .answer(&Query { escalate: Some(true), ..forced("What lies on a shelf in the annex?", Route::Passages) })
        .unwrap();
    assert!(answer.text.contains(SECRET) && answer.escalation.is_none(), "{:?}", answer.judgement);
    assert!(answer.unanswerable_probability < 0.5);
    assert_eq!(fixture.model.requests().len(), 1);
}

#[test]
fn what_was_spent_counts_against_the_budget_of_the_second_look() {
    let fixture = fixture();
    let free = fixture.answer(&asked()).unwrap();
    let escalation = free.escalation.unwrap();
    let first = fixture.model.requests()[0].prompt.tokens.len();
    let second = fixture.model.requests()[1].prompt.tokens.len();
    let worst_first = fixture.explain(&asked()).unwrap().candidates[0].clone();
    let budgets = [
        // Enough for the first answer at its longest, and for nothing beside it.
        Budget { max_cost: Some(worst_first.cost + worst_first.cost + Money::from_nanos(1)), ..Budget::default() },
        Budget { max_input_tokens: Some((first + second) / 2), ..Budget::default() },
        Budget { max_latency_ms: Some(worst_first.latency_ms as u64 + 1), ..Budget::default() },
    ];
    for budget in budgets {
        fixture.model.forget();
        let Ok(answer) = fixture.answer(&Query { budget, ..asked() }) else { continue };
        let why = answer.judgement.not_escalated.as_deref();
        assert!(answer.escalation.is_none(), "{budget:?}: {:?}", answer.escalation);
        assert!(why.is_some_and(|why| why.contains("no wider route fits")), "{budget:?}: {why:?}");
        assert!(answer.text.contains("I don't know"), "the first answer stands");
        if let Some(most) = budget.max_cost {
            assert!(answer.cost <= most && escalation.cost <= most);
        }
    }
}

#[test]
fn a_budget_for_the_first_answer_alone_gives_the_first_answer() {
    let fixture = fixture();
    let explained = fixture.explain(&asked()).unwrap();
    let most = explained.candidates[0].prompt_tokens + 1;
    let budget = Budget { max_input_tokens: Some(most), ..Budget::default() };
    let answer = fixture.answer(&Query { budget, ..asked() }).unwrap();
    assert!(answer.escalation.is_none() && answer.unanswerable);
    assert!(answer.judgement.not_escalated.unwrap().contains("max_input_tokens"));
    assert_eq!(fixture.model.requests().len(), 1);
}

#[test]
fn a_first_prompt_that_cannot_be_continued_gives_way_to_a_fresh_one() {
    // The window holds the document beside the answer, but not behind the first prompt as well.
    let probe = fixture();
    let documents_alone = probe.explain(&forced(QUESTION, Route::Documents)).unwrap().candidates[0].prompt_tokens;
    let model = reader().with_context_window(documents_alone + 40);
    let options =
        PlannerOptions { top_k: 2, section_tokens: 0, default_max_output_tokens: 32, ..PlannerOptions::default() };
    let fixture = Fixture::with(model, options, &documents());
    let answer = fixture.answer(&asked()).unwrap();
    let escalation = answer.escalation.expect("a fresh prompt fits");
    assert_eq!(escalation.to, Route::Documents);
    assert!(answer.text.contains(SECRET));
    assert!(answer.turn.attempt.is_none() && answer.turn.continues == 0);
    let [first, second] = &fixture.model.requests()[..] else { panic!("two generations") };
    assert!(!second.prompt.tokens.starts_with(&first.prompt.tokens));
}

#[test]
fn an_engine_too_busy_for_a_second_answer_takes_nothing_from_the_first() {
    let fixture = fixture();
    let answer: Result<Answer, PlannerError> = fixture.planner.answer(&fixture.collection, &asked(), &mut |event| {
        if matches!(event, AnswerEvent::Token(_)) {
            fixture.model.set_refusal(Some(ModelError::Overloaded { retry_after_s: 3 }));
        }
        std::ops::ControlFlow::Continue(())
    });
    let answer = answer.unwrap();
    assert!(answer.escalation.is_none() && answer.text.contains("I don't know"));
    assert!(answer.judgement.not_escalated.unwrap().contains("engine refused"));
}

#[test]
fn a_failure_of_the_second_answer_is_a_failure() {
    let broken = ModelError::Internal("device lost".to_owned());
    let replies = [Reply::new("I don't know."), Reply::new("one two three").failing_after(1, broken)];
    let options = PlannerOptions { top_k: 2, section_tokens: 0, ..PlannerOptions::default() };
    let fixture = Fixture::with(ScriptedGenerator::replies(replies), options, &documents());
    assert!(matches!(fixture.answer(&asked()), Err(PlannerError::Model(_))));
}

#[test]
fn it_happens_once_even_when_the_wider_sources_hold_nothing_either() {
    let options = PlannerOptions { top_k: 2, section_tokens: 0, ..PlannerOptions::default() };
    let fixture = Fixture::with(ScriptedGenerator::new(|_| "I don't know."), options, &documents());
    let answer = fixture.answer(&asked()).unwrap();
    assert!(answer.unanswerable && answer.escalation.is_some());
    assert_eq!(fixture.model.requests().len(), 2);
}
