//! How long records, details and the finest roll-ups are kept.
//!
//! Sums by hour and by day stay for good: what was spent is known whatever was deleted. Records and sums by minute are deleted
//! by whole days, so that a question about a time before them has an exact answer at full hours.

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use serde::{Deserialize, Serialize};

use crate::{
    Ledger, LedgerError,
    rollup::{DAY, MINUTE, floor},
};

/// Mark of the time from which records are there.
pub(crate) const RECORDS: &str = "records";
/// Mark of the time from which sums by minute are there.
pub(crate) const MINUTES: &str = "minutes";

/// Rows that are deleted in one transaction, so that others need not wait long.
const BATCH: i64 = 5_000;

/// How many days things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// Records; 0 keeps them for good.
    pub records: u32,
    /// Sums by minute, which records stand in for where they are gone; never longer than records.
    pub minutes: u32,
    /// Texts and decisions of requests; never longer than records.
    pub details: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { records: 90, minutes: 7, details: 7 }
    }
}

/// What was deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// Records.
    pub records: usize,
    /// Sums by minute.
    pub minutes: usize,
    /// Details.
    pub details: usize,
}

/// The time of a mark, if it was set.
pub(crate) fn mark(connection: &Connection, name: &str) -> Result<Option<i64>, LedgerError> {
    let mut select = connection.prepare_cached("SELECT at_us FROM marks WHERE name = ?1")?;
    Ok(select.query_row([name], |row| row.get(0)).optional()?)
}

impl Ledger {
    /// Deletes what is older than it is kept, as of `now`.
    pub fn maintain(&self, now: jiff::Timestamp, keep: &Retention) -> Result<Deleted, LedgerError> {
        let now = now.as_microsecond();
        let oldest = |days: u32| floor(now.saturating_sub(i64::from(days).saturating_mul(DAY)), DAY);
        let records = if keep.records == 0 { i64::MIN } else { oldest(keep.records) };
        let minutes = oldest(keep.minutes).max(records);
        let details = oldest(keep.details).max(records);
        let mut deleted = Deleted {
            minutes: self.delete(
                MINUTES,
                minutes,
                &format!("rollups WHERE span = {MINUTE} AND at_us < ?1"),
                "span, at_us, dimensions",
            )?,
            details: self.delete("", details, "details WHERE at_us < ?1", "id")?,
            ..Deleted::default()
        };
        if keep.records > 0 {
            // A rated decision goes on teaching.
            let rated =
                "decisions WHERE at_us < ?1 AND NOT EXISTS (SELECT 1 FROM feedback WHERE feedback.id = decisions.id)";
            self.delete("", records, rated, "id")?;
            deleted.records = self.delete(RECORDS, records, "requests WHERE at_us < ?1", "id")?;
        }
        Ok(deleted)
    }

    /// Deletes the rows of `which`, some at a time, after setting the mark, if it has a name: a reader must never take what
    /// is half deleted for all there was.
    fn delete(&self, named: &str, before: i64, which: &str, key: &str) -> Result<usize, LedgerError> {
        let mut deleted = 0;
        loop {
            let some = self.writing(|connection| {
                let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                if !named.is_empty() {
                    transaction.execute(
                        "INSERT INTO marks (name, at_us) VALUES (?1, ?2) \
                         ON CONFLICT (name) DO UPDATE SET at_us = max(at_us, excluded.at_us)",
                        params![named, before],
                    )?;
                }
                let table = which.split(' ').next().unwrap_or_default();
                let delete = format!("DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {which} LIMIT {BATCH})");
                let some = transaction.execute(&delete, [before])?;
                transaction.commit()?;
                Ok(some)
            })?;
            deleted += some;
            if some < BATCH as usize {
                return Ok(deleted);
            }
        }
    }
}
