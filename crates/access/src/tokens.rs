//! How many tokens each key used today, for its limit. Counted in memory and written by [`AccessStore::refresh`], so that
//! a restart forgets a moment and not a day.
//!
//! Deliberately not here: cost and records, which are the ledger's.

use std::collections::HashMap;

use rusqlite::{Connection, params};

use crate::{AccessError, AccessStore, KeyId};

/// Days that are kept.
const KEPT_DAYS: i64 = 40;

/// Tokens of the day.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    day: String,
    by_key: HashMap<KeyId, Count>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Count {
    tokens: u64,
    /// Of these, not yet in the file.
    unwritten: u64,
}

/// The day of `now` in UTC, such as `2026-11-22`.
fn day_of(now: jiff::Timestamp) -> String {
    now.to_zoned(jiff::tz::TimeZone::UTC).date().to_string()
}

impl Counted {
    /// Counts from the file.
    pub(crate) fn read(connection: &Connection, now: jiff::Timestamp) -> Result<Self, AccessError> {
        let day = day_of(now);
        let mut select = connection.prepare_cached("SELECT key, tokens FROM tokens WHERE day = ?1")?;
        let mut rows = select.query([&day])?;
        let mut by_key = HashMap::new();
        while let Some(row) = rows.next()? {
            let (key, tokens): (String, i64) = (row.get(0)?, row.get(1)?);
            by_key.insert(key.parse()?, Count { tokens: u64::try_from(tokens).unwrap_or(0), unwritten: 0 });
        }
        drop(rows);
        drop(select);
        Ok(Self { day, by_key })
    }

    fn turn(&mut self, now: jiff::Timestamp) {
        let day = day_of(now);
        if day > self.day {
            // What the last moment of a day used is lost to its count, which nothing asks for any more.
            *self = Self { day, by_key: HashMap::new() };
        }
    }
}

impl AccessStore {
    /// Counts `tokens` of a key.
    pub fn used_tokens(&self, key: &KeyId, tokens: u64, now: jiff::Timestamp) {
        let mut counted = self.counted();
        counted.turn(now);
        let count = counted.by_key.entry(key.clone()).or_default();
        count.tokens = count.tokens.saturating_add(tokens);
        count.unwritten = count.unwritten.saturating_add(tokens);
    }

    /// Tokens the key used today (UTC).
    pub fn tokens_today(&self, key: &KeyId, now: jiff::Timestamp) -> u64 {
        let mut counted = self.counted();
        counted.turn(now);
        counted.by_key.get(key).map_or(0, |count| count.tokens)
    }

    /// Writes what was counted since the last time.
    pub(crate) fn write_tokens(&self, now: jiff::Timestamp) -> Result<(), AccessError> {
        let (day, due): (String, Vec<(KeyId, u64)>) = {
            let counted = self.counted();
            let due = counted.by_key.iter().filter(|(_, count)| count.unwritten > 0);
            (counted.day.clone(), due.map(|(key, count)| (key.clone(), count.unwritten)).collect())
        };
        if due.is_empty() {
            return Ok(());
        }
        {
            let mut connection = self.connection();
            let transaction = connection.transaction()?;
            for (key, tokens) in &due {
                transaction.execute(
                    "INSERT INTO tokens VALUES (?1, ?2, ?3) ON CONFLICT (key, day) DO UPDATE SET tokens = tokens + ?3",
                    params![key.as_str(), day, i64::try_from(*tokens).unwrap_or(i64::MAX)],
                )?;
            }
            let oldest = day_of(now - jiff::SignedDuration::from_hours(24 * KEPT_DAYS));
            transaction.execute("DELETE FROM tokens WHERE day < ?1", [oldest])?;
            transaction.commit()?;
        }
        let mut counted = self.counted();
        if counted.day == day {
            for (key, tokens) in due {
                if let Some(count) = counted.by_key.get_mut(&key) {
                    count.unwritten = count.unwritten.saturating_sub(tokens);
                }
            }
        }
        Ok(())
    }
}
