//! What can go wrong with a collection.

use std::{
    error::Error,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use edgewise_catalog::CatalogError;
use edgewise_lexical_index::LexicalError;
use edgewise_model_api::ModelError;
use edgewise_types::{CollectionName, DocumentId};
use edgewise_vector_index::VectorError;

/// An error of another part, whose type is of no interest to callers.
pub type Cause = Box<dyn Error + Send + Sync>;

/// Failure of an operation on collections.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetrievalError {
    /// No such collection.
    #[error("there is no collection `{name}`; {}", existing(known))]
    UnknownCollection {
        /// The name asked for.
        name: CollectionName,
        /// What there is.
        known: Vec<CollectionName>,
    },
    /// No such document.
    #[error("collection `{collection}` has no document `{document}`: list its documents to see their ids")]
    UnknownDocument {
        /// The collection.
        collection: CollectionName,
        /// The id asked for.
        document: DocumentId,
    },
    /// Another process writes to the collection.
    #[error(
        "collection `{collection}` is locked for writing by {}: send the change through that server, or stop it and try again (searching works meanwhile)",
        holder(*pid)
    )]
    Locked {
        /// The collection.
        collection: CollectionName,
        /// Process id of the holder, when it could be read.
        pid: Option<u32>,
    },
    /// The collection was made with another embedder.
    #[error(
        "collection `{collection}` was embedded with {stored}, but the embedder at hand is {current}: ingest all its sources again to embed them anew, or configure the embedder it was made with"
    )]
    EmbedderMismatch {
        /// The collection.
        collection: CollectionName,
        /// Name and digest of the embedder in the catalog.
        stored: String,
        /// Name and digest of the loaded embedder.
        current: String,
    },
    /// Everything must be cut and embedded again, but not every document is among the sources.
    #[error(
        "collection `{collection}` must be made anew because {reason}, but {missing} of its documents (such as `{example}`) are not among the sources: ingest all sources together, let missing ones be removed, or delete the collection first"
    )]
    NotCovered {
        /// The collection.
        collection: CollectionName,
        /// Why it must be made anew.
        reason: String,
        /// How many documents would be lost.
        missing: usize,
        /// URI of one of them.
        example: String,
    },
    /// Documents that the collection holds could not be ingested anew, so the old collection stays in place.
    #[error(
        "collection `{collection}` stays as it was, because {} of its documents could not be ingested anew (`{uri}`: {reason}): mend them and run the same command again, which continues from here",
        count
    )]
    RebuildIncomplete {
        /// The collection.
        collection: CollectionName,
        /// How many failed.
        count: usize,
        /// URI of the first.
        uri: String,
        /// Why it failed.
        reason: String,
    },
    /// The catalog itself is damaged, which no index can mend.
    #[error(
        "the catalog of collection `{collection}` is damaged ({finding}): import an export of it, or delete the collection and ingest its sources again"
    )]
    CatalogDamaged {
        /// The collection.
        collection: CollectionName,
        /// The first finding.
        finding: String,
    },
    /// The manifest is damaged, which the catalog can mend.
    #[error(
        "the manifest of collection `{collection}` is damaged ({reason}): `edgewise collections repair {collection}` writes it anew from the catalog"
    )]
    ManifestDamaged {
        /// The collection.
        collection: CollectionName,
        /// What is wrong with it.
        reason: String,
    },
    /// A file to import is no export, or is damaged.
    #[error("{} can't be imported: {reason}", file.display())]
    UnusableExport {
        /// The file.
        file: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// A file to write exists.
    #[error("there is a file {} already: choose another name, or delete it first", path.display())]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// There is one of this name already.
    #[error("there is a collection `{name}` already: delete it first, or choose another name")]
    CollectionExists {
        /// The name.
        name: CollectionName,
    },
    /// The query has no text.
    #[error("the query is empty: ask a question")]
    EmptyQuery,
    /// A parameter is out of range.
    #[error("{0}")]
    InvalidRequest(String),
    /// A filter can't be read.
    #[error(transparent)]
    Filter(#[from] crate::FilterError),
    /// A glob pattern or path given to [`crate::discover`] is unusable.
    #[error("{0}")]
    Discover(String),
    /// A file operation failed.
    #[error("{what} {path}: {source}{}", advice(source))]
    Io {
        /// What was tried, such as `cannot create`.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The disk is full. Nothing that was committed is lost.
    #[error(
        "no space left on the disk that holds collection `{collection}`: free some and run the same command again; what was committed so far is kept"
    )]
    DiskFull {
        /// The collection.
        collection: CollectionName,
    },
    /// The summary tree is being built already.
    #[error(
        "the summary tree of collection `{collection}` is being built already: wait for that build, or end it before another one"
    )]
    TreeBusy {
        /// The collection.
        collection: CollectionName,
    },
    /// The summary tree has no such node, or it is of texts that are gone.
    #[error(
        "the summary tree of collection `{collection}` has no node `{node}` that is current: list its nodes to see their ids"
    )]
    UnknownTreeNode {
        /// The collection.
        collection: CollectionName,
        /// What was asked for.
        node: String,
    },
    /// A summary can't be made. What was made before is kept.
    #[error("the summary tree of collection `{collection}` can't be completed: {source}; what was made so far is kept")]
    Tree {
        /// The collection.
        collection: CollectionName,
        /// Why.
        source: edgewise_summary_tree::TreeError,
    },
    /// The ingest was cancelled; what it committed before is kept.
    #[error("cancelled; documents committed before are kept, and the same command continues from there")]
    Cancelled,
    /// A model call failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The catalog, an index or a profile failed.
    #[error("collection `{collection}`: {source}")]
    Part {
        /// The collection.
        collection: CollectionName,
        /// Its error.
        source: Cause,
    },
}

/// What to do about an I/O error, where the system's own words leave it open.
fn advice(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            ": free some space and run the same command again; what was committed is kept"
        }
        _ => "",
    }
}

fn existing(known: &[CollectionName]) -> String {
    if known.is_empty() {
        return "none exists yet: ingest documents to create one".to_owned();
    }
    let names: Vec<&str> = known.iter().map(CollectionName::as_str).collect();
    format!("existing: {}", names.join(", "))
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

/// For `map_err`: an I/O error with what was tried on which path.
pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> RetrievalError {
    let path = path.to_owned();
    move |source| RetrievalError::Io { what, path, source }
}

/// For `map_err`: the error of a part of a collection, with the collection's name.
pub(crate) fn of<E: PartError>(collection: &CollectionName) -> impl Fn(E) -> RetrievalError {
    let collection = collection.clone();
    move |error| {
        let collection = collection.clone();
        if error.disk_full() {
            RetrievalError::DiskFull { collection }
        } else if let Some(finding) = error.catalog_damage() {
            RetrievalError::CatalogDamaged { collection, finding }
        } else {
            RetrievalError::Part { collection, source: Box::new(error) }
        }
    }
}

/// An error of one of a collection's parts.
pub(crate) trait PartError: Error + Send + Sync + 'static {
    fn disk_full(&self) -> bool {
        false
    }

    /// What is wrong with the catalog, if that is what the error says.
    fn catalog_damage(&self) -> Option<String> {
        None
    }
}

impl PartError for CatalogError {
    fn disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    fn catalog_damage(&self) -> Option<String> {
        match self {
            Self::Damaged { detail, .. } | Self::NotACatalog { detail, .. } => Some(detail.clone()),
            _ => None,
        }
    }
}

impl PartError for LexicalError {
    fn disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }
}

impl PartError for VectorError {
    fn disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }
}

impl PartError for edgewise_documents::DocumentError {}
impl PartError for serde_json::Error {}
impl PartError for toml::ser::Error {}

impl PartError for std::io::Error {
    fn disk_full(&self) -> bool {
        matches!(self.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
    }
}
