//! The audit log: who made and revoked keys, who was refused, what administrators did. Rows are added, never changed; the
//! oldest go beyond a number.

use rusqlite::{Connection, params};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use edgewise_types::TenantId;

use crate::{AccessError, AccessStore, KeyId, store::at};

/// Entries that are kept.
const KEPT: i64 = 100_000;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A key was made.
    KeyCreated,
    /// A key was revoked.
    KeyRevoked,
    /// Somebody signed in to the pages.
    SignedIn,
    /// Somebody signed out.
    SignedOut,
    /// A key was refused.
    Refused,
    /// A key was used for what it may not do.
    Forbidden,
    /// A request that needs the scope `admin` changed something.
    Admin,
    /// A shared prefix was published.
    PrefixPublished,
    /// A shared prefix was withdrawn.
    PrefixWithdrawn,
}

impl Action {
    const ALL: [Self; 9] = [
        Self::KeyCreated,
        Self::KeyRevoked,
        Self::SignedIn,
        Self::SignedOut,
        Self::Refused,
        Self::Forbidden,
        Self::Admin,
        Self::PrefixPublished,
        Self::PrefixWithdrawn,
    ];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::KeyCreated => "key_created",
            Self::KeyRevoked => "key_revoked",
            Self::SignedIn => "signed_in",
            Self::SignedOut => "signed_out",
            Self::Refused => "refused",
            Self::Forbidden => "forbidden",
            Self::Admin => "admin",
            Self::PrefixPublished => "prefix_published",
            Self::PrefixWithdrawn => "prefix_withdrawn",
        }
    }
}

/// Something to log.
#[derive(Debug, Clone, PartialEq)]
pub struct AuditEvent {
    /// Who: a key's id, an address, or the user of a command.
    pub actor: String,
    /// What was done.
    pub action: Action,
    /// The key it is about.
    pub key: Option<KeyId>,
    /// The tenant it is about.
    pub tenant: Option<TenantId>,
    /// What else there is to know. Never a secret.
    pub detail: Value,
}

/// An entry of the log.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Its number, increasing.
    pub id: i64,
    /// When; of several that were counted together, the last.
    pub at: jiff::Timestamp,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: Action,
    /// The key it is about.
    pub key: Option<KeyId>,
    /// The tenant it is about.
    pub tenant: Option<TenantId>,
    /// What else there is to know.
    pub detail: Value,
    /// How often: refusals of the same kind within a moment are one entry.
    pub count: u64,
}

/// Writes one entry.
pub(crate) fn write(
    connection: &Connection,
    now: jiff::Timestamp,
    event: &AuditEvent,
    count: u64,
) -> Result<(), AccessError> {
    connection
        .prepare_cached(
            "INSERT INTO audit (at_us, actor, action, key, tenant, detail, count) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            now.as_microsecond(),
            event.actor,
            event.action.as_str(),
            event.key.as_ref().map(KeyId::as_str),
            event.tenant.as_ref().map(|tenant| tenant.0.as_ref()),
            event.detail.to_string(),
            i64::try_from(count).unwrap_or(i64::MAX),
        ])?;
    connection.prepare_cached("DELETE FROM audit WHERE id <= ?1")?.execute([connection.last_insert_rowid() - KEPT])?;
    Ok(())
}

impl AccessStore {
    /// Logs `event`, which happened `count` times.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn audit(&self, now: jiff::Timestamp, event: &AuditEvent, count: u64) -> Result<(), AccessError> {
        write(&self.connection(), now, event, count)
    }

    /// The newest `most` entries, newest first.
    ///
    /// # Errors
    /// If they can't be read.
    pub fn audit_log(&self, most: usize) -> Result<Vec<AuditEntry>, AccessError> {
        let connection = self.connection();
        let mut select = connection.prepare_cached(
            "SELECT id, at_us, actor, action, key, tenant, detail, count FROM audit ORDER BY id DESC LIMIT ?1",
        )?;
        let mut rows = select.query([i64::try_from(most).unwrap_or(i64::MAX)])?;
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let damaged =
                |reason: String| AccessError::Damaged { what: format!("entry {id} of the audit log"), reason };
            let (action, key, tenant): (String, Option<String>, Option<String>) =
                (row.get(3)?, row.get(4)?, row.get(5)?);
            let (detail, count): (String, i64) = (row.get(6)?, row.get(7)?);
            let known = Action::ALL.into_iter().find(|known| known.as_str() == action);
            entries.push(AuditEntry {
                id,
                at: at(row.get(1)?).map_err(damaged)?,
                actor: row.get(2)?,
                action: known.ok_or_else(|| damaged(format!("`{action}` is no action")))?,
                key: key.map(|key| key.parse()).transpose()?,
                tenant: tenant.map(|tenant| TenantId(tenant.into())),
                detail: serde_json::from_str(&detail).map_err(|error| damaged(error.to_string()))?,
                count: u64::try_from(count).unwrap_or(0),
            });
        }
        Ok(entries)
    }
}
