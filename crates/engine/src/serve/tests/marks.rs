//! Models that compute generated tokens in another way than prompts: what was generated is never taken for a prompt's,
//! nor the other way round, whatever is cached, forked or preempted.

use super::{scripted::marked_continuation, *};

fn marking(options: EngineOptions) -> Engine {
    engine_of(options, true)
}

fn expected(engine: &Engine, prompt: &[u32], tokens: usize) -> Vec<u32> {
    marked_continuation(prompt, tokens, engine.generator.tokenizer.vocabulary_size())
}

#[test]
fn a_follow_up_reuses_the_prompt_and_not_the_answer() {
    let engine = marking(options());
    let prompt: Vec<u32> = (10..32).collect();
    let answer = run(&engine, GenerateRequest { max_tokens: 17, ..request(&prompt) });
    assert_eq!(answer.ids, expected(&engine, &prompt, 17));
    // The same again: all but the last token of the prompt is resident.
    let again = run(&engine, GenerateRequest { max_tokens: 17, ..request(&prompt) });
    assert_eq!((again.cached, &again.ids), (21, &answer.ids));
    let follow_up = [&prompt, &answer.ids[..], &[40, 41]].concat();
    let next = run(&engine, request(&follow_up));
    assert_eq!((next.cached, next.ids), (22, expected(&engine, &follow_up, 5)));
    // By now its tokens are those of a prompt.
    let once_more = run(&engine, request(&follow_up));
    assert_eq!((once_more.cached, once_more.ids), (follow_up.len() - 1, expected(&engine, &follow_up, 5)));
    // A prompt that another's answer begins: what that one generates is not found in it.
    let other = run(&engine, GenerateRequest { max_tokens: 17, ..request(&prompt) });
    assert_eq!(other.ids, answer.ids);
}

#[test]
fn samples_share_the_prompt() {
    let engine = marking(options());
    let prompt: Vec<u32> = (10..31).collect();
    let stream = engine.generator.generate(GenerateRequest { n: 3, max_tokens: 9, ..request(&prompt) }).unwrap();
    let outputs = collect_all(stream, 3).unwrap();
    assert!(outputs.iter().all(|output| output.ids == expected(&engine, &prompt, 9)));
}

#[test]
fn preempted_sequences_begin_again_with_what_they_generated() {
    // Pages for 40 tokens; each of six needs 30.
    let engine = gated_of(EngineOptions { cache_bytes: 10 * 16, ..options() });
    let prompts: Vec<Vec<u32>> = (0..6).map(|i| (10 + 6 * i..16 + 6 * i).collect()).collect();
    let start =
        |prompt: &Vec<u32>| engine.generator.generate(GenerateRequest { max_tokens: 24, ..request(prompt) }).unwrap();
    let streams: Vec<_> = prompts.iter().map(start).collect();
    engine.probe.permit(400);
    let outputs: Vec<_> = streams.into_iter().map(|stream| collect(stream).unwrap()).collect();
    for (output, prompt) in outputs.iter().zip(&prompts) {
        assert_eq!(output.ids, expected(&engine, prompt, 24));
    }
    // A pass that starts at the prompt's beginning or end with several generated tokens behind.
    let replayed =
        engine.probe.passes().iter().flatten().any(|(position, tokens)| position + tokens > 6 && *tokens > 1);
    assert!(replayed, "nothing was preempted: {:?}", engine.probe.passes());
}

fn gated_of(options: EngineOptions) -> Engine {
    let engine = marking(options);
    engine.probe.close();
    engine
}
