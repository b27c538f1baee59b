//! `edgewise eval placement`: what the place of a passage in the prompt is worth.

use serde_json::json;

use edgewise_evaluation::{
    Estimate, EvaluationError, Other, Placement, PlacementFigures, PlacementOptions, PlacementReport, PlacementSet,
    Rows,
};
use edgewise_prompts::Prompts;

use super::{bar, bootstrap};
use crate::{
    app::App,
    args::EvalPlacement,
    error::CliError,
    interrupt,
    output::{self, count, duration},
};

pub(super) fn run(args: &EvalPlacement, app: &App) -> Result<(), CliError> {
    let set = PlacementSet::load(&args.data)?;
    let prompts = Prompts::load(app.settings().paths.prompts_dir())?;
    let (generator, embedder) = (app.generator()?, app.embedder()?);
    let options = PlacementOptions {
        documents: args.documents.clone(),
        questions: args.questions,
        positions: args.positions,
        seed: args.intervals.seed,
        recorded: args.recorded,
        bootstrap: bootstrap(&args.intervals),
    };
    let placement = Placement::new(generator.as_ref(), embedder.as_ref(), &prompts, &set, options)?;
    let plan = placement.plan()?;
    if args.plan && args.intervals.json {
        return output::json(&plan);
    }
    if !args.intervals.json && !args.recorded {
        output::line(&format!(
            "at most {} prompts of {} tokens together, about {} with nothing cached",
            count(plan.prompts),
            count(plan.prompt_tokens),
            duration(plan.predicted_ms)
        ))?;
    }
    if args.plan {
        return Ok(());
    }
    let of = json!({
        "placement": 1,
        "model": generator.info().digest,
        "template": prompts.answer().template_hash(),
        "data": args.data,
    });
    let mut rows = match &args.rows {
        Some(path) => Rows::open(path, &of.to_string(), Other::Refuse)?,
        None => Rows::in_memory(),
    };
    let bar = bar(&args.intervals, "prompts", app);
    let interrupt = interrupt::watch()?;
    let report = placement.run(&mut rows, &bar, &|| interrupt.is_set());
    bar.finish();
    if let (Err(EvaluationError::Interrupted), Some(path)) = (&report, rows.path()) {
        let kept = count(rows.rows().len());
        output::note(&format!("{kept} answers are kept in {}: run the same command to go on", path.display()));
    }
    let report = report?;
    if args.intervals.json { output::json(&report) } else { show(&report, args) }
}

fn show(report: &PlacementReport, args: &EvalPlacement) -> Result<(), CliError> {
    output::line(&format!("{}  ranked by {}", output::bold(&report.model), report.embedder))?;
    for part in &report.parts {
        output::line("")?;
        output::line(&format!(
            "{}  {} questions, {:.0} tokens of prompt",
            output::bold(&format!("{} passages", part.documents)),
            count(part.questions),
            part.prompt_tokens
        ))?;
        if part.questions == 0 {
            output::line(&output::dim("no question has all of its rows"))?;
            continue;
        }
        if part.too_long > 0 {
            output::line(&output::dim(&format!("{} questions left out: too long for the window", part.too_long)))?;
        }
        let rows = part.positions.iter().map(|figures| {
            let mut row = vec![figures.name.clone(), format!("{:.2}", figures.depth)];
            row.extend(absolute(figures));
            row
        });
        let header = ["gold at", "depth", "accuracy", "log-likelihood"];
        output::line(&output::table(&header, &[0, 1, 2, 3], rows.collect()))?;
        if let Some(curve) = &part.curve {
            let differs = if curve.distinct { "differ" } else { "do not differ" };
            output::line(&format!("positions {differs} beyond chance in likelihood, question against itself"))?;
        }
        let rows = part.expected.iter().map(|figures| {
            let Estimate { mean, low, high } = figures.accuracy;
            let over = difference(&figures.accuracy_over_random);
            vec![figures.name.clone(), format!("{mean:.2} [{low:.2}, {high:.2}]"), over]
        });
        let header = ["order, from the places alone", "accuracy", "over random"];
        output::line("")?;
        output::line(&output::table(&header, &[1, 2], rows.collect()))?;
        let rows = part.orders.iter().filter(|_| part.ordered > 0).map(|figures| {
            let mut row = vec![figures.name.clone(), format!("{:.2}", figures.depth)];
            row.extend(absolute(figures));
            let against = [
                figures.accuracy_over_random,
                figures.logprob_over_random,
                figures.accuracy_over_edges,
                figures.logprob_over_edges,
            ];
            row.extend(against.map(|estimate| estimate.as_ref().map_or_else(String::new, difference)));
            row
        });
        let header = [
            "order",
            "depth of gold",
            "accuracy",
            "log-likelihood",
            "accuracy over random",
            "likelihood over random",
            "accuracy over edges",
            "likelihood over edges",
        ];
        output::line("")?;
        output::line(&format!("asked in each order: {}", output::plural(part.ordered, "question")))?;
        output::line(&output::table(&header, &[1, 2, 3, 4, 5, 6, 7], rows.collect()))?;
        output::line(&format!(
            "the embedder ranks gold first for {:.0} %, {:.1}th on average; the curve of the other half differs from the rule for {:.0} %",
            100.0 * part.gold_first,
            part.gold_rank,
            100.0 * part.curve_differs
        ))?;
    }
    let (percent, resamples) = (100.0 * report.bootstrap.confidence, count(report.bootstrap.resamples));
    let seed = args.intervals.seed;
    let footer = format!(
        "[…]: {percent:.0} % interval, bootstrap over questions, {resamples} resamples, seed {seed}; likelihood in nats per token"
    );
    Ok(output::line(&output::dim(&footer))?)
}

fn absolute(figures: &PlacementFigures) -> [String; 2] {
    let shown = |estimate: &Estimate| format!("{:.2} [{:.2}, {:.2}]", estimate.mean, estimate.low, estimate.high);
    [shown(&figures.accuracy), figures.gold_logprob.as_ref().map_or_else(String::new, shown)]
}

fn difference(estimate: &Estimate) -> String {
    format!("{:+.3} [{:+.3}, {:+.3}]", estimate.mean, estimate.low, estimate.high)
}
