//! One question being answered on a blocking thread, as a stream of [`Progress`].
//!
//! Invariants:
//! - The stream ends with exactly one `Done` or `Failed`, also when the job panics.
//! - Dropping the stream (the client went away), the time limit and the end of the grace period all close the channel.
//!   The planner learns of that from its sink and drops the generation, which cancels it in the engine.
//! - The channel is unbounded, which the length of an answer bounds: a slow client never holds the engine up.
//! - A turn of a conversation that the server keeps is on disk before `Done`.
//! - The job holds its slot until it has really ended, so that abandoned work still counts against the limit.

use std::{
    ops::ControlFlow,
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use tokio::sync::mpsc;
use tokio_stream::Stream;

use edgewise_planner::{Answer, AnswerEvent, PlannerError, Query};
use edgewise_retrieval::Collections;
use edgewise_types::{CollectionName, Usage};

use crate::{
    ApiError, ErrorKind, budgets,
    caller::Caller,
    conversations::Keep,
    middleware::RequestId,
    record::Failure,
    state::{AppState, Parts, Phase},
};

/// How an answer comes along.
pub(crate) enum Progress {
    /// A step of the planner.
    Event(AnswerEvent),
    /// The answer is complete.
    Done(Box<Answer>),
    /// There is none.
    Failed(ApiError),
}

/// A running answer.
pub(crate) struct Answering {
    progress: mpsc::UnboundedReceiver<Progress>,
    /// Resolves when the answer must end, with the reason.
    stop: Pin<Box<dyn Future<Output = ApiError> + Send>>,
    ended: bool,
}

impl Answering {
    /// Starts answering, or refuses when the server is at its limit. `keep` is told of the answer.
    pub(crate) fn start(
        state: &AppState,
        caller: &Caller,
        collection: CollectionName,
        query: Query,
        request_id: RequestId,
        keep: Option<Keep>,
    ) -> Result<Self, ApiError> {
        let collections = state.collections(caller)?;
        let (tenant, key, ceilings) = (caller.tenant.clone(), caller.key_name(), caller.ceilings());
        let query = Query { tenant, key, ceilings, ..query };
        budgets::admit(state.parts(), caller, Some(&collection))?;
        let slot = state.answer_slot()?;
        let (sender, progress) = mpsc::unbounded_channel();
        let (parts, labels) = (state.shared_parts(), state.labels().clone());
        let (keys, asker) = (state.keys().clone(), caller.clone());
        let span = tracing::Span::current();
        // Detached on purpose: the job reports through the channel and ends when that closes.
        drop(tokio::task::spawn_blocking(move || {
            let last = span.in_scope(|| {
                let before = labels.newest(&parts);
                let (answered, used) = answer(&parts, &collections, &collection, &query, &request_id, &sender);
                keys.spent(&asker, &used);
                let kept = answered.and_then(|answer| {
                    labels.answered(&parts, before, &query.tenant, &answer);
                    // The conversation's next question may come as soon as this one's end is told.
                    keep.map_or(Ok(()), |keep| keep.keep(&request_id.0, &answer))?;
                    Ok(answer)
                });
                kept.map_or_else(Progress::Failed, Progress::Done)
            });
            // Free before the caller hears of the end, so that its next question finds the place.
            drop(slot);
            // Nobody may be listening any more; what was recorded is all that remains then.
            let _ = sender.send(last);
        }));
        let stop = must_end(state, caller);
        Ok(Self { progress, stop, ended: false })
    }
}

/// Resolves when an answer that begins now must end, with the reason: the time limit, the end of the grace period, or
/// that of the caller's key. What was produced until then is recorded and charged.
pub(crate) fn must_end(state: &AppState, caller: &Caller) -> Pin<Box<dyn Future<Output = ApiError> + Send>> {
    let limit = state.options().request_timeout;
    let cancelling = state.lifecycle().reached(Phase::Cancelling);
    let ended = state.keys().ended(caller);
    Box::pin(async move {
        tokio::select! {
            () = cancelling => ApiError::shutting_down(),
            error = ended => error,
            () = tokio::time::sleep(limit) => ApiError::new(
                ErrorKind::Timeout,
                format!("the answer took longer than {} s, which is this server's limit", limit.as_secs()),
            )
            .hint("ask for fewer tokens or a narrower route, or raise server.request_timeout_s"),
        }
    })
}

impl Stream for Answering {
    type Item = Progress;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Progress>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = self.progress.poll_recv(context);
        match next {
            Poll::Ready(Some(end @ (Progress::Done(_) | Progress::Failed(_)))) => {
                self.ended = true;
                Poll::Ready(Some(end))
            }
            Poll::Ready(None) => {
                self.ended = true;
                Poll::Ready(Some(Progress::Failed(ApiError::internal("the answering job ended without a result"))))
            }
            // Looked at for events too, so that a fast stream can't outrun its limit.
            event => match self.stop.as_mut().poll(context) {
                Poll::Ready(error) => {
                    self.ended = true;
                    self.progress.close();
                    Poll::Ready(Some(Progress::Failed(error)))
                }
                Poll::Pending => event,
            },
        }
    }
}

/// The job: answers and records. With the answer, the tokens used, also where there is none.
fn answer(
    parts: &Parts,
    collections: &Collections,
    collection: &CollectionName,
    query: &Query,
    request_id: &RequestId,
    sender: &mpsc::UnboundedSender<Progress>,
) -> (Result<Box<Answer>, ApiError>, Usage) {
    let at = jiff::Timestamp::now();
    let started = Instant::now();
    let mut planned = None;
    let mut first_token = None;
    let mut output_tokens = 0;
    let mut before = Usage::default();
    let result = collections.get(collection).map_err(PlannerError::from).and_then(|collection| {
        parts.planner.answer(&collection, query, &mut |event| {
            match &event {
                AnswerEvent::Plan(explanation) => planned = Some(explanation.clone()),
                AnswerEvent::Token(_) => {
                    output_tokens += 1;
                    first_token.get_or_insert_with(|| started.elapsed());
                }
                AnswerEvent::Sources(_) => {}
                AnswerEvent::Escalated(escalated) => {
                    planned = Some(Box::new(escalated.explanation.clone()));
                    (before, output_tokens) = (escalated.usage, 0);
                }
                // Nothing to pass on: only whether anybody still listens.
                AnswerEvent::Waiting if sender.is_closed() => return ControlFlow::Break(()),
                AnswerEvent::Waiting => return ControlFlow::Continue(()),
            }
            match sender.send(Progress::Event(event)) {
                Ok(()) => ControlFlow::Continue(()),
                Err(_) => ControlFlow::Break(()),
            }
        })
    });
    match result {
        Ok(answer) => {
            tracing::info_span!("record").in_scope(|| {
                parts.recorder.answered(&request_id.0, at, query, &answer);
                parts.reading.answered(at, &answer);
            });
            if edgewise_telemetry::log_texts() {
                tracing::info!(question = query.question, answer = answer.text, "answered");
            }
            let used = answer.usage;
            (Ok(Box::new(answer)), used)
        }
        Err(error) => {
            let mut used = before;
            if let (Some(explanation), Some(ttft)) = (&planned, first_token) {
                let chosen = explanation.candidates.iter().find(|candidate| candidate.route == explanation.chosen);
                let prompt = chosen.map_or_else(Usage::default, |candidate| candidate.usage);
                used = used.plus(&Usage { output_tokens, ..prompt });
                let total = started.elapsed();
                let failure = Failure { explanation, error: &error, before, output_tokens, ttft, total };
                tracing::info_span!("record").in_scope(|| parts.recorder.failed(&request_id.0, at, query, &failure));
            }
            (Err(error.into()), used)
        }
    }
}
