//! `edgewise eval`: how good retrieval and chunks are on labelled sets, which fusion suits a collection, what knowing the
//! cache is worth.

mod judge;
mod placement;
mod prediction;
mod routing;
mod show;
mod traffic;
mod tree;

use std::{path::Path, sync::Arc};

use serde_json::json;

use edgewise_documents::{ChunkOptions, IndexProfile};
use edgewise_evaluation::{
    Bootstrap, CachedEmbedder, ChunkingOptions, ChunkingSet, Dataset, Progress, Queries, RetrievalOptions, choose,
    evaluate_chunking, evaluate_collection, evaluate_retrieval,
};
use edgewise_gateway::{KeptEvaluation, QUALITY_FOLDER, keep_evaluation};
use edgewise_model_api::Embedder;
use edgewise_retrieval::{Bm25, Fusion, MAX_LIMIT};
use edgewise_types::CollectionName;

use crate::{
    app::App,
    args::{Eval, EvalChunking, EvalRetrieval, Intervals},
    error::{CliError, io_error},
    output,
    progress::{self, EvalBar},
};

pub(crate) fn run(command: &Eval, app: &App) -> Result<(), CliError> {
    match command {
        Eval::Retrieval(args) => match &args.collection {
            Some(name) => collection(name, args, app),
            None => retrieval(args, app),
        },
        Eval::Chunking(args) => chunking(args, app),
        Eval::Placement(args) => placement::run(args, app),
        Eval::Routing(args) => routing::run(args, app),
        Eval::Judge(args) => judge::run(args, app),
        Eval::Traffic(args) => traffic::run(args, app),
        Eval::Tree(args) => tree::run(args, app),
        Eval::Prediction(args) => prediction::run(args, app),
    }
}

fn retrieval(args: &EvalRetrieval, app: &App) -> Result<(), CliError> {
    let options = options(args)?;
    // All sets are read before the first is measured: a mistake in the last should not cost the time of the first.
    let sets: Vec<Dataset> = args.data.iter().map(|folder| Dataset::load(folder)).collect::<Result<_, _>>()?;
    let embedder = embedder(args.embeddings_cache.as_deref(), app)?;
    let mut reports = Vec::with_capacity(sets.len());
    for set in &sets {
        let bar = bar(&args.intervals, &format!("documents of {}", set.name), app);
        let report = evaluate_retrieval(set, &embedder, &options, &bar as &dyn Progress)?;
        bar.finish();
        if !args.intervals.json {
            show::retrieval(&report, &options.profile, args.intervals.intervals)?;
        }
        reports.push(report);
    }
    let choices = choose(&reports);
    let whole = json!({ "sets": reports, "choices": choices });
    if args.save {
        keep("retrieval", "retrieval", &whole, app)?;
    }
    if args.intervals.json {
        return output::json(&whole);
    }
    show::choices(&choices)
}

fn collection(name: &CollectionName, args: &EvalRetrieval, app: &App) -> Result<(), CliError> {
    let mut fusions = fusions(args)?;
    // Either arm alone is a choice too.
    for lexical_weight in [0.0, 1.0] {
        let arm = Fusion::Convex { lexical_weight };
        if !fusions.contains(&arm) {
            fusions.push(arm);
        }
    }
    let collection = app.collections()?.get(name)?;
    let queries = match &args.queries {
        Some(path) => Queries::read(path, &collection)?,
        None => Queries::make(&collection, args.sample, args.intervals.seed)?,
    };
    let bar = bar(&args.intervals, "queries", app);
    let report = evaluate_collection(&collection, &queries, &fusions, bootstrap(&args.intervals), &bar)?;
    bar.finish();
    let apply = args.apply && report.recommendation.change;
    if apply {
        collection.set_fusion(report.recommendation.fusion)?;
    }
    if args.save {
        keep("collection", &format!("collection-{name}"), &report, app)?;
    }
    if args.intervals.json {
        return output::json(&json!({ "report": report, "applied": apply }));
    }
    show::collection(&report, args.intervals.intervals)?;
    let done = match (args.apply, apply) {
        (true, true) => "applied: searches of this collection that name no fusion use it from now on",
        (true, false) => "nothing was changed",
        (false, _) if report.recommendation.change => "run it again with --apply to put it in force",
        (false, _) => return Ok(()),
    };
    Ok(output::line(done)?)
}

fn chunking(args: &EvalChunking, app: &App) -> Result<(), CliError> {
    let profile = profile(args.profile.as_deref())?;
    let chunks = args.chunk.iter().map(|text| chunk_limits(text, profile.chunk)).collect::<Result<_, _>>()?;
    if args.k == 0 || args.k > MAX_LIMIT {
        return Err(CliError::Usage(format!("-k {}: expected 1 to {MAX_LIMIT}", args.k)));
    }
    let (k, budget, lexical_only) = (args.k, args.budget, args.lexical_only);
    let bootstrap = bootstrap(&args.intervals);
    let options = ChunkingOptions { profile, chunks, k, budget, lexical_only, bootstrap };
    let set = ChunkingSet::load(&args.data, &args.corpus)?;
    let embedder = embedder(args.embeddings_cache.as_deref(), app)?;
    let bar = bar(&args.intervals, "documents", app);
    let report = evaluate_chunking(&set, &embedder, &options, &bar)?;
    bar.finish();
    if args.intervals.json { output::json(&report) } else { show::chunking(&report, args.intervals.intervals) }
}

fn embedder(cache: Option<&Path>, app: &App) -> Result<Arc<dyn Embedder>, CliError> {
    Ok(Arc::new(CachedEmbedder::open(app.embedder()?, cache)?))
}

/// Keeps figures for the page Quality under `name`, in place of those that had it.
fn keep(kind: &str, name: &str, report: &impl serde::Serialize, app: &App) -> Result<(), CliError> {
    let evaluation = KeptEvaluation {
        kind: kind.to_owned(),
        at: jiff::Timestamp::now(),
        program: concat!("edgewise ", env!("CARGO_PKG_VERSION")).to_owned(),
        report: serde_json::to_value(report)?,
    };
    let root = app.data_root();
    keep_evaluation(root, name, &evaluation).map_err(io_error("cannot keep the figures in", root.join(QUALITY_FOLDER)))
}

fn bar(args: &Intervals, message: &str, app: &App) -> EvalBar {
    EvalBar::new(progress::visible(app.quiet() || args.json), message)
}

fn bootstrap(args: &Intervals) -> Bootstrap {
    Bootstrap { resamples: args.resamples, seed: args.seed, ..Bootstrap::default() }
}

fn profile(path: Option<&Path>) -> Result<IndexProfile, CliError> {
    match path {
        Some(path) => IndexProfile::load(path).map_err(|error| CliError::Usage(error.to_string())),
        None => Ok(IndexProfile::default()),
    }
}

fn options(args: &EvalRetrieval) -> Result<RetrievalOptions, CliError> {
    if let Some(deep) = args.recall_at.iter().chain([&args.limit]).find(|n| !(1..=MAX_LIMIT).contains(*n)) {
        return Err(CliError::Usage(format!("--limit and --recall-at: {deep} is not between 1 and {MAX_LIMIT}")));
    }
    Ok(RetrievalOptions {
        profile: profile(args.profile.as_deref())?,
        bm25: args.bm25.iter().map(|text| bm25(text)).collect::<Result<_, _>>()?,
        lexical_only: args.lexical_only,
        fusions: fusions(args)?,
        recall_at: args.recall_at.clone(),
        limit: args.limit,
        bootstrap: bootstrap(&args.intervals),
        runs: args.runs.clone(),
    })
}

fn fusions(args: &EvalRetrieval) -> Result<Vec<Fusion>, CliError> {
    if let Some(bad) = args.weights.iter().find(|weight| !(0.0..=1.0).contains(*weight)) {
        return Err(CliError::Usage(format!("--weights: {bad} is not between 0 and 1")));
    }
    if let Some(bad) = args.rrf_k.iter().find(|k| !(k.is_finite() && **k >= 0.0)) {
        return Err(CliError::Usage(format!("--rrf-k: {bad} is not a number of at least 0")));
    }
    let constants = args.rrf_k.iter().map(|k| Fusion::Rrf { k: *k });
    let weights = args.weights.iter().map(|lexical_weight| Fusion::Convex { lexical_weight: *lexical_weight });
    Ok(constants.chain(weights).collect())
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
            "b" if value <= 1.0 => parameters.b = value,
            "b" => return Err(CliError::Usage(format!("--bm25 {part}: b is at most 1"))),
            "title" => parameters.title = value,
            "heading" => parameters.heading_path = value,
            "body" => parameters.body = value,
            "phrase" => parameters.phrase = value,
            _ => return Err(wrong()),
        }
    }
    Ok(parameters)
}

/// `max=240,target=200,overlap=0`; what is not named is as in the profile.
fn chunk_limits(text: &str, usual: ChunkOptions) -> Result<ChunkOptions, CliError> {
    let mut limits = usual;
    for part in text.split(',') {
        let wrong =
            || CliError::Usage(format!("--chunk {part}: expected NAME=TOKENS, NAME one of max, target, overlap"));
        let (name, value) = part.split_once('=').ok_or_else(wrong)?;
        let value: usize = value.trim().parse().map_err(|_| wrong())?;
        match name.trim() {
            "max" => limits.max_tokens = value,
            "target" => limits.target_tokens = value,
            "overlap" => limits.overlap_tokens = value,
            _ => return Err(wrong()),
        }
    }
    limits.validate().map_err(|(name, rule)| CliError::Usage(format!("--chunk {text}: {name} {rule}")))?;
    Ok(limits)
}
