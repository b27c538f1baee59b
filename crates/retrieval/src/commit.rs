//! Embedding drafts and committing them to a catalog, batch by batch.
//!
//! - Chunks of many documents are embedded together, so that the embedder can sort them by length.
//! - A document that the embedder or the catalog refuses is reported as failed; the others of its batch go on. Errors
//!   that any document would meet (a stopped engine, a full disk) end the ingest.
//! - A commit is followed by both indexes before the next batch: a search beside a long ingest sees all but its last
//!   batch.

use std::time::Duration;

use edgewise_catalog::{Batch, Catalog, CatalogError, NewDocument};
use edgewise_model_api::ModelError;
use edgewise_types::DocumentId;

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
    pub(crate) options: &'a IngestOptions,
    pub(crate) progress: &'a dyn IngestProgress,
    pub(crate) chunks_embedded: usize,
    pub(crate) tokens_embedded: usize,
}

/// What became of a draft.
pub(crate) struct Settled {
    pub(crate) uri: String,
    /// Chunks committed, or why not.
    pub(crate) result: Result<usize, String>,
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
        let texts: Vec<&str> = drafts.iter().flat_map(|draft| draft.texts.iter().map(String::as_str)).collect();
        let mut together = match self.embed_texts(&texts)? {
            Ok(vectors) => Some(vectors.into_iter()),
            Err(error) => {
                tracing::debug!(%error, "embedding document by document to find the one that is refused");
                None
            }
        };
        let mut embedded = Vec::with_capacity(drafts.len());
        for draft in drafts {
            let vectors = match &mut together {
                Some(vectors) => Ok(vectors.take(draft.texts.len()).collect()),
                None => self.embed_texts(&draft.texts.iter().map(String::as_str).collect::<Vec<_>>())?,
            };
            let mut document = draft.document;
            match vectors {
                Ok(vectors) => {
                    self.chunks_embedded += document.chunks.len();
                    for (chunk, vector) in document.chunks.iter_mut().zip(vectors) {
                        self.tokens_embedded += chunk.embedder_tokens;
                        chunk.embedding = vector;
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

    /// One vector per text. The outer error ends the ingest; the inner one is about these texts.
    fn embed_texts(&self, texts: &[&str]) -> Result<Result<Vec<Vec<f32>>, ModelError>, RetrievalError> {
        let mut vectors = Vec::with_capacity(texts.len());
        for slice in texts.chunks(EMBED_CHUNKS) {
            check_cancelled(self.collection, self.options)?;
            match self.embed_when_possible(slice)? {
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
