//! The lock that makes a process the only writer of a collection.
//!
//! An operating-system lock (`flock` or `LockFileEx`) on `<root>/.locks/<collection>`, outside the collection's folder so
//! that creating and deleting the folder are covered too. The system drops it when the process ends, however it ends:
//! there is no stale lock. The file keeps the holder's process id for the error message of others; the id of a file that
//! nobody has locked means nothing. Lock files are never deleted, since a file deleted while another process opens it
//! would leave two holders.
//!
//! Deliberately not here: waiting, and locks between threads of a process (the collection has a mutex for that).

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::Path,
};

use edgewise_types::CollectionName;

use crate::{RetrievalError, error::io};

/// Folder of the lock files in the data root. No collection name starts with a dot.
const FOLDER: &str = ".locks";

/// Held for as long as the value lives.
#[derive(Debug)]
pub(crate) struct WriterLock {
    _file: File,
}

impl WriterLock {
    /// Takes the lock, or fails at once with [`RetrievalError::Locked`].
    pub(crate) fn acquire(root: &Path, name: &CollectionName) -> Result<Self, RetrievalError> {
        let folder = root.join(FOLDER);
        std::fs::create_dir_all(&folder).map_err(io("cannot create", &folder))?;
        let path = folder.join(name.as_str());
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(io("cannot open the lock file", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(RetrievalError::Locked { collection: name.clone(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(io("cannot lock", &path)(source)),
        }
        let pid = std::process::id();
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{pid}"))
            .map_err(io("cannot write the lock file", &path))?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_second_holder_is_told_who_the_first_is() {
        let root = tempfile::tempdir().unwrap();
        let name: CollectionName = "a".parse().unwrap();
        let held = WriterLock::acquire(root.path(), &name).unwrap();
        let error = WriterLock::acquire(root.path(), &name).unwrap_err();
        assert!(matches!(error, RetrievalError::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
        WriterLock::acquire(root.path(), &"b".parse().unwrap()).unwrap();
        drop(held);
        WriterLock::acquire(root.path(), &name).unwrap();
    }
}
