//! From files to running models.

use std::{path::Path, sync::Arc};

use candle_core::quantized::gguf_file::Value;
use edgewise_model_api::{ModelError, Tokenizer};

use crate::{
    BertEmbedder, BertReranker, EncoderArithmetic, EngineError, EngineOptions, KvPrecision, LocalGenerator,
    PromptAttention, SystemClock,
    decoder::{Backend, Cpu, DecoderError, GgufFile},
    model_files::{self, ModelFiles},
    serve::{Parts, Placement},
    tokenizer::GgufVocabulary,
};
#[cfg(feature = "cuda")]
use crate::{
    Precision,
    decoder::{Cuda, CudaOptions, Half, KvFormat},
};

impl From<DecoderError> for EngineError {
    fn from(error: DecoderError) -> Self {
        match error {
            DecoderError::Io { path, source } => Self::io(&path, source),
            // The library beneath appends a backtrace when the environment asks for one.
            DecoderError::Format { path, reason } => {
                Self::BadFile { path, reason: reason.lines().next().unwrap_or_default().to_owned() }
            }
            other => Self::Decoder(other.to_string()),
        }
    }
}

/// Loads a generator, measures its latency curve (about a second) and starts its worker. `path` is a GGUF file, or a folder
/// as transformers saves it, with `config.json`, `*.safetensors`, `tokenizer.json` and a chat template. `model` is the name
/// it goes by.
///
/// # Errors
/// [`ModelError::Load`], with one sentence on what is wrong with which file.
pub fn load_generator(model: &str, path: &Path, options: &EngineOptions) -> Result<LocalGenerator, ModelError> {
    try_load_generator(model, path, options).map_err(|e| e.on_load(model))
}

fn try_load_generator(model: &str, path: &Path, options: &EngineOptions) -> Result<LocalGenerator, EngineError> {
    check_attention(options.device_attention)?;
    if options.device == Placement::Cpu {
        options.device_kv_precision.check_on_cpu()?;
    }
    match options.device {
        Placement::Cpu => {}
        #[cfg(feature = "cuda")]
        Placement::Cuda | Placement::Auto => match open_cuda(options, path) {
            Ok(cuda) => return on_cuda(model, path, options, cuda),
            Err(error) if options.device == Placement::Cuda => return Err(error.into()),
            Err(error) => tracing::info!(%error, "the generator computes on the CPU"),
        },
        #[cfg(not(feature = "cuda"))]
        Placement::Auto => {}
        #[cfg(not(feature = "cuda"))]
        Placement::Cuda => return Err(no_cuda()),
    }
    options.device_kv_precision.say_on_cpu();
    let files = ModelFiles::load(model, path, options.context_window, Cpu::default())?;
    start(files, options)
}

impl KvPrecision {
    /// Refuses what only a GPU has where the CPU was asked for.
    pub(crate) fn check_on_cpu(self) -> Result<(), EngineError> {
        match self {
            Self::Half => Ok(()),
            Self::Fp8 => Err(EngineError::Unsupported {
                what: "engine.device_kv_precision = \"fp8\" with engine.device = \"cpu\"".to_owned(),
                supported: "set it to \"half\", or engine.device to \"cuda\"".to_owned(),
            }),
        }
    }

    /// Says in the log that there was no GPU for it.
    pub(crate) fn say_on_cpu(self) {
        if self == Self::Fp8 {
            tracing::warn!(
                "engine.device_kv_precision = \"fp8\" has no effect: the CPU keeps keys and values in 16 bits"
            );
        }
    }

    /// As the device calls it.
    #[cfg(feature = "cuda")]
    pub(crate) fn format(self) -> KvFormat {
        match self {
            Self::Half => KvFormat::Half,
            Self::Fp8 => KvFormat::Fp8,
        }
    }
}

/// What a program without GPU support says to whoever asks for one.
#[cfg(not(feature = "cuda"))]
pub(crate) fn no_cuda() -> EngineError {
    EngineError::Unsupported {
        what: "engine.device = \"cuda\" in a program built without GPU support".to_owned(),
        supported: "build it with `--features cuda`, or set engine.device to \"cpu\"".to_owned(),
    }
}

/// Refuses what the program was not built with, also where it would compute on the CPU: whoever asks for it means it.
pub(crate) fn check_attention(attention: PromptAttention) -> Result<(), EngineError> {
    if attention == PromptAttention::Own || cfg!(feature = "flash-attn") {
        return Ok(());
    }
    Err(EngineError::Unsupported {
        what: "engine.device_attention = \"flash-attn\" in a program built without it".to_owned(),
        supported: "build it with `cargo build --release -p edgewise-cli --features flash-attn` (CUDA 13's nvcc works \
                    on it for hours), or set engine.device_attention to \"own\""
            .to_owned(),
    })
}

fn start<B: Backend>(files: ModelFiles<B>, options: &EngineOptions) -> Result<LocalGenerator, EngineError> {
    let ModelFiles { decoder, tokenizer, template, info } = files;
    LocalGenerator::start(Parts { model: decoder, info, tokenizer, template }, options, Arc::new(SystemClock))
}

/// The 16-bit numbers that suit a model, where nobody says which: half precision is eight times as exact, and enough for
/// models that were published in it, and for those of Llama's kind, which are quantised from such weights. What can't be
/// read is found out about when the model is loaded.
#[cfg(feature = "cuda")]
fn suited(path: &Path) -> Half {
    /// `general.file_type` of a GGUF file with weights in bf16.
    const MOSTLY_BF16: usize = 32;
    let half_suits = if path.is_dir() {
        let config = std::fs::read_to_string(path.join("config.json")).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
        ["dtype", "torch_dtype"].iter().any(|key| config[key] == "float16")
    } else {
        let suits = |file: &GgufFile| -> Result<bool, DecoderError> {
            let is_llama = file.string("general.architecture")? == "llama";
            Ok(is_llama && !file.integer("general.file_type").is_ok_and(|kind| kind == MOSTLY_BF16))
        };
        GgufFile::open(path).and_then(|file| suits(&file)).unwrap_or(false)
    };
    if half_suits { Half::F16 } else { Half::Bf16 }
}

#[cfg(feature = "cuda")]
fn open_cuda(options: &EngineOptions, path: &Path) -> Result<Cuda, DecoderError> {
    let half = match options.device_precision {
        Precision::Auto => suited(path),
        Precision::Bf16 => Half::Bf16,
        Precision::F16 => Half::F16,
    };
    Cuda::open(CudaOptions {
        half,
        attention: options.device_attention,
        kv_format: options.device_kv_precision.format(),
        max_rows: options.device_prefill_chunk + options.max_sequences,
        max_sequences: options.max_sequences,
        memory_share: options.device_memory_share,
    })
}

/// Loads a generator onto the GPU, and gives its pages what memory is left.
#[cfg(feature = "cuda")]
fn on_cuda(model: &str, path: &Path, options: &EngineOptions, cuda: Cuda) -> Result<LocalGenerator, EngineError> {
    let files = ModelFiles::load(model, path, options.context_window, cuda.clone())?;
    let most = cuda.plan_pages(files.decoder.config(), files.decoder.page_bytes())?;
    let cache_bytes = options.device_cache_bytes.map_or(most, |wanted| wanted.min(most));
    let prefill_chunk = options.device_prefill_chunk;
    start(files, &EngineOptions { cache_bytes, prefill_chunk, ..options.clone() })
}

/// Loads only the tokenizer of a GGUF file or folder: enough to count tokens, without the weights. `model` is the name it
/// goes by.
///
/// # Errors
/// [`ModelError::Load`], with one sentence on what is wrong with the file.
pub fn load_tokenizer(model: &str, path: &Path) -> Result<Arc<dyn Tokenizer>, ModelError> {
    let tokenizer = model_files::tokenizer(path);
    tokenizer.map(|tokenizer| Arc::new(tokenizer) as Arc<dyn Tokenizer>).map_err(|e| e.on_load(model))
}

/// Reads `tokenizer.ggml.*`.
pub(crate) fn vocabulary(gguf: &GgufFile) -> Result<GgufVocabulary, EngineError> {
    let strings = |key: &str| -> Result<Vec<String>, EngineError> {
        Ok(gguf.strings(key)?.into_iter().map(str::to_owned).collect())
    };
    let id = |name: &str| -> Result<Option<u32>, EngineError> {
        let key = format!("tokenizer.ggml.{name}_token_id");
        match gguf.value(&key) {
            None => Ok(None),
            Some(_) => Ok(u32::try_from(gguf.integer(&key)?).ok()),
        }
    };
    let integers = |key: &str| if gguf.value(key).is_some() { gguf.integers(key) } else { Ok(Vec::new()) };
    let flag = |key: &str| if gguf.value(key).is_some() { gguf.flag(key).map(Some) } else { Ok(None) };
    let pre = "tokenizer.ggml.pre";
    let merges = "tokenizer.ggml.merges";
    let charsmap =
        matches!(gguf.value("tokenizer.ggml.precompiled_charsmap"), Some(Value::Array(map)) if !map.is_empty());
    Ok(GgufVocabulary {
        model: gguf.string("tokenizer.ggml.model")?.to_owned(),
        // Files older than the key are refused rather than cut by a guess.
        pre: if gguf.value(pre).is_some() { gguf.string(pre)?.to_owned() } else { "(none)".to_owned() },
        tokens: strings("tokenizer.ggml.tokens")?,
        token_types: integers("tokenizer.ggml.token_type")?
            .into_iter()
            .map(|kind| u32::try_from(kind).unwrap_or(u32::MAX))
            .collect(),
        scores: scores(gguf)?,
        // SentencePiece vocabularies have none; byte-level ones without merges are not vocabularies at all.
        merges: if gguf.value(merges).is_some() || gguf.string("tokenizer.ggml.model")? == "gpt2" {
            strings(merges)?
        } else {
            Vec::new()
        },
        space_prefix: flag("tokenizer.ggml.add_space_prefix")?,
        normalises: charsmap || flag("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
        bos: id("bos")?,
        eos: id("eos")?,
        further_ends: [id("eot")?, id("eom")?].into_iter().flatten().collect(),
    })
}

/// `tokenizer.ggml.scores`, empty if there are none.
fn scores(gguf: &GgufFile) -> Result<Vec<f32>, EngineError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let wrong = || EngineError::BadFile { path: gguf.path().to_owned(), reason: format!("`{KEY}` holds no numbers") };
    match gguf.value(KEY) {
        None => Ok(Vec::new()),
        Some(Value::Array(values)) => {
            let score = |value: &Value| if let Value::F32(score) = value { Ok(*score) } else { Err(wrong()) };
            values.iter().map(score).collect()
        }
        Some(_) => Err(wrong()),
    }
}

/// Loads an embedder of the BERT family from `folder`, which holds `config.json`, `model.safetensors` and
/// `tokenizer.json`. `model` is the name it goes by.
///
/// # Errors
/// [`ModelError::Load`], with one sentence on what is wrong with which file.
pub fn load_embedder(model: &str, folder: &Path) -> Result<BertEmbedder, ModelError> {
    load_embedder_with(model, folder, EncoderArithmetic::default())
}

/// As [`load_embedder`], in the arithmetic given.
///
/// # Errors
/// As there.
pub fn load_embedder_with(
    model: &str,
    folder: &Path,
    arithmetic: EncoderArithmetic,
) -> Result<BertEmbedder, ModelError> {
    BertEmbedder::load(model, folder, arithmetic).map_err(|e| e.on_load(model))
}

/// Loads a reranker from `folder`, which holds `config.json`, `model.safetensors` and `tokenizer.json` of a sequence
/// classifier of the BERT family. `model` is the name it goes by.
///
/// # Errors
/// [`ModelError::Load`], with one sentence on what is wrong with which file.
pub fn load_reranker(model: &str, folder: &Path) -> Result<BertReranker, ModelError> {
    load_reranker_with(model, folder, EncoderArithmetic::default())
}

/// As [`load_reranker`], in the arithmetic given.
///
/// # Errors
/// As there.
pub fn load_reranker_with(
    model: &str,
    folder: &Path,
    arithmetic: EncoderArithmetic,
) -> Result<BertReranker, ModelError> {
    BertReranker::load(model, folder, arithmetic).map_err(|e| e.on_load(model))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    #[cfg(not(feature = "flash-attn"))]
    fn attention_the_program_lacks_is_refused_with_the_command_that_builds_it() {
        for device in [Placement::Auto, Placement::Cpu] {
            let options =
                EngineOptions { device, device_attention: PromptAttention::FlashAttn, ..EngineOptions::default() };
            let refused = load_generator("model", Path::new("nowhere"), &options).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains("--features flash-attn") && refused.contains("\"own\""), "{refused}");
        }
    }

    #[test]
    fn fp8_on_the_cpu_is_refused_before_anything_is_read() {
        let options =
            EngineOptions { device: Placement::Cpu, device_kv_precision: KvPrecision::Fp8, ..EngineOptions::default() };
        let error = load_generator("none", Path::new("/nowhere"), &options).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("engine.device_kv_precision") && error.contains("\"half\""), "{error}");
    }
}
