//! `edgewise tree build`, and builds that follow an ingest.

use std::sync::Mutex;

use edgewise_gateway::{TreeBuildRequest, Trees};
use edgewise_retrieval::{
    Collection, Job, JobState, RetrievalError, TreeBudget, TreeControl, TreeHalt, TreeProgress, TreeReport, TreeStage,
    TreeStatus,
};
use edgewise_types::{CollectionName, TenantId};
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::{body, plan_text, request, trees};
use crate::{
    app::App,
    args::TreeBuild,
    client::{Client, Event},
    commands::{query::server, usage::budgets},
    error::CliError,
    interrupt::{self, Interrupt},
    output::{self, count, plural},
    progress, prompt,
};

pub(super) fn run(args: &TreeBuild, app: &App) -> Result<(), CliError> {
    let budget = TreeBudget {
        max_calls: args.max_calls,
        max_tokens: args.max_tokens,
        max_cost: args.max_cost,
        max_seconds: args.max_seconds.map(|seconds| seconds as f64),
    };
    let request = request(&args.what, budget);
    let bar = TreeBar::new(progress::visible(app.quiet() || args.json));
    let interrupted = interrupt::watch()?;
    let report = match server(&args.place, app) {
        Some(client) => remote(args, &client, &request, &bar, &interrupted),
        None => local(args, app, &request, &bar, &interrupted),
    };
    bar.finish();
    let report = report?;
    if args.json { output::json(&report) } else { Ok(output::line(&report_text(&report))?) }
}

fn agree(args: &TreeBuild, plan: &edgewise_retrieval::TreePlan) -> Result<(), CliError> {
    // Only what costs money or hours is asked about.
    if args.yes || plan.calls == 0 {
        return Ok(());
    }
    output::note(&plan_text(plan));
    if prompt::confirm("Build it?")? { Ok(()) } else { Err(CliError::Interrupted) }
}

fn local(
    args: &TreeBuild,
    app: &App,
    request: &TreeBuildRequest,
    bar: &TreeBar,
    interrupted: &Interrupt,
) -> Result<TreeReport, CliError> {
    let collection = app.collections()?.get(args.what.tree.get()?)?;
    let trees = trees(app, &collection, args.what.summariser)?;
    budgets::admit(&trees.recorder.ledger, collection.name())?;
    if trees.generator.is_some() && !args.yes {
        agree(args, &trees.plan(&collection, request)?)?;
    }
    here(&trees, &collection, request, bar, interrupted)
}

/// Builds in this process.
fn here(
    trees: &Trees,
    collection: &Collection,
    request: &TreeBuildRequest,
    bar: &TreeBar,
    interrupted: &Interrupt,
) -> Result<TreeReport, CliError> {
    let id = format!("cli-{}", std::process::id());
    let control = Here { bar, interrupted };
    let built = trees.build(&id, jiff::Timestamp::now(), &TenantId::local(), collection, request, &control);
    match built {
        Err(RetrievalError::Cancelled) if interrupted.is_set() => {
            bar.finish();
            output::note(&interrupted_text(collection.name(), &bar.last()));
            Err(CliError::Interrupted)
        }
        built => Ok(built?),
    }
}

/// What Ctrl-C leaves behind.
fn interrupted_text(name: &CollectionName, last: &TreeProgress) -> String {
    let work = last.work;
    format!(
        "stopped: {} made, {} of {} done; edgewise tree build -c {name} goes on from there",
        summaries(work.summaries_made),
        count(work.documents_done),
        plural(work.documents, "document"),
    )
}

fn summaries(n: usize) -> String {
    format!("{} {}", count(n), if n == 1 { "summary" } else { "summaries" })
}

struct Here<'a> {
    bar: &'a TreeBar,
    interrupted: &'a Interrupt,
}

impl TreeControl for Here<'_> {
    fn check(&self) -> Result<(), TreeHalt> {
        if self.interrupted.is_set() { Err(TreeHalt) } else { Ok(()) }
    }

    fn progress(&self, progress: &TreeProgress) {
        self.bar.show(progress);
    }
}

fn remote(
    args: &TreeBuild,
    client: &Client,
    request: &TreeBuildRequest,
    bar: &TreeBar,
    interrupted: &Interrupt,
) -> Result<TreeReport, CliError> {
    let name = args.what.tree.get()?;
    if !args.yes {
        agree(args, &client.post(&format!("/v1/collections/{name}/tree/plan"), &body(request)?)?)?;
    }
    let job: Job = client.post(&format!("/v1/collections/{name}/tree"), &body(request)?)?;
    follow(client, &job, bar, interrupted)
}

/// Follows a job of a server to its end. Ctrl-C ends the job.
fn follow(client: &Client, job: &Job, bar: &TreeBar, interrupted: &Interrupt) -> Result<TreeReport, CliError> {
    let mut last: Option<Job> = None;
    let mut asked = false;
    client.events(&format!("/v1/jobs/{}/events", job.id), |event: Option<Event>| {
        if interrupted.is_set() && !asked {
            asked = true;
            let _: Value = client.post(&format!("/v1/jobs/{}/cancel", job.id), &json!({}))?;
        }
        if let Some(event) = event {
            let job: Job = serde_json::from_str(&event.data)?;
            if let Ok(progress) = serde_json::from_value::<TreeProgress>(job.detail.clone())
                && !job.state.ended()
            {
                bar.show(&progress);
            }
            last = Some(job);
        }
        Ok(())
    })?;
    let broken = |reason: &str| CliError::Connection { url: client.url().to_owned(), reason: reason.to_owned() };
    let last = last.ok_or_else(|| broken("it told nothing of the job"))?;
    match last.state {
        JobState::Done => Ok(serde_json::from_value(last.detail)?),
        JobState::Cancelled => {
            bar.finish();
            output::note(&interrupted_text(&last.collection, &bar.last()));
            Err(CliError::Interrupted)
        }
        JobState::Failed => Err(CliError::Server { status: 500, message: last.error.unwrap_or_default() }),
        JobState::Queued | JobState::Running | JobState::Paused => Err(broken(
            "it ended the connection before the tree was built; the build goes on when the server runs again",
        )),
    }
}

/// What a build did, for people.
fn report_text(report: &TreeReport) -> String {
    let work = report.work;
    let state = match report.complete {
        true => output::good("up to date"),
        false => output::bad("not complete"),
    };
    let mut text = format!(
        "summary tree of {} {state}: {} in {} above {}; {} made, {} kept, {}",
        output::bold(report.collection.as_str()),
        plural(report.nodes, "node"),
        plural(report.levels as usize, "level"),
        plural(work.documents_done + report.documents_kept, "document"),
        summaries(work.summaries_made),
        count(work.summaries_kept),
        output::duration(report.seconds * 1e3),
    );
    if work.calls > 0 {
        let usage = work.usage;
        text.push_str(&format!(
            "\n{}, {} tokens read, {} written, ${}; {} written again, {} of sentences instead",
            plural(work.calls, "call"),
            count(usage.prompt_tokens()),
            count(usage.output_tokens),
            work.cost,
            summaries(work.regenerated),
            summaries(work.fallbacks),
        ));
    }
    if let Some(stopped) = &report.stopped {
        text.push_str(&format!("\nstopped before the end: {stopped}"));
    }
    text
}

/// Where an ingest was done.
pub(crate) enum After<'a> {
    /// In this process, which still is the writer.
    Here(&'a Collection),
    /// At a server.
    There(&'a Client),
}

/// After an ingest: builds the tree if that was asked for, else says when it is behind.
pub(crate) fn after_ingest(
    app: &App,
    name: &CollectionName,
    after: &After<'_>,
    asked: bool,
    json: bool,
) -> Result<(), CliError> {
    if !asked && !app.settings().tree.auto {
        if let Some(behind) = behind(name, after)?.filter(|behind| *behind > 0) {
            let changed = plural(behind, "document");
            output::note(&format!(
                "{changed} changed: edgewise tree build -c {name} brings the summary tree up to date"
            ));
        }
        return Ok(());
    }
    let bar = TreeBar::new(progress::visible(app.quiet() || json));
    let interrupted = interrupt::watch()?;
    let request = TreeBuildRequest::default();
    let report = match after {
        After::There(client) => {
            // A server that builds after uploads by itself may have begun already.
            let job = match running(client, name)? {
                Some(job) => job,
                None => client.post(&format!("/v1/collections/{name}/tree"), &body(&request)?)?,
            };
            follow(client, &job, &bar, &interrupted)
        }
        After::Here(collection) => {
            trees(app, collection, None).and_then(|trees| here(&trees, collection, &request, &bar, &interrupted))
        }
    };
    bar.finish();
    let report = report?;
    if !json {
        output::line(&report_text(&report))?;
    }
    Ok(())
}

/// The job of a server that builds a collection's tree now.
fn running(client: &Client, name: &CollectionName) -> Result<Option<Job>, CliError> {
    let list: edgewise_gateway::JobList = client.get(&format!("/v1/jobs?collection={name}"))?;
    Ok(list.jobs.into_iter().find(|job| job.kind == "tree" && !job.state.ended()))
}

/// Documents the tree is behind by; `None` without a tree.
fn behind(name: &CollectionName, after: &After<'_>) -> Result<Option<usize>, CliError> {
    match after {
        After::There(client) => {
            let view: Value = client.get(&format!("/v1/collections/{name}/tree?depth=0&text_chars=1"))?;
            let status: TreeStatus = serde_json::from_value(view["status"].clone())?;
            Ok(status.built.then_some(status.documents_behind.max(usize::from(!status.current))))
        }
        After::Here(collection) => Ok(collection.tree_behind()?),
    }
}

/// Progress of a build.
struct TreeBar {
    bar: ProgressBar,
    last: Mutex<TreeProgress>,
}

impl TreeBar {
    fn new(visible: bool) -> Self {
        let bar = progress::bar(visible, "{bar:28.green} {pos}/{len} documents  {msg}  {elapsed}{prefix}");
        Self { bar, last: Mutex::default() }
    }

    fn show(&self, progress: &TreeProgress) {
        let work = progress.work;
        self.bar.set_length(work.documents as u64);
        self.bar.set_position(work.documents_done as u64);
        let stage = match progress.stage {
            TreeStage::Preparing => "preparing",
            TreeStage::Documents => "summarising documents",
            TreeStage::Collection => "above documents",
            TreeStage::Finishing => "finishing",
        };
        let fallbacks = match work.fallbacks {
            0 => String::new(),
            n => format!(", {} of sentences instead", count(n)),
        };
        let (made, kept) = (count(work.summaries_made), count(work.summaries_kept));
        self.bar.set_message(format!("{stage}: {made} made, {kept} kept{fallbacks}"));
        let left = progress.eta_seconds.map(|seconds| format!(", {} left", output::duration(seconds * 1e3)));
        self.bar.set_prefix(left.unwrap_or_default());
        if let Ok(mut last) = self.last.lock() {
            progress.clone_into(&mut last);
        }
    }

    fn last(&self) -> TreeProgress {
        self.last.lock().map(|last| last.clone()).unwrap_or_default()
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
