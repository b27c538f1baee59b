//! The schema, and how older files are brought to it.
//!
//! A file of an older version is changed in place, in one transaction, when it is opened: columns are added, nothing is
//! removed, and what an old record does not say stays absent.

use std::path::Path;

use rusqlite::{Connection, TransactionBehavior};

use crate::{
    LedgerError,
    rollup::{Additions, Known},
    rows,
};

/// Steps from each version to the next; version 0 is an empty file. The version is in `PRAGMA user_version`.
const STEPS: &[&str] = &[
    "
CREATE TABLE requests (
    id TEXT PRIMARY KEY NOT NULL,
    at_us INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    collection TEXT NOT NULL,
    model TEXT NOT NULL,
    template_hash TEXT NOT NULL,
    route TEXT NOT NULL,
    forced INTEGER NOT NULL,
    status TEXT NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_nanos INTEGER NOT NULL,
    full_cost_nanos INTEGER,
    predicted_cost_nanos INTEGER NOT NULL,
    predicted_ttft_ms REAL NOT NULL,
    predicted_latency_ms REAL NOT NULL,
    timings TEXT NOT NULL,
    question_chars INTEGER NOT NULL
) STRICT;
CREATE INDEX requests_at ON requests (at_us);
",
    "
ALTER TABLE requests ADD COLUMN predicted_input_tokens INTEGER;
ALTER TABLE requests ADD COLUMN predicted_cache_read_tokens INTEGER;
ALTER TABLE requests ADD COLUMN predicted_cache_write_5m_tokens INTEGER;
ALTER TABLE requests ADD COLUMN predicted_cache_write_1h_tokens INTEGER;
ALTER TABLE requests ADD COLUMN predicted_output_tokens INTEGER;
",
    "
ALTER TABLE requests ADD COLUMN key TEXT;
ALTER TABLE requests ADD COLUMN work TEXT NOT NULL DEFAULT 'answer';
ALTER TABLE requests ADD COLUMN escalated_from TEXT;
ALTER TABLE requests ADD COLUMN miss TEXT;
ALTER TABLE requests ADD COLUMN candidates TEXT;
UPDATE requests SET work = 'summary' WHERE route = 'tree-build';
CREATE INDEX requests_tenant_at ON requests (tenant, at_us);
CREATE INDEX requests_request ON requests (substr(id, instr(id, '-') + 1));
CREATE TABLE dimensions (
    number INTEGER PRIMARY KEY NOT NULL,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    collection TEXT NOT NULL,
    model TEXT NOT NULL,
    route TEXT NOT NULL,
    status TEXT NOT NULL,
    work TEXT NOT NULL,
    UNIQUE (tenant, key, collection, model, route, status, work)
) STRICT;
CREATE TABLE rollups (
    span INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    dimensions INTEGER NOT NULL REFERENCES dimensions (number),
    requests INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL,
    cache_read_tokens INTEGER NOT NULL,
    cache_write_5m_tokens INTEGER NOT NULL,
    cache_write_1h_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost_nanos INTEGER NOT NULL,
    full_cost_nanos INTEGER NOT NULL,
    saved_nanos INTEGER NOT NULL,
    miss TEXT,
    alternatives TEXT,
    ttft BLOB,
    latency BLOB,
    PRIMARY KEY (span, at_us, dimensions)
) STRICT, WITHOUT ROWID;
CREATE TABLE details (
    id TEXT PRIMARY KEY NOT NULL,
    at_us INTEGER NOT NULL,
    tenant TEXT NOT NULL,
    question TEXT,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX details_at ON details (at_us);
CREATE TABLE marks (name TEXT PRIMARY KEY NOT NULL, at_us INTEGER NOT NULL) STRICT;
CREATE TABLE budgets (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    budget TEXT NOT NULL,
    PRIMARY KEY (owner, name)
) STRICT;
CREATE TABLE alerts (
    owner TEXT NOT NULL,
    name TEXT NOT NULL,
    period_us INTEGER NOT NULL,
    per_mille INTEGER NOT NULL,
    at_us INTEGER NOT NULL,
    spent_nanos INTEGER NOT NULL,
    limit_nanos INTEGER NOT NULL,
    state TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    error TEXT,
    PRIMARY KEY (owner, name, period_us, per_mille)
) STRICT;
",
    // What did not end well is rare, and looked for among all.
    "
CREATE INDEX requests_not_answered ON requests (status, at_us) WHERE status <> 'answered';
",
];

/// Version from which sums are kept beside the records.
const ROLLED_UP: usize = 3;

/// Records that are summed up at a time when an older file is brought up to date.
const BATCH: usize = 50_000;

/// Brings a file to the newest version.
pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    let open = |source| LedgerError::Open { path: path.to_owned(), source };
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(open)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(open)?;
    let known = STEPS.len() as i64;
    if found > known {
        return Err(LedgerError::NewerSchema { path: path.to_owned(), found, known });
    }
    for step in STEPS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        transaction.execute_batch(step).map_err(open)?;
    }
    if (1..ROLLED_UP as i64).contains(&found) {
        sum_up(&transaction)?;
    }
    if found < known {
        transaction.pragma_update(None, "user_version", known).map_err(open)?;
    }
    crate::feedback::create(&transaction).map_err(open)?;
    transaction.commit().map_err(open)
}

/// Makes the sums of records that were written before there were any.
fn sum_up(transaction: &Connection) -> Result<(), LedgerError> {
    let mut known = Known::new();
    let mut select = transaction.prepare(&format!("SELECT {} FROM requests ORDER BY at_us", rows::COLUMNS))?;
    let mut records = select.query([])?;
    let mut additions = Additions::default();
    let mut batched = 0;
    while let Some(row) = records.next()? {
        additions.record(&rows::read(row)?);
        batched += 1;
        if batched == BATCH {
            std::mem::take(&mut additions).write(transaction, &mut known)?;
            batched = 0;
        }
    }
    additions.write(transaction, &mut known)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Ledger;

    #[test]
    fn a_ledger_of_the_first_version_is_opened_and_its_records_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        {
            let old = Connection::open(&path).unwrap();
            old.execute_batch(STEPS[0]).unwrap();
            old.pragma_update(None, "user_version", 1).unwrap();
            let timings = serde_json::to_string(&edgewise_types::Timings::default()).unwrap();
            old.execute(
                "INSERT INTO requests VALUES ('a', 1, 'local', 'guide', 'm', 't', 'full', 0, 'answered', \
                 1, 2, 3, 4, 5, 6, NULL, 7, 8.0, 9.0, ?1, 10)",
                [timings],
            )
            .unwrap();
        }
        for _ in 0..2 {
            let ledger = Ledger::open(&path).unwrap();
            let records = ledger.recent(10).unwrap();
            assert_eq!(records.len(), 1);
            assert_eq!((records[0].predicted.cost.nanos(), records[0].predicted.usage), (7, None));
            assert_eq!(ledger.predictions(None).unwrap(), [], "nothing to compare with");
            let totals = ledger.totals(None).unwrap();
            assert_eq!((totals.all.requests, totals.all.cost.nanos()), (1, 6), "summed up once");
        }
        let version: i64 =
            Connection::open(&path).unwrap().pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
        assert_eq!(version, STEPS.len() as i64);
    }
}
