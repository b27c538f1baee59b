//! Retained prefixes on disk: put back at start, written when the worker has nothing better to do.
//!
//! Pages are read a few milliseconds' worth at a time, between which the worker looks for requests, and a thread writes
//! them: nobody waits for the disk. While requests run, one prefix is begun every [`BUSY`] at most; whatever is not
//! written when the engine is shut down is written then. A killed process loses what it had no time for.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use edgewise_kv_cache::{CacheOptions, Digest, KvCache, Move, PageId, Place};
use edgewise_telemetry::names::{self, labels};

use super::storage::Storage;
use crate::{
    EngineError,
    durable::{DurableOptions, DurablePrefixes, Now, PageMemory, Restored, Synced},
    step_model::StepModel,
};

/// How long running requests have peace between two prefixes written.
const BUSY: Duration = Duration::from_secs(30);
/// How long the disk is given for a part of a file before it is offered the next.
const DISK: Duration = Duration::from_millis(2);

/// A folder that this process alone uses, and the secret that goes with what is in it.
pub(crate) struct Home {
    folder: PathBuf,
    /// Other processes keep out as long as it is open.
    _lock: File,
    pub(crate) secret: [u8; 32],
}

impl Home {
    /// Takes the folder. What keeps it from being used is reported: an engine without one works, it only forgets.
    pub(crate) fn open(folder: &Path) -> Option<Self> {
        let path = folder.display();
        match Self::try_open(folder) {
            Ok(Some(home)) => Some(home),
            Ok(None) => {
                tracing::info!(%path, "another process keeps its prefixes there; this one's end with it");
                None
            }
            Err(error) => {
                tracing::warn!(%path, %error, "prefixes cannot be kept on disk; they end with the process");
                None
            }
        }
    }

    fn try_open(folder: &Path) -> Result<Option<Self>, EngineError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| EngineError::Io { path, source }
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed(folder))?;
        let path = folder.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed(&path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(source)) => return Err(EngineError::Io { path, source }),
        }
        let path = folder.join("secret");
        let secret = secret(&path).map_err(failed(&path))?;
        Ok(Some(Self { folder: folder.to_owned(), _lock: lock, secret }))
    }
}

/// The secret kept at `path`; a new one if there is none or it was cut off.
fn secret(path: &Path) -> std::io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    match File::open(path).and_then(|mut file| file.read_exact(&mut secret)) {
        Ok(()) => return Ok(secret),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::UnexpectedEof) => {}
        Err(e) => return Err(e),
    }
    secret = rand::random();
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&secret)?;
    file.sync_all()?;
    Ok(secret)
}

/// The pages, as the files want them.
struct Memory<'a, M: StepModel> {
    model: &'a M,
    storage: &'a mut Storage<M>,
    failed: Option<EngineError>,
}

impl<M: StepModel> PageMemory for Memory<'_, M> {
    fn execute(&mut self, moves: &[Move]) {
        let outcome = self.storage.execute(self.model, moves);
        self.failed = self.failed.take().or(outcome.err());
    }

    fn read(&mut self, place: Place, out: &mut Vec<u8>) {
        let outcome = self.storage.read(self.model, place, out);
        self.failed = self.failed.take().or(outcome.err());
    }

    fn write(&mut self, page: PageId, bytes: &[u8]) -> Result<(), EngineError> {
        self.storage.write(self.model, page, bytes)
    }
}

/// When what is written.
pub(crate) struct Persistence {
    files: DurablePrefixes,
    _home: Home,
    /// Whether there may be something to write.
    pub(crate) pending: bool,
    synced: Duration,
}

impl Persistence {
    /// Opens the files and puts back what they hold.
    pub(crate) fn restore<M: StepModel>(
        home: Home,
        plan: &CacheOptions,
        cache: &mut KvCache,
        model: &M,
        storage: &mut Storage<M>,
    ) -> Result<Self, EngineError> {
        let page_bytes = model.page_bytes();
        let options = DurableOptions {
            folder: home.folder.join("prefixes"),
            max_bytes: (plan.pages as u64).saturating_mul(page_bytes as u64),
            identity: plan.identity,
            secret: home.secret,
            page_tokens: plan.page_tokens,
            page_bytes,
        };
        let now = Now { cache: Duration::ZERO, wall: SystemTime::now() };
        let mut files = DurablePrefixes::open(options, now)?;
        let mut memory = Memory { model, storage, failed: None };
        let Restored { prefixes, tokens, refused, left } = files.restore(cache, now, &mut memory);
        if let Some(error) = memory.failed {
            return Err(error);
        }
        if prefixes + refused + left > 0 {
            tracing::info!(prefixes, tokens, refused, left, "prefixes were put back from disk");
        }
        for (outcome, count) in [("restored", prefixes), ("refused", refused), ("left", left)] {
            count_files(outcome, count);
        }
        Ok(Self { files, _home: home, pending: false, synced: Duration::ZERO })
    }

    /// Whether it is time to write although requests run.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.files.is_saving() || now.saturating_sub(self.synced) >= BUSY
    }

    /// How long to wait for requests before the next part is written; none: until there is something to write.
    pub(crate) fn patience(&self) -> Option<Duration> {
        match self.files.is_saving() {
            true => Some(DISK),
            false => self.pending.then_some(Duration::ZERO),
        }
    }

    /// Goes on writing: a little, or to the end. What a file system refuses is reported and tried again later.
    ///
    /// # Errors
    /// When pages could not be moved: then nothing may be computed any more.
    pub(crate) fn sync<M: StepModel>(
        &mut self,
        mut cache: &Mutex<KvCache>,
        now: Duration,
        model: &M,
        storage: &mut Storage<M>,
        all: bool,
    ) -> Result<(), EngineError> {
        self.synced = now;
        let mut memory = Memory { model, storage, failed: None };
        let now = Now { cache: now, wall: SystemTime::now() };
        // Look-ups go on meanwhile: they change no page.
        let outcome = match all {
            true => self.files.sync(&mut cache, now, &mut memory, usize::MAX),
            false => self.files.sync_some(&mut cache, now, &mut memory),
        };
        if let Some(error) = memory.failed {
            return Err(error);
        }
        match outcome {
            Ok(Synced { written, extended, expired, waiting }) => {
                self.pending = waiting > 0 || self.files.is_saving();
                for (outcome, count) in [("written", written), ("extended", extended), ("expired", expired)] {
                    count_files(outcome, count);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "a prefix could not be kept on disk");
                count_files("failed", 1);
                self.pending = true;
            }
        }
        Ok(())
    }

    /// Forgets a prefix.
    pub(crate) fn remove(&mut self, digest: &Digest) {
        if let Err(error) = self.files.remove(digest) {
            tracing::warn!(%error, "a released prefix could not be removed from disk");
        }
    }
}

fn count_files(outcome: &'static str, count: usize) {
    if count > 0 {
        metrics::counter!(names::PREFIX_STORE_TOTAL, labels::OUTCOME => outcome).increment(count as u64);
    }
}
