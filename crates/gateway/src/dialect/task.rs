//! One request of any dialect, and what comes back of it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use edgewise_model_api::{FinishReason, Sampling};
use edgewise_planner::{Answer, AnswerEvent, Budget, Citation, Objective, Query, Route};
use edgewise_types::{CollectionName, DocumentId, Money, Usage};

use crate::{
    ApiError, RouteChoice,
    answering::{Answering, Progress},
    caller::Caller,
    collections::{parse_filter, parse_ids},
    middleware::RequestId,
    state::AppState,
};

use super::{
    engine::{Chat, Chatting, Marked},
    memory,
};

/// What a question to a collection may say besides what the dialect has words for: the object `edgewise` of a request.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct CollectionOptions {
    /// Route to take; `auto`, or absent, lets the planner choose.
    pub(crate) route: Option<RouteChoice>,
    /// What the choice optimises; absent is balanced.
    pub(crate) objective: Objective,
    /// Hard limits.
    pub(crate) budget: Budget,
    /// Passages to place at most; absent takes the configured number.
    pub(crate) top_k: Option<usize>,
    /// Answer only from these documents; absent is the whole collection.
    #[schema(value_type = Option<Vec<DocumentId>>)]
    pub(crate) documents: Option<Vec<String>>,
    /// Answer only from documents whose metadata satisfies this.
    pub(crate) filter: Option<String>,
}

/// How an answer from a collection came about: the object `edgewise` of a response.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(crate) struct CollectionReport {
    /// Route taken.
    pub(crate) route: Route,
    /// What it cost.
    pub(crate) cost: Money,
    /// Whether the model said that the sources do not hold the answer.
    pub(crate) unanswerable: bool,
    /// What should be known about the plan, one sentence each.
    pub(crate) notes: Vec<String>,
}

/// A question to a collection.
pub(crate) struct CollectionTask {
    pub(crate) collection: CollectionName,
    /// Questions and answers, oldest first, then the question: as the client has them.
    pub(crate) exchanges: Vec<(String, String)>,
    pub(crate) question: String,
    pub(crate) options: CollectionOptions,
    pub(crate) sampling: Sampling,
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stop: Vec<String>,
    /// The caller's system prompt: what to do with the question. The server's rules about sources stay.
    pub(crate) instructions: Option<String>,
    /// Tokens that were sent can't be taken back, so a stream is never superseded by a wider route.
    pub(crate) stream: bool,
}

/// What to do.
pub(crate) enum Task {
    Engine(Box<Chat>),
    Collection(Box<CollectionTask>),
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    EndOfTurn,
    Stop,
    Length,
    /// The window was full before as many tokens had come as were asked for.
    Window,
}

/// What comes back: `Start` once, then `Text` and `End` of each sample, and for collections `Cited` before the `End`.
/// `Failed` ends everything.
#[derive(Debug)]
pub(crate) enum Event {
    /// The prompt's tokens, as far as known at the start.
    Start(Usage),
    Text {
        sample: usize,
        text: String,
        logprob: Option<f32>,
    },
    Cited(Box<Answer>),
    End {
        sample: usize,
        reason: EndReason,
        /// The stop string that came up, where the engine knows which.
        stop: Option<String>,
        text: String,
        usage: Usage,
    },
    Failed(ApiError),
}

/// A running task.
pub(crate) enum Running {
    Engine(Box<Chatting>),
    Collection(Box<Asking>),
}

/// A running question.
pub(crate) struct Asking {
    answering: Answering,
    ready: VecDeque<Event>,
    task: CollectionTask,
    caller: Caller,
    state: AppState,
}

impl Task {
    /// Starts it, or refuses when the server is at its limit.
    pub(crate) async fn start(self, state: &AppState, caller: Caller, id: RequestId) -> Result<Running, ApiError> {
        match self {
            Self::Engine(chat) => Ok(Running::Engine(Box::new(Chatting::start(state, *chat, &caller, &id).await?))),
            Self::Collection(task) => {
                let CollectionOptions { route, objective, budget, top_k, documents, filter } = task.options.clone();
                let query = Query {
                    route: route.and_then(RouteChoice::forced),
                    objective,
                    budget,
                    top_k,
                    documents: parse_ids(documents)?,
                    filter: parse_filter(filter.as_deref())?,
                    sampling: task.sampling.clone(),
                    max_output_tokens: task.max_tokens,
                    stop: task.stop.clone(),
                    history: memory::turns(state, &caller.tenant, &task.collection, &task.exchanges),
                    escalate: task.stream.then_some(false),
                    tenant: caller.tenant.clone(),
                    instructions: task.instructions.clone(),
                    ..Query::new(task.question.clone())
                };
                let answering = Answering::start(state, &caller, task.collection.clone(), query, id, None)?;
                let (task, state) = (*task, state.clone());
                Ok(Running::Collection(Box::new(Asking { answering, ready: VecDeque::new(), task, caller, state })))
            }
        }
    }
}

impl Running {
    /// What became of the marks of a chat with the engine.
    pub(crate) fn marked(&self) -> Option<Marked> {
        match self {
            Self::Engine(chatting) => Some(chatting.marked()),
            Self::Collection(_) => None,
        }
    }

    /// The next event; `None` after the last.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        match self {
            Self::Engine(chatting) => chatting.next().await,
            Self::Collection(asking) => asking.next().await,
        }
    }

    /// Everything at once, or its failure.
    pub(crate) async fn collect(&mut self) -> Result<Reply, ApiError> {
        let mut reply = Reply::default();
        while let Some(event) = self.next().await {
            match event {
                Event::Start(_) => {}
                Event::Text { sample, text, logprob } => {
                    let sample = reply.sample(sample);
                    sample.text.push_str(&text);
                    sample.logprobs.push((text, logprob.unwrap_or_default()));
                }
                Event::Cited(answer) => reply.answer = Some(answer),
                Event::End { sample, reason, stop, text, usage } => {
                    reply.usage = reply.usage.plus(&usage);
                    let sample = reply.sample(sample);
                    sample.text.push_str(&text);
                    sample.reason = Some(reason);
                    sample.stop = stop;
                }
                Event::Failed(error) => return Err(error),
            }
        }
        // What was streamed may hold markers that cite nothing.
        if let Some(answer) = &reply.answer {
            let text = answer.text.clone();
            reply.sample(0).text = text;
        }
        Ok(reply)
    }
}

/// A complete reply.
#[derive(Debug, Default)]
pub(crate) struct Reply {
    pub(crate) samples: Vec<Sample>,
    pub(crate) usage: Usage,
    /// Of a collection.
    pub(crate) answer: Option<Box<Answer>>,
}

/// One of the answers of a [`Reply`].
#[derive(Debug, Default)]
pub(crate) struct Sample {
    pub(crate) text: String,
    pub(crate) reason: Option<EndReason>,
    /// The stop string that came up.
    pub(crate) stop: Option<String>,
    /// Each token's text and the natural logarithm of its probability.
    pub(crate) logprobs: Vec<(String, f32)>,
}

impl Reply {
    fn sample(&mut self, index: usize) -> &mut Sample {
        if self.samples.len() <= index {
            self.samples.resize_with(index + 1, Sample::default);
        }
        &mut self.samples[index]
    }
}

impl Asking {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            match self.answering.next().await? {
                Progress::Event(AnswerEvent::Plan(explanation)) => {
                    let chosen = explanation.candidates.iter().find(|c| c.route == explanation.chosen);
                    let usage = chosen.map(|candidate| Usage { output_tokens: 0, ..candidate.usage });
                    return Some(Event::Start(usage.unwrap_or_default()));
                }
                Progress::Event(AnswerEvent::Token(text)) => {
                    return Some(Event::Text { sample: 0, text, logprob: None });
                }
                Progress::Event(AnswerEvent::Sources(_) | AnswerEvent::Waiting | AnswerEvent::Escalated(_)) => {}
                Progress::Done(answer) => {
                    let reason = end(answer.finish_reason);
                    let (usage, stop) = (answer.usage, answer.stop_sequence.clone());
                    memory::keep(&self.state, &self.caller.tenant, &self.task.collection, &self.task, &answer);
                    self.ready.push_back(Event::Cited(answer));
                    self.ready.push_back(Event::End { sample: 0, reason, stop, text: String::new(), usage });
                }
                Progress::Failed(error) => return Some(Event::Failed(error)),
            }
        }
    }
}

/// Why the engine says it ended.
fn end(reason: FinishReason) -> EndReason {
    match reason {
        FinishReason::EndOfTurn => EndReason::EndOfTurn,
        FinishReason::Stop => EndReason::Stop,
        FinishReason::Length => EndReason::Length,
    }
}

impl CollectionReport {
    /// Of an answer.
    pub(crate) fn of(answer: &Answer) -> Self {
        let notes = answer.explanation.notes.clone();
        Self { route: answer.turn.route, cost: answer.cost, unanswerable: answer.unanswerable, notes }
    }
}

/// The citations, by where the sentence they support ends in the answer's text, in characters.
pub(crate) fn placed_citations(answer: &Answer) -> Vec<(usize, usize, &Citation)> {
    let characters = |byte: usize| answer.text.get(..byte).map_or(0, |text| text.chars().count());
    let sentences = answer.sentences.iter();
    sentences
        .flat_map(|sentence| sentence.citations.iter().map(move |index| (sentence.span, *index)))
        .filter_map(|(span, index)| {
            answer.citations.get(index).map(|citation| (characters(span.start), characters(span.end), citation))
        })
        .collect()
}
