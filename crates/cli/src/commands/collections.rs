//! `edgewise collections`.
//!
//! Listing, checking and exporting only read, and work beside a server or an ingest. Mending, compacting, renaming and
//! deleting go through the server that serves the data folder, if there is one; otherwise they take the writer's lock.
//! Importing makes a collection that nobody has open yet.

mod budget;

use std::path::Path;

use serde_json::{Value, json};

use edgewise_retrieval::{CheckReport, CollectionStats, Compacted, Part, Repaired};
use edgewise_types::{CollectionName, Document};

use crate::{
    app::App,
    args::Collections,
    client::Client,
    error::{CliError, exit},
    output::{self, count},
    prompt,
};

/// Documents shown by `info`; `--json` shows all.
const SHOWN: usize = 50;

pub(crate) fn run(command: &Collections, app: &App) -> Result<(), CliError> {
    match command {
        Collections::List { json } => list(app, *json),
        Collections::Info { name, json } => info(app, name, *json),
        Collections::Budget(args) => budget::run(args, app),
        Collections::Check { names, json } => check(app, names, *json),
        Collections::Repair { name, json } => repair(app, name, *json),
        Collections::Compact { name, json } => compact(app, name, *json),
        Collections::Rename { name, to } => rename(app, name, to),
        Collections::Export { name, file, json } => export(app, name, file, *json),
        Collections::Import { file, name, json } => import(app, file, name, *json),
        Collections::Delete { name, yes } => delete(app, name, *yes),
    }
}

fn list(app: &App, json: bool) -> Result<(), CliError> {
    let listing = app.collections()?.list()?;
    for (name, error) in &listing.damaged {
        output::note(&format!("{} {name}: {error}", output::bad("damaged")));
    }
    if json {
        return output::json(&listing.collections);
    }
    if listing.collections.is_empty() {
        return Ok(output::line("no collections yet: edgewise ingest PATH --collection NAME makes one")?);
    }
    let rows = listing.collections.iter().map(row).collect();
    let header = ["collection", "documents", "chunks", "tokens", "text", "generation", "embedder"];
    Ok(output::line(&output::table(&header, &[1, 2, 3, 4, 5], rows))?)
}

fn row(stats: &CollectionStats) -> Vec<String> {
    vec![
        stats.name.to_string(),
        count(stats.documents),
        count(stats.chunks),
        count(stats.tokens),
        output::bytes(stats.text_bytes as u64),
        stats.generation.to_string(),
        stats.embedder.clone(),
    ]
}

fn info(app: &App, name: &CollectionName, json: bool) -> Result<(), CliError> {
    let collection = app.collections()?.get(name)?;
    let stats = collection.stats()?;
    let documents = collection.documents(0, if json { usize::MAX >> 1 } else { SHOWN })?;
    if json {
        let fingerprint = collection.content_fingerprint()?;
        let info = serde_json::json!({ "collection": stats, "fingerprint": fingerprint, "documents": documents });
        return output::json(&info);
    }
    let header = ["collection", "documents", "chunks", "tokens", "text", "generation", "embedder"];
    output::line(&output::table(&header, &[1, 2, 3, 4, 5], vec![row(&stats)]))?;
    let state = |reached| {
        if reached == stats.generation { "up to date".to_owned() } else { format!("at generation {reached}") }
    };
    let (lexical, vector) = (state(stats.lexical_generation), state(stats.vector_generation));
    let searched = match (stats.graph_vectors, stats.building_graph) {
        (0, false) => "vectors are scanned".to_owned(),
        (0, true) => "vectors are scanned until their graph is built".to_owned(),
        (vectors, _) => format!("a graph over {vectors} vectors"),
    };
    output::line(&output::dim(&format!("lexical index {lexical}, vector index {vector}, {searched}\n")))?;
    let rows = documents.iter().map(document_row).collect();
    output::line(&output::table(&["document", "title", "chunks", "tokens", "updated"], &[2, 3], rows))?;
    if stats.documents > documents.len() {
        output::line(&output::dim(&format!("… and {} more (--json lists all)", stats.documents - documents.len())))?;
    }
    Ok(())
}

fn check(app: &App, names: &[CollectionName], json: bool) -> Result<(), CliError> {
    let root = app.data_root();
    let names = if names.is_empty() { edgewise_retrieval::names(root)? } else { names.to_vec() };
    let reports: Vec<CheckReport> =
        names.iter().map(|name| edgewise_retrieval::check(root, name)).collect::<Result<_, _>>()?;
    if json {
        output::json(&reports)?;
    } else {
        reports.iter().try_for_each(print_check)?;
    }
    match reports.iter().filter(|report| !report.findings.is_empty()).count() {
        0 => Ok(()),
        damaged => {
            let catalogs = reports.iter().any(|report| report.concerns(Part::Catalog));
            let advice = match catalogs {
                true => {
                    "a damaged catalog can't be mended: import an export, or delete the collection and ingest again"
                }
                false => "edgewise collections repair NAME mends this from the catalog",
            };
            let which = if damaged == 1 { "a collection is".to_owned() } else { format!("{damaged} collections are") };
            Err(CliError::Failed(format!("{which} not sound: {advice}")))
        }
    }
}

fn repair(app: &App, name: &CollectionName, json: bool) -> Result<(), CliError> {
    let repaired: Repaired = match Client::discover(app.data_root()) {
        Some(server) => server.post(&format!("/v1/collections/{name}/repair"), &json!({}))?,
        None => edgewise_retrieval::repair(app.data_root(), name)?,
    };
    if json {
        output::json(&repaired)?;
    } else {
        for finding in &repaired.before.findings {
            output::line(&format!("mended {}: {}", part_name(finding.part), finding.problem))?;
        }
        print_check(&repaired.after)?;
    }
    match repaired.after.findings.is_empty() {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{name} could not be mended: check the disk"))),
    }
}

fn compact(app: &App, name: &CollectionName, json: bool) -> Result<(), CliError> {
    let done: Compacted = match Client::discover(app.data_root()) {
        Some(server) => server.post(&format!("/v1/collections/{name}/compact"), &json!({}))?,
        None => edgewise_retrieval::compact(app.data_root(), name)?,
    };
    if done.held_by_reader {
        output::note("a process that is reading keeps some room: compact again once it has ended");
    }
    if json {
        return output::json(&done);
    }
    let (before, after) = (output::bytes(done.bytes_before), output::bytes(done.bytes_after));
    Ok(output::line(&format!("{name}: {before} before, {after} now"))?)
}

fn rename(app: &App, name: &CollectionName, to: &CollectionName) -> Result<(), CliError> {
    match Client::discover(app.data_root()) {
        Some(server) => {
            let _: Value = server.post(&format!("/v1/collections/{name}/rename"), &json!({ "name": to }))?;
        }
        None => edgewise_retrieval::rename(app.data_root(), name, to)?,
    }
    Ok(output::line(&format!("renamed {name} to {to}"))?)
}

fn export(app: &App, name: &CollectionName, file: &Path, json: bool) -> Result<(), CliError> {
    let report = edgewise_retrieval::export(app.data_root(), name, file)?;
    let bytes = std::fs::metadata(file).map_or(0, |file| file.len());
    if json {
        return output::json(&json!({
            "collection": name, "file": file, "bytes": bytes, "generation": report.generation,
            "documents": report.documents, "chunks": report.chunks,
        }));
    }
    let (documents, chunks) = (output::plural(report.documents, "document"), output::plural(report.chunks, "chunk"));
    let size = output::bytes(bytes);
    Ok(output::line(&format!("exported {name} to {}: {documents}, {chunks}, {size}", file.display()))?)
}

fn import(app: &App, file: &Path, name: &CollectionName, json: bool) -> Result<(), CliError> {
    let report = edgewise_retrieval::import(app.data_root(), name, file)?;
    if json {
        return output::json(&report);
    }
    let (documents, chunks) = (output::plural(report.documents, "document"), output::plural(report.chunks, "chunk"));
    Ok(output::line(&format!("imported {name}: {documents}, {chunks}"))?)
}

fn print_check(report: &CheckReport) -> Result<(), CliError> {
    let size = format!(
        "{}, {}, generation {}",
        output::plural(report.documents, "document"),
        output::plural(report.chunks, "chunk"),
        report.generation
    );
    let verdict = if report.findings.is_empty() { output::good("sound") } else { output::bad("damaged") };
    output::line(&format!("{} {verdict}: {size}", output::bold(report.collection.as_str())))?;
    for finding in &report.findings {
        output::line(&format!("  {}: {}", part_name(finding.part), finding.problem))?;
    }
    for note in &report.notes {
        output::line(&output::dim(&format!("  {note}")))?;
    }
    Ok(())
}

fn part_name(part: Part) -> &'static str {
    match part {
        Part::Manifest => "manifest",
        Part::Catalog => "catalog",
        Part::Lexical => "lexical index",
        Part::Vectors => "vector snapshot",
    }
}

pub(super) fn document_row(document: &Document) -> Vec<String> {
    vec![
        document.uri.clone(),
        document.title.clone(),
        count(document.chunks),
        count(document.tokens),
        document.updated_at.clone(),
    ]
}

fn delete(app: &App, name: &CollectionName, yes: bool) -> Result<(), CliError> {
    let server = Client::discover(&app.settings().paths.data);
    let documents = match &server {
        Some(client) => client
            .get(&format!("/v1/collections/{name}"))
            .map(|stats: Value| stats["documents"].as_u64().unwrap_or_default() as usize),
        None => {
            let collections = app.collections()?;
            collections.get(name).and_then(|collection| Ok(collection.stats()?.documents)).map_err(CliError::from)
        }
    };
    let what = match documents {
        Ok(documents) => format!("with {}", output::plural(documents, "document")),
        Err(error) if error.exit_code() == exit::NOT_FOUND => return Err(error),
        // A damaged one can be deleted too.
        Err(error) => format!("although it can't be read ({error})"),
    };
    if !yes && !prompt::confirm(&format!("Delete collection {name} {what}?"))? {
        return Err(CliError::Interrupted);
    }
    match server {
        Some(client) => client.delete(&format!("/v1/collections/{name}"))?,
        None => app.collections()?.delete(name)?,
    }
    Ok(output::line(&format!("deleted {name}"))?)
}
