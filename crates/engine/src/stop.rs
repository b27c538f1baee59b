//! Stop strings.
//!
//! Text is passed on as soon as no stop string can begin in it. A generation ends at the stop string that is complete
//! first; of several complete at the same character, the longest counts, so that nothing of it is left in the output.
//! The result does not depend on how the text was cut into pieces.

/// Finds stop strings in text as it comes.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    stops: Vec<String>,
    /// Text in which a stop string may have begun.
    held: String,
    /// The one that came up.
    met: Option<String>,
}

/// What a piece of text led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    /// Text that is certain to be output.
    pub(crate) text: String,
    /// Whether a stop string came up; nothing after it counts.
    pub(crate) stopped: bool,
}

impl StopMatcher {
    /// A matcher for `stops`, none of which may be empty.
    pub(crate) fn new(stops: Vec<String>) -> Self {
        Self { stops, held: String::new(), met: None }
    }

    /// Takes the next piece.
    pub(crate) fn push(&mut self, piece: &str) -> Passed {
        self.held.push_str(piece);
        let matches = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start, stop))
        });
        if let Some((_, start, stop)) = matches.min() {
            self.met = Some(stop.clone());
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Passed { text, stopped: true };
        }
        let keep = self.stops.iter().map(|stop| longest_start_at_end(&self.held, stop)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Passed { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// The stop string that came up, if one did.
    pub(crate) fn met(&mut self) -> Option<String> {
        self.met.take()
    }

    /// What was held back, at the end of the text.
    pub(crate) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Bytes at the end of `text` that are a proper start of `stop`. Both are valid UTF-8, so the cut is at a character.
fn longest_start_at_end(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest).rev().find(|&n| text.as_bytes().ends_with(&stop.as_bytes()[..n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run<'a>(stops: &[&str], pieces: impl IntoIterator<Item = &'a str>) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|&s| s.to_owned()).collect());
        let mut output = String::new();
        for piece in pieces {
            let passed = matcher.push(piece);
            output.push_str(&passed.text);
            if passed.stopped {
                return (output, true);
            }
        }
        output.push_str(&matcher.finish());
        (output, false)
    }

    #[test]
    fn a_possible_start_is_held_back_until_decided() {
        let mut matcher = StopMatcher::new(vec!["END".to_owned()]);
        assert_eq!(matcher.push("xE"), Passed { text: "x".to_owned(), stopped: false });
        assert_eq!(matcher.push("N"), Passed { text: String::new(), stopped: false });
        assert_eq!(matcher.push("x EN"), Passed { text: "ENx ".to_owned(), stopped: false });
        assert_eq!(matcher.finish(), "EN");
    }

    #[test]
    fn the_string_that_ends_the_text_is_told() {
        let met = |stops: &[&str], text: &str| {
            let mut matcher = StopMatcher::new(stops.iter().map(|&s| s.to_owned()).collect());
            matcher.push(text);
            matcher.met()
        };
        assert_eq!(met(&["x", "END"], "the END x").as_deref(), Some("END"));
        assert_eq!(met(&["c", "bc", "abcd"], "xabcd").as_deref(), Some("bc"));
        assert_eq!(met(&["END"], "the EN"), None);
    }

    #[test]
    fn the_first_complete_stop_string_ends_the_text_before_it() {
        assert_eq!(run(&["\n\n", "Q:"], ["a\n", "b\nQ", ": c\n\n"]), ("a\nb\n".to_owned(), true));
        assert_eq!(run(&["c", "bc", "abcd"], ["xabcd"]), ("xa".to_owned(), true));
        assert_eq!(run(&["é"], ["e", "é"]), ("e".to_owned(), true));
        assert_eq!(run(&[], ["a", "b"]), ("ab".to_owned(), false));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            text in "[abé]{0,20}",
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            cuts in prop::collection::vec(1_usize..6, 0..20),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let characters: Vec<String> = text.chars().map(String::from).collect();
            let mut pieces = Vec::new();
            let mut rest = &characters[..];
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.concat());
                rest = after;
            }
            pieces.push(rest.concat());
            let (output, stopped) = run(&stops, pieces.iter().map(String::as_str));
            prop_assert_eq!(run(&stops, [text.as_str()]), (output.clone(), stopped));
            prop_assert!(text.starts_with(&output));
            prop_assert!(stops.iter().all(|stop| !output.contains(stop)));
            prop_assert_eq!(stopped, stops.iter().any(|stop| text.contains(stop)));
            if !stopped {
                prop_assert_eq!(output, text);
            }
        }
    }
}
