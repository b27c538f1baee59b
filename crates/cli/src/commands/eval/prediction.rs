//! `edgewise eval prediction`.

use edgewise_evaluation::{PredictionOptions, PredictionReport, evaluate_prediction};
use edgewise_planner::Route;
use edgewise_retrieval::{IngestOptions, Silent};

use crate::{
    app::App,
    args::{EvalPrediction, PredictedRoute},
    commands::usage,
    error::CliError,
    guide,
    output::{self, count, plural},
    progress::{self, EvalBar},
};

pub(crate) fn run(args: &EvalPrediction, app: &App) -> Result<(), CliError> {
    let stack = app.stack()?;
    let collection = match &args.collection {
        Some(name) => stack.collections.get(name)?,
        None => {
            let name = "guide".parse().map_err(|error| CliError::Usage(format!("{error}")))?;
            let collection = stack.collections.get_or_create_default(&name)?;
            if collection.stats()?.documents == 0 {
                collection.ingest(guide::sources(), &IngestOptions::default(), &Silent)?;
            }
            collection
        }
    };
    let routes = args.routes.iter().map(|route| match route {
        PredictedRoute::Passages => Route::Passages,
        PredictedRoute::Documents => Route::Documents,
        PredictedRoute::Full => Route::Full,
    });
    let options = PredictionOptions {
        routes: routes.collect(),
        questions: args.questions as usize,
        max_output_tokens: args.max_tokens as usize,
        seed: args.seed,
    };
    let bar = EvalBar::new(progress::visible(app.quiet() || args.json), "questions");
    let report = evaluate_prediction(&stack.planner, &collection, &options, &bar)?;
    bar.finish();
    if args.json { output::json(&report) } else { show(&report) }
}

fn show(report: &PredictionReport) -> Result<(), CliError> {
    let (documents, tokens) = report.collection;
    output::line(&format!(
        "{}, {} of {} tokens",
        output::bold(&report.model),
        plural(documents, "document"),
        count(tokens)
    ))?;
    for (route, reason) in &report.left_out {
        output::note(&format!("left out {route}: {reason}"));
    }
    usage::predictions(&report.errors)
}
