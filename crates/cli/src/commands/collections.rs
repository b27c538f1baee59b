//! `edgewise collections`.

use serde_json::Value;

use edgewise_retrieval::CollectionStats;
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
    output::line(&output::dim(&format!("lexical index {lexical}, vector index {vector}\n")))?;
    let rows = documents.iter().map(document_row).collect();
    output::line(&output::table(&["document", "title", "chunks", "tokens", "updated"], &[2, 3], rows))?;
    if stats.documents > documents.len() {
        output::line(&output::dim(&format!("… and {} more (--json lists all)", stats.documents - documents.len())))?;
    }
    Ok(())
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
