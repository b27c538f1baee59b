//! `edgewise usage`.

use edgewise_ledger::Ledger;

use crate::{
    app::App,
    args::Usage,
    error::CliError,
    output::{self, count, duration},
};

pub(crate) fn run(args: &Usage, app: &App) -> Result<(), CliError> {
    let ledger = Ledger::open(&app.settings().paths.ledger)?;
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
                r.collection.to_string(),
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
