//! Signing in to the pages: `GET`, `POST` and `DELETE /v1/session`.
//!
//! A key becomes a random token in a cookie that scripts can't read (`HttpOnly`) and other sites' pages don't send
//! (`SameSite=Strict`); with TLS it never leaves it (`Secure`).

use axum::{
    Json,
    extract::State,
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use edgewise_access::{Action, AuditEvent, KeyId, Refused, SESSION_TIME, Scope};
use edgewise_types::TenantId;

use crate::{
    ApiError, ErrorBody,
    caller::{Caller, address, refusal},
    extract::ApiJson,
    state::AppState,
};

const COOKIE: &str = "edgewise_session";

/// A key to sign in with.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SessionRequest {
    /// The whole key.
    #[schema(format = Password, example = "ewk_…")]
    pub key: String,
}

/// Who is calling.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SessionInfo {
    /// The tenant.
    pub tenant: TenantId,
    /// The key's id; absent on a server without keys.
    pub key: Option<String>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Whether this is the server's operator, who may see all tenants.
    pub operator: bool,
    /// Whether this server needs keys.
    pub keys_needed: bool,
}

impl SessionInfo {
    fn of(state: &AppState, caller: &Caller) -> Self {
        Self {
            tenant: caller.tenant.clone(),
            key: caller.key.as_ref().map(KeyId::to_string),
            scopes: caller.scopes.iter().collect(),
            operator: caller.is_operator(),
            keys_needed: state.keys().needed(),
        }
    }
}

/// The token of the session a request belongs to.
pub(crate) fn token(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE).map(|(_, value)| value)
}

fn set_cookie(state: &AppState, token: &str, seconds: u64) -> Result<HeaderValue, ApiError> {
    let secure = if state.options().tls { "; Secure" } else { "" };
    let text = format!("{COOKIE}={token}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    HeaderValue::from_str(&text).map_err(|error| ApiError::internal(error.to_string()))
}

/// Who is calling, and what they may do.
#[utoipa::path(
    get,
    path = "/v1/session",
    tag = "session",
    responses(
        (status = 200, description = "Who is calling", body = SessionInfo),
        (status = 401, description = "Nobody this server knows", body = ErrorBody),
    )
)]
pub(crate) async fn whoami(State(state): State<AppState>, caller: Caller) -> Json<SessionInfo> {
    Json(SessionInfo::of(&state, &caller))
}

/// Sign in with a key: sets the cookie `edgewise_session`, which then does for the key for twelve hours.
#[utoipa::path(
    post,
    path = "/v1/session",
    tag = "session",
    request_body = SessionRequest,
    responses(
        (status = 200, description = "Signed in", body = SessionInfo),
        (status = 400, description = "Malformed request", body = ErrorBody),
        (status = 401, description = "The key is not valid", body = ErrorBody),
        (status = 415, description = "Not JSON", body = ErrorBody),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn sign_in(
    State(state): State<AppState>,
    extensions: Extensions,
    ApiJson(request): ApiJson<SessionRequest>,
) -> Result<Response, ApiError> {
    let keys = state.keys().clone();
    if !keys.needed() {
        return Ok(Json(SessionInfo::of(&state, &Caller::local())).into_response());
    }
    let actor = address(&extensions);
    let now = Timestamp::now();
    let record = keys.store().verify(request.key.trim(), now).map_err(|refused| {
        let key = match &refused {
            Refused::Expired(id) | Refused::Revoked(id) => Some(id.clone()),
            Refused::Malformed | Refused::Unknown => None,
        };
        let detail = json!({"reason": refused.as_str(), "path": "/v1/session"});
        keys.audit(AuditEvent { actor: actor.clone(), action: Action::Refused, key, tenant: None, detail });
        refusal(&refused)
    })?;
    let info = SessionInfo::of(&state, &Caller::of(&record));
    let token = state.read(move |_| Ok(keys.store().sign_in(&record.id, &record.tenant, &actor, now)?)).await?;
    let mut response = Json(info).into_response();
    response.headers_mut().insert(header::SET_COOKIE, set_cookie(&state, &token, SESSION_TIME.as_secs())?);
    Ok(response)
}

/// Sign out: ends the session of the cookie. Without one, nothing happens.
#[utoipa::path(
    delete,
    path = "/v1/session",
    tag = "session",
    responses(
        (status = 204, description = "Signed out"),
        (status = 500, description = "Failure inside the server", body = ErrorBody),
    )
)]
pub(crate) async fn sign_out(
    State(state): State<AppState>,
    extensions: Extensions,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    if let Some(token) = token(&headers).map(str::to_owned) {
        let (keys, actor) = (state.keys().clone(), address(&extensions));
        state.read(move |_| Ok(keys.store().sign_out(&token, &actor, Timestamp::now())?)).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    response.headers_mut().insert(header::SET_COOKIE, set_cookie(&state, "", 0)?);
    Ok(response)
}
