//! The spans of a generation, one after the other: waiting, reading the prompt, writing the answer.

use tracing::Span;

/// Follows a generation from its request on. Each span ends where the next begins, the last when this is dropped. The spans
/// are below the one that is current when the generation is asked for.
#[derive(Debug)]
pub struct Phases {
    parent: Span,
    current: Span,
    at: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Queue,
    Prefill,
    Decode,
}

impl Phases {
    /// The generation has been asked for.
    #[must_use]
    pub fn queued() -> Self {
        Self { parent: Span::current(), current: tracing::info_span!("queue"), at: Phase::Queue }
    }

    /// Its work has begun; `cached_tokens` of its prompt were resident.
    pub fn started(&mut self, cached_tokens: usize) {
        if self.at < Phase::Prefill {
            self.at = Phase::Prefill;
            self.current = tracing::info_span!(parent: &self.parent, "prefill", cached_tokens);
        }
    }

    /// A token has come.
    pub fn token(&mut self) {
        if self.at < Phase::Decode {
            self.at = Phase::Decode;
            self.current = tracing::info_span!(parent: &self.parent, "decode");
        }
    }
}
