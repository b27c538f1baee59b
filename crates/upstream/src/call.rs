//! A request from its acceptance to its last event: attempts, pauses between them, events, and what is learned.
//!
//! The rule of attempts: a request that failed before its first token is tried again, on another replica where there is
//! one, while attempts and the time for the first token last. One of which a token has come is never sent again.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use edgewise_model_api::{
    FinishReason, GenerateRequest, GenerationEvent, GenerationSender, GenerationTimings, ModelError, prompt_usage,
};
use edgewise_telemetry::names::{self, labels};
use edgewise_types::Usage;

use crate::{
    attempt::{self, Fault, Listener, Said},
    backoff,
    probe::{self, ProbeError},
    replica::{Form, Replica},
    residency::Chain,
    ring::Key,
    shared::{Load, Shared},
    usage::Reported,
    wire::{Completion, PromptBody},
};

/// An accepted request.
pub(crate) struct Call {
    pub(crate) shared: Arc<Shared>,
    pub(crate) request: GenerateRequest,
    pub(crate) key: Key,
    pub(crate) chain: Chain,
    pub(crate) sender: GenerationSender,
    pub(crate) load: Load,
    /// Headers that pass the trace on.
    pub(crate) trace: Vec<(&'static str, String)>,
}

/// What became of an attempt.
enum Outcome {
    /// The last event was sent, or nobody listens any more.
    Over(&'static str),
    /// No token has come.
    Before(Fault),
}

impl Call {
    /// Carries it out.
    pub(crate) async fn run(self) {
        let sender = self.sender.clone();
        let outcome = tokio::select! {
            outcome = self.attempts() => outcome,
            // Dropping the work closes the connection, which tells the server.
            () = sender.closed() => "cancelled",
        };
        metrics::counter!(names::UPSTREAM_REQUESTS_TOTAL, labels::OUTCOME => outcome).increment(1);
    }

    async fn attempts(mut self) -> &'static str {
        let shared = Arc::clone(&self.shared);
        let (accepted, options) = (Instant::now(), &shared.options);
        let deadline = tokio::time::Instant::from_std(accepted + options.timeouts.first_token);
        let mut tried: Vec<usize> = Vec::new();
        let mut last: Option<Fault> = None;
        for attempt in 0..=options.retries {
            let order = shared.order(&self.key, Instant::now());
            let untried = order.iter().find(|i| !tried.contains(i));
            let chosen = untried.or(order.first()).copied().and_then(|i| shared.replicas.get(i).map(|r| (i, r)));
            if let (Some(fault), true) = (&last, attempt > 0) {
                let elsewhere = untried.is_some() && (fault.unreachable || fault.spare.is_some());
                let jitter = backoff::pause(options.backoff, options.backoff_most, attempt, rand::random::<f64>());
                let pause = match (elsewhere, fault.spare) {
                    (true, _) => Duration::ZERO,
                    (false, Some(spare)) => spare + jitter,
                    (false, None) => jitter,
                };
                if tokio::time::Instant::now() + pause >= deadline {
                    break;
                }
                tokio::time::sleep(pause).await;
                metrics::counter!(names::UPSTREAM_RETRIES_TOTAL).increment(1);
            }
            let Some((index, replica)) = chosen else { break };
            if !replica.state().breaker.pass(Instant::now()) {
                continue;
            }
            tried.push(index);
            match self.attempt(replica, accepted, deadline).await {
                Outcome::Over(outcome) => return outcome,
                Outcome::Before(fault) => {
                    self.learn_failure(replica, &fault);
                    let again = fault.again;
                    last = Some(fault);
                    if !again {
                        break;
                    }
                }
            }
        }
        let error = last.map_or_else(|| ModelError::Stopped(shared.nobody()), |fault| fault.error);
        self.fail(error);
        "refused"
    }

    fn fail(&mut self, error: ModelError) {
        self.load.end();
        // Nobody may be there to hear it.
        let _ = self.sender.send(GenerationEvent::Failed(error));
    }

    fn learn_failure(&self, replica: &Replica, fault: &Fault) {
        let now = Instant::now();
        tracing::debug!(replica = replica.base, error = %fault.error, "an attempt at an upstream server failed");
        if let Some(spare) = fault.spare {
            replica.busy(now, spare);
        }
        if fault.of_server {
            replica.failed(now);
        }
        if fault.unreachable && replica.set_ready(false) {
            tracing::warn!(replica = replica.base, "an upstream server does not answer");
        }
    }

    /// The body for a replica.
    async fn body(&self, replica: &Replica, deadline: tokio::time::Instant) -> Result<serde_json::Value, Fault> {
        let of_server =
            |error: ModelError, again| Fault { error, of_server: again, again, unreachable: false, spare: None };
        let profile = tokio::time::timeout_at(deadline, probe::profile(&self.shared, replica))
            .await
            .unwrap_or_else(|_| Err(ProbeError::NotNow("it does not answer in time".to_owned())))
            .map_err(|error| match error {
                ProbeError::NotNow(why) => of_server(ModelError::Stopped(format!("{}: {why}", replica.base)), true),
                ProbeError::Refused(why) => Fault { of_server: false, ..of_server(ModelError::Stopped(why), true) },
            })?;
        let of_request = |error| of_server(error, false);
        let request = &self.request;
        let prompt = match profile.form {
            Form::Tokens => PromptBody::Tokens(request.prompt.tokens.clone()),
            Form::Text { server_writes_bos } => {
                let rendered = self.shared.encoder.render(&request.prompt.tokens).map_err(of_request)?;
                let from = if server_writes_bos { rendered.bos } else { 0 };
                PromptBody::Text(rendered.text.get(from..).unwrap_or_default().to_owned())
            }
        };
        let body = Completion {
            model: &self.shared.options.model,
            kind: profile.kind,
            prompt,
            sampling: &request.sampling,
            max_tokens: request.max_tokens,
            stop: &request.stop,
            samples: request.n,
            constraint: request.constraint.as_ref(),
            logprobs: self.shared.options.logprobs.unwrap_or_else(|| profile.kind.tells_logprobs()),
            salt: self.shared.salt_of(&request.tenant),
        };
        body.body().map_err(of_request)
    }

    async fn attempt(&mut self, replica: &Replica, accepted: Instant, deadline: tokio::time::Instant) -> Outcome {
        let body = match self.body(replica, deadline).await {
            Ok(body) => body,
            Err(fault) => return Outcome::Before(fault),
        };
        let in_flight = replica.enter();
        let begun = Instant::now();
        let sent = self.request.prompt.tokens.len();
        let expected = replica.state().residency.resident(&self.chain, begun);
        tracing::debug!(replica = replica.base, prompt_tokens = sent, expected_cached = expected, "sent upstream");
        let mut listener = Listener::new(self.request.n, self.request.max_tokens, !self.request.stop.is_empty());
        let (mut first, mut last) = (None, begun);
        let ran = {
            let (sender, encoder, load) = (&self.sender, &self.shared.encoder, &mut self.load);
            let tell = |said: &[Said], reported: &Reported| {
                for Said { sample, piece } in said {
                    last = Instant::now();
                    if first.is_none() {
                        first = Some(last);
                        load.prefilled();
                        let cached_tokens = reported.cached_of(sent).unwrap_or(expected);
                        if sender.send(GenerationEvent::Started { cached_tokens, miss: None }).is_err() {
                            return false;
                        }
                    }
                    let id = piece.id.unwrap_or_else(|| id_of(encoder.tokenizer(), &piece.text));
                    let logprob = piece.logprob.unwrap_or(0.0);
                    let token = GenerationEvent::Token { sample: *sample, id, text: piece.text.clone(), logprob };
                    if sender.send(token).is_err() {
                        return false;
                    }
                }
                true
            };
            attempt::run(&self.shared, replica, &body, &self.trace, deadline, &mut listener, tell).await
        };
        if self.sender.is_closed() {
            return Outcome::Over("cancelled");
        }
        let now = Instant::now();
        match (ran, first) {
            (Err(fault), None) => Outcome::Before(fault),
            (Err(fault), Some(_)) => {
                // The prompt was read, and some of the answer made: charged as far as it came, and not tried again.
                replica.state().residency.read(&self.chain, listener.reported.cached_of(sent), now);
                self.learn_failure(replica, &fault);
                drop(in_flight);
                self.fail(fault.error);
                Outcome::Over("failed")
            }
            (Ok(()), first) => {
                let cached = listener.reported.cached_of(sent);
                {
                    let mut state = replica.state();
                    state.breaker.succeeded();
                    state.residency.read(&self.chain, cached, now);
                    if let (Some(theirs), false) = (listener.reported.prompt_differs(sent), state.told_lengths) {
                        state.told_lengths = true;
                        let replica = &replica.base;
                        tracing::warn!(replica, ours = sent, theirs, "an upstream server counts prompts differently");
                    }
                }
                let began = first.unwrap_or(now);
                let ms = |from: Instant, to: Instant| to.saturating_duration_since(from).as_secs_f64() * 1e3;
                if in_flight.alone {
                    self.shared.latency().first_token(sent, cached.unwrap_or(0), ms(begun, began));
                }
                if self.request.n == 1 {
                    self.shared.latency().decoded(listener.tokens().saturating_sub(1), ms(began, last));
                }
                self.shared.hit_tokens.fetch_add(cached.unwrap_or(0) as u64, Ordering::Relaxed);
                let timings = GenerationTimings {
                    queue_ms: ms(accepted, begun),
                    prefill_ms: ms(begun, began),
                    decode_ms: if first.is_some() { ms(began, last) } else { 0.0 },
                };
                if first.is_none() {
                    let started = GenerationEvent::Started { cached_tokens: cached.unwrap_or(expected), miss: None };
                    let _ = self.sender.send(started);
                }
                drop(in_flight);
                self.load.end();
                self.finish(&listener, cached.unwrap_or(0), timings);
                Outcome::Over("answered")
            }
        }
    }

    /// The last events. The prompt, and what the server counts beyond the tokens that came, are of the first sample.
    fn finish(&self, listener: &Listener, cached: usize, timings: GenerationTimings) {
        let request = &self.request;
        let seen = listener.tokens();
        let most = request.max_tokens.saturating_mul(request.n);
        let beyond = listener.reported.output_of(seen, most) - seen;
        for (sample, (tokens, reason)) in listener.endings().enumerate() {
            let usage = match sample {
                0 => {
                    let prompt = &request.prompt;
                    let min = self.shared.options.block_tokens;
                    prompt_usage(prompt.tokens.len(), &prompt.boundaries, cached, min, tokens + beyond)
                }
                _ => Usage { output_tokens: tokens, ..Usage::default() },
            };
            // Servers say that a stop string came up, not which.
            let stop = match request.stop.as_slice() {
                [only] if reason == FinishReason::Stop => Some(only.clone()),
                _ => None,
            };
            let event = GenerationEvent::Finished { sample, reason, stop, text: String::new(), usage, timings };
            let _ = self.sender.send(event);
        }
    }
}

/// The id of a token of which the server tells only the text: what the text encodes to where that is one token, else a
/// number that is no token.
fn id_of(tokenizer: &dyn edgewise_model_api::Tokenizer, text: &str) -> u32 {
    match tokenizer.encode(text).as_deref() {
        Ok([id]) => *id,
        _ => u32::MAX,
    }
}
