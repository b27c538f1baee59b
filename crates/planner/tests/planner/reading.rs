//! What a measured reading profile changes: where passages stand, which prompts are too long, and what is repeated at the
//! end of long ones.

use std::sync::Arc;

use edgewise_model_api::{Generator, GeneratorInfo};
use edgewise_planner::{
    EffectiveWindow, Measurement, Observation, PlannerError, PlannerErrorKind, PlannerOptions, ReadingProfile,
    ReadingTask, Route, SegmentKind,
};
use edgewise_test_support::ScriptedGenerator;

use crate::fixture::{Fixture, candidate, forced, padded, tiny};

const QUESTION: &str = "When was the harbour founded, and by whom?";

/// A profile of a model that reads a share `read(length, depth)` of all facts.
fn profile(info: &GeneratorInfo, lengths: &[usize], read: impl Fn(usize, f64) -> f64) -> Arc<ReadingProfile> {
    let mut observations = Vec::new();
    for &length in lengths {
        for (slot, item) in (0..5).flat_map(|slot| (0..10).map(move |item| (slot, item))) {
            let depth = slot as f64 / 4.0;
            observations.push(Observation {
                task: ReadingTask::Needle,
                item,
                length,
                slot,
                depth,
                prompt_tokens: length,
                recalled: (item as f64) < 10.0 * read(length, depth),
                gold_logprob: None,
            });
        }
    }
    let at = "2026-01-02T03:04:05Z".parse().unwrap();
    let measurement = Measurement { at, program: "1".to_owned(), seed: 1, text: "made up".to_owned() };
    Arc::new(ReadingProfile::of(info, measurement, &observations))
}

/// Ranks of the placed passages, front to back.
fn ranks(fixture: &Fixture) -> Vec<usize> {
    let answer = fixture.answer(&forced(QUESTION, Route::Passages)).unwrap();
    answer.sources.iter().map(|source| source.rank).collect()
}

#[test]
fn passages_stand_where_the_model_reads_best() {
    let options = PlannerOptions { score_floor: -1.0, section_tokens: 0, ..PlannerOptions::default() };
    let fixture = Fixture::with(ScriptedGenerator::new(|_| "ok"), options, &tiny());
    let by_rule = ranks(&fixture);
    assert!(by_rule.len() > 3 && by_rule.last() == Some(&1) && by_rule[0] == 2, "{by_rule:?}");

    let info = fixture.model.info().clone();
    let first = profile(&info, &[100, 4000], |_, depth| 1.0 - depth);
    let other = GeneratorInfo { digest: "another".to_owned(), ..info.clone() };
    assert!(!fixture.planner.set_reading_profile(profile(&other, &[100, 4000], |_, depth| 1.0 - depth)));
    assert_eq!((ranks(&fixture), fixture.planner.reading_profile()), (by_rule.clone(), None));

    assert!(fixture.planner.set_reading_profile(first));
    let by_curve = ranks(&fixture);
    assert!(by_curve.is_sorted() && by_curve.len() == by_rule.len(), "{by_curve:?}");
    let level = profile(&info, &[100, 4000], |_, _| 0.5);
    assert!(fixture.planner.set_reading_profile(level));
    assert_eq!(ranks(&fixture), by_rule, "a level curve says nothing");
}

#[test]
fn a_prompt_beyond_the_effective_window_is_judged_worse_or_refused() {
    let short = |length, _| if length <= 400 { 0.9 } else { 0.3 };
    let planned = |respect, profiled: bool| {
        let options = PlannerOptions { respect_effective_window: respect, ..PlannerOptions::default() };
        let fixture = Fixture::with(ScriptedGenerator::new(|_| "ok"), options, &padded(3000));
        if profiled {
            let measured = profile(fixture.model.info(), &[200, 400, 800], short);
            assert_eq!(measured.effective_window, Some(400));
            assert!(fixture.planner.set_reading_profile(measured));
        }
        (fixture.explain(&forced(QUESTION, Route::Passages)), fixture.explain(&forced(QUESTION, Route::Full)))
    };
    let quality = |respect, profiled| candidate(&planned(respect, profiled).1.unwrap(), Route::Full).quality;
    let unmeasured = quality(EffectiveWindow::Penalise, false);
    assert!(quality(EffectiveWindow::Penalise, true) < unmeasured - 0.1);
    assert_eq!(quality(EffectiveWindow::Ignore, true), unmeasured);
    let (passages, full) = planned(EffectiveWindow::Refuse, true);
    let error = full.unwrap_err();
    assert_eq!(error.kind(), PlannerErrorKind::TooLarge);
    assert!(error.to_string().contains("respect_effective_window"), "{error}");
    let short_enough = passages.unwrap();
    assert!(candidate(&short_enough, Route::Passages).prompt_tokens <= 400);
    assert!(matches!(error, PlannerError::DoesNotFit { .. }));
}

#[test]
fn key_excerpts_follow_long_documents_and_leave_the_prefix_alone() {
    let long: String = (0..400).map(|n| format!("Log entry {n}: nothing of note was seen at sea.\n\n")).collect();
    let mut documents = tiny();
    for (_, text) in documents.iter_mut().filter(|(uri, _)| uri == "harbour.md") {
        text.push_str(&format!("\n\n## Log\n\n{long}"));
    }
    let options = PlannerOptions { documents_budget_tokens: 7000, ..PlannerOptions::default() };
    let fixture = Fixture::with(ScriptedGenerator::new(|_| "ok"), options.clone(), &documents);
    for route in [Route::Documents, Route::Full] {
        let answer = fixture.answer(&forced(QUESTION, route)).unwrap();
        let excerpts: Vec<_> = answer.prompt_map.iter().filter(|s| s.kind == SegmentKind::Excerpt).collect();
        assert!(!excerpts.is_empty(), "{route}");
        let tokens: usize = excerpts.iter().map(|segment| segment.end - segment.start).sum();
        assert!(tokens <= options.excerpts_budget_tokens, "{tokens}");
        let last_document = answer.prompt_map.iter().rfind(|s| s.kind == SegmentKind::Document).unwrap();
        let question = answer.prompt_map.iter().find(|s| s.kind == SegmentKind::Question).unwrap();
        let request = fixture.model.requests().pop().unwrap();
        assert_eq!(request.prompt.boundaries.last().unwrap().at, last_document.end);
        for excerpt in &excerpts {
            assert!(excerpt.start >= last_document.end && excerpt.end <= question.start);
            assert!(answer.sources.iter().any(|source| Some(source.n) == excerpt.source));
        }
        let prompt = fixture.model.prompts().pop().unwrap();
        assert!(prompt.matches("founded in 1742").count() > 1, "the passage that answers stands next to the question");
        // Another question over the same documents reads the whole prefix again.
        if route == Route::Full {
            let other = fixture.answer(&forced("What do ferries cost?", route)).unwrap();
            assert!(other.usage.cache_read_tokens >= last_document.end);
        }
    }
    let none = PlannerOptions { excerpts_budget_tokens: 0, ..options };
    for fixture in [
        Fixture::with(ScriptedGenerator::new(|_| "ok"), none, &documents),
        Fixture::with(ScriptedGenerator::new(|_| "ok"), PlannerOptions::default(), &tiny()),
    ] {
        let answer = fixture.answer(&forced(QUESTION, Route::Full)).unwrap();
        assert!(answer.prompt_map.iter().all(|segment| segment.kind != SegmentKind::Excerpt));
    }
}
