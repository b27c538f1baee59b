//! Pages of a document: where they begin in its normalised text, and what they are called.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Span;

/// A run of pages, both ends included. Shown as `p. 12`, `pp. 12–13` or, with printed labels, `p. xii`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct PageRange {
    /// First page, numbered from 1 in the order of the file.
    pub first: u32,
    /// Last page; the first if there is only one.
    pub last: u32,
    /// What the first page is called in print, where that is something other than its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_label: Option<String>,
    /// What the last page is called in print, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_label: Option<String>,
}

impl PageRange {
    /// The pages from number `first` to number `last`, called by their numbers.
    pub fn new(first: u32, last: u32) -> Self {
        Self { first, last, first_label: None, last_label: None }
    }
}

impl fmt::Display for PageRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |label: &Option<String>, number: u32| label.clone().unwrap_or_else(|| number.to_string());
        let (first, last) = (shown(&self.first_label, self.first), shown(&self.last_label, self.last));
        if first == last { write!(f, "p. {first}") } else { write!(f, "pp. {first}–{last}") }
    }
}

/// Where each page begins, as a byte offset into the normalised text. Empty for documents without pages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageMap {
    /// Offset of page 1, of page 2, and so on; non-decreasing. A blank page begins where the next one does.
    starts: Vec<usize>,
    /// What each page is called, if anything but its number; else empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    labels: Vec<String>,
}

impl PageMap {
    /// The map of pages that begin at these offsets, which must not decrease; a smaller one is raised to the one
    /// before it.
    pub fn new(mut starts: Vec<usize>) -> Self {
        let mut least = 0;
        for start in &mut starts {
            least = least.max(*start);
            *start = least;
        }
        Self { starts, labels: Vec::new() }
    }

    /// The same map with what each page is called in print. Labels that are too few or too many, or that are the page's
    /// own numbers, say nothing and are left out.
    pub fn with_labels(mut self, labels: Vec<String>) -> Self {
        let plain = (1..).zip(&labels).all(|(number, label): (usize, _)| *label == number.to_string());
        self.labels = if plain || labels.len() != self.starts.len() { Vec::new() } else { labels };
        self
    }

    /// Number of pages; `None` for a document without pages.
    pub fn len(&self) -> Option<usize> {
        Some(self.starts.len()).filter(|pages| *pages > 0)
    }

    /// Whether the document has no pages.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Where pages begin.
    pub fn starts(&self) -> &[usize] {
        &self.starts
    }

    /// Whether this is a map of a text of `text_bytes` bytes: offsets in order and within it, a label for each page or
    /// for none.
    pub fn fits(&self, text_bytes: usize) -> bool {
        self.starts.is_sorted()
            && self.starts.last().is_none_or(|last| *last <= text_bytes)
            && (self.labels.is_empty() || self.labels.len() == self.starts.len())
    }

    /// The pages that `span` stands on; `None` for a document without pages. Text before the first page counts as on it.
    pub fn pages(&self, span: Span) -> Option<PageRange> {
        let page_at = |at: usize| self.starts.partition_point(|start| *start <= at).max(1);
        let (first, last) = (page_at(span.start), page_at(span.end.saturating_sub(1).max(span.start)));
        let label = |page: usize| self.labels.get(page - 1).cloned();
        let number = |page: usize| u32::try_from(page).unwrap_or(u32::MAX);
        (!self.is_empty()).then(|| PageRange {
            first: number(first),
            last: number(last),
            first_label: label(first),
            last_label: label(last),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pages(starts: &[usize], start: usize, end: usize) -> Option<(u32, u32)> {
        PageMap::new(starts.to_vec()).pages(Span::new(start, end)).map(|range| (range.first, range.last))
    }

    #[test]
    fn spans_stand_on_pages() {
        assert_eq!(pages(&[0, 10, 20], 0, 10), Some((1, 1)));
        assert_eq!(pages(&[0, 10, 20], 9, 11), Some((1, 2)));
        assert_eq!(pages(&[0, 10, 20], 25, 99), Some((3, 3)));
        assert_eq!(pages(&[0, 10, 20], 10, 10), Some((2, 2)), "an empty span stands where it is");
        assert_eq!(pages(&[0, 10, 10, 20], 10, 12), Some((3, 3)), "page 2 is blank");
        assert_eq!(pages(&[5, 3], 0, 1), Some((1, 1)));
        assert_eq!(pages(&[], 0, 1), None);
    }

    #[test]
    fn pages_are_shown_as_they_are_cited() {
        let labels = |labels: &[&str]| labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>();
        let map = PageMap::new(vec![0, 10, 20]);
        let shown = |map: &PageMap, start: usize, end: usize| map.pages(Span::new(start, end)).unwrap().to_string();
        assert_eq!((shown(&map, 0, 5), shown(&map, 0, 25)), ("p. 1".to_owned(), "pp. 1–3".to_owned()));
        let named = map.clone().with_labels(labels(&["xi", "xii", "1"]));
        assert_eq!((shown(&named, 12, 15), shown(&named, 0, 25)), ("p. xii".to_owned(), "pp. xi–1".to_owned()));
        assert_eq!(map.clone().with_labels(labels(&["1", "2", "3"])), map);
        assert_eq!(map.clone().with_labels(labels(&["xi"])), map);
        assert!(map.fits(20) && !map.fits(19));
    }
}
