//! Sessions of the pages: a browser signs in with a key and gets a random token for twelve hours, so that the key itself is
//! neither kept in the browser nor sent with every request. A session ends with its key.

use rusqlite::params;
use serde_json::json;

use edgewise_types::TenantId;

use crate::{
    AccessError, AccessStore, KeyId,
    audit::{self, Action, AuditEvent},
    key::Digest,
};

/// How long a session lasts.
pub const SESSION_TIME: std::time::Duration = std::time::Duration::from_secs(12 * 3600);

/// Sessions kept at most; the one that ends first goes first.
const MOST: i64 = 10_000;

/// Of 62 letters and digits: a little more than 256 bits.
const CHARS: usize = 43;

const CONTEXT: &str = "edgewise access 2026-11 digest of the token of a browser session";

/// What a browser keeps. Not to be logged.
pub type SessionToken = String;

pub(crate) fn digest(token: &str) -> Digest {
    blake3::derive_key(CONTEXT, token.as_bytes())
}

impl AccessStore {
    /// A session of the key `key`, which was verified just before.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn sign_in(
        &self,
        key: &KeyId,
        tenant: &TenantId,
        actor: &str,
        now: jiff::Timestamp,
    ) -> Result<SessionToken, AccessError> {
        use rand::distr::{Alphanumeric, SampleString};
        let token = Alphanumeric.sample_string(&mut rand::rng(), CHARS);
        let life = i64::try_from(SESSION_TIME.as_micros()).unwrap_or(i64::MAX);
        {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM sessions WHERE expires_us <= ?1", [now.as_microsecond()])?;
            transaction.execute(
                "DELETE FROM sessions WHERE digest IN \
                 (SELECT digest FROM sessions ORDER BY expires_us DESC LIMIT -1 OFFSET ?1)",
                [MOST - 1],
            )?;
            transaction.execute(
                "INSERT INTO sessions VALUES (?1, ?2, ?3)",
                params![digest(&token), key.as_str(), now.as_microsecond().saturating_add(life)],
            )?;
            let event = AuditEvent {
                actor: actor.to_owned(),
                action: Action::SignedIn,
                key: Some(key.clone()),
                tenant: Some(tenant.clone()),
                detail: json!({}),
            };
            audit::write(&transaction, now, &event, 1)?;
            transaction.commit()?;
        }
        self.reload()?;
        Ok(token)
    }

    /// Ends a session; whether there was one.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn sign_out(&self, token: &str, actor: &str, now: jiff::Timestamp) -> Result<bool, AccessError> {
        let digest = digest(token);
        let Some(key) = self.known().sessions.get(&digest).map(|session| session.key.clone()) else { return Ok(false) };
        {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            transaction.execute("DELETE FROM sessions WHERE digest = ?1", [digest])?;
            let event = AuditEvent {
                actor: actor.to_owned(),
                action: Action::SignedOut,
                key: Some(key),
                tenant: None,
                detail: json!({}),
            };
            audit::write(&transaction, now, &event, 1)?;
            transaction.commit()?;
        }
        self.reload()?;
        Ok(true)
    }
}
