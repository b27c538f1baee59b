//! Searching a tree without answering: which nodes and passages a question would be answered from.

use axum::{Json, extract::State};
use edgewise_planner::{Query, tree_breadth};
use edgewise_retrieval::{TreeMode, TreeResults, TreeSearchRequest};
use edgewise_types::{CollectionName, DocumentId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ApiError, ErrorBody,
    caller::Caller,
    collections::{parse_filter, parse_ids},
    extract::{ApiJson, InCollection},
    state::{AppState, Parts},
};

/// A search over summaries and passages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectionTreeSearchRequest {
    /// What to look for, in natural language.
    pub query: String,
    /// Most tokens of the texts that are returned, counted by the generator's tokenizer.
    #[serde(default = "default_budget")]
    #[schema(default = 1200, minimum = 1)]
    pub budget_tokens: usize,
    /// How the tree is searched; absent searches all levels at once.
    #[serde(default)]
    pub search: Option<TreeMode>,
    /// How much the question is about the whole: 0 for one fact in one place, 1 for a summary of everything. Absent goes by
    /// the kind of question, as an answer does.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub breadth: Option<f32>,
    /// Search only in these documents; a node counts only if all it summarises is of these.
    #[serde(default)]
    #[schema(value_type = Option<Vec<DocumentId>>)]
    pub documents: Option<Vec<String>>,
    /// Search only in documents that satisfy this; a node counts only if all it summarises is of such.
    #[serde(default)]
    pub filter: Option<String>,
    /// Suppress texts that are like those before them: 0 ranks by relevance alone, 1 by difference alone.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub diversity: Option<f32>,
    /// Whether a node may be returned together with what is above or below it.
    #[serde(default)]
    pub allow_ancestors: bool,
}

fn default_budget() -> usize {
    1200
}

/// Search a collection's summary tree without answering.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/tree/search",
    tag = "tree",
    params(("collection" = CollectionName, Path, description = "Its name")),
    request_body = CollectionTreeSearchRequest,
    responses(
        (status = 200, description = "Summaries and passages, best first", body = TreeResults),
        (status = 400, description = "Malformed or invalid request", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn search(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    ApiJson(request): ApiJson<CollectionTreeSearchRequest>,
) -> Result<Json<TreeResults>, ApiError> {
    let CollectionTreeSearchRequest { query: text, budget_tokens, search, breadth, diversity, allow_ancestors, .. } =
        request;
    let (documents, filter) = (parse_ids(request.documents)?, parse_filter(request.filter.as_deref())?);
    let collections = state.collections(&caller)?;
    let search = move |parts: &Parts| {
        let collection = collections.get(&name)?;
        let breadth = match breadth {
            Some(breadth) => breadth,
            None => {
                let (documents, filter) = (documents.clone(), filter.clone());
                let query = Query { documents, filter, tenant: caller.tenant, ..Query::new(text.clone()) };
                tree_breadth(&parts.planner.question_kind(&collection, &query)?)
            }
        };
        Ok(Json(collection.search_tree(&TreeSearchRequest {
            mode: search.unwrap_or_default(),
            breadth,
            documents,
            filter,
            diversity,
            allow_ancestors,
            ..TreeSearchRequest::new(text, budget_tokens)
        })?))
    };
    state.read(search).await
}
