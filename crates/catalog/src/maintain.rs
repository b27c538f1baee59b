//! Copies and compaction: what works on the whole file.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use edgewise_types::CollectionName;
use rusqlite::{Connection, params};

use crate::{
    Catalog, CatalogError, OpenMode,
    catalog::sync_parent,
    connections::{open_reader, open_writer},
    error::Fault,
    seals,
};

impl Catalog {
    /// Rewrites the file without the room that deleted documents left, and empties the write-ahead log: only then has the
    /// disk its room back. Needs up to twice as much free space as the file has; a kill leaves the content as it was.
    ///
    /// Returns whether the log could be emptied. Where another process keeps reading an old state for longer than the
    /// time-out, it can't: the room comes back with a later commit or compaction.
    ///
    /// # Errors
    /// [`CatalogError::ReadOnly`], [`CatalogError::DiskFull`], [`CatalogError::Busy`].
    pub fn compact(&self) -> Result<bool, CatalogError> {
        self.connections.with_writer(|connection| {
            if let Err(error) = connection.execute_batch("VACUUM") {
                // What was written of it stands in the log: give that room back, or a full disk stays full.
                let _ = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
                return Err(error.into());
            }
            // The new file stands in the log until this: https://sqlite.org/pragma.html#pragma_wal_checkpoint
            let busy: i64 = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
            Ok(busy == 0)
        })
    }

    /// Writes a copy of the catalog as it is now to `path`, where there must be no file: one file that holds everything
    /// of the collection. Writers may go on meanwhile. When it returns, the copy is on disk and checked.
    ///
    /// # Errors
    /// [`CatalogError::AlreadyExists`], [`CatalogError::DiskFull`], [`CatalogError::Damaged`]; a part of a copy is
    /// removed.
    pub fn export(&self, path: &Path) -> Result<(), CatalogError> {
        let io = |error: std::io::Error| CatalogError::Io { path: path.to_owned(), detail: error.to_string() };
        if path.try_exists().map_err(io)? {
            return Err(CatalogError::AlreadyExists { path: path.to_owned() });
        }
        // Written aside, so that a kill leaves no half of a copy under the name asked for.
        let mut aside = path.as_os_str().to_owned();
        aside.push(".part");
        let aside = PathBuf::from(aside);
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(error)),
            _ => copy(self.path(), &aside)?,
        }
        let sound = Self::open(&aside, OpenMode::ReadOnly).and_then(|copy| copy.check_copy());
        let published = sound.and_then(|()| fs::rename(&aside, path).map_err(io)).and_then(|()| sync_parent(path));
        if published.is_err() {
            // If this fails too, the error at hand says more.
            let _ = fs::remove_file(&aside);
        }
        published
    }

    /// As [`Self::check`], with the first finding as an error.
    fn check_copy(&self) -> Result<(), CatalogError> {
        match self.check_content()?.into_iter().next() {
            Some(detail) => Err(CatalogError::Damaged { path: self.path().to_owned(), detail }),
            None => Ok(()),
        }
    }

    /// Makes the catalog at `path`, where there must be no file, from the export at `from`, under another identity and
    /// for the collection `name`. The export stays as it is. What is left of a failed import is for the caller to remove.
    ///
    /// # Errors
    /// As [`Self::open`] for `from`, and as [`Self::export`]; [`CatalogError::Damaged`] if [`Self::check`] finds
    /// anything in it.
    pub fn import(from: &Path, path: &Path, name: &CollectionName) -> Result<Self, CatalogError> {
        Self::check_readable(from)?;
        copy(from, path)?;
        let connection = open_writer(path, false)?;
        connection
            .query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
            .map_err(|error| Fault::from(error).at(path))?;
        drop(connection);
        // Before anything is sealed anew, which would hide that it was damaged.
        let copied = Self::open(path, OpenMode::ReadWrite)?;
        copied.check_copy()?;
        copied.describe(name, true)?;
        drop(copied);
        Self::open(path, OpenMode::ReadWrite)
    }

    /// Records another name of the collection. The identity stays, so derived indexes stay valid; [`Self::meta`] keeps the
    /// old name until the catalog is opened again.
    ///
    /// # Errors
    /// [`CatalogError::ReadOnly`], [`CatalogError::DiskFull`], [`CatalogError::Busy`].
    pub fn rename(&self, name: &CollectionName) -> Result<(), CatalogError> {
        self.describe(name, false)
    }

    fn describe(&self, name: &CollectionName, new_identity: bool) -> Result<(), CatalogError> {
        self.connections.write(|transaction| {
            if new_identity {
                transaction.execute("UPDATE meta SET id = lower(hex(randomblob(16)))", [])?;
            }
            transaction.execute("UPDATE meta SET collection = ?1", params![name.as_str()])?;
            seals::seal_meta(&transaction)?;
            Ok(transaction.commit()?)
        })
    }
}

/// A consistent copy of a database, defragmented: <https://sqlite.org/lang_vacuum.html#vacuuminto>.
fn copy(from: &Path, to: &Path) -> Result<(), CatalogError> {
    let io = |error: std::io::Error| CatalogError::Io { path: to.to_owned(), detail: error.to_string() };
    if to.try_exists().map_err(io)? {
        return Err(CatalogError::AlreadyExists { path: to.to_owned() });
    }
    let Some(target) = to.to_str() else {
        return Err(CatalogError::CannotOpen { path: to.to_owned(), detail: "the path is not UTF-8".to_owned() });
    };
    let reader: Connection = open_reader(from)?;
    let copied = reader
        .execute("VACUUM INTO ?1", params![target])
        .map_err(|error| Fault::from(error).at(to))
        .and_then(|_| File::open(to).and_then(|file| file.sync_all()).map_err(io));
    if copied.is_err() {
        // Half a copy is of no use; if removing fails too, the error at hand says more.
        let _ = std::fs::remove_file(to);
    }
    copied
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use edgewise_types::{ContentHash, Metadata};
    use jiff::Timestamp;

    use super::*;
    use crate::{Batch, CatalogMeta, EmbedderIdentity, NewDocument};

    fn document(uri: &str) -> NewDocument {
        NewDocument {
            uri: uri.to_owned(),
            title: String::new(),
            media_type: "text/plain".to_owned(),
            content_hash: ContentHash::of(uri.as_bytes()),
            tokens: 0,
            metadata: Metadata::new(),
            updated_at: Timestamp::UNIX_EPOCH,
            text: uri.repeat(1000),
            pages: edgewise_types::PageMap::default(),
            chunks: Vec::new(),
        }
    }

    #[test]
    fn an_export_becomes_a_collection_of_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let meta = CatalogMeta {
            collection: "first".parse().unwrap(),
            profile: "profile".to_owned(),
            embedder: EmbedderIdentity { model: String::new(), digest: String::new(), dimension: 1 },
            generator_tokenizer: String::new(),
        };
        let catalog = Catalog::create(&at("catalog"), &meta).unwrap();
        let upserts: Vec<NewDocument> = (0..200).map(|n| document(&format!("document {n}"))).collect();
        let deletes: Vec<_> = upserts[1..].iter().map(NewDocument::id).collect();
        catalog.commit(&Batch { upserts, deletes: Vec::new() }).unwrap();
        catalog.export(&at("all")).unwrap();
        assert!(matches!(catalog.export(&at("all")), Err(CatalogError::AlreadyExists { .. })));
        catalog.commit(&Batch { upserts: Vec::new(), deletes }).unwrap();

        let second = Catalog::import(&at("all"), &at("second"), &"second".parse().unwrap()).unwrap();
        assert_eq!(second.check().unwrap(), Vec::<String>::new());
        assert_eq!((second.stats().unwrap().documents, second.generation().unwrap().0), (200, 1));
        assert_eq!((second.meta().collection.as_str(), second.meta().profile.as_str()), ("second", "profile"));
        assert_ne!(second.id(), catalog.id());
        second.commit(&Batch { upserts: vec![document("new")], deletes: Vec::new() }).unwrap();

        // What was committed stands in the log until a checkpoint, so both files count.
        let size = |name: &str| std::fs::metadata(at(name)).map_or(0, |file| file.len());
        let before = size("catalog") + size("catalog-wal");
        assert!(before > 2_000_000, "{before}");
        assert!(catalog.compact().unwrap());
        assert_eq!(size("catalog-wal"), 0);
        assert!(size("catalog") < 200_000, "{} bytes for one document of 10 kB", size("catalog"));
        assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
        assert_eq!(catalog.stats().unwrap().documents, 1);

        std::fs::write(at("text"), "no catalog at all, but long enough ".repeat(100)).unwrap();
        let refused = Catalog::import(&at("text"), &at("third"), &"third".parse().unwrap());
        assert!(matches!(refused, Err(CatalogError::NotACatalog { .. })), "{refused:?}");
        assert!(!at("third").exists());
    }
}
