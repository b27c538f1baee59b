//! Machines to simulate: how long they take, and what they hold.

use edgewise_model_api::LatencyCurve;
use edgewise_planner::PlannerOptions;

/// A machine with a model on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// What it is.
    pub name: String,
    /// Most tokens of prompt and answer together.
    pub window: usize,
    /// How long prefill and decode take.
    pub curve: LatencyCurve,
    /// Tokens whose keys and values it holds.
    pub cache_tokens: usize,
    /// Tokens of a page.
    pub page_tokens: usize,
    /// Prompts and prefixes of fewer tokens are not kept.
    pub min_prefix_tokens: usize,
    /// Share of the pages that retained prefixes may hold safe from eviction.
    pub retained_share: f64,
    /// How the planner is set up for such a model.
    pub planner: PlannerOptions,
}

impl Machine {
    /// A model of 8 billion parameters (32 layers, 8 key-value heads of 128, 16 bits: 128 KiB a token) on one H100.
    /// Prefill rates of 31.8, 23.7 and 11.3 thousand tokens a second at 8, 32 and 128 thousand tokens, as PyTorch reaches
    /// with such a model, give 0.028 ms a token and 4.6e-7 ms a pair of positions. A decode step reads 16 GB of weights
    /// and each token's keys and values at about 2 TB/s. Of 80 GB, 40 are left for keys and values.
    pub fn gpu() -> Self {
        Self {
            name: "8B on one H100".to_owned(),
            window: 131_072,
            curve: LatencyCurve { a: 5.0, b: 0.028, c: 4.6e-7, d: 8.0, e: 6.5e-5 },
            cache_tokens: 320_000,
            page_tokens: 32,
            min_prefix_tokens: 64,
            retained_share: 0.5,
            planner: PlannerOptions { documents_budget_tokens: 16_384, ..PlannerOptions::default() },
        }
    }

    /// SmolLM2 (135 million parameters) on two cores: 1,097 tokens a second at 512 tokens and 853 at 2,048 give 0.83 ms
    /// a token and 1.7e-4 ms a pair of positions. One GiB of keys and values holds 46 thousand tokens.
    pub fn cpu() -> Self {
        Self {
            name: "SmolLM2 135M on two CPU cores".to_owned(),
            window: 8192,
            curve: LatencyCurve { a: 5.0, b: 0.83, c: 1.7e-4, d: 14.0, e: 1.5e-3 },
            cache_tokens: 46_000,
            page_tokens: 32,
            min_prefix_tokens: 64,
            retained_share: 0.5,
            planner: PlannerOptions::default(),
        }
    }
}
