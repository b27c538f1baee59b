//! From what was seen and what a server reports to what is billed.
//!
//! The prompt is billed as it was sent, which is known. What was cached of it, and how many tokens were made, only the
//! server knows; it is believed as far as it can be true.

use crate::wire::{Chunk, UsageBody};

/// What a server has reported of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reported {
    /// Length of the prompt.
    pub(crate) prompt: Option<usize>,
    /// Tokens of it that were cached.
    pub(crate) cached: Option<usize>,
    /// Tokens made, of all samples together.
    pub(crate) output: Option<usize>,
}

fn size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Reported {
    /// Takes over what a chunk says.
    pub(crate) fn note(&mut self, chunk: &Chunk) {
        if let Some(UsageBody { prompt_tokens, completion_tokens, prompt_tokens_details }) = chunk.usage {
            self.prompt = prompt_tokens.map(size).or(self.prompt);
            self.output = completion_tokens.map(size).or(self.output);
            self.cached = prompt_tokens_details.and_then(|d| d.cached_tokens).map(size).or(self.cached);
        }
        self.cached = self.cached.or_else(|| chunk.timings.and_then(|timings| timings.cache_n).map(size));
    }

    /// Whether the server counts the prompt as it was sent.
    pub(crate) fn prompt_differs(&self, sent: usize) -> Option<usize> {
        self.prompt.filter(|reported| *reported != sent)
    }

    /// Cached tokens of a prompt of `sent`, if they were reported and can be true: the last token is always computed.
    pub(crate) fn cached_of(&self, sent: usize) -> Option<usize> {
        self.cached.filter(|cached| *cached <= sent).map(|cached| cached.min(sent.saturating_sub(1)))
    }

    /// Tokens made: as reported if that is at least what was seen and at most what was allowed, else what was seen.
    pub(crate) fn output_of(&self, seen: usize, most: usize) -> usize {
        self.output.filter(|output| (seen..=most.max(seen)).contains(output)).unwrap_or(seen)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reports_are_believed_as_far_as_they_can_be_true() {
        let mut reported = Reported::default();
        assert_eq!((reported.cached_of(100), reported.output_of(7, 10)), (None, 7));
        let chunk = json!({ "usage": { "prompt_tokens": 100, "completion_tokens": 8, "prompt_tokens_details": { "cached_tokens": 100 } } });
        reported.note(&serde_json::from_value(chunk).unwrap());
        assert_eq!(reported.cached_of(100), Some(99));
        assert_eq!((reported.output_of(7, 10), reported.output_of(9, 10), reported.output_of(3, 5)), (8, 9, 3));
        assert_eq!((reported.prompt_differs(100), reported.prompt_differs(90)), (None, Some(100)));
        let lie = json!({ "usage": { "prompt_tokens": 3, "completion_tokens": 10_000, "prompt_tokens_details": { "cached_tokens": 5000 } } });
        reported.note(&serde_json::from_value(lie).unwrap());
        assert_eq!((reported.cached_of(100), reported.output_of(7, 10)), (None, 7));
        let nothing = json!({ "usage": null, "timings": { "cache_n": 12 } });
        let mut reported = Reported::default();
        reported.note(&serde_json::from_value(nothing).unwrap());
        assert_eq!(reported.cached_of(100), Some(12));
    }
}
