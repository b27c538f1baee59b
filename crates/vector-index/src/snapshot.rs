//! Snapshots on disk.
//!
//! ```text
//! <folder>/MANIFEST              BLAKE3 of the second line, line feed, JSON, line feed
//! <folder>/<generation>/vectors  ids as u64, then vectors as f32, all little-endian, without padding
//! ```
//!
//! A snapshot is written to a folder of its own and synced, then the manifest is written beside the old one, synced,
//! and renamed over it: the rename is the moment of publication. A crash before it leaves the snapshot before, a crash
//! after it the new one. Folders that the manifest does not name are left-overs and go with the next publication.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
};

use edgewise_types::{ChunkId, Generation};
use serde::{Deserialize, Serialize};

use crate::{
    VectorError, VectorIndex,
    kernel::{Block, blocks_for, pack_into},
};

const FORMAT: u32 = 1;
const MANIFEST: &str = "MANIFEST";
const NEW_MANIFEST: &str = "MANIFEST.new";
const VECTORS: &str = "vectors";

/// What a snapshot holds, and its checksum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    source: String,
    generation: u64,
    dimension: usize,
    vectors: usize,
    /// Name of the snapshot's folder.
    folder: String,
    /// BLAKE3 of its file, in hexadecimal.
    blake3: String,
}

impl VectorIndex {
    /// Publishes the index as the snapshot in the folder `path`, which is created if it is not there. When it returns,
    /// the snapshot is on disk and older ones are gone.
    ///
    /// # Errors
    /// [`VectorError::DiskFull`] or [`VectorError::Io`]; the snapshot before is then still in place.
    pub fn save(&self, path: &Path) -> Result<(), VectorError> {
        let fail = |error: io::Error| VectorError::io(path, &error);
        fs::create_dir_all(path).map_err(fail)?;
        let folder = unused_name(path, self.generation).map_err(fail)?;
        let prepared = self.write(&path.join(&folder)).and_then(|blake3| {
            let manifest = Manifest {
                format: FORMAT,
                source: self.source.clone(),
                generation: self.generation.0,
                dimension: self.dimension,
                vectors: self.len(),
                folder: folder.clone(),
                blake3,
            };
            write_manifest(path, &manifest)
        });
        if let Err(error) = prepared {
            // A full disk should not stay full because of us. If this fails too, the next publication removes it.
            let _ = fs::remove_dir_all(path.join(&folder));
            let _ = fs::remove_file(path.join(NEW_MANIFEST));
            return Err(fail(error));
        }
        fs::rename(path.join(NEW_MANIFEST), path.join(MANIFEST)).map_err(fail)?;
        sync_folder(path).map_err(fail)?;
        remove_others(path, &folder).map_err(fail)
    }

    /// Writes and syncs the snapshot's folder, and returns the checksum of its file.
    fn write(&self, folder: &Path) -> io::Result<String> {
        fs::create_dir(folder)?;
        let mut file = Checked::new(BufWriter::with_capacity(1 << 20, File::create(folder.join(VECTORS))?));
        for chunk in &self.ids {
            file.write_all(&chunk.0.to_le_bytes())?;
        }
        let mut bytes = Vec::with_capacity(self.dimension * 4);
        for row in 0..self.len() {
            bytes.clear();
            bytes.extend(self.vector(row).flat_map(f32::to_le_bytes));
            file.write_all(&bytes)?;
        }
        let (file, blake3) = file.finish();
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        sync_folder(folder)?;
        Ok(blake3)
    }

    /// Loads the snapshot in the folder `path`; `None` if none was ever published. `dimension` and `source` are those of
    /// the catalog. Every byte is checked.
    ///
    /// # Errors
    /// [`VectorError::NeedsRebuild`] if it is damaged, or of another format, dimension or catalog.
    pub fn load(path: &Path, dimension: usize, source: &str) -> Result<Option<Self>, VectorError> {
        let text = match fs::read(path.join(MANIFEST)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(VectorError::io(path, &error)),
        };
        let manifest = parse(&text).map_err(|reason| VectorError::rebuild(path, reason))?;
        if manifest.format != FORMAT {
            let reason = format!("its format is {}, expected {FORMAT}", manifest.format);
            return Err(VectorError::rebuild(path, reason));
        }
        if manifest.source != source {
            return Err(VectorError::rebuild(path, "it belongs to another catalog"));
        }
        if manifest.dimension != dimension {
            let reason = format!("its vectors have {} dimensions, expected {dimension}", manifest.dimension);
            return Err(VectorError::rebuild(path, reason));
        }
        let file = path.join(&manifest.folder).join(VECTORS);
        read(&file, &manifest).map(Some).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                VectorError::rebuild(path, format!("`{}`: {error}", file.display()))
            }
            _ => VectorError::io(&file, &error),
        })
    }
}

/// Reads and verifies the file of a snapshot.
fn read(path: &Path, manifest: &Manifest) -> io::Result<VectorIndex> {
    let invalid = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
    let (count, dimension) = (manifest.vectors, manifest.dimension);
    let file = File::open(path)?;
    // Before any allocation: a damaged count must not ask for all memory.
    let expected = dimension.checked_mul(4).and_then(|vector| vector.checked_add(8)?.checked_mul(count));
    if dimension == 0 || expected.map(|bytes| bytes as u64) != Some(file.metadata()?.len()) {
        return Err(invalid("its size does not match the manifest"));
    }
    let mut file = Checked::new(BufReader::with_capacity(1 << 20, file));
    let mut index = VectorIndex::new(dimension, manifest.source.clone());
    index.generation = Generation(manifest.generation);
    index.reserve(count);
    for row in 0..count {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        let chunk = ChunkId(u64::from_le_bytes(bytes));
        index.ids.push(chunk);
        if index.row_of.insert(chunk, row).is_some() {
            return Err(invalid("a chunk stands in it twice"));
        }
    }
    let width = blocks_for(dimension);
    index.rows.resize(count * width, Block::ZERO);
    let (mut bytes, mut vector) = (vec![0; dimension * 4], vec![0.0; dimension]);
    for row in index.rows.chunks_exact_mut(width) {
        file.read_exact(&mut bytes)?;
        for (value, bytes) in vector.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        pack_into(&vector, row);
    }
    let (_, blake3) = file.finish();
    if blake3 != manifest.blake3 { Err(invalid("its checksum is wrong")) } else { Ok(index) }
}

fn parse(text: &[u8]) -> Result<Manifest, String> {
    let text = std::str::from_utf8(text).map_err(|_| "the manifest is not text".to_owned())?;
    let (checksum, json) = text.split_once('\n').ok_or("the manifest is cut off")?;
    let json = json.strip_suffix('\n').ok_or("the manifest is cut off")?;
    if blake3::hash(json.as_bytes()).to_hex().as_str() != checksum {
        return Err("the manifest has a wrong checksum".to_owned());
    }
    serde_json::from_str(json).map_err(|error| format!("unreadable manifest: {error}"))
}

/// Writes and syncs the manifest beside the current one.
fn write_manifest(path: &Path, manifest: &Manifest) -> io::Result<()> {
    let json = serde_json::to_string(manifest)?;
    let mut file = File::create(path.join(NEW_MANIFEST))?;
    writeln!(file, "{}", blake3::hash(json.as_bytes()).to_hex())?;
    writeln!(file, "{json}")?;
    file.sync_all()?;
    // The folder's entry of the snapshot must be on disk before a manifest that names it.
    sync_folder(path)
}

/// The generation as a folder name, with a suffix if it is taken: the snapshot in place is never written to.
fn unused_name(path: &Path, generation: Generation) -> io::Result<String> {
    let mut name = generation.to_string();
    let mut attempt = 0;
    while path.join(&name).try_exists()? {
        attempt += 1;
        name = format!("{generation}-{attempt}");
    }
    Ok(name)
}

/// Removes every folder beside the current one.
fn remove_others(path: &Path, current: &str) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && entry.file_name() != current {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(())
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// A reader or writer that hashes what passes through it.
struct Checked<F> {
    file: F,
    hasher: blake3::Hasher,
}

impl<F> Checked<F> {
    fn new(file: F) -> Self {
        Self { file, hasher: blake3::Hasher::new() }
    }

    fn finish(self) -> (F, String) {
        (self.file, self.hasher.finalize().to_hex().to_string())
    }
}

impl<F: Write> Checked<F> {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.file.write_all(bytes)
    }
}

impl<F: Read> Checked<F> {
    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.file.read_exact(bytes)?;
        self.hasher.update(bytes);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIMENSION: usize = 5;

    fn index(vectors: u64, generation: u64) -> VectorIndex {
        let mut index = VectorIndex::new(DIMENSION, "catalog");
        for chunk in 0..vectors {
            let angle = (chunk + generation) as f32;
            index.insert(ChunkId(chunk * 3 + generation), &[angle.cos(), 0.0, angle.sin(), -0.0, 0.0]).unwrap();
        }
        index.set_generation(Generation(generation));
        index
    }

    fn load(path: &Path) -> Result<Option<VectorIndex>, VectorError> {
        VectorIndex::load(path, DIMENSION, "catalog")
    }

    /// Equal bit by bit: `-0.0` and `0.0` differ.
    fn assert_same(a: &VectorIndex, b: &VectorIndex) {
        let bits =
            |index: &VectorIndex| index.rows.iter().flat_map(|block| block.0.map(f32::to_bits)).collect::<Vec<_>>();
        assert_eq!((&a.ids, &a.row_of, a.generation, &a.source), (&b.ids, &b.row_of, b.generation, &b.source));
        assert_eq!(bits(a), bits(b));
    }

    fn folders(path: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

        #[test]
        fn what_is_loaded_is_what_was_saved(vectors in 0u64..50, removed in prop::collection::vec(0u64..50, 0..20)) {
            let folder = tempfile::tempdir().unwrap();
            prop_assert!(load(folder.path()).unwrap().is_none());
            let mut saved = index(vectors, 4);
            for chunk in removed {
                saved.remove(ChunkId(chunk * 3 + 4));
            }
            saved.save(folder.path()).unwrap();
            let mut loaded = load(folder.path()).unwrap().unwrap();
            assert_same(&loaded, &saved);
            // And it can be worked on.
            for index in [&mut loaded, &mut saved] {
                index.insert(ChunkId(10_000), &[0.0, 1.0, 0.0, 0.0, 0.0]).unwrap();
                index.remove(ChunkId(7));
            }
            assert_same(&loaded, &saved);
        }
    }

    #[test]
    fn every_damage_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        index(4, 9).save(path).unwrap();
        let assert_refused = |what: String| {
            let result = load(path);
            assert!(matches!(result, Err(VectorError::NeedsRebuild { .. })), "{what}: {result:?}");
        };
        for file in [path.join(MANIFEST), path.join("9").join(VECTORS)] {
            let sound = fs::read(&file).unwrap();
            for at in 0..sound.len() {
                let mut damaged = sound.clone();
                damaged[at] ^= 1 << (at % 8);
                fs::write(&file, &damaged).unwrap();
                assert_refused(format!("{} with a flipped bit in byte {at}", file.display()));
                fs::write(&file, &sound[..at]).unwrap();
                assert_refused(format!("{} cut to {at} bytes", file.display()));
            }
            let mut longer = sound.clone();
            longer.push(b'\n');
            fs::write(&file, &longer).unwrap();
            assert_refused(format!("{} with a byte more", file.display()));
            fs::write(&file, &sound).unwrap();
            assert_same(&load(path).unwrap().unwrap(), &index(4, 9));
        }
        fs::remove_dir_all(path.join("9")).unwrap();
        assert_refused("missing folder".to_owned());
    }

    #[test]
    fn another_catalog_or_embedder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        index(2, 1).save(folder.path()).unwrap();
        for (dimension, source) in [(DIMENSION, "other"), (DIMENSION + 1, "catalog")] {
            let result = VectorIndex::load(folder.path(), dimension, source);
            assert!(matches!(result, Err(VectorError::NeedsRebuild { .. })), "{result:?}");
        }
    }

    /// Leaves on disk what a crash between any two steps of a publication leaves.
    #[test]
    fn a_crash_before_the_rename_keeps_the_snapshot_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        index(3, 1).save(path).unwrap();
        let assert_first = || assert_same(&load(path).unwrap().unwrap(), &index(3, 1));

        fs::create_dir(path.join("2")).unwrap();
        assert_first();
        fs::write(path.join("2").join(VECTORS), "half").unwrap();
        assert_first();
        // The whole snapshot, and half a manifest.
        let complete = index(5, 2).write(&path.join("2-1")).unwrap();
        assert_first();
        fs::write(path.join(NEW_MANIFEST), &complete[..10]).unwrap();
        assert_first();

        // Trying again works and clears all of it away.
        index(5, 2).save(path).unwrap();
        assert_same(&load(path).unwrap().unwrap(), &index(5, 2));
        assert_eq!(folders(path), ["2-2", MANIFEST]);
        // A crash after the rename leaves the folder before; it goes with the next publication.
        fs::create_dir(path.join("1")).unwrap();
        index(6, 2).save(path).unwrap();
        assert_same(&load(path).unwrap().unwrap(), &index(6, 2));
        assert_eq!(folders(path), ["2", MANIFEST]);
    }

    #[test]
    fn a_failed_publication_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        index(3, 1).save(path).unwrap();
        // A folder where the new manifest should go: it can't be created.
        fs::create_dir(path.join(NEW_MANIFEST)).unwrap();
        assert!(matches!(index(4, 2).save(path), Err(VectorError::Io { .. })));
        assert_eq!(folders(path), ["1", MANIFEST, NEW_MANIFEST]);
        assert_same(&load(path).unwrap().unwrap(), &index(3, 1));
    }
}
