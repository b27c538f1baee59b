//! Messages and their events, as <https://docs.anthropic.com/en/api/messages> and
//! <https://docs.anthropic.com/en/docs/build-with-claude/streaming> define them.

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
        tools::{self, Call},
    },
    sse::{Pump, event_stream},
};

use super::request::Reading;

/// A message of the model.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct MessageReply {
    /// Its id.
    #[schema(example = "msg_0123456789abcdef")]
    pub(crate) id: String,
    /// `message`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    /// `assistant`.
    pub(crate) role: &'static str,
    /// The model, as it was asked for.
    pub(crate) model: String,
    /// Blocks: `text`, or `tool_use`.
    #[schema(value_type = Vec<Object>)]
    pub(crate) content: Vec<Value>,
    /// `end_turn`, `max_tokens`, `stop_sequence`, `tool_use` or `model_context_window_exceeded`.
    pub(crate) stop_reason: Option<&'static str>,
    /// The stop sequence that was met.
    pub(crate) stop_sequence: Option<String>,
    /// Tokens used.
    pub(crate) usage: MessageUsage,
    /// How an answer from a collection came about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) edgewise: Option<CollectionReport>,
}

/// Tokens by class. The prompt has `input_tokens + cache_creation_input_tokens + cache_read_input_tokens`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct MessageUsage {
    /// Computed and not kept.
    pub(crate) input_tokens: usize,
    /// Computed and kept.
    pub(crate) cache_creation_input_tokens: usize,
    /// Read from the cache.
    pub(crate) cache_read_input_tokens: usize,
    /// What was kept, by how long.
    pub(crate) cache_creation: CacheCreation,
    /// Generated.
    pub(crate) output_tokens: usize,
}

/// Kept tokens by how long.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct CacheCreation {
    /// For five minutes.
    pub ephemeral_5m_input_tokens: usize,
    /// For an hour.
    pub ephemeral_1h_input_tokens: usize,
}

impl From<&Usage> for MessageUsage {
    fn from(usage: &Usage) -> Self {
        Self {
            input_tokens: usage.input_tokens,
            cache_creation_input_tokens: usage.cache_write_5m_tokens + usage.cache_write_1h_tokens,
            cache_read_input_tokens: usage.cache_read_tokens,
            cache_creation: CacheCreation {
                ephemeral_5m_input_tokens: usage.cache_write_5m_tokens,
                ephemeral_1h_input_tokens: usage.cache_write_1h_tokens,
            },
            output_tokens: usage.output_tokens,
        }
    }
}

/// Makes a message, whole or in events.
pub(crate) struct Builder {
    id: String,
    model: String,
    reading: Reading,
    /// Text held back while it may become a call.
    held: String,
    /// Whether the text block is open.
    open: bool,
    /// Whether text was shown: then nothing is held any more.
    shown: bool,
    citations: Vec<Value>,
    report: Option<CollectionReport>,
}

impl Builder {
    pub(crate) fn new(request: &str, model: String, reading: Reading) -> Self {
        let (held, citations) = (String::new(), Vec::new());
        Self { id: format!("msg_{request}"), model, reading, held, open: false, shown: false, citations, report: None }
    }

    fn calls(&self, text: &str) -> Option<Vec<Call>> {
        if self.reading.tools.is_empty() {
            return None;
        }
        tools::calls(text, &self.reading.tools, self.reading.must_call)
    }

    fn tool_use(&self, index: usize, call: &Call) -> Value {
        json!({"type": "tool_use", "id": format!("toolu_{}_{index}", &self.id[4..]), "name": call.name, "input": call.arguments})
    }

    fn stop(&self, reason: EndReason, met: Option<String>, called: bool) -> (&'static str, Option<String>) {
        match reason {
            EndReason::EndOfTurn | EndReason::Stop if called => ("tool_use", None),
            EndReason::EndOfTurn => ("end_turn", None),
            // Not every engine says which; with one there is no doubt.
            EndReason::Stop => match self.reading.stop.as_slice() {
                [only] => ("stop_sequence", met.or_else(|| Some(only.clone()))),
                _ => ("stop_sequence", met),
            },
            EndReason::Length => ("max_tokens", None),
            EndReason::Window => ("model_context_window_exceeded", None),
        }
    }

    fn take(&mut self, answer: &Answer) {
        self.citations = answer
            .citations
            .iter()
            .enumerate()
            .map(|(index, citation)| {
                json!({
                    "type": "search_result_location",
                    "source": citation.uri,
                    "title": citation.title,
                    "cited_text": citation.quote,
                    "search_result_index": citation.n.saturating_sub(1),
                    "start_block_index": index,
                    "end_block_index": index + 1,
                })
            })
            .collect();
        self.report = Some(CollectionReport::of(answer));
    }

    /// The message of a complete reply.
    pub(crate) fn whole(mut self, reply: Reply) -> MessageReply {
        if let Some(answer) = &reply.answer {
            self.take(answer);
        }
        let sample = reply.samples.into_iter().next().unwrap_or_default();
        let calls = self.calls(&sample.text);
        let content: Vec<Value> = match &calls {
            Some(calls) => calls.iter().enumerate().map(|(index, call)| self.tool_use(index, call)).collect(),
            None if sample.text.is_empty() && self.citations.is_empty() => Vec::new(),
            None if self.citations.is_empty() => vec![json!({"type": "text", "text": sample.text})],
            None => vec![json!({"type": "text", "text": sample.text, "citations": self.citations})],
        };
        let (stop_reason, stop_sequence) =
            self.stop(sample.reason.unwrap_or(EndReason::EndOfTurn), sample.stop, calls.is_some());
        MessageReply {
            id: self.id,
            kind: "message",
            role: "assistant",
            model: self.model,
            content,
            stop_reason: Some(stop_reason),
            stop_sequence,
            usage: (&reply.usage).into(),
            edgewise: self.report,
        }
    }
}

/// Streams the message once its first event is there.
pub(crate) async fn stream(running: Running, message: Builder) -> Result<Response, ApiError> {
    event_stream(running, message).await
}

fn event(name: &str, data: &Value) -> sse::Event {
    sse::Event::default().event(name).data(data.to_string())
}

impl Builder {
    fn open(&mut self, events: &mut Vec<sse::Event>) {
        if !self.open {
            self.open = true;
            let block = json!({"type": "text", "text": ""});
            events.push(event(
                "content_block_start",
                &json!({"type": "content_block_start", "index": 0, "content_block": block}),
            ));
        }
    }

    fn show(&mut self, text: &str, events: &mut Vec<sse::Event>) {
        if text.is_empty() {
            return;
        }
        self.shown = true;
        self.open(events);
        let delta = json!({"type": "text_delta", "text": text});
        events.push(event("content_block_delta", &json!({"type": "content_block_delta", "index": 0, "delta": delta})));
    }

    fn text(&mut self, text: &str, events: &mut Vec<sse::Event>) {
        if self.shown || self.reading.tools.is_empty() {
            return self.show(text, events);
        }
        self.held.push_str(text);
        if !tools::may_be_calls(&self.held, self.reading.must_call) {
            let held = std::mem::take(&mut self.held);
            self.show(&held, events);
        }
    }

    fn end(
        &mut self,
        (reason, met): (EndReason, Option<String>),
        text: &str,
        usage: &Usage,
        events: &mut Vec<sse::Event>,
    ) {
        self.text(text, events);
        let held = std::mem::take(&mut self.held);
        let calls = self.calls(&held);
        match &calls {
            None => self.show(&held, events),
            Some(calls) => {
                for (index, call) in calls.iter().enumerate() {
                    let mut block = self.tool_use(index, call);
                    let input = block["input"].take();
                    block["input"] = json!({});
                    let start = json!({"type": "content_block_start", "index": index, "content_block": block});
                    events.push(event("content_block_start", &start));
                    let delta = json!({"type": "input_json_delta", "partial_json": input.to_string()});
                    let delta = json!({"type": "content_block_delta", "index": index, "delta": delta});
                    events.push(event("content_block_delta", &delta));
                    events.push(event("content_block_stop", &json!({"type": "content_block_stop", "index": index})));
                }
            }
        }
        for citation in std::mem::take(&mut self.citations) {
            self.open(events);
            let delta = json!({"type": "citations_delta", "citation": citation});
            let delta = json!({"type": "content_block_delta", "index": 0, "delta": delta});
            events.push(event("content_block_delta", &delta));
        }
        if self.open {
            events.push(event("content_block_stop", &json!({"type": "content_block_stop", "index": 0})));
        }
        let (stop_reason, stop_sequence) = self.stop(reason, met, calls.is_some());
        let delta = json!({"stop_reason": stop_reason, "stop_sequence": stop_sequence});
        let mut data = json!({"type": "message_delta", "delta": delta, "usage": MessageUsage::from(usage)});
        if let Some(report) = &self.report {
            data["edgewise"] = json!(report);
        }
        events.push(event("message_delta", &data));
        events.push(event("message_stop", &json!({"type": "message_stop"})));
    }
}

impl Pump for Builder {
    fn push(&mut self, from: Event) -> Vec<sse::Event> {
        let mut events = Vec::new();
        match from {
            Event::Start(usage) => {
                let message = MessageReply {
                    id: self.id.clone(),
                    kind: "message",
                    role: "assistant",
                    model: self.model.clone(),
                    content: Vec::new(),
                    stop_reason: None,
                    stop_sequence: None,
                    usage: (&usage).into(),
                    edgewise: None,
                };
                events.push(event("message_start", &json!({"type": "message_start", "message": message})));
            }
            Event::Text { text, .. } => self.text(&text, &mut events),
            Event::Cited(answer) => self.take(&answer),
            Event::End { reason, stop, text, usage, .. } => self.end((reason, stop), &text, &usage, &mut events),
            Event::Failed(error) => events.push(event("error", &Form::Anthropic.body(&error))),
        }
        events
    }

    fn trailer(&mut self) -> Vec<sse::Event> {
        Vec::new()
    }
}
