//! Binding, serving, and going down without losing an answer.
//!
//! A shutdown has three steps. First the listener closes and new requests on open connections get 503. Running
//! requests, streams included, then have the grace period to finish. What is left after it is ended: streams with an
//! `error` event, generations by dropping them, uploads before their next commit.

use std::{
    future::IntoFuture,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tokio::net::TcpListener;

use crate::{
    openapi::router,
    state::{AppState, Phase},
};

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
    /// The listener failed while serving.
    #[error("the server stopped: {0}")]
    Serve(#[source] io::Error),
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

/// Serves until `shutdown` resolves and running requests have finished or been cancelled.
///
/// Returns at the latest [`crate::GatewayOptions::shutdown_grace`] plus two seconds after `shutdown`. Blocking jobs that
/// don't look at their cancellation may still run then; the caller drops the runtime with a time limit.
pub async fn serve(
    listener: TcpListener,
    state: AppState,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), GatewayError> {
    let lifecycle = state.lifecycle().clone();
    let grace = state.options().shutdown_grace;
    let server = axum::serve(listener, router(state)).with_graceful_shutdown(lifecycle.reached(Phase::Draining));
    let mut server = std::pin::pin!(server.into_future());

    tokio::select! {
        ended = &mut server => return ended.map_err(GatewayError::Serve),
        () = shutdown => {}
    }
    tracing::info!(grace_s = grace.as_secs(), "shutting down: running requests may finish");
    lifecycle.advance(Phase::Draining);
    if let Ok(ended) = tokio::time::timeout(grace, &mut server).await {
        return ended.map_err(GatewayError::Serve);
    }
    tracing::info!("the grace period is over: cancelling what still runs");
    lifecycle.advance(Phase::Cancelling);
    match tokio::time::timeout(LAST_WORDS, &mut server).await {
        Ok(ended) => ended.map_err(GatewayError::Serve),
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
