//! `edgewise tree`.
//!
//! Everything goes through the server that serves the data folder, if there is one; otherwise planning, looking and building
//! are done in this process, and building and deleting take the writer's lock.

mod build;
mod show;

use edgewise_gateway::{TreeBuildRequest, Trees};
use edgewise_retrieval::{Collection, SummariserKind, TreeBudget, TreeGenerator, TreePlan, TreeStatus};
use edgewise_settings::Summariser;
use serde_json::{Value, json};

use super::query::server;
use crate::{
    app::App,
    args::{SummariserArg, Tree, TreeDelete, TreePlanArgs, TreeStatusArgs, TreeWhat},
    client::Client,
    error::CliError,
    output::{self, count, plural},
    prompt,
};

pub(crate) use build::{After, after_ingest};

pub(crate) fn run(command: &Tree, app: &App) -> Result<(), CliError> {
    match command {
        Tree::Plan(args) => plan(args, app),
        Tree::Build(args) => build::run(args, app),
        Tree::Status(args) => status(args, app),
        Tree::Show(args) => show::run(args, app),
        Tree::Delete(args) => delete(args, app),
    }
}

/// What builds the tree of `collection` in this process; the generator is loaded only where it writes summaries.
fn trees(app: &App, collection: &Collection, asked: Option<SummariserArg>) -> Result<Trees, CliError> {
    let settings = app.settings().tree.clone();
    let own = match settings.summariser {
        Summariser::Extractive => SummariserKind::Extractive,
        Summariser::Abstractive => SummariserKind::Abstractive,
    };
    let kind = match asked {
        Some(kind) => kind.into(),
        None => collection.tree_summariser()?.unwrap_or(own),
    };
    let prompts = app.prompts()?;
    let recorder = app.recorder(&prompts)?;
    let generator = match kind {
        SummariserKind::Extractive => None,
        SummariserKind::Abstractive => {
            output::note("loading the generator …");
            Some(TreeGenerator { generator: app.generator()?, prompts })
        }
    };
    Ok(Trees { generator, recorder, settings })
}

impl From<SummariserArg> for SummariserKind {
    fn from(value: SummariserArg) -> Self {
        match value {
            SummariserArg::Extractive => Self::Extractive,
            SummariserArg::Abstractive => Self::Abstractive,
        }
    }
}

fn request(what: &TreeWhat, budget: TreeBudget) -> TreeBuildRequest {
    TreeBuildRequest { summariser: what.summariser.map(Into::into), full: what.full, budget }
}

fn plan(args: &TreePlanArgs, app: &App) -> Result<(), CliError> {
    let request = request(&args.what, TreeBudget::default());
    let plan: TreePlan = match server(&args.place, app) {
        Some(client) => {
            let path = format!("/v1/collections/{}/tree/plan", args.what.tree.get()?);
            client.post(&path, &serde_json::to_value(&request)?)?
        }
        None => {
            let collection = app.collections()?.get(args.what.tree.get()?)?;
            trees(app, &collection, args.what.summariser)?.plan(&collection, &request)?
        }
    };
    if args.json { output::json(&plan) } else { Ok(output::line(&plan_text(&plan))?) }
}

/// A plan for people.
fn plan_text(plan: &TreePlan) -> String {
    let todo = plan.documents - plan.documents_kept;
    let mut lines = vec![format!(
        "{}: {}, {}",
        output::bold(plan.collection.as_str()),
        plural(plan.documents, "document"),
        plural(plan.leaves, "passage")
    )];
    if let Some(reason) = &plan.anew {
        lines.push(format!("  every summary is made anew because {reason}"));
    }
    if plan.summaries == 0 && todo == 0 {
        lines.push("  the summary tree is up to date: there is nothing to build".to_owned());
        return lines.join("\n");
    }
    let kept = match plan.documents_kept {
        0 => String::new(),
        kept => format!(" ({} up to date)", plural(kept, "document")),
    };
    lines.push(format!("  to build     {}{kept}", plural(todo, "document")));
    let known = match plan.summaries_kept {
        0 => String::new(),
        kept => format!(" ({} more are kept)", count(kept)),
    };
    lines.push(format!("  summaries    about {}, {}{known}", count(plan.summaries), plan.summariser));
    if plan.calls > 0 {
        lines.push(format!(
            "  generator    about {}: {} tokens read, up to {} written",
            plural(plan.calls, "call"),
            count(plan.prompt_tokens),
            count(plan.output_tokens)
        ));
        lines.push(format!("  cost         about ${}", plan.cost));
    } else {
        lines.push("  generator    not called: no cost".to_owned());
    }
    lines.push(format!("  to embed     up to {} tokens", count(plan.tokens_to_embed)));
    lines.push(format!("  time         about {}", output::duration(plan.seconds * 1e3)));
    lines.join("\n")
}

fn status(args: &TreeStatusArgs, app: &App) -> Result<(), CliError> {
    let status: TreeStatus = match Client::discover(app.data_root()) {
        Some(client) => {
            let view: Value = client.get(&format!("/v1/collections/{}/tree?depth=0&text_chars=1", args.tree.get()?))?;
            serde_json::from_value(view["status"].clone())?
        }
        None => app.collections()?.get(args.tree.get()?)?.tree_status()?,
    };
    if args.json { output::json(&status) } else { Ok(output::line(&status_text(&status))?) }
}

/// The state of a tree for people.
fn status_text(status: &TreeStatus) -> String {
    let name = &status.collection;
    if !status.built {
        return format!(
            "{}: no summary tree; edgewise tree build -c {name} builds one, edgewise tree plan -c {name} says what it takes",
            output::bold(name.as_str())
        );
    }
    let verdict = match (status.current, status.documents_behind) {
        (true, _) => output::good("up to date"),
        (false, 0) => format!("{}: the layers above documents are", output::bad("behind")),
        (false, behind) => format!("{}: {} changed or new", output::bad("behind"), plural(behind, "document")),
    };
    let levels: Vec<String> = status
        .nodes_by_level
        .iter()
        .enumerate()
        .map(|(at, nodes)| format!("{} at level {}", count(*nodes), at + 1))
        .collect();
    let mut lines = vec![
        format!("{} {verdict}", output::bold(name.as_str())),
        format!("  documents    {} of {} current", count(status.documents_current), count(status.documents)),
        format!("  nodes        {} ({})", count(status.nodes), levels.join(", ")),
    ];
    let methods = status.methods;
    if methods.abstractive + methods.extractive_fallback > 0 {
        lines.push(format!(
            "  summaries    {} generated, {} of sentences instead because names or numbers did not hold, {} of sentences",
            count(methods.abstractive),
            count(methods.extractive_fallback),
            count(methods.extractive)
        ));
    }
    if let Some(summariser) = &status.summariser {
        lines.push(format!("  summariser   {summariser}"));
    }
    if !status.current {
        lines.push(output::dim(&format!("  edgewise tree build -c {name} brings it up to date")));
    }
    lines.join("\n")
}

fn delete(args: &TreeDelete, app: &App) -> Result<(), CliError> {
    let name = args.tree.get()?;
    if !args.yes && !prompt::confirm(&format!("Delete the summary tree of {name}? Its documents stay."))? {
        return Err(CliError::Interrupted);
    }
    match Client::discover(app.data_root()) {
        Some(client) => client.delete(&format!("/v1/collections/{name}/tree"))?,
        None => app.collections()?.get(name)?.delete_tree()?,
    }
    Ok(output::line(&format!("deleted the summary tree of {name}"))?)
}

/// The body of a request to build.
fn body(request: &TreeBuildRequest) -> Result<Value, CliError> {
    let body = serde_json::to_value(request)?;
    Ok(if body.is_null() { json!({}) } else { body })
}
