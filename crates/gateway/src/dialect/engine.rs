//! A chat answered by the generator itself, without a collection.
//!
//! Invariants:
//! - Every chat whose prompt was prefilled is in the ledger exactly once: when it ends, or when its caller goes away, with
//!   the tokens used until then.
//! - Dropping a [`Chatting`] cancels the generation at the engine's next step.
//! - It counts against the same limit as questions, and ends with the same time limit and at shutdown.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::OwnedSemaphorePermit;

use edgewise_ledger::{RequestRecord, RequestStatus};
use edgewise_model_api::{
    Boundary, ChatMessage, Constraint, FinishReason, GenerateRequest, GenerationEvent, GenerationStream, Generator,
    ModelError, Prompt, Retention, Sampling, prompt_usage,
};
use edgewise_planner::PromptAnswers;
use edgewise_types::Usage;

use crate::{
    ApiError, Recorder, answering, budgets, caller::Caller, keys::Keys, middleware::RequestId, state::AppState,
};

use super::task::{EndReason, Event};

/// How chats with the bare engine are named where routes are.
pub(crate) const ROUTE: &str = "engine";

/// The end of a stable prefix, in parts of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The part behind which it ends, counted over all messages.
    pub(crate) part: usize,
    /// How long to keep it.
    pub(crate) retention: Retention,
}

/// What to answer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Chat {
    pub(crate) messages: Vec<ChatMessage>,
    /// Increasing by part.
    pub(crate) marks: Vec<Mark>,
    /// Beginning of the answer, which the model continues.
    pub(crate) prefill: String,
    pub(crate) sampling: Sampling,
    /// `None`: as many as the window has room for.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stop: Vec<String>,
    pub(crate) samples: usize,
    pub(crate) constraint: Option<Constraint>,
    /// Fill the cache and say nothing.
    pub(crate) warm_only: bool,
}

/// A prompt ready for the engine.
struct Prepared {
    prompt: Prompt,
    max_tokens: usize,
    /// Whether the window leaves fewer tokens than were asked for.
    window_bound: bool,
    min_prefix_tokens: usize,
}

/// What became of a chat's marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marked {
    /// Marks given.
    pub(crate) marks: usize,
    /// Those of a prefix too short to be kept.
    pub(crate) too_short: usize,
    /// Shortest prefix that is kept, in tokens.
    pub(crate) min_tokens: usize,
}

/// Tokens of a chat's prompt, as the engine will see it.
pub(crate) async fn count(state: &AppState, chat: Chat) -> Result<usize, ApiError> {
    state.read(move |parts| Ok(prepare(parts.planner.generator().as_ref(), &chat)?.prompt.tokens.len())).await
}

fn prepare(generator: &dyn Generator, chat: &Chat) -> Result<Prepared, ApiError> {
    let encoded = generator.encode_chat(&chat.messages)?;
    let mut tokens = encoded.tokens;
    let mut boundaries: Vec<Boundary> = Vec::with_capacity(chat.marks.len());
    for mark in &chat.marks {
        let (_, range) = encoded
            .parts
            .get(mark.part)
            .ok_or_else(|| ApiError::internal(format!("part {} of the chat was not encoded", mark.part)))?;
        match boundaries.last_mut() {
            // Nothing between the two: the longer time holds.
            Some(last) if last.at >= range.end => last.retention = longer(last.retention, mark.retention),
            _ => boundaries.push(Boundary { at: range.end, retention: mark.retention }),
        }
    }
    if !chat.prefill.is_empty() {
        tokens.extend(generator.tokenizer().encode(&chat.prefill)?);
    }
    let window = generator.info().context_window;
    let asked = chat.max_tokens.unwrap_or(usize::MAX).max(1);
    let room = window.saturating_sub(tokens.len());
    if room == 0 {
        let (prompt_tokens, max_tokens) = (tokens.len(), chat.max_tokens.unwrap_or(1));
        return Err(ModelError::WindowExceeded { prompt_tokens, max_tokens, window }.into());
    }
    Ok(Prepared {
        prompt: Prompt { tokens, boundaries, public_tokens: 0 },
        max_tokens: if chat.warm_only { 1 } else { asked.min(room) },
        window_bound: asked > room,
        min_prefix_tokens: generator.min_prefix_tokens(),
    })
}

fn longer(a: Retention, b: Retention) -> Retention {
    if [a, b].contains(&Retention::OneHour) { Retention::OneHour } else { Retention::FiveMinutes }
}

/// A running chat.
pub(crate) struct Chatting {
    stream: GenerationStream,
    /// Resolves when it must end, with the reason.
    stop: Pin<Box<dyn Future<Output = ApiError> + Send>>,
    account: Account,
    marked: Marked,
    window_bound: bool,
    warm_only: bool,
    phases: edgewise_telemetry::Phases,
    _slot: OwnedSemaphorePermit,
}

impl Chatting {
    /// Starts it, or refuses when the server or the engine is at its limit.
    pub(crate) async fn start(state: &AppState, chat: Chat, caller: &Caller, id: &RequestId) -> Result<Self, ApiError> {
        budgets::admit(state.parts(), caller, None)?;
        let slot = state.answer_slot()?;
        let at = jiff::Timestamp::now();
        let started = Instant::now();
        let (marks, samples, warm_only) = (chat.marks.len(), chat.samples.max(1), chat.warm_only);
        let chars = chat.messages.iter().flat_map(|m| &m.parts).map(|part| part.text.chars().count()).sum();
        if edgewise_telemetry::log_texts() {
            let parts = chat.messages.last().into_iter().flat_map(|message| &message.parts);
            tracing::info!(question = parts.map(|part| part.text.as_str()).collect::<String>(), "chat");
        }
        let (asker, ceilings) = (caller.tenant.clone(), caller.ceilings());
        let (published, store) = (state.published().clone(), Arc::clone(state.keys().store()));
        let (slot, stream, prepared) = state
            .read(move |parts| {
                let generator = parts.planner.generator();
                let mut prepared = prepare(generator.as_ref(), &chat)?;
                prepared.prompt.public_tokens =
                    published.public_tokens(&store, generator.as_ref(), &prepared.prompt.tokens)?;
                let answers = PromptAnswers { max_tokens: prepared.max_tokens, answers: samples };
                parts.planner.admit_prompt(&prepared.prompt, answers, &asker, &ceilings)?;
                let stream = generator.generate(GenerateRequest {
                    prompt: prepared.prompt.clone(),
                    sampling: chat.sampling,
                    max_tokens: prepared.max_tokens,
                    stop: chat.stop,
                    tenant: asker,
                    n: samples,
                    constraint: chat.constraint,
                })?;
                Ok((slot, stream, prepared))
            })
            .await?;
        let min = prepared.min_prefix_tokens;
        let too_short = prepared.prompt.boundaries.iter().filter(|boundary| boundary.at < min).count();
        let record_id = format!("{}-{}", at.as_microsecond(), id.0);
        let record = RequestRecord {
            key: caller.key_name(),
            forced: true,
            status: RequestStatus::Cancelled,
            question_chars: chars,
            ..RequestRecord::begun(record_id, at, caller.tenant.clone(), &state.parts().recorder.model, ROUTE)
        };
        Ok(Self {
            stream,
            stop: answering::must_end(state, caller),
            account: Account {
                recorder: state.parts().recorder.clone(),
                keys: state.keys().clone(),
                caller: caller.clone(),
                record,
                prompt_tokens: prepared.prompt.tokens.len(),
                boundaries: prepared.prompt.boundaries,
                min_prefix_tokens: min,
                cached: None,
                output_tokens: 0,
                reported: Usage::default(),
                running: samples,
                started,
                written: false,
            },
            marked: Marked { marks, too_short, min_tokens: min },
            window_bound: prepared.window_bound,
            warm_only,
            phases: edgewise_telemetry::Phases::queued(),
            _slot: slot,
        })
    }

    /// What became of the marks.
    pub(crate) fn marked(&self) -> Marked {
        self.marked
    }

    /// The next event; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        if self.account.running == 0 {
            return None;
        }
        loop {
            let event = tokio::select! {
                biased;
                error = self.stop.as_mut() => return Some(self.fail(error).await),
                event = self.stream.next() => event,
            };
            match event {
                Some(GenerationEvent::Started { cached_tokens, miss }) => {
                    self.phases.started(cached_tokens);
                    self.account.cached = Some(cached_tokens);
                    self.account.record.miss = miss.map(|miss| miss.name().to_owned());
                    return Some(Event::Start(self.account.usage_so_far()));
                }
                Some(GenerationEvent::Token { sample, text, logprob, .. }) => {
                    self.phases.token();
                    if self.account.output_tokens == 0 {
                        self.account.record.timings.ttft_ms = self.account.elapsed_ms();
                    }
                    self.account.output_tokens += 1;
                    if !self.warm_only {
                        return Some(Event::Text { sample, text, logprob: Some(logprob) });
                    }
                }
                Some(GenerationEvent::Finished { sample, reason, stop, text, usage, timings }) => {
                    let reason = match reason {
                        FinishReason::EndOfTurn => EndReason::EndOfTurn,
                        FinishReason::Stop => EndReason::Stop,
                        FinishReason::Length if self.window_bound => EndReason::Window,
                        FinishReason::Length => EndReason::Length,
                    };
                    let text = if self.warm_only { String::new() } else { text };
                    self.account.record.timings.queue_ms = timings.queue_ms;
                    self.account.record.timings.prefill_ms = timings.prefill_ms;
                    self.account.record.timings.decode_ms =
                        timings.decode_ms.max(self.account.record.timings.decode_ms);
                    self.account.finished(&usage).await;
                    return Some(Event::End { sample, reason, stop, text, usage });
                }
                Some(GenerationEvent::Failed(error)) => return Some(self.fail(error.into()).await),
                None => return Some(self.fail(ApiError::internal("the engine ended a stream without a result")).await),
            }
        }
    }

    async fn fail(&mut self, error: ApiError) -> Event {
        self.account.running = 0;
        self.account.record.status = RequestStatus::Failed;
        self.account.write().await;
        Event::Failed(error)
    }
}

/// The record of a chat while it runs.
struct Account {
    recorder: Recorder,
    keys: Keys,
    caller: Caller,
    record: RequestRecord,
    prompt_tokens: usize,
    boundaries: Vec<Boundary>,
    min_prefix_tokens: usize,
    /// `None` until work began: nothing is to be paid for before.
    cached: Option<usize>,
    output_tokens: usize,
    /// What the engine reported of the samples that ended.
    reported: Usage,
    /// Samples that have not ended.
    running: usize,
    started: Instant,
    written: bool,
}

impl Account {
    fn elapsed_ms(&self) -> f64 {
        let elapsed: Duration = self.started.elapsed();
        elapsed.as_secs_f64() * 1e3
    }

    fn usage_so_far(&self) -> Usage {
        let cached = self.cached.unwrap_or(0);
        prompt_usage(self.prompt_tokens, &self.boundaries, cached, self.min_prefix_tokens, self.output_tokens)
    }

    async fn finished(&mut self, usage: &Usage) {
        self.reported = self.reported.plus(usage);
        self.running = self.running.saturating_sub(1);
        if self.running == 0 {
            self.record.status = RequestStatus::Answered;
            self.write().await;
        }
    }

    /// The record as it stands; `None` if there is nothing to pay for or it is written already.
    fn settle(&mut self) -> Option<RequestRecord> {
        if self.written || self.cached.is_none() {
            return None;
        }
        self.written = true;
        let usage = if self.record.status == RequestStatus::Answered { self.reported } else { self.usage_so_far() };
        let mut record = self.record.clone();
        record.usage = usage;
        self.keys.spent(&self.caller, &usage);
        record.timings.total_ms = self.elapsed_ms();
        let worked = match record.status {
            RequestStatus::Answered => record.timings.prefill_ms + record.timings.decode_ms,
            _ => record.timings.total_ms,
        };
        record.cost = self.recorder.prices.of(&self.recorder.model, record.at).cost_of(&usage, worked);
        Some(record)
    }

    /// Writes the record before the caller hears of the end.
    async fn write(&mut self) {
        if let Some(record) = self.settle() {
            let recorder = self.recorder.clone();
            let written = tokio::task::spawn_blocking(move || recorder.chatted(&record)).await;
            if let Err(error) = written {
                tracing::error!(%error, "a chat could not be recorded in the ledger");
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some(record) = self.settle() else { return };
        let recorder = self.recorder.clone();
        match tokio::runtime::Handle::try_current() {
            // Detached: the caller is gone.
            Ok(runtime) => drop(runtime.spawn_blocking(move || recorder.chatted(&record))),
            Err(_) => recorder.chatted(&record),
        }
    }
}
