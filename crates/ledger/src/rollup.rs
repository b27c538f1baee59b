//! Sums by minute, hour and day, kept beside the records.
//!
//! A row holds the sums of one span of time and one combination of dimensions. Rows are brought up to date in the transaction
//! that adds the records, so that at any moment the rows of any span add up to the records.
//!
//! Times are microseconds since 1970 in UTC; days are UTC days.

use std::collections::{BTreeMap, HashMap};

use rusqlite::{Connection, OptionalExtension, Row, params};

use edgewise_types::{Money, Usage};

use crate::{Counterfactual, LedgerError, Missed, RequestRecord, Sums, sums::Tally};

/// Microseconds of a minute.
pub(crate) const MINUTE: i64 = 60_000_000;
/// Microseconds of an hour.
pub(crate) const HOUR: i64 = 60 * MINUTE;
/// Microseconds of a day.
pub(crate) const DAY: i64 = 24 * HOUR;

/// The spans that rows are kept for, shortest first.
pub(crate) const SPANS: [i64; 3] = [MINUTE, HOUR, DAY];

/// Number of dimensions.
pub(crate) const DIMENSIONS: usize = 7;

/// Values of tenant, key, collection, model, route, status and work, in this order; absent ones are empty.
pub(crate) type Values = [String; DIMENSIONS];

/// Columns of the table `dimensions`, in the order of [`Values`].
pub(crate) const DIMENSION_COLUMNS: &str = "tenant, key, collection, model, route, status, work";

/// Columns that a [`Tally`] is read from, in the order of [`read`].
pub(crate) const COLUMNS: &str = "requests, input_tokens, cache_read_tokens, cache_write_5m_tokens, \
    cache_write_1h_tokens, output_tokens, cost_nanos, full_cost_nanos, saved_nanos, miss, alternatives, ttft, latency";

/// The dimensions of a record.
pub(crate) fn values(record: &RequestRecord) -> Values {
    [
        record.tenant.0.to_string(),
        record.key.clone().unwrap_or_default(),
        record.collection.as_ref().map_or_else(String::new, ToString::to_string),
        record.model.clone(),
        record.route.clone(),
        record.status.as_str().to_owned(),
        record.work.as_str().to_owned(),
    ]
}

/// The beginning of the span that `at` is in.
pub(crate) fn floor(at: i64, span: i64) -> i64 {
    at.div_euclid(span).saturating_mul(span)
}

/// The first beginning of a span that is not before `at`.
pub(crate) fn ceil(at: i64, span: i64) -> i64 {
    let floor = floor(at, span);
    if floor == at { at } else { floor.saturating_add(span) }
}

/// Numbers of combinations that were looked up. To be forgotten when a transaction fails, which may have made some of them.
pub(crate) type Known = HashMap<Values, i64>;

/// What a batch of records adds to the rows.
#[derive(Debug, Default)]
pub(crate) struct Additions(BTreeMap<(i64, i64), HashMap<Values, Tally>>);

impl Additions {
    /// Adds a record to a row of each span.
    pub(crate) fn record(&mut self, record: &RequestRecord) {
        let (at, values) = (record.at.as_microsecond(), values(record));
        for span in SPANS {
            let rows = self.0.entry((span, floor(at, span))).or_default();
            match rows.get_mut(&values) {
                Some(tally) => tally.record(record),
                None => rows.entry(values.clone()).or_default().record(record),
            }
        }
    }

    /// Adds everything to the rows.
    pub(crate) fn write(self, connection: &Connection, known: &mut Known) -> Result<(), LedgerError> {
        let select = format!("SELECT {COLUMNS} FROM rollups WHERE span = ?1 AND at_us = ?2 AND dimensions = ?3");
        let mut select = connection.prepare_cached(&select)?;
        let mut replace = connection.prepare_cached(&format!(
            "INSERT OR REPLACE INTO rollups (span, at_us, dimensions, {COLUMNS}) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)"
        ))?;
        for ((span, at), rows) in self.0 {
            for (values, more) in rows {
                let dimensions = number(connection, values, known)?;
                let before = select.query_row(params![span, at, dimensions], |row| Ok(read(row, 0))).optional()?;
                let tally = match before.transpose()? {
                    Some(mut before) => {
                        before.merge(&more);
                        before
                    }
                    None => more,
                };
                let Tally { sums, ttft, latency } = &tally;
                replace.execute(params![
                    span,
                    at,
                    dimensions,
                    stored(sums.requests),
                    stored(sums.usage.input_tokens),
                    stored(sums.usage.cache_read_tokens),
                    stored(sums.usage.cache_write_5m_tokens),
                    stored(sums.usage.cache_write_1h_tokens),
                    stored(sums.usage.output_tokens),
                    sums.cost.nanos(),
                    sums.full_cost.nanos(),
                    sums.saved_against_full.nanos(),
                    misses(sums),
                    alternatives(sums),
                    Some(ttft.encode()).filter(|bytes| !bytes.is_empty()),
                    Some(latency.encode()).filter(|bytes| !bytes.is_empty()),
                ])?;
            }
        }
        Ok(())
    }
}

/// SQLite's integers are signed. A count that large does not occur; it would be stored as the largest.
pub(crate) fn stored(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count as it was stored.
pub(crate) fn count(row: &Row<'_>, column: usize) -> rusqlite::Result<usize> {
    let stored: i64 = row.get(column)?;
    usize::try_from(stored).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, stored))
}

/// The number of a combination, which it gets when it is first seen.
fn number(connection: &Connection, values: Values, known: &mut Known) -> Result<i64, LedgerError> {
    if let Some(number) = known.get(&values) {
        return Ok(*number);
    }
    let holders = "?1, ?2, ?3, ?4, ?5, ?6, ?7";
    let insert = format!("INSERT OR IGNORE INTO dimensions ({DIMENSION_COLUMNS}) VALUES ({holders})");
    connection.prepare_cached(&insert)?.execute(rusqlite::params_from_iter(&values))?;
    let select = format!("SELECT number FROM dimensions WHERE ({DIMENSION_COLUMNS}) = ({holders})");
    let number =
        connection.prepare_cached(&select)?.query_row(rusqlite::params_from_iter(&values), |row| row.get(0))?;
    known.insert(values, number);
    Ok(number)
}

/// Requests and tokens by reason, as JSON; `None` if there are none.
fn misses(sums: &Sums) -> Option<String> {
    let of = |missed: &Missed| [stored(missed.requests), stored(missed.tokens)];
    packed(sums.miss.iter().map(|(reason, missed)| (reason, of(missed))).collect())
}

/// Requests, cost and what was paid by route, as JSON; `None` if there are none.
fn alternatives(sums: &Sums) -> Option<String> {
    let of = |route: &Counterfactual| [stored(route.requests), route.cost.nanos(), route.paid.nanos()];
    packed(sums.alternatives.iter().map(|(name, route)| (name, of(route))).collect())
}

fn packed<const N: usize>(map: BTreeMap<&String, [i64; N]>) -> Option<String>
where
    [i64; N]: serde::Serialize,
{
    if map.is_empty() {
        return None;
    }
    // Keys are strings and values integers: nothing in it can fail to be written.
    serde_json::to_string(&map).ok()
}

/// Reads [`COLUMNS`], of which `first` is the first.
pub(crate) fn read(row: &Row<'_>, first: usize) -> Result<Tally, LedgerError> {
    let damaged =
        |what: &str| LedgerError::Damaged { id: "roll-up".to_owned(), reason: format!("its {what} are not readable") };
    let count = |column: usize| count(row, first + column);
    let money = |column: usize| row.get(first + column).map(Money::from_nanos);
    let unsigned = |stored: i64| usize::try_from(stored).unwrap_or(0);
    let mut tally = Tally {
        sums: Sums {
            requests: count(0)?,
            usage: Usage {
                input_tokens: count(1)?,
                cache_read_tokens: count(2)?,
                cache_write_5m_tokens: count(3)?,
                cache_write_1h_tokens: count(4)?,
                output_tokens: count(5)?,
            },
            cost: money(6)?,
            full_cost: money(7)?,
            saved_against_full: money(8)?,
            ..Sums::default()
        },
        ..Tally::default()
    };
    if let Some(text) = row.get_ref(first + 9)?.as_str_or_null().map_err(|_| damaged("miss reasons"))? {
        let stored: BTreeMap<String, [i64; 2]> = serde_json::from_str(text).map_err(|_| damaged("miss reasons"))?;
        let missed = |[requests, tokens]: [i64; 2]| Missed { requests: unsigned(requests), tokens: unsigned(tokens) };
        tally.sums.miss = stored.into_iter().map(|(reason, counts)| (reason, missed(counts))).collect();
    }
    if let Some(text) = row.get_ref(first + 10)?.as_str_or_null().map_err(|_| damaged("other routes"))? {
        let stored: BTreeMap<String, [i64; 3]> = serde_json::from_str(text).map_err(|_| damaged("other routes"))?;
        let route = |[requests, cost, paid]: [i64; 3]| Counterfactual {
            requests: unsigned(requests),
            cost: Money::from_nanos(cost),
            paid: Money::from_nanos(paid),
        };
        tally.sums.alternatives = stored.into_iter().map(|(name, sums)| (name, route(sums))).collect();
    }
    for (column, histogram) in [(11, &mut tally.ttft), (12, &mut tally.latency)] {
        if let Some(bytes) = row.get_ref(first + column)?.as_blob_or_null().map_err(|_| damaged("times"))? {
            histogram.merge_encoded(bytes).ok_or_else(|| damaged("times"))?;
        }
    }
    Ok(tally)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_begin_at_full_minutes_hours_and_days_also_before_1970() {
        assert_eq!((floor(MINUTE + 1, MINUTE), ceil(MINUTE + 1, MINUTE)), (MINUTE, 2 * MINUTE));
        assert_eq!((floor(MINUTE, MINUTE), ceil(MINUTE, MINUTE)), (MINUTE, MINUTE));
        assert_eq!((floor(-1, DAY), ceil(-1, DAY)), (-DAY, 0));
    }
}
