//! Questions: `POST /v1/query` and `POST /v1/routes/explain`.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use edgewise_model_api::Sampling;
use edgewise_planner::{Answer, Budget, Explanation, Objective, Query, Route, Turn};
use edgewise_types::{CollectionName, DocumentId};

use crate::{
    ApiError, ErrorBody, ErrorKind,
    answering::{Answering, Progress},
    caller::Caller,
    collections::{parse_filter, parse_ids},
    conversations::{Continued, Keep},
    extract::ApiJson,
    middleware::RequestId,
    sse,
    state::AppState,
};

/// A route to take, or the choice of one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RouteChoice {
    /// The planner chooses.
    #[default]
    Auto,
    /// The top chunks, fused and placed.
    Passages,
    /// Summaries of documents and of the collection, beside the passages they leave out.
    Tree,
    /// The few right documents, whole.
    Documents,
    /// The whole collection or scope, in one fixed order.
    Full,
}

impl RouteChoice {
    pub(crate) fn forced(self) -> Option<Route> {
        match self {
            Self::Auto => None,
            Self::Passages => Some(Route::Passages),
            Self::Tree => Some(Route::Tree),
            Self::Documents => Some(Route::Documents),
            Self::Full => Some(Route::Full),
        }
    }
}

/// A question to a collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QueryRequest {
    /// The collection to answer from. May be left out with `conversation`, which has one.
    #[serde(default)]
    #[schema(value_type = Option<CollectionName>, example = "guide")]
    pub collection: Option<String>,
    /// The question.
    #[schema(example = "How do I rotate the keys?")]
    pub question: String,
    /// Route to take; `auto`, or absent, lets the planner choose.
    #[serde(default)]
    pub route: Option<RouteChoice>,
    /// What the choice optimises; absent is balanced.
    #[serde(default)]
    pub objective: Objective,
    /// Hard limits.
    #[serde(default)]
    pub budget: Budget,
    /// Passages to place at most; absent takes the configured number.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// Answer only from these documents; absent is the whole collection.
    #[serde(default)]
    #[schema(value_type = Option<Vec<DocumentId>>)]
    pub documents: Option<Vec<String>>,
    /// Answer only from documents whose metadata satisfies this, such as `year >= 2020 and uri like 'guide/**'`; absent is
    /// all of them.
    #[serde(default)]
    #[schema(example = "language = 'en' and date >= 2020")]
    pub filter: Option<String>,
    /// How tokens are drawn; absent is greedy.
    #[serde(default)]
    pub sampling: Sampling,
    /// Most tokens of the answer; absent takes the configured number.
    #[serde(default)]
    pub max_output_tokens: Option<usize>,
    /// Strings that end the answer.
    #[serde(default)]
    pub stop: Vec<String>,
    /// Earlier turns of the conversation, oldest first: `turn` of each answer, as it came. At most 64, with 256 KiB of
    /// questions and answers in all.
    #[serde(default)]
    pub history: Vec<Turn>,
    /// Id of a conversation whose history the server keeps, in place of `history`: the question goes on from its last turn,
    /// and becomes its next. While a question of it is being answered, another is refused with 409.
    #[serde(default)]
    #[schema(example = json!(null))]
    pub conversation: Option<String>,
    /// What to do with the question, in place of the server's own instruction; at most 16 KiB. The server's rules about
    /// sources and citations stay.
    #[serde(default)]
    pub instructions: Option<String>,
    /// Whether to take a wider route once when the sources seem not to hold the answer; absent does as configured with
    /// `auto`, and does not with a route that is asked for.
    #[serde(default)]
    pub escalate: Option<bool>,
    /// Whether to stream the answer as server-sent events.
    #[serde(default)]
    pub stream: bool,
}

/// A question whose routes are to be priced, not answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// The collection. May be left out with `conversation`, which has one.
    #[serde(default)]
    #[schema(value_type = Option<CollectionName>, example = "guide")]
    pub collection: Option<String>,
    /// The question.
    pub question: String,
    /// Route to take; `auto`, or absent, lets the planner choose.
    #[serde(default)]
    pub route: Option<RouteChoice>,
    /// What the choice optimises; absent is balanced.
    #[serde(default)]
    pub objective: Objective,
    /// Hard limits.
    #[serde(default)]
    pub budget: Budget,
    /// Passages to place at most; absent takes the configured number.
    #[serde(default)]
    pub top_k: Option<usize>,
    /// Consider only these documents; absent is the whole collection.
    #[serde(default)]
    #[schema(value_type = Option<Vec<DocumentId>>)]
    pub documents: Option<Vec<String>>,
    /// Consider only documents whose metadata satisfies this, such as `year >= 2020 and uri like 'guide/**'`; absent is
    /// all of them.
    #[serde(default)]
    #[schema(example = "language = 'en' and date >= 2020")]
    pub filter: Option<String>,
    /// Most tokens of the answer; absent takes the configured number.
    #[serde(default)]
    pub max_output_tokens: Option<usize>,
    /// Earlier turns of the conversation, oldest first: `turn` of each answer, as it came. At most 64, with 256 KiB of
    /// questions and answers in all.
    #[serde(default)]
    pub history: Vec<Turn>,
    /// Id of a conversation whose history the server keeps, in place of `history`. Nothing is added to it.
    #[serde(default)]
    #[schema(example = json!(null))]
    pub conversation: Option<String>,
    /// What to do with the question, in place of the server's own instruction.
    #[serde(default)]
    pub instructions: Option<String>,
    /// Whether to take a wider route once when the sources seem not to hold the answer; absent does as configured with
    /// `auto`, and does not with a route that is asked for.
    #[serde(default)]
    pub escalate: Option<bool>,
}

impl From<ExplainRequest> for QueryRequest {
    fn from(request: ExplainRequest) -> Self {
        let ExplainRequest {
            collection,
            question,
            route,
            objective,
            budget,
            top_k,
            documents,
            filter,
            max_output_tokens,
            history,
            conversation,
            instructions,
            escalate,
        } = request;
        Self {
            collection,
            question,
            route,
            objective,
            budget,
            top_k,
            documents,
            filter,
            max_output_tokens,
            history,
            conversation,
            instructions,
            escalate,
            sampling: Sampling::default(),
            stop: Vec::new(),
            stream: false,
        }
    }
}

/// A question that was checked as far as it can be without its collection.
struct Asked {
    collection: CollectionName,
    query: Query,
    keep: Option<Keep>,
}

impl QueryRequest {
    /// The planner's query, which checks the ranges, with the history of its conversation. With `only_look`, nothing will be
    /// added to that.
    async fn into_query(mut self, state: &AppState, caller: &Caller, only_look: bool) -> Result<Asked, ApiError> {
        let tenant = caller.tenant.clone();
        let invalid = |message: &str| ApiError::new(ErrorKind::InvalidRequest, message);
        let named = self.collection.take().map(|name| name.parse::<CollectionName>()).transpose()?;
        let documents = parse_ids(self.documents)?;
        let filter = parse_filter(self.filter.as_deref())?;
        let (collection, history, keep) = match self.conversation {
            None => {
                let none = || invalid("`collection` is missing").hint("name one, or the `conversation` to go on with");
                (named.ok_or_else(none)?, self.history, None)
            }
            Some(_) if !self.history.is_empty() => {
                return Err(invalid("`history` and `conversation` can't be sent together")
                    .hint("leave out `history`: the server keeps that of the conversation"));
            }
            Some(id) => {
                let open = Continued::open(state, &tenant, id, only_look).await?;
                let (collection, history, keep) = open.into_parts();
                if named.is_some_and(|named| named != collection) {
                    return Err(invalid(&format!("the conversation asks collection `{collection}`"))
                        .hint("leave out `collection`, or begin another conversation"));
                }
                (collection, history, Some(keep))
            }
        };
        let query = Query {
            question: self.question,
            route: self.route.and_then(RouteChoice::forced),
            objective: self.objective,
            budget: self.budget,
            ceilings: Vec::new(),
            top_k: self.top_k,
            documents,
            filter,
            sampling: self.sampling,
            max_output_tokens: self.max_output_tokens,
            stop: self.stop,
            tenant,
            key: None,
            history,
            escalate: self.escalate,
            instructions: self.instructions,
        };
        Ok(Asked { collection, query, keep })
    }
}

/// Answer a question.
///
/// Without `stream`, the complete answer. With `stream`, server-sent events: `plan` (Explanation), `sources`
/// (SourcesEvent: the passages, documents or summaries in the prompt), `token` (TokenEvent), `citation` (Citation), `usage` (UsageEvent), then `done` (Answer) or `error`
/// (ErrorBody). When the sources seem not to hold the answer, `escalated` (Escalated) comes behind the tokens, and
/// `sources` and `token` events once more: the tokens before it are superseded. A failure before the first event is an ordinary error response. Closing the connection cancels the
/// answer.
#[utoipa::path(
    post,
    path = "/v1/query",
    tag = "questions",
    request_body = QueryRequest,
    responses(
        (status = 200, description = "The answer, or its events", content(
            (Answer = "application/json"),
            (String = "text/event-stream"),
        )),
        (status = 400, description = "Malformed or invalid request", body = ErrorBody),
        (status = 404, description = "No such collection, document or conversation", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 409, description = "A question of the conversation is being answered", body = ErrorBody),
        (status = 413, description = "Body too large", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 422, description = "Nothing to answer from, or no route fits the budget or the window", body = ErrorBody),
        (status = 429, description = "Too much work is queued; see Retry-After", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
        (status = 503, description = "Loading or shutting down", body = ErrorBody),
        (status = 504, description = "The answer took too long", body = ErrorBody),
    )
)]
pub(crate) async fn query(
    State(state): State<AppState>,
    caller: Caller,
    request_id: RequestId,
    ApiJson(request): ApiJson<QueryRequest>,
) -> Result<Response, ApiError> {
    let stream = request.stream;
    let Asked { collection, query, keep } = request.into_query(&state, &caller, false).await?;
    let mut answering = Answering::start(&state, &caller, collection, query, request_id, keep)?;
    if stream {
        return sse::respond(answering).await;
    }
    while let Some(progress) = answering.next().await {
        match progress {
            Progress::Event(_) => {}
            Progress::Done(answer) => return Ok(Json(*answer).into_response()),
            Progress::Failed(error) => return Err(error),
        }
    }
    Err(ApiError::internal("the answer ended without a result"))
}

/// Price every route for a question, without answering it.
///
/// The whole decision: features, every route with its predicted tokens, cost, times and quality and why it lost, what the
/// prompt leaves out, the prompt part by part with what is in the cache, and what would follow an answer that seems not
/// to be in the sources. Nothing is generated.
#[utoipa::path(
    post,
    path = "/v1/routes/explain",
    tag = "questions",
    request_body = ExplainRequest,
    responses(
        (status = 200, description = "The routes and the choice", body = Explanation),
        (status = 400, description = "Malformed or invalid request", body = ErrorBody),
        (status = 404, description = "No such collection or document", body = ErrorBody),
        (status = 422, description = "Nothing to answer from, or no route fits the budget or the window", body = ErrorBody),
        (status = 429, description = "Too much work is queued; see Retry-After", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn explain(
    State(state): State<AppState>,
    caller: Caller,
    ApiJson(request): ApiJson<ExplainRequest>,
) -> Result<Json<Explanation>, ApiError> {
    let Asked { collection, query, .. } = QueryRequest::from(request).into_query(&state, &caller, true).await?;
    let query = Query { ceilings: caller.ceilings(), ..query };
    let collections = state.collections(&caller)?;
    // Composing prompts to price them is work of the size of an answer's preparation, hence the same limit.
    let slot = state.answer_slot()?;
    let explanation = state
        .blocking(slot, move |parts| {
            let collection = collections.get(&collection)?;
            Ok(parts.planner.explain(&collection, &query)?)
        })
        .await?;
    Ok(Json(explanation))
}
