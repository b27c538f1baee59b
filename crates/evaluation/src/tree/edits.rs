//! Edits as people make them: a paragraph changed, added or deleted, now and then a whole document.
//!
//! Real text in real places: what is added or put in another's place are paragraphs of documents that are kept back, and
//! added documents are these. Invariants: the same seed gives the same edits; no document becomes empty; the number of
//! documents stays within one of where it began, or above a half if there are none left to add.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::library::Text;

/// Shortest paragraph that is changed, in bytes: below are headings and rests of code.
const LEAST_PARAGRAPH: usize = 80;

/// What an edit does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Another paragraph in place of one.
    ParagraphChanged,
    /// One more paragraph.
    ParagraphAdded,
    /// One paragraph less.
    ParagraphDeleted,
    /// One more document.
    DocumentAdded,
    /// One document less.
    DocumentDeleted,
}

impl std::fmt::Display for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ParagraphChanged => "paragraph changed",
            Self::ParagraphAdded => "paragraph added",
            Self::ParagraphDeleted => "paragraph deleted",
            Self::DocumentAdded => "document added",
            Self::DocumentDeleted => "document deleted",
        })
    }
}

/// What is different after an edit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// This document is new, or has another text.
    Put(Text),
    /// This document is gone.
    Delete(String),
}

/// Documents that are edited, and those kept back.
pub(super) struct Desk {
    documents: Vec<Text>,
    aside: Vec<Text>,
    least: usize,
    most: usize,
    rng: ChaCha8Rng,
}

impl Desk {
    /// `whole` keeps documents whole: only paragraphs are edited.
    pub(super) fn new(documents: Vec<Text>, aside: Vec<Text>, whole: bool, seed: u64) -> Self {
        let count = documents.len();
        let (least, most) = match (whole, aside.is_empty()) {
            (true, _) => (count, count),
            (false, true) => (count.div_ceil(2), count),
            (false, false) => (count.saturating_sub(1).max(1), count + 1),
        };
        Self { documents, aside, least, most, rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    pub(super) fn documents(&self) -> &[Text] {
        &self.documents
    }

    /// The next edit. Of ten, nine are of paragraphs.
    pub(super) fn edit(&mut self) -> (Edit, Change) {
        if self.rng.random_range(0..10) == 0 {
            let add = self.rng.random_range(0..2) == 0;
            let (count, can_add) = (self.documents.len(), !self.aside.is_empty());
            if (add || count <= self.least) && can_add && count < self.most {
                let at = self.rng.random_range(0..self.aside.len());
                let document = self.aside.swap_remove(at);
                self.documents.push(document.clone());
                return (Edit::DocumentAdded, Change::Put(document));
            }
            if count > self.least {
                let at = self.rng.random_range(0..count);
                let document = self.documents.remove(at);
                let uri = document.uri.clone();
                // It may come back.
                self.aside.push(document);
                return (Edit::DocumentDeleted, Change::Delete(uri));
            }
        }
        self.paragraph()
    }

    fn paragraph(&mut self) -> (Edit, Change) {
        let at = self.rng.random_range(0..self.documents.len());
        let other = self.other_paragraph(at);
        let document = &mut self.documents[at];
        let mut paragraphs: Vec<&str> = document.text.split("\n\n").collect();
        let long = |paragraph: &str| paragraph.trim().len() >= LEAST_PARAGRAPH;
        let candidates: Vec<usize> = (0..paragraphs.len()).filter(|at| long(paragraphs[*at])).collect();
        let (kind, place) = match (candidates.as_slice(), self.rng.random_range(0..3)) {
            ([] | [_], _) => (Edit::ParagraphAdded, paragraphs.len()),
            (some, kind) => {
                let place = some[self.rng.random_range(0..some.len())];
                let kinds = [Edit::ParagraphChanged, Edit::ParagraphAdded, Edit::ParagraphDeleted];
                // It came from there: put in its own place it would change nothing.
                let same = paragraphs[place].trim() == other;
                (if same && kind == 0 { Edit::ParagraphDeleted } else { kinds[kind] }, place)
            }
        };
        match kind {
            Edit::ParagraphAdded => paragraphs.insert(place, &other),
            Edit::ParagraphDeleted => drop(paragraphs.remove(place)),
            _ => paragraphs[place] = &other,
        }
        document.text = paragraphs.join("\n\n");
        (kind, Change::Put(document.clone()))
    }

    /// A paragraph of another document, of those kept back if there are any.
    fn other_paragraph(&mut self, not: usize) -> String {
        let others: Vec<&Text> = match self.aside.is_empty() {
            true => self.documents.iter().enumerate().filter(|(at, _)| *at != not).map(|(_, text)| text).collect(),
            false => self.aside.iter().collect(),
        };
        let paragraphs: Vec<&str> = others
            .iter()
            .flat_map(|text| text.text.split("\n\n"))
            .map(str::trim)
            // Half a block of code would take the rest of the document into it.
            .filter(|paragraph| paragraph.len() >= LEAST_PARAGRAPH && !paragraph.contains("```"))
            .collect();
        match paragraphs.len() {
            0 => "This was added later, and says nothing that was not known before to whoever reads it.".to_owned(),
            count => paragraphs[self.rng.random_range(0..count)].to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn texts(range: std::ops::Range<usize>) -> Vec<Text> {
        let paragraph = |d: usize, p: usize| format!("Paragraph {p} of document {d} {}.", "goes on and on ".repeat(8));
        let text = |d: usize| (0..5).map(|p| paragraph(d, p)).collect::<Vec<_>>().join("\n\n");
        range.map(|d| Text { uri: format!("{d}.md"), text: text(d), media_type: "text/markdown" }).collect()
    }

    #[test]
    fn edits_are_of_every_kind_and_followed_give_the_documents() {
        let mut desk = Desk::new(texts(0..20), texts(20..26), false, 7);
        let mut again = Desk::new(texts(0..20), texts(20..26), false, 7);
        let mut copy: BTreeMap<String, Text> = texts(0..20).into_iter().map(|text| (text.uri.clone(), text)).collect();
        let mut kinds = BTreeSet::new();
        for _ in 0..300 {
            let (kind, change) = desk.edit();
            assert_eq!((kind, &change), (again.edit().0, &change));
            kinds.insert(kind);
            match change {
                Change::Put(text) => {
                    assert!(!text.text.trim().is_empty());
                    assert_ne!(copy.insert(text.uri.clone(), text.clone()), Some(text), "nothing changed");
                }
                Change::Delete(uri) => assert!(copy.remove(&uri).is_some()),
            }
            assert!((19..=21).contains(&desk.documents().len()));
        }
        assert_eq!(kinds.len(), 5);
        let left: BTreeMap<String, Text> =
            desk.documents().iter().map(|text| (text.uri.clone(), text.clone())).collect();
        assert_eq!(left, copy);
    }

    #[test]
    fn with_nothing_kept_back_paragraphs_come_from_other_documents() {
        let mut desk = Desk::new(texts(0..2), Vec::new(), true, 1);
        for _ in 0..50 {
            assert!(matches!(desk.edit().0, Edit::ParagraphChanged | Edit::ParagraphAdded | Edit::ParagraphDeleted));
        }
        assert_eq!(desk.documents().len(), 2);
    }
}
