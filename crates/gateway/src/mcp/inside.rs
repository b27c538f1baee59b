//! The native API of the same process, without a socket.

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Method, Request, Response, header},
};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tower::ServiceExt;

use super::{Api, ApiCall, ApiEvents, ApiFailure, Credentials, EventReader, sentence};

/// Events that wait for a slow reader.
const AHEAD: usize = 64;

/// A router, called directly.
#[derive(Debug, Clone)]
pub struct Inside {
    router: Router,
}

impl Inside {
    /// Calls `router`, which is the complete service with all its checks.
    pub fn new(router: Router) -> Self {
        Self { router }
    }

    fn send(
        &self,
        credentials: &Credentials,
        method: Method,
        path: String,
        body: Option<Value>,
    ) -> ApiCall<Response<Body>> {
        let router = self.router.clone();
        let headers = credentials.0.clone();
        Box::pin(async move {
            let content = body.map_or_else(Body::empty, |body| Body::from(body.to_string()));
            let mut request = Request::builder().method(method).uri(path).body(content).map_err(broken)?;
            *request.headers_mut() = headers;
            let json = HeaderValue::from_static("application/json");
            request.headers_mut().insert(header::CONTENT_TYPE, json);
            // A caller without a host is one without HTTP.
            request.headers_mut().entry(header::HOST).or_insert(HeaderValue::from_static("localhost"));
            let response = router.oneshot(request).await.unwrap_or_else(|never| match never {});
            if response.status().is_success() {
                return Ok(response);
            }
            let status = response.status().as_u16();
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.map_err(broken)?;
            Err(sentence(status, &serde_json::from_slice(&body).unwrap_or_default()))
        })
    }

    fn whole(response: ApiCall<Response<Body>>) -> ApiCall<Value> {
        Box::pin(async move {
            let response = response.await?;
            let media_type = response.headers().get(header::CONTENT_TYPE);
            let is_json = media_type.is_some_and(|value| value.as_bytes().starts_with(b"application/json"));
            let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.map_err(broken)?;
            match is_json {
                true => serde_json::from_slice(&body).map_err(broken),
                false => Ok(Value::String(String::from_utf8_lossy(&body).into_owned())),
            }
        })
    }
}

fn broken(error: impl std::fmt::Display) -> ApiFailure {
    ApiFailure(format!("the server could not be asked: {error}"))
}

impl Api for Inside {
    fn get(&self, credentials: &Credentials, path: String) -> ApiCall<Value> {
        Self::whole(self.send(credentials, Method::GET, path, None))
    }

    fn post(&self, credentials: &Credentials, path: String, body: Value) -> ApiCall<Value> {
        Self::whole(self.send(credentials, Method::POST, path, Some(body)))
    }

    fn stream(&self, credentials: &Credentials, path: String, body: Value) -> ApiCall<ApiEvents> {
        let response = self.send(credentials, Method::POST, path, Some(body));
        Box::pin(async move {
            let mut body = response.await?.into_body().into_data_stream();
            let (sender, events) = mpsc::channel(AHEAD);
            // Ends with the stream, or when nobody reads it any more: then the body is dropped, and the answer with it.
            drop(tokio::spawn(async move {
                let mut reader = EventReader::default();
                loop {
                    let block = tokio::select! {
                        () = sender.closed() => return,
                        block = body.next() => block,
                    };
                    let read = match block {
                        None => return,
                        Some(Ok(block)) => reader.push(&block).into_iter().map(Ok).collect(),
                        Some(Err(error)) => vec![Err(broken(error))],
                    };
                    for event in read {
                        if sender.send(event).await.is_err() {
                            return;
                        }
                    }
                }
            }));
            Ok(events)
        })
    }
}
