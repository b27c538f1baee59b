//! `edgewise mcp`: the tools of the Model Context Protocol over standard input and output.
//!
//! With a server for the data folder, calls go to it, and models are loaded once for all. Without one, this process opens the
//! collections and models itself, for as long as its client keeps it; it then acts as the operator, whose files these are.
//! Standard output holds the protocol and nothing else.

use std::sync::Arc;

use edgewise_gateway::GatewayOptions;
use edgewise_gateway::mcp::{Api, ApiCall, ApiEvent, ApiEvents, ApiFailure, Credentials, Inside, McpServer};
use rmcp::ServiceExt;
use serde_json::Value;
use tokio::sync::mpsc;

use super::{query::server, serve};
use crate::{
    app::App,
    args::Mcp,
    client::{Client, Event},
    error::CliError,
    output,
};

/// Events that wait for a slow reader.
const AHEAD: usize = 64;

pub(crate) fn run(args: &Mcp, app: &App) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let api: Arc<dyn Api> = match server(&args.place, app) {
        Some(client) => {
            output::note(&format!("tools of the server at {}", client.url()));
            Arc::new(Remote { client })
        }
        None => {
            output::note("no server is running: loading models …");
            let stack = app.stack()?;
            let reading = Arc::new(app.reading_monitor(&stack));
            let options = GatewayOptions { retention: app.retention(), ..GatewayOptions::from(&app.settings().server) };
            let state = serve::state(app, stack, reading, options)?;
            // Its jobs and timers belong to the runtime.
            let _entered = runtime.enter();
            Arc::new(Inside::new(edgewise_gateway::operator_router(state)))
        }
    };
    runtime.block_on(async {
        let failed = |error: &dyn std::fmt::Display| CliError::Failed(format!("the client can't be served: {error}"));
        let (input, out) = rmcp::transport::stdio();
        let service = McpServer::new(api).serve((input, out)).await.map_err(|error| failed(&error))?;
        service.waiting().await.map_err(|error| failed(&error))?;
        Ok::<_, CliError>(())
    })?;
    // A read of standard input that is under way can't be ended.
    runtime.shutdown_background();
    Ok(())
}

/// The native API of a server.
struct Remote {
    client: Client,
}

fn said(error: CliError) -> ApiFailure {
    ApiFailure(error.to_string())
}

/// Runs a blocking call of the client.
fn blocking<T: Send + 'static>(call: impl FnOnce() -> Result<T, CliError> + Send + 'static) -> ApiCall<T> {
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(call).await;
        done.map_err(|error| ApiFailure(format!("a call did not return: {error}")))?.map_err(said)
    })
}

impl Api for Remote {
    fn get(&self, _credentials: &Credentials, path: String) -> ApiCall<Value> {
        let client = self.client.clone();
        blocking(move || client.get_any(&path))
    }

    fn post(&self, _credentials: &Credentials, path: String, body: Value) -> ApiCall<Value> {
        let client = self.client.clone();
        blocking(move || client.post(&path, &body))
    }

    fn stream(&self, _credentials: &Credentials, path: String, body: Value) -> ApiCall<ApiEvents> {
        let client = self.client.clone();
        let (sender, events) = mpsc::channel(AHEAD);
        // Ends with the stream, or at the first event that nobody reads: then the connection closes, and the answer with it.
        drop(tokio::task::spawn_blocking(move || {
            let read = client.stream(&path, &body, |Event { name, data }| {
                let data = serde_json::from_str(&data).unwrap_or(Value::String(data));
                let gone = |_| CliError::Failed("nobody reads the answer any more".to_owned());
                sender.blocking_send(Ok(ApiEvent { name, data })).map_err(gone)
            });
            if let Err(error) = read {
                // Nobody may be there to hear it.
                let _ = sender.blocking_send(Err(said(error)));
            }
        }));
        Box::pin(std::future::ready(Ok(events)))
    }
}
