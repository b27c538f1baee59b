//! Probes, metrics and what the server is.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    ApiError, ServerInfo,
    caller::Caller,
    state::{AppState, Phase},
};

/// Whether the server can work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// The process runs; all that `/healthz` says.
    Alive,
    /// Models are being loaded.
    Loading,
    /// Requests are answered.
    Ready,
    /// No new requests are taken.
    ShuttingDown,
}

/// Body of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// Whether the server can work.
    pub status: Readiness,
}

/// Whether the process runs. Looks at nothing else, so that a busy server is not restarted.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "server",
    responses((status = 200, description = "It runs", body = Health))
)]
pub(crate) async fn healthz() -> Json<Health> {
    Json(Health { status: Readiness::Alive })
}

/// Whether requests are answered.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "server",
    responses(
        (status = 200, description = "They are", body = Health),
        (status = 503, description = "Loading or shutting down", body = Health),
    )
)]
pub(crate) async fn readyz(State(state): State<AppState>) -> (StatusCode, Json<Health>) {
    let (code, status) = match state.lifecycle().phase() {
        Phase::Ready => (StatusCode::OK, Readiness::Ready),
        Phase::Loading => (StatusCode::SERVICE_UNAVAILABLE, Readiness::Loading),
        Phase::Draining | Phase::Cancelling => (StatusCode::SERVICE_UNAVAILABLE, Readiness::ShuttingDown),
    };
    (code, Json(Health { status }))
}

/// Metrics in the Prometheus text format 0.0.4.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "server",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain"))
)]
pub(crate) async fn metrics(State(state): State<AppState>, caller: Caller) -> Result<Response, ApiError> {
    caller.require_operator()?;
    let tenants = state.tenants().clone();
    let text = state.read(move |parts| {
        crate::gauges::collections(&tenants);
        Ok(parts.metrics.render())
    });
    let text = text.await?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// Version and models of this server.
#[utoipa::path(
    get,
    path = "/v1/info",
    tag = "server",
    responses((status = 200, description = "What it is", body = ServerInfo))
)]
pub(crate) async fn info(State(state): State<AppState>) -> Json<ServerInfo> {
    Json(state.parts().info.clone())
}
