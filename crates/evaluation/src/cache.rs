//! An embedder that remembers, in a file, so that a corpus is embedded once and measured many times.
//!
//! ```text
//! "edgewise embeddings 1 <digest of the embedder> <dimension>\n"
//! then records: BLAKE3 of the text (32 bytes), the vector as f32, BLAKE3 of both (first 8 bytes); little-endian
//! ```
//!
//! Records are only appended. A half-written or damaged record ends what is read: the rest is cut off and embedded
//! again. The file is locked while it is in use, and belongs to one embedder.
//!
//! Deliberately not here: removing what is no longer asked for.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use edgewise_model_api::{Embedder, EmbedderInfo, ModelError, Tokenizer};

use crate::EvaluationError;

/// Texts embedded between two appends: what a kill loses at most.
const APPEND_TEXTS: usize = 64;
const KEY_BYTES: usize = 32;
const CHECK_BYTES: usize = 8;

type Key = [u8; KEY_BYTES];

/// Wraps an embedder; gives the same vectors.
pub struct CachedEmbedder {
    inner: Arc<dyn Embedder>,
    store: Mutex<Store>,
}

struct Store {
    vectors: HashMap<Key, Vec<f32>>,
    file: Option<(PathBuf, File)>,
    embedded: usize,
}

impl CachedEmbedder {
    /// Remembers in memory, and in the file at `path` if there is one; it is created if missing.
    ///
    /// # Errors
    /// [`EvaluationError::Cache`] if it is of another embedder, in use, or not such a file.
    pub fn open(inner: Arc<dyn Embedder>, path: Option<&Path>) -> Result<Self, EvaluationError> {
        let mut vectors = HashMap::new();
        let file = match path {
            Some(path) => Some((path.to_owned(), load(path, inner.info(), &mut vectors)?)),
            None => None,
        };
        Ok(Self { inner, store: Mutex::new(Store { vectors, file, embedded: 0 }) })
    }

    /// Texts that had to be embedded so far.
    pub fn embedded(&self) -> usize {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).embedded
    }
}

/// Reads all sound records and leaves the file positioned behind them, cut off there.
fn load(path: &Path, info: &EmbedderInfo, vectors: &mut HashMap<Key, Vec<f32>>) -> Result<File, EvaluationError> {
    let fail = |error: std::io::Error| EvaluationError::cache(path, error);
    let header = format!("edgewise embeddings 1 {} {}\n", info.digest, info.dimension).into_bytes();
    let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = opened.map_err(fail)?;
    file.try_lock().map_err(|error| EvaluationError::cache(path, error))?;
    let length = file.metadata().map_err(fail)?.len();
    if length == 0 {
        file.write_all(&header).map_err(fail)?;
        return Ok(file);
    }
    let mut found = vec![0; header.len()];
    let mut reader = BufReader::with_capacity(1 << 20, &file);
    if reader.read_exact(&mut found).is_err() || found != header {
        return Err(EvaluationError::cache(path, "it is no embeddings file of this embedder"));
    }
    let mut record = vec![0; KEY_BYTES + info.dimension * 4 + CHECK_BYTES];
    let mut sound = header.len() as u64;
    while reader.read_exact(&mut record).is_ok() {
        let (content, check) = record.split_at(record.len() - CHECK_BYTES);
        if blake3::hash(content).as_bytes()[..CHECK_BYTES] != *check {
            break;
        }
        let (key, values) = content.split_at(KEY_BYTES);
        let mut name = Key::default();
        name.copy_from_slice(key);
        vectors.insert(name, values.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect());
        sound += record.len() as u64;
    }
    file.set_len(sound).map_err(fail)?;
    file.seek(SeekFrom::Start(sound)).map_err(fail)?;
    Ok(file)
}

impl Store {
    fn append(&mut self, added: &[(Key, Vec<f32>)]) -> Result<(), ModelError> {
        if let Some((path, file)) = &mut self.file {
            let mut bytes = Vec::new();
            for (key, vector) in added {
                let start = bytes.len();
                bytes.extend_from_slice(key);
                bytes.extend(vector.iter().flat_map(|value| value.to_le_bytes()));
                let check = blake3::hash(&bytes[start..]);
                bytes.extend_from_slice(&check.as_bytes()[..CHECK_BYTES]);
            }
            file.write_all(&bytes)
                .map_err(|error| ModelError::Internal(format!("cannot write {} ({error})", path.display())))?;
        }
        self.embedded += added.len();
        self.vectors.extend(added.iter().cloned());
        Ok(())
    }
}

impl Embedder for CachedEmbedder {
    fn info(&self) -> &EmbedderInfo {
        self.inner.info()
    }

    fn tokenizer(&self) -> &dyn Tokenizer {
        self.inner.tokenizer()
    }

    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, ModelError> {
        let keys: Vec<Key> = texts.iter().map(|text| *blake3::hash(text.as_bytes()).as_bytes()).collect();
        let missing: Vec<(Key, &str)> = {
            let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
            let mut seen = std::collections::HashSet::new();
            let both = keys.iter().zip(texts);
            both.filter(|(key, _)| !store.vectors.contains_key(*key) && seen.insert(**key))
                .map(|(key, text)| (*key, *text))
                .collect()
        };
        for part in missing.chunks(APPEND_TEXTS) {
            let part_texts: Vec<&str> = part.iter().map(|(_, text)| *text).collect();
            let vectors = self.inner.embed(&part_texts)?;
            if vectors.len() != part.len() {
                return Err(ModelError::Internal(format!("{} vectors for {} texts", vectors.len(), part.len())));
            }
            let added: Vec<(Key, Vec<f32>)> = part.iter().map(|(key, _)| *key).zip(vectors).collect();
            self.store.lock().unwrap_or_else(PoisonError::into_inner).append(&added)?;
        }
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let found = keys.iter().map(|key| store.vectors.get(key).cloned());
        found.collect::<Option<_>>().ok_or_else(|| ModelError::Internal("a vector went missing".to_owned()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use edgewise_test_support::HashEmbedder;

    use super::*;

    fn open(path: &Path) -> Result<CachedEmbedder, EvaluationError> {
        CachedEmbedder::open(Arc::new(HashEmbedder::new()), Some(path))
    }

    #[test]
    fn a_text_is_embedded_once_and_damage_is_embedded_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors");
        let texts: Vec<String> = (0..5).map(|n| format!("words number{n}")).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).chain(["words number0"]).collect();
        let expected = HashEmbedder::new().embed(&texts).unwrap();
        let first = open(&path).unwrap();
        assert_eq!((first.embed(&texts).unwrap(), first.embedded()), (expected.clone(), 5));
        assert!(open(&path).is_err(), "in use");
        drop(first);
        let again = open(&path).unwrap();
        assert_eq!((again.embed(&texts).unwrap(), again.embedded()), (expected.clone(), 0));
        drop(again);

        let sound = std::fs::read(&path).unwrap();
        let record = KEY_BYTES + 64 * 4 + CHECK_BYTES;
        for (damage, lost) in [(sound.len() - 1, 1), (sound.len() - record * 2 - 7, 3)] {
            // Cut short, and a flipped bit.
            std::fs::write(&path, &sound[..damage]).unwrap();
            let cut = open(&path).unwrap();
            assert_eq!((cut.embed(&texts).unwrap(), cut.embedded()), (expected.clone(), lost));
            drop(cut);
            let mut flipped = sound.clone();
            flipped[damage] ^= 4;
            std::fs::write(&path, &flipped).unwrap();
            let flipped = open(&path).unwrap();
            assert_eq!((flipped.embed(&texts).unwrap(), flipped.embedded()), (expected.clone(), lost));
        }
    }

    #[test]
    fn a_file_of_another_embedder_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vectors");
        drop(open(&path).unwrap());
        let other = CachedEmbedder::open(Arc::new(HashEmbedder::with_dimension(8)), Some(&path));
        assert!(matches!(other, Err(EvaluationError::Cache { .. })));
        std::fs::write(&path, "something else").unwrap();
        assert!(matches!(open(&path), Err(EvaluationError::Cache { .. })));
    }
}
