//! Extractors whose rejections are [`ApiError`]s, so that a wrong request gets the same body everywhere.
//!
//! [`ApiJson`] requires `application/json`. That is also a guard: a page of another site can't send that type without
//! a preflight, which this server never grants.

use axum::{
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
    http::{StatusCode, header, request::Parts},
};
use serde::de::DeserializeOwned;

use edgewise_types::{CollectionName, DocumentId};

use crate::{ApiError, ErrorKind, objects, state::AppState};

/// How long a JSON body may take to arrive.
const BODY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// A JSON body.
pub(crate) struct ApiJson<T>(pub(crate) T);

/// Whether the body is of this media type, parameters aside.
pub(crate) fn is_media_type(parts: &axum::http::HeaderMap, expected: &str) -> bool {
    parts
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .is_some_and(|value| value.trim().eq_ignore_ascii_case(expected))
}

/// The body as JSON. `limit` is what the layer `DefaultBodyLimit` on the route enforces; it is named in the error.
pub(crate) async fn json_body<T: DeserializeOwned>(
    request: Request,
    state: &AppState,
    limit: usize,
) -> Result<T, ApiError> {
    let body = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await.map_err(|_| {
        ApiError::new(ErrorKind::RequestTimeout, format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()))
    })?;
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => too_large(limit),
        _ => ApiError::new(ErrorKind::MalformedRequest, format!("the body could not be read: {rejection}")),
    })?;
    parse(&body)
}

/// The error for a body above `limit` bytes.
pub(crate) fn too_large(limit: usize) -> ApiError {
    ApiError::new(ErrorKind::TooLarge, format!("the body is larger than {limit} bytes"))
}

/// Parses JSON and names the place of the first mistake.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    objects::from_slice(body).map_err(|error| {
        let message = match error.classify() {
            serde_json::error::Category::Eof if body.is_empty() => "the body is empty".to_owned(),
            _ => format!("the body is not what this path takes: {error}"),
        };
        ApiError::new(ErrorKind::MalformedRequest, message).hint("the schema of every body is in /openapi.json")
    })
}

impl<T: DeserializeOwned> FromRequest<AppState> for ApiJson<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &AppState) -> Result<Self, ApiError> {
        if !is_media_type(request.headers(), "application/json") {
            return Err(ApiError::new(ErrorKind::UnsupportedMediaType, "this path takes a JSON body")
                .hint("send the header content-type: application/json"));
        }
        json_body(request, state, state.options().max_body_bytes).await.map(Self)
    }
}

/// Query parameters.
pub(crate) struct ApiQuery<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<AppState> for ApiQuery<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(value)| Self(value)).map_err(|rejection| {
            ApiError::new(ErrorKind::InvalidRequest, format!("query parameters: {}", rejection.body_text()))
                .hint("the parameters of every path are in /openapi.json")
        })
    }
}

/// What is named in the path.
pub(crate) struct ApiPath<T>(pub(crate) T);

impl<T: DeserializeOwned + Send> FromRequestParts<AppState> for ApiPath<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        path(parts, state).await.map(Self)
    }
}

/// The collection named in the path.
pub(crate) struct InCollection(pub(crate) CollectionName);

/// The collection and the document named in the path.
pub(crate) struct InDocument(pub(crate) CollectionName, pub(crate) DocumentId);

async fn path<T: DeserializeOwned + Send>(parts: &mut Parts, state: &AppState) -> Result<T, ApiError> {
    let path = Path::<T>::from_request_parts(parts, state).await;
    path.map(|Path(value)| value).map_err(|rejection| ApiError::new(ErrorKind::InvalidName, rejection.body_text()))
}

impl FromRequestParts<AppState> for InCollection {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        Ok(Self(path::<String>(parts, state).await?.parse()?))
    }
}

impl FromRequestParts<AppState> for InDocument {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, ApiError> {
        let (collection, document) = path::<(String, String)>(parts, state).await?;
        Ok(Self(collection.parse()?, document.parse()?))
    }
}
