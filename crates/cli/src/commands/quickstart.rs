//! `edgewise quickstart`: the first five minutes in one command.

use std::time::Instant;

use edgewise_documents::IndexProfile;
use edgewise_retrieval::IngestOptions;
use edgewise_types::{CollectionName, IdError};

use super::{models, query, serve};
use crate::{
    app::App,
    args::Quickstart,
    client::Client,
    error::CliError,
    guide, output,
    progress::{self, IngestBar},
    prompt,
};

const COLLECTION: &str = "guide";
const QUESTION: &str = "What is a chunk?";

/// The default model is small enough to go in circles: a short answer shows as much as a long one.
const MAX_OUTPUT_TOKENS: usize = 48;

pub(crate) fn run(args: &Quickstart, app: &App) -> Result<(), CliError> {
    let start = Instant::now();
    if let Some(running) = Client::discover(app.data_root()) {
        return Err(CliError::Busy(format!(
            "a server for {} is already running at {}: open it in a browser, or stop it first",
            app.data_root().display(),
            running.url()
        )));
    }
    // The port is taken first: finding out after the download that it is in use would be a poor joke.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let listener = match args.no_serve {
        true => None,
        false => {
            let address = app.address(None, args.port)?;
            Some(runtime.block_on(edgewise_gateway::bind(address.ip(), address.port()))?)
        }
    };

    step(1, "Models");
    fetch_models(args, app)?;

    step(2, "Documents");
    let name: CollectionName = COLLECTION.parse().map_err(|e: IdError| CliError::Usage(e.to_string()))?;
    let stack = app.stack()?;
    let collection = stack.collections.get_or_create(&name, &IndexProfile::default())?;
    let bar = IngestBar::new(progress::visible(app.quiet()));
    let report = collection.ingest(guide::sources(), &IngestOptions::default(), &bar);
    bar.finish();
    let report = report?;
    app.charge_embedding(&report)?;
    output::ingest_report(&report, &[])?;

    step(3, "A question");
    let question = args.question.as_deref().unwrap_or(QUESTION);
    output::line(&format!("{}\n", output::bold(question)))?;
    let request = edgewise_planner::Query {
        objective: app.objective(),
        max_output_tokens: Some(MAX_OUTPUT_TOKENS),
        ..edgewise_planner::Query::new(question)
    };
    let answer = query::ask(&stack, &name, &request, false)?;
    output::answer_details(&answer)?;
    output::line(&output::dim(&format!(
        "\nquickstart took {}",
        output::duration(start.elapsed().as_secs_f64() * 1e3)
    )))?;

    match listener {
        None => Ok(output::line("\nNext: edgewise ingest ./your-documents --collection yours")?),
        Some(listener) => {
            step(4, "The server");
            serve::serve(app, stack, runtime, listener)
        }
    }
}

fn step(n: usize, title: &str) {
    output::note(&format!("\n{n}. {title}"));
}

fn fetch_models(args: &Quickstart, app: &App) -> Result<(), CliError> {
    let missing = models::missing(app)?;
    if missing.is_empty() {
        output::note("installed already");
        return Ok(());
    }
    let size: u64 = missing.iter().map(|m| m.bytes).sum();
    let names: Vec<&str> = missing.iter().map(|m| m.name.as_str()).collect();
    let question = format!(
        "Fetch {} ({}) into {}?",
        names.join(" and "),
        output::bytes(size),
        app.settings().paths.models.display()
    );
    if !args.yes && !prompt::confirm(&question)? {
        return Err(CliError::Interrupted);
    }
    models::pull(app, &names, None)
}
