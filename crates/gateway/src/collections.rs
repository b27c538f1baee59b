//! Collections: list, create, look at, delete, search.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{Json, extract::State, http::StatusCode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_retrieval::{CollectionStats, Filter, Fusion, RetrievalError, SearchRequest, SearchResults};
use edgewise_types::{CollectionName, DocumentId};

use crate::{
    ApiError, ErrorBody, ErrorDetail,
    caller::Caller,
    extract::{ApiJson, InCollection},
    state::{AppState, Parts},
};

/// Every collection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CollectionList {
    /// Those that work, in order of name.
    pub collections: Vec<CollectionStats>,
    /// Those that can't be opened.
    pub damaged: Vec<DamagedCollection>,
}

/// A collection that can't be opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamagedCollection {
    /// Its name.
    pub name: CollectionName,
    /// Why.
    pub error: ErrorDetail,
}

/// A collection to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateCollectionRequest {
    /// Its name.
    #[schema(value_type = CollectionName)]
    pub name: String,
}

/// A search without an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectionSearchRequest {
    /// What to look for, in natural language.
    pub query: String,
    /// Most hits to return, 1 to 1,000.
    #[serde(default = "default_limit")]
    #[schema(default = 10, minimum = 1, maximum = 1000)]
    pub limit: usize,
    /// How the two arms are combined; absent takes the collection's own way.
    #[serde(default)]
    pub fusion: Option<Fusion>,
    /// Search only in these documents; absent searches all.
    #[serde(default)]
    #[schema(value_type = Option<Vec<DocumentId>>)]
    pub documents: Option<Vec<String>>,
    /// Search only in documents whose metadata satisfies this, such as `year >= 2020 and uri like 'guide/**'`.
    #[serde(default)]
    pub filter: Option<String>,
    /// Suppress near-duplicates: 0 ranks by relevance alone, 1 by difference alone.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub diversity: Option<f32>,
    /// Whether a reranker reads the best hits once more; absent takes it if the server has one.
    #[serde(default)]
    pub rerank: Option<bool>,
}

fn default_limit() -> usize {
    10
}

/// List the collections.
#[utoipa::path(
    get,
    path = "/v1/collections",
    tag = "collections",
    responses(
        (status = 200, description = "Every collection", body = CollectionList),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn list(State(state): State<AppState>, caller: Caller) -> Result<Json<CollectionList>, ApiError> {
    let collections = state.collections(&caller)?;
    let listing = state.read(move |_| Ok(collections.list()?)).await?;
    let damaged = listing.damaged.into_iter().map(|(name, error)| {
        let error = ApiError::from(error);
        error.log();
        DamagedCollection { name, error: error.body().error }
    });
    Ok(Json(CollectionList { collections: listing.collections, damaged: damaged.collect() }))
}

/// Make a collection. Making one that exists changes nothing.
#[utoipa::path(
    post,
    path = "/v1/collections",
    tag = "collections",
    request_body = CreateCollectionRequest,
    responses(
        (status = 201, description = "It was made", body = CollectionStats),
        (status = 200, description = "It existed already", body = CollectionStats),
        (status = 400, description = "Malformed request or name", body = ErrorBody),
        (status = 409, description = "Another process holds it", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    ApiJson(request): ApiJson<CreateCollectionRequest>,
) -> Result<(StatusCode, Json<CollectionStats>), ApiError> {
    let name: CollectionName = request.name.parse()?;
    let collections = state.collections(&caller)?;
    state
        .read(move |_| {
            let status = match collections.get(&name) {
                Ok(_) => StatusCode::OK,
                Err(RetrievalError::UnknownCollection { .. }) => StatusCode::CREATED,
                Err(error) => return Err(error.into()),
            };
            let collection = collections.get_or_create_default(&name)?;
            Ok((status, Json(collection.stats()?)))
        })
        .await
}

/// Size and state of a collection.
#[utoipa::path(
    get,
    path = "/v1/collections/{collection}",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    responses(
        (status = 200, description = "Its size and state", body = CollectionStats),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
) -> Result<Json<CollectionStats>, ApiError> {
    let collections = state.collections(&caller)?;
    state.read(move |_| Ok(Json(collections.get(&name)?.stats()?))).await
}

/// Delete a collection with everything in it.
#[utoipa::path(
    delete,
    path = "/v1/collections/{collection}",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 409, description = "Another process writes to it", body = ErrorBody),
    )
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
) -> Result<StatusCode, ApiError> {
    let collections = state.collections(&caller)?;
    state
        .read(move |_| {
            collections.delete(&name)?;
            Ok(StatusCode::NO_CONTENT)
        })
        .await
}

/// Search a collection without answering.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/search",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    request_body = CollectionSearchRequest,
    responses(
        (status = 200, description = "The hits, best first", body = SearchResults),
        (status = 400, description = "Malformed or invalid request", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 429, description = "Too much waits for the reranker", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn search(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    ApiJson(request): ApiJson<CollectionSearchRequest>,
) -> Result<Json<SearchResults>, ApiError> {
    let CollectionSearchRequest { query, limit, fusion, documents, filter, diversity, rerank } = request;
    let documents = parse_ids(documents)?;
    let filter = parse_filter(filter.as_deref())?;
    let request = SearchRequest { query, limit, fusion, documents, filter, diversity, rerank };
    // A closed connection drops this future, and the guard with it.
    let gone = Arc::new(AtomicBool::new(false));
    let _guard = SetOnDrop(Arc::clone(&gone));
    let collections = state.collections(&caller)?;
    let search = move |_: &Parts| {
        let collection = collections.get(&name)?;
        Ok(Json(collection.search_until(&request, &|| gone.load(Ordering::Relaxed))?))
    };
    state.read(search).await
}

/// Says that nobody waits any more.
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Checks the document ids of a request.
pub(crate) fn parse_ids(ids: Option<Vec<String>>) -> Result<Option<Vec<DocumentId>>, ApiError> {
    let parsed = ids.map(|ids| ids.iter().map(|id| id.parse()).collect::<Result<Vec<_>, _>>());
    Ok(parsed.transpose()?)
}

/// Reads the filter of a request.
pub(crate) fn parse_filter(filter: Option<&str>) -> Result<Option<Filter>, ApiError> {
    Ok(filter.map(str::parse::<Filter>).transpose().map_err(RetrievalError::from)?)
}
