//! `edgewise query`.

use std::ops::ControlFlow;

use serde_json::{Value, json};

use edgewise_model_api::Sampling;
use edgewise_planner::{Answer, AnswerEvent, Budget, Escalated, Explanation, PlannerError, Route};
use edgewise_retrieval::RetrievalError;

use crate::{
    app::{App, Stack},
    args::{Place, Query},
    client::Client,
    commands::usage::budgets,
    error::CliError,
    interrupt, output,
};

pub(crate) fn run(args: &Query, app: &App) -> Result<(), CliError> {
    match server(&args.place, app) {
        Some(client) => remote(args, &client),
        None => local(args, app),
    }
}

/// The server a command should use, if any.
pub(crate) fn server(place: &Place, app: &App) -> Option<Client> {
    match &place.server {
        Some(url) => Some(Client::new(url)),
        None if place.local => None,
        None => Client::discover(app.data_root()),
    }
}

fn sampling(args: &Query) -> Sampling {
    Sampling {
        temperature: args.temperature,
        top_k: args.sample_top_k,
        top_p: args.top_p,
        min_p: args.min_p,
        repetition_penalty: args.repetition_penalty,
        seed: args.seed,
    }
}

fn budget(args: &Query) -> Budget {
    Budget { max_cost: args.max_cost, max_input_tokens: args.max_input_tokens, max_latency_ms: args.max_latency_ms }
}

fn local(args: &Query, app: &App) -> Result<(), CliError> {
    let stack = app.stack()?;
    let query = edgewise_planner::Query {
        route: args.route.forced(),
        objective: args.objective.map_or_else(|| app.objective(), Into::into),
        budget: budget(args),
        top_k: args.top_k,
        filter: args.filter.as_deref().map(str::parse).transpose().map_err(RetrievalError::from)?,
        sampling: sampling(args),
        max_output_tokens: args.max_tokens,
        stop: args.stop.clone(),
        escalate: args.escalate,
        ..edgewise_planner::Query::new(&args.question)
    };
    if args.explain {
        let collection = stack.collections.get(&args.collection)?;
        return explained(args, &stack.planner.explain(&collection, &query)?);
    }
    let answer = ask(&stack, &args.collection, &query, args.json)?;
    if args.json { output::json(&answer) } else { answered(args, &answer) }
}

fn explained(args: &Query, explanation: &Explanation) -> Result<(), CliError> {
    if args.json {
        return output::json(explanation);
    }
    output::explanation(explanation)?;
    if args.map {
        output::line("")?;
        output::prompt_map(&explanation.prompt_map)?;
    }
    Ok(())
}

/// What follows the text of an answer.
fn answered(args: &Query, answer: &Answer) -> Result<(), CliError> {
    output::answer_details(answer)?;
    if args.map {
        output::line(&format!("\n{}", output::bold("Prompt")))?;
        output::prompt_map(&answer.prompt_map)?;
    }
    Ok(())
}

/// Says that the text so far is superseded.
fn superseded(reason: &str, route: Route) -> std::io::Result<()> {
    output::line(&format!("\n\n{}", output::dim(&format!("Looking further ({route}): {reason}.\n"))))
}

/// Asks, streams the text to standard output unless `silent`, records the request in the ledger.
pub(crate) fn ask(
    stack: &Stack,
    collection: &edgewise_types::CollectionName,
    query: &edgewise_planner::Query,
    silent: bool,
) -> Result<Answer, CliError> {
    let at = jiff::Timestamp::now();
    budgets::admit(&stack.recorder.ledger, collection)?;
    let collection = stack.collections.get(collection)?;
    let stop = interrupt::watch()?;
    let mut broken = None;
    let mut sink = |event: AnswerEvent| {
        let shown = match &event {
            AnswerEvent::Token(text) if !silent => output::piece(text),
            AnswerEvent::Escalated(told) if !silent => superseded(&told.reason, told.explanation.chosen),
            _ => Ok(()),
        };
        if let Err(error) = shown {
            broken = Some(error);
            return ControlFlow::Break(());
        }
        if stop.is_set() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let answer = stack.planner.answer(&collection, query, &mut sink);
    if let Some(error) = broken {
        return Err(CliError::Terminal(error));
    }
    let answer = match answer {
        Err(PlannerError::Cancelled) => return Err(CliError::Interrupted),
        answer => answer?,
    };
    if !silent {
        output::line("")?;
    }
    // A record that can't be written is logged and does not take the answer away.
    stack.recorder.answered(&format!("cli-{}", std::process::id()), at, query, &answer);
    Ok(answer)
}

fn body(args: &Query) -> Value {
    let mut body = json!({
        "collection": args.collection,
        "question": args.question,
        "budget": budget(args),
        "sampling": sampling(args),
        "stop": args.stop,
    });
    let optional = [
        ("route", args.route.forced().map(|r| json!(r))),
        ("objective", args.objective.map(|o| json!(edgewise_planner::Objective::from(o)))),
        ("top_k", args.top_k.map(|n| json!(n))),
        ("filter", args.filter.as_ref().map(|filter| json!(filter))),
        ("max_output_tokens", args.max_tokens.map(|n| json!(n))),
        ("escalate", args.escalate.map(|escalate| json!(escalate))),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            body[key] = value;
        }
    }
    body
}

fn remote(args: &Query, client: &Client) -> Result<(), CliError> {
    let mut body = body(args);
    if args.explain {
        // Everything a decision depends on, and nothing of how an answer is written.
        for key in ["sampling", "stop"] {
            body.as_object_mut().map(|fields| fields.remove(key));
        }
        return explained(args, &client.post("/v1/routes/explain", &body)?);
    }
    if args.json {
        let answer: Answer = client.post("/v1/query", &body)?;
        return output::json(&answer);
    }
    body["stream"] = json!(true);
    answered(args, &stream(client, &body)?)
}

/// Asks a server, and streams the text to standard output.
pub(crate) fn stream(client: &Client, body: &Value) -> Result<Answer, CliError> {
    let mut answer: Option<Answer> = None;
    client.stream("/v1/query", body, |event| {
        match event.name.as_str() {
            "token" => {
                let data: Value = serde_json::from_str(&event.data)?;
                output::piece(data["text"].as_str().unwrap_or_default())?;
            }
            "escalated" => {
                let told: Escalated = serde_json::from_str(&event.data)?;
                superseded(&told.reason, told.explanation.chosen)?;
            }
            "done" => answer = Some(serde_json::from_str(&event.data)?),
            "error" => {
                let data: Value = serde_json::from_str(&event.data)?;
                let message = data["error"]["message"].as_str().unwrap_or("the answer failed").to_owned();
                return Err(CliError::Server { status: 500, message });
            }
            _ => {}
        }
        Ok(())
    })?;
    output::line("")?;
    answer.ok_or_else(|| CliError::Connection {
        url: client.url().to_owned(),
        reason: "the stream ended before the answer was complete".to_owned(),
    })
}
