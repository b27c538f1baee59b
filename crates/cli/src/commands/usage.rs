//! `edgewise usage`.

pub(crate) mod budgets;

use edgewise_ledger::{
    Accuracy, Ledger, PredictionErrors, RequestQuery, RequestRecord, Sums, UsageFilter, UsageQuery, UsageTable,
};

use crate::{
    app::App,
    args::{Usage, UsageCommand},
    error::CliError,
    output::{self, count, duration},
};

pub(crate) fn run(args: &Usage, app: &App) -> Result<(), CliError> {
    let ledger = Ledger::open(&app.settings().paths.ledger)?;
    if let Some(UsageCommand::Budgets(command)) = &args.command {
        return budgets::run(command, &ledger);
    }
    if args.predictions {
        let errors = ledger.predictions(args.from)?;
        return if args.json { output::json(&errors) } else { predictions(&errors) };
    }
    if args.from.zip(args.to).is_some_and(|(from, to)| from > to) {
        return Err(CliError::Usage("--from must not be after --to".to_owned()));
    }
    let mut by = args.by.clone();
    let mut seen = std::collections::HashSet::new();
    by.retain(|dimension| seen.insert(*dimension));
    let filter = UsageFilter {
        tenant: args.tenant.clone(),
        key: args.key.clone(),
        collection: args.collection.clone(),
        route: args.route.clone(),
        ..UsageFilter::default()
    };
    let (from, to) = (args.from, args.to);
    let query = UsageQuery { from, to, by, interval: args.interval, filter: filter.clone() };
    let grouped = !query.by.is_empty() || query.interval.is_some();
    let table = ledger.usage(&query)?;
    if args.csv {
        return Ok(output::piece(&edgewise_ledger::csv(&table, &query.by, query.interval.is_some()))?);
    }
    let recent = match args.recent {
        // Where sums were asked for, single requests are not.
        limit if limit > 0 && !grouped => {
            ledger
                .requests(&RequestQuery { filter: filter.clone(), from, to, limit, ..RequestQuery::default() })?
                .requests
        }
        _ => Vec::new(),
    };
    if args.json {
        let UsageTable { from, to, groups, total, by_route } = table;
        let totals = edgewise_ledger::Totals { all: total.clone(), by_route };
        let groups = if grouped { groups } else { Vec::new() };
        return output::json(&serde_json::json!({
            "totals": totals, "recent": recent, "from": from, "to": to, "groups": groups, "total": total,
        }));
    }
    total(&table.total)?;
    if grouped { groups(&query, &table) } else { requests(&recent) }
}

fn total(sums: &Sums) -> Result<(), CliError> {
    let usage = &sums.usage;
    Ok(output::line(&format!(
        "{}: {} prompt tokens ({} from the cache), {} generated, ${} (saved against always reading everything: ${})",
        output::plural(sums.requests, "request"),
        count(usage.prompt_tokens()),
        count(usage.cache_read_tokens),
        count(usage.output_tokens),
        sums.cost,
        sums.saved_against_full,
    ))?)
}

/// A row a group.
fn groups(query: &UsageQuery, table: &UsageTable) -> Result<(), CliError> {
    let steps = query.interval.is_some();
    let named = |key: &str| if key.is_empty() { "–".to_owned() } else { key.to_owned() };
    let rows = table.groups.iter().map(|group| {
        let Sums { requests, usage, cost, saved_against_full, ttft_ms, .. } = &group.sums;
        let at = group.at.filter(|_| steps).map(|at| at.strftime("%F %H:%M").to_string());
        let keys = query.by.iter().map(|by| named(group.keys.get(by.as_str()).map_or("", String::as_str)));
        let read = 100.0 * usage.cache_read_tokens as f64 / usage.prompt_tokens().max(1) as f64;
        let measures = [
            count(*requests),
            count(usage.prompt_tokens()),
            format!("{read:.0} %"),
            count(usage.output_tokens),
            format!("${cost}"),
            format!("${saved_against_full}"),
            ttft_ms.map_or_else(|| "–".to_owned(), |times| duration(times.p50)),
            ttft_ms.map_or_else(|| "–".to_owned(), |times| duration(times.p95)),
        ];
        at.into_iter().chain(keys).chain(measures).collect()
    });
    let mut header: Vec<&str> = steps.then_some("from (UTC)").into_iter().collect();
    header.extend(query.by.iter().map(|by| by.as_str()));
    let first = header.len();
    header.extend(["requests", "prompt", "cached", "output", "cost", "saved", "first token", "95 % within"]);
    let right: Vec<usize> = (first..header.len()).collect();
    Ok(output::line(&output::table(&header, &right, rows.collect()))?)
}

fn requests(recent: &[RequestRecord]) -> Result<(), CliError> {
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
                accuracy(&e.total_at_length),
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
        "total at length",
    ];
    output::line(&output::table(&header, &[2, 3, 4, 5, 6, 7, 8, 9], rows))?;
    let note = "errors of cost and times relative to the actual ones: median / 90th percentile; at length: for as many tokens as the answer had";
    Ok(output::line(&output::dim(note))?)
}
