//! The contract of a generator.

use edgewise_model_api::{
    ChatMessage, ChatPart, FinishReason, GenerateRequest, GenerationEvent, GenerationStream, Generator, ModelError,
    Prompt, Role, Sampling,
};
use edgewise_types::{TenantId, Usage};

use super::CONTROL_LOOKALIKES;

/// Most tokens a check generates: enough for a sentence, few enough for a slow model.
const OUTPUT: usize = 12;

/// Checks chat encoding, introspection, the order of events, usage, greedy determinism, refusals before any work,
/// stop strings and cancellation. The model should have something to say to "Count from one to twenty".
#[track_caller]
pub fn generator(model: &dyn Generator) {
    chat_encoding(model);
    let tokens = model.encode_chat(&messages("Count from one to twenty, in words.")).expect("a plain chat").tokens;
    refusals(model, &tokens);
    let text = events_and_usage(model, &tokens);
    stop_strings(model, &tokens, &text);
    cancellation(model, &tokens);
}

fn messages(question: &str) -> Vec<ChatMessage> {
    let part = |label: &str, text: &str| ChatPart { label: label.to_owned(), text: text.to_owned() };
    vec![
        ChatMessage::text(Role::System, "You are brief."),
        ChatMessage {
            role: Role::User,
            parts: vec![part("source", "[1] Some source text.\n\n"), part("empty", ""), part("question", question)],
        },
    ]
}

fn request(tokens: &[u32]) -> GenerateRequest {
    GenerateRequest {
        prompt: Prompt { tokens: tokens.to_vec(), ..Prompt::default() },
        sampling: Sampling::default(),
        max_tokens: OUTPUT,
        stop: Vec::new(),
        tenant: TenantId::local(),
        n: 1,
        constraint: None,
    }
}

fn chat_encoding(model: &dyn Generator) {
    let tokenizer = model.tokenizer();
    for question in ["What is it?", CONTROL_LOOKALIKES] {
        let chat = model.encode_chat(&messages(question)).expect("a system and a user message are always encodable");
        assert_eq!(chat, model.encode_chat(&messages(question)).unwrap(), "encoding is deterministic");
        let labels: Vec<&str> = chat.parts.iter().map(|(label, _)| label.as_str()).collect();
        assert_eq!(labels, ["system", "source", "empty", "question"], "every part comes back, in order");
        let mut end = 0;
        for (label, range) in &chat.parts {
            assert!(
                end <= range.start && range.start <= range.end,
                "ranges are disjoint and in order: {label} {range:?}"
            );
            end = range.end;
        }
        assert!(end <= chat.tokens.len(), "ranges lie within the prompt");
        let text_of = |i: usize| tokenizer.decode(&chat.tokens[chat.parts[i].1.clone()]).unwrap();
        assert_eq!(text_of(0).trim(), "You are brief.");
        assert!(chat.parts[2].1.is_empty(), "an empty part has no tokens");
        assert_eq!(
            text_of(3).split_whitespace().collect::<Vec<_>>(),
            question.split_whitespace().collect::<Vec<_>>(),
            "decoding leaves control tokens out, so text that looks like one must have been encoded as characters"
        );
    }
}

fn refusals(model: &dyn Generator, tokens: &[u32]) {
    let window = model.info().context_window;
    assert!(tokens.len() + OUTPUT < window, "the window of {window} tokens holds a short prompt");
    let mut too_long = request(tokens);
    too_long.max_tokens = window;
    assert!(
        matches!(model.generate(too_long), Err(ModelError::WindowExceeded { .. })),
        "prompt and output over the window are refused before any work"
    );
    let mut unsampleable = request(tokens);
    unsampleable.sampling.top_p = 0.0;
    assert!(matches!(model.generate(unsampleable), Err(ModelError::InvalidSampling(_))), "parameters are validated");
}

/// What a stream said, checked for the order of its events.
fn read(mut stream: GenerationStream) -> (String, Vec<u32>, usize, FinishReason, Usage) {
    let first = stream.next_blocking();
    let Some(GenerationEvent::Started { cached_tokens, .. }) = first else {
        panic!("a stream begins with Started, not {first:?}")
    };
    let (mut text, mut ids) = (String::new(), Vec::new());
    loop {
        match stream.next_blocking() {
            Some(GenerationEvent::Token { sample: 0, id, text: piece, logprob }) => {
                assert!(logprob <= 1e-3, "a log-probability is at most 0, not {logprob}");
                text.push_str(&piece);
                ids.push(id);
            }
            Some(GenerationEvent::Finished { sample: 0, reason, text: rest, usage, timings, .. }) => {
                assert!(stream.next_blocking().is_none(), "nothing comes after Finished");
                assert!(timings.queue_ms >= 0.0 && timings.prefill_ms >= 0.0 && timings.decode_ms >= 0.0);
                text.push_str(&rest);
                return (text, ids, cached_tokens, reason, usage);
            }
            other => panic!("after Started come Token and Finished, not {other:?}"),
        }
    }
}

fn events_and_usage(model: &dyn Generator, tokens: &[u32]) -> String {
    let tenant = TenantId::local();
    let prompt = request(tokens).prompt;
    let before = model.prefix_state(&tenant, &prompt).resident_tokens;
    assert!(before < tokens.len(), "the last token is always computed");
    let (text, ids, cached, reason, usage) = read(model.generate(request(tokens)).expect("a short request is taken"));
    assert_eq!(cached, before, "on an idle model, what was resident is what is read");
    assert_eq!(usage.cache_read_tokens, cached);
    assert_eq!(usage.prompt_tokens(), tokens.len(), "the input classes sum to the prompt");
    assert_eq!(usage.output_tokens, ids.len(), "one Token event an output token");
    assert!(ids.len() <= OUTPUT);
    assert_eq!(reason == FinishReason::Length, ids.len() == OUTPUT && reason != FinishReason::EndOfTurn);
    assert_eq!(text, model.tokenizer().decode(&ids).unwrap(), "the pieces are the text of the tokens");

    let resident = model.prefix_state(&tenant, &prompt).resident_tokens;
    let (again, _, cached, _, usage) = read(model.generate(request(tokens)).unwrap());
    assert_eq!(again, text, "greedy output is the same cached and cold");
    assert_eq!((cached, usage.cache_read_tokens), (resident, resident), "introspection tells what will be read");
    assert!(!text.is_empty(), "the model says something");
    text
}

fn stop_strings(model: &dyn Generator, tokens: &[u32], text: &str) {
    // A string from inside the greedy output, across a token boundary where there is one.
    let chars: Vec<char> = text.chars().collect();
    let middle = chars.len() / 2;
    let stop: String = chars[middle..(middle + 3).min(chars.len())].iter().collect();
    let expected = &text[..text.find(&stop).expect("it was taken from the text")];
    let mut stopped = request(tokens);
    stopped.stop = vec!["never said".to_owned(), stop.clone()];
    let (got, _, _, reason, _) = read(model.generate(stopped).unwrap());
    assert_eq!(got, expected, "the text ends before the stop string {stop:?}");
    assert_eq!(reason, FinishReason::Stop);
}

fn cancellation(model: &dyn Generator, tokens: &[u32]) {
    drop(model.generate(request(tokens)).unwrap());
    let (_, ids, ..) = read(model.generate(request(tokens)).expect("a dropped stream does not stop the next"));
    assert!(!ids.is_empty());
}
