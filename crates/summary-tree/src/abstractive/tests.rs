#![allow(clippy::unwrap_used, clippy::panic)]

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use super::*;
use crate::Halt;
use edgewise_test_support::{Reply, ScriptedGenerator, WordTokenizer};

const HARBOUR: &str = "The harbour was founded in 1742 by Elsa Brandt. A storm destroyed the first pier in 1803.";
const FERRY: &str = "Ferries leave the harbour for the islands every 40 minutes.";
const GOOD: &str = "Elsa Brandt founded the harbour in 1742. Ferries leave every 40 minutes.";
const WRONG: &str = "The harbour was founded by Hans Brandt in 1752.";

fn options() -> AbstractiveOptions {
    AbstractiveOptions { backoff_ms: 1, ..AbstractiveOptions::default() }
}

fn summarise(
    generator: &ScriptedGenerator,
    texts: &[&str],
    options: AbstractiveOptions,
    waiting: &(dyn Fn() -> Result<(), Halt> + Sync),
) -> Result<SummaryText, SummariseError> {
    let summariser = Abstractive::new(Arc::new(generator.clone()), Prompts::load(None).unwrap(), options)?;
    let tokenizer = WordTokenizer::new();
    let member = |text| MemberText { headings: &[], text, embedding: &[1.0], tokens: 20 };
    let members: Vec<MemberText<'_>> = texts.iter().copied().map(member).collect();
    summariser.summarise(&SummaryRequest { title: "", level: 1, members: &members, tokenizer: &tokenizer, waiting })
}

fn answered(replies: &[&str]) -> SummaryText {
    let generator = ScriptedGenerator::replies(replies.iter().copied());
    let made = summarise(&generator, &[HARBOUR, FERRY], options(), &|| Ok(())).unwrap();
    assert_eq!(made.usage.output_tokens > 0, replies.iter().any(|reply| !reply.is_empty()));
    assert_eq!(generator.requests().len(), 1 + usize::from(made.regenerated > 0));
    assert!(generator.requests().iter().all(|request| request.sampling.temperature == 0.0));
    made
}

#[test]
fn a_faithful_answer_stands() {
    let made = answered(&[GOOD]);
    assert_eq!((made.text.as_str(), made.method, made.regenerated), (GOOD, SummaryMethod::Abstractive, 0));
    assert_eq!((made.facts, made.facts_left_out), (4, 1), "1803 is left out");
}

#[test]
fn an_unfaithful_answer_is_written_again_and_then_replaced() {
    let made = answered(&[WRONG, GOOD]);
    assert_eq!((made.text.as_str(), made.method, made.regenerated), (GOOD, SummaryMethod::Abstractive, 1));
    assert_eq!(made.unsupported, ["1752", "Hans Brandt"]);
    let made = answered(&[WRONG, WRONG]);
    assert_eq!((made.method, made.regenerated), (SummaryMethod::ExtractiveFallback, 2));
    assert!(made.text.contains("1742") && !made.text.contains("1752"));
}

#[test]
fn the_second_prompt_names_what_was_made_up() {
    let generator = ScriptedGenerator::replies([WRONG, GOOD]);
    summarise(&generator, &[HARBOUR, FERRY], options(), &|| Ok(())).unwrap();
    let prompts = generator.prompts();
    assert!(prompts.iter().all(|prompt| prompt.contains(HARBOUR) && prompt.contains(FERRY)));
    assert!(prompts[1].contains("Do not mention Hans Brandt, 1752."), "{}", prompts[1]);
}

#[test]
fn empty_repeating_and_endless_answers_are_no_summaries() {
    let again = "The harbour is old. The harbour is old.";
    let endless = "the harbour of the islands and ".repeat(40);
    for bad in ["", "  \n", "...", again, endless.as_str()] {
        let made = answered(&[bad, GOOD]);
        assert_eq!((made.text.as_str(), made.regenerated), (GOOD, 1), "{bad}");
    }
}

#[test]
fn a_long_answer_ends_with_its_last_whole_sentence() {
    let long = format!("{GOOD} And the storm that then destroyed the pier was so strong that");
    let generator = ScriptedGenerator::replies([long]);
    let short = AbstractiveOptions { max_tokens: 20, ..options() };
    let made = summarise(&generator, &[HARBOUR, FERRY], short, &|| Ok(())).unwrap();
    assert_eq!((made.text.as_str(), made.regenerated), (GOOD, 0));
    let announced = answered(&["Here is a summary:\n\nFerries leave every 40 minutes."]);
    assert_eq!(announced.text, "Ferries leave every 40 minutes.");
}

#[test]
fn a_failing_generator_is_tried_again_and_then_reported() {
    let busy = || ModelError::Overloaded { retry_after_s: 0 };
    let failing = || Reply::new(GOOD).failing_after(3, ModelError::Internal("it broke".to_owned()));
    let generator = ScriptedGenerator::replies([failing(), failing(), Reply::new(GOOD)]);
    assert_eq!(summarise(&generator, &[HARBOUR, FERRY], options(), &|| Ok(())).unwrap().text, GOOD);
    let generator = ScriptedGenerator::replies([failing()]);
    let error = summarise(&generator, &[HARBOUR, FERRY], options(), &|| Ok(())).unwrap_err();
    assert!(matches!(error, SummariseError::Model { attempts: 4, .. }), "{error}");
    let generator = ScriptedGenerator::replies([GOOD]);
    generator.set_refusal(Some(busy()));
    let error = summarise(&generator, &[HARBOUR], options(), &|| Ok(())).unwrap_err();
    assert!(matches!(error, SummariseError::Model { attempts: 4, source: ModelError::Overloaded { .. } }), "{error}");
    generator.set_refusal(Some(ModelError::Stopped("it ended".to_owned())));
    let error = summarise(&generator, &[HARBOUR], options(), &|| Ok(())).unwrap_err();
    assert!(matches!(error, SummariseError::Model { attempts: 1, .. }), "{error}");
}

#[test]
fn a_cancelled_generation_is_dropped() {
    let generator = ScriptedGenerator::replies([GOOD]).with_token_delay(Duration::from_millis(30));
    let asked = AtomicUsize::new(0);
    let waiting = || match asked.fetch_add(1, Ordering::SeqCst) {
        0 => Ok(()),
        _ => Err(Halt::Cancelled),
    };
    let error = summarise(&generator, &[HARBOUR, FERRY], options(), &waiting).unwrap_err();
    assert!(matches!(error, SummariseError::Halted(Halt::Cancelled)), "{error}");
    generator.wait_idle();
    assert_eq!(generator.cancelled(), 1);
}

#[test]
fn what_does_not_fit_the_window_is_summarised_in_halves() {
    let generator = ScriptedGenerator::new(|_: &str| "The harbour is old.").with_context_window(420);
    let small = AbstractiveOptions { max_tokens: 40, ..options() };
    let long: Vec<String> = (0..12).map(|at| format!("{HARBOUR} {} {at}.", "It stands there. ".repeat(8))).collect();
    let texts: Vec<&str> = long.iter().map(String::as_str).collect();
    let made = summarise(&generator, &texts, small.clone(), &|| Ok(())).unwrap();
    assert_eq!((made.text.as_str(), made.method), ("The harbour is old.", SummaryMethod::Abstractive));
    assert!(generator.requests().len() > 3);
    assert!(generator.requests().iter().all(|request| request.prompt.tokens.len() + request.max_tokens <= 420));
    let one = long.concat();
    assert_eq!(summarise(&generator, &[&one], small.clone(), &|| Ok(())).unwrap().text, "The harbour is old.");
    let endless = "word".repeat(4000);
    summarise(&generator, &[&endless], small, &|| Ok(())).unwrap();
    let tiny = ScriptedGenerator::replies([GOOD]).with_context_window(200);
    let error = summarise(&tiny, &[HARBOUR], options(), &|| Ok(())).unwrap_err();
    assert!(matches!(error, SummariseError::Limits(_)), "{error}");
}
