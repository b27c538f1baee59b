//! Binding, serving, and going down without losing an answer.
//!
//! A shutdown has three steps. First the listener closes and new requests on open connections get 503. Running
//! requests, streams included, then have the grace period to finish. What is left after it is ended: streams with an
//! `error` event, generations by dropping them, uploads before their next commit.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hyper_util::server::graceful::GracefulShutdown;
use tokio::{net::TcpListener, sync::Semaphore};

use crate::{
    connection,
    openapi::router,
    state::{AppState, Phase},
    tls::Tls,
};

/// How often the files of the certificate are looked at.
const CERTIFICATE: Duration = Duration::from_secs(10);

/// After the grace period, how long cancelled requests may take to send their last event.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why the server could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// Another program listens there.
    #[error("port {port} on {host} is taken: stop the other program or pass --port")]
    PortTaken {
        /// The address.
        host: IpAddr,
        /// The port.
        port: u16,
    },
    /// The system does not let this user listen there.
    #[error("not allowed to listen on port {port} of {host}: pass a --port of 1024 or above")]
    PortDenied {
        /// The address.
        host: IpAddr,
        /// The port.
        port: u16,
    },
    /// This machine does not have the address.
    #[error("this machine has no address {host}: pass --host with one of its own, such as 127.0.0.1")]
    NoSuchAddress {
        /// The address.
        host: IpAddr,
    },
    /// Another failure to listen.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A certificate or its key can't be used.
    #[error(
        "cannot use {path} for TLS: {reason}; server.tls_cert and server.tls_key name a certificate chain and its key in PEM form"
    )]
    Tls {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// Listens on `host`:`port`; port 0 lets the system choose.
pub async fn bind(host: IpAddr, port: u16) -> Result<TcpListener, GatewayError> {
    let address = SocketAddr::new(host, port);
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => GatewayError::PortTaken { host, port },
        io::ErrorKind::PermissionDenied => GatewayError::PortDenied { host, port },
        io::ErrorKind::AddrNotAvailable => GatewayError::NoSuchAddress { host },
        _ => GatewayError::Bind { address, source },
    })
}

/// Where and how to listen: a bound socket, with TLS or without.
#[derive(Debug)]
pub struct Listening {
    /// The socket.
    pub tcp: TcpListener,
    /// The certificate, if connections are encrypted. [`crate::GatewayOptions::tls`] must say so too.
    pub tls: Option<Tls>,
}

impl From<TcpListener> for Listening {
    fn from(tcp: TcpListener) -> Self {
        Self { tcp, tls: None }
    }
}

/// Accepts connections until `stop` resolves, and then returns once all have ended.
async fn accept(listening: Listening, state: AppState) -> Result<(), GatewayError> {
    let Listening { tcp, tls } = listening;
    let (header_timeout, most) = (state.options().header_timeout, state.options().max_connections);
    let lifecycle = state.lifecycle().clone();
    let router = router(state);
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(most));
    let mut stop = std::pin::pin!(lifecycle.reached(Phase::Draining));
    let mut look = tokio::time::interval(CERTIFICATE);
    loop {
        // Beyond the limit connections wait in the system's queue.
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, tcp.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = &mut stop => break,
            _ = look.tick() => {
                if let Some(tls) = tls.clone() {
                    drop(tokio::task::spawn_blocking(move || tls.refresh()));
                }
                continue;
            }
            next = next => next,
        };
        let (stream, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
                // A client that left while it waited. Anything else, such as too many open files, passes or not; at once
                // it would only come again.
                if !matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
                    tracing::error!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                continue;
            }
        };
        let acceptor = tls.as_ref().map(Tls::acceptor);
        let (router, watcher, stop) = (router.clone(), graceful.watcher(), lifecycle.reached(Phase::Draining));
        tokio::spawn(async move {
            let _place = place;
            connection::serve(stream, peer, acceptor, router, header_timeout, stop, watcher).await;
        });
    }
    drop(tcp);
    graceful.shutdown().await;
    Ok(())
}

/// Serves until `shutdown` resolves and running requests have finished or been cancelled.
///
/// Returns at the latest [`crate::GatewayOptions::shutdown_grace`] plus two seconds after `shutdown`. Blocking jobs that
/// don't look at their cancellation may still run then; the caller drops the runtime with a time limit.
pub async fn serve(
    listening: impl Into<Listening>,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), GatewayError> {
    let lifecycle = state.lifecycle().clone();
    let grace = state.options().shutdown_grace;
    let mut server = std::pin::pin!(accept(listening.into(), state));

    tokio::select! {
        ended = &mut server => return ended,
        () = shutdown => {}
    }
    tracing::info!(grace_s = grace.as_secs(), "shutting down: running requests may finish");
    lifecycle.advance(Phase::Draining);
    if let Ok(ended) = tokio::time::timeout(grace, &mut server).await {
        return ended;
    }
    tracing::info!("the grace period is over: cancelling what still runs");
    lifecycle.advance(Phase::Cancelling);
    match tokio::time::timeout(LAST_WORDS, &mut server).await {
        Ok(ended) => ended,
        Err(_) => {
            tracing::warn!("some connections did not close in time and are dropped");
            Ok(())
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test]
    async fn a_taken_port_says_what_to_do() {
        let first = bind(Ipv4Addr::LOCALHOST.into(), 0).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let error = bind(Ipv4Addr::LOCALHOST.into(), port).await.unwrap_err();
        let expected = format!("port {port} on 127.0.0.1 is taken: stop the other program or pass --port");
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_refused() {
        // 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
        let error = bind(Ipv4Addr::new(192, 0, 2, 1).into(), 0).await.unwrap_err();
        assert!(matches!(error, GatewayError::NoSuchAddress { .. }), "{error}");
    }
}
