//! Many documents at once: `POST /v1/collections/{collection}/documents:batch`.
//!
//! The body is a form of files, a zip archive, or NDJSON with one `DocumentUpload` a line. It is written to disk as it comes
//! (`staging`), so that its size is bounded by the disk and not by memory; once it is there as a whole and checked, the
//! response names a job (`work`) that ingests it and tells how it goes.
//!
//! Invariants:
//! - What was acknowledged is done: a job that a killed server left behind goes on from its staged files at the next start.
//!   A body that did not arrive as a whole leaves nothing behind.
//! - Nothing in a body decides where anything is written.
//!
//! Deliberately not here: passwords of encrypted documents, which must not be on disk: `POST …/documents` takes those.

mod staging;
mod work;

use axum::{
    Json,
    extract::{FromRequest, Multipart, Request, State, multipart::MultipartError},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use edgewise_retrieval::Job;
use edgewise_types::CollectionName;
use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt;
use utoipa::ToSchema;

use crate::{
    ApiError, DocumentUpload, ErrorBody, ErrorKind,
    caller::Caller,
    documents::check_uri,
    extract::{InCollection, is_media_type, too_large},
    jobs::NewJob,
    middleware::new_id,
    objects,
    state::AppState,
};

use staging::{Limits, Staging};

pub(crate) use staging::leftovers;
pub use work::{BatchFailure, BatchProgress};
pub(crate) use work::{completed, take_up};

/// Kind of the jobs that ingest a batch.
pub(crate) const KIND: &str = "upload";

/// How long the next piece of a body may take to arrive.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// What was uploaded, as the job's `request`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchRequest {
    /// Documents.
    pub documents: usize,
    /// Their bytes, unpacked.
    pub bytes: u64,
}

/// A form of files.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the form in the OpenAPI document; parts are read one by one")]
pub(crate) struct BatchForm {
    /// The files, each with its document's name as file name. Those named `*.zip` are unpacked.
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<Vec<u8>>,
}

/// Add or replace many documents, in the background.
///
/// The body is a form of files, a zip archive, or one `DocumentUpload` a line as NDJSON. The response names the job that
/// ingests it; its `detail` is a `BatchProgress`. A document that can't be read does not keep the others out.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/documents:batch",
    tag = "documents",
    params(("collection" = CollectionName, Path, description = "Name of the collection")),
    request_body(content(
        (BatchForm = "multipart/form-data"),
        (Vec<u8> = "application/zip"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 202, description = "The job, whose path is in the header Location", body = Job),
        (status = 400, description = "Malformed request, name or archive", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 409, description = "Another process writes to the collection", body = ErrorBody),
        (status = 413, description = "Too large, packed or unpacked", body = ErrorBody),
        (status = 415, description = "Neither a form, nor an archive, nor NDJSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
        (status = 503, description = "Loading or shutting down", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn upload(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    request: Request,
) -> Result<Response, ApiError> {
    let collections = state.collections(&caller)?;
    let root = collections.root().to_owned();
    let collection = state.read(move |_| Ok(collections.get(&name)?)).await?;
    let options = state.options();
    let limits = Limits { total: options.max_batch_bytes as u64, each: options.max_upload_bytes as u64 };
    let mut staging = Staging::begin(&root, limits).await?;
    let taken = ["multipart/form-data", "application/zip", "application/x-ndjson", "application/jsonl"];
    match taken.iter().position(|media_type| is_media_type(request.headers(), media_type)) {
        Some(0) => form(&mut staging, &state, request).await?,
        Some(1) => archive(&mut staging, request).await?,
        Some(_) => lines(&mut staging, request).await?,
        None => {
            let message = "this path takes files, an archive or lines of JSON";
            return Err(ApiError::new(ErrorKind::UnsupportedMediaType, message)
                .hint("send multipart/form-data, application/zip or application/x-ndjson"));
        }
    }
    let id = new_id();
    let staged = staging.finish(&id, collection.name(), state.lifecycle()).await?;
    let what = BatchRequest { documents: staged.documents(), bytes: staged.bytes() };
    let request = serde_json::to_value(what).map_err(|error| ApiError::internal(error.to_string()))?;
    let tenant = caller.tenant;
    let (jobs, work) = (state.jobs().clone(), work::work(state.clone(), tenant.clone(), collection.clone(), staged));
    let new = NewJob { id: Some(id), tenant, collection, kind: KIND, request };
    let job = state.read(move |_| jobs.start(new, work)).await?;
    let mut response = (StatusCode::ACCEPTED, Json(&job)).into_response();
    if let Ok(location) = HeaderValue::from_str(&format!("/v1/jobs/{}", job.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

fn late() -> ApiError {
    ApiError::new(ErrorKind::RequestTimeout, format!("nothing of the body arrived for {} s", PATIENCE.as_secs()))
}

/// Waits for a piece of a body, but not for ever.
async fn soon<T>(piece: impl Future<Output = T>) -> Result<T, ApiError> {
    tokio::time::timeout(PATIENCE, piece).await.map_err(|_| late())
}

fn malformed(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorKind::MalformedRequest, message)
}

async fn form(staging: &mut Staging, state: &AppState, request: Request) -> Result<(), ApiError> {
    let form = Multipart::from_request(request, state).await;
    let mut form = form.map_err(|rejection| malformed(rejection.body_text()))?;
    let limit = state.options().max_batch_bytes;
    let broken = |error: MultipartError| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(limit).hint("send fewer files at a time"),
        _ => malformed(format!("the form could not be read: {}", error.body_text())),
    };
    let mut part = 0;
    while let Some(mut field) = soon(form.next_field()).await?.map_err(broken)? {
        part += 1;
        let Some(uri) = field.file_name().map(str::to_owned) else {
            return Err(malformed(format!("part {part} of the form has no file name")).hint(
                "send every file with a file name, which becomes the document's name; encrypted documents and their \
                 passwords go to the path without `:batch`",
            ));
        };
        let media_type = field.content_type().filter(|t| *t != "application/octet-stream").map(str::to_owned);
        let packed = media_type.as_deref() == Some("application/zip") || uri.to_ascii_lowercase().ends_with(".zip");
        match packed {
            true => staging.begin_archive().await?,
            false => {
                check_uri(&uri)?;
                staging.begin_document(uri, media_type)?;
            }
        }
        while let Some(block) = soon(field.chunk()).await?.map_err(broken)? {
            staging.write(&block).await?;
        }
        staging.end().await?;
    }
    Ok(())
}

async fn archive(staging: &mut Staging, request: Request) -> Result<(), ApiError> {
    let mut body = request.into_body().into_data_stream();
    staging.begin_archive().await?;
    while let Some(block) = soon(body.next()).await? {
        let block = block.map_err(|error| malformed(format!("the body could not be read: {error}")))?;
        staging.write(&block).await?;
    }
    staging.end().await
}

async fn lines(staging: &mut Staging, request: Request) -> Result<(), ApiError> {
    let mut body = request.into_body().into_data_stream();
    let mut rest: Vec<u8> = Vec::new();
    let mut number = 0;
    loop {
        let block = soon(body.next()).await?.transpose();
        let block = block.map_err(|error| malformed(format!("the body could not be read: {error}")))?;
        let last = block.is_none();
        // Only what is new can hold the end of a line.
        let mut searched = rest.len();
        rest.extend_from_slice(block.as_deref().unwrap_or_default());
        while let Some(end) = rest.get(searched..).and_then(|new| new.iter().position(|byte| *byte == b'\n')) {
            let line: Vec<u8> = rest.drain(..=searched + end).collect();
            searched = 0;
            number += 1;
            line_of(staging, number, &line).await?;
        }
        if rest.len() as u64 > staging.limits().each.saturating_mul(2) {
            return Err(too_large_document(staging.limits().each).hint(format!("line {} is longer", number + 1)));
        }
        if last {
            return line_of(staging, number + 1, &rest).await;
        }
    }
}

async fn line_of(staging: &mut Staging, number: usize, line: &[u8]) -> Result<(), ApiError> {
    if line.trim_ascii().is_empty() {
        return Ok(());
    }
    let read: Result<DocumentUpload, _> = objects::from_slice(line);
    let DocumentUpload { uri, text, media_type } = read.map_err(|error| {
        malformed(format!("line {number} is not a document: {error}"))
            .hint("each line is one JSON object with `uri`, `text` and, if known, `media_type`")
    })?;
    check_uri(&uri)?;
    staging.begin_document(uri, media_type)?;
    staging.write(text.as_bytes()).await?;
    staging.end().await
}

/// The error for a document above `limit` bytes.
fn too_large_document(limit: u64) -> ApiError {
    ApiError::new(ErrorKind::TooLarge, format!("a document of the batch is larger than {limit} bytes"))
}
