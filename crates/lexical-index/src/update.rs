//! Changing the index.

use std::sync::{MutexGuard, PoisonError, atomic::Ordering};

use edgewise_types::{ChunkId, Generation};
use tantivy::{IndexWriter, TantivyDocument, TantivyError, Term, indexer::LogMergePolicy};

use crate::{LexicalEntry, LexicalError, LexicalIndex, analyser::composed};

/// Memory for documents that are not on disk yet; a fuller buffer is written as a segment.
pub(crate) const WRITER_MEMORY_BYTES: usize = 64 << 20;

/// One thread: embedding takes the others, and one segment per update keeps small updates small.
const WRITER_THREADS: usize = 1;

/// A segment is merged once this share of it is removed: removed chunks cost space and time, though no score counts them.
const REMOVED_BEFORE_MERGE: f32 = 0.2;

/// Changes that become visible together, with [`Self::commit`]. Dropped without it, none of them happened.
pub struct LexicalUpdate<'i> {
    index: &'i LexicalIndex,
    writer: MutexGuard<'i, Option<IndexWriter>>,
    /// The largest id that may be in the index. Removing costs a look-up in every segment, and new chunks have larger
    /// ids than all before, so most additions need none.
    largest: Option<ChunkId>,
    committed: bool,
}

impl std::fmt::Debug for LexicalUpdate<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LexicalUpdate").field("index", self.index).finish_non_exhaustive()
    }
}

impl<'i> LexicalUpdate<'i> {
    pub(crate) fn begin(index: &'i LexicalIndex) -> Result<Self, LexicalError> {
        let mut writer = index.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if writer.is_none() {
            let fail = |error: TantivyError| LexicalError::tantivy(&index.path, &error);
            let opened = index.index.writer_with_num_threads(WRITER_THREADS, WRITER_MEMORY_BYTES).map_err(fail)?;
            let mut policy = LogMergePolicy::default();
            policy.set_del_docs_ratio_before_merge(REMOVED_BEFORE_MERGE);
            opened.set_merge_policy(Box::new(policy));
            // What a killed writer left: tantivy names a list of removed chunks after the number of the operation, which
            // comes again now, and refuses to write over a file.
            opened.garbage_collect_files().wait().map_err(fail)?;
            // Another process may have committed before this one got the lock.
            index.refresh()?;
            *writer = Some(opened);
        }
        let largest = largest_chunk(index).map_err(|error| LexicalError::tantivy(&index.path, &error))?;
        Ok(Self { index, writer, largest, committed: false })
    }

    fn writer(&mut self) -> Result<&mut IndexWriter, LexicalError> {
        let path = &self.index.path;
        self.writer.as_mut().ok_or_else(|| LexicalError::Failed {
            path: path.clone(),
            detail: "the update failed before; start another".to_owned(),
        })
    }

    /// Adds a chunk, in the place of one with the same id.
    pub fn add(&mut self, entry: LexicalEntry) -> Result<(), LexicalError> {
        self.remove(entry.chunk)?;
        self.largest = self.largest.max(Some(entry.chunk));
        let fields = self.index.fields;
        let mut document = TantivyDocument::default();
        document.add_u64(fields.chunk, entry.chunk.0);
        document.add_text(fields.title, composed(&entry.title));
        for heading in &entry.heading_path {
            document.add_text(fields.heading_path, composed(heading));
        }
        document.add_text(fields.body, composed(&entry.body));
        if let Err(error) = self.writer()?.add_document(document) {
            return Err(self.cause(&error));
        }
        Ok(())
    }

    /// Removes a chunk, if it is there.
    pub fn remove(&mut self, chunk: ChunkId) -> Result<(), LexicalError> {
        if Some(chunk) <= self.largest {
            let field = self.index.fields.chunk;
            self.writer()?.delete_term(Term::from_field_u64(field, chunk.0));
        }
        Ok(())
    }

    /// Makes the changes durable and visible to searches that start after it returns.
    pub fn commit(mut self, generation: Generation) -> Result<(), LexicalError> {
        let path = self.index.path.clone();
        let fail = |error: TantivyError| LexicalError::tantivy(&path, &error);
        let payload = serde_json::to_string(&self.index.payload(generation))
            .map_err(|error| LexicalError::Failed { path: path.clone(), detail: error.to_string() })?;
        let mut prepared = self.writer()?.prepare_commit().map_err(fail)?;
        prepared.set_payload(&payload);
        prepared.commit().map_err(fail)?;
        self.committed = true;
        self.index.reader.reload().map_err(fail)?;
        self.index.generation.store(generation.0, Ordering::Release);
        Ok(())
    }

    /// tantivy says only that its worker died; the worker's own error comes with the next commit.
    fn cause(&mut self, error: &TantivyError) -> LexicalError {
        let worker = self.writer.as_mut().and_then(|writer| writer.prepare_commit().err());
        LexicalError::tantivy(&self.index.path, worker.as_ref().unwrap_or(error))
    }
}

/// The largest id in the index, removed ones included.
fn largest_chunk(index: &LexicalIndex) -> Result<Option<ChunkId>, TantivyError> {
    let mut largest = None;
    for segment in index.reader.searcher().segment_readers() {
        if segment.max_doc() > 0 {
            largest = largest.max(Some(ChunkId(segment.fast_fields().u64("chunk")?.max_value())));
        }
    }
    Ok(largest)
}

impl Drop for LexicalUpdate<'_> {
    fn drop(&mut self) {
        if !self.committed {
            // Uncommitted changes go with the writer; the next update opens another.
            *self.writer = None;
        }
    }
}
