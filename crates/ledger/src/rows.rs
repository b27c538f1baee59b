//! Records as rows of the table `requests`.

use rusqlite::{Connection, OptionalExtension, Row, params};

use edgewise_types::{Money, TenantId, Usage};

use crate::{
    LedgerError, Prediction, RequestRecord, RequestStatus, Work,
    rollup::{count, stored},
};

/// The columns, in the order of [`read`].
pub(crate) const COLUMNS: &str = "id, at_us, tenant, collection, model, template_hash, route, forced, status, \
    input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, cost_nanos, \
    full_cost_nanos, predicted_cost_nanos, predicted_ttft_ms, predicted_latency_ms, timings, question_chars, \
    predicted_input_tokens, predicted_cache_read_tokens, predicted_cache_write_5m_tokens, \
    predicted_cache_write_1h_tokens, predicted_output_tokens, key, work, escalated_from, miss, candidates";

/// Most records whose ids differ only in what was added to tell them apart.
const MOST_ALIKE: usize = 1000;

/// Writes a record, and gives the id it has there and whether it is new: a journal may be read twice. Another record of the
/// same id takes nothing away from this one, which gets `+2`, `+3` and so on behind its id.
pub(crate) fn insert(connection: &Connection, record: &RequestRecord) -> Result<(String, bool), LedgerError> {
    if write(connection, &record.id, record)? {
        return Ok((record.id.clone(), true));
    }
    let mut same = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM requests WHERE id = ?1"))?;
    let mut id = record.id.clone();
    for n in 2..MOST_ALIKE {
        let there = same.query_row([&id], |row| Ok(read(row))).optional()?.transpose()?;
        if there.is_some_and(|there| alike(&there, record)) {
            return Ok((id, false));
        }
        id = format!("{}+{n}", record.id);
        if write(connection, &id, record)? {
            return Ok((id, true));
        }
    }
    Err(LedgerError::Damaged { id: record.id.clone(), reason: "too many records have this id".to_owned() })
}

/// Whether two records are of one request. Times are left out: they may be rounded on their way through the journal.
fn alike(a: &RequestRecord, b: &RequestRecord) -> bool {
    let what = |r: &RequestRecord| {
        let tenant = (r.tenant.clone(), r.key.clone(), r.collection.clone());
        let measures = (r.usage, r.cost, r.full_cost, r.question_chars);
        (r.at.as_microsecond(), tenant, r.model.clone(), r.route.clone(), r.status, r.work, measures)
    };
    what(a) == what(b)
}

/// Whether the record was written: not if there is one of this id.
fn write(connection: &Connection, id: &str, record: &RequestRecord) -> Result<bool, LedgerError> {
    let json = |error: serde_json::Error| LedgerError::Damaged { id: id.to_owned(), reason: error.to_string() };
    let timings = serde_json::to_string(&record.timings).map_err(json)?;
    let candidates = match record.candidates.as_slice() {
        [] => None,
        some => Some(serde_json::to_string(some).map_err(json)?),
    };
    let predicted = |class: fn(&Usage) -> usize| record.predicted.usage.as_ref().map(|usage| stored(class(usage)));
    let mut insert = connection.prepare_cached(&format!(
        "INSERT OR IGNORE INTO requests ({COLUMNS}) VALUES \
         (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, \
         ?22, ?23, ?24, ?25, ?26, ?27, ?28, ?29, ?30, ?31)"
    ))?;
    let written = insert.execute(params![
        id,
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
        finite(record.predicted.ttft_ms),
        finite(record.predicted.latency_ms),
        timings,
        stored(record.question_chars),
        predicted(|usage| usage.input_tokens),
        predicted(|usage| usage.cache_read_tokens),
        predicted(|usage| usage.cache_write_5m_tokens),
        predicted(|usage| usage.cache_write_1h_tokens),
        predicted(|usage| usage.output_tokens),
        record.key,
        record.work.as_str(),
        record.escalated_from,
        record.miss,
        candidates,
    ])?;
    Ok(written == 1)
}

/// SQLite stores an undefined number as NULL, which the column refuses.
fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// Reads [`COLUMNS`], of which the first is the row's first.
pub(crate) fn read(row: &Row<'_>) -> Result<RequestRecord, LedgerError> {
    let id: String = row.get(0)?;
    let damaged = |reason: String| LedgerError::Damaged { id: id.clone(), reason };
    let status: String = row.get(8)?;
    let collection: String = row.get(3)?;
    let timings: String = row.get(19)?;
    let work: String = row.get(27)?;
    let candidates: Option<String> = row.get(30)?;
    Ok(RequestRecord {
        at: jiff::Timestamp::from_microsecond(row.get(1)?).map_err(|error| damaged(error.to_string()))?,
        tenant: TenantId(row.get::<_, String>(2)?.into()),
        key: row.get(26)?,
        collection: match collection.as_str() {
            "" => None,
            name => Some(name.parse().map_err(|error| damaged(format!("{error}")))?),
        },
        work: Work::from_name(&work).ok_or_else(|| damaged(format!("unknown work `{work}`")))?,
        model: row.get(4)?,
        template_hash: row.get(5)?,
        route: row.get(6)?,
        escalated_from: row.get(28)?,
        forced: row.get(7)?,
        status: RequestStatus::from_name(&status).ok_or_else(|| damaged(format!("unknown status `{status}`")))?,
        usage: Usage {
            input_tokens: count(row, 9)?,
            cache_read_tokens: count(row, 10)?,
            cache_write_5m_tokens: count(row, 11)?,
            cache_write_1h_tokens: count(row, 12)?,
            output_tokens: count(row, 13)?,
        },
        miss: row.get(29)?,
        cost: Money::from_nanos(row.get(14)?),
        full_cost: row.get::<_, Option<i64>>(15)?.map(Money::from_nanos),
        candidates: match candidates {
            None => Vec::new(),
            Some(text) => serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?,
        },
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
