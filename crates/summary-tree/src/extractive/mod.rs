//! Summaries made of sentences of the members, word for word.
//!
//! Sentences are chosen one after another, each time the one that adds most a token. What a sentence adds is what it says
//! that none chosen before it does: content words by how many sentences of the members share them (the centroid of Radev
//! et al., "Centroid-based summarization of multiple documents", 2004), pairs of words that recur (Gillick and Favre, "A
//! scalable global model for summarization", 2009), and names, numbers and dates. So a sentence near another's copy adds
//! nothing, which is what maximal marginal relevance is for; a member not yet heard counts more (Lin and Bilmes, "A class of
//! submodular functions for document summarization", 2011). The chosen ones stand in the order of the members.
//!
//! Time is linear in the length of the members, but for the choice, which is among [`CANDIDATES`] sentences at most.
//! Vectors of sentences are not used: they would cost more than all the rest of a build.

mod common;
mod sentence;

use std::collections::{BTreeSet, HashMap};

use edgewise_types::{SummaryMethod, Usage};

use crate::{Effort, SummariseError, Summariser, SummaryLimits, SummaryRequest, SummaryText};
use sentence::Sentence;

/// Changes with every change of what is chosen.
const VERSION: u32 = 1;
/// Sentences among which is chosen; of more, those that say most.
const CANDIDATES: usize = 400;
/// Summaries made beside each other.
const BATCH: usize = 32;

/// What a sentence's words weigh.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ExtractiveOptions {
    /// Bounds of summaries.
    pub limits: SummaryLimits,
    /// Weight of a pair of words against a word.
    pub pairs: f64,
    /// Weight of a name, number or date against a word.
    pub facts: f64,
    /// How much more the first sentence of a member counts.
    pub member: f64,
    /// Exponent of the length that a sentence's worth is divided by: 0 prefers long sentences, 1 short ones.
    pub length: f64,
}

impl Default for ExtractiveOptions {
    fn default() -> Self {
        Self { limits: SummaryLimits::default(), pairs: 2.0, facts: 1.0, member: 0.5, length: 0.3 }
    }
}

/// See the module.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extractive {
    options: ExtractiveOptions,
}

impl Extractive {
    /// A summariser with these options.
    pub fn new(options: ExtractiveOptions) -> Self {
        Self { options }
    }
}

impl Summariser for Extractive {
    fn identity(&self) -> String {
        let ExtractiveOptions { pairs, facts, member, length, .. } = self.options;
        format!("extractive {VERSION} {pairs} {facts} {member} {length}")
    }

    fn limits(&self) -> SummaryLimits {
        self.options.limits
    }

    fn summarise(&self, request: &SummaryRequest<'_>) -> Result<SummaryText, SummariseError> {
        let (sentences, weights) = sentence::all(request, &self.options)?;
        let limit = self.options.limits.tokens;
        let mut chosen = if sentences.iter().map(|s| s.tokens).sum::<usize>() <= limit {
            (0..sentences.len()).collect()
        } else {
            self.choose(&sentences, &weights, limit)
        };
        let text = loop {
            let mut order = chosen.clone();
            order.sort_unstable();
            let text = joined(order.iter().map(|at| sentences[*at].text.as_str()));
            if request.tokenizer.count(&text).map_err(SummariseError::Tokenizer)? <= limit {
                break text;
            }
            // The last one chosen added least.
            if chosen.pop().is_none() {
                break text;
            }
        };
        let text = if text.is_empty() { cut(request, &sentences, limit)? } else { text };
        let facts: BTreeSet<&(edgewise_text::FactKind, String)> = sentences.iter().flat_map(|s| &s.facts).collect();
        let said: BTreeSet<&(edgewise_text::FactKind, String)> =
            chosen.iter().flat_map(|at| &sentences[*at].facts).collect();
        Ok(SummaryText {
            text,
            method: SummaryMethod::Extractive,
            usage: Usage::default(),
            regenerated: 0,
            unsupported: Vec::new(),
            facts: u32::try_from(facts.len()).unwrap_or(u32::MAX),
            facts_left_out: u32::try_from(facts.len() - said.len()).unwrap_or(u32::MAX),
        })
    }

    fn estimate(&self, _: usize) -> Effort {
        Effort { summaries: 1, ..Effort::default() }
    }

    fn batch(&self) -> usize {
        BATCH
    }

    fn parallel(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

impl Extractive {
    /// Sentences within `limit` tokens together, the one that adds most a token first.
    fn choose(&self, sentences: &[Sentence], weights: &[f64], limit: usize) -> Vec<usize> {
        let length = |at: usize| (sentences[at].tokens as f64).powf(self.options.length).max(1.0);
        let worth = |at: usize, covered: &[bool]| {
            let new = sentences[at].concepts.iter().filter(|concept| !covered[**concept]);
            sentences[at].prior * new.map(|concept| weights[*concept]).sum::<f64>()
        };
        let mut covered = vec![false; weights.len()];
        let mut open: Vec<usize> = (0..sentences.len()).filter(|at| sentences[*at].tokens <= limit).collect();
        if open.len() > CANDIDATES {
            let mut ranked: Vec<(f64, usize)> =
                open.iter().map(|at| (worth(*at, &covered) / length(*at), *at)).collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
            open = ranked.into_iter().take(CANDIDATES).map(|(_, at)| at).collect();
            open.sort_unstable();
        }
        let mut heard: HashMap<usize, usize> = HashMap::new();
        let (mut chosen, mut left) = (Vec::new(), limit);
        loop {
            open.retain(|at| sentences[*at].tokens <= left);
            let score = |at: &usize| {
                let first = !heard.contains_key(&sentences[*at].member);
                let more = if first { 1.0 + self.options.member } else { 1.0 };
                (worth(*at, &covered) * more / length(*at), *at)
            };
            let better = |a: (f64, usize), b: (f64, usize)| if b.0 > a.0 { b } else { a };
            let best = open.iter().map(score).fold((0.0, usize::MAX), better);
            if best.1 == usize::MAX {
                return chosen;
            }
            let taken = &sentences[best.1];
            taken.concepts.iter().for_each(|concept| covered[*concept] = true);
            *heard.entry(taken.member).or_default() += 1;
            left -= taken.tokens;
            open.retain(|at| *at != best.1);
            chosen.push(best.1);
        }
    }
}

/// Sentences one after another; one without an end gets a full stop, so that it does not run into the next.
fn joined<'a>(sentences: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for sentence in sentences {
        if text.ends_with(|c: char| c.is_alphanumeric()) {
            text.push('.');
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(sentence);
    }
    text
}

/// The beginning of the first member that has one, where no whole sentence is short enough.
fn cut(request: &SummaryRequest<'_>, sentences: &[Sentence], limit: usize) -> Result<String, SummariseError> {
    let whole = sentences.first().map(|sentence| sentence.text.as_str());
    let member = || request.members.iter().map(|member| member.text.trim()).find(|text| !text.is_empty());
    let Some(text) = whole.or_else(member) else { return Ok(String::new()) };
    let offsets = request.tokenizer.offsets(text).map_err(SummariseError::Tokenizer)?;
    let Some(end) = offsets.get(limit) else { return Ok(text.to_owned()) };
    let fits = |at: &usize| request.tokenizer.count(&text[..*at]).is_ok_and(|tokens| tokens <= limit);
    // Between words if there is a place, else between characters.
    let words = text[..end.start].char_indices().rev().filter(|(_, c)| c.is_whitespace()).map(|(at, _)| at);
    let characters = text[..end.start].char_indices().rev().map(|(at, _)| at);
    let at = words.chain(characters).filter(|at| *at > 0).find(fits).unwrap_or(0);
    Ok(text[..at].trim_end().to_owned())
}

#[cfg(test)]
mod tests;
