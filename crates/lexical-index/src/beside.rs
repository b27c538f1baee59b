//! Texts that are scored beside an index, by its statistics.
//!
//! Summaries of chunks stand beside the chunks. Were they in the same index, they would change document frequencies and
//! average lengths, and with these the score of every chunk; were they in one of their own, the scores of the two could not
//! be compared. So they are kept in memory, and a search takes the weight of each term and the average lengths from the
//! index of the chunks: an entry has the score that a chunk of the same words has there.
//!
//! Deliberately not here: phrases ([`crate::Bm25::phrase`]), files. Whoever has the texts makes it anew.

use std::collections::HashMap;

use edgewise_types::ChunkId;
use tantivy::{
    fieldnorm::FieldNormReader,
    tokenizer::{TextAnalyzer, TokenStream},
};

use crate::{
    Bm25, Language, LexicalEntry, LexicalError, LexicalHit, LexicalIndex,
    analyser::{analyser, composed},
    lengths::FIELDS,
    query::{self, Weights},
    top::Top,
};

/// Rows of removed entries are given back once they are more than the others.
#[derive(Debug)]
struct Row {
    id: ChunkId,
    /// Words in title, heading path and body, quantised as the index does.
    lengths: [u32; FIELDS],
    live: bool,
}

/// Entries in memory.
pub struct Beside {
    analyser: TextAnalyzer,
    rows: Vec<Row>,
    row_of: HashMap<ChunkId, u32>,
    /// By term: rows in order with the frequency in each field.
    postings: HashMap<Box<str>, Vec<(u32, [u32; FIELDS])>>,
}

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Beside").field("entries", &self.row_of.len()).finish_non_exhaustive()
    }
}

impl Beside {
    /// None yet, in the language of the index they stand beside.
    pub fn new(language: Language) -> Self {
        Self { analyser: analyser(language), rows: Vec::new(), row_of: HashMap::new(), postings: HashMap::new() }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.row_of.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.row_of.is_empty()
    }

    /// Adds an entry, in the place of one with the same id.
    pub fn add(&mut self, entry: &LexicalEntry) {
        self.remove(entry.chunk);
        let row = self.rows.len() as u32;
        let mut lengths = [0u32; FIELDS];
        let mut terms: HashMap<String, [u32; FIELDS]> = HashMap::new();
        let headings: Vec<&str> = entry.heading_path.iter().map(String::as_str).collect();
        for (field, texts) in [&[entry.title.as_str()][..], &headings, &[entry.body.as_str()]].into_iter().enumerate() {
            for text in texts {
                let text = composed(text);
                self.analyser.token_stream(&text).process(&mut |token| {
                    lengths[field] += 1;
                    terms.entry(token.text.clone()).or_default()[field] += 1;
                });
            }
        }
        let quantised = |length: u32| FieldNormReader::id_to_fieldnorm(FieldNormReader::fieldnorm_to_id(length));
        self.rows.push(Row { id: entry.chunk, lengths: lengths.map(quantised), live: true });
        self.row_of.insert(entry.chunk, row);
        for (term, frequencies) in terms {
            self.postings.entry(term.into_boxed_str()).or_default().push((row, frequencies));
        }
    }

    /// Removes an entry. False if there is none.
    pub fn remove(&mut self, id: ChunkId) -> bool {
        let Some(row) = self.row_of.remove(&id) else { return false };
        if let Some(row) = self.rows.get_mut(row as usize) {
            row.live = false;
        }
        if self.rows.len() > 2 * self.row_of.len() + 64 {
            self.sweep();
        }
        true
    }

    /// Numbers the rows anew without those of removed entries.
    fn sweep(&mut self) {
        let mut moved = Vec::with_capacity(self.rows.len());
        let mut next = 0u32;
        for row in &self.rows {
            moved.push(row.live.then_some(next));
            next += u32::from(row.live);
        }
        self.rows.retain(|row| row.live);
        let place = |row: u32| moved.get(row as usize).copied().flatten();
        self.row_of.values_mut().for_each(|row| *row = place(*row).unwrap_or(*row));
        self.postings.retain(|_, rows| {
            rows.retain_mut(|(row, _)| place(*row).map(|to| *row = to).is_some());
            !rows.is_empty()
        });
    }

    /// The `k` best entries for a question, among those that `filter` lets through, with the scores that chunks of the same
    /// words would have in `index`.
    ///
    /// # Errors
    /// [`LexicalError`] if the statistics of `index` can't be read.
    pub fn search(
        &self,
        index: &LexicalIndex,
        bm25: Bm25,
        text: &str,
        k: usize,
        filter: Option<&dyn Fn(ChunkId) -> bool>,
    ) -> Result<Vec<LexicalHit>, LexicalError> {
        if self.is_empty() || k == 0 {
            return Ok(Vec::new());
        }
        let weights = query::weights(index, bm25, text).map_err(|error| LexicalError::tantivy(&index.path, &error))?;
        let mut scores: HashMap<u32, f32> = HashMap::new();
        for (term, weight) in &weights.terms {
            for (row, frequencies) in self.postings.get(term.as_str()).into_iter().flatten() {
                let Some(entry) = self.rows.get(*row as usize).filter(|entry| entry.live) else { continue };
                *scores.entry(*row).or_default() += weight * saturated(&weights, frequencies, &entry.lengths);
            }
        }
        let mut top = Top::new(k);
        for (row, score) in scores {
            if let Some(entry) = self.rows.get(row as usize)
                && score > 0.0
                && filter.is_none_or(|filter| filter(entry.id))
            {
                top.push(entry.id, score);
            }
        }
        Ok(top.into_hits())
    }
}

/// What a term adds in an entry, per unit of its weight.
fn saturated(weights: &Weights, frequencies: &[u32; FIELDS], lengths: &[u32; FIELDS]) -> f32 {
    let Weights { bm25, averages, .. } = weights;
    let fields = [bm25.title, bm25.heading_path, bm25.body];
    let mut frequency = 0.0;
    for field in 0..FIELDS {
        if fields[field] > 0.0 && frequencies[field] > 0 {
            let length = lengths[field] as f32 / averages[field];
            frequency += fields[field] * frequencies[field] as f32 / (1.0 - bm25.b + bm25.b * length);
        }
    }
    frequency * (bm25.k1 + 1.0) / (bm25.k1 + frequency)
}
