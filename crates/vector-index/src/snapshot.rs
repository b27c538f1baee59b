//! Snapshots on disk.
//!
//! ```text
//! <folder>/MANIFEST                 BLAKE3 of the second line, line feed, JSON, line feed
//! <folder>/<generation>/vectors     tail, then base: ids as u64, then vectors as f32, little-endian, without padding
//! <folder>/<generation>/graph       layers of the graph over the base, if there is one, as u32, little-endian
//! ```
//!
//! Checksums cover every byte, and what a sound file says of the graph is checked again: no link leads out of its table.
//!
//! A snapshot is written to a folder of its own and synced, then the manifest is written beside the old one, synced,
//! and renamed over it: the rename is the moment of publication. A crash before it leaves the snapshot before, a crash
//! after it the new one. Folders that the manifest does not name are left-overs and go with the next publication.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::Path,
    sync::Arc,
};

use edgewise_types::{ChunkId, Generation};
use serde::{Deserialize, Serialize};

use crate::{
    GraphOptions, VectorError, VectorIndex,
    flat::Flat,
    graph::{Graph, Layer},
    index::Base,
};

const FORMAT: u32 = 3;
const MANIFEST: &str = "MANIFEST";
const NEW_MANIFEST: &str = "MANIFEST.new";
const VECTORS: &str = "vectors";
const GRAPH: &str = "graph";
/// Written at a time.
const GRAPH_BYTES: usize = 1 << 18;

/// What a snapshot holds, and its checksum.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    source: String,
    generation: u64,
    dimension: usize,
    /// Vectors that may change in place.
    vectors: usize,
    base: Option<BaseManifest>,
    /// Name of the snapshot's folder.
    folder: String,
    /// BLAKE3 of its file of vectors, in hexadecimal.
    blake3: String,
}

/// The rows that don't change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct BaseManifest {
    rows: usize,
    /// Chunks removed since.
    dead: Vec<ChunkId>,
    graph: Option<GraphManifest>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct GraphManifest {
    /// Rows of nodes that the graph does not find.
    unreached: Vec<u32>,
    options: GraphOptions,
    layers: usize,
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
        step();
        let prepared = self.write(&path.join(&folder)).and_then(|(blake3, base)| {
            let manifest = Manifest {
                format: FORMAT,
                source: self.source.clone(),
                generation: self.generation.0,
                dimension: self.dimension,
                vectors: self.tail.len(),
                base,
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
        step();
        fs::rename(path.join(NEW_MANIFEST), path.join(MANIFEST)).map_err(fail)?;
        step();
        sync_folder(path).map_err(fail)?;
        step();
        remove_others(path, &folder).map_err(fail)
    }

    /// Writes and syncs the snapshot's folder, and returns what the manifest says of it.
    fn write(&self, folder: &Path) -> io::Result<(String, Option<BaseManifest>)> {
        fs::create_dir(folder)?;
        step();
        let mut file = Checked::new(BufWriter::with_capacity(1 << 20, File::create(folder.join(VECTORS))?));
        step();
        write_flat(&self.tail, &mut file)?;
        if let Some(base) = &self.base {
            write_flat(&base.flat, &mut file)?;
        }
        let (file, blake3) = file.finish();
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        step();
        let base = match &self.base {
            Some(base) => Some(write_base(base, folder)?),
            None => None,
        };
        step();
        sync_folder(folder)?;
        step();
        Ok((blake3, base))
    }

    /// Loads the snapshot in the folder `path`; `None` if none was ever published. `dimension` and `source` are those of
    /// the catalog; `options` apply to graphs built from now on. Every byte is checked.
    ///
    /// # Errors
    /// [`VectorError::NeedsRebuild`] if it is damaged, or of another format, dimension or catalog.
    pub fn load(
        path: &Path,
        dimension: usize,
        source: &str,
        options: GraphOptions,
    ) -> Result<Option<Self>, VectorError> {
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
        read(&path.join(&manifest.folder), &manifest, options).map(Some).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                VectorError::rebuild(path, format!("`{}`: {error}", file.display()))
            }
            _ => VectorError::io(&file, &error),
        })
    }
}

fn write_flat(flat: &Flat, file: &mut Checked<BufWriter<File>>) -> io::Result<()> {
    for chunk in &flat.ids {
        file.write_all(&chunk.0.to_le_bytes())?;
    }
    let mut bytes = Vec::with_capacity(flat.dimension * 4);
    for row in 0..flat.len() {
        bytes.clear();
        bytes.extend(flat.vector(row).flat_map(f32::to_le_bytes));
        file.write_all(&bytes)?;
    }
    Ok(())
}

/// Writes and syncs the graph's file, if there is a graph.
fn write_base(base: &Base, folder: &Path) -> io::Result<BaseManifest> {
    let dead = base.flat.ids.iter().zip(&base.dead).filter(|(_, dead)| **dead).map(|(chunk, _)| *chunk).collect();
    let mut manifest = BaseManifest { rows: base.flat.len(), dead, graph: None };
    if let Some(graph) = &base.graph {
        let mut file = Checked::new(BufWriter::with_capacity(1 << 20, File::create(folder.join(GRAPH))?));
        step();
        let mut bytes = Vec::with_capacity(GRAPH_BYTES);
        for number in graph.layers.iter().flat_map(Layer::to_numbers) {
            bytes.extend_from_slice(&number.to_le_bytes());
            if bytes.len() >= GRAPH_BYTES {
                file.write_all(&bytes)?;
                bytes.clear();
            }
        }
        file.write_all(&bytes)?;
        let (file, blake3) = file.finish();
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        let (unreached, options, layers) = (graph.unreached.clone(), graph.options, graph.layers.len());
        manifest.graph = Some(GraphManifest { unreached, options, layers, blake3 });
    }
    Ok(manifest)
}

fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

/// Reads and verifies the files of a snapshot.
fn read(folder: &Path, manifest: &Manifest, options: GraphOptions) -> io::Result<VectorIndex> {
    let dimension = manifest.dimension;
    let file = File::open(folder.join(VECTORS))?;
    // Before any allocation: a damaged count must not ask for all memory.
    let rows = manifest.base.as_ref().map_or(0, |base| base.rows).checked_add(manifest.vectors);
    let expected = dimension.checked_mul(4).and_then(|vector| vector.checked_add(8)?.checked_mul(rows?));
    if dimension == 0 || expected.map(|bytes| bytes as u64) != Some(file.metadata()?.len()) {
        return Err(invalid("its size does not match the manifest"));
    }
    let mut file = Checked::new(BufReader::with_capacity(1 << 20, file));
    let mut index = VectorIndex::with_options(dimension, manifest.source.clone(), options);
    index.generation = Generation(manifest.generation);
    index.tail = read_flat(manifest.vectors, dimension, &mut file)?;
    let base = match &manifest.base {
        Some(base) => Some((read_flat(base.rows, dimension, &mut file)?, base)),
        None => None,
    };
    let (_, blake3) = file.finish();
    if blake3 != manifest.blake3 {
        return Err(invalid("its checksum is wrong"));
    }
    if let Some((flat, base)) = base {
        let flat = Arc::new(flat);
        let graph = base.graph.as_ref().map(|graph| read_graph(folder, graph, &flat).map(Arc::new)).transpose()?;
        let mut rows = Base::new(flat, graph);
        if !base.dead.iter().all(|chunk| rows.bury(*chunk)) {
            return Err(invalid("it names removed chunks that are not in it"));
        }
        if index.tail.ids.iter().any(|chunk| rows.live_row(*chunk).is_some()) {
            return Err(invalid("a chunk stands in it twice"));
        }
        index.base = Some(rows);
    }
    Ok(index)
}

fn read_graph(folder: &Path, manifest: &GraphManifest, flat: &Arc<Flat>) -> io::Result<Graph> {
    let bytes = fs::read(folder.join(GRAPH))?;
    if blake3::hash(&bytes).to_hex().as_str() != manifest.blake3 {
        return Err(invalid("the graph's checksum is wrong"));
    }
    let (numbers, rest) = bytes.as_chunks::<4>();
    let numbers: Vec<u32> = numbers.iter().map(|number| u32::from_le_bytes(*number)).collect();
    let mut left = numbers.as_slice();
    let layers: Option<Vec<Layer>> = (0..manifest.layers).map(|_| Layer::from_numbers(&mut left)).collect();
    let layers = layers.filter(|_| left.is_empty() && rest.is_empty());
    let layers = layers.ok_or_else(|| invalid("the graph's layers do not fit its file"))?;
    Graph::from_parts(Arc::clone(flat), layers, manifest.unreached.clone(), manifest.options)
        .map_err(|reason| invalid(format!("the graph is unusable: {reason}")))
}

fn read_flat(count: usize, dimension: usize, file: &mut Checked<BufReader<File>>) -> io::Result<Flat> {
    let mut flat = Flat::new(dimension);
    flat.reserve(count);
    let mut ids = Vec::with_capacity(count);
    for _ in 0..count {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        ids.push(ChunkId(u64::from_le_bytes(bytes)));
    }
    let (mut bytes, mut vector) = (vec![0; dimension * 4], vec![0.0; dimension]);
    for (row, chunk) in ids.into_iter().enumerate() {
        file.read_exact(&mut bytes)?;
        for (value, bytes) in vector.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        flat.insert(chunk, &vector);
        if flat.len() != row + 1 {
            return Err(invalid("a chunk stands in it twice"));
        }
    }
    Ok(flat)
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
    step();
    writeln!(file, "{}", blake3::hash(json.as_bytes()).to_hex())?;
    step();
    writeln!(file, "{json}")?;
    step();
    file.sync_all()?;
    step();
    // The folder's entry of the snapshot must be on disk before a manifest that names it.
    sync_folder(path)
}

/// Between any two steps of a publication the process may be killed; tests do so.
fn step() {
    #[cfg(test)]
    tests::step();
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
            step();
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
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
