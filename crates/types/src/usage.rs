//! What a request used.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Tokens of one request. The four input classes are disjoint; their sum is the prompt length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Usage {
    /// Prompt tokens that were prefilled and not kept.
    pub input_tokens: usize,
    /// Prompt tokens whose keys and values were already resident.
    pub cache_read_tokens: usize,
    /// Prompt tokens prefilled and retained for five minutes.
    pub cache_write_5m_tokens: usize,
    /// Prompt tokens prefilled and retained for one hour.
    pub cache_write_1h_tokens: usize,
    /// Tokens generated.
    pub output_tokens: usize,
}

impl Usage {
    /// Length of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.input_tokens + self.cache_read_tokens + self.cache_write_5m_tokens + self.cache_write_1h_tokens
    }

    /// The tokens of two requests together, class by class.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            input_tokens: self.input_tokens + other.input_tokens,
            cache_read_tokens: self.cache_read_tokens + other.cache_read_tokens,
            cache_write_5m_tokens: self.cache_write_5m_tokens + other.cache_write_5m_tokens,
            cache_write_1h_tokens: self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
        }
    }
}

/// Where the time of one request went, in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Timings {
    /// Embedding the question.
    pub embed_ms: f64,
    /// Lexical search.
    pub lexical_ms: f64,
    /// Vector search.
    pub vector_ms: f64,
    /// Fusing the arms and loading the hits.
    pub fuse_ms: f64,
    /// Pricing routes and composing the prompt.
    pub plan_ms: f64,
    /// Waiting for the engine.
    pub queue_ms: f64,
    /// From admission to the first token's logits.
    pub prefill_ms: f64,
    /// From the first to the last token.
    pub decode_ms: f64,
    /// Checking and aligning citations.
    pub cite_ms: f64,
    /// From the call to the first token.
    pub ttft_ms: f64,
    /// All of it.
    pub total_ms: f64,
}
