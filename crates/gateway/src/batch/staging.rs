//! Documents of a batch on disk, until they are ingested.
//!
//! A batch is a folder with two files: the documents' bytes one behind the other, and a manifest that names them and their
//! places. The manifest is written last, synced and renamed: a folder without one is a body that never arrived as a whole.

use std::{
    collections::HashSet,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use edgewise_retrieval::{Source, SourceContent};
use edgewise_types::{CollectionName, TenantId};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;

use super::too_large_document;
use crate::{
    ApiError, ErrorKind,
    documents::check_uri,
    extract::too_large,
    middleware::new_id,
    state::{Lifecycle, Phase},
    tenants::Tenants,
};

/// Folder of the batches, in the data folder. No collection name starts with an underscore.
const FOLDER: &str = "_uploads";
const MANIFEST: &str = "manifest.json";
const BYTES: &str = "bytes";
const ARCHIVE: &str = "archive.zip";

/// Most documents of one batch.
const MAX_DOCUMENTS: usize = 100_000;

/// What a batch may hold, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// All of it, packed and unpacked.
    pub(super) total: u64,
    /// One document.
    pub(super) each: u64,
}

/// A document and its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    uri: String,
    media_type: Option<String>,
    start: u64,
    length: u64,
}

/// What a batch holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    job: String,
    collection: CollectionName,
    entries: Vec<Entry>,
}

/// What is being written.
enum Open {
    Document(Entry),
    Archive(tokio::fs::File, u64),
}

/// A batch as it comes in. Removed when it is dropped unfinished.
pub(super) struct Staging {
    folder: Removed,
    bytes: tokio::fs::File,
    at: u64,
    entries: Vec<Entry>,
    names: HashSet<String>,
    open: Option<Open>,
    limits: Limits,
}

/// A folder that goes when this is dropped.
struct Removed(Option<PathBuf>);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Some(folder) = &self.0
            && let Err(error) = std::fs::remove_dir_all(folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "cannot remove the files of an upload");
        }
    }
}

impl Removed {
    fn path(&self) -> PathBuf {
        self.0.clone().unwrap_or_default()
    }
}

fn failed(error: std::io::Error) -> ApiError {
    match error.kind() {
        std::io::ErrorKind::StorageFull => {
            ApiError::new(ErrorKind::DiskFull, "no space left on the disk of the server for this upload")
                .hint("free some, or send fewer documents at a time")
        }
        _ => ApiError::internal(format!("an upload could not be written: {error}")),
    }
}

impl Staging {
    /// A new folder below the data folder.
    pub(super) async fn begin(data: &Path, limits: Limits) -> Result<Self, ApiError> {
        let folder = data.join(FOLDER).join(new_id());
        tokio::fs::create_dir_all(&folder).await.map_err(failed)?;
        let removed = Removed(Some(folder.clone()));
        let bytes = tokio::fs::File::create(folder.join(BYTES)).await.map_err(failed)?;
        let (entries, names) = (Vec::new(), HashSet::new());
        Ok(Self { folder: removed, bytes, at: 0, entries, names, open: None, limits })
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    /// Begins a document. Its name has been checked.
    pub(super) fn begin_document(&mut self, uri: String, media_type: Option<String>) -> Result<(), ApiError> {
        admit(&mut self.names, &uri)?;
        self.open = Some(Open::Document(Entry { uri, media_type, start: self.at, length: 0 }));
        Ok(())
    }

    /// Begins an archive, whose documents come in at its end.
    pub(super) async fn begin_archive(&mut self) -> Result<(), ApiError> {
        let file = tokio::fs::File::create(self.folder.path().join(ARCHIVE)).await.map_err(failed)?;
        self.open = Some(Open::Archive(file, 0));
        Ok(())
    }

    /// More bytes of what was begun.
    pub(super) async fn write(&mut self, block: &[u8]) -> Result<(), ApiError> {
        let added = block.len() as u64;
        match &mut self.open {
            Some(Open::Document(entry)) => {
                entry.length += added;
                self.at += added;
                if entry.length > self.limits.each {
                    return Err(too_large_document(self.limits.each));
                }
                if self.at > self.limits.total {
                    return Err(too_large(usize::try_from(self.limits.total).unwrap_or(usize::MAX)));
                }
                self.bytes.write_all(block).await.map_err(failed)
            }
            Some(Open::Archive(file, length)) => {
                *length += added;
                if *length > self.limits.total {
                    return Err(too_large(usize::try_from(self.limits.total).unwrap_or(usize::MAX)));
                }
                file.write_all(block).await.map_err(failed)
            }
            None => Ok(()),
        }
    }

    /// Ends what was begun.
    pub(super) async fn end(&mut self) -> Result<(), ApiError> {
        match self.open.take() {
            None => Ok(()),
            Some(Open::Document(entry)) => {
                self.entries.push(entry);
                Ok(())
            }
            Some(Open::Archive(mut file, _)) => {
                file.flush().await.map_err(failed)?;
                drop(file);
                self.bytes.flush().await.map_err(failed)?;
                let bytes = self.bytes.try_clone().await.map_err(failed)?.into_std().await;
                let unpacking = Unpacking {
                    archive: self.folder.path().join(ARCHIVE),
                    bytes,
                    at: self.at,
                    names: std::mem::take(&mut self.names),
                    limits: self.limits,
                };
                let unpacked = tokio::task::spawn_blocking(move || unpacking.run()).await;
                let (entries, names, at) =
                    unpacked.map_err(|error| ApiError::internal(format!("unpacking did not return: {error}")))??;
                (self.names, self.at) = (names, at);
                self.entries.extend(entries);
                Ok(())
            }
        }
    }

    /// Puts the batch on disk for good.
    pub(super) async fn finish(
        mut self,
        job: &str,
        collection: &CollectionName,
        lifecycle: &Lifecycle,
    ) -> Result<Staged, ApiError> {
        if self.entries.is_empty() {
            return Err(ApiError::new(ErrorKind::InvalidRequest, "the upload holds no document"));
        }
        self.bytes.flush().await.map_err(failed)?;
        self.bytes.sync_all().await.map_err(failed)?;
        let manifest = Manifest {
            job: job.to_owned(),
            collection: collection.clone(),
            entries: std::mem::take(&mut self.entries),
        };
        let folder = self.folder.path();
        let written = manifest.clone();
        let write = move || {
            let aside = folder.join("manifest.tmp");
            let mut file = std::fs::File::create(&aside)?;
            file.write_all(&serde_json::to_vec(&written)?)?;
            file.sync_all()?;
            std::fs::rename(&aside, folder.join(MANIFEST))?;
            std::fs::File::open(&folder)?.sync_all()?;
            folder.parent().map_or(Ok(()), |parent| std::fs::File::open(parent)?.sync_all())
        };
        let written = tokio::task::spawn_blocking(write).await;
        written.map_err(|error| ApiError::internal(error.to_string()))?.map_err(failed)?;
        let folder = Removed(self.folder.0.take());
        Ok(Staged { folder, manifest, lifecycle: lifecycle.clone() })
    }
}

fn admit(names: &mut HashSet<String>, uri: &str) -> Result<(), ApiError> {
    if names.len() >= MAX_DOCUMENTS {
        let message = format!("the upload holds more than {MAX_DOCUMENTS} documents");
        return Err(ApiError::new(ErrorKind::TooLarge, message).hint("send them in several uploads"));
    }
    if !names.insert(uri.to_owned()) {
        let message = format!("the document `{uri}` is in the upload twice");
        return Err(ApiError::new(ErrorKind::InvalidRequest, message).hint("send each document once"));
    }
    Ok(())
}

/// An archive whose files become documents.
struct Unpacking {
    archive: PathBuf,
    bytes: std::fs::File,
    at: u64,
    names: HashSet<String>,
    limits: Limits,
}

impl Unpacking {
    /// The documents, all names there are now, and the end of the bytes. Blocks.
    fn run(mut self) -> Result<(Vec<Entry>, HashSet<String>, u64), ApiError> {
        let wrong = |what: &dyn std::fmt::Display| {
            ApiError::new(ErrorKind::MalformedRequest, format!("the archive can't be read: {what}"))
        };
        let file = std::fs::File::open(&self.archive).map_err(failed)?;
        let mut archive = zip::ZipArchive::new(std::io::BufReader::new(file)).map_err(|error| wrong(&error))?;
        self.bytes.seek(SeekFrom::Start(self.at)).map_err(failed)?;
        let mut entries = Vec::new();
        for index in 0..archive.len() {
            let mut file = archive.by_index(index).map_err(|error| wrong(&error))?;
            if file.is_dir() {
                continue;
            }
            let Some(path) = file.enclosed_name() else {
                return Err(wrong(&format!("entry {index} leads outside of it")));
            };
            let uri = path.iter().map(|part| part.to_string_lossy()).collect::<Vec<_>>().join("/");
            check_uri(&uri)?;
            admit(&mut self.names, &uri)?;
            let start = self.at;
            let mut block = vec![0; 64 << 10];
            loop {
                let read = file.read(&mut block).map_err(|error| wrong(&format!("`{uri}`: {error}")))?;
                if read == 0 {
                    break;
                }
                self.at += read as u64;
                if self.at - start > self.limits.each {
                    return Err(too_large_document(self.limits.each).hint(format!("`{uri}` is, once it is unpacked")));
                }
                if self.at > self.limits.total {
                    return Err(too_large(usize::try_from(self.limits.total).unwrap_or(usize::MAX))
                        .hint("what counts is the size of the unpacked documents"));
                }
                self.bytes.write_all(&block[..read]).map_err(failed)?;
            }
            entries.push(Entry { uri, media_type: None, start, length: self.at - start });
        }
        std::fs::remove_file(&self.archive).map_err(failed)?;
        Ok((entries, self.names, self.at))
    }
}

/// A batch that is complete. Its folder goes with it, unless the server goes down.
pub(super) struct Staged {
    folder: Removed,
    manifest: Manifest,
    lifecycle: Lifecycle,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if self.lifecycle.phase() >= Phase::Draining {
            self.folder.0 = None;
        }
    }
}

impl Staged {
    pub(super) fn job(&self) -> &str {
        &self.manifest.job
    }

    pub(super) fn collection(&self) -> &CollectionName {
        &self.manifest.collection
    }

    pub(super) fn documents(&self) -> usize {
        self.manifest.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.manifest.entries.iter().map(|entry| entry.length).sum()
    }

    /// The documents from number `from` on: at most `most`, and at most `most_bytes` of them unless the first alone is
    /// larger. Empty behind the last.
    pub(super) fn sources(&self, from: usize, most: usize, most_bytes: u64) -> std::io::Result<Vec<Source>> {
        let mut file = std::fs::File::open(self.folder.path().join(BYTES))?;
        let (mut sources, mut taken) = (Vec::new(), 0);
        for entry in self.manifest.entries.iter().skip(from).take(most) {
            taken += entry.length;
            if taken > most_bytes && !sources.is_empty() {
                break;
            }
            file.seek(SeekFrom::Start(entry.start))?;
            let mut bytes = vec![0; usize::try_from(entry.length).unwrap_or(usize::MAX)];
            file.read_exact(&mut bytes)?;
            let (uri, media_type) = (entry.uri.clone(), entry.media_type.clone());
            sources.push(Source { uri, content: SourceContent::Bytes(bytes), media_type });
        }
        Ok(sources)
    }
}

/// Folders of batches that an earlier server left behind, with whose they are. To be called before any new one is begun.
pub(crate) fn leftovers(tenants: &Tenants) -> Vec<(TenantId, PathBuf)> {
    let folders = |tenant: TenantId| {
        let root = tenants.of(&tenant).map(|collections| collections.root().join(FOLDER));
        let folders = root.ok().and_then(|root| std::fs::read_dir(root).ok()).into_iter().flatten().flatten();
        let paths = folders.map(|folder| folder.path()).filter(|path| path.is_dir());
        paths.map(move |path| (tenant.clone(), path)).collect::<Vec<_>>()
    };
    tenants.all().into_iter().flat_map(folders).collect()
}

/// The batch in a folder that was left behind; without a complete one, the folder is removed.
pub(super) fn restore(folder: PathBuf, lifecycle: &Lifecycle) -> Option<Staged> {
    let folder = Removed(Some(folder));
    let manifest = std::fs::read(folder.path().join(MANIFEST)).ok()?;
    match serde_json::from_slice(&manifest) {
        Ok(manifest) => Some(Staged { folder, manifest, lifecycle: lifecycle.clone() }),
        Err(error) => {
            tracing::warn!(%error, "the manifest of an upload can't be read: it is dropped");
            None
        }
    }
}
