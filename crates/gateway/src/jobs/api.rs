//! Requests about jobs.

use std::{convert::Infallible, time::Duration};

use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue},
    response::{IntoResponse, Response, Sse, sse},
};
use edgewise_retrieval::{Job, JobState};
use edgewise_types::CollectionName;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use crate::{
    ApiError, ErrorBody, ErrorKind,
    caller::Caller,
    extract::{ApiPath, ApiQuery},
    page,
    state::{AppState, Phase},
};

/// A comment is sent this often while nothing else is.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// Least time between two `progress` events of one stream.
const EVERY: Duration = Duration::from_millis(150);

/// Jobs of this server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct JobList {
    /// Those that are not over, and of each collection the last that are; newest first.
    pub jobs: Vec<Job>,
    /// Where the list goes on, if it does.
    #[serde(default)]
    pub next: Option<String>,
}

/// Which jobs.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those of this collection.
    #[serde(default)]
    #[param(value_type = Option<CollectionName>)]
    collection: Option<String>,
    /// Most jobs to return, 1 to 1,000; absent is 1,000.
    #[serde(default)]
    #[param(default = 1000, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Where to go on: `next` of the page before.
    #[serde(default)]
    cursor: Option<String>,
}

/// List background jobs.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    tag = "jobs",
    params(Which),
    responses(
        (status = 200, description = "The jobs, newest first", body = JobList),
        (status = 400, description = "Malformed name or parameters", body = ErrorBody),
    )
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    ApiQuery(which): ApiQuery<Which>,
) -> Result<Json<JobList>, ApiError> {
    let collection = which.collection.map(|name| name.parse::<CollectionName>()).transpose()?;
    let limit = page::limit(which.limit, page::MAX_LIMIT)?;
    let after = which.cursor.as_deref().map(page::parse::<2>).transpose()?;
    let mut jobs = state.jobs().list(&caller.tenant);
    jobs.retain(|job| collection.as_ref().is_none_or(|name| job.collection == *name));
    // Newest first: what comes later in the list is older. Times are compared as times.
    if let Some([at, id]) = &after {
        let wrong = |_| ApiError::new(ErrorKind::InvalidRequest, "this is not a cursor of this list");
        let at: jiff::Timestamp = at.parse().map_err(wrong)?;
        jobs.retain(|job| (job.created_at, &job.id) < (at, id));
    }
    jobs.truncate(limit + 1);
    let (jobs, next) = page::cut(jobs, limit, |job| page::cursor(&[&job.created_at.to_string(), &job.id]));
    Ok(Json(JobList { jobs, next }))
}

/// How a background job goes.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job}",
    tag = "jobs",
    params(("job" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The job", body = Job),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<Job>, ApiError> {
    Ok(Json(state.jobs().get(&caller.tenant, &id)?.job()))
}

/// The job after `asked`, or a conflict where that came too late.
fn asked(
    state: &AppState,
    caller: &Caller,
    id: &str,
    what: &str,
    ask: impl Fn(&super::Control) -> bool,
) -> Result<Json<Job>, ApiError> {
    let control = state.jobs().get(&caller.tenant, id)?;
    let open = ask(&control);
    let job = control.job();
    if open {
        return Ok(Json(job));
    }
    let message = format!("job `{id}` is {} already and can't be {what}", job.state);
    Err(ApiError::new(ErrorKind::Conflict, message).hint("start another one"))
}

/// Pause a background job. It finishes the step it is at first, and gives its turn to the next job.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job}/pause",
    tag = "jobs",
    params(("job" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It pauses", body = Job),
        (status = 404, description = "No such job", body = ErrorBody),
        (status = 409, description = "It is over", body = ErrorBody),
    )
)]
pub(crate) async fn pause(
    State(state): State<AppState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<Job>, ApiError> {
    asked(&state, &caller, &id, "paused", super::Control::pause)
}

/// Let a paused job go on.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job}/resume",
    tag = "jobs",
    params(("job" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It goes on when it is its turn", body = Job),
        (status = 404, description = "No such job", body = ErrorBody),
        (status = 409, description = "It is over", body = ErrorBody),
    )
)]
pub(crate) async fn resume(
    State(state): State<AppState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<Job>, ApiError> {
    asked(&state, &caller, &id, "resumed", super::Control::resume)
}

/// End a background job. What it has done is kept.
///
/// The job is `cancelled` once it has come to the end of the step it is at.
#[utoipa::path(
    post,
    path = "/v1/jobs/{job}/cancel",
    tag = "jobs",
    params(("job" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "It ends", body = Job),
        (status = 404, description = "No such job", body = ErrorBody),
        (status = 409, description = "It is over", body = ErrorBody),
    )
)]
pub(crate) async fn cancel(
    State(state): State<AppState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> Result<Json<Job>, ApiError> {
    asked(&state, &caller, &id, "cancelled", super::Control::cancel)
}

/// Follow a background job.
///
/// Events named `progress`, each with the job as it is then; then one named `done`, `failed` or `cancelled` with the job in
/// the end. The stream also ends, without it, when the server goes down.
#[utoipa::path(
    get,
    path = "/v1/jobs/{job}/events",
    tag = "jobs",
    params(("job" = String, Path, description = "Its id")),
    responses(
        (status = 200, description = "The events", body = Job, content_type = "text/event-stream"),
        (status = 404, description = "No such job", body = ErrorBody),
    )
)]
pub(crate) async fn events(
    State(state): State<AppState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> Result<Response, ApiError> {
    let mut job = state.jobs().get(&caller.tenant, &id)?.subscribe();
    let ending = state.lifecycle().reached(Phase::Draining);
    let (sender, events) = mpsc::channel::<Result<sse::Event, Infallible>>(1);
    tokio::spawn(async move {
        tokio::pin!(ending);
        loop {
            let now = job.borrow_and_update().clone();
            let over = now.state.ended();
            if sender.send(Ok(event(&now))).await.is_err() || over {
                return;
            }
            let next = async {
                tokio::time::sleep(EVERY).await;
                job.changed().await.is_ok()
            };
            let goes_on = tokio::select! {
                goes_on = next => goes_on,
                () = sender.closed() => false,
                () = &mut ending => false,
            };
            if !goes_on {
                return;
            }
        }
    });
    let stream = Sse::new(ReceiverStream::new(events)).keep_alive(sse::KeepAlive::new().interval(KEEP_ALIVE));
    let mut response = stream.into_response();
    response.headers_mut().insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

fn event(job: &Job) -> sse::Event {
    let name = match job.state {
        JobState::Done | JobState::Failed | JobState::Cancelled => job.state.as_str(),
        JobState::Queued | JobState::Running | JobState::Paused => "progress",
    };
    crate::sse::event(name, job)
}
