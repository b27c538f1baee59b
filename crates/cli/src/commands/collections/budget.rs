//! `edgewise collections budget`.

use serde_json::json;

use edgewise_planner::Budget;
use edgewise_retrieval::Ceiling;

use crate::{app::App, args::CollectionBudget, client::Client, error::CliError, output};

pub(super) fn run(args: &CollectionBudget, app: &App) -> Result<(), CliError> {
    let path = format!("/v1/collections/{}/budget", args.name);
    let server = Client::discover(app.data_root());
    let before: Budget = match &server {
        Some(server) => server.get(&path)?,
        None => {
            let Ceiling { max_cost, max_input_tokens, max_latency_ms } =
                app.collections()?.get(&args.name)?.ceiling()?;
            Budget { max_cost, max_input_tokens, max_latency_ms }
        }
    };
    let kept = if args.clear { Budget::default() } else { before };
    let budget = Budget {
        max_cost: args.max_cost.or(kept.max_cost),
        max_input_tokens: args.max_input_tokens.or(kept.max_input_tokens),
        max_latency_ms: args.max_latency_ms.or(kept.max_latency_ms),
    };
    if budget != before {
        match &server {
            Some(server) => drop(server.put::<Budget>(&path, &json!(budget))?),
            None => {
                let Budget { max_cost, max_input_tokens, max_latency_ms } = budget;
                let ceiling = Ceiling { max_cost, max_input_tokens, max_latency_ms };
                app.collections()?.get(&args.name)?.set_ceiling(ceiling)?;
            }
        }
    }
    if args.json {
        return output::json(&budget);
    }
    let limits: Vec<String> = [
        budget.max_cost.map(|most| format!("${most}")),
        budget.max_input_tokens.map(|most| format!("{} prompt tokens", output::count(most))),
        budget.max_latency_ms.map(|most| format!("{most} ms")),
    ]
    .into_iter()
    .flatten()
    .collect();
    let name = &args.name;
    Ok(output::line(&match limits.as_slice() {
        [] => format!("questions to {name} have no limits but their own and the server's"),
        _ => format!("a question to {name} may use at most {}", limits.join(", ")),
    })?)
}
