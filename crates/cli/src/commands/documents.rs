//! `edgewise documents`.

use edgewise_types::{CollectionName, DocumentId};

use super::{collections::document_row, ingest::all_documents};
use crate::{app::App, args::Documents, client::Client, error::CliError, output};

pub(crate) fn run(command: &Documents, app: &App) -> Result<(), CliError> {
    match command {
        Documents::List { collection, json } => list(app, collection, *json),
        Documents::Remove { collection, uris } => remove(app, collection, uris),
    }
}

fn list(app: &App, name: &CollectionName, json: bool) -> Result<(), CliError> {
    let documents = match Client::discover(app.data_root()) {
        Some(server) => all_documents(&server, name.as_str())?,
        None => app.collections()?.get(name)?.documents(0, usize::MAX >> 1)?,
    };
    if json {
        return output::json(&documents);
    }
    let rows = documents.iter().map(document_row).collect();
    Ok(output::line(&output::table(&["document", "title", "chunks", "tokens", "updated"], &[2, 3], rows))?)
}

fn remove(app: &App, name: &CollectionName, uris: &[String]) -> Result<(), CliError> {
    let ids: Vec<DocumentId> = uris.iter().map(|uri| DocumentId::from_uri(uri)).collect();
    match Client::discover(app.data_root()) {
        Some(server) => {
            // All or none, as without a server.
            let held = all_documents(&server, name.as_str())?;
            for (uri, id) in uris.iter().zip(&ids) {
                if !held.iter().any(|document| document.id == *id) {
                    return Err(unknown(name, uri));
                }
            }
            for id in &ids {
                server.delete(&format!("/v1/collections/{name}/documents/{id}"))?;
            }
        }
        None => {
            let collection = app.collections()?.get(name)?;
            collection.delete_documents(&ids).map_err(|error| match error {
                edgewise_retrieval::RetrievalError::UnknownDocument { document, .. } => {
                    let uri = uris.iter().zip(&ids).find(|(_, id)| **id == document).map_or("", |(uri, _)| uri);
                    unknown(name, uri)
                }
                error => error.into(),
            })?;
        }
    }
    Ok(output::line(&format!("removed {} from {name}", output::plural(uris.len(), "document")))?)
}

fn unknown(name: &CollectionName, uri: &str) -> CliError {
    CliError::NotFound(format!(
        "collection {name} has no document `{uri}`, so nothing is removed: edgewise documents list {name} shows their names"
    ))
}
