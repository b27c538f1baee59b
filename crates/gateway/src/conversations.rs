//! Conversations whose history the server keeps: `/v1/conversations`, and `conversation` in `POST /v1/query`.
//!
//! Invariants:
//! - A turn is on disk before its answer is reported as done, and a conversation has no turn that was not answered.
//! - One question at a time: while one is being answered, another to the same conversation is refused with 409, since it
//!   would be answered without the turn before it. Different conversations do not wait for each other.
//! - What is kept is what a client would have sent back itself (see `edgewise_planner::Turn`): the same checks apply when a
//!   question goes on from it.
//!
//! Deliberately not here: clients that keep their history themselves (`history` in `POST /v1/query`), and those of the
//! dialects (`dialect::memory`).

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use edgewise_planner::{Answer, Citation, MAX_TURN_BYTES, MAX_TURNS, Route, Turn};
use edgewise_types::{CollectionName, Money, TenantId, Timings, Usage};

use crate::{
    ApiError, ErrorBody, ErrorKind,
    caller::Caller,
    extract::{ApiJson, ApiPath, ApiQuery},
    middleware::new_id,
    page::{self, PageParams},
    state::AppState,
    store::{Head, Placed, Store, Stored},
};

/// Longest title, in characters.
const MAX_TITLE: usize = 200;

/// Characters of the first question that become the title of a conversation without one.
const TITLE_OF_QUESTION: usize = 80;

/// Most turns of one conversation.
const MOST_TURNS: usize = 10_000;

/// A conversation to begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConversationRequest {
    /// The collection to ask.
    #[schema(value_type = CollectionName)]
    pub collection: String,
    /// What to call it, 1 to 200 characters; absent takes the first question.
    #[serde(default)]
    #[schema(example = "Keys and their rotation", min_length = 1, max_length = 200)]
    pub title: Option<String>,
}

/// A conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Conversation {
    /// Its id.
    #[schema(example = "conv_0123456789abcdef0123456789abcdef")]
    pub id: String,
    /// The collection it asks.
    pub collection: CollectionName,
    /// What it is called; absent until there is a first question.
    pub title: Option<String>,
    /// When it began.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: jiff::Timestamp,
    /// When its last turn was kept.
    #[schema(value_type = String, format = DateTime)]
    pub updated_at: jiff::Timestamp,
    /// How many turns it has.
    pub turn_count: usize,
}

impl From<Head> for Conversation {
    fn from(head: Head) -> Self {
        let Head { id, collection, title, created, updated, turns } = head;
        Self { id, collection, title, created_at: created, updated_at: updated, turn_count: turns }
    }
}

/// A question and its answer, as they are kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConversationTurn {
    /// Its number, from 1.
    pub n: usize,
    /// When it was kept.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// Id of its request: the header `x-request-id` of the answer.
    pub request_id: String,
    /// The question.
    pub question: String,
    /// The answer; markers that cite nothing are removed.
    pub answer: String,
    /// Its citations.
    pub citations: Vec<Citation>,
    /// Whether the model said that the sources do not hold the answer.
    pub unanswerable: bool,
    /// The route taken.
    pub route: Route,
    /// Tokens used.
    pub usage: Usage,
    /// What it cost.
    pub cost: Money,
    /// Where the time went.
    pub timings: Timings,
    /// What the next question goes on from.
    pub turn: Turn,
}

/// A part of the list of conversations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ConversationList {
    /// The conversations, last used first.
    pub conversations: Vec<Conversation>,
    /// Where the list goes on, if it does.
    pub next: Option<String>,
}

/// A conversation with a part of its turns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ConversationDetail {
    /// The conversation.
    pub conversation: Conversation,
    /// Turns, oldest first.
    pub turns: Vec<ConversationTurn>,
    /// Where the turns go on, if they do.
    pub next: Option<String>,
}

/// Which conversations.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Which {
    /// Only those of this collection.
    #[serde(default)]
    #[param(value_type = Option<CollectionName>)]
    collection: Option<String>,
    /// Most conversations to return, 1 to 1,000; absent is 100.
    #[serde(default)]
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// Where to go on: `next` of the page before.
    #[serde(default)]
    cursor: Option<String>,
}

fn unknown(id: &str) -> ApiError {
    ApiError::new(ErrorKind::UnknownConversation, format!("there is no conversation `{id}`"))
        .hint("GET /v1/conversations lists them; POST /v1/conversations begins one")
}

/// Begin a conversation.
#[utoipa::path(
    post,
    path = "/v1/conversations",
    tag = "questions",
    request_body = ConversationRequest,
    responses(
        (status = 201, description = "It was begun; its path is in the header Location", body = Conversation),
        (status = 400, description = "Malformed request or name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    ApiJson(request): ApiJson<ConversationRequest>,
) -> Result<Response, ApiError> {
    let collections = state.collections(&caller)?;
    let tenant = caller.tenant;
    let collection: CollectionName = request.collection.parse()?;
    let title = request.title.map(check_title).transpose()?;
    let (store, name) = (state.store(), collection.clone());
    let head = state
        .read(move |_| {
            collections.get(&name)?;
            let now = jiff::Timestamp::now();
            let id = format!("conv_{}{}", new_id(), new_id());
            let head = Head { id, collection, title, created: now, updated: now, turns: 0 };
            store.create_conversation(&tenant, &head)?;
            Ok(head)
        })
        .await?;
    let location = HeaderValue::from_str(&format!("/v1/conversations/{}", head.id));
    let mut response = (StatusCode::CREATED, Json(Conversation::from(head))).into_response();
    if let Ok(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn check_title(title: String) -> Result<String, ApiError> {
    let length = title.chars().count();
    if title.trim().is_empty() || length > MAX_TITLE || title.chars().any(char::is_control) {
        let message = format!("a title has 1 to {MAX_TITLE} characters on one line, not all of them blank");
        return Err(ApiError::new(ErrorKind::InvalidRequest, message));
    }
    Ok(title)
}

/// List conversations, last used first.
#[utoipa::path(
    get,
    path = "/v1/conversations",
    tag = "questions",
    params(Which),
    responses(
        (status = 200, description = "The conversations", body = ConversationList),
        (status = 400, description = "Malformed name or parameters", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    ApiQuery(which): ApiQuery<Which>,
) -> Result<Json<ConversationList>, ApiError> {
    let tenant = caller.tenant;
    let collection = which.collection.map(|name| name.parse::<CollectionName>()).transpose()?;
    let limit = page::limit(which.limit, 100)?;
    let after = which.cursor.as_deref().map(page::parse::<2>).transpose()?.map(place).transpose()?;
    let store = state.store();
    let heads =
        state.read(move |_| Ok(store.conversations(&tenant, collection.as_ref(), after.as_ref(), limit + 1)?)).await?;
    let key = |head: &Head| page::cursor(&[&head.updated.as_microsecond().to_string(), &head.id]);
    let (heads, next) = page::cut(heads, limit, key);
    Ok(Json(ConversationList { conversations: heads.into_iter().map(Conversation::from).collect(), next }))
}

fn place([updated, id]: [String; 2]) -> Result<Placed, ApiError> {
    let wrong = |_| ApiError::new(ErrorKind::InvalidRequest, "this is not a cursor of this list");
    Ok(Placed { updated: updated.parse().map_err(wrong)?, id })
}

/// A conversation with its turns, oldest first.
#[utoipa::path(
    get,
    path = "/v1/conversations/{conversation}",
    tag = "questions",
    params(("conversation" = String, Path, description = "Its id"), PageParams),
    responses(
        (status = 200, description = "The conversation", body = ConversationDetail),
        (status = 400, description = "Malformed parameters", body = ErrorBody),
        (status = 404, description = "No such conversation", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
    ApiQuery(page): ApiQuery<PageParams>,
) -> Result<Json<ConversationDetail>, ApiError> {
    let tenant = caller.tenant;
    let limit = page.limit()?;
    let wrong = |_| ApiError::new(ErrorKind::InvalidRequest, "this is not a cursor of this list");
    let after = page.after::<1>()?.map(|[n]| n.parse::<usize>().map_err(wrong)).transpose()?.unwrap_or(0);
    let store = state.store();
    let detail = move |_: &crate::state::Parts| {
        let head = store.conversation(&tenant, &id)?.ok_or_else(|| unknown(&id))?;
        let turns = store.turns(&tenant, &id, after, limit + 1)?;
        let (turns, next) = page::cut(turns, limit, |turn| page::cursor(&[&turn.n.to_string()]));
        let turns = turns.iter().map(read_turn).collect::<Result<Vec<_>, _>>()?;
        Ok(Json(ConversationDetail { conversation: head.into(), turns, next }))
    };
    state.read(detail).await
}

fn read_turn(stored: &Stored) -> Result<ConversationTurn, ApiError> {
    serde_json::from_str(&stored.record)
        .map_err(|error| ApiError::internal(format!("turn {} of a conversation can't be read: {error}", stored.n)))
}

/// Delete a conversation with its turns. A question that is being answered is answered, and not kept.
#[utoipa::path(
    delete,
    path = "/v1/conversations/{conversation}",
    tag = "questions",
    params(("conversation" = String, Path, description = "Its id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 404, description = "No such conversation", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    ApiPath(id): ApiPath<String>,
) -> Result<StatusCode, ApiError> {
    let (tenant, store) = (caller.tenant, state.store());
    let delete = move |_: &crate::state::Parts| match store.delete_conversation(&tenant, &id)? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(unknown(&id)),
    };
    state.read(delete).await
}

/// Conversations in which a question is being answered. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Busy(Arc<Mutex<HashSet<String>>>);

/// A conversation's turn to ask; it is given back when this is dropped.
#[derive(Debug)]
pub(crate) struct Asked {
    id: String,
    busy: Busy,
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.busy.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Busy {
    fn take(&self, id: &str) -> Option<Asked> {
        let new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned());
        new.then(|| Asked { id: id.to_owned(), busy: self.clone() })
    }
}

/// A conversation that a question goes on from.
#[derive(Debug)]
pub(crate) struct Continued {
    pub(crate) collection: CollectionName,
    pub(crate) history: Vec<Turn>,
    keep: Keep,
}

/// Keeps the turn of an answer.
#[derive(Debug)]
pub(crate) struct Keep {
    store: Arc<Store>,
    tenant: TenantId,
    id: String,
    /// Number of the turn to come.
    n: usize,
    _asked: Option<Asked>,
}

impl Continued {
    /// Takes the conversation's turn and reads what was said. With `only_look`, nothing will be kept and nobody waits.
    pub(crate) async fn open(
        state: &AppState,
        tenant: &TenantId,
        id: String,
        only_look: bool,
    ) -> Result<Self, ApiError> {
        let asked = match only_look {
            true => None,
            // Under the tenant's name: that another's conversation is busy is not for this one to know.
            false => Some(state.busy().take(&format!("{tenant}/{id}")).ok_or_else(|| {
                ApiError::new(
                    ErrorKind::Conflict,
                    format!(
                        "a question of conversation `{id}` is being answered, and the next goes on from its answer"
                    ),
                )
                .hint("send this one once that answer is complete")
                .retry_after(std::time::Duration::from_secs(1))
            })?),
        };
        let (store, tenant) = (state.store(), tenant.clone());
        state
            .read(move |_| {
                let head = store.conversation(&tenant, &id)?.ok_or_else(|| unknown(&id))?;
                if head.turns >= MOST_TURNS {
                    let message = format!("conversation `{id}` has {MOST_TURNS} turns, which is the most");
                    return Err(ApiError::new(ErrorKind::Conflict, message).hint("begin another one"));
                }
                let kept = store.last_turns(&tenant, &id, MAX_TURNS)?;
                let turns = kept.iter().map(|turn| Ok(read_turn(turn)?.turn)).collect::<Result<Vec<_>, ApiError>>()?;
                let keep = Keep { store, tenant, id, n: head.turns + 1, _asked: asked };
                Ok(Self { collection: head.collection, history: recent(turns), keep })
            })
            .await
    }

    /// What to ask with, and what keeps the answer.
    pub(crate) fn into_parts(self) -> (CollectionName, Vec<Turn>, Keep) {
        (self.collection, self.history, self.keep)
    }
}

/// The latest of `turns` that a question may bring along.
fn recent(mut turns: Vec<Turn>) -> Vec<Turn> {
    let length = |turn: &Turn| {
        turn.question.len() + turn.answer.len() + turn.attempt.as_ref().map_or(0, |attempt| attempt.answer.len())
    };
    let mut bytes = 0;
    let fitting = turns.iter().rev().take(MAX_TURNS).take_while(|turn| {
        bytes += length(turn);
        bytes <= MAX_TURN_BYTES
    });
    let beyond = turns.len() - fitting.count();
    turns.drain(..beyond);
    for (index, turn) in turns.iter_mut().enumerate() {
        // What stood in a prompt and is not brought along any more can't be rebuilt.
        turn.continues = turn.continues.min(index);
    }
    turns
}

impl Keep {
    /// Appends the answer's turn. Blocks until it is on disk. A conversation that was deleted meanwhile stays deleted.
    pub(crate) fn keep(self, request_id: &str, answer: &Answer) -> Result<(), ApiError> {
        let at = jiff::Timestamp::now();
        let turn = ConversationTurn {
            n: self.n,
            at,
            request_id: request_id.to_owned(),
            question: answer.turn.question.clone(),
            answer: answer.text.clone(),
            citations: answer.citations.clone(),
            unanswerable: answer.unanswerable,
            route: answer.turn.route,
            usage: answer.usage,
            cost: answer.cost,
            timings: answer.timings,
            turn: answer.turn.clone(),
        };
        let record = serde_json::to_string(&turn).map_err(|error| ApiError::internal(error.to_string()))?;
        let plain = turn.question.split_whitespace().collect::<Vec<_>>().join(" ");
        let title: String = plain.chars().filter(|c| !c.is_control()).take(TITLE_OF_QUESTION).collect();
        let stored = Stored { n: self.n, record };
        if !self.store.append_turn(&self.tenant, &self.id, &stored, &title, at)? {
            tracing::info!(conversation = self.id, "the conversation was deleted while a question of it was answered");
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use edgewise_types::Generation;

    use super::*;

    fn turn(bytes: usize, continues: usize) -> Turn {
        Turn {
            question: "x".repeat(bytes),
            answer: String::new(),
            route: Route::Passages,
            sources: Vec::new(),
            generation: Generation::default(),
            continues,
            recap: false,
            attempt: None,
        }
    }

    #[test]
    fn a_long_history_is_shortened_from_its_beginning() {
        let turns: Vec<Turn> = (0..5).map(|n| turn(MAX_TURN_BYTES / 3, n)).collect();
        let kept = recent(turns);
        assert_eq!(kept.iter().map(|turn| turn.continues).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(recent((0..100).map(|n| turn(1, n)).collect()).len(), MAX_TURNS);
        assert_eq!(recent(vec![turn(MAX_TURN_BYTES + 1, 0)]), []);
    }

    #[test]
    fn a_conversation_has_one_turn_to_ask() {
        let busy = Busy::default();
        let first = busy.take("a").unwrap();
        assert!(busy.take("a").is_none());
        assert!(busy.take("b").is_some());
        drop(first);
        assert!(busy.take("a").is_some());
    }
}
