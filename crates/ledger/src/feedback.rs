//! Ratings of answers, and of each answered request what has to be known to learn from a rating.
//!
//! Two tables beside the requests: one row for each answered request with its decision, opaque to the ledger and without
//! any text of the question; one row for each rating. A comment is the one text that is kept, because its writer asked for
//! that. A request rated again keeps its place in the order and gets the new rating.
//!
//! Invariant: [`Ledger::ratings`] gives the same rows in the same order after any restart, so that what is learned from
//! them is the same.
//!
//! Deliberately not here: what a rating teaches.

use rusqlite::{Connection, OptionalExtension, ToSql, TransactionBehavior, params};

use edgewise_types::TenantId;

use crate::{Ledger, LedgerError};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS decisions (
    id TEXT PRIMARY KEY NOT NULL,
    request_id TEXT NOT NULL,
    at_us INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    decision TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS decisions_request ON decisions (tenant, request_id, at_us);
CREATE INDEX IF NOT EXISTS decisions_at ON decisions (tenant, at_us);
CREATE TABLE IF NOT EXISTS feedback (
    id TEXT PRIMARY KEY NOT NULL REFERENCES decisions (id),
    rated_us INTEGER NOT NULL,
    rating REAL NOT NULL,
    comment TEXT
) STRICT;
";

/// The name that means the newest answered request.
pub const LAST: &str = "last";

/// Makes the tables where they are missing.
pub(crate) fn create(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute_batch(SCHEMA)
}

/// An answered request that may be rated.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision<'a> {
    /// Id of its record, unique in the ledger.
    pub id: &'a str,
    /// Id its caller knows it by; of several with the same, the newest is meant.
    pub request_id: &'a str,
    /// When it came in.
    pub at: jiff::Timestamp,
    /// Who asked.
    pub tenant: &'a TenantId,
    /// What the planner keeps of it.
    pub decision: &'a str,
}

/// A rating of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Rating<'a> {
    /// Who rates: only requests of the same tenant are found.
    pub tenant: &'a TenantId,
    /// Id of the record or of the request, or [`LAST`].
    pub request: &'a str,
    /// -1 (bad) to 1 (good).
    pub rating: f64,
    /// What the rater adds.
    pub comment: Option<&'a str>,
    /// When.
    pub at: jiff::Timestamp,
}

/// What became of a rating.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rated {
    /// Id of the record that was rated.
    pub id: String,
    /// Whether it had a rating before, which this one replaces.
    pub replaced: bool,
}

/// Writes id, id of the request, time, tenant and decision.
pub(crate) fn insert(connection: &Connection, decision: &[&dyn ToSql]) -> Result<(), LedgerError> {
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO decisions (id, request_id, at_us, tenant, decision) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(decision)?;
    Ok(())
}

impl Ledger {
    /// Keeps what a rating of this request will need. It is on disk when this returns.
    pub fn decided(&self, decision: &Decision<'_>) -> Result<(), LedgerError> {
        let Decision { id, request_id, at, tenant, decision } = *decision;
        self.writing(|connection| {
            insert(connection, params![id, request_id, at.as_microsecond(), tenant.0.as_ref(), decision])
        })
    }

    /// Stores a rating. It is on disk when this returns.
    ///
    /// # Errors
    /// [`LedgerError::UnknownRequest`] if no answered request of the tenant has the id.
    pub fn rate(&self, rating: &Rating<'_>) -> Result<Rated, LedgerError> {
        self.writing(|connection| rate(connection, rating))
    }

    /// Decisions and ratings of the `most` newest rated requests, oldest request first.
    pub fn ratings(&self, most: usize) -> Result<Vec<(String, f64)>, LedgerError> {
        self.reading(|connection| {
            let mut select = connection.prepare_cached(
                "SELECT decision, rating FROM decisions JOIN feedback USING (id) ORDER BY at_us DESC, id DESC LIMIT ?1",
            )?;
            let rows =
                select.query_map([i64::try_from(most).unwrap_or(i64::MAX)], |row| Ok((row.get(0)?, row.get(1)?)))?;
            let mut ratings: Vec<(String, f64)> = rows.collect::<Result<_, _>>()?;
            ratings.reverse();
            Ok(ratings)
        })
    }

    /// Deletes every rating; how many there were. Requests can be rated again.
    pub fn forget_ratings(&self) -> Result<usize, LedgerError> {
        self.writing(|connection| Ok(connection.execute("DELETE FROM feedback", [])?))
    }
}

fn rate(connection: &mut Connection, rating: &Rating<'_>) -> Result<Rated, LedgerError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let tenant = rating.tenant.0.as_ref();
    let id: Option<String> = if rating.request == LAST {
        let newest = "SELECT id FROM decisions WHERE tenant = ?1 ORDER BY at_us DESC, rowid DESC LIMIT 1";
        transaction.query_row(newest, [tenant], |row| row.get(0)).optional()?
    } else {
        let named = "SELECT id FROM decisions WHERE tenant = ?1 AND (id = ?2 OR request_id = ?2) \
                     ORDER BY id = ?2 DESC, at_us DESC, rowid DESC LIMIT 1";
        transaction.query_row(named, [tenant, rating.request], |row| row.get(0)).optional()?
    };
    let Some(id) = id else { return Err(LedgerError::UnknownRequest { id: rating.request.to_owned() }) };
    let replaced: bool =
        transaction.query_row("SELECT EXISTS (SELECT 1 FROM feedback WHERE id = ?1)", [&id], |row| row.get(0))?;
    transaction.execute(
        "INSERT OR REPLACE INTO feedback (id, rated_us, rating, comment) VALUES (?1, ?2, ?3, ?4)",
        params![id, rating.at.as_microsecond(), rating.rating, rating.comment],
    )?;
    transaction.commit()?;
    Ok(Rated { id, replaced })
}
