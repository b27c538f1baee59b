//! `edgewise usage`.

use edgewise_ledger::{Accuracy, Ledger, PredictionErrors};

use crate::{
    app::App,
    args::Usage,
    error::CliError,
    output::{self, count, duration},
};

pub(crate) fn run(args: &Usage, app: &App) -> Result<(), CliError> {
    let ledger = Ledger::open(&app.settings().paths.ledger)?;
    if args.predictions {
        let errors = ledger.predictions(None)?;
        return if args.json { output::json(&errors) } else { predictions(&errors) };
    }
    let totals = ledger.totals(None)?;
    let recent = ledger.recent(args.recent)?;
    if args.json {
        return output::json(&serde_json::json!({ "totals": totals, "recent": recent }));
    }
    let usage = &totals.all.usage;
    output::line(&format!(
        "{}: {} prompt tokens ({} from the cache), {} generated, ${} (saved against always reading everything: ${})",
        output::plural(totals.all.requests, "request"),
        count(usage.prompt_tokens()),
        count(usage.cache_read_tokens),
        count(usage.output_tokens),
        totals.all.cost,
        totals.all.saved_against_full,
    ))?;
    let rows = recent
        .iter()
        .map(|r| {
            vec![
                r.at.strftime("%F %T").to_string(),
                r.collection.as_ref().map_or_else(|| "–".to_owned(), ToString::to_string),
                r.route.clone(),
                count(r.usage.prompt_tokens()),
                count(r.usage.cache_read_tokens),
                count(r.usage.output_tokens),
                format!("${}", r.cost),
                duration(r.timings.ttft_ms),
                duration(r.timings.total_ms),
            ]
        })
        .collect();
    let header = ["time", "collection", "route", "prompt", "cached", "output", "cost", "first token", "total"];
    Ok(output::line(&output::table(&header, &[3, 4, 5, 6, 7, 8], rows))?)
}

/// A row a route, cold and warm.
pub(crate) fn predictions(errors: &[PredictionErrors]) -> Result<(), CliError> {
    if errors.is_empty() {
        return Ok(output::line("no answers to compare with what was predicted of them yet")?);
    }
    let percent = |share: f64| format!("{:.0} %", 100.0 * share);
    let accuracy = |accuracy: &Accuracy| format!("{} / {}", percent(accuracy.median), percent(accuracy.p90));
    let rows = errors
        .iter()
        .map(|e| {
            vec![
                e.route.clone(),
                if e.warm { "warm" } else { "cold" }.to_owned(),
                count(e.requests),
                percent(e.tokens_exact),
                percent(e.resident_exact),
                percent(e.prompt_cost_exact),
                accuracy(&e.cost),
                accuracy(&e.ttft),
                accuracy(&e.total),
            ]
        })
        .collect();
    let header = [
        "route",
        "cache",
        "requests",
        "tokens exact",
        "cached exact",
        "prompt cost exact",
        "cost",
        "first token",
        "total",
    ];
    output::line(&output::table(&header, &[2, 3, 4, 5, 6, 7, 8], rows))?;
    Ok(output::line(&output::dim("errors of cost and times relative to the actual ones: median / 90th percentile"))?)
}
