//! From a question to terms, and from terms to hits.
//!
//! The score is BM25F (Robertson, Zaragoza and Taylor, "Simple BM25 Extension to Multiple Weighted Fields", CIKM 2004;
//! Robertson and Zaragoza 2009, section 3.6): the frequencies of a term in title, heading path and body, each divided by
//! its field's length norm and weighted, are added *before* saturation, so a word in title and body is not counted as two
//! words. Neighbouring words of the question that are neighbours in a field too count as one more term, weighted by
//! [`Bm25::phrase`] (the ordered pairs of the sequential dependence model, Metzler and Croft, SIGIR 2005).
//!
//! Every matching chunk is scored; there is no early termination. Removed chunks count in no statistic: not in document
//! frequencies, not in the number of chunks, not in average lengths ([`crate::lengths`]).

use std::collections::BTreeMap;

use edgewise_types::ChunkId;
use tantivy::{
    DocId, DocSet, Searcher, SegmentReader, TERMINATED, TantivyError, Term,
    fieldnorm::FieldNormReader,
    postings::Postings,
    schema::{Field, IndexRecordOption},
};

use crate::{
    Bm25, LexicalHit, LexicalIndex,
    analyser::{Word, query_words},
    lengths::FIELDS,
    top::Top,
};

/// Bounds the work of a query that is a whole document.
const MAX_TERMS: usize = 512;

pub(crate) fn search(
    index: &LexicalIndex,
    bm25: Bm25,
    text: &str,
    k: usize,
    filter: Option<&dyn Fn(ChunkId) -> bool>,
) -> Result<Vec<LexicalHit>, TantivyError> {
    let words = query_words(index.config.language, &index.analyser, text);
    if words.is_empty() || k == 0 {
        return Ok(Vec::new());
    }
    let searcher = index.reader.searcher();
    let scorer = Scorer::new(index, bm25, &searcher)?;
    let counts = scorer.counts(&words)?;
    let mut scores: Vec<Vec<f32>> =
        searcher.segment_readers().iter().map(|segment| vec![0.0; segment.max_doc() as usize]).collect();
    let mut idfs: BTreeMap<&str, f32> = BTreeMap::new();
    for (term, count) in &counts {
        let matches = scorer.segments(|segment, frequencies| segment.term(term, frequencies))?;
        let idf = scorer.idf(matches.iter().map(Vec::len).sum());
        idfs.insert(*term, idf);
        scorer.add(idf * *count as f32, &matches, &mut scores);
    }
    if scorer.bm25.phrase > 0.0 {
        for (a, b) in pairs(&words) {
            let (Some(first), Some(second)) = (idfs.get(a.text.as_str()), idfs.get(b.text.as_str())) else { continue };
            let weight = scorer.bm25.phrase * (first + second) / 2.0;
            let gap = b.position - a.position;
            let matches = scorer.segments(|segment, frequencies| segment.pair(&a.text, &b.text, gap, frequencies))?;
            scorer.add(weight, &matches, &mut scores);
        }
    }
    let mut top = Top::new(k);
    for (segment, scores) in searcher.segment_readers().iter().zip(&scores) {
        let ids = segment.fast_fields().u64("chunk")?;
        for (document, score) in scores.iter().enumerate().filter(|(_, score)| **score > 0.0) {
            if let Some(id) = ids.first(document as DocId)
                && filter.is_none_or(|filter| filter(ChunkId(id)))
            {
                top.push(ChunkId(id), *score);
            }
        }
    }
    Ok(top.into_hits())
}

/// What the statistics of an index make of a question, for scoring texts that are not in it.
pub(crate) struct Weights {
    /// Each term with its inverse document frequency times how often it counts, in order of the term.
    pub(crate) terms: Vec<(String, f32)>,
    /// Average length of each field.
    pub(crate) averages: [f32; FIELDS],
    pub(crate) bm25: Bm25,
}

pub(crate) fn weights(index: &LexicalIndex, bm25: Bm25, text: &str) -> Result<Weights, TantivyError> {
    let words = query_words(index.config.language, &index.analyser, text);
    let searcher = index.reader.searcher();
    let scorer = Scorer::new(index, bm25, &searcher)?;
    let mut terms = Vec::new();
    for (term, count) in scorer.counts(&words)? {
        let matches = scorer.segments(|segment, frequencies| segment.term(term, frequencies))?;
        terms.push((term.to_owned(), scorer.idf(matches.iter().map(Vec::len).sum()) * count as f32));
    }
    let fields = [index.fields.title, index.fields.heading_path, index.fields.body];
    Ok(Weights { terms, averages: index.lengths.averages(&searcher, fields)?, bm25 })
}

/// Neighbouring words of the question, each pair once. Words with stop words between them are neighbours at that
/// distance.
fn pairs(words: &[Word]) -> Vec<(&Word, &Word)> {
    let mut seen = std::collections::BTreeSet::new();
    let neighbours = words.windows(2).filter_map(|pair| match pair {
        [a, b] if b.position > a.position && b.position - a.position <= MAX_GAP => Some((a, b)),
        _ => None,
    });
    neighbours.filter(|(a, b)| seen.insert((&a.text, &b.text, b.position - a.position))).take(MAX_TERMS).collect()
}

/// Positions between two words that still make a phrase: `states of America`.
const MAX_GAP: usize = 3;

/// Documents of one segment with the weighted frequency of a term.
type Matches = Vec<(DocId, f32)>;

struct Scorer<'s> {
    bm25: Bm25,
    body: Field,
    segments: Vec<Segment<'s>>,
    documents: f32,
}

struct Segment<'s> {
    reader: &'s SegmentReader,
    fields: Vec<FieldNorms>,
}

/// A field's part in the weighted frequency.
struct FieldNorms {
    field: Field,
    weight: f32,
    norms: FieldNormReader,
    b: f32,
    average: f32,
}

impl FieldNorms {
    fn weighted(&self, document: DocId, frequency: u32) -> f32 {
        let length = self.norms.fieldnorm(document) as f32 / self.average;
        self.weight * frequency as f32 / (1.0 - self.b + self.b * length)
    }
}

impl<'s> Scorer<'s> {
    fn new(index: &LexicalIndex, bm25: Bm25, searcher: &'s Searcher) -> Result<Self, TantivyError> {
        let fields = [
            (index.fields.title, bm25.title),
            (index.fields.heading_path, bm25.heading_path),
            (index.fields.body, bm25.body),
        ];
        let readers = searcher.segment_readers();
        let averages = index.lengths.averages(searcher, fields.map(|(field, _)| field))?;
        let mut segments = Vec::with_capacity(readers.len());
        for reader in readers {
            let mut norms = Vec::with_capacity(fields.len());
            for ((field, weight), average) in fields.into_iter().zip(averages).filter(|((_, weight), _)| *weight > 0.0)
            {
                let norm = reader.get_fieldnorms_reader(field)?;
                norms.push(FieldNorms { field, weight, norms: norm, b: bm25.b, average });
            }
            segments.push(Segment { reader, fields: norms });
        }
        let documents = searcher.num_docs() as f32;
        Ok(Self { bm25, body: index.fields.body, segments, documents })
    }

    /// How often each term of the question counts. Of very many, the rarest are kept.
    fn counts<'w>(&self, words: &'w [Word]) -> Result<BTreeMap<&'w str, usize>, TantivyError> {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for word in words {
            *counts.entry(&word.text).or_default() += 1;
        }
        if counts.len() > MAX_TERMS {
            let mut frequencies = Vec::with_capacity(counts.len());
            for (term, count) in counts {
                frequencies.push((self.frequency(term)?, term, count));
            }
            // Stable, and alphabetical before: the choice is the same each time.
            frequencies.sort_by_key(|(frequency, ..)| *frequency);
            counts = frequencies.into_iter().take(MAX_TERMS).map(|(_, term, count)| (term, count)).collect();
        }
        Ok(counts)
    }

    /// Number of live chunks with the term in their text.
    fn frequency(&self, term: &str) -> Result<u64, TantivyError> {
        let term = Term::from_field_text(self.body, term);
        let mut frequency = 0;
        for Segment { reader, .. } in &self.segments {
            let index = reader.inverted_index(self.body)?;
            frequency += u64::from(match reader.alive_bitset() {
                None => index.doc_freq(&term)?,
                Some(alive) => {
                    let postings = index.read_postings(&term, IndexRecordOption::Basic)?;
                    postings.map_or(0, |postings| postings.doc_freq_given_deletes(alive))
                }
            });
        }
        Ok(frequency)
    }

    /// What `collect` finds in each segment, by document.
    fn segments(
        &self,
        collect: impl Fn(&Segment<'_>, &mut BTreeMap<DocId, f32>) -> Result<(), TantivyError>,
    ) -> Result<Vec<Matches>, TantivyError> {
        let mut found = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            let mut frequencies = BTreeMap::new();
            collect(segment, &mut frequencies)?;
            found.push(frequencies.into_iter().collect());
        }
        Ok(found)
    }

    /// Inverse document frequency as in Lucene: never negative.
    fn idf(&self, frequency: usize) -> f32 {
        let frequency = frequency as f32;
        (1.0 + (self.documents - frequency + 0.5) / (frequency + 0.5)).ln()
    }

    fn add(&self, weight: f32, matches: &[Matches], scores: &mut [Vec<f32>]) {
        let k1 = self.bm25.k1;
        for (matches, scores) in matches.iter().zip(scores) {
            for (document, frequency) in matches {
                if let Some(score) = scores.get_mut(*document as usize) {
                    *score += weight * frequency * (k1 + 1.0) / (k1 + frequency);
                }
            }
        }
    }
}

impl Segment<'_> {
    fn alive(&self, document: DocId) -> bool {
        self.reader.alive_bitset().is_none_or(|alive| alive.is_alive(document))
    }

    /// Weighted frequencies of a term.
    fn term(&self, term: &str, frequencies: &mut BTreeMap<DocId, f32>) -> Result<(), TantivyError> {
        for field in &self.fields {
            let postings = self
                .reader
                .inverted_index(field.field)?
                .read_postings(&Term::from_field_text(field.field, term), IndexRecordOption::WithFreqs)?;
            let Some(mut postings) = postings else { continue };
            while postings.doc() != TERMINATED {
                let document = postings.doc();
                if self.alive(document) {
                    *frequencies.entry(document).or_default() += field.weighted(document, postings.term_freq());
                }
                postings.advance();
            }
        }
        Ok(())
    }

    /// Weighted frequencies of `first`, then `second` `gap` positions later.
    fn pair(
        &self,
        first: &str,
        second: &str,
        gap: usize,
        frequencies: &mut BTreeMap<DocId, f32>,
    ) -> Result<(), TantivyError> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for field in &self.fields {
            let index = self.reader.inverted_index(field.field)?;
            let postings = |term: &str| {
                let term = Term::from_field_text(field.field, term);
                index.read_postings(&term, IndexRecordOption::WithFreqsAndPositions)
            };
            let (Some(mut a), Some(mut b)) = (postings(first)?, postings(second)?) else { continue };
            while a.doc() != TERMINATED && b.doc() != TERMINATED {
                match a.doc().cmp(&b.doc()) {
                    std::cmp::Ordering::Less => {
                        a.seek(b.doc());
                    }
                    std::cmp::Ordering::Greater => {
                        b.seek(a.doc());
                    }
                    std::cmp::Ordering::Equal => {
                        let document = a.doc();
                        if self.alive(document) {
                            a.positions(&mut before);
                            b.positions(&mut after);
                            let frequency = following(&before, &after, gap as u32);
                            if frequency > 0 {
                                *frequencies.entry(document).or_default() += field.weighted(document, frequency);
                            }
                        }
                        a.advance();
                        b.advance();
                    }
                }
            }
        }
        Ok(())
    }
}

/// How many of `before` have one of `after` exactly `gap` later. Both ascending.
fn following(before: &[u32], after: &[u32], gap: u32) -> u32 {
    before.iter().filter(|position| after.binary_search(&(**position + gap)).is_ok()).count() as u32
}
