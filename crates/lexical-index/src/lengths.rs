//! How long the fields of the chunks are that are still there: the averages that BM25 divides by.
//!
//! tantivy's own totals count removed chunks until their segment is merged, and are estimates after a merge. Here the
//! lengths of the live chunks are added up, so that scores do not depend on what was removed or when segments were
//! merged: they are those of an index made anew. Lengths are the quantised ones that the score uses (exact to 40 words,
//! then within an eighth): one byte is read a chunk and field, once for each state of a segment's removed chunks.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tantivy::{Opstamp, Searcher, SegmentReader, TantivyError, index::SegmentId, schema::Field};

/// Fields that are scored.
pub(crate) const FIELDS: usize = 3;

/// A segment, and which of its chunks are removed.
type Key = (SegmentId, Option<Opstamp>);

/// Summed lengths by segment, of the segments last searched.
#[derive(Debug, Default)]
pub(crate) struct Lengths(Mutex<HashMap<Key, [u64; FIELDS]>>);

impl Lengths {
    /// The average length of each field over the live chunks of `searcher`, at least 1.
    pub(crate) fn averages(&self, searcher: &Searcher, fields: [Field; FIELDS]) -> Result<[f32; FIELDS], TantivyError> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut current = HashMap::with_capacity(searcher.segment_readers().len());
        let mut totals = [0u64; FIELDS];
        for reader in searcher.segment_readers() {
            let key = (reader.segment_id(), reader.delete_opstamp());
            let sums = match known.get(&key) {
                Some(sums) => *sums,
                None => sums(reader, fields)?,
            };
            current.insert(key, sums);
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total += sum;
            }
        }
        *known = current;
        let chunks = searcher.num_docs().max(1) as f64;
        Ok(totals.map(|total| (total as f64 / chunks).max(1.0) as f32))
    }
}

fn sums(reader: &SegmentReader, fields: [Field; FIELDS]) -> Result<[u64; FIELDS], TantivyError> {
    let mut sums = [0u64; FIELDS];
    for (sum, field) in sums.iter_mut().zip(fields) {
        let norms = reader.get_fieldnorms_reader(field)?;
        *sum = reader.doc_ids_alive().map(|document| u64::from(norms.fieldnorm(document))).sum();
    }
    Ok(sums)
}
