//! Pages of a document: where they begin in its normalised text.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Span;

/// A run of pages, both ends included, numbered from 1 in the order of the file (not as printed on them).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub struct PageRange {
    /// First page.
    pub first: u32,
    /// Last page; the first if there is only one.
    pub last: u32,
}

/// Where each page begins, as a byte offset into the normalised text. Empty for documents without pages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PageMap {
    /// Offset of page 1, of page 2, and so on; non-decreasing. A blank page begins where the next one does.
    starts: Vec<usize>,
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
        Self { starts }
    }

    /// Number of pages; `None` for a document without pages.
    pub fn len(&self) -> Option<usize> {
        Some(self.starts.len()).filter(|pages| *pages > 0)
    }

    /// Whether the document has no pages.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// The pages that `span` stands on; `None` for a document without pages. Text before the first page counts as on it.
    pub fn pages(&self, span: Span) -> Option<PageRange> {
        let page_at = |at: usize| {
            let page = self.starts.partition_point(|start| *start <= at).max(1);
            u32::try_from(page).unwrap_or(u32::MAX)
        };
        let first = page_at(span.start);
        (!self.is_empty()).then(|| PageRange { first, last: page_at(span.end.saturating_sub(1).max(span.start)) })
    }
}

#[cfg(test)]
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
}
