//! Records in SQLite.
//!
//! Write-ahead log with `synchronous=FULL`: a commit is synced before [`Ledger::record`] returns. Amounts are stored as
//! integer nano-dollars and summed as integers.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, Row, params};

use edgewise_types::{Money, TenantId, Usage};

use crate::{Grouping, LedgerError, Prediction, RequestRecord, RequestStatus, Sums, Totals};

/// Version of the schema, in `PRAGMA user_version`. 0 is an empty file.
const SCHEMA_VERSION: i64 = 1;

const SCHEMA: &str = "
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
";

const COLUMNS: &str = "id, at_us, tenant, collection, model, template_hash, route, forced, status, input_tokens, \
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, cost_nanos, full_cost_nanos, \
    predicted_cost_nanos, predicted_ttft_ms, predicted_latency_ms, timings, question_chars";

const SUMS: &str = "count(*), coalesce(sum(input_tokens), 0), coalesce(sum(cache_read_tokens), 0), \
    coalesce(sum(cache_write_5m_tokens), 0), coalesce(sum(cache_write_1h_tokens), 0), \
    coalesce(sum(output_tokens), 0), coalesce(sum(cost_nanos), 0), \
    coalesce(sum(full_cost_nanos - cost_nanos), 0)";

/// The ledger. Share it in an `Arc`; calls from several threads take turns.
pub struct Ledger {
    connection: Mutex<Connection>,
}

impl Ledger {
    /// Opens the ledger at `path`, or makes it. Its folder must exist.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let open = |source| LedgerError::Open { path: path.to_owned(), source };
        let connection = Connection::open(path).map_err(open)?;
        // Another process may be reading: wait rather than fail.
        connection.busy_timeout(Duration::from_secs(5)).map_err(open)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(open)?;
        connection.pragma_update(None, "synchronous", "full").map_err(open)?;
        Self::with_schema(connection, path)
    }

    /// A ledger that ends with the process.
    pub fn in_memory() -> Result<Self, LedgerError> {
        Self::with_schema(Connection::open_in_memory()?, Path::new(":memory:"))
    }

    fn with_schema(mut connection: Connection, path: &Path) -> Result<Self, LedgerError> {
        let open = |source| LedgerError::Open { path: path.to_owned(), source };
        let transaction =
            connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(open)?;
        let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(open)?;
        if found > SCHEMA_VERSION {
            return Err(LedgerError::NewerSchema { path: path.to_owned(), found, known: SCHEMA_VERSION });
        }
        if found == 0 {
            transaction.execute_batch(SCHEMA).map_err(open)?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(open)?;
        }
        crate::feedback::create(&transaction).map_err(open)?;
        transaction.commit().map_err(open)?;
        Ok(Self { connection: Mutex::new(connection) })
    }

    /// A panic elsewhere cannot leave a transaction half done: the connection is usable.
    pub(crate) fn connection(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes one record. It is on disk when this returns.
    pub fn record(&self, record: &RequestRecord) -> Result<(), LedgerError> {
        let timings = serde_json::to_string(&record.timings)
            .map_err(|error| LedgerError::Damaged { id: record.id.clone(), reason: error.to_string() })?;
        let connection = self.connection();
        let mut insert = connection.prepare_cached(&format!(
            "INSERT INTO requests ({COLUMNS}) VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)"
        ))?;
        let done = insert.execute(params![
            record.id,
            record.at.as_microsecond(),
            record.tenant.0.as_ref(),
            record.collection.as_str(),
            record.model,
            record.template_hash,
            record.route,
            record.forced,
            record.status.as_str(),
            stored(record.usage.input_tokens),
            stored(record.usage.cache_read_tokens),
            stored(record.usage.cache_write_5m_tokens),
            stored(record.usage.cache_write_1h_tokens),
            stored(record.usage.output_tokens),
            record.cost.nanos(),
            record.full_cost.map(Money::nanos),
            record.predicted.cost.nanos(),
            record.predicted.ttft_ms,
            record.predicted.latency_ms,
            timings,
            stored(record.question_chars),
        ]);
        match done {
            Ok(_) => Ok(()),
            Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation) => {
                Err(LedgerError::DuplicateId { id: record.id.clone() })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The newest `limit` records, newest first; of records of the same microsecond, the one written last comes first.
    pub fn recent(&self, limit: usize) -> Result<Vec<RequestRecord>, LedgerError> {
        let connection = self.connection();
        let mut select = connection
            .prepare_cached(&format!("SELECT {COLUMNS} FROM requests ORDER BY at_us DESC, rowid DESC LIMIT ?1"))?;
        let mut rows = select.query([stored(limit)])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.push(read(row)?);
        }
        Ok(records)
    }

    /// Sums over the records since `since`, or over all.
    pub fn totals(&self, since: Option<jiff::Timestamp>) -> Result<Totals, LedgerError> {
        let by_route = self.grouped(Grouping::Route, since)?;
        let connection = self.connection();
        let mut select = connection.prepare_cached(&format!("SELECT '', {SUMS} FROM requests WHERE at_us >= ?1"))?;
        let all = select.query_row([since_us(since)], |row| Ok(sums(row)?.1))?;
        Ok(Totals { all, by_route })
    }

    /// Sums over the records of each group since `since`, or over all.
    pub fn grouped(&self, by: Grouping, since: Option<jiff::Timestamp>) -> Result<BTreeMap<String, Sums>, LedgerError> {
        let column = match by {
            Grouping::Route => "route",
            Grouping::Tenant => "tenant",
            Grouping::Collection => "collection",
            Grouping::Model => "model",
            Grouping::Status => "status",
        };
        let connection = self.connection();
        let mut select = connection
            .prepare_cached(&format!("SELECT {column}, {SUMS} FROM requests WHERE at_us >= ?1 GROUP BY {column}"))?;
        let groups = select.query_map([since_us(since)], sums)?;
        Ok(groups.collect::<Result<_, _>>()?)
    }
}

/// SQLite's integers are signed. A count that large does not occur; it would be stored as the largest.
fn stored(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<usize> {
    let stored: i64 = row.get(column)?;
    usize::try_from(stored).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, stored))
}

fn since_us(since: Option<jiff::Timestamp>) -> i64 {
    since.map_or(i64::MIN, |since| since.as_microsecond())
}

fn sums(row: &Row<'_>) -> rusqlite::Result<(String, Sums)> {
    let usage = Usage {
        input_tokens: count(row, 2)?,
        cache_read_tokens: count(row, 3)?,
        cache_write_5m_tokens: count(row, 4)?,
        cache_write_1h_tokens: count(row, 5)?,
        output_tokens: count(row, 6)?,
    };
    let sums = Sums {
        requests: count(row, 1)?,
        usage,
        cost: Money::from_nanos(row.get(7)?),
        saved_against_full: Money::from_nanos(row.get(8)?),
    };
    Ok((row.get(0)?, sums))
}

fn read(row: &Row<'_>) -> Result<RequestRecord, LedgerError> {
    let id: String = row.get(0)?;
    let damaged = |reason: String| LedgerError::Damaged { id: id.clone(), reason };
    let status: String = row.get(8)?;
    let collection: String = row.get(3)?;
    let timings: String = row.get(19)?;
    Ok(RequestRecord {
        at: jiff::Timestamp::from_microsecond(row.get(1)?).map_err(|error| damaged(error.to_string()))?,
        tenant: TenantId(row.get::<_, String>(2)?.into()),
        collection: collection.parse().map_err(|error| damaged(format!("{error}")))?,
        model: row.get(4)?,
        template_hash: row.get(5)?,
        route: row.get(6)?,
        forced: row.get(7)?,
        status: RequestStatus::from_name(&status).ok_or_else(|| damaged(format!("unknown status `{status}`")))?,
        usage: Usage {
            input_tokens: count(row, 9)?,
            cache_read_tokens: count(row, 10)?,
            cache_write_5m_tokens: count(row, 11)?,
            cache_write_1h_tokens: count(row, 12)?,
            output_tokens: count(row, 13)?,
        },
        cost: Money::from_nanos(row.get(14)?),
        full_cost: row.get::<_, Option<i64>>(15)?.map(Money::from_nanos),
        predicted: Prediction {
            cost: Money::from_nanos(row.get(16)?),
            ttft_ms: row.get(17)?,
            latency_ms: row.get(18)?,
        },
        timings: serde_json::from_str(&timings).map_err(|error| damaged(error.to_string()))?,
        question_chars: count(row, 20)?,
        id,
    })
}
