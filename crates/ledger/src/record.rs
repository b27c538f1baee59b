//! One record: plain data.

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
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Answered, Self::Unanswerable, Self::Cancelled, Self::Failed];

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
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }
}

/// What the work was for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// A question to a collection, or a chat with the bare engine.
    #[default]
    Answer,
    /// Summaries of a summary tree.
    Summary,
    /// Vectors of passages that were ingested, or of texts that a client sent.
    Embedding,
    /// Beginnings of prompts that were computed ahead.
    Warming,
}

impl Work {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Answer, Self::Summary, Self::Embedding, Self::Warming];

    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::Summary => "summary",
            Self::Embedding => "embedding",
            Self::Warming => "warming",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|work| work.as_str() == name)
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

/// A route that was priced for a request, whether it was taken or not.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PricedRoute {
    /// The route.
    pub route: String,
    /// Whether it fitted every limit.
    pub feasible: bool,
    /// Length of its prompt in tokens.
    pub prompt_tokens: usize,
    /// How many of them were resident.
    pub resident_tokens: usize,
    /// What it would have cost, with the tokens that the answer really had.
    pub cost: Money,
    /// Predicted time to the last token, in milliseconds.
    pub latency_ms: f64,
    /// Expected quality, 0 to 1.
    pub quality: f64,
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
    /// Public id of the key it came with; absent without keys.
    #[serde(default)]
    pub key: Option<String>,
    /// The collection asked; absent for a chat with the bare engine.
    #[serde(default)]
    pub collection: Option<CollectionName>,
    /// What the work was for.
    #[serde(default)]
    pub work: Work,
    /// Registry name of the model that answered.
    pub model: String,
    /// Hash of the prompt templates.
    pub template_hash: String,
    /// Route taken.
    pub route: String,
    /// The route that was taken before it, if the sources of that one seemed not to hold the answer.
    #[serde(default)]
    pub escalated_from: Option<String>,
    /// Whether the caller asked for this route.
    pub forced: bool,
    /// How it ended.
    pub status: RequestStatus,
    /// Tokens used.
    pub usage: Usage,
    /// Why not more of the prompt was resident, by name; absent where all that can be was, or where it is not known.
    #[serde(default)]
    pub miss: Option<String>,
    /// What it cost, at the prices of its time.
    pub cost: Money,
    /// What reading the whole scope would have cost, where that could be priced.
    pub full_cost: Option<Money>,
    /// Every route that was priced, the first choice first; empty where nothing was to choose.
    #[serde(default)]
    pub candidates: Vec<PricedRoute>,
    /// What was predicted.
    pub predicted: Prediction,
    /// Where the time went.
    pub timings: Timings,
    /// Length of the question in characters.
    pub question_chars: usize,
}

impl RequestRecord {
    /// A record of something that has begun and used nothing yet.
    pub fn begun(id: String, at: jiff::Timestamp, tenant: TenantId, model: &str, route: &str) -> Self {
        Self {
            id,
            at,
            tenant,
            key: None,
            collection: None,
            work: Work::Answer,
            model: model.to_owned(),
            template_hash: String::new(),
            route: route.to_owned(),
            escalated_from: None,
            forced: false,
            status: RequestStatus::Answered,
            usage: Usage::default(),
            miss: None,
            cost: Money::ZERO,
            full_cost: None,
            candidates: Vec::new(),
            predicted: Prediction::default(),
            timings: Timings::default(),
            question_chars: 0,
        }
    }

    /// Tokens of its prompt that were not resident and had to be computed.
    pub fn missed_tokens(&self) -> usize {
        self.usage.prompt_tokens() - self.usage.cache_read_tokens
    }
}
