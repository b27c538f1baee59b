//! `edgewise models`.

use std::path::Path;

use edgewise_model_store::{HubOptions, ModelState, ModelStatus, PullOptions, Pulled};
use edgewise_settings::Settings;

use crate::{
    app::App,
    args::Models,
    error::CliError,
    output::{self, bytes},
    progress::{self, PullBar},
};

pub(crate) fn run(command: &Models, app: &App) -> Result<(), CliError> {
    match command {
        Models::List { json } => list(app, *json),
        Models::Pull { names, from } => {
            let configured = configured(app.settings());
            let names: Vec<&str> =
                if names.is_empty() { configured } else { names.iter().map(String::as_str).collect() };
            pull(app, &names, from.as_deref())
        }
        Models::Verify { names } => verify(app, names),
        Models::Rm { names } => {
            let store = app.store()?;
            for name in names {
                let freed = store.remove(name)?;
                output::line(&format!("removed {name} ({} freed)", bytes(freed)))?;
            }
            Ok(())
        }
    }
}

/// Names of the configured models.
fn configured(settings: &Settings) -> Vec<&str> {
    let always = [settings.models.generator.as_str(), settings.models.embedder.as_str()];
    always.into_iter().chain(settings.retrieval.reranker_name()).collect()
}

/// The configured models that are not installed.
pub(crate) fn missing(app: &App) -> Result<Vec<ModelStatus>, CliError> {
    let configured = configured(app.settings());
    let mut wanted: Vec<ModelStatus> = app.store()?.list()?;
    wanted.retain(|m| configured.contains(&m.name.as_str()) && m.state != ModelState::Installed);
    Ok(wanted)
}

/// Fetches models one after the other and says where each came from.
pub(crate) fn pull(app: &App, names: &[&str], from: Option<&Path>) -> Result<(), CliError> {
    let store = app.store()?;
    let hub = HubOptions::from_env(|name| std::env::var(name).ok());
    let options = PullOptions { from: from.map(Path::to_owned), hub, ..PullOptions::default() };
    for name in names {
        let bar = PullBar::new(progress::visible(app.quiet()), name);
        let pulled = store.pull(name, &options, &bar);
        bar.clear();
        match pulled? {
            Pulled::AlreadyInstalled(files) => {
                output::line(&format!("{name} is installed already in {}", files.dir.display()))?;
            }
            Pulled::Installed { files, origin } => {
                output::line(&format!("installed {name} from {origin} into {}", files.dir.display()))?;
            }
        }
    }
    Ok(())
}

fn list(app: &App, json: bool) -> Result<(), CliError> {
    let models = app.store()?.list()?;
    if json {
        let rows: Vec<_> = models
            .iter()
            .map(|m| {
                serde_json::json!({
                    "name": m.name, "kind": m.kind.to_string(), "state": state(m), "bytes": m.bytes,
                    "license": m.license, "description": m.description, "dir": m.dir,
                })
            })
            .collect();
        return output::json(&rows);
    }
    let rows = models
        .iter()
        .map(|m| {
            let shown = match &m.state {
                ModelState::Installed => output::good("installed"),
                ModelState::Missing => output::dim("not installed"),
                ModelState::Damaged { reason } => output::bad(&format!("damaged: {reason}")),
            };
            let (kind, size) = (m.kind.to_string(), bytes(m.bytes));
            vec![m.name.clone(), kind, size, m.license.clone(), shown, m.description.clone()]
        })
        .collect();
    Ok(output::line(&output::table(&["model", "kind", "size", "licence", "state", "about"], &[2], rows))?)
}

fn state(model: &ModelStatus) -> &'static str {
    match model.state {
        ModelState::Installed => "installed",
        ModelState::Missing => "missing",
        ModelState::Damaged { .. } => "damaged",
    }
}

fn verify(app: &App, names: &[String]) -> Result<(), CliError> {
    let store = app.store()?;
    let names: Vec<String> = if names.is_empty() {
        store.list()?.into_iter().filter(|m| m.state != ModelState::Missing).map(|m| m.name).collect()
    } else {
        names.to_vec()
    };
    if names.is_empty() {
        return Ok(output::line("no models are installed: edgewise models pull fetches the configured ones")?);
    }
    let mut damaged = Vec::new();
    for name in &names {
        let bar = PullBar::new(progress::visible(app.quiet()), name);
        let checks = store.verify(name, &bar);
        bar.clear();
        for check in checks? {
            let mark = if check.is_ok() { output::good("✓") } else { output::bad("✗") };
            output::line(&format!("{mark} {name}/{}  sha256 {}", check.name, check.expected))?;
            if !check.is_ok() {
                let actual = check.actual.as_deref().unwrap_or("nothing: the file is missing");
                output::line(&format!("    found   {actual}"))?;
                damaged.push(name.as_str());
            }
        }
    }
    damaged.dedup();
    if damaged.is_empty() {
        return Ok(());
    }
    let names = damaged.join(" ");
    Err(CliError::Failed(format!("damaged: {names}; edgewise models rm {names}, then edgewise models pull {names}")))
}
