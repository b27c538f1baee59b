//! Real text to hide answers in: sentences and passages of documents, and questions made from them.

use std::collections::HashSet;

use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use edgewise_documents::sentences;

use crate::Passage;

/// Words of a sentence that is used: shorter ones are headings, longer ones tables.
const SENTENCE_WORDS: std::ops::RangeInclusive<usize> = 5..=60;

/// Characters of a passage: whole paragraphs, joined up to here.
const PASSAGE_CHARS: usize = 700;

/// Fewest letters of a word that is left out of a sentence to make a question.
const GAP_LETTERS: usize = 5;

/// Text to make prompts of.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeText {
    /// Where it is from, in words.
    pub from: String,
    pub(super) sentences: Vec<String>,
    pub(super) passages: Vec<Passage>,
}

/// A sentence with a word missing, and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cloze {
    pub(super) question: String,
    pub(super) answer: String,
    /// Index of the passage it is from.
    pub(super) gold: usize,
    /// Passages without the answer, the most alike first.
    pub(super) others: Vec<usize>,
}

impl ProbeText {
    /// The text of `documents`, each a title and a text. `from` says in words where they are from.
    pub fn new<'d>(from: impl Into<String>, documents: impl IntoIterator<Item = (&'d str, &'d str)>) -> Self {
        let mut text = Self { from: from.into(), sentences: Vec::new(), passages: Vec::new() };
        for (title, document) in documents {
            let mut passage = String::new();
            for paragraph in prose(document) {
                let found = sentences(&paragraph).into_iter().filter_map(|span| span.slice(&paragraph).ok());
                text.sentences.extend(found.filter(|s| usable(s)).map(str::to_owned));
                if !passage.is_empty() {
                    passage.push(' ');
                }
                passage.push_str(&paragraph);
                if passage.chars().count() >= PASSAGE_CHARS {
                    text.add(title, std::mem::take(&mut passage));
                }
            }
            text.add(title, passage);
        }
        text
    }

    fn add(&mut self, title: &str, text: String) {
        if text.split_whitespace().count() >= *SENTENCE_WORDS.start() {
            self.passages.push(Passage { id: self.passages.len().to_string(), title: title.to_owned(), text });
        }
    }

    /// Up to `count` questions, no two from one passage, the same ones for the same seed.
    pub(super) fn questions(&self, count: usize, seed: u64) -> Vec<Cloze> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut order: Vec<usize> = (0..self.passages.len()).collect();
        order.shuffle(&mut rng);
        order.into_iter().filter_map(|gold| self.cloze(gold, &mut rng)).take(count).collect()
    }

    fn cloze(&self, gold: usize, rng: &mut ChaCha8Rng) -> Option<Cloze> {
        let passage = &self.passages.get(gold)?.text;
        let spans = sentences(passage);
        let mut candidates: Vec<(&str, &str)> = Vec::new();
        for sentence in spans.iter().filter_map(|span| span.slice(passage).ok()).filter(|s| usable(s)) {
            for word in sentence.split_whitespace().skip(1) {
                let word = word.trim_matches(|c: char| !c.is_alphanumeric());
                let letters = word.chars().count() >= GAP_LETTERS && word.chars().all(char::is_alphanumeric);
                if letters && words(passage).iter().filter(|other| **other == word.to_lowercase()).count() == 1 {
                    candidates.push((sentence, word));
                }
            }
        }
        if candidates.is_empty() {
            return None;
        }
        let (sentence, word) = candidates.swap_remove(rng.random_range(0..candidates.len()));
        let answer = word.to_lowercase();
        let key: HashSet<String> = words(sentence).into_iter().collect();
        let mut others: Vec<(usize, usize)> = self
            .passages
            .iter()
            .enumerate()
            .filter(|(at, _)| *at != gold)
            .filter_map(|(at, other)| {
                let found: HashSet<String> = words(&other.text).into_iter().collect();
                (!found.contains(&answer)).then(|| (key.intersection(&found).count(), at))
            })
            .collect();
        others.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        Some(Cloze {
            question: format!("Which word is missing in this sentence: \"{}\"?", sentence.replacen(word, "____", 1)),
            answer: word.to_owned(),
            gold,
            others: others.into_iter().map(|(_, at)| at).collect(),
        })
    }
}

/// Paragraphs of prose: no headings, tables, lists of code.
fn prose(document: &str) -> Vec<String> {
    let mut paragraphs = Vec::new();
    let mut fenced = false;
    for block in document.split("\n\n") {
        let fences = block.lines().filter(|line| line.trim_start().starts_with("```")).count();
        let inside = fenced || fences > 0;
        fenced ^= fences % 2 == 1;
        let first = block.trim_start().chars().next();
        if inside || matches!(first, None | Some('#' | '|' | '`' | '<')) {
            continue;
        }
        paragraphs.push(block.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    paragraphs
}

fn usable(sentence: &str) -> bool {
    let words = sentence.split_whitespace().filter(|word| word.chars().any(char::is_alphabetic)).count();
    SENTENCE_WORDS.contains(&words) && sentence.ends_with(['.', '!', '?'])
}

fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn text() -> ProbeText {
        let document: Vec<String> = (0..60)
            .map(|n| {
                format!(
                    "Paragraph number{n} is about boats and their sailing masters. The vessel{n} sailed under captain{n} \
                     for years. Nobody remembers how often the harbour{n} was closed by storms from the north."
                )
            })
            .collect();
        let document = format!("# Boats\n\n```\nlet code = 1. And more code. Yes.\n```\n\n{}", document.join("\n\n"));
        ProbeText::new("made up", [("Boats", document.as_str())])
    }

    #[test]
    fn prose_is_used_and_code_and_headings_are_not() {
        let text = text();
        assert_eq!(text.sentences.len(), 180);
        assert!(text.sentences.iter().all(|s| !s.contains("code") && !s.contains('#')));
        assert!(text.passages.iter().all(|p| p.text.chars().count() < 2 * PASSAGE_CHARS));
        assert!(text.passages.len() > 10);
    }

    #[test]
    fn a_question_has_one_passage_with_its_answer() {
        let text = text();
        let questions = text.questions(8, 3);
        assert_eq!(questions.len(), 8);
        assert_eq!(questions, text.questions(8, 3));
        assert_ne!(questions, text.questions(8, 4));
        for Cloze { question, answer, gold, others } in questions {
            assert!(question.contains("____") && !words(&question).contains(&answer.to_lowercase()), "{question}");
            assert!(words(&text.passages[gold].text).contains(&answer.to_lowercase()));
            for other in others {
                assert!(!words(&text.passages[other].text).contains(&answer.to_lowercase()));
            }
        }
    }

    #[test]
    fn no_text_makes_no_questions() {
        let none = ProbeText::new("nothing", [("", ""), ("x", "# only\n\n| a | table |")]);
        assert!(none.questions(3, 1).is_empty() && none.passages.is_empty());
    }
}
