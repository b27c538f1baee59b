//! One request, from its first step to its last event: what becomes of the tokens drawn for its samples.
//!
//! Deliberately not here: which step it takes part in, and its pages.

use std::time::{Duration, Instant};

use edgewise_model_api::{
    Boundary, FinishReason, GenerationEvent, GenerationSender, GenerationTimings, MissReason, Sampling, prompt_usage,
};
use edgewise_types::Usage;

use super::{
    outbox::Outbox,
    queue::{Call, Job, Load},
    work::Work,
};
use crate::{
    EngineError,
    constraint::TokenConstraint,
    detokenizer::Detokenizer,
    sampler::Sampler,
    step_model::{Demand, Scores},
    stop::StopMatcher,
    tokenizer::GeneratorTokenizer,
};

/// A request that runs or waits.
pub(crate) struct Request {
    pub(crate) sender: GenerationSender,
    accepted: Instant,
    prompt_tokens: usize,
    boundaries: Vec<Boundary>,
    sampling: Sampling,
    max_tokens: usize,
    stop: Vec<String>,
    constraint: Option<Box<dyn TokenConstraint>>,
    load: Option<Load>,
    /// When its first token was computed, and how many were resident then.
    begun: Option<(Instant, usize)>,
    /// Those that have not ended, once the prompt is computed; by number.
    samples: Vec<Option<Sample>>,
    /// Whether the prompt was accounted for.
    billed: bool,
    pub(crate) work: Work,
}

/// One of the outputs of a request.
struct Sample {
    sampler: Sampler,
    detokenizer: Detokenizer,
    stops: StopMatcher,
    constraint: Option<Box<dyn TokenConstraint>>,
    output_tokens: usize,
    /// When the first and the last token were drawn.
    drawn: Option<(Instant, Instant)>,
}

/// What follows a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// It is to be computed.
    Token(u32),
    /// The sample is complete.
    End(FinishReason),
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

impl Request {
    /// A request with a prompt of `prompt_tokens` tokens, which its task holds.
    pub(crate) fn new(job: Job, prompt_tokens: usize) -> Self {
        let Job { call: Call { request, constraint, sender, accepted }, load } = job;
        Self {
            sender,
            accepted,
            prompt_tokens,
            boundaries: request.prompt.boundaries,
            sampling: request.sampling,
            max_tokens: request.max_tokens,
            stop: request.stop,
            constraint,
            load: Some(load),
            begun: None,
            samples: (0..request.n).map(|_| None).collect(),
            billed: false,
            work: Work::default(),
        }
    }

    /// Notes that its work begins now, with `resident` tokens in the cache; the first time it says so to the caller.
    /// Whether it was the first time.
    pub(crate) fn begin(
        &mut self,
        resident: usize,
        miss: Option<MissReason>,
        now: Instant,
        outbox: &mut Outbox,
    ) -> bool {
        if self.begun.is_some() {
            return false;
        }
        self.begun = Some((now, resident));
        outbox.put(&self.sender, GenerationEvent::Started { cached_tokens: resident, miss });
        true
    }

    /// Prompt tokens that were resident when it began.
    pub(crate) fn resident(&self) -> usize {
        self.begun.map_or(0, |(_, resident)| resident)
    }

    /// Length of the prompt.
    pub(crate) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Notes how many tokens of its prompt are held.
    pub(crate) fn prefilled(&mut self, held: usize) {
        if let Some(load) = &mut self.load {
            load.set_held(held);
        }
    }

    /// Makes the samples ready to draw, once the prompt is computed.
    pub(crate) fn start_samples(&mut self, prompt: &[u32], vocabulary: usize) {
        if self.samples.iter().any(Option::is_some) {
            return;
        }
        let first = Sampler::new(self.sampling.clone(), vocabulary, prompt);
        for (index, sample) in self.samples.iter_mut().enumerate() {
            *sample = Some(Sample {
                sampler: first.for_sample(index),
                detokenizer: Detokenizer::default(),
                stops: StopMatcher::new(self.stop.clone()),
                constraint: self.constraint.as_ref().map(|constraint| constraint.fork()),
                output_tokens: 0,
                drawn: None,
            });
        }
        self.constraint = None;
    }

    /// What its tokens are drawn from: all logits where a grammar may forbid the likeliest.
    pub(crate) fn demand(&self) -> Demand {
        let constrained = self.samples.iter().flatten().any(|sample| sample.constraint.is_some());
        if constrained || self.constraint.is_some() { Demand::Whole } else { Sampler::demand(&self.sampling) }
    }

    /// Draws the next token of a sample and passes it on.
    pub(crate) fn draw(
        &mut self,
        index: usize,
        scores: &Scores,
        tokenizer: &GeneratorTokenizer,
        now: Instant,
        outbox: &mut Outbox,
    ) -> Result<Next, EngineError> {
        let Some(Some(sample)) = self.samples.get_mut(index) else {
            return Err(EngineError::Decoder(format!("sample {index} has ended or never began")));
        };
        // Written out, since the map's closure would have to outlive the box it borrows.
        let constraint: Option<&mut dyn TokenConstraint> = match &mut sample.constraint {
            Some(constraint) => Some(constraint.as_mut()),
            None => None,
        };
        let draw = match (scores, constraint) {
            (Scores::Whole(logits), constraint) => sample.sampler.draw(logits, constraint)?,
            (Scores::Likeliest(likeliest), None) => sample.sampler.draw_likeliest(likeliest)?,
            (Scores::Likeliest(_), Some(_)) => {
                return Err(EngineError::Decoder("a constrained token needs the logits of all tokens".to_owned()));
            }
        };
        sample.drawn = Some((sample.drawn.map_or(now, |(first, _)| first), now));
        if tokenizer.end_of_turn().contains(&draw.id) {
            return Ok(Next::End(FinishReason::EndOfTurn));
        }
        let bytes = match sample.output_tokens {
            0 => tokenizer.first_bytes_of(draw.id),
            _ => tokenizer.bytes_of(draw.id),
        };
        sample.output_tokens += 1;
        let passed = sample.stops.push(&sample.detokenizer.push(bytes));
        let event = GenerationEvent::Token { sample: index, id: draw.id, text: passed.text, logprob: draw.logprob };
        outbox.put(&self.sender, event);
        Ok(if passed.stopped {
            Next::End(FinishReason::Stop)
        } else if sample.constraint.as_ref().is_some_and(|constraint| constraint.is_finished()) {
            Next::End(FinishReason::EndOfTurn)
        } else if sample.output_tokens >= self.max_tokens {
            Next::End(FinishReason::Length)
        } else {
            Next::Token(draw.id)
        })
    }

    /// Ends a sample; its last event is to be sent after what it held was given back. `kept` tells which leading tokens
    /// of the prompt can be written to the cache at all.
    pub(crate) fn finish(&mut self, index: usize, reason: FinishReason, kept: Kept) -> Option<GenerationEvent> {
        let mut sample = self.samples.get_mut(index)?.take()?;
        if self.is_over() {
            // The counters have let go of the request before its last event is seen.
            self.load = None;
        }
        let (reason, text) = match reason {
            FinishReason::Stop => (reason, String::new()),
            _ => {
                let tail = sample.stops.push(&sample.detokenizer.finish());
                match tail.stopped {
                    true => (FinishReason::Stop, tail.text),
                    false => (reason, tail.text + &sample.stops.finish()),
                }
            }
        };
        let output = sample.output_tokens;
        let usage = if std::mem::replace(&mut self.billed, true) {
            Usage { output_tokens: output, ..Usage::default() }
        } else {
            prompt_usage(self.prompt_tokens, &self.boundaries, self.resident(), kept.min_tokens, output)
        };
        let begun = self.begun.map_or(self.accepted, |(begun, _)| begun);
        let (first, last) = sample.drawn.unwrap_or((begun, begun));
        let timings = GenerationTimings {
            queue_ms: milliseconds(begun.saturating_duration_since(self.accepted)),
            prefill_ms: milliseconds(first.saturating_duration_since(begun)),
            decode_ms: milliseconds(last.saturating_duration_since(first)),
        };
        Some(GenerationEvent::Finished { sample: index, reason, stop: sample.stops.met(), text, usage, timings })
    }

    /// Whether all samples have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.samples.iter().all(Option::is_none)
    }

    /// Tokens that a sample may still write.
    pub(crate) fn left(&self, index: usize) -> usize {
        let sample = self.samples.get(index).and_then(Option::as_ref);
        sample.map_or(0, |sample| self.max_tokens.saturating_sub(sample.output_tokens))
    }

    /// Number of samples.
    pub(crate) fn samples(&self) -> usize {
        self.samples.len()
    }

    /// Ends the request with an error, unless nobody listens.
    pub(crate) fn fail(mut self, error: edgewise_model_api::ModelError) {
        self.load = None;
        let _ = self.sender.send(GenerationEvent::Failed(error));
    }
}

/// What the cache takes of a prompt.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kept {
    /// Shorter prompts and prefixes are not kept.
    pub(crate) min_tokens: usize,
}
