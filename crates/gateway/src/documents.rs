//! Documents of a collection: upload, list, look at, read, delete.
//!
//! An upload is all or nothing only per file: each file gets its own outcome in the report, and a file that can't be
//! read never keeps the others out. An upload whose client leaves stops before its next commit.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    extract::{FromRequest, Multipart, Request, State, multipart::MultipartError},
    http::{HeaderMap, StatusCode, header},
    response::Response,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use edgewise_retrieval::{
    IngestOptions, IngestReport, Outcome, Passwords, RetrievalError, Silent, Source, SourceContent, SourceReport,
};
use edgewise_telemetry::names::{self, labels};
use edgewise_types::{CollectionName, Document, DocumentId, Span};

use crate::{
    ApiError, ErrorBody, ErrorKind, Whose, budgets,
    caller::Caller,
    collections::parse_filter,
    etag::{self, IfMatch, IfNoneMatch, Tag},
    extract::{ApiQuery, InCollection, InDocument, is_media_type, json_body, too_large},
    middleware::new_id,
    page,
    state::{AppState, Phase},
    tree,
};

/// Longest name of a document, in bytes.
const MAX_URI: usize = 1024;

/// A document given as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DocumentUpload {
    /// Name that identifies the document in its collection. The same name replaces the document.
    #[schema(example = "notes/keys.md")]
    pub uri: String,
    /// Its text.
    pub text: String,
    /// Media type; absent goes by the extension of the name.
    #[serde(default)]
    #[schema(example = "text/markdown")]
    pub media_type: Option<String>,
}

/// An upload of files: one part for each, its file name being the document's name.
#[derive(Debug, ToSchema)]
#[allow(dead_code, reason = "describes the form in the OpenAPI document; parts are read one by one")]
pub(crate) struct FileUpload {
    /// The files. The names of the parts do not matter.
    #[schema(value_type = Vec<String>, format = Binary)]
    file: Vec<Vec<u8>>,
    /// Passwords to try on encrypted files, one a field, without file name. They are neither stored nor logged.
    #[schema(value_type = Vec<String>, format = Password)]
    password: Vec<String>,
}

/// A part of a collection's documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DocumentList {
    /// The documents, in order of URI.
    pub documents: Vec<Document>,
    /// How many there are in all.
    pub total: usize,
    /// How many were skipped by `offset`.
    pub offset: usize,
    /// Where the list goes on, if it does.
    #[serde(default)]
    pub next: Option<String>,
}

/// Which part of the list.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Page {
    /// Documents to skip; not together with `cursor`, which is quicker and leaves nothing out when documents come or go.
    #[serde(default)]
    #[param(default = 0)]
    offset: usize,
    /// Where to go on: `next` of the page before.
    #[serde(default)]
    cursor: Option<String>,
    /// Most documents to return, 1 to 1,000.
    #[serde(default = "default_page")]
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: usize,
    /// Only documents that satisfy this, such as `language = 'en'`; `total` then counts those.
    #[serde(default)]
    filter: Option<String>,
}

fn default_page() -> usize {
    100
}

/// Which part of the text.
#[derive(Debug, Clone, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct TextRange {
    /// First byte; absent is the beginning.
    start: Option<usize>,
    /// One past the last byte; absent is the end.
    end: Option<usize>,
}

/// Add or replace documents.
///
/// Either `multipart/form-data` with one part for each file, or one text as JSON. Answers 200 even when some files
/// could not be taken: the report says what became of each.
#[utoipa::path(
    post,
    path = "/v1/collections/{collection}/documents",
    tag = "documents",
    params(("collection" = CollectionName, Path, description = "Name of the collection"), IfMatch, IfNoneMatch),
    request_body(content(
        (FileUpload = "multipart/form-data"),
        (DocumentUpload = "application/json"),
    )),
    responses(
        (status = 200, description = "What became of each file", body = IngestReport),
        (status = 400, description = "Malformed request or name", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
        (status = 408, description = "The body did not arrive in time", body = ErrorBody),
        (status = 409, description = "Another process writes to the collection", body = ErrorBody),
        (status = 412, description = "The document is not what If-Match or If-None-Match ask for", body = ErrorBody),
        (status = 413, description = "Body too large", body = ErrorBody),
        (status = 415, description = "Neither a form nor JSON", body = ErrorBody),
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
) -> Result<Json<IngestReport>, ApiError> {
    // An unknown collection is refused before megabytes are read for it.
    let headers = request.headers().clone();
    if etag::conditional(&headers) && !is_media_type(&headers, "application/json") {
        let message = "If-Match and If-None-Match go with one document, sent as JSON";
        return Err(ApiError::new(ErrorKind::InvalidRequest, message).hint("leave the header out for a form of files"));
    }
    let collections = state.collections(&caller)?;
    let collection = state.read(move |_| Ok(collections.get(&name)?)).await?;
    budgets::admit(state.parts(), &caller, Some(collection.name()))?;
    let slot = state.upload_slot().await?;
    let limit = state.options().request_timeout;
    let (sources, passwords) = tokio::time::timeout(limit, read_sources(&state, request)).await.map_err(|_| {
        ApiError::new(ErrorKind::RequestTimeout, format!("the body did not arrive within {} s", limit.as_secs()))
    })??;
    let cancel = CancelOnDrop(Arc::default());
    let options = IngestOptions { cancel: Some(Arc::clone(&cancel.0)), passwords, ..IngestOptions::default() };
    let after = Arc::clone(&collection);
    let turn = state.order().turn(&caller.tenant, collection.name(), &headers).await;
    let ingest = state.blocking(slot, move |_| {
        let _turn = turn;
        if let (true, Some(source)) = (etag::conditional(&headers), sources.first()) {
            let now = match collection.document(&DocumentId::from_uri(&source.uri)) {
                Ok(document) => Some(Tag::of_json(&document)?),
                Err(RetrievalError::UnknownDocument { .. }) => None,
                Err(error) => return Err(error.into()),
            };
            etag::check(&headers, now.as_ref())?;
        }
        Ok(collection.ingest(sources, &options, &Silent)?)
    });
    let mut ingest = std::pin::pin!(ingest);
    let report = tokio::select! {
        report = &mut ingest => report,
        () = state.lifecycle().reached(Phase::Cancelling) => {
            cancel.0.store(true, Ordering::Relaxed);
            ingest.await
        }
    };
    let report = report?;
    count(&report);
    charge(&state, caller.pays(Some(&report.collection)), &report).await;
    let changed =
        |source: &SourceReport| matches!(source.outcome, Outcome::Added | Outcome::Changed | Outcome::Removed);
    if report.sources.iter().any(changed) {
        let shared = state.clone();
        // Writing the job down may wait for another write; the response does not.
        drop(tokio::task::spawn_blocking(move || tree::after_ingest(&shared, &caller.tenant, &after)));
    }
    Ok(Json(report))
}

fn count(report: &IngestReport) {
    for source in &report.sources {
        let outcome = match source.outcome {
            Outcome::Added => "added",
            Outcome::Changed => "changed",
            Outcome::Unchanged => "unchanged",
            Outcome::Removed => "removed",
            Outcome::Failed { .. } => "failed",
        };
        metrics::counter!(names::INGEST_DOCUMENTS_TOTAL, labels::OUTCOME => outcome).increment(1);
    }
    metrics::counter!(names::INGEST_CHUNKS_TOTAL).increment(report.chunks_embedded as u64);
}

/// Records what was embedded.
async fn charge(state: &AppState, whose: Whose, report: &IngestReport) {
    let (id, at) = (new_id(), jiff::Timestamp::now());
    let (tokens, took) = (report.tokens_embedded, Duration::try_from_secs_f64(report.seconds).unwrap_or_default());
    let charged = state.read(move |parts| {
        let model = &parts.planner.embedder().info().model;
        parts.recorder.embedded(&id, at, whose, model, tokens, took);
        Ok(())
    });
    if let Err(error) = charged.await {
        error.log();
    }
}

/// Stops the ingest it belongs to when the handler goes away.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The files of an upload and the passwords it brings for them.
async fn read_sources(state: &AppState, request: Request) -> Result<(Vec<Source>, Passwords), ApiError> {
    if is_media_type(request.headers(), "application/json") {
        let DocumentUpload { uri, text, media_type } =
            json_body(request, state, state.options().max_upload_bytes).await?;
        check_uri(&uri)?;
        let source = Source { uri, content: SourceContent::Bytes(text.into_bytes()), media_type };
        return Ok((vec![source], Passwords::default()));
    }
    if !is_media_type(request.headers(), "multipart/form-data") {
        return Err(ApiError::new(ErrorKind::UnsupportedMediaType, "this path takes files or one text")
            .hint("send files as multipart/form-data, or a text as application/json"));
    }
    let form = Multipart::from_request(request, state).await;
    let mut form = form.map_err(|rejection| ApiError::new(ErrorKind::MalformedRequest, rejection.body_text()))?;
    let limit = state.options().max_upload_bytes;
    let broken = |error: MultipartError| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(limit).hint("send fewer files at a time"),
        _ => ApiError::new(ErrorKind::MalformedRequest, format!("the form could not be read: {}", error.body_text())),
    };
    let mut sources: Vec<Source> = Vec::new();
    let mut passwords = Vec::new();
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let part = sources.len() + 1;
        if field.name() == Some("password") && field.file_name().is_none() {
            passwords.push(field.text().await.map_err(broken)?);
            continue;
        }
        let Some(uri) = field.file_name().map(str::to_owned) else {
            return Err(ApiError::new(
                ErrorKind::MalformedRequest,
                format!("part {part} of the form has no file name"),
            )
            .hint("send every file with a file name, which becomes the document's name"));
        };
        check_uri(&uri)?;
        // Clients send this type when they don't know one.
        let media_type = field.content_type().filter(|t| *t != "application/octet-stream").map(str::to_owned);
        let bytes = field.bytes().await.map_err(broken)?;
        sources.push(Source { uri, content: SourceContent::Bytes(bytes.into()), media_type });
    }
    if sources.is_empty() {
        return Err(ApiError::new(ErrorKind::InvalidRequest, "the form holds no file"));
    }
    Ok((sources, Passwords::new(passwords)))
}

pub(crate) fn check_uri(uri: &str) -> Result<(), ApiError> {
    let wrong = match uri {
        "" => "is empty",
        uri if uri.len() > MAX_URI => "is longer than 1,024 bytes",
        uri if uri.chars().any(char::is_control) => "holds control characters",
        _ => return Ok(()),
    };
    Err(ApiError::new(ErrorKind::InvalidRequest, format!("the name of a document {wrong}")))
}

/// List documents.
#[utoipa::path(
    get,
    path = "/v1/collections/{collection}/documents",
    tag = "documents",
    params(("collection" = CollectionName, Path, description = "Name of the collection"), Page),
    responses(
        (status = 200, description = "The documents", body = DocumentList),
        (status = 400, description = "Malformed name or parameters", body = ErrorBody),
        (status = 404, description = "No such collection", body = ErrorBody),
    )
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    caller: Caller,
    InCollection(name): InCollection,
    ApiQuery(page): ApiQuery<Page>,
) -> Result<Json<DocumentList>, ApiError> {
    let Page { offset, cursor, limit, filter } = page;
    let filter = parse_filter(filter.as_deref())?;
    let limit = page::limit(Some(limit), limit)?;
    let after = cursor.as_deref().map(page::parse::<1>).transpose()?.map(|[uri]| uri);
    if after.is_some() && offset > 0 {
        let message = "`offset` and `cursor` can't be sent together: leave out `offset`";
        return Err(ApiError::new(ErrorKind::InvalidRequest, message));
    }
    let collections = state.collections(&caller)?;
    state
        .read(move |_| {
            let collection = collections.get(&name)?;
            let (documents, total) = match filter {
                None => {
                    let documents = match &after {
                        Some(uri) => collection.documents_after(Some(uri), limit + 1)?,
                        None => collection.documents(offset, limit + 1)?,
                    };
                    (documents, collection.stats()?.documents)
                }
                Some(filter) => {
                    let matching = collection.matching(&filter, None)?;
                    let total = matching.len();
                    let behind = |document: &Document| after.as_ref().is_none_or(|uri| document.uri > *uri);
                    (matching.into_iter().filter(behind).skip(offset).take(limit + 1).collect(), total)
                }
            };
            let (documents, next) = page::cut(documents, limit, |document| page::cursor(&[&document.uri]));
            Ok(Json(DocumentList { documents, total, offset, next }))
        })
        .await
}

/// What is known of a document, without its text.
#[utoipa::path(
    get,
    path = "/v1/collections/{collection}/documents/{document}",
    tag = "documents",
    params(
        ("collection" = CollectionName, Path, description = "Name of the collection"),
        ("document" = DocumentId, Path, description = "Id of the document"),
        IfNoneMatch,
    ),
    responses(
        (status = 200, description = "The document", body = Document),
        (status = 304, description = "It is what If-None-Match names"),
        (status = 400, description = "Malformed name or id", body = ErrorBody),
        (status = 404, description = "No such collection or document", body = ErrorBody),
    )
)]
pub(crate) async fn get(
    State(state): State<AppState>,
    caller: Caller,
    InDocument(name, id): InDocument,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let collections = state.collections(&caller)?;
    state.read(move |_| etag::json(&headers, &collections.get(&name)?.document(&id)?)).await
}

/// Normalised text of a document, or the part of it that a citation points to.
///
/// `start` and `end` are bytes of the text, as in every span of this API, and must fall between characters.
#[utoipa::path(
    get,
    path = "/v1/collections/{collection}/documents/{document}/text",
    tag = "documents",
    params(
        ("collection" = CollectionName, Path, description = "Name of the collection"),
        ("document" = DocumentId, Path, description = "Id of the document"),
        TextRange,
        IfNoneMatch,
    ),
    responses(
        (status = 200, description = "The text", body = String, content_type = "text/plain"),
        (status = 304, description = "It is what If-None-Match names"),
        (status = 400, description = "Malformed name, id or range", body = ErrorBody),
        (status = 404, description = "No such collection or document", body = ErrorBody),
    )
)]
pub(crate) async fn text(
    State(state): State<AppState>,
    caller: Caller,
    InDocument(name, id): InDocument,
    headers: HeaderMap,
    ApiQuery(range): ApiQuery<TextRange>,
) -> Result<Response, ApiError> {
    let collections = state.collections(&caller)?;
    let text = state
        .read(move |_| {
            let text = collections.get(&name)?.document_text(&id)?;
            let (start, end) = (range.start.unwrap_or(0), range.end.unwrap_or(text.len()));
            // Not `Span::new`, which would turn an inverted range into an empty one.
            let part = Span { start, end }.slice(&text);
            part.map(str::to_owned).map_err(|error| ApiError::new(ErrorKind::InvalidRequest, error.to_string()))
        })
        .await?;
    let tag = Tag::of(text.as_bytes());
    Ok(tag.respond(&headers, ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text)))
}

/// Delete a document.
#[utoipa::path(
    delete,
    path = "/v1/collections/{collection}/documents/{document}",
    tag = "documents",
    params(
        ("collection" = CollectionName, Path, description = "Name of the collection"),
        ("document" = DocumentId, Path, description = "Id of the document"),
        IfMatch,
    ),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Malformed name or id", body = ErrorBody),
        (status = 404, description = "No such collection or document", body = ErrorBody),
        (status = 409, description = "Another process writes to the collection", body = ErrorBody),
        (status = 412, description = "It is not what If-Match names", body = ErrorBody),
        (status = 507, description = "The disk is full", body = ErrorBody),
    )
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    caller: Caller,
    InDocument(name, id): InDocument,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let collections = state.collections(&caller)?;
    let turn = state.order().turn(&caller.tenant, &name, &headers).await;
    state
        .read(move |_| {
            let _turn = turn;
            let collection = collections.get(&name)?;
            if etag::conditional(&headers) {
                etag::check(&headers, Some(&Tag::of_json(&collection.document(&id)?)?))?;
            }
            collection.delete_document(&id)?;
            Ok(StatusCode::NO_CONTENT)
        })
        .await
}
