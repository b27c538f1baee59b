//! From a question to hits.

use std::collections::BTreeMap;

use edgewise_types::ChunkId;
use tantivy::{
    Searcher, TantivyError, Term,
    query::{BooleanQuery, BoostQuery, EnableScoring, Occur, Query, TermQuery},
    schema::IndexRecordOption,
};

use crate::{LexicalHit, LexicalIndex, analyser::terms, top::Top};

/// Bounds the work of a query that is a whole document.
const MAX_TERMS: usize = 512;

pub(crate) fn search(
    index: &LexicalIndex,
    text: &str,
    k: usize,
    filter: Option<&dyn Fn(ChunkId) -> bool>,
) -> Result<Vec<LexicalHit>, TantivyError> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for term in terms(&index.analyser, text) {
        *counts.entry(term).or_default() += 1;
    }
    if counts.is_empty() || k == 0 {
        return Ok(Vec::new());
    }
    let searcher = index.reader.searcher();
    let query = should_query(index, &searcher, counts)?;
    let weight = query.weight(EnableScoring::enabled_from_searcher(&searcher))?;
    let mut top = Top::new(k);
    for segment in searcher.segment_readers() {
        let ids = segment.fast_fields().u64("chunk")?;
        let alive = segment.alive_bitset();
        weight.for_each(segment, &mut |document, score| {
            if alive.is_some_and(|alive| alive.is_deleted(document)) {
                return;
            }
            if let Some(id) = ids.first(document)
                && filter.is_none_or(|filter| filter(ChunkId(id)))
            {
                top.push(ChunkId(id), score);
            }
        })?;
    }
    Ok(top.into_hits())
}

/// Any of the terms in any of the fields.
fn should_query(
    index: &LexicalIndex,
    searcher: &Searcher,
    counts: BTreeMap<String, usize>,
) -> Result<BooleanQuery, TantivyError> {
    let mut counts: Vec<(String, usize)> = counts.into_iter().collect();
    if counts.len() > MAX_TERMS {
        let mut frequencies = Vec::with_capacity(counts.len());
        for (term, count) in counts {
            let frequency = searcher.doc_freq(&Term::from_field_text(index.fields.body, &term))?;
            frequencies.push((frequency, term, count));
        }
        // Stable, and alphabetical before: the choice is the same each time.
        frequencies.sort_by_key(|(frequency, ..)| *frequency);
        frequencies.truncate(MAX_TERMS);
        counts = frequencies.into_iter().map(|(_, term, count)| (term, count)).collect();
    }
    let boosts = index.config.boosts;
    let fields = [
        (index.fields.title, boosts.title),
        (index.fields.heading_path, boosts.heading_path),
        (index.fields.body, boosts.body),
    ];
    let mut clauses: Vec<(Occur, Box<dyn Query>)> = Vec::with_capacity(counts.len() * fields.len());
    for (term, count) in &counts {
        for (field, boost) in fields {
            let query = TermQuery::new(Term::from_field_text(field, term), IndexRecordOption::WithFreqs);
            let query = BoostQuery::new(Box::new(query), boost * *count as f32);
            clauses.push((Occur::Should, Box::new(query)));
        }
    }
    Ok(BooleanQuery::new(clauses))
}
