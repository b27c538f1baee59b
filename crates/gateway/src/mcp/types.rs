//! What the tools take and give. Doc comments of fields are what a model is told of them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to search for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "schemars")]
pub(super) struct SearchInput {
    /// The collection to search. `list` names those there are.
    pub(super) collection: String,
    /// What to look for, in natural language.
    pub(super) query: String,
    /// Most passages to return, 1 to 100; 10 if absent.
    #[serde(default)]
    pub(super) limit: Option<usize>,
    /// Search only documents whose metadata satisfies this, such as `year >= 2020 and uri like 'guide/**'`.
    #[serde(default)]
    pub(super) filter: Option<String>,
}

/// Passages, best first.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(crate = "schemars")]
pub(super) struct SearchOutput {
    /// The passages.
    pub(super) passages: Vec<Passage>,
}

/// A passage of a document.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(crate = "schemars")]
pub(super) struct Passage {
    /// Id of the document, for `read`.
    pub(super) document: String,
    /// Name of the document.
    pub(super) uri: String,
    /// Its title.
    pub(super) title: String,
    /// Sections the passage stands in, outermost first.
    pub(super) heading_path: Vec<String>,
    /// First byte of the passage in the document's text.
    pub(super) start: usize,
    /// One past its last byte.
    pub(super) end: usize,
    /// The passage.
    pub(super) text: String,
    /// How well it fits; comparable only within one result.
    pub(super) score: f64,
}

/// What to ask.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "schemars")]
pub(super) struct AskInput {
    /// The collection to answer from. `list` names those there are.
    pub(super) collection: String,
    /// The question.
    pub(super) question: String,
    /// How much to read: `auto` (chosen by expected quality, cost and time), `passages`, `tree`, `documents` or `full`.
    #[serde(default)]
    pub(super) route: Option<String>,
    /// Answer only from documents whose metadata satisfies this, such as `language = 'en'`.
    #[serde(default)]
    pub(super) filter: Option<String>,
    /// Most tokens of the answer.
    #[serde(default)]
    pub(super) max_output_tokens: Option<usize>,
    /// Id of a conversation to go on with, from `POST /v1/conversations`.
    #[serde(default)]
    pub(super) conversation: Option<String>,
}

/// An answer, with what supports it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(crate = "schemars")]
pub(super) struct AskOutput {
    /// The answer. Markers such as `[1]` are the numbers of citations.
    pub(super) answer: String,
    /// Whether the documents do not hold the answer.
    pub(super) unanswerable: bool,
    /// The quotes that support it, checked against the documents.
    pub(super) citations: Vec<Quote>,
    /// How much was read.
    pub(super) route: String,
    /// What it cost, in US dollars.
    pub(super) cost: String,
    /// Tokens of the prompt.
    pub(super) input_tokens: u64,
    /// Of these, tokens that were read from the cache.
    pub(super) cached_tokens: u64,
    /// Tokens of the answer.
    pub(super) output_tokens: u64,
    /// What else should be known, one sentence each.
    pub(super) notes: Vec<String>,
}

/// A quote from a document.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(crate = "schemars")]
pub(super) struct Quote {
    /// Number by which the answer cites its source.
    pub(super) n: u64,
    /// Id of the document, for `read`.
    pub(super) document: String,
    /// Name of the document.
    pub(super) uri: String,
    /// Its title.
    pub(super) title: String,
    /// The words of the document.
    pub(super) quote: String,
    /// First byte of the quote in the document's text.
    pub(super) start: usize,
    /// One past its last byte.
    pub(super) end: usize,
}

/// What to list.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "schemars")]
pub(super) struct ListInput {
    /// List the documents of this collection; the collections if absent.
    #[serde(default)]
    pub(super) collection: Option<String>,
    /// List only documents whose metadata satisfies this.
    #[serde(default)]
    pub(super) filter: Option<String>,
    /// Most to return, 1 to 1000; 100 if absent.
    #[serde(default)]
    pub(super) limit: Option<usize>,
    /// Where to go on: `next` of the result before.
    #[serde(default)]
    pub(super) cursor: Option<String>,
}

/// A part of a list: either collections or documents.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(crate = "schemars")]
pub(super) struct ListOutput {
    /// The collections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) collections: Option<Vec<ListedCollection>>,
    /// The documents.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) documents: Option<Vec<ListedDocument>>,
    /// Where the list goes on, if it does: the `cursor` of the next call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<String>,
}

/// A collection.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(crate = "schemars")]
pub(super) struct ListedCollection {
    /// Its name.
    pub(super) name: String,
    /// How many documents it has.
    pub(super) documents: u64,
    /// How many tokens all of them have together.
    pub(super) tokens: u64,
}

/// A document.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(crate = "schemars")]
pub(super) struct ListedDocument {
    /// Its id, for `read`.
    pub(super) document: String,
    /// Its name.
    pub(super) uri: String,
    /// Its title.
    pub(super) title: String,
    /// How many tokens it has.
    pub(super) tokens: u64,
}

/// What to read.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(crate = "schemars")]
pub(super) struct ReadInput {
    /// The collection.
    pub(super) collection: String,
    /// Id of the document, `d_` and 32 hexadecimal digits, as `search`, `ask` and `list` give it.
    pub(super) document: String,
    /// First byte to read; the beginning if absent.
    #[serde(default)]
    pub(super) start: Option<usize>,
    /// One past the last byte to read; as much as fits if absent.
    #[serde(default)]
    pub(super) end: Option<usize>,
}

/// A part of a document's text.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(crate = "schemars")]
pub(super) struct ReadOutput {
    /// Id of the document.
    pub(super) document: String,
    /// Its name.
    pub(super) uri: String,
    /// Its title.
    pub(super) title: String,
    /// The text.
    pub(super) text: String,
    /// Its first byte in the document.
    pub(super) start: usize,
    /// One past its last byte.
    pub(super) end: usize,
    /// Bytes of the whole document.
    pub(super) total: usize,
    /// Where to read on, if there is more: `start` of the next call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) next_start: Option<usize>,
}
