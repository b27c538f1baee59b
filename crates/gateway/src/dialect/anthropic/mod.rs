//! Anthropic's Messages API: `POST /v1/messages` and `/v1/messages/count_tokens`.
//!
//! Usage has the fields of that API with its meaning: the three input classes are disjoint and their sum is the prompt.
//! Where that API is silent about breakpoints of prefixes too short to keep, two response headers tell:
//! `x-edgewise-cache-min-tokens` and `x-edgewise-cache-skipped-breakpoints`.

mod params;
mod reply;
mod request;

use axum::{
    Json,
    extract::State,
    http::HeaderValue,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{ApiError, caller::Caller, extract::ApiJson, middleware::RequestId, state::AppState};

pub(crate) use params::{CountRequest, MessagesRequest};
pub(crate) use reply::MessageReply;

use super::{Model, Running, engine, unsupported};

/// Shortest prefix that is kept.
const MIN_TOKENS: &str = "x-edgewise-cache-min-tokens";
/// Breakpoints before it.
const SKIPPED: &str = "x-edgewise-cache-skipped-breakpoints";

/// Create a message, in the form of Anthropic's Messages API.
///
/// The model is the generator's name, or `edgewise/<collection>`, which asks that collection: the last message is the
/// question, and citations are those of the answer. Without `stream`, the message; with it, its events: `message_start`,
/// `content_block_start`, `content_block_delta`, `content_block_stop`, `message_delta`, `message_stop`. Failures have
/// the body `{"type": "error", "error": {"type", "message"}}`.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "dialects",
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "The message, or its events", content(
            (MessageReply = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = "4XX", description = "Malformed, unknown, too large, or too much", body = Object),
        (status = "5XX", description = "Failure inside the server, loading, or shutting down", body = Object),
    )
)]
pub(crate) async fn messages(
    State(state): State<AppState>,
    caller: Caller,
    id: RequestId,
    ApiJson(request): ApiJson<MessagesRequest>,
) -> Result<Response, ApiError> {
    let model = Model::parse(&state, &request.model)?;
    let (name, stream) = (request.model.clone(), request.stream);
    let (task, reading) = request.into_task(&model)?;
    let mut running = task.start(&state, caller, id.clone()).await?;
    let marked = running.marked();
    let message = reply::Builder::new(&id.0, name, reading);
    let mut response = if stream {
        reply::stream(running, message).await?
    } else {
        Json(collect(&mut running, message).await?).into_response()
    };
    if let Some(marked) = marked.filter(|marked| marked.marks > 0) {
        response.headers_mut().insert(MIN_TOKENS, HeaderValue::from(marked.min_tokens));
        response.headers_mut().insert(SKIPPED, HeaderValue::from(marked.too_short));
    }
    Ok(response)
}

async fn collect(running: &mut Running, message: reply::Builder) -> Result<MessageReply, ApiError> {
    Ok(message.whole(running.collect().await?))
}

/// Tokens of a prompt.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct TokenCount {
    /// Tokens of the prompt, tools and system prompt included.
    pub(crate) input_tokens: usize,
}

/// Count the tokens of a message's prompt, without answering it.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "dialects",
    request_body = CountRequest,
    responses(
        (status = 200, description = "The count", body = TokenCount),
        (status = "4XX", description = "Malformed, unknown, or too large", body = Object),
        (status = "5XX", description = "Failure inside the server, loading, or shutting down", body = Object),
    )
)]
pub(crate) async fn count_tokens(
    State(state): State<AppState>,
    ApiJson(request): ApiJson<CountRequest>,
) -> Result<Json<TokenCount>, ApiError> {
    if Model::parse(&state, &request.model)? != Model::Engine {
        return Err(unsupported("model", "the prompt of a question to a collection is composed when it is asked")
            .hint("POST /v1/routes/explain tells the tokens of every route"));
    }
    let input_tokens = engine::count(&state, request.into_chat()?).await?;
    Ok(Json(TokenCount { input_tokens }))
}
