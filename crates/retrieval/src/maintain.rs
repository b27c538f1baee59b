//! Upkeep of a collection's files: check, repair, compact, rename, export, import.
//!
//! These work on the folder, without models: a collection can be checked where no embedder is installed, and one that
//! can't be opened can be mended. Check only reads, and sees what is on disk rather than what a running process has made
//! up for in memory; the others take the writer lock.
//!
//! An index may lag behind the catalog, after a kill or beside a writer: that is no damage, the next use catches up. It is
//! compared with what the catalog held at the generation it has reached. An index that is ahead of its own catalog is a
//! witness against the catalog: a commit that was acknowledged is missing from it.
//!
//! Deliberately not here: mending a catalog. It is the truth, so nothing else knows better: import an export, or ingest
//! again.

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use edgewise_catalog::{Catalog, CatalogError, Changes, OpenMode};
use edgewise_documents::IndexProfile;
use edgewise_lexical_index::{LexicalError, LexicalIndex};
use edgewise_types::{ChunkId, CollectionName, Generation};
use edgewise_vector_index::{GraphOptions, VectorIndex};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    RetrievalError,
    collections::complete,
    error::{io, of},
    folder::{self, Folder, Manifest},
    lock::WriterLock,
    state::{State, lexical_config},
};

/// How often an index is looked at that a writer may be changing at the same moment.
const LOOKS: usize = 4;
/// And how long in between.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// A part of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Where.
    pub part: Part,
    /// What, in a sentence.
    pub problem: String,
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repaired {
    /// What was wrong before.
    pub before: CheckReport,
    /// What a check finds now.
    pub after: CheckReport,
}

/// What [`compact`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Compacted {
    /// The collection.
    pub collection: CollectionName,
    /// Bytes of its files before.
    pub bytes_before: u64,
    /// And after.
    pub bytes_after: u64,
    /// Whether a process that was reading kept room from being given back: a later compaction does.
    pub held_by_reader: bool,
}

fn existing(root: &Path, name: &CollectionName) -> Result<Folder, RetrievalError> {
    let folder = Folder::of(root, name);
    if folder.exists() {
        return Ok(folder);
    }
    Err(RetrievalError::UnknownCollection { name: name.clone(), known: folder::names(root).unwrap_or_default() })
}

/// As [`existing`], for a look that must not change anything: also a collection whose replacement was interrupted between
/// its two renames, where it stands.
fn existing_as_it_stands(root: &Path, name: &CollectionName) -> Result<Folder, RetrievalError> {
    if Folder::needs_recovery(root, name) {
        return Ok(Folder::next(root, name));
    }
    existing(root, name)
}

/// Compares the catalog of a collection with itself and with both indexes on disk. Reads everything, changes nothing.
/// Findings name files below `root`.
///
/// # Errors
/// [`RetrievalError::UnknownCollection`]. What is damaged is in the report.
pub fn check(root: &Path, name: &CollectionName) -> Result<CheckReport, RetrievalError> {
    let folder = existing_as_it_stands(root, name)?;
    let mut report = CheckReport {
        collection: name.clone(),
        generation: Generation::default(),
        documents: 0,
        chunks: 0,
        findings: Vec::new(),
        notes: Vec::new(),
    };
    look(&folder, &mut report)?;
    // Where the data lies is no news to who looks, and nobody else's business.
    let below = format!("{}/", root.display());
    for text in report.findings.iter_mut().map(|finding| &mut finding.problem).chain(&mut report.notes) {
        *text = text.replace(&below, "");
    }
    Ok(report)
}

/// What is wrong, without advice that a finding has no need of.
fn said(error: CatalogError) -> String {
    match error {
        CatalogError::Damaged { detail, .. } | CatalogError::NotACatalog { detail, .. } => detail,
        error => error.to_string(),
    }
}

fn look(folder: &Folder, report: &mut CheckReport) -> Result<(), RetrievalError> {
    let catalog = match Catalog::open(&folder.catalog(), OpenMode::ReadOnly) {
        Ok(catalog) => catalog,
        Err(error) => {
            report.find(Part::Catalog, said(error));
            return Ok(());
        }
    };
    let findings = catalog.check().unwrap_or_else(|error| vec![said(error)]);
    let stats = catalog.stats();
    if let Ok(stats) = &stats {
        (report.generation, report.documents, report.chunks) = (stats.generation, stats.documents, stats.chunks);
    }
    if !findings.is_empty() {
        findings.into_iter().for_each(|finding| report.find(Part::Catalog, finding));
        return Ok(());
    }
    if catalog.meta().collection != report.collection {
        report
            .notes
            .push(format!("its catalog carries the name `{}`: repair corrects that", catalog.meta().collection));
    }
    let profile = check_manifest(folder, &catalog, report);
    // An index of a writer at work may be replaced while it is read: then look again.
    for check in [check_lexical, check_vectors] {
        for left in (0..LOOKS).rev() {
            let (findings, notes, files) = (report.findings.len(), report.notes.len(), files(folder));
            check(folder, &catalog, &profile, report)?;
            if report.findings.len() == findings || left == 0 || files == self::files(folder) {
                break;
            }
            report.findings.truncate(findings);
            report.notes.truncate(notes);
            std::thread::sleep(BETWEEN_LOOKS);
        }
    }
    Ok(())
}

/// Size and time of the last change of all files of both indexes, for telling whether anybody is at work on them.
fn files(folder: &Folder) -> BTreeMap<PathBuf, (u64, Option<SystemTime>)> {
    fn add(folder: &Path, files: &mut BTreeMap<PathBuf, (u64, Option<SystemTime>)>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => add(&entry.path(), files),
                Ok(metadata) => drop(files.insert(entry.path(), (metadata.len(), metadata.modified().ok()))),
                Err(_) => {}
            }
        }
    }
    let mut files = BTreeMap::new();
    add(&folder.lexical(), &mut files);
    add(&folder.vectors(), &mut files);
    files
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
    let manifest = match folder.manifest_text() {
        Ok(Some(text)) => Manifest::parse(&text),
        Ok(None) => Err("it is missing".to_owned()),
        Err(RetrievalError::ManifestDamaged { reason, .. }) => Err(reason),
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
fn expected(catalog: &Catalog, reached: Generation) -> Result<HashSet<ChunkId>, CatalogError> {
    let (Changes { added, removed, .. }, live) = loop {
        let changes = catalog.changes_since(reached)?;
        let live = catalog.chunk_documents()?;
        // Both of one state, also beside a writer.
        if catalog.generation()? == changes.generation {
            break (changes, live);
        }
    };
    let mut chunks: HashSet<ChunkId> = live.into_iter().map(|(chunk, _)| chunk).collect();
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

/// Compares the generation an index has reached with the catalog's; false if the index knows of commits that the catalog
/// has lost, as it does when the end of its log is damaged or an older copy was put in its place.
fn in_step(what: &str, reached: Generation, catalog: &Catalog, report: &mut CheckReport) -> bool {
    // Read after the index: a writer commits to the catalog first.
    match catalog.generation() {
        Ok(current) if reached > current => {
            let lost = reached.0 - current.0;
            report.find(
                Part::Catalog,
                format!("it is at generation {current}, but the {what} has followed it to {reached}: its last {lost} commits are lost"),
            );
            return false;
        }
        Ok(_) => {}
        Err(error) => report.find(Part::Catalog, said(error)),
    }
    if reached < report.generation {
        let note = format!("the {what} is at generation {reached} of {}: the next use catches up", report.generation);
        report.notes.push(note);
    }
    true
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
        // It is made with the first commit.
        Err(LexicalError::Missing { .. }) if report.generation == Generation::default() => return Ok(()),
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
    if !in_step("lexical index", reached, catalog, report) {
        return Ok(());
    }
    match (index.chunks(), expected(catalog, reached)) {
        (Ok(held), Ok(expected)) => compare(Part::Lexical, &held.into_iter().collect(), &expected, report),
        (Err(error), _) => report.find(Part::Lexical, error.to_string()),
        (_, Err(error)) => report.find(Part::Lexical, error.to_string()),
    }
    Ok(())
}

fn check_vectors(
    folder: &Folder,
    catalog: &Catalog,
    _profile: &str,
    report: &mut CheckReport,
) -> Result<(), RetrievalError> {
    let dimension = catalog.meta().embedder.dimension;
    let index = match VectorIndex::load(&folder.vectors(), dimension, catalog.id(), GraphOptions::default()) {
        Ok(Some(index)) => index,
        Ok(None) if report.generation == Generation::default() => return Ok(()),
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
    if !in_step("vector snapshot", reached, catalog, report) {
        return Ok(());
    }
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
        folder.write_manifest(&Manifest::new(catalog.id(), catalog.meta().profile.clone()))?;
    }
    let catalog = Catalog::open(&folder.catalog(), OpenMode::ReadWrite).map_err(of(name))?;
    if catalog.meta().collection != *name {
        catalog.rename(name).map_err(of(name))?;
    }
    drop(catalog);
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
    let emptied = catalog.compact().map_err(of(name))?;
    drop(catalog);
    let state = State::open_quietly(name, folder.clone())?;
    state.follow_as_writer()?;
    state.build_graph(true)?;
    state.save_all_vectors()?;
    state.compact_lexical()?;
    drop(state);
    Ok(Compacted { collection: name.clone(), bytes_before, bytes_after: size(folder.path()), held_by_reader: !emptied })
}

/// Gives a collection another name. Nothing is copied, cut or embedded; who has it open finds it gone under the old name.
///
/// # Errors
/// [`RetrievalError::UnknownCollection`], [`RetrievalError::CollectionExists`]; [`RetrievalError::Locked`] if another
/// process writes to it. A kill leaves it under one of the two names.
pub fn rename(root: &Path, name: &CollectionName, to: &CollectionName) -> Result<(), RetrievalError> {
    let _from = WriterLock::acquire(root, name)?;
    Folder::recover(root, name)?;
    let folder = existing(root, name)?;
    if name == to {
        return Ok(());
    }
    let _to = WriterLock::acquire(root, to)?;
    Folder::recover(root, to)?;
    if Folder::of(root, to).exists() {
        return Err(RetrievalError::CollectionExists { name: to.clone() });
    }
    // A replacement that was begun would be for the old name.
    Folder::next(root, name).remove()?;
    let renamed = folder.rename_to(to)?;
    // From here on it has the new name; that the catalog says so too is for people who look into an export.
    let catalog = Catalog::open(&renamed.catalog(), OpenMode::ReadWrite).map_err(of(to))?;
    catalog.rename(to).map_err(of(to))
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
/// [`RetrievalError::UnknownCollection`], [`RetrievalError::FileExists`], [`RetrievalError::DiskFull`];
/// [`RetrievalError::CatalogDamaged`] if the copy is not sound. Then there is no such file.
pub fn export(root: &Path, name: &CollectionName, file: &Path) -> Result<CheckReport, RetrievalError> {
    let folder = existing_as_it_stands(root, name)?;
    let exists = || RetrievalError::FileExists { path: file.to_owned() };
    if file.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::metadata(parent).map_err(io("cannot write into", parent))?;
    let catalog = Catalog::open(&folder.catalog(), OpenMode::ReadOnly).map_err(of(name))?;
    match catalog.export(file) {
        Err(CatalogError::AlreadyExists { .. }) => return Err(exists()),
        Err(CatalogError::DiskFull { .. }) => {
            let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
            return Err(io("cannot write", file)(source));
        }
        exported => exported.map_err(of(name))?,
    }
    let stats = Catalog::open(file, OpenMode::ReadOnly).and_then(|copy| copy.stats()).map_err(of(name))?;
    Ok(CheckReport {
        collection: name.clone(),
        generation: stats.generation,
        documents: stats.documents,
        chunks: stats.chunks,
        findings: Vec::new(),
        notes: Vec::new(),
    })
}

/// What an error of a catalog means where that catalog is an export.
fn unusable(name: &CollectionName, file: &Path, error: CatalogError) -> RetrievalError {
    let reason = match error {
        CatalogError::Damaged { detail, .. } => {
            format!("it is damaged ({detail}): take another copy, or export the collection again")
        }
        CatalogError::NotACatalog { detail, .. } => {
            format!(
                "it is not an export of a collection ({detail}): name a file that `edgewise collections export` wrote"
            )
        }
        CatalogError::NewerSchema { found, supported, .. } => {
            format!("a newer Edgewise wrote it (schema {found}, this one reads up to {supported}): use a newer one")
        }
        CatalogError::Missing { .. } => "there is no such file, or it is empty".to_owned(),
        CatalogError::CannotOpen { detail, .. } => format!("it can't be opened ({detail}): check its permissions"),
        error => return of(name)(error),
    };
    RetrievalError::UnusableExport { file: file.to_owned(), reason }
}

/// Makes the collection `name` from a file that [`export`] wrote. Its indexes are built from it; nothing is embedded. The
/// profile is the one the collection was made with.
///
/// # Errors
/// [`RetrievalError::CollectionExists`]; [`RetrievalError::UnusableExport`] if the file is damaged, foreign or of a newer
/// version; [`RetrievalError::DiskFull`]. Then there is no such collection.
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
        let catalog = Catalog::import(file, &next.catalog(), name).map_err(|error| unusable(name, file, error))?;
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
