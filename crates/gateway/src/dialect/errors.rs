//! The bodies of failures in each dialect.
//!
//! Handlers, extractors and middleware fail with [`ApiError`]s; on the paths of a dialect their bodies are rewritten here,
//! so that a client's SDK raises the exception it has for them. Status, `Retry-After` and log stay as they are.

use axum::{
    Json,
    body::Body,
    extract::Request,
    http::header,
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::{ApiError, ErrorKind, error::Failed};

/// Whose form a body has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Anthropic,
    OpenAi,
}

impl Form {
    /// The dialect of a path; `None` for the native API.
    fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/messages" | "/v1/messages/count_tokens" => Some(Self::Anthropic),
            "/v1/chat/completions" | "/v1/embeddings" | "/v1/models" => Some(Self::OpenAi),
            other => other.strip_prefix("/v1/models/").filter(|model| !model.contains('/')).map(|_| Self::OpenAi),
        }
    }

    /// The body of a failure.
    pub(crate) fn body(self, error: &ApiError) -> Value {
        let body = error.body().error;
        let message = match body.hint {
            Some(hint) => format!("{}: {hint}", body.message),
            None => body.message,
        };
        match self {
            // https://docs.anthropic.com/en/api/errors
            Self::Anthropic => {
                json!({"type": "error", "error": {"type": anthropic_type(error.kind()), "message": message}})
            }
            // https://platform.openai.com/docs/guides/error-codes
            Self::OpenAi => json!({"error": {
                "message": message,
                "type": openai_type(error.kind()),
                "param": null,
                "code": openai_code(error.kind()),
            }}),
        }
    }
}

fn anthropic_type(kind: ErrorKind) -> &'static str {
    match kind.status().as_u16() {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 => "overloaded_error",
        504 => "timeout_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

fn openai_type(kind: ErrorKind) -> &'static str {
    match kind.status().as_u16() {
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

fn openai_code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unauthorized => "invalid_api_key",
        ErrorKind::UnknownModel | ErrorKind::UnknownCollection => "model_not_found",
        ErrorKind::DoesNotFit => "context_length_exceeded",
        other => other.as_str(),
    }
}

/// Gives failures on a dialect's path that dialect's body.
pub(crate) async fn rewrite(request: Request, next: Next) -> Response {
    let form = Form::of(request.uri().path());
    let response = next.run(request).await;
    let (Some(form), Some(Failed(error))) = (form, response.extensions().get::<Failed>()) else { return response };
    let body = Json(form.body(error)).into_response().into_body();
    let (mut parts, _): (_, Body) = response.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, body)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_type_in_every_dialect_that_fits_its_status() {
        for kind in ErrorKind::ALL {
            let error = ApiError::new(kind, "message").hint("hint");
            let anthropic = Form::Anthropic.body(&error);
            assert_eq!(anthropic["type"], "error");
            assert_eq!(anthropic["error"]["message"], "message: hint");
            let ours = kind.status().is_server_error();
            let said = anthropic["error"]["type"].as_str().unwrap();
            assert_eq!(["api_error", "overloaded_error", "timeout_error"].contains(&said), ours, "{kind:?} {said}");
            let openai = Form::OpenAi.body(&error);
            assert_eq!(openai["error"]["type"] == "server_error", ours, "{kind:?}");
        }
    }

    #[test]
    fn native_paths_keep_the_native_body() {
        for path in ["/v1/query", "/v1/models/current/reading", "/v1/messages/other", "/v1/collections"] {
            assert_eq!(Form::of(path), None, "{path}");
        }
        assert_eq!(Form::of("/v1/models/edgewise%2Fguide"), Some(Form::OpenAi));
    }
}
