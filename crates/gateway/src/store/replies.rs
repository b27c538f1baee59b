//! Replies to requests with an idempotency key.

use std::time::Duration;

use edgewise_types::TenantId;
use rusqlite::{OptionalExtension, params};

use super::{Store, StoreError, micros};

/// How long a reply is kept.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// What a request asked for, hashed.
pub(crate) type Fingerprint = [u8; 32];

/// A reply as it was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) fingerprint: Fingerprint,
    /// Id of the request it answered.
    pub(crate) request: String,
    pub(crate) status: u16,
    /// Names and values.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

fn cutoff(now: jiff::Timestamp) -> i64 {
    micros(now).saturating_sub(i64::try_from(KEPT_FOR.as_micros()).unwrap_or(i64::MAX))
}

impl Store {
    /// The reply that was given to the request with this key, if that was less than [`KEPT_FOR`] ago.
    pub(crate) fn reply(&self, tenant: &TenantId, key: &str, now: jiff::Timestamp) -> Result<Option<Kept>, StoreError> {
        let row = self.with(|connection| {
            let sql = "SELECT fingerprint, request, status, headers, body FROM replies
                       WHERE tenant = ?1 AND key = ?2 AND at > ?3";
            connection
                .query_row(sql, params![&*tenant.0, key, cutoff(now)], |row| {
                    let fingerprint: Fingerprint = row.get(0)?;
                    let (request, status, headers): (String, u16, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
                    Ok((fingerprint, request, status, headers, row.get::<_, Vec<u8>>(4)?))
                })
                .optional()
        })?;
        let Some((fingerprint, request, status, headers, body)) = row else { return Ok(None) };
        let headers = serde_json::from_str(&headers).map_err(|error| self.damaged(error))?;
        Ok(Some(Kept { fingerprint, request, status, headers, body }))
    }

    /// Keeps a reply, in place of one that is too old to count, and forgets all that are.
    pub(crate) fn keep_reply(
        &self,
        tenant: &TenantId,
        key: &str,
        reply: &Kept,
        now: jiff::Timestamp,
    ) -> Result<(), StoreError> {
        let headers = serde_json::to_string(&reply.headers).map_err(|error| self.damaged(error))?;
        self.with(|connection| {
            let change = connection.transaction()?;
            change.execute("DELETE FROM replies WHERE at <= ?1", params![cutoff(now)])?;
            change.execute(
                "INSERT OR REPLACE INTO replies (tenant, key, fingerprint, request, status, headers, body, at)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
                params![
                    &*tenant.0,
                    key,
                    reply.fingerprint,
                    reply.request,
                    reply.status,
                    headers,
                    reply.body,
                    micros(now)
                ],
            )?;
            change.commit()
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_kept_for_a_day_and_for_its_tenant() {
        let folder = tempfile::tempdir().unwrap();
        let (me, other) = (TenantId("a".into()), TenantId("b".into()));
        let reply = Kept {
            fingerprint: [7; 32],
            request: "r1".to_owned(),
            status: 201,
            headers: vec![("location".to_owned(), "/x".to_owned())],
            body: b"{\"a\":1}".to_vec(),
        };
        let now = jiff::Timestamp::from_second(1_000_000).unwrap();
        Store::of(folder.path()).keep_reply(&me, "k", &reply, now).unwrap();
        let store = Store::of(folder.path());
        let later = |seconds: i64| jiff::Timestamp::from_second(1_000_000 + seconds).unwrap();
        assert_eq!(store.reply(&me, "k", later(86_399)).unwrap(), Some(reply.clone()));
        assert_eq!(store.reply(&other, "k", now).unwrap(), None);
        assert_eq!(store.reply(&me, "k", later(86_400)).unwrap(), None);
        store.keep_reply(&other, "k2", &reply, later(86_400)).unwrap();
        assert_eq!(store.reply(&me, "k", now).unwrap(), None, "it was swept");
    }
}
