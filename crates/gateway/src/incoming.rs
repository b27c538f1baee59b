//! Request bodies as they come in: a body that stops arriving ends its request, and a compressed one is unpacked.
//!
//! A body may be compressed with gzip. Limits of size count what is unpacked, piece by piece, so a small body that unpacks
//! to a large one is refused as soon as it passes the limit.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;

use crate::{ApiError, ErrorKind, extract::too_large, state::AppState};

/// A body of which something must come every so often.
struct Flowing {
    body: Body,
    patience: Duration,
    /// Runs while nothing comes.
    waiting: Option<Pin<Box<Sleep>>>,
    stalled: Arc<AtomicBool>,
}

impl HttpBody for Flowing {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let ready @ Poll::Ready(_) = Pin::new(&mut self.body).poll_frame(context) {
            self.waiting = None;
            return ready;
        }
        let patience = self.patience;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        if waiting.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.stalled.store(true, Ordering::Release);
        Poll::Ready(Some(Err(axum::Error::new(std::io::Error::from(std::io::ErrorKind::TimedOut)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Watches the request's body, and refuses encodings nobody unpacks. Outside of what unpacks.
pub(crate) async fn watch(State(state): State<AppState>, request: Request, next: Next) -> Response {
    let encodings: Vec<&HeaderValue> = request.headers().get_all(header::CONTENT_ENCODING).iter().collect();
    let known = match encodings.as_slice() {
        [] => true,
        [one] => *one == "gzip" || *one == "identity",
        _ => false,
    };
    if !known {
        return ApiError::new(
            ErrorKind::UnsupportedMediaType,
            "the body's Content-Encoding is not one this server unpacks",
        )
        .hint("send it as it is, or compressed with gzip")
        .into_response();
    }
    // What says itself that no path takes it is not waited for.
    let options = state.options();
    let most = options.max_body_bytes.max(options.max_upload_bytes).max(options.max_batch_bytes);
    if request.body().size_hint().lower() > most as u64 {
        return too_large(most).into_response();
    }
    if request.body().is_end_stream() {
        return next.run(request).await;
    }
    let (stalled, patience) = (Arc::new(AtomicBool::new(false)), state.options().body_timeout);
    let flag = Arc::clone(&stalled);
    let request = request.map(|body| Body::new(Flowing { body, patience, waiting: None, stalled }));
    let response = next.run(request).await;
    if flag.load(Ordering::Acquire) && response.status().is_client_error() {
        let message = format!("nothing of the body arrived for {} s", patience.as_secs());
        return ApiError::new(ErrorKind::RequestTimeout, message).into_response();
    }
    response
}
