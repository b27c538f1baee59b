//! Collections: list, create, look at, delete, search.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_retrieval::{CollectionStats, Filter, Fusion, RetrievalError, SearchRequest, SearchResults};
use edgewise_types::{CollectionName, DocumentId};

use crate::{
    ApiError, ErrorBody, ErrorDetail,
    caller::Caller,
    etag::{self, IfMatch, IfNoneMatch, Tag},
    extract::{ApiJson, ApiQuery, InCollection},
    page::{self, PageParams},
    state::{AppState, Parts},
};

/// A part of the list of collections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CollectionList {
    /// Those that work, in order of name.
    pub collections: Vec<CollectionStats>,
    /// Those that can't be opened.
    pub damaged: Vec<DamagedCollection>,
    /// Where the list goes on, if it does.
    #[serde(default)]
    pub next: Option<String>,
}

/// Most collections of one page unless a client asks for fewer.
const PAGE: usize = page::MAX_LIMIT;

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

/// List the collections, in order of name.
#[utoipa::path(
    get,
    path = "/v1/collections",
    tag = "collections",
    params(PageParams),
    responses(
        (status = 200, description = "The collections", body = CollectionList),
        (status = 400, description = "Malformed parameters", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    ApiQuery(asked): ApiQuery<PageParams>,
) -> Result<Json<CollectionList>, ApiError> {
    let limit = page::limit(asked.limit, PAGE)?;
    let after = asked.after::<1>()?.map(|[name]| name);
    let own = state.collections(&caller)?;
    let read = move |_: &Parts| {
        let mut names = own.names()?;
        names.retain(|name| after.as_deref().is_none_or(|after| name.as_str() > after));
        names.truncate(limit + 1);
        let (names, next) = page::cut(names, limit, |name| page::cursor(&[name.as_str()]));
        let (mut collections, mut damaged) = (Vec::new(), Vec::new());
        for name in names {
            match own.get(&name).and_then(|collection| collection.stats()) {
                Ok(stats) => collections.push(stats),
                // Deleted since its name was read.
                Err(RetrievalError::UnknownCollection { .. }) => {}
                Err(error) => {
                    let error = ApiError::from(error);
                    error.log();
                    damaged.push(DamagedCollection { name, error: error.body().error });
                }
            }
        }
        Ok(Json(CollectionList { collections, damaged, next }))
    };
    state.read(read).await
}

/// Make a collection. Making one that exists changes nothing.
#[utoipa::path(
    post,
    path = "/v1/collections",
    tag = "collections",
    request_body = CreateCollectionRequest,
    params(IfNoneMatch),
    responses(
        (status = 201, description = "It was made", body = CollectionStats),
        (status = 200, description = "It existed already", body = CollectionStats),
        (status = 400, description = "Malformed request or name", body = ErrorBody),
        (status = 409, description = "Another process holds it", body = ErrorBody),
        (status = 412, description = "It exists, which If-None-Match forbids", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn create(
    State(state): State<AppState>,
    caller: Caller,
    headers: HeaderMap,
    ApiJson(request): ApiJson<CreateCollectionRequest>,
) -> Result<Response, ApiError> {
    let name: CollectionName = request.name.parse()?;
    let collections = state.collections(&caller)?;
    let turn = state.order().turn(&caller.tenant, &name, &headers).await;
    state
        .read(move |_| {
            let _turn = turn;
            let (status, now) = match collections.get(&name) {
                Ok(collection) => (StatusCode::OK, Some(Tag::of_json(&collection.stats()?)?)),
                Err(RetrievalError::UnknownCollection { .. }) => (StatusCode::CREATED, None),
                Err(error) => return Err(error.into()),
            };
            etag::check(&headers, now.as_ref())?;
            let stats = collections.get_or_create_default(&name)?.stats()?;
            let tag = Tag::of_json(&stats)?;
            Ok(tag.respond(&HeaderMap::new(), (status, Json(stats))))
        })
        .await
}

/// Size and state of a collection.
#[utoipa::path(
    get,
    path = "/v1/collections/{collection}",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name"), IfNoneMatch),
    responses(
        (status = 200, description = "Its size and state", body = CollectionStats),
        (status = 304, description = "It is what If-None-Match names"),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let collections = state.collections(&caller)?;
    state.read(move |_| etag::json(&headers, &collections.get(&name)?.stats()?)).await
}

/// Delete a collection with everything in it.
#[utoipa::path(
    delete,
    path = "/v1/collections/{collection}",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name"), IfMatch),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 409, description = "Another process writes to it", body = ErrorBody),
        (status = 412, description = "It is not what If-Match names", body = ErrorBody),
    )
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let collections = state.collections(&caller)?;
    let turn = state.order().turn(&caller.tenant, &name, &headers).await;
    state
        .read(move |_| {
            let _turn = turn;
            if etag::conditional(&headers) {
                etag::check(&headers, Some(&Tag::of_json(&collections.get(&name)?.stats()?)?))?;
            }
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
