//! `edgewise serve`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use edgewise_gateway::{AppState, GatewayOptions, Listening, Parts, ServerInfo, Tls, Trees};
use edgewise_planner::ReadingMonitor;
use edgewise_retrieval::TreeGenerator;

use crate::{
    app::{App, Stack},
    args::Serve,
    client::{Client, ServerFile},
    error::CliError,
    output,
    reading::Watch,
};

/// How long work that is under way may take to end after the server has stopped.
const LAST_JOBS: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &Serve, app: &App) -> Result<(), CliError> {
    let address = app.address(args.host.as_deref(), args.port)?;
    if let Some(running) = Client::discover(app.data_root()) {
        return Err(CliError::Busy(format!(
            "a server for {} is already running at {}: stop it first, or set another paths.data",
            app.data_root().display(),
            running.url()
        )));
    }
    let access = app.access()?;
    if !address.ip().is_loopback() && !access.has_working_key(jiff::Timestamp::now()) {
        return Err(CliError::Usage(format!(
            "on {} other machines could use this server, and no key works yet: make one with `edgewise keys create --scope \
             query,ingest,admin`, or listen on 127.0.0.1",
            address.ip()
        )));
    }
    // The port is taken before the models are loaded, so that a clash is said at once.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = runtime.block_on(edgewise_gateway::bind(address.ip(), address.port()))?;
    output::note("loading models …");
    let stack = app.stack()?;
    serve(app, stack, runtime, listener)
}

/// Serves until Ctrl-C or SIGTERM.
pub(crate) fn serve(
    app: &App,
    stack: Stack,
    runtime: tokio::runtime::Runtime,
    listener: tokio::net::TcpListener,
) -> Result<(), CliError> {
    let address = listener.local_addr()?;
    let settings = app.settings();
    let tls = settings.server.tls_files().map(|(certificate, key)| Tls::load(certificate, key)).transpose()?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    // What listens everywhere is reached from here by the loopback device.
    let here = match address {
        SocketAddr::V4(any) if any.ip().is_unspecified() => format!("{scheme}://127.0.0.1:{}", any.port()),
        SocketAddr::V6(any) if any.ip().is_unspecified() => format!("{scheme}://[::1]:{}", any.port()),
        _ => url.clone(),
    };
    let options = GatewayOptions {
        keys_required: !address.ip().is_loopback(),
        tls: tls.is_some(),
        retention: app.retention(),
        ..GatewayOptions::from(&settings.server)
    };
    let reading = Arc::new(app.reading_monitor(&stack));
    let watch = Watch::start(app, &stack, Arc::clone(&reading))?;
    let state = state(app, stack, reading, options)?;
    let announcement = ServerFile::announce(app.data_root(), &here)?;
    let banner = format!(
        "serving on {}\n  dashboard  {url}/\n  API        {url}/v1/query, described at {url}/openapi.json\n{}",
        output::bold(&url),
        output::dim("  Ctrl-C stops")
    );
    // Whoever started the server may have closed its output: no reason not to serve.
    if let Err(error) = output::line(&banner) {
        tracing::warn!(%error, "cannot print the server's address");
    }
    let served = runtime.block_on(edgewise_gateway::serve(Listening { tcp: listener, tls }, state, stop_signal()));
    drop(announcement);
    drop(watch);
    served?;
    // A job that does not look at its cancellation must not keep the process: everything acknowledged is on disk.
    runtime.shutdown_timeout(LAST_JOBS);
    output::note("stopped");
    Ok(())
}

/// The gateway over these models.
pub(crate) fn state(
    app: &App,
    stack: Stack,
    reading: Arc<ReadingMonitor>,
    options: GatewayOptions,
) -> Result<AppState, CliError> {
    let settings = app.settings();
    let metrics = edgewise_telemetry::install_metrics()?;
    let trees = Trees {
        generator: Some(TreeGenerator { generator: Arc::clone(&stack.generator), prompts: app.prompts()? }),
        recorder: stack.recorder.clone(),
        settings: settings.tree.clone(),
    };
    Ok(AppState::new(Parts {
        trees,
        local_collections: stack.collections,
        access: app.access()?,
        planner: stack.planner,
        recorder: stack.recorder,
        reading,
        metrics,
        options,
        info: ServerInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            generator: settings.models.generator.clone(),
            embedder: settings.models.embedder.clone(),
        },
    }))
}

/// Completes at Ctrl-C or SIGTERM.
async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => tokio::select! {
                _ = interrupt => {}
                _ = terminate.recv() => {}
            },
            Err(error) => {
                tracing::warn!(%error, "cannot listen for SIGTERM; Ctrl-C still stops the server");
                let _ = interrupt.await;
            }
        }
    }
    #[cfg(not(unix))]
    let _ = interrupt.await;
}
