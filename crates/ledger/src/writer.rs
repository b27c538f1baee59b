//! The journal's writers and the thread that brings the database up to date.
//!
//! Whoever brings a record appends it to the journal under a lock and goes on; with [`Durability::Power`] it also waits for a
//! sync, one of which serves all who wait. The thread takes what has come meanwhile, up to a batch, into one transaction. It
//! waits a little for more unless somebody waits for it.
//!
//! A batch that cannot be written, as when the disk is full or another process holds the database, stays in memory and in the
//! journal and is tried again; readings fail meanwhile, and so do new records once too many wait.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    Decided, Durability, Entry, LedgerError, RequestRecord,
    apply::{Books, Ready, apply},
    journal::{self, Found, Journal},
    retention,
    store::lock,
};

/// Records in one transaction at most.
const BATCH: usize = 512;

/// How long the thread waits for more records after the first of a batch.
const GATHER: Duration = Duration::from_millis(20);

/// How long it waits after a failure.
const RETRY: Duration = Duration::from_millis(250);

/// How long a reading waits for the database to catch up.
const CATCH_UP: Duration = Duration::from_secs(20);

/// Records that may wait for the database; more wait for it themselves.
const MOST_WAITING: u64 = 65_536;

/// Length from which the journal is emptied as soon as the database has all of it.
const EMPTY_FROM: u64 = 1 << 20;

/// How long nothing has come when a shorter one is emptied too.
const IDLE: Duration = Duration::from_secs(1);

/// What the journal keeps of an entry.
#[derive(Serialize)]
struct Kept<'a> {
    record: &'a RequestRecord,
    decided: &'a Option<Decided>,
}

#[derive(Deserialize)]
struct Read {
    record: RequestRecord,
    decided: Option<Decided>,
}

enum Message {
    Entry(Box<Entry>),
    /// Somebody waits.
    Hurry,
    Stop,
}

struct State {
    /// `None` once the writer has ended.
    journal: Option<Journal>,
    appended: u64,
    applied: u64,
    /// Entries that are on the device.
    synced: u64,
    syncing: bool,
    /// Readings that wait.
    waiting: usize,
    /// Why the last batch could not be written.
    failed: Option<String>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait_timeout(state, Duration::from_millis(100)).unwrap_or_else(PoisonError::into_inner).0
    }
}

/// Takes entries.
pub(crate) struct Writer {
    path: PathBuf,
    own: PathBuf,
    shared: Arc<Shared>,
    queue: mpsc::Sender<Message>,
    /// For syncing without holding the journal; only where records are synced.
    sync: Option<File>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Makes a journal beside the ledger at `path` and starts the thread.
    pub(crate) fn start(path: &Path, durability: Durability, books: Arc<Mutex<Books>>) -> Result<Self, LedgerError> {
        let journal = Journal::create(path).map_err(LedgerError::journal)?;
        let sync = match durability {
            Durability::Process => None,
            Durability::Power => Some(journal.handle().map_err(LedgerError::journal)?),
        };
        let own = journal.path().to_owned();
        let state = State {
            journal: Some(journal),
            appended: 0,
            applied: 0,
            synced: 0,
            syncing: false,
            waiting: 0,
            failed: None,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let (queue, messages) = mpsc::channel();
        let thread = {
            let shared = Arc::clone(&shared);
            let run = move || run(&shared, &books, &messages);
            std::thread::Builder::new().name("ledger".to_owned()).spawn(run).map_err(LedgerError::journal)?
        };
        Ok(Self { path: path.to_owned(), own, shared, queue, sync, thread: Some(thread) })
    }

    /// Takes an entry. It is durable when this returns.
    pub(crate) fn enter(&self, entry: Entry) -> Result<(), LedgerError> {
        let kept = Kept { record: &entry.record, decided: &entry.decided };
        let payload = serde_json::to_vec(&kept)
            .map_err(|error| LedgerError::Damaged { id: entry.record.id.clone(), reason: error.to_string() })?;
        let mut state = lock(&self.shared.state);
        while state.appended - state.applied >= MOST_WAITING {
            if let Some(reason) = &state.failed {
                return Err(LedgerError::Behind { reason: reason.clone() });
            }
            state = self.shared.wait(state);
        }
        let Some(journal) = &mut state.journal else { return Err(LedgerError::ended()) };
        journal.append(&payload).map_err(LedgerError::journal)?;
        state.appended += 1;
        let number = state.appended;
        // Sent under the lock, so that the thread applies entries in the order in which they were appended.
        if self.queue.send(Message::Entry(Box::new(entry))).is_err() {
            return Err(LedgerError::ended());
        }
        match &self.sync {
            None => Ok(()),
            Some(file) => self.sync(state, number, file),
        }
    }

    /// Waits until entry `number` is on the device. Whoever comes first syncs for all that are there by then.
    fn sync<'a>(&'a self, mut state: MutexGuard<'a, State>, number: u64, file: &File) -> Result<(), LedgerError> {
        while state.synced < number {
            if state.syncing {
                state = self.shared.wait(state);
                continue;
            }
            state.syncing = true;
            let all = state.appended;
            drop(state);
            let synced = file.sync_data();
            state = lock(&self.shared.state);
            state.syncing = false;
            self.shared.changed.notify_all();
            synced.map_err(LedgerError::journal)?;
            state.synced = state.synced.max(all);
        }
        Ok(())
    }

    /// Waits until the database has all that was entered here, and enters what other processes have in their journals.
    pub(crate) fn settle(&self, books: &Mutex<Books>) -> Result<(), LedgerError> {
        self.catch_up()?;
        for found in journal::others(&self.path, &self.own).map_err(LedgerError::journal)? {
            adopt(&mut lock(books), found)?;
        }
        Ok(())
    }

    fn catch_up(&self) -> Result<(), LedgerError> {
        let mut state = lock(&self.shared.state);
        let all = state.appended;
        if state.applied >= all {
            return Ok(());
        }
        state.waiting += 1;
        // The thread only ends when the writer is dropped, which nobody can while it is borrowed here.
        let _ = self.queue.send(Message::Hurry);
        let began = Instant::now();
        let result = loop {
            if state.applied >= all {
                break Ok(());
            }
            if let Some(reason) = &state.failed {
                break Err(LedgerError::Behind { reason: reason.clone() });
            }
            if began.elapsed() > CATCH_UP {
                break Err(LedgerError::Behind { reason: "the database is too busy".to_owned() });
            }
            state = self.shared.wait(state);
        };
        state.waiting -= 1;
        result
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.queue.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            // A thread that panicked leaves the journal, which the next start reads.
            let _ = thread.join();
        }
    }
}

/// Enters what another process has in its journal, or left in it. What is older than the oldest record that is kept was
/// entered long ago, and would be counted twice.
fn adopt(books: &mut Books, found: Found) -> Result<(), LedgerError> {
    let oldest = retention::mark(&books.connection, retention::RECORDS)?.unwrap_or(i64::MIN);
    let read = |payload: &Vec<u8>| match serde_json::from_slice::<Read>(payload) {
        Ok(Read { record, decided }) => Some(Ready { record, decided, detail: None }),
        Err(error) => {
            tracing::error!(%error, "a record in a journal of the ledger cannot be read: it was left there by another version");
            None
        }
    };
    let entries: Vec<Option<Ready>> = found.payloads.iter().map(read).collect();
    let whole = entries.iter().all(Option::is_some);
    let kept = |entry: &Ready| entry.record.at.as_microsecond() >= oldest;
    let entries: Vec<Ready> = entries.into_iter().flatten().filter(kept).collect();
    for batch in entries.chunks(BATCH) {
        apply(books, batch)?;
    }
    // What cannot be read here stays for a version that can.
    if whole {
        found.done().map_err(LedgerError::journal)?;
    }
    Ok(())
}

/// The thread: batches to the database until it is told to stop and everything is there.
fn run(shared: &Shared, books: &Mutex<Books>, messages: &mpsc::Receiver<Message>) {
    let mut batch: Vec<Ready> = Vec::new();
    loop {
        let Gathered { stop, idle } = gather(shared, messages, &mut batch);
        if !batch.is_empty() && !write(shared, books, &mut batch) {
            if stop {
                // The journal keeps it for the next start.
                lock(&shared.state).journal = None;
                return;
            }
            std::thread::sleep(RETRY);
            continue;
        }
        let mut state = lock(&shared.state);
        if state.applied < state.appended {
            continue;
        }
        if stop {
            let removed = state.journal.take().map_or(Ok(()), Journal::remove);
            if let Err(error) = removed {
                tracing::warn!(%error, "the ledger's journal could not be removed; the next start reads it");
            }
            return;
        }
        let emptied = match &mut state.journal {
            Some(journal) if journal.len() >= if idle { 1 } else { EMPTY_FROM } => journal.clear(),
            _ => Ok(()),
        };
        if let Err(error) = emptied {
            tracing::warn!(%error, "the ledger's journal could not be emptied");
        }
    }
}

/// How gathering ended.
struct Gathered {
    /// The thread is to stop when all is written.
    stop: bool,
    /// Nothing has come for a while.
    idle: bool,
}

/// Adds what has come to `batch`; waits for something to come if that is empty.
fn gather(shared: &Shared, messages: &mpsc::Receiver<Message>, batch: &mut Vec<Ready>) -> Gathered {
    let ended = |stop| Gathered { stop, idle: false };
    if batch.is_empty() {
        let kept = lock(&shared.state).journal.as_ref().is_some_and(|journal| journal.len() > 0);
        let first = match kept {
            true => messages.recv_timeout(IDLE),
            false => messages.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
        };
        match first {
            Ok(Message::Entry(entry)) => batch.push(Ready::from(*entry)),
            Ok(Message::Hurry) => {}
            Ok(Message::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return ended(true),
            Err(mpsc::RecvTimeoutError::Timeout) => return Gathered { stop: false, idle: true },
        }
    }
    let until = Instant::now() + GATHER;
    while batch.len() < BATCH {
        let patience = match lock(&shared.state).waiting {
            0 => until.saturating_duration_since(Instant::now()),
            _ => Duration::ZERO,
        };
        match messages.recv_timeout(patience) {
            Ok(Message::Entry(entry)) => batch.push(Ready::from(*entry)),
            Ok(Message::Hurry) => {}
            Ok(Message::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return ended(true),
            Err(mpsc::RecvTimeoutError::Timeout) => break,
        }
    }
    ended(false)
}

/// Writes a batch, and empties it if that worked.
fn write(shared: &Shared, books: &Mutex<Books>, batch: &mut Vec<Ready>) -> bool {
    let applied = apply(&mut lock(books), batch);
    let mut state = lock(&shared.state);
    let worked = match applied {
        Ok(()) => {
            state.applied += batch.len() as u64;
            state.failed = None;
            batch.clear();
            true
        }
        Err(error) => {
            if state.failed.is_none() {
                tracing::error!(%error, "records cannot be entered into the ledger; they stay in its journal");
            }
            state.failed = Some(error.to_string());
            false
        }
    };
    shared.changed.notify_all();
    worked
}
