//! Conversations and their turns.

use edgewise_types::{CollectionName, TenantId};
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::{Store, StoreError, micros};

/// What a conversation is, without its turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) id: String,
    pub(crate) collection: CollectionName,
    pub(crate) title: Option<String>,
    pub(crate) created: jiff::Timestamp,
    pub(crate) updated: jiff::Timestamp,
    pub(crate) turns: usize,
}

/// A place in the list of conversations: the last one of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) updated: i64,
    pub(crate) id: String,
}

/// A turn as it is kept: its number, from 1, and its record as JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) n: usize,
    pub(crate) record: String,
}

const HEAD: &str = "SELECT id, collection, title, created, updated, turns FROM conversations";

/// A row before its values are checked.
type Raw = (String, String, Option<String>, i64, i64, i64);

fn raw(row: &Row<'_>) -> rusqlite::Result<Raw> {
    Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?))
}

fn stored(row: &Row<'_>) -> rusqlite::Result<(i64, String)> {
    Ok((row.get(0)?, row.get(1)?))
}

impl Store {
    fn head(&self, (id, collection, title, created, updated, turns): Raw) -> Result<Head, StoreError> {
        let time = |at| jiff::Timestamp::from_microsecond(at).map_err(|error| self.damaged(error));
        Ok(Head {
            collection: collection.parse().map_err(|error| self.damaged(error))?,
            title,
            created: time(created)?,
            updated: time(updated)?,
            turns: usize::try_from(turns).map_err(|error| self.damaged(error))?,
            id,
        })
    }

    fn turns_of(&self, rows: Vec<(i64, String)>) -> Result<Vec<Stored>, StoreError> {
        let turn = |(n, record)| Ok(Stored { n: usize::try_from(n).map_err(|error| self.damaged(error))?, record });
        rows.into_iter().map(turn).collect()
    }

    /// Keeps a new conversation.
    pub(crate) fn create_conversation(&self, tenant: &TenantId, head: &Head) -> Result<(), StoreError> {
        self.with(|connection| {
            connection.execute(
                "INSERT INTO conversations (id, tenant, collection, title, created, updated, turns)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
                params![
                    head.id,
                    &*tenant.0,
                    head.collection.as_str(),
                    head.title,
                    micros(head.created),
                    micros(head.updated)
                ],
            )
        })?;
        Ok(())
    }

    /// A conversation of this tenant.
    pub(crate) fn conversation(&self, tenant: &TenantId, id: &str) -> Result<Option<Head>, StoreError> {
        let sql = format!("{HEAD} WHERE id = ?1 AND tenant = ?2");
        let row = self.with(|connection| connection.query_row(&sql, params![id, &*tenant.0], raw).optional())?;
        row.map(|row| self.head(row)).transpose()
    }

    /// The tenant's conversations, last used first, behind `after`.
    pub(crate) fn conversations(
        &self,
        tenant: &TenantId,
        collection: Option<&CollectionName>,
        after: Option<&Placed>,
        limit: usize,
    ) -> Result<Vec<Head>, StoreError> {
        let sql = format!(
            "{HEAD} WHERE tenant = ?1 AND (?2 IS NULL OR collection = ?2)
               AND (?3 IS NULL OR (updated, id) < (?3, ?4))
             ORDER BY updated DESC, id DESC LIMIT ?5"
        );
        let (updated, id) = after.map_or((None, None), |place| (Some(place.updated), Some(place.id.as_str())));
        let rows = self.with(|connection| {
            let mut statement = connection.prepare_cached(&sql)?;
            let collection = collection.map(CollectionName::as_str);
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            statement
                .query_map(params![&*tenant.0, collection, updated, id, limit], raw)?
                .collect::<Result<Vec<_>, _>>()
        })?;
        rows.into_iter().map(|row| self.head(row)).collect()
    }

    /// Turns of a conversation behind number `after`, oldest first.
    pub(crate) fn turns(
        &self,
        tenant: &TenantId,
        id: &str,
        after: usize,
        limit: usize,
    ) -> Result<Vec<Stored>, StoreError> {
        let rows = self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT n, record FROM turns JOIN conversations ON conversation = id
                 WHERE id = ?1 AND tenant = ?2 AND n > ?3 ORDER BY n LIMIT ?4",
            )?;
            let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
            let rows = statement.query_map(params![id, &*tenant.0, number(after), number(limit)], stored)?;
            rows.collect::<Result<Vec<_>, _>>()
        })?;
        self.turns_of(rows)
    }

    /// The last `limit` turns of a conversation, oldest first.
    pub(crate) fn last_turns(&self, tenant: &TenantId, id: &str, limit: usize) -> Result<Vec<Stored>, StoreError> {
        let mut rows = self.with(|connection| {
            let mut statement = connection.prepare_cached(
                "SELECT n, record FROM turns JOIN conversations ON conversation = id
                 WHERE id = ?1 AND tenant = ?2 ORDER BY n DESC LIMIT ?3",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            statement.query_map(params![id, &*tenant.0, limit], stored)?.collect::<Result<Vec<_>, _>>()
        })?;
        rows.reverse();
        self.turns_of(rows)
    }

    /// Appends turn `turn.n`. False if the conversation is gone or does not end before it: nothing was written then.
    pub(crate) fn append_turn(
        &self,
        tenant: &TenantId,
        id: &str,
        turn: &Stored,
        title: &str,
        at: jiff::Timestamp,
    ) -> Result<bool, StoreError> {
        self.with(|connection: &mut Connection| {
            let change = connection.transaction()?;
            let n = i64::try_from(turn.n).unwrap_or(i64::MAX);
            let moved = change.execute(
                "UPDATE conversations SET turns = ?3, updated = max(updated, ?4), title = coalesce(title, ?5)
                 WHERE id = ?1 AND tenant = ?2 AND turns = ?3 - 1",
                params![id, &*tenant.0, n, micros(at), title],
            )?;
            if moved == 0 {
                return Ok(false);
            }
            change.execute(
                "INSERT INTO turns (conversation, n, record) VALUES (?1, ?2, ?3)",
                params![id, n, turn.record],
            )?;
            change.commit()?;
            Ok(true)
        })
    }

    /// Deletes a conversation with its turns. False if there was none.
    pub(crate) fn delete_conversation(&self, tenant: &TenantId, id: &str) -> Result<bool, StoreError> {
        let deleted = self.with(|connection| {
            connection.execute("DELETE FROM conversations WHERE id = ?1 AND tenant = ?2", params![id, &*tenant.0])
        })?;
        Ok(deleted > 0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head(id: &str, at: i64) -> Head {
        let time = jiff::Timestamp::from_microsecond(at).unwrap();
        let collection = "guide".parse().unwrap();
        Head { id: id.to_owned(), collection, title: None, created: time, updated: time, turns: 0 }
    }

    fn tenant(name: &str) -> TenantId {
        TenantId(name.into())
    }

    #[test]
    fn turns_come_back_in_order_and_only_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        let me = tenant("a");
        store.create_conversation(&me, &head("c", 1)).unwrap();
        let at = jiff::Timestamp::from_microsecond(5).unwrap();
        let turn = |n: usize| Stored { n, record: format!("{{\"n\":{n}}}") };
        assert!(store.append_turn(&me, "c", &turn(1), "first", at).unwrap());
        assert!(!store.append_turn(&me, "c", &turn(1), "again", at).unwrap(), "there is one already");
        assert!(!store.append_turn(&me, "c", &turn(3), "gap", at).unwrap());
        assert!(store.append_turn(&me, "c", &turn(2), "second", at).unwrap());
        // As after a restart.
        let store = Store::of(folder.path());
        assert_eq!(store.turns(&me, "c", 0, 10).unwrap(), [turn(1), turn(2)]);
        assert_eq!(store.turns(&me, "c", 1, 10).unwrap(), [turn(2)]);
        assert_eq!(store.last_turns(&me, "c", 1).unwrap(), [turn(2)]);
        let kept = store.conversation(&me, "c").unwrap().unwrap();
        assert_eq!((kept.turns, kept.title.as_deref(), kept.updated), (2, Some("first"), at));
    }

    #[test]
    fn a_tenant_finds_only_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        let (me, other) = (tenant("a"), tenant("b"));
        store.create_conversation(&me, &head("c", 1)).unwrap();
        let turn = Stored { n: 1, record: "{}".to_owned() };
        let at = jiff::Timestamp::from_microsecond(5).unwrap();
        assert!(!store.append_turn(&other, "c", &turn, "t", at).unwrap());
        assert!(store.append_turn(&me, "c", &turn, "t", at).unwrap());
        assert_eq!(store.conversation(&other, "c").unwrap(), None);
        assert_eq!(store.turns(&other, "c", 0, 9).unwrap(), []);
        assert_eq!(store.conversations(&other, None, None, 9).unwrap(), []);
        assert!(!store.delete_conversation(&other, "c").unwrap());
        assert!(store.delete_conversation(&me, "c").unwrap());
        assert_eq!(store.turns(&me, "c", 0, 9).unwrap(), []);
    }

    #[test]
    fn pages_of_the_list_leave_none_out_and_repeat_none() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::of(folder.path());
        let me = tenant("a");
        // Several of the same time.
        for n in 0..23 {
            store.create_conversation(&me, &head(&format!("c{n:02}"), n / 5)).unwrap();
        }
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = store.conversations(&me, None, after.as_ref(), 4).unwrap();
            let Some(last) = page.last() else { break };
            after = Some(Placed { updated: micros(last.updated), id: last.id.clone() });
            seen.extend(page.into_iter().map(|head| head.id));
        }
        let mut sorted = seen.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!((seen.len(), sorted.len()), (23, 23));
        assert_eq!(seen[0], "c22", "last used first");
        let elsewhere = "other".parse().unwrap();
        assert_eq!(store.conversations(&me, Some(&elsewhere), None, 4).unwrap(), []);
    }
}
