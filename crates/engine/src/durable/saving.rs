//! One prefix on its way to its file, some pages at a time, so that no request waits for the disk.
//!
//! The engine's worker, which alone changes pages, reads them and hands them on; a thread checks, writes, syncs and
//! renames. Between two slices the worker may do anything else, and the cache may change: every slice finds its pages
//! anew. What a page of a prefix holds follows from the prefix's tokens alone, so the pages of all slices belong together
//! wherever they were read.
//!
//! Invariants: under its own name the file is there completely or not at all; once this is dropped, nothing is written any
//! more and no temporary file is left.
//!
//! Deliberately not here: which prefix, and when.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    thread::JoinHandle,
};

use edgewise_kv_cache::{Export, PrefixId};

use super::{
    PageMemory,
    format::{self, Header, Keys},
};

/// Slices that may wait for the disk.
const WAITING: usize = 2;

/// What the thread needs.
pub(super) struct Target {
    pub(super) keys: Keys,
    pub(super) expires: u64,
    pub(super) temporary: PathBuf,
    pub(super) path: PathBuf,
    pub(super) create: fn(&Path) -> io::Result<File>,
}

/// A file that is being written.
pub(super) struct Saving {
    pub(super) id: PrefixId,
    /// The digest in hexadecimal.
    pub(super) name: String,
    pub(super) bytes: u64,
    pub(super) expires: u64,
    /// Whether the prefix is to be forgotten.
    forgotten: bool,
    header: Header,
    /// Pages read.
    next: usize,
    /// What was read and found no room with the thread.
    held: Option<Vec<u8>>,
    pages: Option<SyncSender<Vec<u8>>>,
    thread: Option<JoinHandle<io::Result<bool>>>,
}

impl Saving {
    /// Begins a file of `bytes` bytes, with no page yet.
    pub(super) fn begin(id: PrefixId, name: String, bytes: u64, header: Header, target: Target) -> io::Result<Self> {
        let (expires, (pages, given)) = (target.expires, sync_channel(WAITING));
        let written = header.clone();
        let thread = std::thread::Builder::new()
            .name("edgewise-prefixes".to_owned())
            .spawn(move || write(&target, &written, &given))?;
        let (pages, thread) = (Some(pages), Some(thread));
        Ok(Self { id, name, bytes, expires, forgotten: false, header, next: 0, held: None, pages, thread })
    }

    /// Reads at most `most` bytes of pages, one page at least, and hands them on. `export` is the prefix as it is now; what
    /// is no longer there as a whole is given up. Does not wait for the disk unless told to.
    pub(super) fn go_on(&mut self, export: Option<&Export>, memory: &mut impl PageMemory, most: usize, wait: bool) {
        let Some(pages) = &self.pages else { return };
        let whole = export.filter(|export| {
            export.digest.as_bytes() == &self.header.digest && export.record.tokens == self.header.record.tokens
        });
        let Some(export) = whole else { return self.give_up() };
        let slice = self.held.take().unwrap_or_else(|| {
            let mut slice = Vec::new();
            while let Some(&place) = export.pages.get(self.next).filter(|_| self.next < self.header.pages()) {
                memory.read(place, &mut slice);
                self.next += 1;
                if slice.len() + self.header.page_bytes > most {
                    break;
                }
            }
            slice
        });
        if slice.is_empty() {
            return self.give_up();
        }
        let sent = match wait {
            true => pages.send(slice).map_err(|_| TrySendError::Disconnected(())),
            false => pages.try_send(slice).map_err(|error| match error {
                TrySendError::Full(slice) => {
                    self.held = Some(slice);
                    TrySendError::Full(())
                }
                TrySendError::Disconnected(_) => TrySendError::Disconnected(()),
            }),
        };
        // A thread that listens no more has failed, and says so at the end.
        if matches!(sent, Err(TrySendError::Disconnected(())))
            || self.next == self.header.pages() && self.held.is_none()
        {
            self.pages = None;
        }
    }

    /// Writes no more: the file is not to be.
    pub(super) fn forget(&mut self) {
        self.forgotten = true;
        self.give_up();
    }

    fn give_up(&mut self) {
        (self.held, self.pages) = (None, None);
    }

    /// Whether there is nothing more to hand on.
    pub(super) fn is_given(&self) -> bool {
        self.pages.is_none()
    }

    /// Whether [`Self::end`] would not wait.
    pub(super) fn is_over(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end: whether the file is there and wanted.
    pub(super) fn end(mut self, path: &Path) -> io::Result<bool> {
        let written = self.stop()?;
        if written && self.forgotten {
            fs::remove_file(path)?;
        }
        Ok(written && !self.forgotten)
    }

    fn stop(&mut self) -> io::Result<bool> {
        self.give_up();
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(false),
            Some(Ok(written)) => written,
            Some(Err(_)) => Err(io::Error::other("its writer ended by a panic")),
        }
    }
}

impl Drop for Saving {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::warn!(%error, prefix = self.name, "a prefix could not be kept on disk");
        }
    }
}

/// Whether all pages came and are in the file.
fn write(target: &Target, header: &Header, pages: &Receiver<Vec<u8>>) -> io::Result<bool> {
    let Target { keys, expires, temporary, path, create } = target;
    let written = create(temporary).and_then(|file| {
        let mut out = format::Writer::new(BufWriter::with_capacity(1 << 20, file), keys, header, *expires)?;
        for slice in pages {
            out.pages(&slice)?;
        }
        if !out.is_complete() {
            return Ok(false);
        }
        let mut out = out.finish()?;
        out.flush()?;
        out.get_ref().sync_all()?;
        fs::rename(temporary, path)?;
        if let Some(folder) = path.parent() {
            File::open(folder)?.sync_all()?;
        }
        Ok(true)
    });
    if !matches!(written, Ok(true)) {
        _ = fs::remove_file(temporary);
    }
    if written.is_err() {
        // It may have its name already, but is worthless if the sync failed.
        _ = fs::remove_file(path);
    }
    written
}
