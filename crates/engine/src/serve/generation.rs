//! One generation, from admission to its last event.
//!
//! The prompt is prefilled in chunks; before every chunk and every decode step the generation looks whether it is still
//! wanted, so that a dropped stream costs at most one chunk.

use std::time::{Duration, Instant};

use edgewise_model_api::{
    Boundary, FinishReason, GenerateRequest, GenerationEvent, GenerationTimings, ModelError, Retention,
};
use edgewise_types::Usage;

use super::{
    clock::Clock,
    latency_fit::{Decode, Prefill},
    queue::Call,
    step_model::StepModel,
};
use crate::{EngineError, detokenizer::Detokenizer, sampler::Sampler, stop::StopMatcher, tokenizer::GeneratorTokenizer};

/// What a generation runs on.
pub(crate) struct Context<'a, M: StepModel> {
    pub(crate) model: &'a M,
    pub(crate) tokenizer: &'a GeneratorTokenizer,
    pub(crate) clock: &'a dyn Clock,
    /// Most tokens of one forward call of a prefill.
    pub(crate) prefill_chunk: usize,
    /// Why the engine wants everything to end, if it does.
    pub(crate) closed: &'a dyn Fn() -> Option<String>,
    /// Called with the number of prompt tokens in the state after each chunk.
    pub(crate) prefilled: &'a mut dyn FnMut(usize),
}

/// How a generation ended.
pub(crate) enum Ending {
    /// As it should.
    Finished(Finish),
    /// Nobody reads the stream any more.
    Cancelled,
    /// It failed.
    Failed(ModelError),
}

/// The rest of a successful generation, apart from its usage.
pub(crate) struct Finish {
    pub(crate) reason: FinishReason,
    pub(crate) text: String,
    pub(crate) output_tokens: usize,
    pub(crate) timings: GenerationTimings,
    pub(crate) prefill: Prefill,
    pub(crate) decode: Option<Decode>,
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Runs `call` on `state`, which holds the first `resident` tokens of its prompt. Appends to `sequence` the tokens whose
/// keys and values `state` holds in the end; after a failure, both are of no further use.
pub(crate) fn run<M: StepModel>(
    context: &mut Context<'_, M>,
    call: &Call,
    state: &mut M::State,
    resident: usize,
    sequence: &mut Vec<u32>,
) -> Ending {
    match attempt(context, call, state, resident, sequence) {
        Ok(ending) => ending,
        Err(error) => Ending::Failed(error.into()),
    }
}

fn attempt<M: StepModel>(
    context: &mut Context<'_, M>,
    call: &Call,
    state: &mut M::State,
    resident: usize,
    sequence: &mut Vec<u32>,
) -> Result<Ending, EngineError> {
    let Call { request, sender, accepted } = call;
    let GenerateRequest { prompt, sampling, max_tokens, stop, .. } = request;
    let prompt = &prompt.tokens[..];
    let now = || context.clock.now();
    let begun = now();
    sequence.extend_from_slice(&prompt[..resident]);
    // A closed stream is noticed below.
    let _ = sender.send(GenerationEvent::Started { cached_tokens: resident });

    let mut logits = Vec::new();
    for chunk in prompt[resident..].chunks(context.prefill_chunk) {
        if let Some(ending) = unwanted(context, call) {
            return Ok(ending);
        }
        logits = context.model.forward(state, chunk)?;
        sequence.extend_from_slice(chunk);
        (context.prefilled)(sequence.len());
    }

    let mut sampler = Sampler::new(sampling.clone(), context.model.vocabulary(), prompt);
    let mut detokenizer = Detokenizer::default();
    let mut stops = StopMatcher::new(stop.clone());
    let mut output_tokens = 0;
    let mut first_token: Option<Instant> = None;
    let (reason, last_token) = loop {
        let draw = sampler.draw(&logits)?;
        let drawn = context.clock.now();
        first_token.get_or_insert(drawn);
        if context.tokenizer.end_of_turn().contains(&draw.id) {
            break (FinishReason::EndOfTurn, drawn);
        }
        output_tokens += 1;
        let passed = stops.push(&detokenizer.push(context.tokenizer.bytes_of(draw.id)));
        let _ = sender.send(GenerationEvent::Token { id: draw.id, text: passed.text, logprob: draw.logprob });
        if passed.stopped {
            break (FinishReason::Stop, drawn);
        }
        if output_tokens >= *max_tokens {
            break (FinishReason::Length, drawn);
        }
        if let Some(ending) = unwanted(context, call) {
            return Ok(ending);
        }
        logits = context.model.forward(state, &[draw.id])?;
        sequence.push(draw.id);
    };

    let (reason, text) = match reason {
        FinishReason::Stop => (reason, String::new()),
        _ => {
            let tail = stops.push(&detokenizer.finish());
            match tail.stopped {
                true => (FinishReason::Stop, tail.text),
                false => (reason, tail.text + &stops.finish()),
            }
        }
    };
    let first_token = first_token.unwrap_or(last_token);
    let prefill_ms = milliseconds(first_token - begun);
    let decode_ms = milliseconds(last_token - first_token);
    let steps = sequence.len() - prompt.len();
    Ok(Ending::Finished(Finish {
        reason,
        text,
        output_tokens,
        timings: GenerationTimings { queue_ms: milliseconds(begun - *accepted), prefill_ms, decode_ms },
        prefill: Prefill { prompt: prompt.len(), resident, ms: prefill_ms },
        decode: (steps > 0).then_some(Decode { context: prompt.len(), steps, ms: decode_ms }),
    }))
}

fn unwanted<M: StepModel>(context: &Context<'_, M>, call: &Call) -> Option<Ending> {
    if call.sender.is_closed() {
        return Some(Ending::Cancelled);
    }
    (context.closed)().map(|reason| Ending::Failed(ModelError::Stopped(reason)))
}

/// What a generation used, with `resident` tokens found in the cache. Computed tokens before the last boundary of an
/// hour were written for an hour, those after it and before the last of five minutes for five minutes. With nothing
/// `kept`, nothing was written.
pub(crate) fn usage(prompt: usize, resident: usize, boundaries: &[Boundary], kept: bool, output: usize) -> Usage {
    let last = |retention| {
        let of_kind = boundaries.iter().filter(|b| kept && b.retention == retention);
        of_kind.map(|b| b.at).max().unwrap_or(0).max(resident)
    };
    let hour = last(Retention::OneHour);
    let five_minutes = last(Retention::FiveMinutes).max(hour);
    Usage {
        input_tokens: prompt - five_minutes,
        cache_read_tokens: resident,
        cache_write_5m_tokens: five_minutes - hour,
        cache_write_1h_tokens: hour - resident,
        output_tokens: output,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn boundary(at: usize, hour: bool) -> Boundary {
        Boundary { at, retention: if hour { Retention::OneHour } else { Retention::FiveMinutes } }
    }

    #[test]
    fn writes_are_counted_up_to_the_last_boundary_of_each_kind() {
        let usage = |resident, boundaries: &[Boundary]| {
            let u = super::usage(100, resident, boundaries, true, 7);
            (u.cache_read_tokens, u.cache_write_1h_tokens, u.cache_write_5m_tokens, u.input_tokens)
        };
        assert_eq!(usage(0, &[]), (0, 0, 0, 100));
        assert_eq!(usage(0, &[boundary(40, true), boundary(70, false)]), (0, 40, 30, 30));
        assert_eq!(usage(0, &[boundary(40, false), boundary(70, true)]), (0, 70, 0, 30));
        assert_eq!(usage(50, &[boundary(40, true), boundary(70, false)]), (50, 0, 20, 30));
        assert_eq!(usage(80, &[boundary(40, true), boundary(70, false)]), (80, 0, 0, 20));
        assert_eq!(super::usage(100, 50, &[boundary(70, true)], false, 7).input_tokens, 50);
    }

    proptest! {
        #[test]
        fn the_classes_add_up_to_the_prompt(
            prompt in 1_usize..200, resident in 0_usize..200, kept: bool,
            boundaries in prop::collection::vec((0_usize..=200, any::<bool>()), 0..4),
        ) {
            let resident = resident.min(prompt - 1);
            let boundaries: Vec<_> = boundaries.into_iter().map(|(at, hour)| boundary(at.min(prompt), hour)).collect();
            prop_assert_eq!(usage(prompt, resident, &boundaries, kept, 1).prompt_tokens(), prompt);
        }
    }
}
