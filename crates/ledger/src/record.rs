//! Records and their sums: plain data.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_types::{CollectionName, Money, TenantId, Timings, Usage};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RequestStatus {
    /// Answered.
    Answered,
    /// The model said that the sources do not hold the answer.
    Unanswerable,
    /// The caller went away. The tokens are those used until then.
    Cancelled,
    /// It failed. The tokens are those used until then.
    Failed,
}

impl RequestStatus {
    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Unanswerable => "unanswerable",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        [Self::Answered, Self::Unanswerable, Self::Cancelled, Self::Failed].into_iter().find(|s| s.as_str() == name)
    }
}

/// What was predicted before the request ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Prediction {
    /// Cost.
    pub cost: Money,
    /// Time to the first token, in milliseconds.
    pub ttft_ms: f64,
    /// Time to the last token, in milliseconds.
    pub latency_ms: f64,
    /// Tokens by class; absent in records of earlier versions.
    #[serde(default)]
    pub usage: Option<Usage>,
}

/// One request. Holds no text of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestRecord {
    /// Id, unique in the ledger.
    pub id: String,
    /// When it came in; kept to the microsecond.
    #[schema(value_type = String, format = DateTime)]
    pub at: jiff::Timestamp,
    /// Who asked.
    pub tenant: TenantId,
    /// The collection asked; absent for a chat with the bare engine.
    #[serde(default)]
    pub collection: Option<CollectionName>,
    /// Registry name of the model that answered.
    pub model: String,
    /// Hash of the prompt templates.
    pub template_hash: String,
    /// Route taken.
    pub route: String,
    /// Whether the caller asked for this route.
    pub forced: bool,
    /// How it ended.
    pub status: RequestStatus,
    /// Tokens used.
    pub usage: Usage,
    /// What they cost.
    pub cost: Money,
    /// What reading the whole scope would have cost, where that could be priced.
    pub full_cost: Option<Money>,
    /// What was predicted.
    pub predicted: Prediction,
    /// Where the time went.
    pub timings: Timings,
    /// Length of the question in characters.
    pub question_chars: usize,
}

/// Sums over records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Sums {
    /// Number of records.
    pub requests: usize,
    /// Tokens used.
    pub usage: Usage,
    /// What they cost.
    pub cost: Money,
    /// What reading the whole scope each time would have cost more, over the records where that is known. Negative if
    /// it would have cost less.
    pub saved_against_full: Money,
}

/// What records are grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// Route taken.
    Route,
    /// Tenant.
    Tenant,
    /// Collection.
    Collection,
    /// Model.
    Model,
    /// How requests ended.
    Status,
}

/// The sum over all records, and over those of each route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Totals {
    /// Over all records.
    #[serde(flatten)]
    pub all: Sums,
    /// By route, in order of name.
    pub by_route: std::collections::BTreeMap<String, Sums>,
}
