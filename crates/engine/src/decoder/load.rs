//! From files to a decoder on a backend.

use std::{path::Path, sync::Arc};

use super::{
    Arithmetic, Backend, Cpu, Decoder, DecoderConfig, DecoderError, GgufFile, Inner, SafetensorsFiles,
    weights::{Source, Weights},
};

/// How a model is loaded.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoadOptions {
    /// Positions to serve; by default what the model was trained or extended for, and never more than its RoPE scaling
    /// reaches. Dynamic NTK scaling is fixed for this window (see [`RopeConfig`](super::RopeConfig)).
    pub context_window: Option<usize>,
    /// Whether floating-point matrices are rounded to Q8_0 while loading: a quarter of the memory of f32, and faster.
    pub compact: bool,
}

impl Decoder<Cpu> {
    /// Loads a GGUF file for the CPU. The file is not needed afterwards.
    ///
    /// # Errors
    /// [`DecoderError`] when metadata or tensors are missing, contradict each other, or need what is not implemented.
    pub fn load_gguf(gguf: &GgufFile) -> Result<Self, DecoderError> {
        Self::load_gguf_with(gguf, Arithmetic::default())
    }

    /// Loads a GGUF file for the given arithmetic.
    ///
    /// # Errors
    /// As [`Self::load_gguf`].
    pub fn load_gguf_with(gguf: &GgufFile, arithmetic: Arithmetic) -> Result<Self, DecoderError> {
        Self::from_gguf(gguf, Cpu { arithmetic }, &LoadOptions::default())
    }
}

impl<B: Backend> Decoder<B> {
    /// Loads a GGUF file. The file is not needed afterwards.
    ///
    /// # Errors
    /// [`DecoderError`] when metadata or tensors are missing, contradict each other, or need what is not implemented.
    pub fn from_gguf(gguf: &GgufFile, backend: B, options: &LoadOptions) -> Result<Self, DecoderError> {
        Self::load(DecoderConfig::from_gguf(gguf)?, Source::Gguf(gguf), backend, options)
    }

    /// Loads a folder as transformers saves it: `config.json` with `model.safetensors`, or its shards and
    /// `model.safetensors.index.json`. The files are not needed afterwards.
    ///
    /// # Errors
    /// As [`Self::from_gguf`].
    pub fn from_folder(folder: impl AsRef<Path>, backend: B, options: &LoadOptions) -> Result<Self, DecoderError> {
        let path = folder.as_ref().join("config.json");
        let text = std::fs::read_to_string(&path).map_err(|source| DecoderError::Io { path, source })?;
        let config = DecoderConfig::from_json(&text)?;
        let files = SafetensorsFiles::open(folder)?;
        Self::load(config, Source::Safetensors(&files), backend, options)
    }

    /// A decoder of the shape that `config_json`, a `config.json`, describes, with made-up weights: for measurements and
    /// tests without a checkpoint. The same seed gives the same weights on every backend.
    ///
    /// # Errors
    /// As [`Self::from_gguf`].
    pub fn with_random_weights(
        config_json: &str,
        backend: B,
        options: &LoadOptions,
        seed: u64,
    ) -> Result<Self, DecoderError> {
        Self::load(DecoderConfig::from_json(config_json)?, Source::Random(seed), backend, options)
    }

    fn load(
        config: DecoderConfig,
        source: Source<'_>,
        backend: B,
        options: &LoadOptions,
    ) -> Result<Self, DecoderError> {
        let config = config.with_window(options.context_window);
        let attention = backend.attention(&config)?;
        let weights = Weights::load(source, &config, &backend, options.compact)?;
        Ok(Self { inner: Arc::new(Inner { backend, config, attention, weights }) })
    }
}
