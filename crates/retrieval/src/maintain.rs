//! Upkeep of a collection's files: check, repair, compact, export, import.
//!
//! These work on the folder, without models: a collection can be checked where no embedder is installed, and one that
//! can't be opened can be mended. Check only reads, and sees what is on disk rather than what a running process has made
//! up for in memory; the others take the writer lock.
//!
//! An index may lag behind the catalog, after a kill or beside a writer: that is no damage, the next use catches up. It is
//! compared with what the catalog held at the generation it has reached.
//!
//! Deliberately not here: mending a catalog. It is the truth, so nothing else knows better: import an export, or ingest
//! again.

use std::{collections::HashSet, fs, path::Path};

use edgewise_catalog::{Catalog, Changes, OpenMode};
use edgewise_documents::IndexProfile;
use edgewise_lexical_index::{LexicalError, LexicalIndex};
use edgewise_types::{ChunkId, CollectionName, Generation};
use edgewise_vector_index::{GraphOptions, VectorIndex};
use serde::{Deserialize, Serialize};

use crate::{
    RetrievalError,
    collections::complete,
    error::{io, of},
    folder::{self, Folder, Manifest},
    lock::WriterLock,
    state::{State, lexical_config},
};

/// A part of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The manifest that names catalog and profile.
    Manifest,
    /// The catalog: can't be mended from the others.
    Catalog,
    /// The lexical index.
    Lexical,
    /// The snapshot of the vectors.
    Vectors,
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Where.
    pub part: Part,
    /// What, in a sentence.
    pub problem: String,
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The collection.
    pub collection: CollectionName,
    /// Generation of the catalog; 0 if it can't be read.
    pub generation: Generation,
    /// Documents in the catalog.
    pub documents: usize,
    /// Chunks in the catalog.
    pub chunks: usize,
    /// What is wrong; nothing if the collection is sound.
    pub findings: Vec<Finding>,
    /// What is not wrong but worth knowing, such as an index that lags.
    pub notes: Vec<String>,
}

/// What [`repair`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// What was wrong before.
    pub before: CheckReport,
    /// What a check finds now.
    pub after: CheckReport,
}

/// What [`compact`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// The collection.
    pub collection: CollectionName,
    /// Bytes of its files before.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
}

fn existing(root: &Path, name: &CollectionName) -> Result<Folder, RetrievalError> {
    let folder = Folder::of(root, name);
    if folder.exists() {
        return Ok(folder);
    }
    Err(RetrievalError::UnknownCollection { name: name.clone(), known: folder::names(root).unwrap_or_default() })
}

/// Compares the catalog of a collection with itself and with both indexes on disk. Reads everything, changes nothing.
///
/// # Errors
/// [`RetrievalError::UnknownCollection`]. What is damaged is in the report.
pub fn check(root: &Path, name: &CollectionName) -> Result<CheckReport, RetrievalError> {
    let folder = existing(root, name)?;
    let mut report = CheckReport {
        collection: name.clone(),
        generation: Generation::default(),
        documents: 0,
        chunks: 0,
        findings: Vec::new(),
        notes: Vec::new(),
    };
    let catalog = match Catalog::open(&folder.catalog(), OpenMode::ReadOnly) {
        Ok(catalog) => catalog,
        Err(error) => {
            report.find(Part::Catalog, error.to_string());
            return Ok(report);
        }
    };
    let findings = catalog.check().unwrap_or_else(|error| vec![error.to_string()]);
    let stats = catalog.stats();
    if let Ok(stats) = &stats {
        (report.generation, report.documents, report.chunks) = (stats.generation, stats.documents, stats.chunks);
    }
    if !findings.is_empty() {
        findings.into_iter().for_each(|finding| report.find(Part::Catalog, finding));
        return Ok(report);
    }
    let profile = check_manifest(&folder, &catalog, &mut report);
    if report.generation == Generation::default() {
        return Ok(report);
    }
    let compared = check_lexical(&folder, &catalog, &profile, &mut report)
        .and_then(|()| check_vectors(&folder, &catalog, &mut report));
    if let Err(error) = compared {
        report.find(Part::Catalog, error.to_string());
    }
    Ok(report)
}

impl CheckReport {
    fn find(&mut self, part: Part, problem: impl Into<String>) {
        self.findings.push(Finding { part, problem: problem.into() });
    }

    /// Whether something is wrong with a part.
    pub fn concerns(&self, part: Part) -> bool {
        self.findings.iter().any(|finding| finding.part == part)
    }
}

/// The profile in force, or the catalog's own if the manifest is not usable.
fn check_manifest(folder: &Folder, catalog: &Catalog, report: &mut CheckReport) -> String {
    let stored = catalog.meta().profile.clone();
    let manifest: Result<Manifest, String> = match folder.manifest_text() {
        Ok(Some(text)) => serde_json::from_str(&text).map_err(|error| format!("it is unreadable: {error}")),
        Ok(None) => Err("it is missing".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let readable = |profile: &str| IndexProfile::parse(profile, "profile of the manifest").map(drop);
    match manifest {
        Ok(manifest) if manifest.catalog != catalog.id() => report.find(Part::Manifest, "it names another catalog"),
        Ok(manifest) => match readable(&manifest.profile) {
            Ok(()) => return manifest.profile,
            Err(error) => report.find(Part::Manifest, error.to_string()),
        },
        Err(problem) => report.find(Part::Manifest, problem),
    }
    stored
}

/// The chunks an index at `reached` must hold.
fn expected(catalog: &Catalog, reached: Generation) -> Result<HashSet<ChunkId>, edgewise_catalog::CatalogError> {
    let Changes { added, removed, .. } = catalog.changes_since(reached)?;
    let mut chunks: HashSet<ChunkId> = catalog.chunk_documents()?.into_iter().map(|(chunk, _)| chunk).collect();
    for chunk in &added {
        chunks.remove(chunk);
    }
    chunks.extend(removed);
    Ok(chunks)
}

/// Compares what an index holds with what it should.
fn compare(part: Part, held: &HashSet<ChunkId>, expected: &HashSet<ChunkId>, report: &mut CheckReport) {
    let lacking = expected.difference(held).count();
    let surplus = held.difference(expected).count();
    if lacking > 0 {
        report.find(part, format!("{lacking} chunks are missing from it"));
    }
    if surplus > 0 {
        report.find(part, format!("it holds {surplus} chunks that are not in the catalog"));
    }
}

fn lag(what: &str, reached: Generation, report: &mut CheckReport) {
    if reached < report.generation {
        let note = format!("the {what} is at generation {reached} of {}: the next use catches up", report.generation);
        report.notes.push(note);
    }
}

fn check_lexical(
    folder: &Folder,
    catalog: &Catalog,
    profile: &str,
    report: &mut CheckReport,
) -> Result<(), RetrievalError> {
    let name = report.collection.clone();
    let profile = IndexProfile::parse(profile, &format!("profile of collection {name}")).map_err(of(&name))?;
    let index = match LexicalIndex::open(&folder.lexical(), lexical_config(&name, &profile, catalog)?) {
        Ok(index) => index,
        Err(LexicalError::Missing { .. }) => {
            report.find(Part::Lexical, "it is missing");
            return Ok(());
        }
        Err(error) => {
            report.find(Part::Lexical, error.to_string());
            return Ok(());
        }
    };
    let reached = index.generation();
    lag("lexical index", reached, report);
    match (index.chunks(), expected(catalog, reached)) {
        (Ok(held), Ok(expected)) => compare(Part::Lexical, &held.into_iter().collect(), &expected, report),
        (Err(error), _) => report.find(Part::Lexical, error.to_string()),
        (_, Err(error)) => report.find(Part::Lexical, error.to_string()),
    }
    Ok(())
}

fn check_vectors(folder: &Folder, catalog: &Catalog, report: &mut CheckReport) -> Result<(), RetrievalError> {
    let dimension = catalog.meta().embedder.dimension;
    let index = match VectorIndex::load(&folder.vectors(), dimension, catalog.id(), GraphOptions::default()) {
        Ok(Some(index)) => index,
        Ok(None) => {
            report.find(Part::Vectors, "the snapshot is missing");
            return Ok(());
        }
        Err(error) => {
            report.find(Part::Vectors, error.to_string());
            return Ok(());
        }
    };
    let reached = index.generation();
    lag("vector snapshot", reached, report);
    match expected(catalog, reached) {
        Ok(expected) => compare(Part::Vectors, &index.chunks().collect(), &expected, report),
        Err(error) => {
            report.find(Part::Vectors, error.to_string());
            return Ok(());
        }
    }
    let mut different = 0usize;
    let compared = catalog.for_each_embedding(|chunk, vector| {
        let bits = |vector: &[f32]| vector.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        different += usize::from(index.vector(chunk).is_some_and(|held| bits(&held) != bits(vector)));
    });
    compared.map_err(of(&report.collection))?;
    if different > 0 {
        report.find(Part::Vectors, format!("{different} vectors differ from the catalog's"));
    }
    Ok(())
}

/// Mends whatever [`check`] finds, except in the catalog, and brings the indexes on disk up to it.
///
/// # Errors
/// [`RetrievalError::CatalogDamaged`]; [`RetrievalError::Locked`] if a process writes to the collection.
pub fn repair(root: &Path, name: &CollectionName) -> Result<Repaired, RetrievalError> {
    let _lock = WriterLock::acquire(root, name)?;
    Folder::recover(root, name)?;
    let folder = existing(root, name)?;
    let before = check(root, name)?;
    if let Some(finding) = before.findings.iter().find(|finding| finding.part == Part::Catalog) {
        return Err(RetrievalError::CatalogDamaged { collection: name.clone(), finding: finding.problem.clone() });
    }
    if before.concerns(Part::Manifest) {
        let catalog = Catalog::open(&folder.catalog(), OpenMode::ReadOnly).map_err(of(name))?;
        let (catalog, profile) = (catalog.id().to_owned(), catalog.meta().profile.clone());
        folder.write_manifest(&Manifest { catalog, profile })?;
    }
    for (part, path) in [(Part::Lexical, folder.lexical()), (Part::Vectors, folder.vectors())] {
        if before.concerns(part) && path.exists() {
            fs::remove_dir_all(&path).map_err(io("cannot delete", &path))?;
        }
    }
    let state = State::open_quietly(name, folder)?;
    state.follow_as_writer()?;
    state.build_graph(false)?;
    state.save_all_vectors()?;
    state.release_lexical()?;
    let after = check(root, name)?;
    Ok(Repaired { before, after })
}

/// Gives back the room that deleted documents left in all files, and leaves a graph without tombstones.
///
/// # Errors
/// [`RetrievalError::UnknownCollection`], [`RetrievalError::Locked`], [`RetrievalError::DiskFull`]; a kill leaves the
/// collection as it was.
pub fn compact(root: &Path, name: &CollectionName) -> Result<Compacted, RetrievalError> {
    let _lock = WriterLock::acquire(root, name)?;
    Folder::recover(root, name)?;
    let folder = existing(root, name)?;
    let bytes_before = size(folder.path());
    let catalog = Catalog::open(&folder.catalog(), OpenMode::ReadWrite).map_err(of(name))?;
    catalog.compact().map_err(of(name))?;
    drop(catalog);
    let state = State::open_quietly(name, folder.clone())?;
    state.follow_as_writer()?;
    state.build_graph(true)?;
    state.save_all_vectors()?;
    state.compact_lexical()?;
    drop(state);
    Ok(Compacted { collection: name.clone(), bytes_before, bytes_after: size(folder.path()) })
}

/// Bytes of all files below `folder`; those that can't be read count nothing.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

/// Writes everything of a collection to one new file: [`import`] makes a collection from it, here or elsewhere. A writer
/// may go on meanwhile.
///
/// # Errors
/// [`RetrievalError::UnknownCollection`]; [`RetrievalError::Part`] if there is such a file.
pub fn export(root: &Path, name: &CollectionName, file: &Path) -> Result<(), RetrievalError> {
    let folder = existing(root, name)?;
    let catalog = Catalog::open(&folder.catalog(), OpenMode::ReadOnly).map_err(of(name))?;
    catalog.export(file).map_err(of(name))
}

/// Makes the collection `name` from a file that [`export`] wrote. Its indexes are built from it; nothing is embedded. The
/// profile is the one the collection was made with.
///
/// # Errors
/// [`RetrievalError::CollectionExists`]; [`RetrievalError::CatalogDamaged`] if the file is damaged.
pub fn import(root: &Path, name: &CollectionName, file: &Path) -> Result<CheckReport, RetrievalError> {
    fs::create_dir_all(root).map_err(io("cannot create the data folder", root))?;
    let _lock = WriterLock::acquire(root, name)?;
    Folder::recover(root, name)?;
    if Folder::of(root, name).exists() {
        return Err(RetrievalError::CollectionExists { name: name.clone() });
    }
    let next = Folder::next(root, name);
    next.create_empty()?;
    let prepared = || -> Result<(), RetrievalError> {
        let catalog = Catalog::import(file, &next.catalog(), name).map_err(of(name))?;
        if let Some(finding) = catalog.check().map_err(of(name))?.into_iter().next() {
            return Err(RetrievalError::CatalogDamaged { collection: name.clone(), finding });
        }
        let profile = IndexProfile::parse(&catalog.meta().profile, "profile of the export").map_err(of(name))?;
        drop(catalog);
        let state = State::open_quietly(name, next.clone())?;
        state.follow_as_writer()?;
        state.build_graph(false)?;
        state.save_all_vectors()?;
        state.release_lexical()?;
        drop(state);
        complete(&next, name, &profile)
    };
    if let Err(error) = prepared() {
        // Nothing of it is visible; what can't be removed goes with the next attempt.
        let _ = next.remove();
        return Err(error);
    }
    next.publish()?;
    check(root, name)
}
