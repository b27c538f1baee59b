//! Errors as clients see them.
//!
//! Every failure of a lower layer is given its [`ErrorKind`] once, here; the kind alone decides status, log level and
//! whether the message is shown. The body is always `{"error": {"type", "message", "hint"}}`, also for unknown paths,
//! rejected bodies and panics. Causes of [`ErrorKind::Internal`] are logged and never sent: they may name files.
//!
//! Deliberately not here: [`crate::GatewayError`], which is what starting and running the server can fail with.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_access::AccessError;
use edgewise_model_api::ModelError;
use edgewise_planner::PlannerError;
use edgewise_retrieval::RetrievalError;
use edgewise_types::IdError;

/// What went wrong, for programs. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The body is not the JSON, or the form, that this path takes.
    MalformedRequest,
    /// A value is out of range or contradicts another.
    InvalidRequest,
    /// A collection name or document id is not well-formed.
    InvalidName,
    /// There is no key, or it does not work.
    Unauthorized,
    /// The key may not do this.
    Forbidden,
    /// The request comes from a page of another site.
    CrossOrigin,
    /// No such path.
    UnknownPath,
    /// No such collection.
    UnknownCollection,
    /// No model of this name is served.
    UnknownModel,
    /// No such document.
    UnknownDocument,
    /// The engine keeps no such prefix.
    UnknownPrefix,
    /// No answered request has this id.
    UnknownRequest,
    /// No job has this id.
    UnknownJob,
    /// No conversation has this id.
    UnknownConversation,
    /// The summary tree has no such node.
    UnknownNode,
    /// The path does not take this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// Another process writes to the collection, it was made with another embedder, its name is taken, or the same is being
    /// done already.
    Conflict,
    /// What is there is not what `If-Match` or `If-None-Match` ask for.
    PreconditionFailed,
    /// The idempotency key was used for another request.
    IdempotencyMismatch,
    /// The body is larger than the server accepts.
    TooLarge,
    /// The body is of a media type that this path does not take.
    UnsupportedMediaType,
    /// The `Host` header names a host that this server does not answer for.
    UnknownHost,
    /// No route can answer within the budget or the model's window.
    DoesNotFit,
    /// The collection holds nothing to answer from.
    EmptyCollection,
    /// Too much work is queued already.
    Overloaded,
    /// A budget of money is spent; see Retry-After for when it begins anew.
    BudgetExhausted,
    /// There is no budget of this name.
    UnknownBudget,
    /// The key has used what it may use for now.
    LimitReached,
    /// A failure inside the server.
    Internal,
    /// The server is loading or shutting down.
    Unavailable,
    /// The answer took longer than the server allows.
    Timeout,
    /// The disk is full.
    DiskFull,
}

impl ErrorKind {
    /// Every kind, for documentation and tests.
    pub const ALL: [ErrorKind; 33] = [
        Self::MalformedRequest,
        Self::InvalidRequest,
        Self::InvalidName,
        Self::Unauthorized,
        Self::Forbidden,
        Self::CrossOrigin,
        Self::UnknownPath,
        Self::UnknownCollection,
        Self::UnknownModel,
        Self::UnknownDocument,
        Self::UnknownPrefix,
        Self::UnknownRequest,
        Self::UnknownJob,
        Self::UnknownConversation,
        Self::UnknownNode,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::PreconditionFailed,
        Self::IdempotencyMismatch,
        Self::TooLarge,
        Self::UnsupportedMediaType,
        Self::UnknownHost,
        Self::DoesNotFit,
        Self::EmptyCollection,
        Self::Overloaded,
        Self::BudgetExhausted,
        Self::UnknownBudget,
        Self::LimitReached,
        Self::Internal,
        Self::Unavailable,
        Self::Timeout,
        Self::DiskFull,
    ];

    /// The status it is sent with.
    pub fn status(self) -> StatusCode {
        match self {
            Self::MalformedRequest | Self::InvalidRequest | Self::InvalidName => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::CrossOrigin | Self::Forbidden => StatusCode::FORBIDDEN,
            Self::UnknownPath
            | Self::UnknownCollection
            | Self::UnknownModel
            | Self::UnknownDocument
            | Self::UnknownPrefix
            | Self::UnknownRequest
            | Self::UnknownJob
            | Self::UnknownBudget
            | Self::UnknownConversation
            | Self::UnknownNode => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::DoesNotFit | Self::EmptyCollection | Self::IdempotencyMismatch => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Overloaded | Self::BudgetExhausted | Self::LimitReached => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
        }
    }

    /// How loudly it is logged: what the caller got wrong is of interest to the caller only; what the operator must
    /// act on is a warning; what we got wrong is an error.
    pub fn level(self) -> tracing::Level {
        match self {
            Self::Internal => tracing::Level::ERROR,
            Self::Overloaded
            | Self::BudgetExhausted
            | Self::DiskFull
            | Self::Timeout
            | Self::Conflict
            | Self::CrossOrigin
            | Self::UnknownHost => tracing::Level::WARN,
            Self::Unavailable => tracing::Level::INFO,
            _ => tracing::Level::DEBUG,
        }
    }

    /// Its name in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MalformedRequest => "malformed_request",
            Self::InvalidRequest => "invalid_request",
            Self::InvalidName => "invalid_name",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::CrossOrigin => "cross_origin",
            Self::UnknownPath => "unknown_path",
            Self::UnknownCollection => "unknown_collection",
            Self::UnknownModel => "unknown_model",
            Self::UnknownDocument => "unknown_document",
            Self::UnknownPrefix => "unknown_prefix",
            Self::UnknownRequest => "unknown_request",
            Self::UnknownJob => "unknown_job",
            Self::UnknownConversation => "unknown_conversation",
            Self::UnknownNode => "unknown_node",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::RequestTimeout => "request_timeout",
            Self::Conflict => "conflict",
            Self::PreconditionFailed => "precondition_failed",
            Self::IdempotencyMismatch => "idempotency_mismatch",
            Self::TooLarge => "too_large",
            Self::UnsupportedMediaType => "unsupported_media_type",
            Self::UnknownHost => "unknown_host",
            Self::DoesNotFit => "does_not_fit",
            Self::EmptyCollection => "empty_collection",
            Self::Overloaded => "overloaded",
            Self::BudgetExhausted => "budget_exhausted",
            Self::UnknownBudget => "unknown_budget",
            Self::LimitReached => "limit_reached",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::DiskFull => "disk_full",
        }
    }
}

/// Body of every response that is not a success, and data of the `error` event of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The failure.
    pub error: ErrorDetail,
}

/// A failure: its kind for programs, a sentence for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    /// What went wrong.
    #[serde(rename = "type")]
    pub kind: ErrorKind,
    /// What went wrong, in one sentence.
    pub message: String,
    /// What to do about it, when the message does not say so already.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    retry_after: Option<Duration>,
    /// What is logged in place of the message; set where the message hides the cause.
    cause: Option<String>,
}

/// The error a response was made of; found in the response's extensions, so that it can be logged once, with the
/// request it belongs to.
#[derive(Debug, Clone)]
pub(crate) struct Failed(pub(crate) ApiError);

impl ApiError {
    /// A failure of this kind with a sentence for people.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, retry_after: None, cause: None }
    }

    /// A failure inside the server. `cause` is logged and not sent.
    pub fn internal(cause: impl Into<String>) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(ErrorKind::Internal, "the server failed to do this")
                .hint("look the x-request-id of this response up in the server's log")
        }
    }

    /// Too much is queued; come back after `wait`.
    pub fn overloaded(message: impl Into<String>, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..Self::new(ErrorKind::Overloaded, message) }
    }

    /// The server goes down.
    pub fn shutting_down() -> Self {
        Self::new(ErrorKind::Unavailable, "the server is shutting down")
            .hint("send the request again once it is back")
            .retry_after(Duration::from_secs(5))
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a `Retry-After` header.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// When to come back, if that is known.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The body to send.
    pub fn body(&self) -> ErrorBody {
        ErrorBody { error: ErrorDetail { kind: self.kind, message: self.message.clone(), hint: self.hint.clone() } }
    }

    /// Writes the failure to the log, at the level of its kind.
    pub(crate) fn log(&self) {
        let kind = self.kind.as_str();
        let cause = self.cause.as_deref().unwrap_or(&self.message);
        match self.kind.level() {
            tracing::Level::ERROR => tracing::error!(kind, cause, "request failed"),
            tracing::Level::WARN => tracing::warn!(kind, cause, "request failed"),
            tracing::Level::INFO => tracing::info!(kind, cause, "request failed"),
            _ => tracing::debug!(kind, cause, "request refused"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.kind.status(), Json(self.body())).into_response();
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs().max(1);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == ErrorKind::Unauthorized {
            // RFC 9110, 11.6.1: a 401 says how to authenticate.
            let scheme = HeaderValue::from_static("Bearer realm=\"edgewise\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
        }
        response.extensions_mut().insert(Failed(self));
        response
    }
}

impl From<IdError> for ApiError {
    fn from(error: IdError) -> Self {
        Self::new(ErrorKind::InvalidName, error.to_string())
    }
}

impl From<AccessError> for ApiError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Invalid(message) => Self::new(ErrorKind::InvalidRequest, message),
            AccessError::UnknownPrefix { .. } => Self::new(ErrorKind::UnknownPrefix, error.to_string())
                .hint("GET /v1/shared-prefixes lists what is published"),
            AccessError::DiskFull => Self::new(ErrorKind::DiskFull, error.to_string()),
            _ => Self::internal(error.to_string()),
        }
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        match &error {
            ModelError::WindowExceeded { .. } => Self::new(ErrorKind::DoesNotFit, error.to_string()),
            ModelError::InvalidSampling(_) | ModelError::InvalidConstraint(_) => {
                Self::new(ErrorKind::InvalidRequest, error.to_string())
            }
            ModelError::Overloaded { retry_after_s } => {
                Self::overloaded(error.to_string(), Duration::from_secs(*retry_after_s))
            }
            ModelError::Stopped(_) => Self {
                cause: Some(error.to_string()),
                ..Self::new(ErrorKind::Unavailable, "the engine is not running")
                    .hint("start the server again if it does not come back by itself")
            },
            ModelError::Load { .. }
            | ModelError::Tokenizer(_)
            | ModelError::ChatTemplate(_)
            | ModelError::Internal(_) => Self::internal(error.to_string()),
        }
    }
}

impl From<RetrievalError> for ApiError {
    fn from(error: RetrievalError) -> Self {
        let message = error.to_string();
        match error {
            RetrievalError::UnknownCollection { name, known } => {
                let error = Self::new(ErrorKind::UnknownCollection, format!("there is no collection `{name}`"));
                match known.as_slice() {
                    [] => error.hint("none exists yet: create one with POST /v1/collections"),
                    known => {
                        let names: Vec<&str> = known.iter().map(|name| name.as_str()).collect();
                        error.hint(format!("existing collections: {}", names.join(", ")))
                    }
                }
            }
            RetrievalError::UnknownDocument { collection, document } => {
                Self::new(ErrorKind::UnknownDocument, format!("collection `{collection}` has no document `{document}`"))
                    .hint(format!("GET /v1/collections/{collection}/documents lists what there is"))
            }
            RetrievalError::Locked { .. }
            | RetrievalError::EmbedderMismatch { .. }
            | RetrievalError::NotCovered { .. }
            | RetrievalError::RebuildIncomplete { .. }
            | RetrievalError::CollectionExists { .. } => Self::new(ErrorKind::Conflict, message),
            RetrievalError::TreeBusy { .. } => Self::new(ErrorKind::Conflict, message)
                .hint("GET /v1/jobs shows it; POST /v1/jobs/{job}/cancel ends it"),
            RetrievalError::UnknownTreeNode { collection, node } => Self::new(
                ErrorKind::UnknownNode,
                format!("the summary tree of collection `{collection}` has no node `{node}` that is current"),
            )
            .hint(format!("GET /v1/collections/{collection}/tree shows the nodes there are")),
            RetrievalError::Tree { .. } => Self {
                cause: Some(message),
                ..Self::new(ErrorKind::Internal, "the summary tree can't be completed; what was made so far is kept")
                    .hint("build it again; if it fails again, the server's log says why")
            },
            // The server's own failures, but ones its user can do something about; the finding may name files.
            RetrievalError::CatalogDamaged { collection, .. } => Self {
                cause: Some(message),
                ..Self::new(ErrorKind::Internal, format!("the catalog of collection `{collection}` is damaged"))
                    .hint("import an export of it, or delete the collection and upload its documents again")
            },
            RetrievalError::ManifestDamaged { collection, .. } => Self {
                cause: Some(message),
                ..Self::new(ErrorKind::Internal, format!("the manifest of collection `{collection}` is damaged"))
                    .hint(format!("POST /v1/collections/{collection}/repair mends it"))
            },
            RetrievalError::EmptyQuery
            | RetrievalError::InvalidRequest(_)
            | RetrievalError::Filter(_)
            | RetrievalError::Discover(_) => Self::new(ErrorKind::InvalidRequest, message),
            RetrievalError::DiskFull { .. } => Self::new(ErrorKind::DiskFull, message),
            RetrievalError::Cancelled => Self::shutting_down(),
            RetrievalError::Model(error) => error.into(),
            RetrievalError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::StorageFull => Self {
                cause: Some(message),
                ..Self::new(ErrorKind::DiskFull, "no space left on the disk of the server")
                    .hint("free some and send the request again; what was committed is kept")
            },
            // Files and indexes; and, as the type is non-exhaustive, what is added later stays private until it is
            // mapped here.
            _ => Self::internal(message),
        }
    }
}

impl From<PlannerError> for ApiError {
    fn from(error: PlannerError) -> Self {
        let message = error.to_string();
        match error {
            PlannerError::EmptyQuestion | PlannerError::InvalidQuery(_) => {
                Self::new(ErrorKind::InvalidRequest, message)
            }
            PlannerError::EmptyScope { collection } => Self::new(
                ErrorKind::EmptyCollection,
                format!("collection `{collection}` holds no documents to answer from"),
            )
            .hint(format!("upload some with POST /v1/collections/{collection}/documents")),
            PlannerError::NothingMatches { collection, .. } => Self::new(ErrorKind::EmptyCollection, message)
                .hint(format!("GET /v1/collections/{collection}/documents shows the metadata there is")),
            PlannerError::QuestionTooLong { .. }
            | PlannerError::DoesNotFit { .. }
            | PlannerError::BudgetTooSmall { .. }
            | PlannerError::PromptOverBudget { .. } => Self::new(ErrorKind::DoesNotFit, message),
            // The gateway is the caller: it stops a planner only for a client that is gone, or because it goes down.
            PlannerError::Cancelled => Self::shutting_down(),
            PlannerError::Retrieval(error) => error.into(),
            PlannerError::Model(error) => error.into(),
            // Options and templates; and, as the type is non-exhaustive, what is added later stays private until it is
            // mapped here.
            _ => Self::internal(message),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{collections::HashSet, path::PathBuf};

    use super::*;

    #[test]
    fn every_kind_has_its_own_name_and_an_error_status() {
        let names: HashSet<&str> = ErrorKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(names.len(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert!(kind.status().is_client_error() || kind.status().is_server_error(), "{kind:?}");
            let loud = kind.level() == tracing::Level::ERROR;
            assert_eq!(loud, kind == ErrorKind::Internal, "only our own failures are errors: {kind:?}");
        }
    }

    #[test]
    fn failures_of_the_disk_and_of_locks_keep_their_meaning() {
        let io = |kind: std::io::ErrorKind| RetrievalError::Io {
            what: "cannot write",
            path: PathBuf::from("/data/secret"),
            source: kind.into(),
        };
        let collection: edgewise_types::CollectionName = "guide".parse().unwrap();
        for (error, kind) in [
            (RetrievalError::DiskFull { collection: collection.clone() }, ErrorKind::DiskFull),
            (io(std::io::ErrorKind::StorageFull), ErrorKind::DiskFull),
            (io(std::io::ErrorKind::PermissionDenied), ErrorKind::Internal),
            (RetrievalError::Locked { collection, pid: Some(7) }, ErrorKind::Conflict),
            (ModelError::Stopped("worker died".to_owned()).into(), ErrorKind::Unavailable),
        ] {
            let error = ApiError::from(error);
            assert_eq!(error.kind(), kind);
            let body = serde_json::to_string(&error.body()).unwrap();
            assert!(!body.contains("secret"), "paths of the server stay in its log: {body}");
        }
    }

    #[test]
    fn an_overloaded_server_says_when_to_come_back() {
        let response = ApiError::from(ModelError::Overloaded { retry_after_s: 0 }).into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(response.headers()[header::RETRY_AFTER], "1", "zero would be asked again at once");
    }
}
