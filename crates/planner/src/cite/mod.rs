//! Citations: from the text a model wrote to statements tied to places in documents.
//!
//! A marker `[n]` of the model stands only if source `n` exists and holds a sentence that supports the statement it is
//! attached to ([`CitationMethod::Marker`]). A statement without such a marker is compared with every sentence of every
//! source ([`CitationMethod::Aligned`]). What nothing supports is marked so. Markers that do not stand are taken out of
//! the text.
//!
//! Invariants:
//! - A citation points into a document. What stands in a summary is quoted from the chunks it is of (module `ground`).
//! - A quote equals the text of its document at its span, as `verify` confirms just before the citation is accepted.
//! - Only the answer is parsed for markers. What a source says, markers and instructions included, is compared and
//!   quoted, never obeyed: it can bring about a citation only by saying what the answer says.
//!
//! Support is judged by words, numbers, names, negation and sentence embeddings (module `support`). That catches
//! another number, another name and a reversed statement. It does not catch a wrong relation between the right words:
//! a supported sentence is one whose words are in the quote, not one that has been proved.

mod ground;
mod marker;
mod support;

use std::{collections::HashMap, ops::Range};

use edgewise_model_api::{Embedder, ModelError};
use edgewise_types::{DocumentId, Span};

use crate::{AnswerSentence, Citation, CitationMethod, PlannerError};

pub(crate) use ground::{Ground, grounds};

use marker::Marker;
use support::{Bar, Passage, Statement};

/// A text and what supports it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cited {
    /// The text without the markers that do not stand.
    pub(crate) text: String,
    /// Its sentences.
    pub(crate) sentences: Vec<AnswerSentence>,
    /// Their citations.
    pub(crate) citations: Vec<Citation>,
}

/// Says whether a document's text at a span is this quote.
pub(crate) type Verify<'v> = dyn FnMut(&DocumentId, Span, &str) -> Result<bool, PlannerError> + 'v;

/// Candidates for each sentence that are compared by embedding, after the comparison by words.
const CANDIDATES: usize = 6;

/// Cites `raw`, as a model wrote it, from `grounds`.
pub(crate) fn cite(
    raw: &str,
    grounds: &[Ground],
    embedder: &dyn Embedder,
    verify: &mut Verify<'_>,
) -> Result<Cited, PlannerError> {
    let markers = marker::find(raw);
    let plain = Plain::new(raw, &markers);
    let spans = edgewise_text::sentences(&plain.text);
    let owners = plain.owners(&spans, &markers, raw);
    let passages: Vec<Passage> = (0..).zip(grounds).flat_map(|(at, ground)| Passage::all(at, ground)).collect();
    let statements: Vec<Statement> = spans.iter().map(|span| Statement::new(&plain.text[Range::from(*span)])).collect();
    let shortlists: Vec<Vec<usize>> = statements
        .iter()
        .enumerate()
        .map(|(i, statement)| {
            let claimed: Vec<usize> = owned(&owners, i).flat_map(|m| markers[m].numbers.iter().copied()).collect();
            shortlist(statement, &passages, &claimed)
        })
        .collect();
    let mut cosines = Cosines::new(&statements, &passages, &shortlists, embedder)?;

    let mut citations: Vec<Citation> = Vec::new();
    let mut cited_by: Vec<Vec<usize>> = vec![Vec::new(); spans.len()];
    let mut standing: Vec<Vec<usize>> = vec![Vec::new(); markers.len()];
    for (i, statement) in statements.iter().enumerate() {
        let mut judge = |only: Option<usize>, bar: Bar| -> Result<Option<(f32, &Passage)>, PlannerError> {
            let mut scored: Vec<(f32, &Passage)> = shortlists[i]
                .iter()
                .filter(|p| only.is_none_or(|n| passages[**p].n == n))
                .filter_map(|p| {
                    let passage = &passages[*p];
                    Some((support::score(statement, passage, cosines.of(i, *p), bar)?, passage))
                })
                .collect();
            scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.order().cmp(&b.1.order())));
            for (score, passage) in scored {
                let document = &grounds[passage.ground].document;
                if verify(document, passage.span, &passage.text)? {
                    return Ok(Some((score, passage)));
                }
                tracing::warn!(%document, "a quote is no longer in its document and is not cited");
            }
            Ok(None)
        };
        let mut accept = |found: (f32, &Passage), method| {
            let (score, passage) = found;
            let source = &grounds[passage.ground];
            cited_by[i].push(citations.len());
            citations.push(Citation {
                n: source.n,
                document: source.document.clone(),
                uri: source.uri.clone(),
                title: source.title.clone(),
                heading_path: source.heading_path.clone(),
                // The caller knows the documents.
                pages: None,
                span: passage.span,
                quote: passage.text.clone(),
                method,
                score,
            });
        };
        let mut stands = Vec::new();
        for m in owned(&owners, i) {
            for n in &markers[m].numbers {
                if stands.contains(n) {
                    standing[m].push(*n);
                } else if let Some(found) = judge(Some(*n), Bar::Claimed)? {
                    accept(found, CitationMethod::Marker);
                    standing[m].push(*n);
                    stands.push(*n);
                }
            }
        }
        if stands.is_empty()
            && let Some(found) = judge(None, Bar::Unclaimed)?
        {
            accept(found, CitationMethod::Aligned);
        }
    }
    let (text, spans) = plain.rebuild(&spans, &owners, &markers, &standing, raw);
    let sentences = spans
        .into_iter()
        .zip(cited_by)
        .map(|(span, citations)| AnswerSentence { span, supported: !citations.is_empty(), citations })
        .collect();
    Ok(Cited { text, sentences, citations })
}

/// `raw` without any marker.
pub(crate) fn without_markers(raw: &str) -> String {
    Plain::new(raw, &marker::find(raw)).text
}

/// Indexes of the markers that belong to sentence `i`.
fn owned(owners: &[Option<usize>], i: usize) -> impl Iterator<Item = usize> + '_ {
    owners.iter().enumerate().filter(move |(_, owner)| **owner == Some(i)).map(|(m, _)| m)
}

/// The passages that share most with a statement, from every claimed source and from all.
fn shortlist(statement: &Statement, passages: &[Passage], claimed: &[usize]) -> Vec<usize> {
    let mut ranked: Vec<(f32, usize)> = passages
        .iter()
        .enumerate()
        .filter_map(|(p, passage)| Some((support::possible(statement, passage)?, p)))
        .collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| passages[a.1].order().cmp(&passages[b.1].order())));
    let mut list: Vec<usize> = ranked.iter().take(CANDIDATES).map(|(_, p)| *p).collect();
    for n in claimed {
        let of_source = ranked.iter().filter(|(_, p)| passages[*p].n == *n).take(CANDIDATES);
        list.extend(of_source.map(|(_, p)| *p));
    }
    list.sort_unstable();
    list.dedup();
    list
}

/// Cosines of statements with the passages on their shortlists, from one call of the embedder.
struct Cosines {
    vectors: Vec<Vec<f32>>,
    statement_at: Vec<Option<usize>>,
    passage_at: HashMap<usize, usize>,
}

impl Cosines {
    fn new(
        statements: &[Statement],
        passages: &[Passage],
        shortlists: &[Vec<usize>],
        embedder: &dyn Embedder,
    ) -> Result<Self, ModelError> {
        // An embedder refuses longer inputs: those are judged by their words alone.
        let longest = embedder.info().max_tokens.saturating_sub(2);
        let mut texts: Vec<&str> = Vec::new();
        let mut at_of: HashMap<&str, usize> = HashMap::new();
        let mut add = |text| -> Result<Option<usize>, ModelError> {
            if let Some(at) = at_of.get(text) {
                return Ok(Some(*at));
            }
            if embedder.tokenizer().count(text)? > longest {
                return Ok(None);
            }
            texts.push(text);
            at_of.insert(text, texts.len() - 1);
            Ok(Some(texts.len() - 1))
        };
        let mut statement_at = Vec::new();
        let mut passage_at = HashMap::new();
        for (statement, list) in statements.iter().zip(shortlists) {
            statement_at.push(if list.is_empty() { None } else { add(statement.text.as_str())? });
            for p in list {
                if !passage_at.contains_key(p)
                    && let Some(at) = add(passages[*p].text.as_str())?
                {
                    passage_at.insert(*p, at);
                }
            }
        }
        let vectors = if texts.is_empty() { Vec::new() } else { embedder.embed(&texts)? };
        Ok(Self { vectors, statement_at, passage_at })
    }

    fn of(&mut self, statement: usize, passage: usize) -> Option<f32> {
        let a = self.vectors.get((*self.statement_at.get(statement)?)?)?;
        let b = self.vectors.get(*self.passage_at.get(&passage)?)?;
        Some(a.iter().zip(b).map(|(a, b)| a * b).sum())
    }
}

/// A text without its markers, and where they stood.
struct Plain {
    text: String,
    /// For each marker, the place in `text` where it stood.
    at: Vec<usize>,
}

impl Plain {
    fn new(raw: &str, markers: &[Marker]) -> Self {
        let (mut text, mut at) = (String::with_capacity(raw.len()), Vec::new());
        let mut from = 0;
        for marker in markers {
            text.push_str(&raw[from..marker.range.start]);
            at.push(text.len());
            from = marker.range.end;
        }
        text.push_str(&raw[from..]);
        Self { text, at }
    }

    /// The sentence each marker belongs to: the one it stands in or after, or the one it begins, at the start of a line.
    /// Never to an earlier sentence than the marker before it.
    fn owners(&self, sentences: &[Span], markers: &[Marker], raw: &str) -> Vec<Option<usize>> {
        let mut last = None;
        let owner = |(at, marker): (&usize, &Marker)| {
            let before = sentences.iter().rposition(|sentence| sentence.start < *at);
            let after = sentences.iter().position(|sentence| sentence.start >= *at);
            let starts_line = raw[..marker.range.start].trim_end_matches([' ', '\t']).ends_with('\n');
            let outside = before.is_none_or(|i| sentences[i].end <= *at);
            let owner = if outside && starts_line { after.or(before) } else { before.or(after) };
            last = last.max(owner);
            last
        };
        self.at.iter().zip(markers).map(owner).collect()
    }

    /// The text with the numbers that stand put back, and the sentences with their markers in it.
    fn rebuild(
        &self,
        sentences: &[Span],
        owners: &[Option<usize>],
        markers: &[Marker],
        standing: &[Vec<usize>],
        raw: &str,
    ) -> (String, Vec<Span>) {
        let mut text = String::with_capacity(raw.len());
        // For each marker that stands: its place in the plain text, and where it begins and ends in the new text.
        let mut placed: Vec<(usize, Range<usize>, Option<usize>)> = Vec::new();
        let mut from = 0;
        for (m, marker) in markers.iter().enumerate() {
            text.push_str(&self.text[from..self.at[m]]);
            from = self.at[m];
            if let Some(written) = marker.written(raw, &standing[m]) {
                let start = text.len();
                text.push_str(&written);
                placed.push((self.at[m], start..text.len(), owners[m]));
            }
        }
        text.push_str(&self.text[from..]);

        let shift = |at: usize, through: bool| -> usize {
            let inserted = |(place, range, _): &(usize, Range<usize>, Option<usize>)| {
                let counts = if through { *place <= at } else { *place < at };
                if counts { range.len() } else { 0 }
            };
            at + placed.iter().map(inserted).sum::<usize>()
        };
        let spans = sentences.iter().enumerate().map(|(i, sentence)| {
            let mut start = shift(sentence.start, true);
            let mut end = shift(sentence.end, false);
            for (_, range, _) in placed.iter().filter(|(_, _, owner)| *owner == Some(i)) {
                let blank = text[range.clone()].len() - text[range.clone()].trim_start().len();
                start = start.min(range.start + blank);
                end = end.max(range.start + text[range.clone()].trim_end().len());
            }
            Span::new(start, end)
        });
        let spans = spans.collect();
        (text, spans)
    }
}

#[cfg(test)]
mod calibration;
#[cfg(test)]
mod tests;
