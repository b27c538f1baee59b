//! Entity tags and conditional requests (RFC 9110, sections 8.8.3 and 13).
//!
//! A tag is a hash of the representation, so it changes whenever anything in it does. `If-None-Match` spares a client what
//! it has; `If-Match` on a change refuses it when somebody else was faster. Between the comparison and the change nothing
//! else may write through this server: see [`Order`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};
use utoipa::IntoParams;

use edgewise_types::{CollectionName, TenantId};

use crate::{ApiError, ErrorKind};

/// Of a change that is made only to what the client has seen.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header in the OpenAPI document; it is read from the headers themselves")]
pub(crate) struct IfMatch {
    /// Entity tags, one of which it must have; `*` is any. Else 412.
    #[param(rename = "If-Match", required = false, example = "\"0123456789abcdef0123456789abcdef\"")]
    if_match: Option<String>,
}

/// Of a look at what the client may have already, or of a change that must not replace anything.
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header in the OpenAPI document; it is read from the headers themselves")]
pub(crate) struct IfNoneMatch {
    /// Entity tags, none of which it must have; `*` is any. Else 304, and 412 for a change.
    #[param(rename = "If-None-Match", required = false, example = "\"0123456789abcdef0123456789abcdef\"")]
    if_none_match: Option<String>,
}

/// A strong entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tag(String);

impl Tag {
    /// The tag of a body.
    pub(crate) fn of(body: &[u8]) -> Self {
        let hash = blake3::hash(body).to_hex();
        Self(format!("\"{}\"", &hash[..32]))
    }

    /// The tag of what is sent as JSON.
    pub(crate) fn of_json<T: Serialize>(value: &T) -> Result<Self, ApiError> {
        serde_json::to_vec(value).map(|body| Self::of(&body)).map_err(|error| ApiError::internal(error.to_string()))
    }

    /// Whether a header lists this tag, or anything. Weak tags count only where `weak` says so.
    fn is_in(&self, headers: &HeaderMap, name: &header::HeaderName, weak: bool) -> bool {
        headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).any(
            |tag| {
                let tag = tag.trim();
                let tag = if weak { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
                tag == "*" || tag == self.0
            },
        )
    }

    fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }

    /// `response` with this tag, or 304 where the client has it already.
    pub(crate) fn respond(&self, headers: &HeaderMap, response: impl IntoResponse) -> Response {
        let mut response = match self.is_in(headers, &header::IF_NONE_MATCH, true) {
            true => StatusCode::NOT_MODIFIED.into_response(),
            false => response.into_response(),
        };
        let sent = response.headers_mut();
        if let Some(tag) = self.header() {
            sent.insert(header::ETAG, tag);
        }
        // To be kept by the client alone, and asked for again each time.
        sent.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        response
    }
}

/// `value` as JSON with its tag, or 304 where the client has it already.
pub(crate) fn json<T: Serialize>(headers: &HeaderMap, value: &T) -> Result<Response, ApiError> {
    let tag = Tag::of_json(value)?;
    Ok(tag.respond(headers, Json(value)))
}

/// Whether a change depends on what is there.
pub(crate) fn conditional(headers: &HeaderMap) -> bool {
    headers.contains_key(header::IF_MATCH) || headers.contains_key(header::IF_NONE_MATCH)
}

/// Refuses a change whose conditions do not hold for what is there now.
pub(crate) fn check(headers: &HeaderMap, now: Option<&Tag>) -> Result<(), ApiError> {
    let refused = |message: &str, hint: &str| Err(ApiError::new(ErrorKind::PreconditionFailed, message).hint(hint));
    if headers.contains_key(header::IF_MATCH) && !now.is_some_and(|tag| tag.is_in(headers, &header::IF_MATCH, false)) {
        return refused(
            "it is not what If-Match names: somebody changed it, or it is gone",
            "get it again, and send its new ETag if the change is still wanted",
        );
    }
    if headers.contains_key(header::IF_NONE_MATCH)
        && now.is_some_and(|tag| tag.is_in(headers, &header::IF_NONE_MATCH, true))
    {
        return refused("it is there already, which If-None-Match forbids", "leave the header out to replace it");
    }
    Ok(())
}

/// Who may write to a collection: any number of unconditional changes at once, or one conditional one. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Order(Arc<Mutex<HashMap<Key, Arc<RwLock<()>>>>>);

/// A collection of a tenant.
type Key = (TenantId, CollectionName);

/// Held while a change is made.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Beside others.
    Shared { _guard: OwnedRwLockReadGuard<()> },
    /// Alone.
    Alone { _guard: OwnedRwLockWriteGuard<()> },
}

impl Order {
    fn lock(&self, tenant: &TenantId, name: &CollectionName) -> Arc<RwLock<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Collections come and go: locks that nobody holds are made again when they are needed.
        if locks.len() >= 1024 {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(locks.entry((tenant.clone(), name.clone())).or_default())
    }

    /// Waits until a change of the collection, conditional if its headers say so, may be made.
    pub(crate) async fn turn(&self, tenant: &TenantId, name: &CollectionName, headers: &HeaderMap) -> Turn {
        let lock = self.lock(tenant, name);
        match conditional(headers) {
            true => Turn::Alone { _guard: lock.write_owned().await },
            false => Turn::Shared { _guard: lock.read_owned().await },
        }
    }

    /// The same for a thread that may block, and an unconditional change.
    pub(crate) fn turn_blocking<T>(&self, tenant: &TenantId, name: &CollectionName, act: impl FnOnce() -> T) -> T {
        let lock = self.lock(tenant, name);
        let _guard = lock.blocking_read();
        act()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        [(header::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn a_client_is_spared_what_it_has() {
        let tag = Tag::of(b"x");
        let status = |value: &str| tag.respond(&headers("if-none-match", value), "body").status();
        assert_eq!(status(&tag.0), StatusCode::NOT_MODIFIED);
        assert_eq!(status(&format!("\"a\", W/{}", tag.0)), StatusCode::NOT_MODIFIED);
        assert_eq!(status("*"), StatusCode::NOT_MODIFIED);
        assert_eq!(status("\"a\""), StatusCode::OK);
        let response = tag.respond(&HeaderMap::new(), "body");
        assert_eq!(response.headers()[header::ETAG].to_str().unwrap(), tag.0);
        assert_ne!(Tag::of(b"y"), tag);
    }

    #[test]
    fn a_change_is_made_only_to_what_was_seen() {
        let tag = Tag::of(b"x");
        let allowed = |name, value: &str, now: Option<&Tag>| check(&headers(name, value), now).is_ok();
        assert!(allowed("if-match", &tag.0, Some(&tag)));
        assert!(allowed("if-match", "*", Some(&tag)));
        assert!(!allowed("if-match", "*", None), "there is nothing");
        assert!(!allowed("if-match", "\"a\"", Some(&tag)));
        assert!(!allowed("if-match", &format!("W/{}", tag.0), Some(&tag)), "a weak tag does not identify bytes");
        assert!(allowed("if-none-match", "*", None));
        assert!(!allowed("if-none-match", "*", Some(&tag)));
        assert!(check(&HeaderMap::new(), None).is_ok());
    }

    #[tokio::test]
    async fn a_conditional_change_is_alone() {
        let order = Order::default();
        let (tenant, guide, other) = (TenantId::local(), "guide".parse().unwrap(), "other".parse().unwrap());
        let conditional = headers("if-match", "*");
        let first = order.turn(&tenant, &guide, &HeaderMap::new()).await;
        let second = order.turn(&tenant, &guide, &HeaderMap::new()).await;
        let waiting = order.turn(&tenant, &guide, &conditional);
        tokio::pin!(waiting);
        let soon = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(soon, waiting.as_mut()).await.is_err());
        assert!(tokio::time::timeout(soon, order.turn(&tenant, &other, &conditional)).await.is_ok());
        drop((first, second));
        assert!(matches!(waiting.await, Turn::Alone { .. }));
    }
}
