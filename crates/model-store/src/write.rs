//! Writing a file while hashing it, and hashing a file that is there.

use std::{
    fs::{self, File},
    io::{self, Read, Write as _},
    path::Path,
};

use sha2::{Digest as _, Sha256};

use crate::{FileSpec, Progress, StoreError, error};

const BUFFER: usize = 1 << 18;

/// Copies `reader` to the new file `target`, hashing on the way, and syncs it. Refuses content of another size or hash
/// and removes what was written; never writes more than one byte beyond the size expected. An unpinned file may have any.
pub(crate) fn write_verified(
    reader: &mut dyn Read,
    target: &Path,
    spec: &FileSpec,
    origin: &str,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    let written = copy(reader, target, spec, origin, progress);
    if written.is_err() {
        // The copy's error is the one to report; the whole folder is removed anyway when the pull ends.
        let _ = fs::remove_file(target);
    }
    written
}

fn copy(
    reader: &mut dyn Read,
    target: &Path,
    spec: &FileSpec,
    origin: &str,
    progress: &dyn Progress,
) -> Result<(), StoreError> {
    let wrong_size = |actual: String| StoreError::Size {
        file: spec.name.clone(),
        origin: origin.to_owned(),
        expected: spec.bytes.unwrap_or_default(),
        actual,
    };
    let mut file = File::create_new(target).map_err(error::io("create", target))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut total = 0u64;
    loop {
        let read = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                let action = "read the content of";
                return Err(StoreError::Io { action, path: Path::new(origin).join(&spec.name), source });
            }
        };
        total += read as u64;
        if let Some(expected) = spec.bytes.filter(|&expected| total > expected) {
            return Err(wrong_size(format!("more than {expected}")));
        }
        let read = buffer.get(..read).unwrap_or_default();
        hasher.update(read);
        file.write_all(read).map_err(error::io("write", target))?;
        progress.advance(read.len() as u64);
    }
    if spec.bytes.is_some_and(|expected| total != expected) {
        return Err(wrong_size(total.to_string()));
    }
    let actual = hex(&hasher.finalize());
    if let Some(expected) = spec.sha256.clone().filter(|expected| *expected != actual) {
        return Err(StoreError::Checksum { file: spec.name.clone(), origin: origin.to_owned(), expected, actual });
    }
    file.sync_all().map_err(error::io("sync", target))
}

/// SHA-256 of a file, lower-case hexadecimal.
pub(crate) fn sha256_of(path: &Path, progress: &dyn Progress) -> Result<String, StoreError> {
    let mut file = File::open(path).map_err(error::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hex(&hasher.finalize())),
            Ok(read) => {
                hasher.update(buffer.get(..read).unwrap_or_default());
                progress.advance(read as u64);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(StoreError::Io { action: "read", path: path.to_owned(), source }),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Makes renames and new names in a folder durable. Folders cannot be synced on Windows, where this does nothing.
pub(crate) fn sync_folder(path: &Path) -> Result<(), StoreError> {
    if cfg!(windows) {
        return Ok(());
    }
    File::open(path).and_then(|folder| folder.sync_all()).map_err(error::io("sync", path))
}
