//! `edgewise collections`.

use serde_json::Value;

use edgewise_retrieval::{CheckReport, CollectionStats, Part};
use edgewise_types::{CollectionName, Document};

use crate::{
    app::App,
    args::Collections,
    client::Client,
    error::CliError,
    output::{self, count},
    prompt,
};

/// Documents shown by `info`; `--json` shows all.
const SHOWN: usize = 50;

pub(crate) fn run(command: &Collections, app: &App) -> Result<(), CliError> {
    match command {
        Collections::List { json } => list(app, *json),
        Collections::Info { name, json } => info(app, name, *json),
        Collections::Check { names, json } => check(app, names, *json),
        Collections::Repair { name, json } => repair(app, name, *json),
        Collections::Compact { name } => {
            let done = edgewise_retrieval::compact(app.data_root(), name)?;
            let (before, after) = (output::bytes(done.bytes_before), output::bytes(done.bytes_after));
            Ok(output::line(&format!("{name}: {before} before, {after} now"))?)
        }
        Collections::Export { name, file } => {
            edgewise_retrieval::export(app.data_root(), name, file)?;
            Ok(output::line(&format!("exported {name} to {}", file.display()))?)
        }
        Collections::Import { file, name } => {
            let report = edgewise_retrieval::import(app.data_root(), name, file)?;
            let documents = output::plural(report.documents, "document");
            Ok(output::line(&format!("imported {name}: {documents}, {}", output::plural(report.chunks, "chunk")))?)
        }
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
        damaged => Err(CliError::Failed(format!(
            "{} not sound: edgewise collections repair NAME mends indexes from the catalog",
            if damaged == 1 { "a collection is".to_owned() } else { format!("{damaged} collections are") }
        ))),
    }
}

fn repair(app: &App, name: &CollectionName, json: bool) -> Result<(), CliError> {
    let repaired = edgewise_retrieval::repair(app.data_root(), name)?;
    if json {
        return output::json(&repaired);
    }
    for finding in &repaired.before.findings {
        output::line(&format!("mended {}: {}", part_name(finding.part), finding.problem))?;
    }
    print_check(&repaired.after)?;
    match repaired.after.findings.is_empty() {
        true => Ok(()),
        false => Err(CliError::Failed(format!("{name} could not be mended: check the disk"))),
    }
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

fn document_row(document: &Document) -> Vec<String> {
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
        Some(client) => {
            let stats: Value = client.get(&format!("/v1/collections/{name}"))?;
            stats["documents"].as_u64().unwrap_or_default() as usize
        }
        None => app.collections()?.get(name)?.stats()?.documents,
    };
    if !yes && !prompt::confirm(&format!("Delete collection {name} with {}?", output::plural(documents, "document")))? {
        return Err(CliError::Interrupted);
    }
    match server {
        Some(client) => client.delete(&format!("/v1/collections/{name}"))?,
        None => app.collections()?.delete(name)?,
    }
    Ok(output::line(&format!("deleted {name}"))?)
}
