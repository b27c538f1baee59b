//! Completions and their chunks, as <https://platform.openai.com/docs/api-reference/chat> defines them.

use axum::response::{Response, sse};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use edgewise_planner::Answer;
use edgewise_types::Usage;

use crate::{
    ApiError,
    dialect::{
        CollectionReport, EndReason, Event, Reply, Running,
        errors::Form,
        placed_citations,
        tools::{self, Call},
    },
    sse::{Pump, event_stream},
};

use super::request::Reading;

/// A completion.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct Completion {
    /// Its id.
    pub(crate) id: String,
    /// `chat.completion`.
    pub(crate) object: &'static str,
    /// When it was made, in seconds since 1970.
    pub(crate) created: i64,
    /// The model, as it was asked for.
    pub(crate) model: String,
    /// The answers.
    #[schema(value_type = Vec<Object>)]
    pub(crate) choices: Vec<Value>,
    /// Tokens used.
    pub(crate) usage: CompletionUsage,
    /// How an answer from a collection came about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) edgewise: Option<CollectionReport>,
}

/// Tokens used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct CompletionUsage {
    /// Of the prompt.
    pub(crate) prompt_tokens: usize,
    /// Of all answers.
    pub(crate) completion_tokens: usize,
    /// Both.
    pub(crate) total_tokens: usize,
    /// The prompt's by class.
    pub(crate) prompt_tokens_details: PromptTokensDetails,
}

/// Tokens of a prompt by class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PromptTokensDetails {
    /// Read from the cache.
    pub(crate) cached_tokens: usize,
    /// Computed and kept.
    pub(crate) cache_write_tokens: usize,
}

impl From<&Usage> for CompletionUsage {
    fn from(usage: &Usage) -> Self {
        Self {
            prompt_tokens: usage.prompt_tokens(),
            completion_tokens: usage.output_tokens,
            total_tokens: usage.prompt_tokens() + usage.output_tokens,
            prompt_tokens_details: PromptTokensDetails {
                cached_tokens: usage.cache_read_tokens,
                cache_write_tokens: usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            },
        }
    }
}

/// Makes a completion, whole or in chunks.
pub(crate) struct Builder {
    id: String,
    created: i64,
    model: String,
    reading: Reading,
    /// Of each sample, the text held back while it may become a call; `None` once text was shown.
    held: Vec<Option<String>>,
    usage: Usage,
    annotations: Vec<Value>,
    report: Option<CollectionReport>,
    failed: bool,
}

fn finish(reason: EndReason, called: bool) -> &'static str {
    match reason {
        EndReason::EndOfTurn | EndReason::Stop if called => "tool_calls",
        EndReason::EndOfTurn | EndReason::Stop => "stop",
        EndReason::Length | EndReason::Window => "length",
    }
}

fn token_logprob(text: &str, logprob: f32) -> Value {
    json!({"token": text, "bytes": text.as_bytes(), "logprob": logprob, "top_logprobs": []})
}

impl Builder {
    pub(crate) fn new(request: &str, model: String, reading: Reading) -> Self {
        let held = if reading.tools.is_empty() {
            vec![None; reading.samples]
        } else {
            vec![Some(String::new()); reading.samples]
        };
        Self {
            id: format!("chatcmpl-{request}"),
            created: jiff::Timestamp::now().as_second(),
            model,
            reading,
            held,
            usage: Usage::default(),
            annotations: Vec::new(),
            report: None,
            failed: false,
        }
    }

    fn calls(&self, text: &str) -> Option<Vec<Call>> {
        if self.reading.tools.is_empty() {
            return None;
        }
        tools::calls(text, &self.reading.tools, self.reading.must_call)
    }

    fn call_list(&self, sample: usize, calls: &[Call], indexed: bool) -> Value {
        let call = |(index, call): (usize, &Call)| {
            let function = json!({"name": call.name, "arguments": call.arguments.to_string()});
            let id = format!("call_{}_{sample}_{index}", &self.id[9..]);
            let mut value = json!({"id": id, "type": "function", "function": function});
            if indexed {
                value["index"] = json!(index);
            }
            value
        };
        Value::Array(calls.iter().enumerate().map(call).collect())
    }

    fn take(&mut self, answer: &Answer) {
        let cited = placed_citations(answer).into_iter();
        self.annotations = cited
            .map(|(start, end, citation)| {
                let url = json!({"start_index": start, "end_index": end, "title": citation.title, "url": citation.uri});
                json!({"type": "url_citation", "url_citation": url})
            })
            .collect();
        self.report = Some(CollectionReport::of(answer));
    }

    /// The completion of a complete reply.
    pub(crate) fn whole(mut self, reply: Reply) -> Completion {
        if let Some(answer) = &reply.answer {
            self.take(answer);
        }
        let choice = |(index, sample): (usize, crate::dialect::Sample)| {
            let calls = self.calls(&sample.text);
            let mut message = match &calls {
                Some(calls) => {
                    json!({"role": "assistant", "content": null, "tool_calls": self.call_list(index, calls, false)})
                }
                None => json!({"role": "assistant", "content": sample.text}),
            };
            message["refusal"] = Value::Null;
            if !self.annotations.is_empty() {
                message["annotations"] = json!(self.annotations);
            }
            let logprobs = self.reading.logprobs.then(|| {
                let content: Vec<Value> =
                    sample.logprobs.iter().map(|(text, logprob)| token_logprob(text, *logprob)).collect();
                json!({"content": content, "refusal": null})
            });
            let reason = sample.reason.unwrap_or(EndReason::EndOfTurn);
            json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish(reason, calls.is_some())})
        };
        let choices = reply.samples.into_iter().enumerate().map(choice).collect();
        Completion {
            id: self.id,
            object: "chat.completion",
            created: self.created,
            model: self.model,
            choices,
            usage: (&reply.usage).into(),
            edgewise: self.report,
        }
    }

    fn chunk(&self, choices: Value) -> Value {
        let mut chunk = json!({
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "choices": choices,
        });
        if self.reading.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn delta(&self, sample: usize, delta: Value, logprob: Option<(&str, f32)>, end: Option<&str>) -> sse::Event {
        let logprobs = logprob
            .filter(|_| self.reading.logprobs)
            .map(|(text, logprob)| json!({"content": [token_logprob(text, logprob)], "refusal": null}));
        data(&self.chunk(json!([{"index": sample, "delta": delta, "logprobs": logprobs, "finish_reason": end}])))
    }

    /// What of `text` can be shown now.
    fn shown(&mut self, sample: usize, text: &str) -> String {
        let must_call = self.reading.must_call;
        let Some(slot) = self.held.get_mut(sample) else { return text.to_owned() };
        let Some(held) = slot else { return text.to_owned() };
        held.push_str(text);
        if tools::may_be_calls(held, must_call) { String::new() } else { slot.take().unwrap_or_default() }
    }

    fn end(&mut self, sample: usize, reason: EndReason, text: &str) -> Vec<sse::Event> {
        let mut events = Vec::new();
        let shown = self.shown(sample, text);
        let held = self.held.get_mut(sample).and_then(Option::take).unwrap_or_default();
        let calls = self.calls(&held);
        let rest = if calls.is_some() { shown } else { shown + &held };
        if !rest.is_empty() {
            events.push(self.delta(sample, json!({"content": rest}), None, None));
        }
        if let Some(calls) = &calls {
            events.push(self.delta(sample, json!({"tool_calls": self.call_list(sample, calls, true)}), None, None));
        }
        if !self.annotations.is_empty() {
            events.push(self.delta(sample, json!({"annotations": self.annotations}), None, None));
        }
        let end = Some(finish(reason, calls.is_some()));
        let mut last = self.chunk(json!([{"index": sample, "delta": {}, "logprobs": null, "finish_reason": end}]));
        if let Some(report) = &self.report {
            last["edgewise"] = json!(report);
        }
        events.push(data(&last));
        events
    }
}

fn data(value: &Value) -> sse::Event {
    sse::Event::default().data(value.to_string())
}

/// Streams the completion once its first event is there.
pub(crate) async fn stream(running: Running, completion: Builder) -> Result<Response, ApiError> {
    event_stream(running, completion).await
}

impl Pump for Builder {
    fn push(&mut self, event: Event) -> Vec<sse::Event> {
        match event {
            Event::Start(_) => (0..self.reading.samples)
                .map(|sample| self.delta(sample, json!({"role": "assistant", "content": ""}), None, None))
                .collect(),
            Event::Text { sample, text, logprob } => {
                let shown = self.shown(sample, &text);
                if shown.is_empty() && !self.reading.logprobs {
                    return Vec::new();
                }
                let logprob = logprob.map(|logprob| (text.as_str(), logprob));
                vec![self.delta(sample, json!({"content": shown}), logprob, None)]
            }
            Event::Cited(answer) => {
                self.take(&answer);
                Vec::new()
            }
            Event::End { sample, reason, text, usage, .. } => {
                self.usage = self.usage.plus(&usage);
                self.end(sample, reason, &text)
            }
            Event::Failed(error) => {
                self.failed = true;
                vec![data(&Form::OpenAi.body(&error))]
            }
        }
    }

    fn trailer(&mut self) -> Vec<sse::Event> {
        // A stream that failed has no end that a client could take for success.
        if self.failed {
            return Vec::new();
        }
        let usage = self.reading.include_usage.then(|| {
            let mut chunk = self.chunk(json!([]));
            chunk["usage"] = json!(CompletionUsage::from(&self.usage));
            data(&chunk)
        });
        usage.into_iter().chain([sse::Event::default().data("[DONE]")]).collect()
    }
}
