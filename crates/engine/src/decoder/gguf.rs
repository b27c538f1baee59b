//! A GGUF file: mapped, its header parsed, its metadata behind typed getters, its tensors as byte slices.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Invariant: every tensor's bytes lie inside the
//! file; a truncated file is refused on opening, not when a weight is first touched. Deliberately not here: what the
//! keys and tensors mean.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use candle_core::quantized::{
    GgmlDType,
    gguf_file::{Content, Value},
};
use memmap2::Mmap;

use super::DecoderError;

/// An open GGUF file. The file must not be changed or truncated while it is open, as it is mapped into memory.
pub struct GgufFile {
    path: PathBuf,
    content: Content,
    map: Mmap,
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GgufFile").field("path", &self.path).field("bytes", &self.map.len()).finish_non_exhaustive()
    }
}

/// One tensor of a file: its block format, its shape with the fastest-varying dimension last, and its raw blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GgufTensor<'a> {
    pub(crate) dtype: GgmlDType,
    pub(crate) dims: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl GgufFile {
    /// Opens and maps `path` and checks that every tensor lies within it.
    ///
    /// # Errors
    /// [`DecoderError::Io`] when it can't be opened, [`DecoderError::Format`] when it is not GGUF or is cut short.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, DecoderError> {
        let path = path.as_ref().to_path_buf();
        let io = |source| DecoderError::Io { path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the map is private and read-only. Nothing of ours writes model files in place (they appear by
        // rename), and the documentation of this type forbids changing one while it is open.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let format = |reason: String| DecoderError::Format { path: path.clone(), reason };
        // The parser divides by the alignment the file names.
        let read = || Content::read(&mut std::io::Cursor::new(&map[..]));
        let content = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
            .map_err(|_| format("its header makes no sense".to_owned()))?
            .map_err(|e| format(e.to_string().lines().next().unwrap_or_default().to_owned()))?;
        let gguf = Self { path, content, map };
        for name in gguf.content.tensor_infos.keys() {
            gguf.tensor(name)?;
        }
        Ok(gguf)
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Length of the file in bytes.
    pub fn bytes(&self) -> usize {
        self.map.len()
    }

    /// The value of a metadata key, if it is there.
    pub fn value(&self, key: &str) -> Option<&Value> {
        self.content.metadata.get(key)
    }

    /// A text.
    ///
    /// # Errors
    /// [`DecoderError::Metadata`] when the key is missing or not a text. The same holds for the other getters.
    pub fn string(&self, key: &str) -> Result<&str, DecoderError> {
        match self.required(key)? {
            Value::String(text) => Ok(text),
            other => Err(wrong_type(key, "a string", other)),
        }
    }

    /// A non-negative whole number, whatever its width in the file.
    pub fn integer(&self, key: &str) -> Result<usize, DecoderError> {
        let value = self.required(key)?;
        integer(value).ok_or_else(|| wrong_type(key, "a non-negative integer", value))
    }

    /// A number, whatever its width in the file.
    pub fn float(&self, key: &str) -> Result<f64, DecoderError> {
        match self.required(key)? {
            Value::F32(v) => Ok(f64::from(*v)),
            Value::F64(v) => Ok(*v),
            other => Err(wrong_type(key, "a floating-point number", other)),
        }
    }

    /// A flag.
    pub fn flag(&self, key: &str) -> Result<bool, DecoderError> {
        match self.required(key)? {
            Value::Bool(v) => Ok(*v),
            other => Err(wrong_type(key, "a boolean", other)),
        }
    }

    /// An array of texts, such as `tokenizer.ggml.tokens`.
    pub fn strings(&self, key: &str) -> Result<Vec<&str>, DecoderError> {
        self.array(key)?
            .iter()
            .map(|value| match value {
                Value::String(text) => Ok(text.as_str()),
                other => Err(wrong_type(key, "an array of strings", other)),
            })
            .collect()
    }

    /// An array of non-negative whole numbers, such as `tokenizer.ggml.token_type`.
    pub fn integers(&self, key: &str) -> Result<Vec<usize>, DecoderError> {
        let element = |value| integer(value).ok_or_else(|| wrong_type(key, "an array of non-negative integers", value));
        self.array(key)?.iter().map(element).collect()
    }

    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        self.content.tensor_infos.contains_key(name)
    }

    /// The raw blocks of a tensor.
    pub(crate) fn tensor(&self, name: &str) -> Result<GgufTensor<'_>, DecoderError> {
        let problem = |problem: String| DecoderError::Tensor { name: name.to_owned(), problem };
        let info = self.content.tensor_infos.get(name).ok_or_else(|| problem("is missing".into()))?;
        let dims = info.shape.dims();
        let cut_short = || DecoderError::Format {
            path: self.path.clone(),
            reason: format!("the tensor `{name}` reaches beyond its end (it was cut short)"),
        };
        let elements = dims.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).ok_or_else(cut_short)?;
        let block = info.ggml_dtype.block_size();
        if dims.last().is_none_or(|columns| columns % block != 0) {
            return Err(problem(format!("of shape {dims:?} is not made of whole blocks of {block}")));
        }
        let length = (elements / block).checked_mul(info.ggml_dtype.type_size()).ok_or_else(cut_short)?;
        let start = self.content.tensor_data_offset.checked_add(info.offset).and_then(|s| usize::try_from(s).ok());
        let range = start.and_then(|start| Some(start..start.checked_add(length)?)).ok_or_else(cut_short)?;
        let bytes = self.map.get(range).ok_or_else(cut_short)?;
        Ok(GgufTensor { dtype: info.ggml_dtype, dims, bytes })
    }

    fn required(&self, key: &str) -> Result<&Value, DecoderError> {
        self.value(key).ok_or_else(|| DecoderError::Metadata { key: key.to_owned(), problem: "is missing".to_owned() })
    }

    fn array(&self, key: &str) -> Result<&[Value], DecoderError> {
        match self.required(key)? {
            Value::Array(values) => Ok(values),
            other => Err(wrong_type(key, "an array", other)),
        }
    }
}

fn integer(value: &Value) -> Option<usize> {
    match *value {
        Value::U8(v) => Some(v.into()),
        Value::U16(v) => Some(v.into()),
        Value::U32(v) => usize::try_from(v).ok(),
        Value::U64(v) => usize::try_from(v).ok(),
        Value::I8(v) => usize::try_from(v).ok(),
        Value::I16(v) => usize::try_from(v).ok(),
        Value::I32(v) => usize::try_from(v).ok(),
        Value::I64(v) => usize::try_from(v).ok(),
        _ => None,
    }
}

fn wrong_type(key: &str, expected: &str, value: &Value) -> DecoderError {
    DecoderError::Metadata {
        key: key.to_owned(),
        problem: format!("should be {expected} but is of type {:?}", value.value_type()),
    }
}
