//! Embedding drafts and committing them to a catalog, batch by batch.
//!
//! - Chunks of many documents are embedded together, so that the embedder can sort them by length.
//! - A document that the embedder or the catalog refuses is reported as failed; the others of its batch go on. Errors
//!   that any document would meet (a stopped engine, a full disk) end the ingest.
//! - A text that a document held before, or one that is being removed with the same content (a renamed file), is not
//!   embedded again: its vector is taken over.
//! - A commit is followed by both indexes before the next batch: a search beside a long ingest sees all but its last
//!   batch.

use std::collections::HashMap;
use std::time::Duration;

use edgewise_catalog::{Batch, Catalog, CatalogError, NewDocument};
use edgewise_documents::embedding_text;
use edgewise_model_api::ModelError;
use edgewise_types::{ContentHash, DocumentId};

use crate::{
    Collection, IngestOptions, IngestProgress, RetrievalError, error::of, ingest::check_cancelled, prepare::Draft,
    state::State,
};

/// Chunks handed to the embedder at once: enough to sort by length, few enough to report progress and to notice a
/// cancellation.
const EMBED_CHUNKS: usize = 256;

/// How long to wait before asking a busy embedder again.
const EMBEDDER_BUSY: Duration = Duration::from_millis(100);

/// Where an ingest writes, and what it has done so far.
pub(crate) struct Committer<'a> {
    pub(crate) collection: &'a Collection,
    pub(crate) state: &'a State,
    /// The state's catalog, open for writing.
    pub(crate) catalog: &'a Catalog,
    /// The catalog of the collection that is being replaced, if its vectors are of the same embedder.
    pub(crate) former: Option<&'a Catalog>,
    pub(crate) options: &'a IngestOptions,
    pub(crate) progress: &'a dyn IngestProgress,
    /// Documents that are going to be removed, by content: what was renamed.
    pub(crate) moved: HashMap<ContentHash, DocumentId>,
    pub(crate) chunks_embedded: usize,
    pub(crate) tokens_embedded: usize,
}

/// What became of a draft.
pub(crate) struct Settled {
    pub(crate) uri: String,
    /// Chunks committed, or why not.
    pub(crate) result: Result<usize, String>,
}

/// Adds the vectors a catalog has of texts that may come again in `draft`: those of the document's former self, and of the
/// one of the same content that goes.
pub(crate) fn add_known(
    catalog: &Catalog,
    moved: &HashMap<ContentHash, DocumentId>,
    draft: &Draft,
    known: &mut HashMap<String, Vec<f32>>,
) -> Result<(), CatalogError> {
    let same_content = moved.get(&draft.document.content_hash).cloned();
    for id in [Some(draft.document.id()), same_content].into_iter().flatten() {
        let chunks = catalog.chunk_ids_of(std::slice::from_ref(&id))?;
        for record in catalog.chunk_records(&chunks)? {
            known.insert(embedding_text(&record.chunk.heading_path, &record.chunk.text), record.embedding);
        }
    }
    Ok(())
}

impl Committer<'_> {
    /// Embeds and commits `drafts`, in commits of the size the options ask for.
    pub(crate) fn commit(&mut self, drafts: Vec<Draft>) -> Result<Vec<Settled>, RetrievalError> {
        let mut settled = Vec::with_capacity(drafts.len());
        let mut batch: Vec<Draft> = Vec::new();
        let mut chunks = 0;
        for draft in drafts {
            let more = draft.texts.len();
            let full = batch.len() >= self.options.batch_documents.max(1)
                || (!batch.is_empty() && chunks + more > self.options.batch_chunks);
            if full {
                settled.extend(self.commit_batch(std::mem::take(&mut batch))?);
                chunks = 0;
            }
            chunks += more;
            batch.push(draft);
        }
        settled.extend(self.commit_batch(batch)?);
        Ok(settled)
    }

    /// Deletes documents in one commit.
    pub(crate) fn delete(&mut self, documents: Vec<DocumentId>) -> Result<(), RetrievalError> {
        check_cancelled(self.collection, self.options)?;
        self.write(Vec::new(), documents).map(drop)
    }

    fn commit_batch(&mut self, drafts: Vec<Draft>) -> Result<Vec<Settled>, RetrievalError> {
        if drafts.is_empty() {
            return Ok(Vec::new());
        }
        let mut settled = Vec::with_capacity(drafts.len());
        let mut documents = Vec::with_capacity(drafts.len());
        for (document, refused) in self.embed(drafts)? {
            match refused {
                None => documents.push(document),
                Some(error) => settled.push(Settled { uri: document.uri, result: Err(error.to_string()) }),
            }
        }
        check_cancelled(self.collection, self.options)?;
        settled.extend(self.write(documents, Vec::new())?);
        Ok(settled)
    }

    fn write(&self, upserts: Vec<NewDocument>, deletes: Vec<DocumentId>) -> Result<Vec<Settled>, RetrievalError> {
        let mut settled = Vec::with_capacity(upserts.len());
        let mut batch = Batch { upserts, deletes };
        while !batch.upserts.is_empty() || !batch.deletes.is_empty() {
            match self.catalog.commit(&batch) {
                Ok(_) => {
                    settled.extend(batch.upserts.drain(..).map(|d| Settled { result: Ok(d.chunks.len()), uri: d.uri }));
                    batch.deletes.clear();
                    self.state.follow_as_writer()?;
                }
                // Refused as a whole for the sake of one document: go on without it.
                Err(CatalogError::InvalidBatch { uri, reason }) if batch.upserts.iter().any(|d| d.uri == uri) => {
                    batch.upserts.retain(|document| document.uri != uri);
                    settled.push(Settled { uri, result: Err(reason) });
                }
                Err(error) => return Err(of(self.collection.name())(error)),
            }
        }
        Ok(settled)
    }

    /// Fills in the vectors of all chunks. A document that the embedder refuses comes with its error.
    fn embed(&mut self, drafts: Vec<Draft>) -> Result<Vec<(NewDocument, Option<ModelError>)>, RetrievalError> {
        let known = self.known(&drafts)?;
        let unknown = |draft: &Draft| -> Vec<String> {
            draft.texts.iter().filter(|text| !known.contains_key(*text)).cloned().collect()
        };
        let texts: Vec<String> = drafts.iter().flat_map(unknown).collect();
        let mut together = match self.embed_texts(&texts)? {
            Ok(vectors) => Some(vectors.into_iter()),
            Err(error) => {
                tracing::debug!(%error, "embedding document by document to find the one that is refused");
                None
            }
        };
        let mut embedded = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let texts = unknown(&draft);
            let vectors: Result<Vec<Vec<f32>>, ModelError> = match &mut together {
                Some(vectors) => Ok(vectors.take(texts.len()).collect()),
                None => self.embed_texts(&texts)?,
            };
            let mut document = draft.document;
            match vectors {
                Ok(vectors) => {
                    let mut vectors = vectors.into_iter();
                    for (chunk, text) in document.chunks.iter_mut().zip(&draft.texts) {
                        chunk.embedding = match known.get(text) {
                            Some(vector) => vector.clone(),
                            None => {
                                self.chunks_embedded += 1;
                                self.tokens_embedded += chunk.embedder_tokens;
                                // One for each text that is not known, in order.
                                vectors.next().unwrap_or_default()
                            }
                        };
                    }
                    embedded.push((document, None));
                }
                Err(error) => embedded.push((document, Some(error))),
            }
        }
        Ok(embedded)
    }

    /// Embeds as soon as the embedder has room: other callers go first, this ingest loses nothing by waiting.
    fn embed_when_possible(&self, texts: &[&str]) -> Result<Result<Vec<Vec<f32>>, ModelError>, RetrievalError> {
        loop {
            match self.collection.models.embedder.embed(texts) {
                Err(ModelError::Overloaded { .. }) => {
                    check_cancelled(self.collection, self.options)?;
                    std::thread::sleep(EMBEDDER_BUSY);
                }
                embedded => return Ok(embedded),
            }
        }
    }

    /// Vectors the catalog has of texts that may come again: those of the documents' former selves.
    fn known(&self, drafts: &[Draft]) -> Result<HashMap<String, Vec<f32>>, RetrievalError> {
        let mut known = HashMap::new();
        for catalog in [Some(self.catalog), self.former].into_iter().flatten() {
            for draft in drafts {
                add_known(catalog, &self.moved, draft, &mut known).map_err(of(self.collection.name()))?;
            }
        }
        Ok(known)
    }

    /// One vector per text. The outer error ends the ingest; the inner one is about these texts.
    fn embed_texts(&self, texts: &[String]) -> Result<Result<Vec<Vec<f32>>, ModelError>, RetrievalError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for slice in texts.chunks(EMBED_CHUNKS) {
            check_cancelled(self.collection, self.options)?;
            match self.embed_when_possible(&slice.iter().map(String::as_str).collect::<Vec<_>>())? {
                Ok(more) if more.len() == slice.len() => vectors.extend(more),
                Ok(more) => {
                    let (found, expected) = (more.len(), slice.len());
                    let reason = format!("the embedder returned {found} vectors for {expected} texts");
                    return Err(ModelError::Internal(reason).into());
                }
                Err(error @ ModelError::Stopped(_)) => return Err(error.into()),
                Err(error) => return Ok(Err(error)),
            }
            self.progress.chunks_embedded(slice.len());
        }
        Ok(Ok(vectors))
    }
}
