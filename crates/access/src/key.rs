//! Keys: `ewk_<id>_<secret>`. The id is public and names the key in lists, logs and records; the secret is what its
//! holder proves.

use std::{fmt, str::FromStr, sync::Arc};

use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use edgewise_types::{CollectionName, Money, TenantId};

use crate::{AccessError, Scopes};

const PREFIX: &str = "ewk_";
const ID_CHARS: usize = 12;
/// Of 62 letters and digits: 43 × log2(62) is a little more than 256 bits.
const SECRET_CHARS: usize = 43;
/// Longest name of a key, in characters.
const MOST_NAME: usize = 100;

/// What BLAKE3 derives the stored digests for; another use of BLAKE3 on the same bytes gives other digests.
const KEY_CONTEXT: &str = "edgewise access 2026-11 digest of the secret of an api key";

/// BLAKE3 of a secret.
pub(crate) type Digest = [u8; blake3::OUT_LEN];

/// The public part of a key, such as `ewk_7h2k9q0v4m1x`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(Arc<str>);

impl KeyId {
    /// A new one at random.
    fn new() -> Self {
        let id: String = Alphanumeric.sample_string(&mut rand::rng(), ID_CHARS).to_ascii_lowercase();
        Self(format!("{PREFIX}{id}").into())
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for KeyId {
    type Err = AccessError;

    fn from_str(text: &str) -> Result<Self, AccessError> {
        let id = text
            .strip_prefix(PREFIX)
            .filter(|id| id.len() == ID_CHARS && id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
        match id {
            Some(_) => Ok(Self(text.into())),
            None => Err(AccessError::Invalid(format!(
                "this is not the id of a key: expected {PREFIX} and {ID_CHARS} lower-case letters and digits"
            ))),
        }
    }
}

impl TryFrom<String> for KeyId {
    type Error = AccessError;

    fn try_from(text: String) -> Result<Self, AccessError> {
        text.parse()
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.0.to_string()
    }
}

/// A tenant's name: what a collection's name may be, so that it can name a folder too.
///
/// # Errors
/// [`AccessError::Invalid`].
pub fn tenant_name(text: &str) -> Result<TenantId, AccessError> {
    match text.parse::<CollectionName>() {
        Ok(_) => Ok(TenantId(text.into())),
        Err(_) => Err(AccessError::Invalid(format!(
            "`{text}` is not a valid name of a tenant: use 1 to 63 lower-case letters, digits, `-`, `_` or `.`, starting \
             with a letter or digit"
        ))),
    }
}

/// What a key may use at most. Absent ones do not limit. Money over time is limited by budgets, which the ledger keeps.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Requests a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u32>,
    /// Requests at once; a stream counts until it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrent_requests: Option<u32>,
    /// Tokens read and written in a day (UTC). The request that passes it is answered, later ones are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
    /// Longest prompt of a request, in tokens. This and the next two are checked before any prefill: the prompt is
    /// narrowed to stay under them, or refused with what would fit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_input_tokens: Option<u64>,
    /// Most a request may cost, in dollars.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cost: Option<Money>,
    /// Longest predicted time of a request to the last token, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_latency_ms: Option<u64>,
}

impl Limits {
    /// Whether one of them lets nothing through.
    fn shuts_out(&self) -> bool {
        let Self {
            requests_per_minute,
            concurrent_requests,
            tokens_per_day,
            max_input_tokens,
            max_cost,
            max_latency_ms,
        } = *self;
        let counts = [tokens_per_day, max_input_tokens, max_latency_ms];
        [requests_per_minute, concurrent_requests].contains(&Some(0))
            || counts.contains(&Some(0))
            || max_cost.is_some_and(|most| most <= Money::ZERO)
    }
}

/// A key to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewKey {
    /// What its maker calls it.
    pub name: String,
    /// Whose collections, caches and records it reaches.
    pub tenant: TenantId,
    /// What it may do.
    pub scopes: Scopes,
    /// When it ends by itself.
    pub expires_at: Option<jiff::Timestamp>,
    /// What it may use.
    pub limits: Limits,
}

impl NewKey {
    pub(crate) fn check(&self, now: jiff::Timestamp) -> Result<(), AccessError> {
        let wrong = |what: &str| Err(AccessError::Invalid(what.to_owned()));
        tenant_name(&self.tenant.0)?;
        if self.name.chars().count() > MOST_NAME || self.name.chars().any(char::is_control) {
            return wrong("a key's name has at most 100 characters and no control characters");
        }
        if self.scopes.is_empty() {
            return wrong("a key without a scope can do nothing: give it query, ingest or admin");
        }
        if self.expires_at.is_some_and(|at| at <= now) {
            return wrong("the key would have expired already: give a time in the future");
        }
        if self.limits.shuts_out() {
            return wrong("a limit of 0 lets nothing through: leave it out, or revoke the key");
        }
        Ok(())
    }
}

/// Whether a key works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// Somebody ended it.
    Revoked,
}

impl KeyState {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

/// What is known of a key: everything but its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    /// Its public part.
    pub id: KeyId,
    /// What its maker calls it.
    pub name: String,
    /// Whose collections, caches and records it reaches.
    pub tenant: TenantId,
    /// What it may do.
    pub scopes: Scopes,
    /// What it may use.
    pub limits: Limits,
    /// When it was made.
    pub created_at: jiff::Timestamp,
    /// When it ends by itself.
    pub expires_at: Option<jiff::Timestamp>,
    /// When it was revoked.
    pub revoked_at: Option<jiff::Timestamp>,
    /// When it was last used, to the minute or so.
    pub last_used_at: Option<jiff::Timestamp>,
}

impl KeyRecord {
    /// Whether it works at `now`.
    pub fn state(&self, now: jiff::Timestamp) -> KeyState {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(at)) if at <= now => KeyState::Expired,
            _ => KeyState::Active,
        }
    }
}

/// A new key, the only time its secret is there.
#[derive(Clone)]
pub struct CreatedKey {
    /// What is known of it from now on.
    pub record: KeyRecord,
    /// The whole key: `ewk_<id>_<secret>`.
    pub key: String,
}

impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedKey").field("record", &self.record).finish_non_exhaustive()
    }
}

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is not of the form of a key.
    Malformed,
    /// There is no such key, or its secret is another.
    Unknown,
    /// Its secret is right, and its time is over.
    Expired(KeyId),
    /// Its secret is right, and somebody ended it.
    Revoked(KeyId),
}

impl Refused {
    /// Its name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired(_) => "expired",
            Self::Revoked(_) => "revoked",
        }
    }
}

/// A new id, the whole key, and the digest to store.
pub(crate) fn generate() -> (KeyId, String, Digest) {
    let id = KeyId::new();
    let secret = Alphanumeric.sample_string(&mut rand::rng(), SECRET_CHARS);
    let digest = digest(&id, &secret);
    let key = format!("{id}_{secret}");
    (id, key, digest)
}

/// Id and secret of a whole key.
pub(crate) fn split(key: &str) -> Option<(KeyId, &str)> {
    let (id, secret) = key.rsplit_once('_')?;
    let plain = secret.len() == SECRET_CHARS && secret.bytes().all(|b| b.is_ascii_alphanumeric());
    if plain { Some((id.parse().ok()?, secret)) } else { None }
}

/// What is stored of a secret. The id goes in too, so that a digest fits its own row only.
pub(crate) fn digest(id: &KeyId, secret: &str) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
    hasher.update(id.as_str().as_bytes());
    hasher.update(b"_");
    hasher.update(secret.as_bytes());
    *hasher.finalize().as_bytes()
}

/// Whether two digests are equal, in a time that does not depend on where they differ.
pub(crate) fn same(a: &Digest, b: &Digest) -> bool {
    bool::from(a.as_slice().ct_eq(b.as_slice()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_apart_as_it_was_made() {
        let (id, key, stored) = generate();
        let (found, secret) = split(&key).unwrap();
        assert_eq!(found, id);
        assert!(same(&digest(&found, secret), &stored));
        let (other, _, _) = generate();
        assert!(!same(&digest(&other, secret), &stored), "a digest belongs to one id");
        for bad in ["", "ewk_", "ewk_abc_def", &key[..key.len() - 1], &format!("{key}x"), &key.replace("ewk", "xyz")] {
            assert_eq!(split(bad), None, "{bad}");
        }
    }

    #[test]
    fn tenants_can_name_folders() {
        assert_eq!(tenant_name("acme-2").unwrap(), TenantId("acme-2".into()));
        for bad in ["", "..", "a/b", "A", "_x"] {
            assert!(tenant_name(bad).is_err(), "{bad}");
        }
    }
}
