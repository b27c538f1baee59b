//! What of an answer can stand as a summary.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use edgewise_model_api::{ModelError, Tokenizer};

use super::call::Answer;
use crate::faithful::Ground;

/// Length of the word sequences that must not come again and again, and how often is too often.
const SEQUENCE: usize = 4;
const REPEATS: usize = 3;

/// Why an answer can't stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rejected {
    /// What is wrong with it.
    pub(super) why: Why,
    /// Names, numbers and dates that no member holds.
    pub(super) unsupported: Vec<String>,
}

/// What is wrong with an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Empty,
    Unfinished,
    Repeating,
    Unsupported,
}

/// The summary in an answer, of at most `limit` tokens; or why there is none.
pub(super) fn checked(
    answer: &Answer,
    limit: usize,
    tokenizer: &dyn Tokenizer,
    ground: &Ground,
) -> Result<Result<String, Rejected>, ModelError> {
    let reject = |why| Ok(Err(Rejected { why, unsupported: Vec::new() }));
    let text = without_announcement(answer.text.trim());
    if !text.contains(char::is_alphanumeric) {
        return reject(Why::Empty);
    }
    let sentences = edgewise_text::sentences(text);
    // Only the last sentence can be unfinished, and only if the answer was cut.
    let complete = |end: usize| text[..end].trim_end().ends_with(['.', '!', '?', '"', '”', ')', '…']);
    let ends: Vec<usize> = sentences.iter().map(|span| span.end).collect();
    let usable = match ends.split_last() {
        Some((last, before)) if !answer.whole && !complete(*last) => before,
        _ => &ends,
    };
    let mut kept = None;
    for end in usable.iter().rev() {
        if tokenizer.count(&text[..*end])? <= limit {
            kept = Some(text[..*end].trim());
            break;
        }
    }
    let Some(text) = kept else { return reject(Why::Unfinished) };
    if repeats(text) {
        return reject(Why::Repeating);
    }
    let unsupported = ground.unsupported(text);
    if !unsupported.is_empty() {
        return Ok(Err(Rejected { why: Why::Unsupported, unsupported }));
    }
    Ok(Ok(text.to_owned()))
}

/// Without a first line like `Here is a summary:`.
fn without_announcement(text: &str) -> &str {
    match text.split_once('\n') {
        Some((first, rest)) if first.trim_end_matches(['*', ' ']).ends_with(':') => rest.trim(),
        _ => text.strip_prefix("Summary:").unwrap_or(text).trim(),
    }
}

fn repeats(text: &str) -> bool {
    let mut seen = HashSet::new();
    let normal = |range: Range<usize>| {
        edgewise_text::plain(&text[range]).iter().map(|word| word.to_lowercase()).collect::<Vec<_>>().join(" ")
    };
    let spans = edgewise_text::sentences(text);
    if !spans.into_iter().all(|span| seen.insert(normal(Range::from(span)))) {
        return true;
    }
    let words = edgewise_text::plain(&text.to_lowercase());
    let mut counts: HashMap<&[String], usize> = HashMap::new();
    words.windows(SEQUENCE).any(|sequence| {
        let count = counts.entry(sequence).or_default();
        *count += 1;
        *count >= REPEATS
    })
}
