//! The sections of a document, for returning what surrounds a chunk.

use edgewise_types::Span;

use crate::{BlockKind, ParsedDocument};

/// The sections of a document, subsections included in them.
pub(crate) struct Sections {
    /// Spans in the order they begin, an enclosing one before those in it.
    spans: Vec<Span>,
    /// For each, the one around it.
    parents: Vec<Option<usize>>,
    whole: Span,
}

impl Sections {
    /// The sections that the headings of `document` open. Each reaches to the next heading of its level or above. Without
    /// headings, as in source code, blocks that follow each other under the same titles are a section.
    pub(crate) fn of(document: &ParsedDocument) -> Self {
        let end = document.text.len();
        let mut sections = Self { spans: Vec::new(), parents: Vec::new(), whole: Span::new(0, end) };
        if !document.blocks.iter().any(|block| matches!(block.kind, BlockKind::Heading { .. })) {
            for run in document.blocks.chunk_by(|a, b| a.heading_path == b.heading_path) {
                if let ([first, ..], [.., last]) = (run, run)
                    && !first.heading_path.is_empty()
                {
                    sections.spans.push(Span::new(first.span.start, last.span.end));
                    sections.parents.push(None);
                }
            }
            return sections;
        }
        let mut open: Vec<(u8, usize)> = Vec::new();
        for block in &document.blocks {
            let BlockKind::Heading { level, .. } = block.kind else { continue };
            while let Some((_, index)) = open.pop_if(|(outer, _)| *outer >= level) {
                let text = &document.text[sections.spans[index].start..block.span.start];
                sections.spans[index].end = sections.spans[index].start + text.trim_end().len();
            }
            sections.parents.push(open.last().map(|(_, index)| *index));
            open.push((level, sections.spans.len()));
            sections.spans.push(Span::new(block.span.start, end));
        }
        sections
    }

    /// The smallest section that holds `span` and more text; the whole document where no section does.
    pub(crate) fn parent(&self, span: Span) -> Span {
        let mut at = self.spans.partition_point(|section| section.start <= span.start).checked_sub(1);
        while let Some(index) = at {
            let section = self.spans[index];
            if section.end >= span.end && section.start <= span.start && section != span {
                return section;
            }
            at = self.parents[index];
        }
        self.whole
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{MarkdownParser, Parser, SourceInfo, work::tests::work};

    #[test]
    fn the_parent_is_the_smallest_section_with_more_in_it() {
        let source = b"intro\n\n# A\n\n## B\n\nb one\n\nb two\n\n## C\n\nc\n\n# D\n\nd\n";
        let document = MarkdownParser.parse(source, &SourceInfo::new("a.md"), &work()).unwrap();
        let sections = Sections::of(&document);
        let parent = |text: &str| {
            let start = document.text.find(text).unwrap();
            sections.parent(Span::new(start, start + text.len())).slice(&document.text).unwrap().to_owned()
        };
        assert_eq!(parent("b one"), "B\n\nb one\n\nb two");
        assert_eq!(parent("B\n\nb one\n\nb two"), "A\n\nB\n\nb one\n\nb two\n\nC\n\nc", "it is a whole section");
        assert_eq!(parent("A\n\nB\n\nb one"), "A\n\nB\n\nb one\n\nb two\n\nC\n\nc");
        assert_eq!(parent("D\n\nd"), document.text);
        assert_eq!(parent("intro"), document.text);
    }

    #[test]
    fn a_declaration_of_source_code_is_a_section() {
        let source = b"use std::fmt;\n\nfn long() {\n    one();\n\n    two();\n}\n\nfn short() {}\n";
        let document = crate::CodeParser.parse(source, &SourceInfo::new("a.rs"), &work()).unwrap();
        let sections = Sections::of(&document);
        let at = document.text.find("two();").unwrap();
        let parent = sections.parent(Span::new(at, at + 6)).slice(&document.text).unwrap();
        assert!(parent.starts_with("fn long") && parent.ends_with("two();\n}"), "{parent}");
        let at = document.text.find("fn short").unwrap();
        assert_eq!(sections.parent(Span::new(at, at + 13)), Span::new(0, document.text.len()));
    }
}
