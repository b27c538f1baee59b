//! `edgewise eval`: how good retrieval is on labelled sets.

use std::sync::Arc;

use edgewise_documents::IndexProfile;
use edgewise_evaluation::{
    Bootstrap, CachedEmbedder, Dataset, Estimate, Metric, Progress, RetrievalOptions, RetrievalReport,
    evaluate_retrieval,
};
use edgewise_model_api::Embedder;
use edgewise_retrieval::{Bm25, Fusion};

use crate::{
    app::App,
    args::{Eval, EvalRetrieval},
    error::CliError,
    output::{self, count, plural},
    progress::{self, EvalBar},
};

pub(crate) fn run(command: &Eval, app: &App) -> Result<(), CliError> {
    match command {
        Eval::Retrieval(args) => retrieval(args, app),
    }
}

fn retrieval(args: &EvalRetrieval, app: &App) -> Result<(), CliError> {
    let options = options(args)?;
    // All sets are read before the first is measured: a mistake in the last should not cost the time of the first.
    let sets: Vec<Dataset> = args.data.iter().map(|folder| Dataset::load(folder)).collect::<Result<_, _>>()?;
    let cached = CachedEmbedder::open(app.embedder()?, args.embeddings_cache.as_deref())?;
    let embedder: Arc<dyn Embedder> = Arc::new(cached);
    let mut reports = Vec::with_capacity(sets.len());
    for set in &sets {
        let bar = EvalBar::new(progress::visible(app.quiet() || args.json), &set.name);
        let report = evaluate_retrieval(set, &embedder, &options, &bar as &dyn Progress)?;
        bar.finish();
        if !args.json {
            print(&report, args.intervals)?;
        }
        reports.push(report);
    }
    if args.json { output::json(&reports) } else { Ok(()) }
}

fn options(args: &EvalRetrieval) -> Result<RetrievalOptions, CliError> {
    let usage = |reason: String| CliError::Usage(reason);
    let mut options = RetrievalOptions::default();
    if let Some(path) = &args.profile {
        options.profile = IndexProfile::load(path).map_err(|error| usage(error.to_string()))?;
    }
    if let Some(bad) = args.weights.iter().find(|weight| !(0.0..=1.0).contains(*weight)) {
        return Err(usage(format!("--weights: {bad} is not between 0 and 1")));
    }
    options.lexical_only = args.lexical_only;
    options.bm25 = args.bm25.iter().map(|text| bm25(text)).collect::<Result<_, _>>()?;
    let constants = args.rrf_k.iter().map(|k| Fusion::Rrf { k: *k });
    let weights = args.weights.iter().map(|lexical_weight| Fusion::Convex { lexical_weight: *lexical_weight });
    options.fusions = constants.chain(weights).collect();
    options.recall_at.clone_from(&args.recall_at);
    options.bootstrap = Bootstrap { resamples: args.resamples, seed: args.seed, ..Bootstrap::default() };
    Ok(options)
}

/// `k1=0.9,b=0.4`; what is not named is as in force.
fn bm25(text: &str) -> Result<Bm25, CliError> {
    let mut parameters = Bm25::default();
    for part in text.split(',') {
        let wrong = || {
            let names = "k1, b, title, heading, body, phrase";
            CliError::Usage(format!("--bm25 {part}: expected NAME=NUMBER of at least 0, NAME one of {names}"))
        };
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let value: f32 = value.trim().parse().ok().filter(|v: &f32| v.is_finite() && *v >= 0.0).ok_or_else(wrong)?;
        match name.trim() {
            "k1" => parameters.k1 = value,
            "b" => parameters.b = value.min(1.0),
            "title" => parameters.title = value,
            "heading" => parameters.heading_path = value,
            "body" => parameters.body = value,
            "phrase" => parameters.phrase = value,
            _ => return Err(wrong()),
        }
    }
    Ok(parameters)
}

/// A row a system, a column a metric.
fn print(report: &RetrievalReport, intervals: bool) -> Result<(), CliError> {
    output::line(&format!(
        "{}  {}, {}, {} labelled queries, embedder {}",
        output::bold(&report.dataset),
        plural(report.documents, "document"),
        plural(report.chunks, "chunk"),
        count(report.queries),
        report.embedder
    ))?;
    if report.unlabelled > 0 {
        let without = count(report.unlabelled);
        output::line(&output::dim(&format!("{without} queries without a relevant document are left out")))?;
    }
    let Some(first) = report.systems.first() else { return Ok(()) };
    let columns: Vec<Metric> = first.metrics.iter().map(|(metric, _)| *metric).collect();
    let names: Vec<String> = columns.iter().map(Metric::to_string).collect();
    let mut header = vec!["system"];
    header.extend(names.iter().map(String::as_str));
    header.push("ndcg@10 over the better arm");
    let rows = report
        .systems
        .iter()
        .map(|system| {
            let mut row = vec![system.name.clone()];
            row.extend(system.metrics.iter().enumerate().map(|(at, (_, estimate))| {
                // The first column always has its interval; all of them side by side are hard to read.
                if at == 0 || intervals { with_interval(estimate) } else { format!("{:.3}", estimate.mean) }
            }));
            row.push(system.over_better_arm.as_ref().map_or_else(String::new, |difference| {
                format!("{:+.3} [{:+.3}, {:+.3}]", difference.mean, difference.low, difference.high)
            }));
            row
        })
        .collect();
    let right: Vec<usize> = (1..header.len()).collect();
    output::line(&output::table(&header, &right, rows))?;
    let percent = report.bootstrap.confidence * 100.0;
    Ok(output::line(&output::dim(&format!(
        "[…]: {percent:.0} % interval, bootstrap over queries, {} resamples, seed {}\n",
        count(report.bootstrap.resamples),
        report.bootstrap.seed
    )))?)
}

fn with_interval(estimate: &Estimate) -> String {
    format!("{:.3} [{:.3}, {:.3}]", estimate.mean, estimate.low, estimate.high)
}
