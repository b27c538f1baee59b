//! The file that acknowledges records before the database has them.
//!
//! A record is acknowledged once it is appended here, which is one write; a thread takes records from memory to the database
//! in batches. What a killed process leaves behind here is read when the ledger is next opened, or by another process that
//! has it open. Reading a record twice does no harm: the database knows its id.
//!
//! Invariants:
//! - A frame is its length, a checksum and the payload, in one write. A frame that was cut off is the last one and was never
//!   acknowledged; it is passed over.
//! - Only the process that holds the lock on a file shortens or removes it; the operating system frees the lock of a killed
//!   process. A file has its name only while it is locked or left behind.
//!
//! Deliberately not here: what a payload means.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};

/// What follows the ledger's own file name, before a random part.
const SUFFIX: &str = ".pending-";

/// Largest payload: anything longer is damage.
const MOST_BYTES: usize = 64 << 20;

const HEADER: usize = 12;

/// An open journal, locked by this process.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    len: u64,
}

/// FNV-1a (Fowler, Noll, Vo): enough to tell a torn frame from a whole one.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn prefix(ledger: &Path) -> OsString {
    let mut name = ledger.file_name().unwrap_or_default().to_owned();
    name.push(SUFFIX);
    name
}

fn folder(ledger: &Path) -> &Path {
    ledger.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Journal {
    /// A new, empty journal beside the ledger file.
    pub(crate) fn create(ledger: &Path) -> io::Result<Self> {
        let mut name = prefix(ledger);
        let unique = RandomState::new().hash_one((std::process::id(), ledger));
        name.push(format!("{unique:016x}"));
        let path = ledger.with_file_name(&name);
        let mut aside = OsString::from("new-");
        aside.push(&name);
        let aside = ledger.with_file_name(aside);
        // Locked before it gets its name: nobody can find it unlocked and take it for one left behind.
        let file = OpenOptions::new().create_new(true).append(true).open(&aside)?;
        file.lock()?;
        fs::rename(&aside, &path)?;
        // Its name has to be there after a power failure too.
        #[cfg(unix)]
        File::open(folder(ledger))?.sync_all()?;
        Ok(Self { file, path, len: 0 })
    }

    /// Appends one payload, all of it or nothing.
    pub(crate) fn append(&mut self, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).ok().filter(|length| *length as usize <= MOST_BYTES);
        let length = length.ok_or_else(|| io::Error::other("a record is too large for the ledger"))?;
        let mut frame = Vec::with_capacity(HEADER + payload.len());
        frame.extend_from_slice(&length.to_le_bytes());
        frame.extend_from_slice(&checksum(payload).to_le_bytes());
        frame.extend_from_slice(payload);
        if let Err(error) = self.file.write_all(&frame) {
            // Half a frame would hide every later one.
            self.file.set_len(self.len)?;
            return Err(error);
        }
        self.len += frame.len() as u64;
        Ok(())
    }

    /// Bytes appended since it was last emptied.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// A second handle, to sync what was appended without holding the journal.
    pub(crate) fn handle(&self) -> io::Result<File> {
        self.file.try_clone()
    }

    /// Forgets everything, which the database must have by now.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.len = 0;
        Ok(())
    }

    /// Ends it; the database must have everything.
    pub(crate) fn remove(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// A journal of another process, or one left behind.
#[derive(Debug)]
pub(crate) struct Found {
    path: PathBuf,
    /// What it holds.
    pub(crate) payloads: Vec<Vec<u8>>,
    /// Held if it was left behind: nobody else may remove it meanwhile.
    left_behind: Option<File>,
}

impl Found {
    /// Removes it if it was left behind; the database must have everything in it.
    pub(crate) fn done(self) -> io::Result<()> {
        match self.left_behind {
            Some(_lock) => fs::remove_file(&self.path),
            None => Ok(()),
        }
    }
}

/// The journals beside `ledger`, other than `own`.
pub(crate) fn others(ledger: &Path, own: &Path) -> io::Result<Vec<Found>> {
    let folder = folder(ledger);
    let prefix = prefix(ledger);
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !starts_with(&name, &prefix) || own.file_name() == Some(&name) {
            continue;
        }
        let path = folder.join(&name);
        // It may have been removed since the folder was read: then the database has its records.
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let left_behind = file.try_lock().is_ok();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let payloads = frames(&bytes);
        found.push(Found { path, payloads, left_behind: left_behind.then_some(file) });
    }
    Ok(found)
}

fn starts_with(name: &OsStr, prefix: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes())
}

/// The payloads up to the first frame that is not whole.
fn frames(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    while let Some((header, rest)) = bytes.split_at_checked(HEADER) {
        let mut length = [0; 4];
        let mut sum = [0; 8];
        length.copy_from_slice(&header[..4]);
        sum.copy_from_slice(&header[4..]);
        let Some((payload, rest)) = rest.split_at_checked(u32::from_le_bytes(length) as usize) else { break };
        if checksum(payload) != u64::from_le_bytes(sum) {
            break;
        }
        payloads.push(payload.to_vec());
        bytes = rest;
    }
    payloads
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_appended_is_found_whatever_was_cut_off_behind_it() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger.sqlite");
        let mut journal = Journal::create(&ledger).unwrap();
        journal.append(b"first").unwrap();
        journal.append(b"").unwrap();
        journal.append(b"third").unwrap();
        assert!(others(&ledger, journal.path()).unwrap().is_empty(), "one's own is not another's");
        let whole = fs::read(journal.path()).unwrap();
        assert_eq!(journal.len(), whole.len() as u64);
        for cut in 0..=whole.len() {
            let found = frames(&whole[..cut]);
            let expected: [&[u8]; 3] = [b"first", b"", b"third"];
            assert!(found.iter().map(Vec::as_slice).eq(expected[..found.len()].iter().copied()), "{cut}");
            assert_eq!(found.len() == 3, cut == whole.len());
        }
        let mut damaged = whole;
        damaged[HEADER] ^= 1;
        assert!(frames(&damaged).is_empty());
    }

    #[test]
    fn a_journal_in_use_is_read_and_stays_and_one_left_behind_goes() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger.sqlite");
        let mut journal = Journal::create(&ledger).unwrap();
        journal.append(b"record").unwrap();
        let path = journal.path().to_owned();
        let look = || others(&ledger, Path::new("")).unwrap();
        let in_use = look().remove(0);
        assert_eq!(in_use.payloads, [b"record"]);
        in_use.done().unwrap();
        assert!(path.exists());
        // Closing the file frees the lock, as the end of a process does.
        drop(journal);
        look().remove(0).done().unwrap();
        assert!(!path.exists() && look().is_empty());
    }

    #[test]
    fn a_cleared_journal_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = folder.path().join("ledger.sqlite");
        let mut journal = Journal::create(&ledger).unwrap();
        journal.append(&[7; 1000]).unwrap();
        journal.clear().unwrap();
        journal.append(b"next").unwrap();
        assert_eq!(frames(&fs::read(journal.path()).unwrap()), [b"next"]);
        let path = journal.path().to_owned();
        journal.remove().unwrap();
        assert!(!path.exists());
    }
}
