//! Upkeep of a collection: check, repair, compact, rename, export.
//!
//! All of it also works while the server itself has the collection open, and searches go on meanwhile. Each takes the place
//! of an upload, since it may read or write as much.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use tokio_stream::wrappers::ReceiverStream;
use utoipa::ToSchema;

use edgewise_retrieval::{CheckReport, CollectionStats, Compacted, Repaired};
use edgewise_types::CollectionName;

use crate::{
    ApiError, ErrorBody,
    caller::Caller,
    extract::{ApiJson, InCollection},
    state::AppState,
};

/// Bytes of an export read at a time.
const BLOCK: usize = 256 << 10;

/// Blocks of an export that wait for a slow reader.
const BLOCKS_AHEAD: usize = 4;

/// A new name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenameCollectionRequest {
    /// The new name.
    #[schema(value_type = CollectionName)]
    pub(crate) name: String,
}

/// Compare a collection's catalog with itself and with both indexes.
///
/// Answers 200 whatever is found: the report says it.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/check",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    responses(
        (status = 200, description = "What was found", body = CheckReport),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn check(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
) -> Result<Json<CheckReport>, ApiError> {
    let collections = state.collections(&caller)?;
    let slot = state.upload_slot().await?;
    state.blocking(slot, move |_| Ok(Json(edgewise_retrieval::check(collections.root(), &name)?))).await
}

/// Mend what a check finds, from the catalog.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/repair",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    responses(
        (status = 200, description = "What was wrong before, and what is now", body = Repaired),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 409, description = "Another process writes to it", body = ErrorBody),
        (status = 500, description = "The catalog itself is damaged, or a failure inside the server", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn repair(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
) -> Result<Json<Repaired>, ApiError> {
    let collections = state.collections(&caller)?;
    let slot = state.upload_slot().await?;
    state.blocking(slot, move |_| Ok(Json(collections.repair(&name)?))).await
}

/// Give back the room of deleted documents.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/compact",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    responses(
        (status = 200, description = "The room before and after", body = Compacted),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 409, description = "Another process writes to it", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn compact(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
) -> Result<Json<Compacted>, ApiError> {
    let collections = state.collections(&caller)?;
    let slot = state.upload_slot().await?;
    state.blocking(slot, move |_| Ok(Json(collections.compact(&name)?))).await
}

/// Give a collection another name.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/rename",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    request_body = RenameCollectionRequest,
    responses(
        (status = 200, description = "The collection under its new name", body = CollectionStats),
        (status = 400, description = "Malformed request or name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 409, description = "The name is taken, or another process writes to it", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn rename(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    ApiJson(request): ApiJson<RenameCollectionRequest>,
) -> Result<Json<CollectionStats>, ApiError> {
    let to: CollectionName = request.name.parse()?;
    let collections = state.collections(&caller)?;
    let slot = state.upload_slot().await?;
    let turn = state.order().turn(&caller.tenant, &name, &HeaderMap::new()).await;
    state
        .blocking(slot, move |_| {
            let _turn = turn;
            collections.rename(&name, &to)?;
            Ok(Json(collections.get(&to)?.stats()?))
        })
        .await
}

/// Download everything of a collection as one file.
///
/// `edgewise collections import` makes a collection from it.
#[utoipa::path(
    get,
    path = "/v1/collections/{collection}/export",
    tag = "collections",
    params(("collection" = CollectionName, Path, description = "Its name")),
    responses(
        (status = 200, description = "The file", content_type = "application/vnd.sqlite3"),
        (status = 400, description = "Malformed name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn export(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
) -> Result<Response, ApiError> {
    let collections = state.collections(&caller)?;
    let slot = state.upload_slot().await?;
    let file_name = format!("attachment; filename=\"{name}.edgewise\"");
    let (exported, mut file, bytes) = state
        .blocking(slot, move |_| {
            // Complete and checked before the first byte is sent: half a download must not pass for an export.
            let exported = Exported::new(collections.root(), &name);
            edgewise_retrieval::export(collections.root(), &name, &exported.0)?;
            let opened = std::fs::File::open(&exported.0).and_then(|file| Ok((file.metadata()?.len(), file)));
            let (bytes, file) =
                opened.map_err(|error| ApiError::internal(format!("cannot read an export: {error}")))?;
            Ok((exported, file, bytes))
        })
        .await?;
    let (sender, blocks) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(BLOCKS_AHEAD);
    tokio::task::spawn_blocking(move || {
        let _exported = exported;
        loop {
            let mut block = vec![0; BLOCK];
            let read = file.read(&mut block);
            let end = matches!(read, Ok(0) | Err(_));
            let block = match read {
                Ok(0) => break,
                Ok(read) => {
                    block.truncate(read);
                    Ok(block.into())
                }
                Err(error) => Err(error),
            };
            // Nobody reads on.
            if sender.blocking_send(block).is_err() || end {
                break;
            }
        }
    });
    let mut response = Body::from_stream(ReceiverStream::new(blocks)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/vnd.sqlite3"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    // A collection's name is plain ASCII.
    if let Ok(file_name) = HeaderValue::from_str(&file_name) {
        headers.insert(header::CONTENT_DISPOSITION, file_name);
    }
    Ok(response)
}

/// An export in the data folder, where there is room for it; gone with the value.
struct Exported(PathBuf);

impl Exported {
    fn new(root: &Path, name: &CollectionName) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(root.join(format!(".export-{name}-{}-{number}", std::process::id())))
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "cannot delete an export that was sent");
        }
    }
}
