//! tantivy's folder, with a checksum on the files it leaves without.
//!
//! tantivy ends each segment file with a checksum, but not `meta.json`, which says which segments there are, how many
//! documents each has and which generation they reflect: a flipped digit there would be believed. Here those files start
//! with a line that holds the BLAKE3 of the rest.

use std::{io, path::Path, sync::Arc};

use tantivy::{
    Directory,
    directory::{
        DirectoryLock, FileHandle, Lock, MmapDirectory, WatchCallback, WatchHandle, WritePtr,
        error::{DeleteError, LockError, OpenDirectoryError, OpenReadError, OpenWriteError},
    },
};

/// A memory-mapped folder whose small files are checksummed too.
#[derive(Debug, Clone)]
pub(crate) struct CheckedDirectory(MmapDirectory);

impl CheckedDirectory {
    pub(crate) fn open(path: &Path) -> Result<Self, OpenDirectoryError> {
        MmapDirectory::open(path).map(Self)
    }
}

impl Directory for CheckedDirectory {
    fn atomic_read(&self, path: &Path) -> Result<Vec<u8>, OpenReadError> {
        let bytes = self.0.atomic_read(path)?;
        verified(&bytes).map(<[u8]>::to_vec).ok_or_else(|| {
            let error = io::Error::new(io::ErrorKind::InvalidData, "wrong checksum");
            OpenReadError::wrap_io_error(error, path.to_owned())
        })
    }

    fn atomic_write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        let mut bytes = format!("{}\n", blake3::hash(data).to_hex()).into_bytes();
        bytes.extend_from_slice(data);
        self.0.atomic_write(path, &bytes)?;
        // The rename itself, too, is on disk when a commit returns.
        self.0.sync_directory()
    }

    fn get_file_handle(&self, path: &Path) -> Result<Arc<dyn FileHandle>, OpenReadError> {
        self.0.get_file_handle(path)
    }

    fn delete(&self, path: &Path) -> Result<(), DeleteError> {
        self.0.delete(path)
    }

    fn exists(&self, path: &Path) -> Result<bool, OpenReadError> {
        self.0.exists(path)
    }

    fn open_write(&self, path: &Path) -> Result<WritePtr, OpenWriteError> {
        self.0.open_write(path)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.0.sync_directory()
    }

    fn acquire_lock(&self, lock: &Lock) -> Result<DirectoryLock, LockError> {
        self.0.acquire_lock(lock)
    }

    fn watch(&self, callback: WatchCallback) -> tantivy::Result<WatchHandle> {
        self.0.watch(callback)
    }
}

/// What follows the checksum, if it is right.
fn verified(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (checksum, data) = (&bytes[..end], &bytes[end + 1..]);
    (blake3::hash(data).to_hex().as_bytes() == checksum).then_some(data)
}
