//! `edgewise probe`: how well the configured generator reads, by depth and length.

mod show;

use std::{collections::BTreeMap, fs};

use serde_json::json;

use edgewise_evaluation::{Other, PlacementSet, Probe, ProbeOptions, ProbePlan, ProbeText, Rows};
use edgewise_planner::{Measurement, Observation, ReadingProfile, ReadingTask};
use edgewise_prompts::Prompts;
use edgewise_types::CollectionName;

use crate::{
    app::App,
    args::Probe as Args,
    error::{CliError, io_error},
    guide, interrupt, output,
    progress::{self, EvalBar},
};

/// Documents of a collection read at a time.
const PAGE: usize = 100;

/// Characters of text that are enough for every prompt.
const ENOUGH_TEXT: usize = 2_000_000;

pub(crate) fn run(args: &Args, app: &App) -> Result<(), CliError> {
    let generator = app.generator()?;
    let info = generator.info().clone();
    if args.show {
        let Some(profile) = app.profiles().load(&info)? else {
            let message = format!("{} has no reading profile: measure one with `edgewise probe`", info.model);
            return Err(CliError::NotFound(message));
        };
        return if args.json { output::json(&profile) } else { Ok(show::profile(&profile)?) };
    }
    let options = options(args, info.context_window);
    let prompts = Prompts::load(app.settings().paths.prompts_dir())?;
    let text = match &args.collection {
        Some(name) => collection_text(name, app)?,
        None => guide_text(),
    };
    let set = args.data.as_deref().map(PlacementSet::load).transpose()?;
    let probe = Probe::new(generator.as_ref(), &prompts, &text, set.as_ref(), &options)?;

    let of = json!({
        "probe": 1,
        "model": info.digest,
        "template": prompts.answer().template_hash(),
        "options": options,
        "text": text.from,
        "data": args.data,
    });
    let (path, other) = match &args.rows {
        Some(path) => (path.clone(), Other::Refuse),
        None => (app.profiles().path(&info, "partial.jsonl"), Other::Replace),
    };
    if args.plan {
        return plan(&probe.plan(&[]), args);
    }
    let mut rows: Rows<Observation> = Rows::open(&path, &of.to_string(), other)?;
    let ahead = probe.plan(rows.rows());
    if !args.json {
        show::plan(&ahead)?;
    }
    let bar = EvalBar::new(progress::visible(app.quiet() || args.json), "questions");
    let interrupt = interrupt::watch()?;
    let observations = probe.run(&mut rows, &bar, &|| interrupt.is_set());
    bar.finish();
    let observations = match observations {
        Err(edgewise_evaluation::EvaluationError::Interrupted) => {
            let (kept, all) = (rows.rows().len(), ahead.observations);
            let hint = "run the same command to go on";
            output::note(&format!("{kept} of {all} observations are kept in {}: {hint}", path.display()));
            return Err(CliError::Interrupted);
        }
        observations => observations?,
    };
    let measurement = Measurement {
        at: jiff::Timestamp::now(),
        program: env!("CARGO_PKG_VERSION").to_owned(),
        seed: options.seed,
        text: text.from.clone(),
    };
    let profile = ReadingProfile::of(&info, measurement, &observations);
    let saved = app.profiles().save(&profile)?;
    drop(rows);
    if args.rows.is_none() {
        // In the profile now.
        fs::remove_file(&path).map_err(io_error("cannot remove", &path))?;
    }
    if args.json {
        return output::json(&profile);
    }
    show::profile(&profile)?;
    Ok(output::line(&output::dim(&format!(
        "kept in {}; a running server takes it up within half a minute",
        saved.display()
    )))?)
}

fn plan(plan: &ProbePlan, args: &Args) -> Result<(), CliError> {
    if args.json { output::json(plan) } else { Ok(show::plan(plan)?) }
}

fn options(args: &Args, window: usize) -> ProbeOptions {
    let usual = if args.full { ProbeOptions::full(window) } else { ProbeOptions::quick() };
    let tasks: Vec<ReadingTask> = args.tasks.iter().map(|task| (*task).into()).collect();
    let mut lengths = if args.lengths.is_empty() { usual.lengths } else { args.lengths.clone() };
    lengths.sort_unstable();
    lengths.dedup();
    ProbeOptions {
        tasks: if tasks.is_empty() { usual.tasks } else { tasks },
        lengths,
        depths: args.depths.unwrap_or(usual.depths),
        items: args.questions.unwrap_or(usual.items),
        seed: args.seed,
    }
}

/// The guide that is built in.
pub(crate) fn guide_text() -> ProbeText {
    ProbeText::new("the guide", guide::pages())
}

fn collection_text(name: &CollectionName, app: &App) -> Result<ProbeText, CliError> {
    let collection = app.collections()?.get(name)?;
    let mut texts = BTreeMap::new();
    let (mut characters, mut after) = (0, None::<String>);
    loop {
        let page = collection.documents_after(after.as_deref(), PAGE)?;
        let Some(last) = page.last() else { break };
        after = Some(last.uri.clone());
        for document in &page {
            let text = collection.document_text(&document.id)?;
            characters += text.len();
            texts.insert((document.uri.clone(), document.title.clone()), text);
        }
        if characters >= ENOUGH_TEXT {
            break;
        }
    }
    let documents = texts.iter().map(|((_, title), text)| (title.as_str(), text.as_ref()));
    Ok(ProbeText::new(format!("collection {name}"), documents))
}
