//! Shared prefixes: system texts that the operator published. What the cache holds of a chat up to the point where it
//! stops being a published one may be read by all tenants; everything behind it is the tenant's alone.
//!
//! The public tokens of a prompt are those at its beginning that are, token for token, those of a published prefix. They
//! say nothing of the tenant by construction, whatever it sent.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use edgewise_access::{AccessStore, PublishedPrefix};
use edgewise_model_api::{ChatMessage, Generator, ModelError, Role};

use crate::{ApiError, ErrorBody, caller::Caller, extract::ApiJson, state::AppState};

/// What is published, as tokens. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Published(Arc<Mutex<Option<Encoded>>>);

#[derive(Clone)]
struct Encoded {
    of: Arc<Vec<PublishedPrefix>>,
    tokens: Arc<Vec<Vec<u32>>>,
}

/// The tokens of a prompt that begins with `text` as its system message, up to the end of the text.
fn encode(generator: &dyn Generator, text: &str) -> Result<Vec<u32>, ModelError> {
    let mut encoded = generator.encode_chat(&[ChatMessage::text(Role::System, text)])?;
    let end = encoded.parts.first().map_or(0, |(_, range)| range.end);
    encoded.tokens.truncate(end);
    Ok(encoded.tokens)
}

impl Published {
    fn tokens(&self, store: &AccessStore, generator: &dyn Generator) -> Result<Arc<Vec<Vec<u32>>>, ModelError> {
        let published = store.published();
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(encoded) =
            known.as_ref().filter(|encoded| Arc::ptr_eq(&encoded.of, &published) || encoded.of == published)
        {
            return Ok(Arc::clone(&encoded.tokens));
        }
        let tokens = published.iter().map(|prefix| encode(generator, &prefix.text)).collect::<Result<Vec<_>, _>>()?;
        let tokens = Arc::new(tokens);
        *known = Some(Encoded { of: published, tokens: Arc::clone(&tokens) });
        Ok(tokens)
    }

    /// How many leading tokens of `prompt` are those of a published prefix.
    pub(crate) fn public_tokens(
        &self,
        store: &AccessStore,
        generator: &dyn Generator,
        prompt: &[u32],
    ) -> Result<usize, ModelError> {
        let common = |prefix: &Vec<u32>| prefix.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        Ok(self.tokens(store, generator)?.iter().map(common).max().unwrap_or(0))
    }
}

/// A text to publish.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SharedPrefixRequest {
    /// The text, as it stands at the beginning of a system message.
    pub text: String,
}

/// A published text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedPrefix {
    /// Its name.
    pub name: String,
    /// The text.
    pub text: String,
    /// Its length in the generator's tokens, with those of the chat template before it.
    pub tokens: usize,
    /// When it was published, or last changed.
    #[schema(value_type = String, format = DateTime)]
    pub published_at: Timestamp,
}

/// What is published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedPrefixList {
    /// In order of name.
    pub prefixes: Vec<SharedPrefix>,
}

fn told(generator: &dyn Generator, prefix: &PublishedPrefix) -> Result<SharedPrefix, ApiError> {
    let PublishedPrefix { name, text, published_at } = prefix.clone();
    let tokens = encode(generator, &text)?.len();
    Ok(SharedPrefix { name, text, tokens, published_at })
}

/// List the shared prefixes: system texts whose cached keys and values all tenants may read.
#[utoipa::path(
    get,
    path = "/v1/shared-prefixes",
    tag = "server",
    responses(
        (status = 200, description = "What is published", body = SharedPrefixList),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn list(State(state): State<AppState>) -> Result<Json<SharedPrefixList>, ApiError> {
    let published = state.keys().store().published();
    state
        .read(move |parts| {
            let generator = parts.planner.generator();
            let prefixes = published.iter().map(|prefix| told(generator.as_ref(), prefix)).collect::<Result<_, _>>()?;
            Ok(Json(SharedPrefixList { prefixes }))
        })
        .await
}

/// Publish a shared prefix, for the operator. Chats with the bare engine whose system message begins with the text share
/// its cached keys and values across tenants; what they send behind it they never share.
#[utoipa::path(
    put,
    path = "/v1/shared-prefixes/{name}",
    tag = "server",
    params(("name" = String, Path, description = "What it is called, by the rules of collections' names")),
    request_body = SharedPrefixRequest,
    responses(
        (status = 200, description = "Published", body = SharedPrefix),
        (status = 400, description = "Malformed name or text, or too many", body = ErrorBody),
        (status = 403, description = "For the operator", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn publish(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
    ApiJson(request): ApiJson<SharedPrefixRequest>,
) -> Result<Json<SharedPrefix>, ApiError> {
    caller.require_operator()?;
    let keys = state.keys().clone();
    state
        .read(move |parts| {
            let prefix = keys.store().publish(&name, &request.text, &caller.actor(), Timestamp::now())?;
            Ok(Json(told(parts.planner.generator().as_ref(), &prefix)?))
        })
        .await
}

/// Withdraw a shared prefix, for the operator. Prompts that begin with its text are computed anew for each tenant.
#[utoipa::path(
    delete,
    path = "/v1/shared-prefixes/{name}",
    tag = "server",
    params(("name" = String, Path, description = "What it is called")),
    responses(
        (status = 204, description = "Withdrawn"),
        (status = 403, description = "For the operator", body = ErrorBody),
        (status = 404, description = "Nothing is published under this name", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn withdraw(
    State(state): State<AppState>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.require_operator()?;
    let keys = state.keys().clone();
    state
        .read(move |_| {
            keys.store().withdraw(&name, &caller.actor(), Timestamp::now())?;
            Ok(StatusCode::NO_CONTENT)
        })
        .await
}
