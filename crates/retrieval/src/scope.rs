//! The documents a filter lets through.
//!
//! Deliberately not here: what a filter means (see `filter`), and filtering inside the arms of a search (see `state`).

use std::collections::HashSet;

use edgewise_types::{Document, DocumentId};

use crate::{Collection, Filter, RetrievalError};

/// Documents read at a time.
const PAGE: usize = 1000;

impl Collection {
    /// The documents that satisfy `filter`, in order of URI; with `among`, only those of these.
    ///
    /// # Errors
    /// [`RetrievalError::UnknownDocument`] for one of `among` that is not in the collection.
    pub fn matching(&self, filter: &Filter, among: Option<&[DocumentId]>) -> Result<Vec<Document>, RetrievalError> {
        if let Some(among) = among {
            let among: HashSet<&DocumentId> = among.iter().collect();
            let mut documents = among.into_iter().map(|id| self.document(id)).collect::<Result<Vec<_>, _>>()?;
            documents.retain(|document| filter.matches(document));
            documents.sort_by(|a, b| a.uri.cmp(&b.uri));
            return Ok(documents);
        }
        let mut matching = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.documents_after(after.as_deref(), PAGE)?;
            after = page.last().filter(|_| page.len() == PAGE).map(|last| last.uri.clone());
            matching.extend(page.into_iter().filter(|document| filter.matches(document)));
            if after.is_none() {
                return Ok(matching);
            }
        }
    }
}
