//! The Model Context Protocol (<https://modelcontextprotocol.io>): search, ask, list and read as tools for a model.
//!
//! A tool is the native API in another form. Each call becomes one or two requests to it, with the caller's own
//! credentials, through an [`Api`]: the router of the same process ([`inside`]), or a server that runs elsewhere. So keys,
//! tenants, scopes, limits and the ledger hold here as everywhere, without another line.
//!
//! Invariants:
//! - A tool that fails says so in its result, in one sentence with what to do, since that is what a model reads; protocol
//!   errors are for calls that are malformed.
//! - Results are structured and match the schema that the tool declares; the same is given as text for older clients.
//! - A cancelled call cancels its answer.
//!
//! Deliberately not here: tools that change anything; resources and prompts, of which documents have too many.

mod inside;
mod tools;
mod types;

use std::{collections::HashMap, pin::Pin, sync::Arc};

use axum::http::{HeaderMap, HeaderName, header};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::state::{AppState, Phase};

pub use inside::Inside;
pub use tools::McpServer;

/// Where the gateway serves it.
pub(crate) const PATH: &str = "/mcp";

/// What a request to the native API has of the caller's.
#[derive(Debug, Clone, Default)]
pub struct Credentials(pub(crate) HeaderMap);

/// Headers that say who is calling, and for which host and page.
const PASSED_ON: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::HOST,
    header::ORIGIN,
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("traceparent"),
];

impl Credentials {
    /// Those of a request.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut kept = HeaderMap::new();
        for name in PASSED_ON {
            if let Some(value) = headers.get(&name) {
                kept.insert(name, value.clone());
            }
        }
        Self(kept)
    }
}

/// A request to the native API that failed: one sentence, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ApiFailure(pub String);

/// One event of a stream.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiEvent {
    /// Its name.
    pub name: String,
    /// Its data.
    pub data: Value,
}

/// What comes of a call.
pub type ApiCall<T> = Pin<Box<dyn Future<Output = Result<T, ApiFailure>> + Send>>;

/// The events of a stream, as they come. Dropping it ends the stream, and the work behind it.
pub type ApiEvents = mpsc::Receiver<Result<ApiEvent, ApiFailure>>;

/// A way to the native API.
pub trait Api: Send + Sync + 'static {
    /// `GET path`: JSON, or a text as [`Value::String`].
    fn get(&self, credentials: &Credentials, path: String) -> ApiCall<Value>;

    /// `POST path` with a JSON body, answered by JSON.
    fn post(&self, credentials: &Credentials, path: String, body: Value) -> ApiCall<Value>;

    /// `POST path` with a JSON body, answered by server-sent events.
    fn stream(&self, credentials: &Credentials, path: String, body: Value) -> ApiCall<ApiEvents>;
}

/// The service of the gateway's path.
pub(crate) type McpService = StreamableHttpService<McpServer, LocalSessionManager>;

/// Serves the tools over `router`.
pub(crate) fn service(state: &AppState, router: axum::Router) -> McpService {
    let api: Arc<dyn Api> = Arc::new(Inside::new(router));
    // Hosts and origins are checked by the middleware of all paths.
    let config = StreamableHttpServerConfig::default()
        .disable_allowed_hosts()
        .with_max_request_body_bytes(state.options().max_body_bytes);
    let ended = config.cancellation_token.clone();
    let ending = state.lifecycle().reached(Phase::Draining);
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        // Sessions have streams without an end of their own.
        drop(runtime.spawn(async move {
            ending.await;
            ended.cancel();
        }));
    }
    let make = move || Ok(McpServer::new(Arc::clone(&api)));
    StreamableHttpService::new(make, Arc::new(LocalSessionManager::default()), config)
}

/// Cuts server-sent events out of a stream of bytes.
#[derive(Debug, Default)]
pub struct EventReader {
    held: Vec<u8>,
}

impl EventReader {
    /// Takes the next bytes; the events that are complete with them.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<ApiEvent> {
        self.held.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some(end) = self.held.windows(2).position(|pair| pair == b"\n\n") {
            let block: Vec<u8> = self.held.drain(..end + 2).collect();
            events.extend(event(&String::from_utf8_lossy(&block)));
        }
        events
    }
}

fn event(block: &str) -> Option<ApiEvent> {
    let mut fields: HashMap<&str, String> = HashMap::new();
    for (name, value) in block.lines().filter_map(|line| line.split_once(':')) {
        let field = fields.entry(name).or_default();
        if !field.is_empty() {
            field.push('\n');
        }
        field.push_str(value.strip_prefix(' ').unwrap_or(value));
    }
    let data = fields.remove("data")?;
    let data = serde_json::from_str(&data).unwrap_or(Value::String(data));
    Some(ApiEvent { name: fields.remove("event").unwrap_or_default(), data })
}

/// The sentence of an error body.
pub fn sentence(status: u16, body: &Value) -> ApiFailure {
    let part = |name: &str| body.pointer(&format!("/error/{name}")).and_then(Value::as_str);
    ApiFailure(match (part("message"), part("hint")) {
        (Some(message), Some(hint)) => format!("{message} ({hint})"),
        (Some(message), None) => message.to_owned(),
        (None, _) => format!("the server answered with status {status}"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_do_not_depend_on_how_their_bytes_are_cut() {
        let text = ": hello\n\nevent: token\ndata: {\"a\":1}\n\nevent: done\ndata: x\ndata: y\n\nevent: half\n";
        let expected = [
            ApiEvent { name: "token".to_owned(), data: json!({"a": 1}) },
            ApiEvent { name: "done".to_owned(), data: json!("x\ny") },
        ];
        for size in [1, 2, 7, text.len()] {
            let mut reader = EventReader::default();
            let read: Vec<ApiEvent> = text.as_bytes().chunks(size).flat_map(|bytes| reader.push(bytes)).collect();
            assert_eq!(read, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_failure_is_a_sentence_with_what_to_do() {
        let body = json!({"error": {"type": "x", "message": "no such thing", "hint": "look up"}});
        assert_eq!(sentence(404, &body).to_string(), "no such thing (look up)");
        assert_eq!(sentence(502, &Value::Null).to_string(), "the server answered with status 502");
    }
}
