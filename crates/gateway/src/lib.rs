//! HTTP: the native API, streaming, metrics, OpenAPI and the dashboard pages.
//!
//! A request passes [`middleware`] and an [`extract`]or, becomes a call of the planner or of a collection on a blocking
//! thread, and comes back as JSON, as server-sent events, or as an [`ApiError`].
//!
//! Invariants:
//! - Every response that is not a success has the body [`ErrorBody`], whoever made it.
//! - A client that goes away cancels its answer, prefill included as far as the planner looks at its sink.
//! - Every route of the API is in `/openapi.json`.
//!
//! Deliberately not here: choosing routes, touching indexes, loading models, and naming an engine: all tests of this
//! crate run on scripted models.

mod answering;
mod batch;
mod budget;
mod budgets;
mod cache;
mod caller;
mod collections;
mod connection;
mod conversations;
mod describe;
mod detail;
mod dialect;
mod documents;
mod error;
mod etag;
mod events;
mod extract;
mod feedback;
mod figures;
mod gauges;
mod health;
mod idempotency;
mod incoming;
mod jobs;
mod keys;
mod limits;
pub mod mcp;
mod middleware;
mod objects;
mod openapi;
mod page;
mod pages;
mod permissions;
mod published;
mod quality;
mod query;
mod reading;
mod record;
mod requests;
mod serve;
mod session;
mod sse;
mod state;
mod store;
mod tenants;
mod tied;
mod tls;
mod tree;
mod upkeep;
mod usage;
mod whose;

pub use batch::{BatchFailure, BatchProgress, BatchRequest};
pub use budgets::BudgetList;
pub use cache::{CachedPrefix, PrefixList, PrefixTtl, WarmReport, WarmRequest};
pub use collections::{CollectionList, CollectionSearchRequest, CreateCollectionRequest, DamagedCollection};
pub use conversations::{Conversation, ConversationDetail, ConversationList, ConversationRequest, ConversationTurn};
pub use detail::{RequestDetail, Stage};
pub use documents::{DocumentList, DocumentUpload};
pub use error::{ApiError, ErrorBody, ErrorDetail, ErrorKind};
pub use events::MissedEvents;
pub use feedback::{FeedbackForgotten, FeedbackRequest, FeedbackStored, check_rating, learned};
pub use health::{Health, Readiness};
pub use jobs::JobList;
pub use openapi::{operator_router, router};
pub use published::{SharedPrefix, SharedPrefixList, SharedPrefixRequest};
pub use quality::{KeptEvaluation, QUALITY_FOLDER, QualityReport, keep_evaluation};
pub use query::{ExplainRequest, QueryRequest, RouteChoice};
pub use reading::ReadingReport;
pub use record::{Failure, Recorder, Whose};
pub use requests::RequestView;
pub use serve::{GatewayError, Listening, bind, serve};
pub use session::{SessionInfo, SessionRequest};
pub use sse::{SourcesEvent, TokenEvent, UsageEvent};
pub use state::{AppState, GatewayOptions, Lifecycle, Parts, Phase, ServerInfo};
pub use tls::Tls;
pub use tree::{CollectionTreeSearchRequest, TreeBuildRequest, Trees};
pub use usage::{PredictionReport, UsageReport};
