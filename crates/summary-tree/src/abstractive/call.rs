//! Calls of the generator: encoding, waiting, trying again.

use std::time::{Duration, Instant};

use edgewise_model_api::{
    ChatMessage, FinishReason, GenerateRequest, GenerationEvent, Generator, ModelError, NextEvent, Prompt, Role,
    Sampling,
};
use edgewise_types::Usage;

use super::{AbstractiveOptions, passing};
use crate::{Halt, SummariseError};

/// How often what waits asks whether to go on.
const PATIENCE: Duration = Duration::from_millis(100);
/// Longest wait before another attempt.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What the generator wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) text: String,
    /// Whether it ended by itself.
    pub(super) whole: bool,
}

/// Asks whether to go on.
pub(super) type Waiting<'w> = dyn Fn() -> Result<(), Halt> + Sync + 'w;

pub(super) fn encode(generator: &dyn Generator, system: String, user: String) -> Result<Vec<u32>, SummariseError> {
    let messages = [ChatMessage::text(Role::System, system), ChatMessage::text(Role::User, user)];
    Ok(generator.encode_chat(&messages).map_err(SummariseError::Tokenizer)?.tokens)
}

/// A call of the generator.
pub(super) struct Call<'a> {
    pub(super) generator: &'a dyn Generator,
    pub(super) options: &'a AbstractiveOptions,
    pub(super) penalty: f32,
}

impl Call<'_> {
    /// What the generator writes behind `prompt`, greedily; its use is added to `usage`.
    pub(super) fn answer(
        &self,
        prompt: Vec<u32>,
        waiting: &Waiting<'_>,
        usage: &mut Usage,
    ) -> Result<Answer, SummariseError> {
        let mut backoff = Duration::from_millis(self.options.backoff_ms);
        let mut attempts = 1;
        loop {
            let error = match self.once(prompt.clone(), waiting, usage)? {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !passing(&error) || attempts >= self.options.attempts.max(1) {
                return Err(SummariseError::Model { attempts, source: error });
            }
            tracing::warn!(%error, attempts, "the generator failed while it wrote a summary and is tried again");
            attempts += 1;
            let asked = match error {
                ModelError::Overloaded { retry_after_s } => Duration::from_secs(retry_after_s),
                _ => Duration::ZERO,
            };
            wait(backoff.max(asked).min(LONGEST_WAIT), waiting)?;
            backoff *= 2;
        }
    }

    fn once(
        &self,
        tokens: Vec<u32>,
        waiting: &Waiting<'_>,
        usage: &mut Usage,
    ) -> Result<Result<Answer, ModelError>, Halt> {
        waiting()?;
        let request = GenerateRequest {
            prompt: Prompt { tokens, ..Prompt::default() },
            sampling: Sampling { repetition_penalty: self.penalty, seed: Some(1), ..Sampling::default() },
            max_tokens: self.options.max_tokens,
            stop: Vec::new(),
            tenant: self.options.tenant.clone(),
            n: 1,
            constraint: None,
        };
        let mut stream = match self.generator.generate(request) {
            Ok(stream) => stream,
            Err(error) => return Ok(Err(error)),
        };
        let mut written = String::new();
        let mut asked = Instant::now();
        loop {
            if asked.elapsed() >= PATIENCE {
                waiting()?;
                asked = Instant::now();
            }
            match stream.next_within(PATIENCE) {
                NextEvent::NotYet | NextEvent::Event(GenerationEvent::Started { .. }) => {}
                NextEvent::Event(GenerationEvent::Token { text, .. }) => written.push_str(&text),
                NextEvent::Event(GenerationEvent::Finished { text, reason, usage: used, .. }) => {
                    written.push_str(&text);
                    *usage = usage.plus(&used);
                    return Ok(Ok(Answer { text: written, whole: reason != FinishReason::Length }));
                }
                NextEvent::Event(GenerationEvent::Failed(error)) => return Ok(Err(error)),
                NextEvent::Ended => {
                    return Ok(Err(ModelError::Internal("the generation ended without an end".to_owned())));
                }
            }
        }
    }
}

/// Waits, and asks meanwhile whether to go on.
fn wait(time: Duration, waiting: &Waiting<'_>) -> Result<(), Halt> {
    let end = Instant::now() + time;
    loop {
        waiting()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(PATIENCE));
    }
}
