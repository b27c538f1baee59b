//! What every request passes through, outermost first: [`observe`] (request id, span, metrics, log of failures), the
//! panic guard, [`guard`] (host and origin), [`headers`], [`crate::caller::authenticate`], what watches and unpacks bodies
//! ([`crate::incoming`]), and for the API [`gate`] (503 while loading or shutting down).
//!
//! A server without keys can be reached by the web pages its user visits, and one with keys by pages that the browser
//! sends the session's cookie for: they are to be kept out. [`guard`] does: a page that rebinds its own name to 127.0.0.1 is refused by its `Host`, a page that posts
//! a form here by its `Origin`. No CORS header is ever sent, so no other page reads a response.

use std::{
    any::Any,
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    pin::Pin,
    sync::atomic::{AtomicU64, Ordering},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request::Parts, uri::Authority},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio_stream::Stream;
use tracing::Instrument;

use edgewise_telemetry::names;

use crate::{
    ApiError, ErrorKind,
    error::Failed,
    state::{AppState, Phase},
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest request id taken over from a client.
const MAX_REQUEST_ID: usize = 128;

/// The request's id: the client's `x-request-id` if it is short and plain, else a new one.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

impl RequestId {
    fn of(headers: &HeaderMap) -> Self {
        let plain = |id: &&str| {
            (1..=MAX_REQUEST_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(&b))
        };
        let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok()).filter(plain);
        Self(given.map_or_else(new_id, str::to_owned))
    }
}

/// An id that no other request of this server, or of one started before or after it, has in practice.
pub(crate) fn new_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // `RandomState` is keyed at random for each thread; the counter separates ids of one thread.
    let hash = RandomState::new().hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
    format!("{hash:016x}")
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let id = parts.extensions.get::<RequestId>().cloned();
        id.ok_or_else(|| ApiError::internal("the request-id middleware is not installed"))
    }
}

/// Gives the request its id and span, counts it, and logs its failure.
pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    let path = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = method_label(request.method());
    let span = tracing::info_span!("request", id = %id.0, method, path);
    let trace = begin_trace(&span, request.headers());
    let watch = Watch::start(path, method);
    request.extensions_mut().insert(id.clone());
    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(Failed(error)) = response.extensions_mut().remove::<Failed>() {
        span.in_scope(|| error.log());
    }
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    if let Some(trace) = trace.and_then(|trace| HeaderValue::from_str(&trace.to_string()).ok()) {
        response.headers_mut().insert(HeaderName::from_static("traceparent"), trace);
    }
    let status = response.status();
    span.in_scope(|| tracing::debug!(status = status.as_u16(), ms = watch.elapsed_ms(), "response"));
    watch.finish(response)
}

/// Puts a request's span into its caller's trace.
fn begin_trace(span: &tracing::Span, headers: &HeaderMap) -> Option<edgewise_telemetry::TraceContext> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    edgewise_telemetry::begin_trace(span, text("traceparent"), text("tracestate"))
}

/// Methods are a closed set, so that nobody can make a series per invented method.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}

/// Measures a request until it is dropped, which for a stream is when its last byte is sent or the client is gone.
struct Watch {
    path: String,
    method: &'static str,
    status: u16,
    started: Instant,
}

impl Watch {
    fn start(path: String, method: &'static str) -> Self {
        metrics::gauge!(names::HTTP_REQUESTS_IN_FLIGHT).increment(1.0);
        // What nginx logs for a client that left before the response; overwritten when there is one.
        Self { path, method, status: 499, started: Instant::now() }
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn finish(mut self, response: Response) -> Response {
        self.status = response.status().as_u16();
        let event_stream = response
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().starts_with(b"text/event-stream"));
        if !event_stream {
            return response;
        }
        response.map(|body| Body::from_stream(Watched { body: body.into_data_stream(), _watch: self }))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        use names::labels::{METHOD, PATH, STATUS};
        metrics::gauge!(names::HTTP_REQUESTS_IN_FLIGHT).decrement(1.0);
        let path = std::mem::take(&mut self.path);
        metrics::counter!(
            names::HTTP_REQUESTS_TOTAL,
            PATH => path.clone(), METHOD => self.method, STATUS => self.status.to_string()
        )
        .increment(1);
        metrics::histogram!(names::HTTP_REQUEST_DURATION_SECONDS, PATH => path, METHOD => self.method)
            .record(self.started.elapsed().as_secs_f64());
    }
}

/// A body that keeps its watch until it ends.
struct Watched {
    body: BodyDataStream,
    _watch: Watch,
}

impl Stream for Watched {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.body).poll_next(context)
    }
}

/// Response to a handler that panicked.
pub(crate) fn panicked(payload: Box<dyn Any + Send>) -> Response {
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    ApiError::internal(format!("a handler panicked: {text}")).into_response()
}

/// Refuses requests that a page of another site made.
pub(crate) async fn guard(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let host = match target(request.uri(), request.headers()) {
        Ok(host) => host,
        Err(error) => return error.into_response(),
    };
    if let Err(error) = check_host(&host, &state.options().allowed_hosts)
        .and_then(|()| check_origin(request.method(), request.headers(), &host))
    {
        return error.into_response();
    }
    next.run(request).await
}

/// The host and port the request is meant for: the URI's authority (HTTP/2, or an absolute URI) or the `Host` header.
fn target(uri: &Uri, headers: &HeaderMap) -> Result<Authority, ApiError> {
    if let Some(authority) = uri.authority() {
        return Ok(authority.clone());
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next().map(|host| Authority::try_from(host.as_bytes())), hosts.next()) {
        (Some(Ok(host)), None) => Ok(host),
        _ => Err(ApiError::new(ErrorKind::MalformedRequest, "the request needs exactly one valid Host header")),
    }
}

/// A rebinding page must use a name, which it controls; it can't make a browser send an address it was not served
/// from. So addresses and `localhost` are always fine, and names have to be configured.
fn check_host(host: &Authority, allowed: &[String]) -> Result<(), ApiError> {
    let name = host.host();
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    let known = allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(name));
    if address || known || name.eq_ignore_ascii_case("localhost") {
        return Ok(());
    }
    Err(ApiError::new(ErrorKind::UnknownHost, format!("this server does not answer for the host `{name}`"))
        .hint("use localhost or an IP address, or add the name to server.allowed_hosts"))
}

/// Forms and plain scripts of other sites may send some requests without asking first; their `Origin` gives them away.
fn check_origin(method: &Method, headers: &HeaderMap, host: &Authority) -> Result<(), ApiError> {
    if method.is_safe() {
        return Ok(());
    }
    let same_origin = match headers.get(header::ORIGIN) {
        None => true,
        Some(origin) => origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host.as_str())),
    };
    let cross_site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    if same_origin && !cross_site {
        return Ok(());
    }
    Err(ApiError::new(ErrorKind::CrossOrigin, "pages of other sites may not change anything here"))
}

/// Headers that keep a browser from doing more with a response than is meant.
pub(crate) async fn headers(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if state.options().tls {
        // RFC 6797: for a year, browsers come back over TLS only.
        headers.insert(header::STRICT_TRANSPORT_SECURITY, HeaderValue::from_static("max-age=31536000"));
    }
    // Pages bring their own policy and caching; data is never executed, nor kept.
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

/// Answers 503 while the server can't work: loading, or going down.
pub(crate) async fn gate(State(state): State<AppState>, request: Request, next: Next) -> Response {
    match state.lifecycle().phase() {
        Phase::Ready => next.run(request).await,
        Phase::Loading => ApiError::new(ErrorKind::Unavailable, "the server is still loading")
            .hint("wait until GET /readyz says 200")
            .retry_after(Duration::from_secs(2))
            .into_response(),
        Phase::Draining | Phase::Cancelling => ApiError::shutting_down().into_response(),
    }
}

/// Paths that do not exist.
pub(crate) async fn unknown_path(uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::UnknownPath, format!("there is nothing at {}", uri.path()))
        .hint("GET /openapi.json lists every path")
}

/// Gives the body of our errors to a 405, whose `Allow` header the router has set.
pub(crate) async fn method_not_allowed(method: Method, uri: Uri) -> ApiError {
    ApiError::new(ErrorKind::MethodNotAllowed, format!("{} does not take {method}", uri.path()))
        .hint("the Allow header names the methods it takes")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use tower::ServiceExt;
    use tower_http::catch_panic::CatchPanicLayer;

    use super::*;

    #[test]
    fn only_names_that_a_page_cannot_choose_are_served() {
        let allowed = ["Docs.Internal".to_owned()];
        for good in ["localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:8080", "192.168.1.7", "docs.internal:1"] {
            assert!(check_host(&good.parse().unwrap(), &allowed).is_ok(), "{good}");
        }
        for bad in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", "0x7f000001", "2130706433"]
        {
            assert_eq!(
                check_host(&bad.parse().unwrap(), &allowed).unwrap_err().kind(),
                ErrorKind::UnknownHost,
                "{bad}"
            );
        }
    }

    #[test]
    fn another_sites_page_may_read_nothing_and_change_nothing() {
        let host: Authority = "localhost:8080".parse().unwrap();
        let verdict = |method: Method, pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            check_origin(&method, &headers, &host).is_ok()
        };
        assert!(verdict(Method::POST, &[]), "a command-line client sends neither header");
        assert!(verdict(Method::POST, &[("origin", "http://localhost:8080"), ("sec-fetch-site", "same-origin")]));
        assert!(!verdict(Method::POST, &[("origin", "http://evil.example")]));
        assert!(!verdict(Method::POST, &[("origin", "http://localhost:3000")]), "another port is another origin");
        assert!(!verdict(Method::POST, &[("origin", "null")]));
        assert!(!verdict(Method::DELETE, &[("sec-fetch-site", "cross-site")]));
        assert!(verdict(Method::GET, &[("origin", "http://evil.example")]), "without CORS headers it can't be read");
    }

    #[tokio::test]
    async fn a_handler_that_panics_is_an_internal_error_without_its_message() {
        async fn handler() -> &'static str {
            panic!("a secret")
        }
        let router = axum::Router::new()
            .route("/", axum::routing::get(handler))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(axum::middleware::from_fn(observe));
        let response = router.oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), ErrorKind::Internal.status());
        assert!(response.headers().contains_key(REQUEST_ID));
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let body: crate::ErrorBody = serde_json::from_slice(&body).unwrap();
        assert_eq!(body.error.kind, ErrorKind::Internal);
        assert!(!body.error.message.contains("secret"), "{body:?}");
    }

    #[test]
    fn request_ids_are_taken_over_only_when_plain() {
        let of = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, value.parse().unwrap());
            RequestId::of(&headers).0
        };
        assert_eq!(of("a-1.b_2:c"), "a-1.b_2:c");
        for bad in ["", "a b", "<script>", &"x".repeat(MAX_REQUEST_ID + 1)] {
            let id = of(bad);
            assert!(id.len() == 16 && id != bad, "{bad} became {id}");
        }
        assert_ne!(new_id(), new_id());
    }
}
