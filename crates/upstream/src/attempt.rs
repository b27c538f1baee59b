//! One attempt at one server: from the request to the last event, or to the failure.

use std::time::Duration;

use edgewise_model_api::{FinishReason, ModelError};
use futures_util::StreamExt;
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    probe::plain,
    replica::Replica,
    shared::Shared,
    sse::SseParser,
    usage::Reported,
    wire::{Chunk, Piece, error_message},
};

/// How long the account of usage may be behind the last token.
const ACCOUNT: Duration = Duration::from_secs(2);
/// How long the end of a stream may be behind its last event.
const REST: Duration = Duration::from_millis(25);
/// Most bytes of an error's body that are read.
const ERROR_BYTES: usize = 64 << 10;

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) error: ModelError,
    /// Whether it was the server's fault, as opposed to the request's.
    pub(crate) of_server: bool,
    /// Whether another attempt may do better.
    pub(crate) again: bool,
    /// Whether nothing was there to connect to.
    pub(crate) unreachable: bool,
    /// How long the server asks to be spared.
    pub(crate) spare: Option<Duration>,
}

impl Fault {
    fn of_server(why: String) -> Self {
        let error = ModelError::Stopped(why);
        Self { error, of_server: true, again: true, unreachable: false, spare: None }
    }

    fn of_request(error: ModelError) -> Self {
        Self { error, of_server: false, again: false, unreachable: false, spare: None }
    }
}

/// A token of a sample.
#[derive(Debug, PartialEq)]
pub(crate) struct Said {
    pub(crate) sample: usize,
    pub(crate) piece: Piece,
}

/// Gathers what a stream of chunks says.
#[derive(Debug)]
pub(crate) struct Listener {
    samples: Vec<Sample>,
    max_tokens: usize,
    stops: bool,
    pub(crate) reported: Reported,
    done: bool,
}

#[derive(Debug, Clone, Default)]
struct Sample {
    tokens: usize,
    reason: Option<FinishReason>,
}

impl Listener {
    /// For `samples` of at most `max_tokens`; `stops` says whether stop strings were sent.
    pub(crate) fn new(samples: usize, max_tokens: usize, stops: bool) -> Self {
        let samples = vec![Sample::default(); samples];
        Self { samples, max_tokens, stops, reported: Reported::default(), done: false }
    }

    /// Takes the data of an event and appends the tokens in it.
    pub(crate) fn take(&mut self, data: &str, said: &mut Vec<Said>) -> Result<(), Fault> {
        if data.trim() == "[DONE]" {
            self.done = true;
            return Ok(());
        }
        if data.trim().is_empty() || self.done {
            return Ok(());
        }
        let chunk: Chunk = serde_json::from_str(data)
            .map_err(|_| Fault::of_server("it sent something that is no piece of a completion".to_owned()))?;
        if let Some(error) = &chunk.error {
            let why = error_message(error).unwrap_or_else(|| "without saying why".to_owned());
            return Err(Fault::of_server(format!("it gave up: {why}")));
        }
        self.reported.note(&chunk);
        for mut choice in chunk.choices {
            let Some(sample) = self.samples.get_mut(choice.index) else {
                return Err(Fault::of_server(format!("it sent sample {} without being asked", choice.index)));
            };
            for piece in choice.pieces() {
                // A server that does not end where it should: what comes after the limit does not count.
                if sample.reason.is_none() && sample.tokens < self.max_tokens {
                    sample.tokens += 1;
                    said.push(Said { sample: choice.index, piece });
                } else if sample.reason.is_none() {
                    sample.reason = Some(FinishReason::Length);
                }
            }
            if let (Some(reason), None) = (choice.finish_reason.as_deref(), sample.reason) {
                let matched = choice.stop_reason.as_ref().or(choice.matched_stop.as_ref());
                sample.reason = Some(match (reason, matched) {
                    ("length", _) => FinishReason::Length,
                    // Told which string it was, or of a token.
                    (_, Some(Value::String(_))) if self.stops => FinishReason::Stop,
                    (_, Some(Value::Number(_))) => FinishReason::EndOfTurn,
                    // Servers that never tell: if strings were given, one of them is the likelier reason.
                    ("stop", None) if self.stops => FinishReason::Stop,
                    _ => FinishReason::EndOfTurn,
                });
            }
        }
        Ok(())
    }

    /// Whether all samples have ended.
    pub(crate) fn complete(&self) -> bool {
        self.samples.iter().all(|sample| sample.reason.is_some())
    }

    /// Whether there is nothing to wait for.
    fn over(&self) -> bool {
        self.done || (self.complete() && self.reported.output.is_some())
    }

    /// The stream has ended. It may lack `[DONE]`, or reasons, but not both.
    pub(crate) fn ended(&mut self) -> Result<(), Fault> {
        if !self.done && !self.complete() {
            return Err(Fault::of_server("it ended the stream before the answer was complete".to_owned()));
        }
        let given = self.samples.iter().filter(|sample| sample.reason.is_some() || sample.tokens > 0).count();
        if given < self.samples.len() && self.samples.len() > 1 {
            let asked = self.samples.len();
            let why = format!("the upstream server made {given} of {asked} samples: ask for one at a time");
            return Err(Fault::of_request(ModelError::InvalidSampling(why)));
        }
        for sample in &mut self.samples {
            let at_limit = sample.tokens >= self.max_tokens;
            sample.reason.get_or_insert(if at_limit { FinishReason::Length } else { FinishReason::EndOfTurn });
        }
        Ok(())
    }

    /// Tokens seen of all samples.
    pub(crate) fn tokens(&self) -> usize {
        self.samples.iter().map(|sample| sample.tokens).sum()
    }

    /// For each sample, how many tokens came and why it ended.
    pub(crate) fn endings(&self) -> impl Iterator<Item = (usize, FinishReason)> + '_ {
        self.samples.iter().map(|sample| (sample.tokens, sample.reason.unwrap_or(FinishReason::EndOfTurn)))
    }
}

/// Sends `body` and passes tokens to `tell` as they come, until the answer is complete. `tell` says whether anybody still
/// listens. The first token has to come before `first`, each further one within the idle limit.
pub(crate) async fn run(
    shared: &Shared,
    replica: &Replica,
    body: &Value,
    trace: &[(&'static str, String)],
    first: Instant,
    listener: &mut Listener,
    mut tell: impl FnMut(&[Said], &Reported) -> bool,
) -> Result<(), Fault> {
    let mut request = shared.post(replica, "/v1/completions").json(body);
    for (name, value) in trace {
        request = request.header(*name, value);
    }
    let timeouts = shared.options.timeouts;
    let late = || {
        let limit = timeouts.first_token.as_secs_f64();
        Fault::of_server(format!("{} gave no token within {limit} s (upstream.first_token_timeout_ms)", replica.base))
    };
    let name = |fault: Fault| {
        let error = match fault.error {
            ModelError::Stopped(why) => ModelError::Stopped(format!("{}: {why}", replica.base)),
            other => other,
        };
        Fault { error, ..fault }
    };
    let response = match tokio::time::timeout_at(first, request.send()).await {
        Err(_) => return Err(late()),
        Ok(Err(error)) => {
            let unreachable = error.is_connect();
            return Err(Fault { unreachable, ..name(Fault::of_server(plain(&error))) });
        }
        Ok(Ok(response)) if response.status().is_success() => response,
        Ok(Ok(response)) => {
            let refused = tokio::time::timeout_at(first, refusal(shared, replica, response)).await;
            return Err(refused.unwrap_or_else(|_| late()));
        }
    };
    let mut bytes = response.bytes_stream();
    let (mut parser, mut events, mut said) = (SseParser::default(), Vec::new(), Vec::new());
    let mut limit = first;
    loop {
        let next = match tokio::time::timeout_at(limit, bytes.next()).await {
            Ok(next) => next,
            // All tokens are there, only the account is not.
            Err(_) if listener.complete() => break,
            Err(_) if listener.tokens() == 0 => return Err(late()),
            Err(_) => {
                let idle = timeouts.idle.as_secs_f64();
                let why = format!("no token came for {idle} s (upstream.idle_timeout_ms)");
                return Err(name(Fault::of_server(why)));
            }
        };
        match next {
            Some(Ok(piece)) => {
                let fits = parser.push(&piece, &mut events);
                fits.map_err(|_| name(Fault::of_server("it sends no stream of events".to_owned())))?;
            }
            Some(Err(error)) if !listener.complete() => return Err(name(Fault::of_server(plain(&error)))),
            Some(Err(_)) | None => {
                parser.finish(&mut events);
                said.clear();
                for data in events.drain(..) {
                    listener.take(&data, &mut said).map_err(name)?;
                }
                if !said.is_empty() && !tell(&said, &listener.reported) {
                    return Ok(());
                }
                break;
            }
        }
        if events.is_empty() {
            continue;
        }
        said.clear();
        for data in events.drain(..) {
            let taken = listener.take(&data, &mut said);
            if let Err(fault) = taken {
                // What came before the failure has come.
                if !said.is_empty() {
                    tell(&said, &listener.reported);
                }
                return Err(name(fault));
            }
        }
        if !tell(&said, &listener.reported) {
            return Ok(());
        }
        if listener.over() {
            // To its last byte, so that the connection can be used again.
            while let Ok(Some(Ok(_))) = tokio::time::timeout(REST, bytes.next()).await {}
            break;
        }
        if listener.complete() {
            limit = Instant::now() + ACCOUNT.min(timeouts.idle);
        } else if listener.tokens() > 0 && !said.is_empty() {
            limit = Instant::now() + timeouts.idle;
        }
    }
    listener.ended().map_err(name)
}

/// What a status that is no success means.
async fn refusal(shared: &Shared, replica: &Replica, response: reqwest::Response) -> Fault {
    let status = response.status().as_u16();
    let retry_after =
        response.headers().get("retry-after").and_then(|v| v.to_str().ok()).and_then(|v| v.trim().parse().ok());
    let spare = retry_after.map(|seconds: u64| Duration::from_secs(seconds.min(3600)));
    let mut body = Vec::new();
    let mut bytes = response.bytes_stream();
    while let Some(Ok(piece)) = bytes.next().await {
        body.extend_from_slice(&piece);
        if body.len() > ERROR_BYTES {
            break;
        }
    }
    let said: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = error_message(&said).unwrap_or_else(|| "it does not say why".to_owned());
    let base = &replica.base;
    match status {
        429 => Fault {
            error: ModelError::Overloaded { retry_after_s: spare.map_or(1, |d| d.as_secs().max(1)) },
            of_server: false,
            again: true,
            unreachable: false,
            spare: Some(spare.unwrap_or(Duration::from_secs(1))),
        },
        408 | 425 | 500..=599 => Fault { spare, ..Fault::of_server(format!("{base} answered {status}: {message}")) },
        401 | 403 => Fault {
            error: ModelError::Stopped(format!(
                "{base} refuses the key ({status}): set the variable that upstream.api_key_env names"
            )),
            of_server: true,
            again: true,
            unreachable: false,
            spare: None,
        },
        400 | 413 | 422 if too_long(&message) => Fault::of_request(ModelError::Internal(format!(
            "the prompt is too long for {base}: set upstream.context_window to its window, which is less than {}",
            shared.info.context_window
        ))),
        404 => Fault::of_request(ModelError::Internal(format!(
            "{base} knows no model `{}` or no /v1/completions ({message}): see upstream.model",
            shared.options.model
        ))),
        _ => Fault::of_request(ModelError::Internal(format!("{base} refused the request ({status}): {message}"))),
    }
}

fn too_long(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    ["context length", "context window", "context size", "too long", "maximum length"]
        .iter()
        .any(|w| message.contains(w))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn listen(samples: usize, stops: bool, data: &[&str]) -> (Result<(), Fault>, Listener, String) {
        let mut listener = Listener::new(samples, 3, stops);
        let (mut said, mut result) = (Vec::new(), Ok(()));
        for data in data {
            result = listener.take(data, &mut said);
            if result.is_err() {
                break;
            }
        }
        let result = result.and_then(|()| listener.ended());
        (result, listener, said.iter().map(|s| s.piece.text.as_str()).collect())
    }

    #[test]
    fn a_stream_may_lack_its_end_mark_or_its_reason_but_not_both() {
        let (a, b) = (r#"{"choices":[{"text":"a"}]}"#, r#"{"choices":[{"text":"b","finish_reason":"stop"}]}"#);
        for (data, complete) in [(vec![a, b], true), (vec![a, "[DONE]"], true), (vec![a], false), (vec![], false)] {
            let (result, ..) = listen(1, false, &data);
            assert_eq!(result.is_ok(), complete, "{data:?}");
        }
    }

    #[test]
    fn reasons_are_told_apart_as_far_as_the_server_does() {
        use FinishReason::{EndOfTurn, Length, Stop};
        for (end, stops, expected) in [
            (r#""finish_reason":"length""#, true, Length),
            (r#""finish_reason":"stop""#, false, EndOfTurn),
            (r#""finish_reason":"stop""#, true, Stop),
            (r#""finish_reason":"stop","stop_reason":"END""#, true, Stop),
            (r#""finish_reason":"stop","stop_reason":151645"#, true, EndOfTurn),
            (r#""finish_reason":"stop","stop_reason":null"#, true, EndOfTurn),
            (r#""finish_reason":"stop","matched_stop":2"#, true, EndOfTurn),
            (r#""finish_reason":"content_filter""#, true, EndOfTurn),
        ] {
            let data = format!(r#"{{"choices":[{{"text":"a",{end}}}]}}"#);
            let (result, listener, _) = listen(1, stops, &[&data]);
            assert!(result.is_ok());
            assert_eq!(listener.endings().collect::<Vec<_>>(), [(1, expected)], "{end}");
        }
    }

    #[test]
    fn what_comes_after_the_limit_does_not_count() {
        let token = r#"{"choices":[{"text":"x"}]}"#;
        let (result, listener, text) = listen(1, false, &[token; 5]);
        assert!(result.is_ok());
        assert_eq!((text.as_str(), listener.tokens()), ("xxx", 3));
        assert_eq!(listener.endings().next(), Some((3, FinishReason::Length)));
    }

    #[test]
    fn garbage_and_errors_are_the_servers_fault() {
        for data in [
            "{",
            "null and void",
            r#"{"choices":3}"#,
            r#"{"error":{"message":"out of memory"}}"#,
            r#"{"choices":[{"index":4,"text":"a"}]}"#,
        ] {
            let (result, ..) = listen(1, false, &[data]);
            assert!(result.unwrap_err().of_server, "{data}");
        }
        let (result, ..) = listen(2, false, &[r#"{"choices":[{"text":"a","finish_reason":"stop"}]}"#, "[DONE]"]);
        assert!(matches!(result.unwrap_err().error, ModelError::InvalidSampling(_)));
    }
}
