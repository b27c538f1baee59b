//! `edgewise eval traffic`.

use edgewise_evaluation::{
    Estimate, Machine, PolicyReport, Text, TrafficOptions, TrafficPolicy, TrafficReport, evaluate_traffic,
};

use super::{bar, bootstrap, embedder};
use crate::{
    app::App,
    args::{EvalTraffic, SimulatedMachine},
    error::CliError,
    guide,
    output::{self, count, duration, plural},
};

/// Sizes of the collections, where none are asked for.
const SIZES: [usize; 9] = [2000, 2000, 2000, 8000, 8000, 8000, 30_000, 30_000, 120_000];

pub(crate) fn run(args: &EvalTraffic, app: &App) -> Result<(), CliError> {
    let mut options = options(args, app)?;
    let mut texts = Vec::new();
    for folder in &args.documents {
        texts.extend(Text::read_folder(folder)?);
    }
    if args.documents.is_empty() {
        texts = guide::pages().map(|(name, text)| Text { name: name.to_owned(), text: text.to_owned() }).collect();
    }
    let tokenizer = app.tokenizer()?;
    if args.sizes.is_empty() {
        let counts = texts.iter().map(|text| tokenizer.count(&text.text));
        let tokens: usize = counts.sum::<Result<usize, _>>().map_err(|error| CliError::Failed(error.to_string()))?;
        let (fitting, over): (Vec<usize>, Vec<usize>) = SIZES.into_iter().partition(|size| *size <= tokens);
        if let Some(smallest) = over.first() {
            output::note(&format!(
                "the texts have {} tokens: no collections of {} and more; give more with --documents",
                count(tokens),
                count(*smallest)
            ));
        }
        options.sizes = fitting;
    }
    let embedder = embedder(args.embeddings_cache.as_deref(), app)?;
    let bar = bar(&args.intervals, "collections", app);
    let report = evaluate_traffic(texts, &embedder, &tokenizer, &options, &bar)?;
    bar.finish();
    if args.intervals.json { output::json(&report) } else { show(&report, &options) }
}

fn options(args: &EvalTraffic, app: &App) -> Result<TrafficOptions, CliError> {
    let positive = |name: &str, value: f64| match value.is_finite() && value > 0.0 {
        true => Ok(value),
        false => Err(CliError::Usage(format!("--{name}: {value} is not a number above 0"))),
    };
    if args.questions == 0 || args.sizes.contains(&0) {
        return Err(CliError::Usage("--questions and --sizes must be at least 1".to_owned()));
    }
    if !(args.follow_ups.is_finite() && args.follow_ups >= 0.0 && args.zipf.is_finite() && args.zipf >= 0.0) {
        return Err(CliError::Usage("--follow-ups and --zipf must be numbers of at least 0".to_owned()));
    }
    let book = app.prices()?;
    let prices = match &args.prices_of {
        Some(model) if !book.knows(model) => {
            return Err(CliError::Usage(format!("--prices-of {model}: no such model in the prices")));
        }
        Some(model) => book.earliest(model),
        None => book.earliest(""),
    };
    Ok(TrafficOptions {
        sizes: args.sizes.clone(),
        questions: args.questions,
        follow_ups: args.follow_ups,
        think_s: positive("think", args.think)?,
        zipf: args.zipf,
        days: args.days,
        machine: match args.machine {
            SimulatedMachine::Gpu => Machine::gpu(),
            SimulatedMachine::Cpu => Machine::cpu(),
        },
        objective: args.objective.map_or_else(|| app.objective(), Into::into),
        prices,
        factors: args.factors.iter().map(|factor| positive("factors", *factor)).collect::<Result<_, _>>()?,
        bootstrap: bootstrap(&args.intervals),
    })
}

fn interval(estimate: &Estimate, decimals: usize) -> String {
    let Estimate { mean, low, high } = estimate;
    format!("{mean:.decimals$} [{low:.decimals$}, {high:.decimals$}]")
}

fn show(report: &TrafficReport, options: &TrafficOptions) -> Result<(), CliError> {
    let sizes: Vec<String> = report.collections.iter().map(|tokens| count(*tokens)).collect();
    output::line(&format!(
        "{}: {} of {} in {}, collections of {} tokens",
        output::bold(&report.machine),
        plural(report.days, "day"),
        plural(report.questions, "question"),
        plural(report.sessions, "session"),
        sizes.join(", ")
    ))?;
    let header =
        ["policy", "$ / 1,000", "to blind", "quality", "hits", "first token p50", "p95", "answer p95", "routes"];
    let row = |policy: &PolicyReport| {
        let routes: Vec<String> =
            policy.routes.iter().map(|(route, share)| format!("{route} {:.0} %", 100.0 * share)).collect();
        vec![
            policy.policy.to_string(),
            interval(&policy.cost, 3),
            interval(&policy.cost_to_blind, 2),
            format!("{:.3}", policy.quality.mean),
            format!("{:.0} %", 100.0 * policy.hit_rate),
            duration(policy.ttft_ms.0),
            duration(policy.ttft_ms.1),
            duration(policy.total_ms.1),
            routes.join(", "),
        ]
    };
    let rows = report.policies.iter().map(row).collect();
    output::line(&output::table(&header, &[1, 2, 3, 4, 5, 6, 7], rows))?;
    let matched = &report.matched;
    let sentence = |estimate: &Estimate, days: usize, what: &str| match days {
        0 => format!("{what}: reached on no day by any setting"),
        days => format!("{what}: {} of its cost (on {} of {} days)", interval(estimate, 2), days, report.days),
    };
    output::line(&sentence(
        &matched.to_blind,
        matched.days,
        "cache-aware, against a blind choice of the same expected quality",
    ))?;
    output::line(&sentence(
        &matched.at_blind_quality,
        matched.days_at_blind_quality,
        "cache-aware at the quality of the blind router",
    ))?;
    if report.matched.bound.mean > 0.0 {
        let bound = interval(&report.matched.bound, 2);
        let who = "whoever knew all questions to come, with a cache that forgets nothing";
        output::line(&format!("{who}: {bound} of the blind router's cost at its quality"))?;
    }
    collections(report)?;
    let percent = 100.0 * options.bootstrap.confidence;
    let note = format!(
        "in brackets: {percent:.0} % intervals over the days; quality is the router's own expectation of the routes taken"
    );
    Ok(output::line(&output::dim(&note))?)
}

/// Where the money goes: the router with and without knowledge of the cache.
fn collections(report: &TrafficReport) -> Result<(), CliError> {
    let mut rows = Vec::new();
    let of = |wanted: TrafficPolicy| report.policies.iter().find(|policy| policy.policy == wanted);
    for policy in [of(TrafficPolicy::Aware { factor: 1.0 }), of(TrafficPolicy::Blind { factor: 1.0 })].iter().flatten()
    {
        rows.extend(policy.by_collection.iter().map(|share| {
            vec![
                policy.policy.to_string(),
                count(share.tokens),
                format!("{:.0} %", 100.0 * share.questions),
                format!("{:.3}", share.cost),
                format!("{:.0} %", 100.0 * share.writing),
                format!("{:.0} %", 100.0 * share.hit_rate),
                format!("{:.3}", share.quality),
            ]
        }));
    }
    let header = ["policy", "collection", "questions", "$ / 1,000", "written", "hits", "quality"];
    Ok(output::line(&output::table(&header, &[1, 2, 3, 4, 5, 6], rows))?)
}
