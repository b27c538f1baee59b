//! One connection: TLS if asked for, HTTP/1.1 or HTTP/2, and time limits on everything a client could hold open.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::Watcher},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;
use tower::Service;

use crate::caller::Peer;

/// What an HTTP/2 client says first (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Requests of one HTTP/2 connection at once.
const STREAMS: u32 = 256;

/// How often a silent HTTP/2 connection is asked whether it is there.
const PING: Duration = Duration::from_secs(30);

/// A stream whose first bytes were read already.
struct Begun<S> {
    first: [u8; PREFACE.len()],
    /// Of `first`: what was read, and what of it was read again.
    length: usize,
    given: usize,
    io: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.given < self.length {
            let n = out.remaining().min(self.length - self.given);
            out.put_slice(&self.first[self.given..self.given + n]);
            self.given += n;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_read(context, out)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Reads until it is clear whether this is HTTP/2; `None` if the client left before.
async fn begin<S: AsyncRead + Unpin>(mut io: S) -> io::Result<Option<(bool, Begun<S>)>> {
    let (mut first, mut length) = ([0; PREFACE.len()], 0);
    while length < first.len() && (length == 0 || first[..length] == PREFACE[..length]) {
        match io.read(&mut first[length..]).await? {
            0 if length == 0 => return Ok(None),
            0 => break,
            n => length += n,
        }
    }
    Ok(Some((first == *PREFACE, Begun { first, length, given: 0, io })))
}

/// Serves one connection until it ends; `stop` ends it while nothing was asked yet.
pub(crate) async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    header_timeout: Duration,
    stop: impl Future<Output = ()> + Send,
    watcher: Watcher,
) {
    // Small pieces of a stream must not wait for one another.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let work = async {
        match tls {
            None => match tokio::time::timeout(header_timeout, begin(stream)).await {
                Ok(Ok(Some((http2, io)))) => Some((http2, Either::Plain(io))),
                Ok(Ok(None)) => None,
                Ok(Err(error)) => quietly(&error, peer),
                Err(_) => quietly(&"nothing was asked in time", peer),
            },
            Some(acceptor) => match tokio::time::timeout(header_timeout, acceptor.accept(stream)).await {
                Ok(Ok(io)) => Some((io.get_ref().1.alpn_protocol() == Some(b"h2"), Either::Tls(Box::new(io)))),
                Ok(Err(error)) => quietly(&error, peer),
                Err(_) => quietly(&"the TLS handshake was not completed in time", peer),
            },
        }
    };
    let begun = tokio::select! {
        begun = work => begun,
        () = stop => None,
    };
    match begun {
        None => {}
        Some((http2, Either::Plain(io))) => speak(io, peer, http2, router, header_timeout, watcher).await,
        Some((http2, Either::Tls(io))) => speak(io, peer, http2, router, header_timeout, watcher).await,
    }
}

enum Either {
    Plain(Begun<TcpStream>),
    Tls(Box<tokio_rustls::server::TlsStream<TcpStream>>),
}

/// A client that fails to talk is its own affair.
fn quietly<T>(error: &dyn std::fmt::Display, peer: SocketAddr) -> Option<T> {
    tracing::debug!(%error, %peer, "a connection ended before its first request");
    None
}

async fn speak(
    io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    http2: bool,
    router: Router,
    header_timeout: Duration,
    watcher: Watcher,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING).max_concurrent_streams(STREAMS);
    let builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(Peer(peer));
        router.clone().call(request)
    });
    let connection = builder.serve_connection(TokioIo::new(io), service);
    if let Err(error) = watcher.watch(connection).await {
        tracing::debug!(%error, %peer, "a connection ended early");
    }
}
