//! Settings of the ledger.

use serde::{Deserialize, Serialize};

/// Records of requests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerSettings {
    /// What an acknowledged record survives.
    pub durability: LedgerDurability,
    /// Days that records are kept; 0 keeps them for good.
    pub keep_days: u32,
    /// Days that sums by minute are kept.
    pub minutes_days: u32,
    /// Whether questions, answers and quotes are kept.
    pub texts: bool,
    /// Days that they, and decisions, are kept.
    pub texts_days: u32,
}

impl Default for LedgerSettings {
    fn default() -> Self {
        Self { durability: LedgerDurability::Process, keep_days: 90, minutes_days: 7, texts: true, texts_days: 7 }
    }
}

/// What an acknowledged record survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LedgerDurability {
    /// The end of the process, however it comes.
    #[default]
    Process,
    /// A power failure too.
    Power,
}
