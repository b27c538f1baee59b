//! Who is calling: [`authenticate`] finds it out for every request, handlers take it as [`Caller`].
//!
//! A key comes as `Authorization: Bearer`, as `x-api-key`, or behind the cookie of a session. A server without keys that
//! only this machine's users can reach asks for none: everybody is the operator, and keys that clients send because they
//! must send something are not looked at.
//!
//! Invariant: a handler that takes a [`Caller`] runs only behind [`authenticate`], and only with the scope its path needs
//! ([`crate::permissions`]).

use std::net::SocketAddr;

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde_json::json;

use edgewise_access::{Action, AuditEvent, KeyId, KeyRecord, Limits, Refused, Scope, Scopes};
use edgewise_types::TenantId;
use jiff::Timestamp;

use crate::{
    ApiError, ErrorKind, mcp,
    permissions::{self, Needs},
    session,
    state::AppState,
    tied::tie,
};

/// Who sent a request.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// Whose collections, jobs, conversations, cached prefixes and records it reaches.
    pub(crate) tenant: TenantId,
    /// The key it came with; none on a server without keys.
    pub(crate) key: Option<KeyId>,
    /// What it may do.
    pub(crate) scopes: Scopes,
    /// What it may use.
    pub(crate) limits: Limits,
}

/// Where a connection comes from; an extension of its requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub(crate) SocketAddr);

impl Caller {
    /// Everybody, on a server without keys.
    pub(crate) fn local() -> Self {
        Self { tenant: TenantId::local(), key: None, scopes: Scopes::all(), limits: Limits::default() }
    }

    pub(crate) fn of(record: &KeyRecord) -> Self {
        let KeyRecord { id, tenant, scopes, limits, .. } = record;
        Self { tenant: tenant.clone(), key: Some(id.clone()), scopes: *scopes, limits: *limits }
    }

    /// Refuses callers without `scope`.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), ApiError> {
        if self.scopes.has(scope) {
            return Ok(());
        }
        let message = format!("this key lacks the scope `{scope}`; it has {}", self.scopes);
        Err(ApiError::new(ErrorKind::Forbidden, message)
            .hint(format!("use a key made with `edgewise keys create --scope {scope}`")))
    }

    /// Whether this is the server's operator: an administrator of the tenant `local`, who may see all tenants.
    pub(crate) fn is_operator(&self) -> bool {
        self.tenant == TenantId::local() && self.scopes.has(Scope::Admin)
    }

    /// Refuses everybody but the operator.
    pub(crate) fn require_operator(&self) -> Result<(), ApiError> {
        if self.is_operator() {
            return Ok(());
        }
        Err(ApiError::new(ErrorKind::Forbidden, "this is for the server's operator")
            .hint("use a key of the tenant `local` with the scope admin"))
    }

    /// How it is named in the audit log.
    pub(crate) fn actor(&self) -> String {
        self.key.as_ref().map_or_else(|| "local".to_owned(), KeyId::to_string)
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, ApiError> {
        let caller = parts.extensions.get::<Self>().cloned();
        caller.ok_or_else(|| ApiError::internal("a handler asks for its caller on a path that needs no key"))
    }
}

/// The whole key a request brings, or the token of its session.
pub(crate) enum Credential<'a> {
    Key(&'a str),
    Session(&'a str),
}

fn credential(headers: &HeaderMap) -> Option<Credential<'_>> {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    let bearer = text(header::AUTHORIZATION).map(|value| {
        let (scheme, rest) = value.split_once(' ').unwrap_or(("", value));
        if scheme.eq_ignore_ascii_case("bearer") { rest.trim() } else { "" }
    });
    bearer
        .or_else(|| text(header::HeaderName::from_static("x-api-key")).map(str::trim))
        .map(Credential::Key)
        .or_else(|| session::token(headers).map(Credential::Session))
}

/// The address a request came from, as far as it is known.
pub(crate) fn address(extensions: &axum::http::Extensions) -> String {
    extensions.get::<Peer>().map_or_else(|| "unknown address".to_owned(), |peer| peer.0.ip().to_string())
}

/// What to tell about a key that does not work. Whether there is such a key is told only to who has its secret.
pub(crate) fn refusal(refused: &Refused) -> ApiError {
    let message = match refused {
        Refused::Malformed | Refused::Unknown => "this key is not valid".to_owned(),
        Refused::Expired(id) => format!("the key {id} has expired"),
        Refused::Revoked(id) => format!("the key {id} was revoked"),
    };
    ApiError::new(ErrorKind::Unauthorized, message).hint("ask the server's operator for a key: `edgewise keys create`")
}

fn identify(state: &AppState, request: &Request) -> Result<Caller, ApiError> {
    let keys = state.keys();
    if !keys.needed() {
        return Ok(Caller::local());
    }
    let now = Timestamp::now();
    let verified = match credential(request.headers()) {
        Some(Credential::Key(key)) => keys.store().verify(key, now),
        Some(Credential::Session(token)) => keys.store().verify_session(token, now),
        None => {
            return Err(ApiError::new(ErrorKind::Unauthorized, "this server needs a key").hint(
                "send it as `Authorization: Bearer ewk_…` or `x-api-key: ewk_…`; with a browser, sign in at /sign-in",
            ));
        }
    };
    verified.map(|record| Caller::of(&record)).map_err(|refused| {
        let key = match &refused {
            Refused::Expired(id) | Refused::Revoked(id) => Some(id.clone()),
            Refused::Malformed | Refused::Unknown => None,
        };
        keys.audit(AuditEvent {
            actor: address(request.extensions()),
            action: Action::Refused,
            key,
            tenant: None,
            detail: json!({"reason": refused.as_str()}),
        });
        refusal(&refused)
    })
}

/// Takes every request for the operator's.
pub(crate) async fn as_operator(mut request: Request, next: Next) -> Response {
    request.extensions_mut().insert(Caller::local());
    next.run(request).await
}

/// Finds out who is calling, and refuses who may not.
pub(crate) async fn authenticate(State(state): State<AppState>, mut request: Request, next: Next) -> Response {
    // Paths that don't exist have no pattern; whoever asks for them learns that they don't.
    let Some(path) = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned()) else {
        return next.run(request).await;
    };
    let needs = permissions::of(request.method(), &path);
    if needs == Needs::Nothing {
        return next.run(request).await;
    }
    let caller = match identify(&state, &request) {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    if let Needs::Scope(scope) = needs
        && let Err(error) = caller.require(scope)
    {
        state.keys().audit(AuditEvent {
            actor: address(request.extensions()),
            action: Action::Forbidden,
            key: caller.key.clone(),
            tenant: Some(caller.tenant.clone()),
            detail: json!({"method": request.method().as_str(), "path": path, "scope": scope}),
        });
        return error.into_response();
    }
    // Whatever only reads spends nothing; what asks may.
    let spends = needs == Needs::Scope(Scope::Query) && !request.method().is_safe();
    // What a tool of the Model Context Protocol does comes through here once more, and counts then.
    let place = match path == mcp::PATH {
        true => None,
        false => match state.keys().admit(&caller, spends) {
            Ok(place) => place,
            Err(error) => return error.into_response(),
        },
    };
    let administers = needs == Needs::Scope(Scope::Admin) && !request.method().is_safe();
    let done = administers.then(|| (request.method().clone(), request.uri().path().to_owned()));
    request.extensions_mut().insert(caller.clone());
    let response = next.run(request).await;
    let response = tie(response, state.keys(), &caller, place);
    if let Some((method, path)) = done.filter(|_| response.status().is_success()) {
        state.keys().audit(AuditEvent {
            actor: caller.actor(),
            action: Action::Admin,
            key: caller.key,
            tenant: Some(caller.tenant),
            detail: json!({"method": method.as_str(), "path": path}),
        });
    }
    response
}
