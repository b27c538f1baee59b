//! Response bodies tied to their caller: they hold its place among the requests that run at once until the last byte, and
//! streams of events end with its key. A stream that has an error of its own to tell has told it by then.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::header,
    response::Response,
};
use hyper::body::{Frame, SizeHint};

use crate::{caller::Caller, keys::Keys, limits::Place};

/// How long a stream whose key ended may take to say so itself.
const LAST_WORDS: Duration = Duration::from_millis(400);

struct Tied {
    body: Body,
    _place: Option<Place>,
    ended: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Ties the response to its caller.
pub(crate) fn tie(response: Response, keys: &Keys, caller: &Caller, place: Option<Place>) -> Response {
    let media_type = response.headers().get(header::CONTENT_TYPE);
    let streams = media_type.is_some_and(|t| t.as_bytes().starts_with(b"text/event-stream"));
    let ended = (streams && caller.key.is_some()).then(|| {
        let ended = keys.ended(caller);
        let then = async move {
            ended.await;
            tokio::time::sleep(LAST_WORDS).await;
        };
        Box::pin(then) as Pin<Box<dyn Future<Output = ()> + Send>>
    });
    if place.is_none() && ended.is_none() {
        return response;
    }
    response.map(|body| Body::new(Tied { body, _place: place, ended }))
}

impl HttpBody for Tied {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(ended) = &mut self.ended
            && ended.as_mut().poll(context).is_ready()
        {
            self.ended = None;
            self.body = Body::empty();
        }
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
