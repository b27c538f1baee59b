//! Texts an operator published as shared prefixes: what the cache holds of a prompt that begins with one may be read by
//! all tenants. What such a text says is the operator's to decide; what stands behind it is always its tenant's alone.

use rusqlite::params;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    AccessError, AccessStore,
    audit::{self, Action, AuditEvent},
    store::at,
};

/// Longest published text, in bytes.
const MOST_BYTES: usize = 1 << 20;
/// Most published texts: each is compared with every prompt.
const MOST: i64 = 32;

/// A system text whose keys and values all tenants may read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublishedPrefix {
    /// What it is called: as the names of collections.
    pub name: String,
    /// The text, as it stands at the beginning of a system message.
    pub text: String,
    /// When it was published, or last changed.
    pub published_at: jiff::Timestamp,
}

impl AccessStore {
    /// Publishes `text` as `name`, in place of what was published so before.
    ///
    /// # Errors
    /// [`AccessError::Invalid`]; if it can't be written.
    pub fn publish(
        &self,
        name: &str,
        text: &str,
        actor: &str,
        now: jiff::Timestamp,
    ) -> Result<PublishedPrefix, AccessError> {
        if name.parse::<edgewise_types::CollectionName>().is_err() {
            return Err(AccessError::Invalid(format!(
                "`{name}` is not a valid name of a shared prefix: use 1 to 63 lower-case letters, digits, `-`, `_` or `.`"
            )));
        }
        if text.trim().is_empty() || text.len() > MOST_BYTES {
            return Err(AccessError::Invalid(format!("a shared prefix has 1 to {MOST_BYTES} bytes of text")));
        }
        {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            let others: i64 =
                transaction.query_row("SELECT count(*) FROM published WHERE name <> ?1", [name], |row| row.get(0))?;
            if others >= MOST {
                return Err(AccessError::Invalid(format!(
                    "{MOST} shared prefixes are published already: withdraw one"
                )));
            }
            transaction.execute(
                "INSERT INTO published VALUES (?1, ?2, ?3) \
                 ON CONFLICT (name) DO UPDATE SET text = excluded.text, published_us = excluded.published_us",
                params![name, text, now.as_microsecond()],
            )?;
            let event = AuditEvent {
                actor: actor.to_owned(),
                action: Action::PrefixPublished,
                key: None,
                tenant: None,
                detail: json!({"name": name, "bytes": text.len()}),
            };
            audit::write(&transaction, now, &event, 1)?;
            transaction.commit()?;
        }
        self.reload()?;
        Ok(PublishedPrefix { name: name.to_owned(), text: text.to_owned(), published_at: now })
    }

    /// Withdraws what is published as `name`.
    ///
    /// # Errors
    /// [`AccessError::UnknownPrefix`]; if it can't be written.
    pub fn withdraw(&self, name: &str, actor: &str, now: jiff::Timestamp) -> Result<(), AccessError> {
        {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            if transaction.execute("DELETE FROM published WHERE name = ?1", [name])? == 0 {
                return Err(AccessError::UnknownPrefix { name: name.to_owned() });
            }
            let event = AuditEvent {
                actor: actor.to_owned(),
                action: Action::PrefixWithdrawn,
                key: None,
                tenant: None,
                detail: json!({"name": name}),
            };
            audit::write(&transaction, now, &event, 1)?;
            transaction.commit()?;
        }
        self.reload()
    }

    /// What is published, in order of name.
    pub fn published(&self) -> std::sync::Arc<Vec<PublishedPrefix>> {
        std::sync::Arc::clone(&self.known().published)
    }
}

/// Reads what is published.
pub(crate) fn read(connection: &rusqlite::Connection) -> Result<Vec<PublishedPrefix>, AccessError> {
    let mut select = connection.prepare_cached("SELECT name, text, published_us FROM published ORDER BY name")?;
    let mut rows = select.query([])?;
    let mut published = Vec::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(0)?;
        let damaged = |reason| AccessError::Damaged { what: format!("shared prefix `{name}`"), reason };
        let published_at = at(row.get(2)?).map_err(damaged)?;
        published.push(PublishedPrefix { text: row.get(1)?, published_at, name });
    }
    Ok(published)
}
