//! The `edgewise` binary: parses arguments, opens what a command needs, prints, and ends with an exit code that means
//! something (see [`error::exit`]).
//!
//! The only crate that picks a concrete engine. Deliberately not here: anything a library user would want.

mod app;
mod args;
mod client;
mod commands;
mod error;
mod guide;
mod interrupt;
mod output;
mod progress;
mod prompt;
mod reading;
mod upstream;
mod watch;

use std::{
    io::{self, IsTerminal},
    process::ExitCode,
};

use clap::Parser;

use edgewise_settings::{LoadOptions, Loaded, LogFormat};
use edgewise_telemetry::{OtlpOptions, TelemetryGuard, TelemetryOptions};

use crate::{
    app::App,
    args::{Cli, Command, Global},
    error::CliError,
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of a pipe has what it wanted.
        Err(CliError::Terminal(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("{}: {error}", output::bad("error")));
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<(), CliError> {
    // A file that makes a parser overflow its stack or take all memory ends a process of its own.
    if let Command::ParseWorker = cli.command {
        return Ok(edgewise_documents::serve_parsing(&|registry| registry)?);
    }
    edgewise_documents::parse_in_processes(std::env::current_exe()?, vec!["parse-worker".to_owned()]);
    let loaded = load(&cli.global)?;
    // Sends the last traces when the command ends.
    let _telemetry = start_logs(&cli.global, &loaded, &cli.command)?;
    if let Command::Config(command) = &cli.command {
        return commands::config::run(command, &loaded);
    }
    client::use_key(cli.global.api_key.clone());
    use_threads(loaded.settings.engine.threads)?;
    let app = App::new(loaded.settings, cli.global.quiet);
    match &cli.command {
        Command::Quickstart(args) => commands::quickstart::run(args, &app),
        Command::Serve(args) => commands::serve::run(args, &app),
        Command::Mcp(args) => commands::mcp::run(args, &app),
        Command::Ingest(args) => commands::ingest::run(args, &app),
        Command::Query(args) => commands::query::run(args, &app),
        Command::Chat(args) => commands::chat::run(args, &app),
        Command::Search(args) => commands::search::run(args, &app),
        Command::Collections(command) => commands::collections::run(command, &app),
        Command::Tree(command) => commands::tree::run(command, &app),
        Command::Documents(command) => commands::documents::run(command, &app),
        Command::Models(command) => commands::models::run(command, &app),
        Command::Keys(command) => commands::keys::run(command, &app),
        Command::Usage(args) => commands::usage::run(args, &app),
        Command::Feedback(args) => commands::feedback::run(args, &app),
        Command::Eval(command) => commands::eval::run(command, &app),
        Command::Probe(args) => commands::probe::run(args, &app),
        Command::Bench(command) => commands::bench::run(command, &app),
        Command::Config(_) | Command::ParseWorker => Ok(()),
    }
}

fn load(global: &Global) -> Result<Loaded, CliError> {
    let mut overrides = Vec::new();
    for text in &global.set {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| CliError::Usage(format!("--set {text}: expected KEY=VALUE, such as server.port=9000")))?;
        overrides.push((key.trim().to_owned(), value.trim().to_owned()));
    }
    Ok(LoadOptions::from_process(global.config.clone(), overrides)?.load()?)
}

/// Model computations, parsing and indexing share one thread pool. 0 is one thread a core.
fn use_threads(threads: usize) -> Result<(), CliError> {
    let built = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    built.map_err(|error| CliError::Failed(format!("cannot start {threads} threads: {error}")))
}

/// Logs go to standard error. Interactive commands print results themselves, so below a server only warnings show.
fn start_logs(global: &Global, loaded: &Loaded, command: &Command) -> Result<TelemetryGuard, CliError> {
    let telemetry = &loaded.settings.telemetry;
    let serves = matches!(command, Command::Serve(_));
    let configured = loaded.sources.get("telemetry.log").is_some_and(|s| *s != edgewise_settings::Source::Default);
    let filter = match (global.quiet, global.verbose) {
        (true, _) => "error".to_owned(),
        (_, 1) => "info,edgewise=debug".to_owned(),
        (_, 2..) => "debug,edgewise=trace".to_owned(),
        _ if serves || configured => telemetry.log.clone(),
        _ => "warn".to_owned(),
    };
    let format = match telemetry.format {
        LogFormat::Text => edgewise_telemetry::Format::Text,
        LogFormat::Json => edgewise_telemetry::Format::Json,
    };
    let ansi = io::stderr().is_terminal() && std::env::var_os(edgewise_settings::env::NO_COLOR).is_none();
    let otlp = telemetry.collector().map(|endpoint| OtlpOptions {
        endpoint: endpoint.to_owned(),
        sample: telemetry.otlp_sample,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    });
    let log_texts = telemetry.log_texts;
    Ok(edgewise_telemetry::init(&TelemetryOptions { filter, format, ansi, log_texts, otlp })?)
}
