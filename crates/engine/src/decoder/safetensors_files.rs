//! A folder of safetensors files: mapped, their headers parsed, their tensors as byte slices.
//!
//! Format: <https://github.com/huggingface/safetensors#format>; shards are listed in `model.safetensors.index.json` as
//! transformers writes it. Invariants: every tensor's bytes lie inside its file and have the length its shape calls
//! for; a truncated file is refused on opening, not when a weight is first touched; the index names files of the same
//! folder only. Deliberately not here: what the tensors mean.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    ops::Range,
    path::{Path, PathBuf},
};

use edgewise_kernels::WeightFormat;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use super::DecoderError;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Most files an index may list; an open file each.
const MOST_SHARDS: usize = 1000;

/// The open safetensors files of a model. They must not be changed or truncated while open, as they are mapped.
pub struct SafetensorsFiles {
    folder: PathBuf,
    maps: Vec<Mmap>,
    tensors: HashMap<String, Located>,
}

#[derive(Debug)]
struct Located {
    file: usize,
    dtype: Dtype,
    dims: Vec<usize>,
    range: Range<usize>,
}

impl std::fmt::Debug for SafetensorsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SafetensorsFiles").field("folder", &self.folder).field("files", &self.maps.len()).finish()
    }
}

impl SafetensorsFiles {
    /// Opens and maps `model.safetensors` in `folder`, or the shards that `model.safetensors.index.json` lists.
    ///
    /// # Errors
    /// [`DecoderError::Io`] when a file can't be opened, [`DecoderError::Format`] when one is damaged or cut short.
    pub fn open(folder: impl AsRef<Path>) -> Result<Self, DecoderError> {
        let folder = folder.as_ref().to_path_buf();
        let names = match std::fs::read_to_string(folder.join(INDEX)) {
            Ok(index) => shards(&folder.join(INDEX), &index)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => vec![SINGLE.to_owned()],
            Err(source) => return Err(DecoderError::Io { path: folder.join(INDEX), source }),
        };
        let mut files = Self { folder, maps: Vec::with_capacity(names.len()), tensors: HashMap::new() };
        for name in names {
            files.add(&name)?;
        }
        Ok(files)
    }

    fn add(&mut self, name: &str) -> Result<(), DecoderError> {
        let path = self.folder.join(name);
        let io = |source| DecoderError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is private and read-only. Nothing of ours writes model files in place (they appear by
        // rename), and the documentation of this type forbids changing one while it is open.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let format = |reason: String| DecoderError::Format { path: path.clone(), reason };
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| format(e.to_string()))?;
        let data = header + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            if map.get(range.clone()).is_none() {
                return Err(format(format!("the tensor `{name}` reaches beyond its end (it was cut short)")));
            }
            let located = Located { file: self.maps.len(), dtype: info.dtype, dims: info.shape.clone(), range };
            if self.tensors.insert(name.clone(), located).is_some() {
                return Err(format(format!("the tensor `{name}` is in more than one file")));
            }
        }
        self.maps.push(map);
        Ok(())
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Format, shape and bytes of a tensor.
    pub(crate) fn tensor(&self, name: &str) -> Result<(WeightFormat, &[usize], &[u8]), DecoderError> {
        let problem = |problem: String| DecoderError::Tensor { name: name.to_owned(), problem };
        let located = self.tensors.get(name).ok_or_else(|| problem("is missing".to_owned()))?;
        let format = match located.dtype {
            Dtype::F32 => WeightFormat::F32,
            Dtype::F16 => WeightFormat::F16,
            Dtype::BF16 => WeightFormat::BF16,
            other => return Err(problem(format!("is of type {other:?}; F32, F16 and BF16 are implemented"))),
        };
        let bytes = self.maps[located.file].get(located.range.clone());
        Ok((format, &located.dims, bytes.ok_or_else(|| problem("reaches beyond its file".to_owned()))?))
    }
}

/// The file names an index lists.
fn shards(path: &Path, index: &str) -> Result<Vec<String>, DecoderError> {
    let format = |reason: String| DecoderError::Format { path: path.to_path_buf(), reason };
    let index: Value = serde_json::from_str(index).map_err(|e| format(format!("it is not JSON ({e})")))?;
    let map = index.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| format("it has no `weight_map`".to_owned()))?;
    let mut names = BTreeSet::new();
    for name in map.values() {
        let plain = name.as_str().filter(|name| {
            let mut parts = Path::new(name).components();
            matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None))
        });
        names.insert(plain.ok_or_else(|| format(format!("it lists {name}, which is not a plain file name")))?);
    }
    if names.is_empty() || names.len() > MOST_SHARDS {
        return Err(format(format!("it lists {} files", names.len())));
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}
