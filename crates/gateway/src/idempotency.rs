//! `Idempotency-Key`: a request that is sent twice is done once.
//!
//! The reply to a request with a key is kept for 24 hours, on disk before its last byte is sent, and given again to the
//! same request; the header `idempotent-replayed` then says `true`, and `x-original-request-id` which request was answered.
//! Another request under the same key is refused (422), and so is one whose first is still being worked on (409).
//!
//! Only successes are kept: a request that failed has done nothing that must not be done twice, and is done anew when it
//! is sent again. So is one whose client went away, or whose server was killed, before the reply was complete. Streams are
//! kept as they were sent, unless they ended with an error.
//!
//! Deliberately not here: which paths have keys (see [`PATHS`]) beyond those that make something or cost money; paths that
//! answer with secrets never do.

use std::{
    collections::HashSet,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio_stream::Stream;

use edgewise_types::TenantId;

use crate::{
    ApiError, ErrorKind,
    caller::Caller,
    extract::{is_media_type, too_large},
    middleware::RequestId,
    state::AppState,
    store::{Fingerprint, Kept},
};

/// The header.
pub(crate) const KEY: HeaderName = HeaderName::from_static("idempotency-key");
const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
const ORIGINAL: HeaderName = HeaderName::from_static("x-original-request-id");

/// Longest key, in characters.
const MAX_KEY: usize = 255;

/// Longest reply that is kept, in bytes.
const MAX_REPLY: usize = 8 << 20;

/// Paths whose `POST` takes a key.
pub(crate) const PATHS: &[&str] = &[
    "/v1/query",
    "/v1/conversations",
    "/v1/feedback",
    "/v1/collections",
    "/v1/collections/{collection}/documents",
    "/v1/collections/{collection}/documents:batch",
    "/v1/collections/{collection}/rename",
    "/v1/collections/{collection}/tree",
    "/v1/cache/prefixes",
    "/v1/messages",
    "/v1/chat/completions",
    "/v1/embeddings",
];

/// Of these, the ones whose bodies are uploads.
const UPLOADS: &[&str] = &["/v1/collections/{collection}/documents", "/v1/collections/{collection}/documents:batch"];

/// Response headers that belong to the reply and not to its transport.
const KEPT_HEADERS: &[&str] =
    &["content-type", "location", "etag", "x-edgewise-cache-min-tokens", "x-edgewise-cache-skipped-breakpoints"];

/// Keys whose requests are being worked on. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct InFlight(Arc<Mutex<HashSet<(TenantId, String)>>>);

/// A key that is being worked on; free again when this is dropped.
#[derive(Debug)]
struct Claim {
    name: (TenantId, String),
    all: InFlight,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

impl InFlight {
    fn claim(&self, tenant: &TenantId, key: &str) -> Option<Claim> {
        let name = (tenant.clone(), key.to_owned());
        let new = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
        new.then(|| Claim { name, all: self.clone() })
    }
}

/// Does a request with a key once.
pub(crate) async fn once(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()).unwrap_or_default();
    let takes_key = request.method() == Method::POST && PATHS.contains(&path.as_str());
    match request.headers().get(KEY).cloned() {
        Some(key) if takes_key => match keyed(&state, &path, &key, request, next).await {
            Ok(response) => response,
            Err(error) => error.into_response(),
        },
        _ => next.run(request).await,
    }
}

async fn keyed(
    state: &AppState,
    path: &str,
    key: &HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let key = check_key(key)?;
    let caller = request.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| ApiError::internal("a keyed request has no caller"))?;
    let tenant = caller.tenant;
    let (parts, body) = request.into_parts();
    let (limit, buffer) = match UPLOADS.contains(&path) {
        // Read here, before the handler takes its own place: no more uploads are in memory than may be.
        true => (state.options().max_upload_bytes, Some(state.buffer_slot().await?)),
        false => (state.options().max_body_bytes, None),
    };
    let body = read(body, limit, state.options().request_timeout).await?;
    let fingerprint = fingerprint(&parts, &body);
    let claim = state.in_flight().claim(&tenant, &key).ok_or_else(|| {
        ApiError::new(ErrorKind::Conflict, "the first request with this Idempotency-Key is still being worked on")
            .hint("send it again a little later to get its reply")
            .retry_after(std::time::Duration::from_secs(1))
    })?;
    let (store, asker, name) = (state.store(), tenant.clone(), key.clone());
    let found = state.read(move |_| Ok(store.reply(&asker, &name, jiff::Timestamp::now())?)).await?;
    if let Some(kept) = found {
        if kept.fingerprint == fingerprint {
            return Ok(replay(kept));
        }
        return Err(ApiError::new(
            ErrorKind::IdempotencyMismatch,
            "this Idempotency-Key was used for another request in the last 24 hours",
        )
        .hint("use a new key for every new request"));
    }
    let id = parts.extensions.get::<RequestId>().map(|id| id.0.clone()).unwrap_or_default();
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    drop(buffer);
    if !response.status().is_success() {
        return Ok(response);
    }
    let keeper = Keeper {
        state: state.clone(),
        tenant,
        key,
        reply: Kept {
            fingerprint,
            request: id,
            status: response.status().as_u16(),
            headers: kept_headers(response.headers()),
            body: Vec::new(),
        },
        _claim: claim,
    };
    let streams = is_media_type(response.headers(), "text/event-stream");
    let (parts, body) = response.into_parts();
    let body = match streams {
        true => Body::from_stream(Recorded { body: body.into_data_stream(), keeper: Some(keeper), keeping: None }),
        false => {
            let whole = axum::body::to_bytes(body, usize::MAX).await;
            let whole = whole.map_err(|error| ApiError::internal(format!("a reply could not be read: {error}")))?;
            keeper.keep(whole.to_vec()).await;
            Body::from(whole)
        }
    };
    Ok(Response::from_parts(parts, body))
}

fn check_key(key: &HeaderValue) -> Result<String, ApiError> {
    let key = key.to_str().unwrap_or_default();
    if (1..=MAX_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(key.to_owned());
    }
    let message = format!("Idempotency-Key must be 1 to {MAX_KEY} visible ASCII characters, without spaces");
    Err(ApiError::new(ErrorKind::InvalidRequest, message).hint("use a random UUID for every new request"))
}

async fn read(body: Body, limit: usize, patience: std::time::Duration) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(patience, axum::body::to_bytes(body, limit)).await.map_err(|_| {
        let message = format!("the body did not arrive within {} s", patience.as_secs());
        ApiError::new(ErrorKind::RequestTimeout, message)
    })?;
    read.map_err(|error| {
        let over =
            std::error::Error::source(&error).is_some_and(|cause| cause.is::<http_body_util::LengthLimitError>());
        match over {
            true => too_large(limit),
            false => ApiError::new(ErrorKind::MalformedRequest, format!("the body could not be read: {error}")),
        }
    })
}

/// Two requests have the same one when they ask for the same. The boundary of a form is left out: a client that builds its
/// form again chooses another.
fn fingerprint(parts: &request::Parts, body: &[u8]) -> Fingerprint {
    let mut hasher = blake3::Hasher::new();
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(parts.method.as_str().as_bytes());
    field(parts.uri.path_and_query().map_or("", |target| target.as_str()).as_bytes());
    let media_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    field(media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase().as_bytes());
    let boundary = media_type.split(';').find_map(|parameter| parameter.trim().strip_prefix("boundary="));
    match boundary.map(|boundary| format!("--{}", boundary.trim_matches('"'))) {
        None => field(body),
        Some(boundary) => {
            let line_is_boundary = |line: &[u8]| line.starts_with(boundary.as_bytes());
            body.split_inclusive(|byte| *byte == b'\n').filter(|line| !line_is_boundary(line)).for_each(&mut field);
        }
    }
    *hasher.finalize().as_bytes()
}

fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |name: &&str| Some(((*name).to_owned(), headers.get(*name)?.to_str().ok()?.to_owned()));
    KEPT_HEADERS.iter().filter_map(text).collect()
}

fn replay(kept: Kept) -> Response {
    let status = StatusCode::from_u16(kept.status).unwrap_or(StatusCode::OK);
    let mut response = (status, Body::from(kept.body)).into_response();
    let headers = response.headers_mut();
    for (name, value) in &kept.headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>()) {
            headers.insert(name, value);
        }
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    if let Ok(id) = kept.request.parse::<HeaderValue>() {
        headers.insert(ORIGINAL, id);
    }
    response
}

/// Keeps a reply once it is complete.
struct Keeper {
    state: AppState,
    tenant: TenantId,
    key: String,
    reply: Kept,
    _claim: Claim,
}

impl Keeper {
    /// The reply is given either way: it can't be taken back.
    async fn keep(self, body: Vec<u8>) {
        let Self { state, tenant, key, reply, _claim } = self;
        if body.len() > MAX_REPLY {
            tracing::warn!(bytes = body.len(), "a reply is too long to be kept for its Idempotency-Key");
            return;
        }
        let (store, reply) = (state.store(), Kept { body, ..reply });
        let kept = state.read(move |_| Ok(store.keep_reply(&tenant, &key, &reply, jiff::Timestamp::now())?)).await;
        if let Err(error) = kept {
            tracing::warn!(%error, "a reply could not be kept for its Idempotency-Key: sent again, its request is done again");
            error.log();
        }
    }
}

/// A stream that is kept once it has ended well.
struct Recorded {
    body: BodyDataStream,
    keeper: Option<Keeper>,
    keeping: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stream for Recorded {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(keeping) = &mut self.keeping {
            return keeping.as_mut().poll(context).map(|()| {
                self.keeping = None;
                None
            });
        }
        match Pin::new(&mut self.body).poll_next(context) {
            Poll::Ready(Some(Ok(block))) => {
                if let Some(keeper) = &mut self.keeper
                    && keeper.reply.body.len() <= MAX_REPLY
                {
                    keeper.reply.body.extend_from_slice(&block);
                }
                Poll::Ready(Some(Ok(block)))
            }
            Poll::Ready(None) => {
                let Some(mut keeper) = self.keeper.take() else { return Poll::Ready(None) };
                let body = std::mem::take(&mut keeper.reply.body);
                if !ended_well(&body) {
                    return Poll::Ready(None);
                }
                self.keeping = Some(Box::pin(keeper.keep(body)));
                self.poll_next(context)
            }
            other => other,
        }
    }
}

/// Whether a stream of events is a reply and not a failure: it has the event that every dialect ends with.
fn ended_well(stream: &[u8]) -> bool {
    let text = String::from_utf8_lossy(stream);
    let last = text.lines().rev().filter(|line| !line.is_empty() && !line.starts_with(':')).take(2);
    let mut last = last.map(str::trim);
    last.any(|line| matches!(line, "event: done" | "event:done" | "event: message_stop" | "event:message_stop"))
        || text.trim_end().ends_with("data: [DONE]")
        || text.trim_end().ends_with("data:[DONE]")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parts(media_type: &str, path: &str) -> request::Parts {
        let request = axum::http::Request::post(path).header("content-type", media_type).body(()).unwrap();
        request.into_parts().0
    }

    #[test]
    fn a_form_is_the_same_under_another_boundary() {
        let form = |boundary: &str, text: &str| {
            let body = format!("--{boundary}\r\ncontent-disposition: form-data\r\n\r\n{text}\r\n--{boundary}--\r\n");
            fingerprint(&parts(&format!("multipart/form-data; boundary={boundary}"), "/x"), body.as_bytes())
        };
        assert_eq!(form("aaa", "text"), form("bbbbb", "text"));
        assert_ne!(form("aaa", "text"), form("aaa", "other"));
        let json = |path: &str, body: &str| fingerprint(&parts("application/json", path), body.as_bytes());
        assert_ne!(json("/x", "{}"), json("/y", "{}"));
        assert_ne!(json("/x", "{}"), json("/x", "{ }"));
        assert_eq!(json("/x", "{}"), fingerprint(&parts("Application/JSON; charset=utf-8", "/x"), b"{}"));
    }

    #[test]
    fn only_a_stream_that_ended_well_is_kept() {
        assert!(ended_well(b"event: token\ndata: {}\n\nevent: done\ndata: {}\n\n"));
        assert!(ended_well(b"event: message_stop\ndata: {}\n\n"));
        assert!(ended_well(b"data: {}\n\ndata: [DONE]\n\n"));
        assert!(ended_well(b"event: done\ndata: {}\n\n: comment\n\n"));
        assert!(!ended_well(b"event: token\ndata: {}\n\nevent: error\ndata: {}\n\n"));
        assert!(!ended_well(b"data: {\"error\": {}}\n\n"));
        assert!(!ended_well(b""));
    }

    #[test]
    fn a_key_is_one_plain_word() {
        let ok = |key: &str| check_key(&HeaderValue::from_bytes(key.as_bytes()).unwrap()).is_ok();
        assert!(ok("8f14e45f-ceea-467f-a8e2-1c3b9f7a2d11"));
        for bad in ["", "a b", "é", &"x".repeat(MAX_KEY + 1)] {
            assert!(!ok(bad), "{bad}");
        }
    }
}
