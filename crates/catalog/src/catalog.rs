//! Creating and opening a catalog.

use std::{fs::File, path::Path};

use edgewise_types::Generation;
use rusqlite::Connection;

use crate::{
    CatalogError, CatalogMeta,
    connections::{Connections, open_reader, open_writer},
    error::Fault,
    rows,
    schema::{FileKind, SCHEMA_VERSION, file_kind, initialise, migrate},
};

/// What a catalog is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Reading only; never waits for a writer.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// One collection's catalog. Shared between threads: reads run in parallel, also beside a commit.
#[derive(Debug)]
pub struct Catalog {
    pub(crate) connections: Connections,
    id: String,
    meta: CatalogMeta,
}

impl Catalog {
    /// Creates the catalog at `path`, whose folder must exist, and opens it for writing.
    ///
    /// # Errors
    /// [`CatalogError::AlreadyExists`] if there is one, [`CatalogError::NotACatalog`] if there is another file. An
    /// empty file or one left by an interrupted creation is taken over.
    pub fn create(path: &Path, meta: &CatalogMeta) -> Result<Self, CatalogError> {
        if meta.embedder.dimension == 0 {
            return Err(CatalogError::InvalidMeta { reason: "the embedder's dimension is 0".to_owned() });
        }
        let mut connection = open_writer(path, true)?;
        let taken = || CatalogError::AlreadyExists { path: path.to_owned() };
        match file_kind(&connection).map_err(|fault| fault.at(path))? {
            FileKind::Empty => {}
            FileKind::Catalog(_) => return Err(taken()),
            FileKind::Foreign(detail) => return Err(foreign(path, detail)),
        }
        if !initialise(&mut connection, meta).map_err(|fault| fault.at(path))? {
            return Err(taken());
        }
        sync_parent(path)?;
        drop(connection);
        Self::open(path, OpenMode::ReadWrite)
    }

    /// Opens the catalog at `path`. One of an earlier schema version is first brought to the current one, in place,
    /// also when it is opened for reading only.
    ///
    /// # Errors
    /// [`CatalogError::Missing`], [`CatalogError::NotACatalog`], [`CatalogError::NewerSchema`],
    /// [`CatalogError::CannotMigrate`],
    /// [`CatalogError::Damaged`] and [`CatalogError::CannotOpen`] say what to do.
    pub fn open(path: &Path, mode: OpenMode) -> Result<Self, CatalogError> {
        exists(path)?;
        let connection = match mode {
            OpenMode::ReadOnly => open_reader(path)?,
            OpenMode::ReadWrite => open_writer(path, false)?,
        };
        let found = version(&connection, path)?;
        if found < SCHEMA_VERSION {
            let migrated = open_writer(path, false)
                .and_then(|mut connection| migrate(&mut connection).map_err(|fault| fault.at(path)));
            migrated.map_err(|error| CatalogError::CannotMigrate {
                path: path.to_owned(),
                found,
                wanted: SCHEMA_VERSION,
                detail: error.to_string(),
            })?;
        }
        let (id, meta) = rows::meta(&connection).map_err(|fault| fault.at(path))?;
        let writer = (mode == OpenMode::ReadWrite).then_some(connection);
        Ok(Self { connections: Connections::new(path, writer), id, meta })
    }

    /// Whether [`Self::open`] would take the file at `path`, which stays as it is.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn check_readable(path: &Path) -> Result<(), CatalogError> {
        exists(path)?;
        version(&open_reader(path)?, path).map(drop)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.connections.path()
    }

    /// A random text that tells this catalog from every other, also from a later one of the same name. Derived indexes
    /// carry it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What it was created with.
    pub fn meta(&self) -> &CatalogMeta {
        &self.meta
    }

    /// The current generation: 0 when new, one more after each commit that changed something.
    pub fn generation(&self) -> Result<Generation, CatalogError> {
        self.connections.read(|transaction| rows::generation(transaction))
    }
}

/// Refuses a path where there is no file, which SQLite would say less plainly.
fn exists(path: &Path) -> Result<(), CatalogError> {
    match path.try_exists() {
        Ok(true) => Ok(()),
        Ok(false) => Err(CatalogError::Missing { path: path.to_owned() }),
        Err(error) => Err(CatalogError::CannotOpen { path: path.to_owned(), detail: error.to_string() }),
    }
}

/// The schema version of the catalog at `path`, one that this program can read or bring to its own.
fn version(connection: &Connection, path: &Path) -> Result<i64, CatalogError> {
    match file_kind(connection).map_err(|fault| fault.at(path))? {
        FileKind::Catalog(found) if found > SCHEMA_VERSION => {
            Err(CatalogError::NewerSchema { path: path.to_owned(), found, supported: SCHEMA_VERSION })
        }
        FileKind::Catalog(found) if found > 0 => Ok(found),
        FileKind::Catalog(found) => Err(Fault::Damaged(format!("schema version {found} never existed")).at(path)),
        FileKind::Empty => Err(CatalogError::Missing { path: path.to_owned() }),
        FileKind::Foreign(detail) => Err(foreign(path, detail)),
    }
}

fn foreign(path: &Path, detail: &str) -> CatalogError {
    CatalogError::NotACatalog { path: path.to_owned(), detail: detail.to_owned() }
}

/// Makes the new file's name durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), CatalogError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| CatalogError::Io { path: path.to_owned(), detail: error.to_string() })
}
