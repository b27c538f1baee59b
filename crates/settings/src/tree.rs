//! The section `[tree]`: summary trees. What each key means is written in `config/edgewise.toml`.

use serde::{Deserialize, Serialize};

use edgewise_types::Money;

use crate::values::parse_amount;

/// Who writes summaries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Summariser {
    /// Sentences of the documents, word for word.
    #[default]
    Extractive,
    /// The generator.
    Abstractive,
}

/// Summary trees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// Who writes summaries.
    pub summariser: Summariser,
    /// Whether a tree is brought up to date after each ingest.
    pub auto: bool,
    /// Longest summary, in the embedder's tokens.
    pub summary_tokens: usize,
    /// Most calls of the generator in one build; 0 is no limit.
    pub max_calls: usize,
    /// Most tokens of the generator in one build, read and written; 0 is no limit.
    pub max_tokens: usize,
    /// Most one build may cost, in dollars; empty is no limit. See [`Tree::max_cost`].
    pub max_cost: String,
    /// Longest one build may take, in seconds; 0 is no limit.
    pub max_seconds: u64,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            summariser: Summariser::Extractive,
            auto: false,
            summary_tokens: 130,
            max_calls: 0,
            max_tokens: 0,
            max_cost: String::new(),
            max_seconds: 0,
        }
    }
}

impl Tree {
    /// Most one build may cost, if that is limited.
    pub fn max_cost(&self) -> Option<Money> {
        parse_amount(&self.max_cost)
    }
}
