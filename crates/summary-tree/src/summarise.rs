//! What makes summaries, and what is asked of it.

use edgewise_model_api::Tokenizer;
use edgewise_types::{SummaryMethod, Usage};

use crate::{Halt, SummariseError};

/// Bounds of summaries and of what they are made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SummaryLimits {
    /// Most tokens of a summary, counted by the embedder, so that the vector of a summary is of all of it.
    pub tokens: usize,
    /// Most members of a node, at least 2.
    pub members: usize,
    /// Most tokens of the members of a node together, counted by the generator. More come only from members that are so
    /// long that no two of them would fit.
    pub source_tokens: usize,
}

impl Default for SummaryLimits {
    fn default() -> Self {
        Self { tokens: 200, members: 12, source_tokens: 2400 }
    }
}

/// A text to be summarised together with others.
#[derive(Debug, Clone, Copy)]
pub struct MemberText<'a> {
    /// Titles of the sections it stands in, outermost first; above documents, the document's title.
    pub headings: &'a [String],
    /// Its text.
    pub text: &'a str,
    /// Its embedding.
    pub embedding: &'a [f32],
    /// Its length in the generator's tokens.
    pub tokens: usize,
}

/// A summary to make.
#[derive(Clone, Copy)]
pub struct SummaryRequest<'a> {
    /// Title of the document; empty above documents.
    pub title: &'a str,
    /// Level that the node will have: at level 1 the members are chunks, above it mostly summaries.
    pub level: u32,
    /// What to summarise, in order; at least one.
    pub members: &'a [MemberText<'a>],
    /// Counts the tokens of [`SummaryLimits::tokens`].
    pub tokenizer: &'a dyn Tokenizer,
    /// To be called several times a second by a summariser that waits for something; an error of it ends the work.
    pub waiting: &'a (dyn Fn() -> Result<(), Halt> + Sync),
}

/// A summary made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SummaryText {
    /// Its text, of at most [`SummaryLimits::tokens`].
    pub text: String,
    /// How it came about.
    pub method: SummaryMethod,
    /// What the generator used, rejected attempts included.
    pub usage: Usage,
    /// Attempts of the generator that were rejected.
    pub regenerated: u32,
    /// What rejected attempts said and the members do not.
    pub unsupported: Vec<String>,
    /// Different names, numbers and dates in the members.
    pub facts: u32,
    /// How many of them the summary leaves out.
    pub facts_left_out: u32,
}

/// Work of a generator, expected or done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effort {
    /// Summaries.
    pub summaries: usize,
    /// Calls of the generator; none for an extractive summary.
    pub calls: usize,
    /// Tokens of its prompts.
    pub prompt_tokens: usize,
    /// Tokens it writes.
    pub output_tokens: usize,
}

impl Effort {
    /// Both together.
    pub fn plus(self, other: Self) -> Self {
        Self {
            summaries: self.summaries + other.summaries,
            calls: self.calls + other.calls,
            prompt_tokens: self.prompt_tokens + other.prompt_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
        }
    }
}

/// Makes summaries. Deterministic: equal requests to summarisers of equal identity and limits give equal texts, which is
/// what lets a summary be kept by what it was made from.
pub trait Summariser: Send + Sync {
    /// Everything besides the members that decides the text: kind, version, model, templates.
    fn identity(&self) -> String;

    /// Its limits.
    fn limits(&self) -> SummaryLimits;

    /// Summarises.
    ///
    /// # Errors
    /// [`SummariseError`] if there is no summary: a failure is never a text.
    fn summarise(&self, request: &SummaryRequest<'_>) -> Result<SummaryText, SummariseError>;

    /// The work that one summary of members of this many tokens, counted by the generator, is expected to take.
    fn estimate(&self, source_tokens: usize) -> Effort;

    /// Summaries to make before they are embedded and stored together. Up to this many are made again after a kill.
    fn batch(&self) -> usize {
        1
    }

    /// Threads on which the summaries of a batch are made.
    fn parallel(&self) -> usize {
        1
    }
}
