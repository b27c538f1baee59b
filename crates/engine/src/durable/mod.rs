//! Retained prefixes as files, so that they outlive the process.
//!
//! One file per prefix in one folder, which belongs to one server, model and configuration: what is found there and isn't
//! of use is reported and removed. A file is written under a temporary name, synced, renamed, and the folder synced, so
//! that a file under its own name is complete unless the medium lost something. What it lost is found by checksums; see
//! [`format`] for the layout.
//!
//! Invariants:
//! - What is restored is bit for bit what was saved, of the same model, configuration, secret and tenant.
//! - No page becomes readable before the whole file was checked.
//! - The files together are no larger than the limit; those that expire first go first.
//! - Files and folder are readable by their owner only: they hold what users wrote.
//!
//! Deliberately not here: when to save. The worker does when it has nothing better to do, and when it stops.

mod format;
mod saving;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use edgewise_kv_cache::{Digest, Export, Identity, KvCache, Move, PageId, Place, PrefixId, PrefixInfo};

use crate::EngineError;

use self::{
    format::{Header, Keys, Reader, Refusal},
    saving::{Saving, Target},
};

/// Files end in this, and in [`TEMPORARY`] while they are written.
const EXTENSION: &str = "prefix";
const TEMPORARY: &str = "tmp";
/// An expiry on disk may be this much too early before it is worth writing.
const SLACK: Duration = Duration::from_secs(15);
/// How long a prefix that couldn't be written is left alone.
const RETRY: Duration = Duration::from_secs(60);
/// Bytes of pages that are read in one go while others wait: copied in a millisecond or two.
const SLICE_BYTES: usize = 4 << 20;

/// Where and what.
#[derive(Clone)]
pub(crate) struct DurableOptions {
    /// Made if it isn't there. Nothing else may be kept in it.
    pub(crate) folder: PathBuf,
    /// Limit of all files together.
    pub(crate) max_bytes: u64,
    /// As given to the cache.
    pub(crate) identity: Identity,
    /// As given to the cache.
    pub(crate) secret: [u8; 32],
    /// Positions of a page.
    pub(crate) page_tokens: usize,
    /// Bytes of a page.
    pub(crate) page_bytes: usize,
}

/// The contents of pages, as the worker holds them.
pub(crate) trait PageMemory {
    /// Executes moves, in order.
    fn execute(&mut self, moves: &[Move]);
    /// Appends the bytes of a page.
    fn read(&mut self, place: Place, out: &mut Vec<u8>);
    /// Overwrites a page.
    fn write(&mut self, page: PageId, bytes: &[u8]) -> Result<(), EngineError>;
}

/// Whoever knows which prefixes are retained.
pub(crate) trait Retained {
    /// All of them, longest to live first.
    fn prefixes(&mut self, now: Duration) -> Vec<PrefixInfo>;
    /// See [`KvCache::export`].
    fn export(&mut self, id: PrefixId, now: Duration) -> Option<Export>;
}

impl Retained for KvCache {
    fn prefixes(&mut self, now: Duration) -> Vec<PrefixInfo> {
        KvCache::prefixes(self, now)
    }

    fn export(&mut self, id: PrefixId, now: Duration) -> Option<Export> {
        KvCache::export(self, id, now)
    }
}

/// A cache that others look things up in: nobody holds it while a file is written.
impl Retained for &Mutex<KvCache> {
    fn prefixes(&mut self, now: Duration) -> Vec<PrefixInfo> {
        self.lock().unwrap_or_else(PoisonError::into_inner).prefixes(now)
    }

    fn export(&mut self, id: PrefixId, now: Duration) -> Option<Export> {
        self.lock().unwrap_or_else(PoisonError::into_inner).export(id, now)
    }
}

/// The same instant on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// The cache's time.
    pub(crate) cache: Duration,
    /// The time of day, which goes on while no process runs.
    pub(crate) wall: SystemTime,
}

impl Now {
    fn millis(self) -> u64 {
        let since = self.wall.duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn expiry(self, left: Duration) -> u64 {
        self.millis().saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX))
    }
}

/// What [`DurablePrefixes::sync`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Synced {
    /// Files written.
    pub(crate) written: usize,
    /// Files whose expiry was moved.
    pub(crate) extended: usize,
    /// Files removed, since they had expired.
    pub(crate) expired: usize,
    /// Prefixes still to be written.
    pub(crate) waiting: usize,
}

/// What [`DurablePrefixes::restore`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Restored {
    /// Prefixes that are back.
    pub(crate) prefixes: usize,
    /// Their tokens.
    pub(crate) tokens: usize,
    /// Files that were refused and removed.
    pub(crate) refused: usize,
    /// Files that were left where they are, since the cache had no room or the file couldn't be read.
    pub(crate) left: usize,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    bytes: u64,
    /// Milliseconds since 1970.
    expires: u64,
}

/// The files.
pub(crate) struct DurablePrefixes {
    options: DurableOptions,
    keys: Keys,
    /// By digest in hexadecimal.
    files: BTreeMap<String, Known>,
    /// Prefixes that couldn't be written, and when to try again.
    put_off: BTreeMap<PrefixId, Duration>,
    /// The one that is being written.
    saving: Option<Saving>,
    slice_bytes: usize,
    refused: usize,
    create: fn(&Path) -> io::Result<File>,
}

impl DurablePrefixes {
    /// Opens the folder, and removes what was left half-written and what can be seen to be of no use.
    pub(crate) fn open(options: DurableOptions, now: Now) -> Result<Self, EngineError> {
        let folder = &options.folder;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| io_error(folder, e))?;
        let keys = Keys::new(&options.identity, &options.secret);
        let (files, put_off) = (BTreeMap::new(), BTreeMap::new());
        let slice_bytes = SLICE_BYTES;
        let mut store = Self { keys, files, put_off, saving: None, slice_bytes, refused: 0, create, options };
        for entry in fs::read_dir(&store.options.folder).map_err(|e| io_error(&store.options.folder, e))? {
            let path = entry.map_err(|e| io_error(&store.options.folder, e))?.path();
            match (path.extension().and_then(|e| e.to_str()), path.file_stem().and_then(|s| s.to_str())) {
                (Some(TEMPORARY), _) => store.remove_file(&path, "it was left half-written"),
                (Some(EXTENSION), Some(digest)) => match store.glance(&path, now) {
                    Ok(known) => _ = store.files.insert(digest.to_owned(), known),
                    Err(refusal) => store.refuse(&path, refusal),
                },
                _ => {}
            }
        }
        store.make_room(0);
        Ok(store)
    }

    /// Bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|known| known.bytes).sum()
    }

    /// Puts everything back that can be, longest to live first.
    pub(crate) fn restore(&mut self, cache: &mut KvCache, now: Now, memory: &mut impl PageMemory) -> Restored {
        let mut restored = Restored { refused: std::mem::take(&mut self.refused), ..Restored::default() };
        let mut names: Vec<(u64, String)> = self.files.iter().map(|(name, f)| (f.expires, name.clone())).collect();
        names.sort_unstable_by(|a, b| b.cmp(a));
        for (_, name) in names {
            let path = self.path(&name);
            match self.restore_file(&path, &name, cache, now, memory) {
                Ok(Some(tokens)) => {
                    restored.prefixes += 1;
                    restored.tokens += tokens;
                }
                Ok(None) => restored.left += 1,
                Err(refusal) => {
                    if matches!(refusal, Refusal::Content(_)) {
                        restored.refused += 1;
                        self.files.remove(&name);
                    } else {
                        restored.left += 1;
                    }
                    self.refuse(&path, refusal);
                }
            }
        }
        self.refused = 0;
        restored
    }

    /// The number of its tokens, or none if it has no room.
    fn restore_file(
        &self,
        path: &Path,
        name: &str,
        cache: &mut KvCache,
        now: Now,
        memory: &mut impl PageMemory,
    ) -> Result<Option<usize>, Refusal> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file), &self.keys, length)?;
        if !reader.is_named(name) {
            return Err(Refusal::Content("its name isn't its own".to_owned()));
        }
        let sizes = (reader.header.page_tokens, reader.header.page_bytes);
        if sizes != (self.options.page_tokens, self.options.page_bytes) {
            return Err(Refusal::Content("its pages have another size".to_owned()));
        }
        let mut record = reader.header.record.clone();
        record.left = Duration::from_millis(reader.expires.saturating_sub(now.millis())).min(record.ttl.duration());
        let tokens = record.at;
        let importing = match cache.import(record, now.cache) {
            Ok(importing) => importing,
            Err(edgewise_kv_cache::CacheError::OutOfPages(_)) => {
                tracing::warn!(path = %path.display(), "a saved prefix finds no room in the cache; it stays on disk");
                return Ok(None);
            }
            Err(error) => return Err(Refusal::Content(error.to_string())),
        };
        memory.execute(&importing.moves);
        let mut wanted = importing.write.iter().copied().peekable();
        let mut bytes = Vec::new();
        let read = || -> Result<(), Refusal> {
            for index in 0..reader.header.pages() {
                reader.page(&mut bytes)?;
                if let Some((_, page)) = wanted.next_if(|&(next, _)| next == index) {
                    memory.write(page, &bytes).map_err(|error| Refusal::Content(error.to_string()))?;
                }
            }
            reader.finish()
        };
        let outcome = read();
        cache.finish_import(importing, outcome.is_ok(), now.cache);
        outcome.map(|()| Some(tokens))
    }

    /// Brings the files up to date with the cache: removes what has expired, moves expiries, and writes at most
    /// `at_most` prefixes that aren't there yet, longest to live first, besides the one that is being written. An error
    /// means that one prefix couldn't be written; the next call goes on with the others.
    pub(crate) fn sync(
        &mut self,
        cache: &mut impl Retained,
        now: Now,
        memory: &mut impl PageMemory,
        at_most: usize,
    ) -> Result<Synced, EngineError> {
        let mut synced = Synced::default();
        let wanted = self.refresh(cache, now, &mut synced)?;
        if let Some(saving) = self.saving.take() {
            self.complete(saving, cache, now, memory)?;
        }
        // Those that were put off are not among them, the one above included.
        for info in wanted {
            if synced.written == at_most {
                synced.waiting += 1;
            } else if let Some(saving) = self.begin(cache, &info, now, memory)? {
                synced.written += usize::from(self.complete(saving, cache, now, memory)?);
            }
        }
        Ok(synced)
    }

    /// Does a small part of [`Self::sync`], which takes a few milliseconds at most: to be called until nothing is being
    /// written and none waits. Waits for no disk, apart from expiries.
    pub(crate) fn sync_some(
        &mut self,
        cache: &mut impl Retained,
        now: Now,
        memory: &mut impl PageMemory,
    ) -> Result<Synced, EngineError> {
        let mut synced = Synced::default();
        if self.saving.is_none() {
            let wanted = self.refresh(cache, now, &mut synced)?;
            synced.waiting = wanted.len();
            for info in wanted {
                synced.waiting -= 1;
                self.saving = self.begin(cache, &info, now, memory)?;
                if self.saving.is_some() {
                    break;
                }
            }
        }
        let Some(mut saving) = self.saving.take() else { return Ok(synced) };
        self.slice(&mut saving, cache, now, memory, false);
        if saving.is_over() {
            synced.written += usize::from(self.settle(saving)?);
        } else {
            self.saving = Some(saving);
        }
        Ok(synced)
    }

    /// Whether a file is being written.
    pub(crate) fn is_saving(&self) -> bool {
        self.saving.is_some()
    }

    /// Removes what has expired and moves expiries. Gives the prefixes to write.
    fn refresh(
        &mut self,
        cache: &mut impl Retained,
        now: Now,
        synced: &mut Synced,
    ) -> Result<Vec<PrefixInfo>, EngineError> {
        let expired: Vec<String> =
            self.files.iter().filter(|(_, f)| f.expires <= now.millis()).map(|(name, _)| name.clone()).collect();
        for name in expired {
            self.remove_named(&name)?;
            synced.expired += 1;
        }
        self.put_off.retain(|_, until| *until > now.cache);
        let mut wanted = Vec::new();
        for info in cache.prefixes(now.cache) {
            match self.files.get(&info.digest.to_hex()).copied() {
                Some(known) => {
                    let expires = now.expiry(info.left);
                    if expires > known.expires.saturating_add(SLACK.as_millis() as u64) {
                        self.extend(&info.digest, expires)?;
                        synced.extended += 1;
                    }
                }
                None if self.put_off.contains_key(&info.id) => {}
                None => wanted.push(info),
            }
        }
        Ok(wanted)
    }

    /// Begins to write a prefix. None if not all of it is resident, or it would need the room of prefixes that live longer.
    fn begin(
        &mut self,
        cache: &mut impl Retained,
        info: &PrefixInfo,
        now: Now,
        memory: &mut impl PageMemory,
    ) -> Result<Option<Saving>, EngineError> {
        // Until it is known to be written, so that a prefix that can't be doesn't hold up the others.
        self.put_off.insert(info.id, now.cache + RETRY);
        let Some(export) = cache.export(info.id, now.cache) else { return Ok(None) };
        memory.execute(&export.moves);
        let expires = now.expiry(export.record.left);
        let header = Header {
            digest: *export.digest.as_bytes(),
            page_tokens: self.options.page_tokens,
            page_bytes: self.options.page_bytes,
            record: export.record,
        };
        let bytes = format::length(&header);
        let outlived: u64 = self.files.values().filter(|known| known.expires >= expires).map(|known| known.bytes).sum();
        if outlived.saturating_add(bytes) > self.options.max_bytes {
            return Ok(None);
        }
        self.make_room(bytes);
        let name = export.digest.to_hex();
        let path = self.path(&name);
        let temporary = self.options.folder.join(&name).with_extension(TEMPORARY);
        let target = Target { keys: self.keys.clone(), expires, temporary, path: path.clone(), create: self.create };
        Saving::begin(info.id, name, bytes, header, target).map(Some).map_err(|error| io_error(&path, error))
    }

    /// Hands on some more pages.
    fn slice(
        &self,
        saving: &mut Saving,
        cache: &mut impl Retained,
        now: Now,
        memory: &mut impl PageMemory,
        wait: bool,
    ) {
        if !saving.is_given() {
            let export = cache.export(saving.id, now.cache);
            export.iter().for_each(|export| memory.execute(&export.moves));
            saving.go_on(export.as_ref(), memory, self.slice_bytes, wait);
        }
    }

    /// Writes all that is left of a file; whether it is there now.
    fn complete(
        &mut self,
        mut saving: Saving,
        cache: &mut impl Retained,
        now: Now,
        memory: &mut impl PageMemory,
    ) -> Result<bool, EngineError> {
        while !saving.is_given() {
            self.slice(&mut saving, cache, now, memory, true);
        }
        self.settle(saving)
    }

    /// Waits for the end of a file, and takes note of it.
    fn settle(&mut self, saving: Saving) -> Result<bool, EngineError> {
        let (id, name) = (saving.id, saving.name.clone());
        let known = Known { bytes: saving.bytes, expires: saving.expires };
        let path = self.path(&name);
        let written = saving.end(&path).map_err(|error| io_error(&path, error))?;
        if written {
            self.put_off.remove(&id);
            self.files.insert(name, known);
        }
        Ok(written)
    }

    /// Moves the expiry of a file. It lies in the first sector, whose writing doesn't tear; if it does, the file is found
    /// damaged.
    fn extend(&mut self, digest: &Digest, expires: u64) -> Result<(), EngineError> {
        let name = digest.to_hex();
        let path = self.path(&name);
        let write = || {
            let file = OpenOptions::new().write(true).open(&path)?;
            file.write_all_at(&format::start(&self.keys, digest.as_bytes(), expires), 0)?;
            file.sync_data()
        };
        if let Err(error) = write() {
            // It may be gone: then it is to be written again.
            self.files.remove(&name);
            return Err(io_error(&path, error));
        }
        if let Some(known) = self.files.get_mut(&name) {
            known.expires = expires;
        }
        Ok(())
    }

    /// Removes the file of a prefix that is to be forgotten. Nothing happens if there is none.
    pub(crate) fn remove(&mut self, digest: &Digest) -> Result<(), EngineError> {
        let name = digest.to_hex();
        self.saving.iter_mut().filter(|saving| saving.name == name).for_each(Saving::forget);
        if self.files.contains_key(&name) { self.remove_named(&name) } else { Ok(()) }
    }

    fn remove_named(&mut self, name: &str) -> Result<(), EngineError> {
        let path = self.path(name);
        self.files.remove(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error(&path, error)),
            _ => Ok(()),
        }
    }

    /// Removes the files that expire first until `bytes` more fit.
    fn make_room(&mut self, bytes: u64) {
        while self.bytes().saturating_add(bytes) > self.options.max_bytes {
            let first = self.files.iter().min_by_key(|(_, known)| known.expires).map(|(name, _)| name.clone());
            let Some(name) = first else { break };
            self.files.remove(&name);
            let path = self.path(&name);
            // What a full store does every time: nothing to look into.
            tracing::debug!(path = %path.display(), "a saved prefix makes room");
            unlink(&path);
        }
    }

    /// What can be told from a file's beginning.
    fn glance(&self, path: &Path, now: Now) -> Result<Known, Refusal> {
        let mut file = File::open(path)?;
        let mut start = [0; format::START];
        file.read_exact(&mut start)?;
        let expires = format::read_start(&self.keys, &start)?;
        if expires <= now.millis() {
            return Err(Refusal::Content("its time has run out".to_owned()));
        }
        Ok(Known { bytes: file.metadata()?.len(), expires })
    }

    fn refuse(&mut self, path: &Path, refusal: Refusal) {
        match refusal {
            Refusal::Content(reason) => {
                self.refused += 1;
                self.remove_file(path, &reason);
            }
            Refusal::Io(error) => tracing::warn!(path = %path.display(), %error, "a saved prefix cannot be read"),
        }
    }

    fn remove_file(&self, path: &Path, reason: &str) {
        tracing::warn!(path = %path.display(), reason, "a saved prefix is removed");
        unlink(path);
    }

    fn path(&self, digest: &str) -> PathBuf {
        self.options.folder.join(digest).with_extension(EXTENSION)
    }
}

fn unlink(path: &Path) {
    if let Err(error) = fs::remove_file(path) {
        tracing::warn!(path = %path.display(), %error, "a saved prefix cannot be removed");
    }
}

fn create(path: &Path) -> io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

fn io_error(path: &Path, source: io::Error) -> EngineError {
    EngineError::Io { path: path.to_owned(), source }
}
