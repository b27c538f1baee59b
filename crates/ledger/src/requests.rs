//! Single requests: listing, searching, and one with its detail.

use rusqlite::{OptionalExtension, ToSql};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Ledger, LedgerError, RequestRecord, UsageFilter, rollup::stored, rows};

/// Which requests to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestQuery {
    /// Which records; absent dimensions take all.
    pub filter: UsageFilter,
    /// First moment.
    pub from: Option<jiff::Timestamp>,
    /// First moment that is not listed any more.
    pub to: Option<jiff::Timestamp>,
    /// The beginning of an id, of the record or of the request, or a part of the question where questions are kept;
    /// letters count the same in either case (ASCII only).
    pub text: Option<String>,
    /// Most to list.
    pub limit: usize,
    /// [`RequestPage::next`] of the page before.
    pub cursor: Option<String>,
}

/// Requests, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestPage {
    /// The records.
    pub requests: Vec<RequestRecord>,
    /// Where the next page begins; absent on the last one.
    pub next: Option<String>,
}

/// The id of the request in that of its record, which is the time in microseconds, a dash, and the former. There is an index
/// of exactly this.
const OF_REQUEST: &str = "substr(id, instr(id, '-') + 1)";

fn boxed(text: String) -> Box<dyn ToSql> {
    Box::new(text)
}

/// A condition and its parameter.
struct Conditions {
    sql: Vec<String>,
    parameters: Vec<Box<dyn ToSql>>,
}

impl Conditions {
    fn add(&mut self, condition: &str, parameter: impl ToSql + 'static) {
        self.parameters.push(Box::new(parameter));
        self.sql.push(condition.replace('?', &format!("?{}", self.parameters.len())));
    }
}

/// `text` as it stands, in a pattern of LIKE with `\` as its escape.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}

fn conditions(query: &RequestQuery) -> Result<Conditions, LedgerError> {
    let mut conditions = Conditions { sql: Vec::new(), parameters: Vec::new() };
    let UsageFilter { tenant, key, collection, model, route, status, work } = &query.filter;
    let equal = [
        ("tenant = ?", tenant),
        ("coalesce(key, '') = ?", key),
        ("collection = ?", collection),
        ("model = ?", model),
        ("route = ?", route),
        ("status = ?", status),
        ("work = ?", work),
    ];
    for (condition, value) in equal {
        if let Some(value) = value {
            conditions.add(condition, value.clone());
        }
    }
    // Said so that the index of those that were not answered is found to hold all that is asked for.
    if status.as_ref().is_some_and(|status| status != "answered") {
        conditions.sql.push("status <> 'answered'".to_owned());
    }
    if let Some(from) = query.from {
        conditions.add("at_us >= ?", from.as_microsecond());
    }
    if let Some(to) = query.to {
        conditions.add("at_us < ?", to.as_microsecond());
    }
    if let Some(text) = query.text.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
        // What sorts behind everything that begins with the text.
        let behind = format!("{text}{}", char::MAX);
        conditions.parameters.extend([text.to_owned(), behind, format!("%{}%", literal(text))].map(boxed));
        let [from, to, like] = [2, 1, 0].map(|place| format!("?{}", conditions.parameters.len() - place));
        conditions.sql.push(format!(
            "id IN (SELECT id FROM requests WHERE id >= {from} AND id < {to} \
             UNION SELECT id FROM requests WHERE {OF_REQUEST} >= {from} AND {OF_REQUEST} < {to} \
             UNION SELECT id FROM details WHERE question LIKE {like} ESCAPE '\\')"
        ));
    }
    if let Some(cursor) = &query.cursor {
        let place = cursor.split_once('.').and_then(|(at, row)| Some((at.parse::<i64>().ok()?, row.parse().ok()?)));
        let (at, row): (i64, i64) = place.ok_or_else(|| LedgerError::Cursor { cursor: cursor.clone() })?;
        conditions.add("at_us <= ?", at);
        conditions.add(&format!("(at_us < {at} OR rowid < ?)"), row);
    }
    Ok(conditions)
}

impl Ledger {
    /// Lists requests, newest first; of those of the same microsecond, the one written last comes first.
    ///
    /// # Errors
    /// [`LedgerError::Cursor`]; failures of the database.
    pub fn requests(&self, query: &RequestQuery) -> Result<RequestPage, LedgerError> {
        let Conditions { sql, mut parameters } = conditions(query)?;
        let conditions = if sql.is_empty() { "true".to_owned() } else { sql.join(" AND ") };
        // One more than asked for tells whether there is a next page.
        parameters.push(Box::new(stored(query.limit).saturating_add(1)));
        let select = format!(
            "SELECT {}, rowid FROM requests WHERE {conditions} ORDER BY at_us DESC, rowid DESC LIMIT ?{}",
            rows::COLUMNS,
            parameters.len()
        );
        let place = rows::COLUMNS.split(',').count();
        self.reading(|connection| {
            let mut select = connection.prepare_cached(&select)?;
            let mut found = select.query(rusqlite::params_from_iter(&parameters))?;
            let mut page = RequestPage::default();
            let mut last = None;
            while let Some(row) = found.next()? {
                if page.requests.len() == query.limit {
                    page.next = last.map(|(at, row): (i64, i64)| format!("{at}.{row}"));
                    break;
                }
                last = Some((row.get(1)?, row.get(place)?));
                page.requests.push(rows::read(row)?);
            }
            Ok(page)
        })
    }

    /// One request and the JSON of its detail, if that is still there. `id` is that of the record or of the request; of
    /// several requests of the same id, the newest is meant. With a tenant, only its requests are found.
    pub fn request(
        &self,
        id: &str,
        tenant: Option<&str>,
    ) -> Result<Option<(RequestRecord, Option<String>)>, LedgerError> {
        self.reading(|connection| {
            let mut select = connection.prepare_cached(&format!(
                "SELECT {} FROM requests WHERE (?2 IS NULL OR tenant = ?2) AND id IN \
                 (SELECT ?1 UNION SELECT id FROM requests WHERE {OF_REQUEST} = ?1) \
                 ORDER BY id = ?1 DESC, at_us DESC, rowid DESC LIMIT 1",
                rows::COLUMNS
            ))?;
            let record = select.query_row((id, tenant), |row| Ok(rows::read(row))).optional()?.transpose()?;
            let Some(record) = record else { return Ok(None) };
            let mut select = connection.prepare_cached("SELECT body FROM details WHERE id = ?1")?;
            let detail = select.query_row([&record.id], |row| row.get(0)).optional()?;
            Ok(Some((record, detail)))
        })
    }
}
