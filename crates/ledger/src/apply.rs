//! Entering records into the database: rows, roll-ups, decisions and details in one transaction.

use rusqlite::{Connection, TransactionBehavior, params};

use crate::{
    Decided, Detail, Entry, LedgerError, RequestRecord,
    rollup::{Additions, Known},
    rows,
};

/// The connection that writes, and what it remembers.
pub(crate) struct Books {
    pub(crate) connection: Connection,
    known: Known,
}

impl Books {
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, known: Known::new() }
    }
}

/// An entry with its detail made.
pub(crate) struct Ready {
    pub(crate) record: RequestRecord,
    pub(crate) decided: Option<Decided>,
    pub(crate) detail: Option<Detail>,
}

impl From<Entry> for Ready {
    fn from(entry: Entry) -> Self {
        let detail = entry.detail.and_then(|source| source());
        Self { record: entry.record, decided: entry.decided, detail }
    }
}

/// Enters all of `entries`, or none.
pub(crate) fn apply(books: &mut Books, entries: &[Ready]) -> Result<(), LedgerError> {
    let applied = enter(books, entries);
    if applied.is_err() {
        // Numbers that the transaction gave went with it.
        books.known.clear();
    }
    applied
}

fn enter(books: &mut Books, entries: &[Ready]) -> Result<(), LedgerError> {
    let Books { connection, known } = books;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut additions = Additions::default();
    for Ready { record, decided, detail } in entries {
        let (id, new) = rows::insert(&transaction, record)?;
        if new {
            additions.record(record);
        }
        if let Some(Decided { request_id, decision }) = decided {
            let (at, tenant) = (record.at.as_microsecond(), record.tenant.0.as_ref());
            crate::feedback::insert(&transaction, params![id, request_id, at, tenant, decision])?;
        }
        if let Some(Detail { question, body }) = detail {
            let (at, tenant) = (record.at.as_microsecond(), record.tenant.0.as_ref());
            transaction
                .prepare_cached(
                    "INSERT OR REPLACE INTO details (id, at_us, tenant, question, body) VALUES (?1, ?2, ?3, ?4, ?5)",
                )?
                .execute(params![id, at, tenant, question, body])?;
        }
    }
    additions.write(&transaction, known)?;
    transaction.commit()?;
    Ok(())
}
