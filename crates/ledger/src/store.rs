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

use crate::{
    Compared, Grouping, LedgerError, Prediction, PredictionErrors, RequestRecord, RequestStatus, Sums, Totals, schema,
};

/// Most records that predictions are compared in.
pub const MOST_COMPARED: usize = 10_000;

const COLUMNS: &str = "id, at_us, tenant, collection, model, template_hash, route, forced, status, input_tokens, \
    cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, cost_nanos, full_cost_nanos, \
    predicted_cost_nanos, predicted_ttft_ms, predicted_latency_ms, timings, question_chars, predicted_input_tokens, \
    predicted_cache_read_tokens, predicted_cache_write_5m_tokens, predicted_cache_write_1h_tokens, \
    predicted_output_tokens";

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
        schema::migrate(&mut connection, path)?;
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
        let predicted = |class: fn(&Usage) -> usize| record.predicted.usage.as_ref().map(|usage| stored(class(usage)));
        let connection = self.connection();
        let mut insert = connection.prepare_cached(&format!(
            "INSERT INTO requests ({COLUMNS}) VALUES \
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
             ?22, ?23, ?24, ?25, ?26)"
        ))?;
        let done = insert.execute(params![
            record.id,
            record.at.as_microsecond(),
            record.tenant.0.as_ref(),
            record.collection.as_ref().map_or("", |collection| collection.as_str()),
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
            predicted(|usage| usage.input_tokens),
            predicted(|usage| usage.cache_read_tokens),
            predicted(|usage| usage.cache_write_5m_tokens),
            predicted(|usage| usage.cache_write_1h_tokens),
            predicted(|usage| usage.output_tokens),
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

    /// How good predictions were since `since`, or of all records, but at most of the newest [`MOST_COMPARED`].
    pub fn predictions(&self, since: Option<jiff::Timestamp>) -> Result<Vec<PredictionErrors>, LedgerError> {
        let connection = self.connection();
        let mut select = connection.prepare_cached(&format!(
            "SELECT {COLUMNS} FROM requests WHERE at_us >= ?1 ORDER BY at_us DESC, rowid DESC LIMIT ?2"
        ))?;
        let mut rows = select.query([since_us(since), stored(MOST_COMPARED)])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            records.extend(Compared::of(&read(row)?));
        }
        Ok(PredictionErrors::of(records))
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

fn predicted_usage(row: &Row<'_>) -> rusqlite::Result<Option<Usage>> {
    if row.get::<_, Option<i64>>(21)?.is_none() {
        return Ok(None);
    }
    Ok(Some(Usage {
        input_tokens: count(row, 21)?,
        cache_read_tokens: count(row, 22)?,
        cache_write_5m_tokens: count(row, 23)?,
        cache_write_1h_tokens: count(row, 24)?,
        output_tokens: count(row, 25)?,
    }))
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
        collection: match collection.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|error| damaged(format!("{error}")))?),
        },
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
            usage: predicted_usage(row)?,
        },
        timings: serde_json::from_str(&timings).map_err(|error| damaged(error.to_string()))?,
        question_chars: count(row, 20)?,
        id,
    })
}
