//! The ledger: opening it, taking records, reading.
//!
//! A ledger in a file has two parts: the journal, which acknowledges a record with one write, and the database, which one
//! thread brings up to date in batches, roll-ups in the same transaction. Every reading first waits until the database has
//! all that was acknowledged, also what other processes have only in their journals.
//!
//! What is durable when: with [`Durability::Process`] an acknowledged record is in the hands of the operating system, and
//! survives the end of the process however it comes; with [`Durability::Power`] it is on the device, and survives a power
//! failure too. The database itself is consistent after either.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};

use crate::{
    LedgerError, PredictionErrors, RequestRecord, Totals, UsageFilter,
    apply::{self, Books},
    budget::Meter,
    prediction::Compared,
    query::UsageQuery,
    requests::RequestQuery,
    rollup::stored,
    rows, schema,
    writer::Writer,
};

/// Most records that predictions are compared in.
pub const MOST_COMPARED: usize = 10_000;

/// Readers kept open for later use.
const READERS: usize = 4;

/// How long one process waits for another to finish with the database.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an acknowledged record survives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, however it comes.
    #[default]
    Process,
    /// A power failure too: every record is synced, together with those that come meanwhile.
    Power,
}

/// How a ledger is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerOptions {
    /// What an acknowledged record survives.
    pub durability: Durability,
    /// Whether details may hold questions, answers and quotes. The ledger only tells: who makes details obeys.
    pub texts: bool,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self { durability: Durability::Process, texts: true }
    }
}

/// What a rating of a request will need, and the id its caller knows it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decided {
    /// Id its caller knows it by.
    pub request_id: String,
    /// What the planner keeps of it, opaque to the ledger.
    pub decision: String,
}

/// Texts and decisions of one request, kept apart from its record and for a shorter time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// The question, which is searched; absent where no texts are kept.
    pub question: Option<String>,
    /// JSON.
    pub body: String,
}

/// Makes a [`Detail`] on the ledger's own thread, so that the request does not wait for it.
pub type DetailSource = Box<dyn FnOnce() -> Option<Detail> + Send>;

/// A record with what belongs to it.
pub struct Entry {
    /// The record.
    pub record: RequestRecord,
    /// Of an answer that may be rated.
    pub decided: Option<Decided>,
    /// Detail. Not acknowledged: one that was not written yet when the process is killed is lost.
    pub detail: Option<DetailSource>,
}

impl From<RequestRecord> for Entry {
    fn from(record: RequestRecord) -> Self {
        Self { record, decided: None, detail: None }
    }
}

type Observer = Box<dyn Fn(&RequestRecord) + Send + Sync>;

/// The ledger. Share it in an `Arc`.
pub struct Ledger {
    /// The connection that writes, shared with the writer's thread.
    books: Arc<Mutex<Books>>,
    /// Connections that read; `None` in memory, where there is only one connection.
    readers: Option<Readers>,
    /// `None` in memory, where records are written at once.
    writer: Option<Writer>,
    observers: RwLock<Vec<Observer>>,
    pub(crate) meter: Meter,
    texts: bool,
}

struct Readers {
    path: std::path::PathBuf,
    idle: Mutex<Vec<Connection>>,
}

/// A panic elsewhere cannot leave a transaction half done: what the lock guards is usable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// Opens the ledger at `path`, or makes it, surviving the end of the process. Its folder must exist.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        Self::open_with(path, LedgerOptions::default())
    }

    /// Opens the ledger at `path`, or makes it. Its folder must exist. What processes that were killed left in their
    /// journals is in the database when this returns.
    pub fn open_with(path: &Path, options: LedgerOptions) -> Result<Self, LedgerError> {
        let LedgerOptions { durability, texts } = options;
        let open = |source| LedgerError::Open { path: path.to_owned(), source };
        let mut connection = Connection::open(path).map_err(open)?;
        // Another process may be reading or writing: wait rather than fail.
        connection.busy_timeout(PATIENCE).map_err(open)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(open)?;
        let synchronous = match durability {
            Durability::Process => "normal",
            Durability::Power => "full",
        };
        connection.pragma_update(None, "synchronous", synchronous).map_err(open)?;
        schema::migrate(&mut connection, path)?;
        let books = Arc::new(Mutex::new(Books::new(connection)));
        let writer = Writer::start(path, durability, Arc::clone(&books))?;
        let ledger = Self {
            books,
            readers: Some(Readers { path: path.to_owned(), idle: Mutex::default() }),
            writer: Some(writer),
            observers: RwLock::default(),
            meter: Meter::default(),
            texts,
        };
        ledger.settle()?;
        Ok(ledger)
    }

    /// A ledger that ends with the process.
    pub fn in_memory() -> Result<Self, LedgerError> {
        let mut connection = Connection::open_in_memory()?;
        schema::migrate(&mut connection, Path::new(":memory:"))?;
        Ok(Self {
            books: Arc::new(Mutex::new(Books::new(connection))),
            readers: None,
            writer: None,
            observers: RwLock::default(),
            meter: Meter::default(),
            texts: LedgerOptions::default().texts,
        })
    }

    /// Whether details may hold questions, answers and quotes.
    pub fn keeps_texts(&self) -> bool {
        self.texts
    }

    /// Calls `observer` with every record from now on, on the thread that brings it, right after it is acknowledged. It
    /// must be quick.
    pub fn observe(&self, observer: impl Fn(&RequestRecord) + Send + Sync + 'static) {
        self.observers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(observer));
    }

    /// Takes one record. It is durable when this returns.
    pub fn record(&self, record: &RequestRecord) -> Result<(), LedgerError> {
        self.enter(record.clone().into())
    }

    /// Takes one record with what belongs to it. Record and decision are durable when this returns.
    pub fn enter(&self, mut entry: Entry) -> Result<(), LedgerError> {
        make_finite(&mut entry.record);
        // Observed from a copy: by then the entry is on its way.
        let observers = self.observers.read().unwrap_or_else(PoisonError::into_inner);
        let record = entry.record.clone();
        match &self.writer {
            Some(writer) => writer.enter(entry)?,
            None => apply::apply(&mut lock(&self.books), &[apply::Ready::from(entry)])?,
        }
        self.meter.spend(&record);
        observers.iter().for_each(|observer| observer(&record));
        Ok(())
    }

    /// Waits until the database has every acknowledged record, those of other processes included.
    pub(crate) fn settle(&self) -> Result<(), LedgerError> {
        self.writer.as_ref().map_or(Ok(()), |writer| writer.settle(&self.books))
    }

    /// Runs `read` on a connection, after every acknowledged record is in the database.
    pub(crate) fn reading<T>(
        &self,
        read: impl FnOnce(&mut Connection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.settle()?;
        let Some(readers) = &self.readers else { return read(&mut lock(&self.books).connection) };
        let idle = lock(&readers.idle).pop();
        let mut connection = match idle {
            Some(connection) => connection,
            None => {
                let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
                let connection = Connection::open_with_flags(&readers.path, flags)?;
                connection.busy_timeout(PATIENCE)?;
                connection
            }
        };
        let result = read(&mut connection);
        let mut idle = lock(&readers.idle);
        if idle.len() < READERS {
            idle.push(connection);
        }
        result
    }

    /// Runs `write` on the connection that writes, after every acknowledged record is in the database.
    pub(crate) fn writing<T>(
        &self,
        write: impl FnOnce(&mut Connection) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        self.settle()?;
        write(&mut lock(&self.books).connection)
    }

    /// The newest `limit` records, newest first; of records of the same microsecond, the one written last comes first.
    pub fn recent(&self, limit: usize) -> Result<Vec<RequestRecord>, LedgerError> {
        Ok(self.requests(&RequestQuery { limit, ..RequestQuery::default() })?.requests)
    }

    /// How good predictions were since `since`, or of all records, but at most of the newest [`MOST_COMPARED`].
    pub fn predictions(&self, since: Option<jiff::Timestamp>) -> Result<Vec<PredictionErrors>, LedgerError> {
        self.reading(|connection| {
            let mut select = connection.prepare_cached(&format!(
                "SELECT {} FROM requests WHERE at_us >= ?1 ORDER BY at_us DESC, rowid DESC LIMIT ?2",
                rows::COLUMNS
            ))?;
            let since = since.map_or(i64::MIN, |since| since.as_microsecond());
            let mut rows = select.query([since, stored(MOST_COMPARED)])?;
            let mut records = Vec::new();
            while let Some(row) = rows.next()? {
                records.extend(Compared::of(&rows::read(row)?));
            }
            Ok(PredictionErrors::of(records))
        })
    }

    /// Sums over all records since `since`, or over all there ever were.
    pub fn totals(&self, since: Option<jiff::Timestamp>) -> Result<Totals, LedgerError> {
        self.totals_of(since, UsageFilter::default())
    }

    /// Sums over the records that `filter` selects, since `since` or over all there ever were.
    pub fn totals_of(&self, since: Option<jiff::Timestamp>, filter: UsageFilter) -> Result<Totals, LedgerError> {
        let table = self.usage(&UsageQuery { from: since, filter, ..UsageQuery::default() })?;
        Ok(Totals { by_route: table.by_route, all: table.total })
    }
}

/// JSON has no infinite or undefined numbers: such a time would make the record unreadable.
fn make_finite(record: &mut RequestRecord) {
    let t = &mut record.timings;
    let times = [
        &mut t.embed_ms,
        &mut t.lexical_ms,
        &mut t.vector_ms,
        &mut t.fuse_ms,
        &mut t.plan_ms,
        &mut t.queue_ms,
        &mut t.prefill_ms,
        &mut t.decode_ms,
        &mut t.cite_ms,
        &mut t.ttft_ms,
        &mut t.total_ms,
        &mut record.predicted.ttft_ms,
        &mut record.predicted.latency_ms,
    ];
    let routes = record.candidates.iter_mut().flat_map(|route| [&mut route.latency_ms, &mut route.quality]);
    for value in times.into_iter().chain(routes) {
        if !value.is_finite() {
            *value = 0.0;
        }
    }
}
