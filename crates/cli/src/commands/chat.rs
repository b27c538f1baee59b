//! `edgewise chat`: one question a line, each answer with its sources and its price, each follow-up going on from what the
//! engine has already read.
//!
//! The conversation is kept here and nowhere else: every question brings its earlier turns along.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, IsTerminal},
};

use serde_json::{Value, json};

use edgewise_planner::{Answer, Explanation, MAX_TURNS, Turn};
use edgewise_retrieval::RetrievalError;

use crate::{
    app::{App, Stack},
    args::Chat,
    client::Client,
    commands::query,
    error::CliError,
    interrupt, output,
};

const HELP: &str = "/new starts another conversation, /why shows the last decision, /map the last prompt, /quit ends";

/// Who answers.
enum Answerer {
    Here(Box<Stack>),
    Server(Client),
}

pub(crate) fn run(args: &Chat, app: &App) -> Result<(), CliError> {
    let answerer = match query::server(&args.place, app) {
        Some(client) => Answerer::Server(client),
        None => Answerer::Here(Box::new(app.stack()?)),
    };
    if let Answerer::Here(stack) = &answerer {
        // A name that is wrong is told at once, not after the first question.
        stack.collections.get(&args.collection)?;
    }
    let prompting = io::stdin().is_terminal();
    if prompting {
        output::note(&output::dim(&format!("Asking {}. {HELP}.", args.collection)));
    }
    let mut history: Vec<Turn> = Vec::new();
    let mut last: Option<Answer> = None;
    let mut failure = None;
    let mut lines = io::stdin().lock().lines();
    loop {
        if prompting {
            output::piece(&output::bold("› "))?;
        }
        let Some(line) = lines.next().transpose()? else { break };
        match line.trim() {
            "" => {}
            "/quit" | "/exit" => break,
            "/help" => output::line(HELP)?,
            "/new" => {
                history.clear();
                last = None;
                output::note(&output::dim("a new conversation"));
            }
            "/why" => match &last {
                Some(answer) => output::explanation(shown(answer))?,
                None => output::note("nothing was asked yet"),
            },
            "/map" => match &last {
                Some(answer) => output::prompt_map(&answer.prompt_map)?,
                None => output::note("nothing was asked yet"),
            },
            command if command.starts_with('/') => output::note(&format!("{command} is no command: {HELP}")),
            question => match ask(args, app, &answerer, question, &history) {
                Ok(answer) => {
                    summary(&answer, history.len() + 1)?;
                    history.push(answer.turn.clone());
                    let oldest = history.len().saturating_sub(MAX_TURNS);
                    history.drain(..oldest);
                    last = Some(answer);
                }
                // Whoever listened has gone.
                Err(error @ CliError::Terminal(_)) => return Err(error),
                Err(CliError::Interrupted) => {
                    interrupt::watch()?.clear();
                    output::note("\nstopped; the question is not part of the conversation");
                }
                Err(error) => {
                    output::note(&format!("{}: {error}", output::bad("error")));
                    failure = Some(error);
                }
            },
        }
    }
    // A script learns from the exit code that a question of it failed.
    match failure {
        Some(error) if !prompting => Err(error),
        _ => Ok(()),
    }
}

fn ask(args: &Chat, app: &App, answerer: &Answerer, question: &str, history: &[Turn]) -> Result<Answer, CliError> {
    match answerer {
        Answerer::Here(stack) => {
            let query = edgewise_planner::Query {
                route: args.route.forced(),
                objective: args.objective.map_or_else(|| app.objective(), Into::into),
                budget: edgewise_planner::Budget { max_cost: args.max_cost, ..Default::default() },
                filter: args.filter.as_deref().map(str::parse).transpose().map_err(RetrievalError::from)?,
                max_output_tokens: args.max_tokens,
                history: history.to_vec(),
                ..edgewise_planner::Query::new(question)
            };
            query::ask(stack, &args.collection, &query, false)
        }
        Answerer::Server(client) => query::stream(client, &body(args, question, history)),
    }
}

fn body(args: &Chat, question: &str, history: &[Turn]) -> Value {
    let mut body = json!({ "collection": args.collection, "question": question, "history": history, "stream": true });
    let optional = [
        ("route", args.route.forced().map(|route| json!(route))),
        ("objective", args.objective.map(|o| json!(edgewise_planner::Objective::from(o)))),
        ("budget", args.max_cost.map(|most| json!({ "max_cost": most }))),
        ("filter", args.filter.as_ref().map(|filter| json!(filter))),
        ("max_output_tokens", args.max_tokens.map(|n| json!(n))),
    ];
    for (key, value) in optional {
        if let Some(value) = value {
            body[key] = value;
        }
    }
    body
}

/// The decision behind what was said last.
fn shown(answer: &Answer) -> &Explanation {
    answer.escalation.as_ref().map_or(&answer.explanation, |escalation| &escalation.explanation)
}

/// What stands below an answer: where it is from, and what the turn took.
fn summary(answer: &Answer, turn: usize) -> Result<(), CliError> {
    let mut places = BTreeSet::new();
    for citation in &answer.citations {
        if places.insert((citation.n, &citation.uri)) {
            let place = output::place(&citation.uri, &citation.heading_path, citation.pages.as_ref());
            output::line(&output::dim(&format!("  [{}] {place}", citation.n)))?;
        }
    }
    if answer.unanswerable {
        output::line(&output::dim("  the model found no answer in what it read"))?;
    }
    let decision = shown(answer);
    for note in &decision.notes {
        output::line(&output::dim(&format!("  note: {note}")))?;
    }
    let route = match &answer.escalation {
        Some(escalation) => format!("{} → {}", escalation.from, escalation.to),
        None => decision.chosen.to_string(),
    };
    let prompt = answer.usage.prompt_tokens();
    output::line(&output::dim(&format!(
        "  turn {turn} · {route} · {} of {} cached · {} · ${}",
        output::count(answer.usage.cache_read_tokens),
        output::plural(prompt, "prompt token"),
        output::duration(answer.timings.total_ms),
        answer.cost
    )))?;
    Ok(())
}
