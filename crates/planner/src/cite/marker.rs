//! Citation markers in a model's answer.
//!
//! `[1]`, `[1, 2]`, `[1; 2]`, `[1-3]` and runs of them. Not a marker: brackets in inline code, in fenced code, after an
//! identifier as in `list[1]`, before a parenthesis as in a Markdown link, and anything that is not numbers.

use std::ops::Range;

/// Sources a range such as `[2-5]` may span. A longer one is no citation.
const LONGEST_RANGE: usize = 20;

/// One bracket with source numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// Bytes of the answer: the bracket with the spaces that go if it goes.
    pub(super) range: Range<usize>,
    /// Bytes of the bracket itself.
    bracket: Range<usize>,
    /// The numbers in it, in order, each once.
    pub(super) numbers: Vec<usize>,
}

impl Marker {
    /// How it is written when only the numbers in `standing` stand; `None` if none does.
    pub(super) fn written(&self, raw: &str, standing: &[usize]) -> Option<String> {
        if standing.is_empty() {
            return None;
        }
        let (before, after) = (&raw[self.range.start..self.bracket.start], &raw[self.bracket.end..self.range.end]);
        if self.numbers.iter().all(|n| standing.contains(n)) {
            return Some(raw[self.range.clone()].to_owned());
        }
        let numbers: Vec<String> = standing.iter().map(usize::to_string).collect();
        Some(format!("{before}[{}]{after}", numbers.join(", ")))
    }
}

/// The markers of `raw`, in order.
pub(super) fn find(raw: &str) -> Vec<Marker> {
    let code = code_ranges(raw);
    let mut markers: Vec<Marker> = Vec::new();
    let mut from = 0;
    while let Some(open) = raw[from..].find('[').map(|at| from + at) {
        from = open + 1;
        let Some(close) = raw[open..].find(']').map(|at| open + at) else { break };
        let Some(numbers) = numbers(&raw[open + 1..close]) else { continue };
        let end = close + 1;
        if code.iter().any(|range| range.contains(&open)) || is_index(&raw[..open], &raw[end..]) {
            continue;
        }
        let blank = |c: char| c == ' ' || c == '\t';
        let before = raw[..open].trim_end_matches(blank);
        let starts_line = before.is_empty() || before.ends_with('\n');
        // At the start of a line the spaces after it go; elsewhere those before it.
        let range =
            if starts_line { open..raw.len() - raw[end..].trim_start_matches(blank).len() } else { before.len()..end };
        let range = range.start.max(markers.last().map_or(0, |last| last.range.end))..range.end;
        markers.push(Marker { range, bracket: open..end, numbers });
        from = end;
    }
    markers
}

/// The numbers of `inner`, as in `1`, `1, 2` or `2-4`.
fn numbers(inner: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for item in inner.split([',', ';']) {
        let (first, last) = item.split_once(['-', '–']).unwrap_or((item, item));
        let (first, last) = (number(first)?, number(last)?);
        if first > last || last - first >= LONGEST_RANGE {
            return None;
        }
        for n in first..=last {
            if !numbers.contains(&n) {
                numbers.push(n);
            }
        }
    }
    Some(numbers)
}

fn number(text: &str) -> Option<usize> {
    let text = text.trim();
    let plain = !text.is_empty() && text.len() <= 4 && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Whether a bracket between `before` and `after` is an index, a link or a type rather than a citation.
fn is_index(before: &str, after: &str) -> bool {
    if after.starts_with(['(', '{']) {
        return true;
    }
    let word_start = before
        .rfind(|c: char| !c.is_alphanumeric() && c != '_')
        .map_or(0, |at| at + before[at..].chars().next().map_or(1, char::len_utf8));
    let word = &before[word_start..];
    if word.is_empty() {
        return before.ends_with(')') && after.starts_with(['.', '[']) && attached_name(after);
    }
    // Attached to a word: models write `in 1742[1]`, and code `list[1]`. A word of prose is not short, has no
    // underscore or inner capital, and what follows is the end of a word, not an operator or a member.
    let number = word.bytes().all(|b| b.is_ascii_digit());
    let prose = number
        || word.chars().count() > 2
            && word.chars().all(char::is_alphabetic)
            && !word.chars().skip(1).any(char::is_uppercase)
            && !before[..word_start].ends_with(['.', ':', '&', '*', '$', '@']);
    let operator = after.trim_start_matches(' ').starts_with(['=', '+', '*', '/', '<', '>', '&', '|', ';']);
    !prose || operator || attached_name(after)
}

/// Whether a member access follows, as in `.len()`.
fn attached_name(after: &str) -> bool {
    after.strip_prefix('.').is_some_and(|rest| rest.starts_with(|c: char| c.is_lowercase() || c == '_'))
}

/// Bytes of fenced blocks and inline code.
fn code_ranges(raw: &str) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    let mut fence: Option<usize> = None;
    let mut offset = 0;
    for line in raw.split_inclusive('\n') {
        let end = offset + line.len();
        if line.trim_start().starts_with("```") {
            match fence.take() {
                Some(start) => ranges.push(start..end),
                None => fence = Some(offset),
            }
        } else if fence.is_none() {
            let ticks: Vec<usize> = line.match_indices('`').map(|(at, _)| offset + at).collect();
            ranges.extend(ticks.chunks_exact(2).map(|pair| pair[0]..pair[1]));
        }
        offset = end;
    }
    // A fence that is still open runs to the end.
    ranges.extend(fence.map(|start| start..raw.len()));
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn found(raw: &str) -> Vec<(&str, Vec<usize>)> {
        find(raw).into_iter().map(|marker| (&raw[marker.bracket.clone()], marker.numbers)).collect()
    }

    #[test]
    fn the_forms_models_write() {
        assert_eq!(found("It is so [1]."), [("[1]", vec![1])]);
        assert_eq!(found("So [1, 2] and [3;4]."), [("[1, 2]", vec![1, 2]), ("[3;4]", vec![3, 4])]);
        assert_eq!(
            found("So [1][2] it stands[3], in 1742[4]."),
            [("[1]", vec![1]), ("[2]", vec![2]), ("[3]", vec![3]), ("[4]", vec![4])]
        );
        assert_eq!(found("So [2-4], [5–6]."), [("[2-4]", vec![2, 3, 4]), ("[5–6]", vec![5, 6])]);
        assert_eq!(found("[1] begins.\n[2] too."), [("[1]", vec![1]), ("[2]", vec![2])]);
    }

    #[test]
    fn what_is_not_a_citation() {
        for text in [
            "Use `a[1]` here.",
            "```rust\nlet x = [1];\n```",
            "```\nopen fence [1]",
            "a[1]",
            "v[0] = 3",
            "list[1] = 2",
            "items[1].name",
            "my_list[1]",
            "myList[1]",
            "self.items[1]",
            "a link [1](http://x)",
            "[a]",
            "[]",
            "[1",
            "[-1]",
            "[1.5]",
            "[4-2]",
            "[1-900]",
            "[12345]",
            "[1, x]",
        ] {
            assert_eq!(found(text), [], "{text}");
        }
    }

    #[test]
    fn a_marker_is_rewritten_to_what_stands() {
        let raw = "So [1, 7], yes.";
        let marker = &find(raw)[0];
        assert_eq!(&raw[marker.range.clone()], " [1, 7]");
        assert_eq!(marker.written(raw, &[1, 7]).as_deref(), Some(" [1, 7]"));
        assert_eq!(marker.written(raw, &[1]).as_deref(), Some(" [1]"));
        assert_eq!(marker.written(raw, &[]), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_overlap(raw in "[a\\[\\]0-9, `\n.é\\-]{0,60}") {
            let markers = find(&raw);
            for marker in &markers {
                prop_assert!(raw.get(marker.range.clone()).is_some());
                prop_assert!(raw[marker.bracket.clone()].starts_with('[') && raw[marker.bracket.clone()].ends_with(']'));
            }
            prop_assert!(markers.windows(2).all(|pair| pair[0].range.end <= pair[1].range.start));
        }
    }
}
