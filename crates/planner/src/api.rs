//! Questions, explanations and answers: plain data, serialisable, without behaviour.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_model_api::{FinishReason, MissReason, Retention, Sampling};
use edgewise_retrieval::Filter;
use edgewise_types::{
    CollectionName, DocumentId, Generation, Money, NodeId, PageRange, Span, TenantId, Timings, Usage,
};

use crate::{Ceiling, Escalation, EscalationPlan, Judgement, KindProbabilities, QuestionKind, RouterReading, Turn};

/// How much context a request reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// The top chunks, fused and placed.
    Passages,
    /// Summaries of documents and of the collection, beside the passages they leave out.
    Tree,
    /// The few right documents, whole.
    Documents,
    /// The whole collection or scope, in one fixed order.
    Full,
}

impl Route {
    /// Its name, as serialised.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passages => "passages",
            Self::Tree => "tree",
            Self::Documents => "documents",
            Self::Full => "full",
        }
    }
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `auto` optimises.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// Least cost among the routes that may answer.
    Cheapest,
    /// Quality against cost and latency.
    #[default]
    Balanced,
    /// Best expected quality inside the budget.
    Best,
}

/// Hard limits, checked before any prefill. Absent means the server's own limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Most a request may cost, in dollars.
    pub max_cost: Option<Money>,
    /// Longest prompt in tokens.
    pub max_input_tokens: Option<usize>,
    /// Longest predicted time to the last token, in milliseconds.
    // Declared without a format: `int64` would leave out the larger half of the numbers that are taken.
    #[schema(value_type = Option<usize>)]
    pub max_latency_ms: Option<u64>,
}

/// A question, whatever dialect it came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// The question.
    pub question: String,
    /// Route to take; `None` chooses.
    pub route: Option<Route>,
    /// What the choice optimises.
    pub objective: Objective,
    /// Hard limits.
    pub budget: Budget,
    /// Further limits that hold beside the budget, such as those of an API key. Those of the collection and of the server
    /// the planner knows itself.
    pub ceilings: Vec<Ceiling>,
    /// Passages to place at most; `None` takes the configured number.
    pub top_k: Option<usize>,
    /// Only these documents; `None` is the whole collection.
    pub documents: Option<Vec<DocumentId>>,
    /// Only documents that satisfy this; `None` is all of them.
    pub filter: Option<Filter>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Most tokens of the answer; `None` takes the configured number.
    pub max_output_tokens: Option<usize>,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// Who asks.
    pub tenant: TenantId,
    /// Public id of the key it was asked with, for the record.
    pub key: Option<String>,
    /// Earlier turns of the conversation, oldest first: [`Answer::turn`] of each.
    pub history: Vec<Turn>,
    /// Whether to widen once when the sources seem not to hold the answer. `None` does as configured where the planner
    /// chooses the route, and does not where the caller does.
    pub escalate: Option<bool>,
    /// What to do with the question, in place of the template `instruction`; the system message stays the operator's. To be
    /// the same in every turn of a conversation, whose prompt would otherwise not be continued.
    pub instructions: Option<String>,
}

impl Query {
    /// A question with everything else at its default.
    pub fn new(question: impl Into<String>) -> Self {
        Self {
            question: question.into(),
            route: None,
            objective: Objective::default(),
            budget: Budget::default(),
            ceilings: Vec::new(),
            top_k: None,
            documents: None,
            filter: None,
            sampling: Sampling::default(),
            max_output_tokens: None,
            stop: Vec::new(),
            tenant: TenantId::local(),
            key: None,
            history: Vec::new(),
            escalate: None,
            instructions: None,
        }
    }
}

/// What the choice of a route was based on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Features {
    /// Tokens of the whole scope.
    pub scope_tokens: usize,
    /// Documents in the scope.
    pub scope_documents: usize,
    /// Chunks that came up.
    pub hits: usize,
    /// Cosine of the best hit, 0 without hits.
    pub top_cosine: f32,
    /// BM25 of the best lexical hit, 0 without hits.
    pub top_bm25: f32,
    /// Fused score of the first hit minus that of the second.
    pub gap: f32,
    /// Share of the first ten hits that both arms found.
    pub arm_overlap: f32,
    /// Different documents among the first ten hits.
    pub documents_in_top: usize,
    /// Requests ahead in the engine's queue.
    pub queue_requests: usize,
    /// Prompt tokens ahead in the engine's queue.
    pub queue_tokens: usize,
    /// Cosine of the best hit minus that of the second best, 0 with fewer.
    #[serde(default)]
    pub cosine_gap: f32,
    /// Entropy of the first ten hits' fused scores, 0 (one stands out) to 1 (all alike).
    #[serde(default)]
    pub entropy: f32,
    /// Different sections among the first ten hits.
    #[serde(default)]
    pub sections_in_top: usize,
    /// Share of the scope's tokens that the hits cover, 0 to 1.
    #[serde(default)]
    pub hit_share: f32,
    /// Words of the question that carry what is asked.
    #[serde(default)]
    pub content_words: usize,
    /// Share of them that the first hit's text holds.
    #[serde(default)]
    pub covered_by_first: f32,
    /// Share of them that the texts of the first five hits hold together.
    #[serde(default)]
    pub covered_by_top: f32,
    /// How likely each kind of question is.
    #[serde(default)]
    pub kind: KindProbabilities,
    /// Prompt tokens beyond which the model was measured to read badly; absent without a measurement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective_window: Option<usize>,
    /// What the trained router makes of question and hits; absent where it was not asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub router: Option<RouterReading>,
}

/// One route, priced.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Candidate {
    /// The route.
    pub route: Route,
    /// Earlier turns of the conversation that its prompt continues; 0 starts a prompt afresh.
    #[serde(default)]
    pub turns: usize,
    /// Whether it fits every limit.
    pub feasible: bool,
    /// Exact length of its prompt in tokens; for a route refused before composition, the least it would need.
    pub prompt_tokens: usize,
    /// Prompt tokens resident in the engine's cache now.
    pub resident_tokens: usize,
    /// Output tokens assumed for the prediction.
    pub output_tokens: usize,
    /// Predicted tokens by class; of the prompt they are exact as long as the cache stays as it is.
    #[serde(default)]
    pub usage: Usage,
    /// Predicted cost.
    pub cost: Money,
    /// How many of the next two questions are expected to read this prompt's stable prefix before it expires.
    #[serde(default)]
    pub expected_follow_ups: f64,
    /// Whether the engine is asked to keep its last stable prefix; not where writing it costs more than it is worth.
    #[serde(default = "kept")]
    pub kept: bool,
    /// Score that keeping it adds: what those questions are expected to gain.
    #[serde(default)]
    pub worth_of_keeping: f64,
    /// Predicted time to the first token, in milliseconds, queue included.
    pub ttft_ms: f64,
    /// Predicted total time, in milliseconds.
    pub latency_ms: f64,
    /// Expected quality, 0 to 1, feedback included.
    pub quality: f64,
    /// By how much feedback on earlier answers moved it.
    #[serde(default)]
    pub feedback_shift: f64,
    /// Quality minus weighted cost and latency; what feasible routes are compared by.
    pub score: f64,
    /// Passages placed, or documents for the other routes.
    pub sources: usize,
    /// Why it was chosen, lost or is not feasible, in one sentence.
    pub reason: String,
}

/// Of answers explained before the choice was there.
fn kept() -> bool {
    true
}

/// Something that was left out of the prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Drop {
    /// The document.
    pub document: DocumentId,
    /// Its URI.
    pub uri: String,
    /// The part, if not all of it.
    pub span: Option<Span>,
    /// Why, such as over the token budget or below the score floor.
    pub reason: String,
}

/// What the model said of the question's kind, before the choice.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PreRoute {
    /// The kind it named; absent if its word was none of those asked for.
    pub kind: Option<QuestionKind>,
    /// Probability of the word under the model.
    pub probability: f32,
    /// Tokens used, which the answer's usage includes.
    pub usage: Usage,
    /// What they cost, which the answer's cost includes.
    pub cost: Money,
    /// Time taken, in milliseconds.
    pub ms: f64,
}

/// The whole decision.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The collection.
    pub collection: CollectionName,
    /// Its version.
    pub generation: Generation,
    /// The route taken.
    pub chosen: Route,
    /// The route whose answer seemed not to be in its sources, where this one was taken after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalated_from: Option<Route>,
    /// Whether the caller asked for it.
    pub forced: bool,
    /// What was optimised.
    pub objective: Objective,
    /// The limits that the request set itself.
    #[serde(default)]
    pub budget: Budget,
    /// The tightest limit of each kind, of the request, its key, the collection and the server; empty without any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<crate::LimitInForce>,
    /// What was searched for, where that is not the question: a follow-up that leans on earlier questions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searched: Option<String>,
    /// Measured features.
    pub features: Features,
    /// What the model said of the question's kind; absent unless the pre-route is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_route: Option<PreRoute>,
    /// Every route, the chosen one first.
    pub candidates: Vec<Candidate>,
    /// What the chosen route's prompt leaves out.
    pub dropped: Vec<Drop>,
    /// What the caller should know about how the search was done, one sentence each; normally empty.
    #[serde(default)]
    pub notes: Vec<String>,
    /// The chosen prompt, part by part, with what is resident now. Only where the question is explained and not
    /// answered; an answer has its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub prompt_map: Vec<Segment>,
    /// What happens if the answer seems not to be in the sources. Only where the question is explained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub escalation: Option<EscalationPlan>,
}

/// What a part of the prompt is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SegmentKind {
    /// System prompt.
    System,
    /// What the collection is.
    Preamble,
    /// A passage.
    Passage,
    /// A summary.
    Summary,
    /// A whole document.
    Document,
    /// A passage of a document in the prompt, repeated after all documents, next to the question.
    Excerpt,
    /// Question and instruction.
    Question,
    /// What the model answered earlier in this prompt.
    Answer,
    /// The question and answer before this one, in short, in a prompt that does not continue theirs.
    Recap,
    /// Control tokens of the chat template.
    Template,
}

/// A run of prompt tokens. Every token of a prompt is in exactly one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Segment {
    /// What it is.
    pub kind: SegmentKind,
    /// First token.
    pub start: usize,
    /// One past the last token.
    pub end: usize,
    /// Its length in tokens.
    pub tokens: usize,
    /// How many of its tokens were resident.
    pub cached_tokens: usize,
    /// How long the engine is asked to keep it, by the first stable prefix that ends behind it; absent if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// The turn of the conversation it belongs to, from 1; 0 for what stands before all turns.
    #[serde(default)]
    pub turn: usize,
    /// Number of the source it holds, if any: `n` of [`SourceRef`].
    pub source: Option<usize>,
    /// The source's document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub document: Option<DocumentId>,
    /// The document's URI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// The part of the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub span: Option<Span>,
}

/// What a summary in the prompt is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SourceSummary {
    /// The node of the summary tree.
    pub node: NodeId,
    /// Its level: 1 and more.
    pub level: u32,
    /// How many passages it summarises.
    pub passages: usize,
    /// Of how many documents.
    pub documents: usize,
    /// The first of these documents, in order of URI.
    pub of: Vec<DocumentId>,
}

/// A passage, summary or document in the prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SourceRef {
    /// Its number in the prompt, from 1: what `[1]` refers to.
    pub n: usize,
    /// The document; of a summary of several, the first.
    pub document: DocumentId,
    /// Its URI.
    pub uri: String,
    /// Its title, or that of a summary of several documents.
    pub title: String,
    /// Sections the passage stands in, outermost first; empty for a whole document.
    pub heading_path: Vec<String>,
    /// Where it stands in the normalised text; of a summary, the stretch of the document that it summarises.
    pub span: Span,
    /// Fused retrieval score; absent where nothing was retrieved.
    pub score: Option<f32>,
    /// Rank by retrieval, from 1.
    pub rank: usize,
    /// Retrieved passages in it: more than 1 for a section that took the place of several, 0 for a whole document or a
    /// summary.
    pub passages: usize,
    /// What it summarises, if its text is a summary and stands in no document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<SourceSummary>,
}

/// How a citation came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CitationMethod {
    /// The model wrote the marker, and the source supports the sentence.
    Marker,
    /// Found by aligning the sentence with the sources.
    Aligned,
}

/// A statement of the answer, tied to a place in a document. The quote equals the document's text at the span.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Citation {
    /// Number used in the answer's markers, from 1.
    pub n: usize,
    /// The document.
    pub document: DocumentId,
    /// Its URI.
    pub uri: String,
    /// Its title.
    pub title: String,
    /// Sections the quote stands in, outermost first.
    pub heading_path: Vec<String>,
    /// Pages the quote stands on; absent for formats without pages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pages: Option<PageRange>,
    /// Bytes of the normalised text that are quoted.
    pub span: Span,
    /// The text at the span.
    pub quote: String,
    /// How it came about.
    pub method: CitationMethod,
    /// Support of the sentence by the quote, 0 to 1.
    pub score: f32,
}

/// A sentence of the answer and what supports it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AnswerSentence {
    /// Bytes of the answer text.
    pub span: Span,
    /// Indexes into the answer's citations; empty when nothing supports it.
    pub citations: Vec<usize>,
    /// Whether a source supports it.
    pub supported: bool,
}

/// An answer with everything that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    /// The text, as streamed; markers that cite nothing valid are removed.
    pub text: String,
    /// Whether the model said that the sources do not hold the answer.
    pub unanswerable: bool,
    /// How likely it is that the sources do not hold the answer, whatever the model said: calibrated, 0 to 1.
    pub unanswerable_probability: f64,
    /// What that probability is based on.
    pub judgement: Judgement,
    /// The wider route that was taken after the first answer, if one was; everything else here is then of the second
    /// answer, and usage, cost and times are sums.
    pub escalation: Option<Escalation>,
    /// The text's sentences.
    pub sentences: Vec<AnswerSentence>,
    /// The citations.
    pub citations: Vec<Citation>,
    /// What was in the prompt, in the order of their numbers.
    pub sources: Vec<SourceRef>,
    /// Why this route.
    pub explanation: Explanation,
    /// The prompt, part by part.
    pub prompt_map: Vec<Segment>,
    /// Why generation ended.
    pub finish_reason: FinishReason,
    /// Why not more of the prompt was resident; absent where all that can be was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub miss: Option<MissReason>,
    /// The stop string that came up, where the engine knows which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_sequence: Option<String>,
    /// Model that answered.
    pub model: String,
    /// Tokens used.
    pub usage: Usage,
    /// What it cost.
    pub cost: Money,
    /// Where the time went.
    pub timings: Timings,
    /// What to send back in [`Query::history`] with a follow-up question.
    pub turn: Turn,
}

/// Progress of an answer, in this order: `Plan`, `Sources`, then any number of `Token`. After an escalation, `Escalated`,
/// `Sources` and any number of `Token` follow once more: what was streamed before is superseded. `Waiting` may come at
/// any time after the first `Sources`.
#[derive(Debug, Clone, PartialEq)]
pub enum AnswerEvent {
    /// The route is chosen.
    Plan(Box<Explanation>),
    /// The prompt is composed.
    Sources(Vec<SourceRef>),
    /// Text to append, as the model wrote it.
    Token(String),
    /// The sources seem not to hold the answer: a wider route is taken, and the tokens so far are superseded.
    Escalated(Box<Escalated>),
    /// Nothing new: the engine is queueing, prefilling or decoding. Comes several times a second, so that a caller who
    /// wants to stop need not wait for the next token.
    Waiting,
}

/// A wider route is about to be taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Escalated {
    /// Why, in one sentence.
    pub reason: String,
    /// The second decision.
    pub explanation: Explanation,
    /// Tokens used so far.
    pub usage: Usage,
    /// What they cost.
    pub cost: Money,
}
