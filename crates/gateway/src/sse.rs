//! An answer as server-sent events (HTML Living Standard, section 9.2).
//!
//! Order: `plan`, `sources`, any number of `token`, one `citation` for each, `usage`, `done` with the complete
//! answer. When the planner widens, `escalated`, `sources` and any number of `token` follow the first tokens, which they
//! supersede. A failure after the first event is one `error` event with the usual body, and nothing after it; a failure
//! before it is an ordinary error response, so a client sees the status it would see without streaming.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response, Sse, sse},
};
use serde::{Deserialize, Serialize};
use tokio_stream::{Stream, StreamExt};
use utoipa::ToSchema;

use edgewise_planner::{Answer, AnswerEvent, SourceRef};
use edgewise_types::{Money, Timings, Usage};

use crate::{
    ApiError,
    answering::{Answering, Progress},
};

/// A comment is sent this often while nothing else is, so that a client that left during a long prefill is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Data of a `sources` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SourcesEvent {
    /// What is in the prompt, in the order of its numbers.
    pub sources: Vec<SourceRef>,
}

/// Data of a `token` event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenEvent {
    /// Text to append. The `done` event has the final text, without markers that cite nothing.
    pub text: String,
}

/// Data of a `usage` event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageEvent {
    /// Tokens used.
    pub usage: Usage,
    /// What they cost.
    pub cost: Money,
    /// Where the time went.
    pub timings: Timings,
}

/// Streams the answer once its first event is there.
pub(crate) async fn respond(mut answering: Answering) -> Result<Response, ApiError> {
    let mut events = VecDeque::new();
    match answering.next().await {
        Some(Progress::Failed(error)) => return Err(error),
        Some(progress) => push(&mut events, progress),
        None => return Err(ApiError::internal("the answer had no first event")),
    }
    let stream = Events { answering, ready: events, span: tracing::Span::current() };
    let mut response = Sse::new(stream).keep_alive(sse::KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // Some reverse proxies hold a response back until it is complete unless they are told not to.
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

struct Events {
    answering: Answering,
    ready: VecDeque<sse::Event>,
    span: tracing::Span,
}

impl Stream for Events {
    type Item = Result<sse::Event, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            match Pin::new(&mut self.answering).poll_next(context) {
                Poll::Ready(Some(progress)) => {
                    if let Progress::Failed(error) = &progress {
                        self.span.in_scope(|| error.log());
                    }
                    push(&mut self.ready, progress);
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// The events of one step.
fn push(events: &mut VecDeque<sse::Event>, progress: Progress) {
    match progress {
        Progress::Event(AnswerEvent::Plan(explanation)) => events.push_back(event("plan", &explanation)),
        Progress::Event(AnswerEvent::Sources(sources)) => events.push_back(event("sources", &SourcesEvent { sources })),
        Progress::Event(AnswerEvent::Waiting) => {}
        Progress::Event(AnswerEvent::Escalated(escalated)) => events.push_back(event("escalated", &escalated)),
        Progress::Event(AnswerEvent::Token(text)) => events.push_back(event("token", &TokenEvent { text })),
        Progress::Done(answer) => push_answer(events, &answer),
        Progress::Failed(error) => events.push_back(event("error", &error.body())),
    }
}

fn push_answer(events: &mut VecDeque<sse::Event>, answer: &Answer) {
    events.extend(answer.citations.iter().map(|citation| event("citation", citation)));
    let usage = UsageEvent { usage: answer.usage, cost: answer.cost, timings: answer.timings };
    events.push_back(event("usage", &usage));
    events.push_back(event("done", answer));
}

/// One event; one that can't be serialised is an `error`.
pub(crate) fn event<T: Serialize>(name: &str, data: &T) -> sse::Event {
    sse::Event::default().event(name).json_data(data).unwrap_or_else(|error| {
        let error = ApiError::internal(format!("cannot serialise a `{name}` event: {error}"));
        error.log();
        let body = serde_json::to_string(&error.body()).unwrap_or_default();
        sse::Event::default().event("error").data(body)
    })
}
