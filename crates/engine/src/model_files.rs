//! What a generator is made of, from a GGUF file or from a folder as transformers saves it: decoder, tokenizer, chat
//! template.
//!
//! Invariant: tokenizer and weights belong together; a tokenizer with more tokens than the weights have rows is refused.
//! Deliberately not here: fetching files, starting a worker.

use std::path::{Path, PathBuf};

use edgewise_model_api::GeneratorInfo;

#[cfg(test)]
use edgewise_kv_cache::PageId;

#[cfg(test)]
use crate::step_model::{BatchEntry, StepModel};
use crate::{
    EngineError,
    chat_template::ChatTemplate,
    decoder::{Backend, Cpu, Decoder, GgufFile, LoadOptions},
    digest, load,
    tokenizer::{GeneratorTokenizer, chat_template},
};

/// Files of a folder that decide what a model answers, besides its weights. The digest covers those there are.
const SMALL_FILES: [&str; 5] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"];

/// A loaded model.
pub(crate) struct ModelFiles<B: Backend = Cpu> {
    pub(crate) decoder: Decoder<B>,
    pub(crate) tokenizer: GeneratorTokenizer,
    pub(crate) template: ChatTemplate,
    pub(crate) info: GeneratorInfo,
}

/// Loads the tokenizer alone.
pub(crate) fn tokenizer(path: &Path) -> Result<GeneratorTokenizer, EngineError> {
    match path.is_dir() {
        true => GeneratorTokenizer::from_folder(path),
        false => GeneratorTokenizer::from_gguf(load::vocabulary(&GgufFile::open(path)?)?),
    }
}

impl<B: Backend> ModelFiles<B> {
    /// Loads `path`, a GGUF file or a folder with `config.json`, `*.safetensors` and `tokenizer.json`, onto a backend.
    /// `model` is the name it goes by; `window` limits the context.
    pub(crate) fn load(model: &str, path: &Path, window: Option<usize>, backend: B) -> Result<Self, EngineError> {
        let (template, decoder, tokenizer, files) = match path.is_dir() {
            true => {
                // Cheap files first, so that what is wrong with them is known before gigabytes are read.
                let tokenizer = GeneratorTokenizer::from_folder(path)?;
                let template = chat_template(path)?;
                let options = LoadOptions { context_window: window, ..LoadOptions::default() };
                let decoder = Decoder::from_folder(path, backend, &options)?;
                (template, decoder, tokenizer, folder_files(path)?)
            }
            false => {
                let gguf = GgufFile::open(path)?;
                let tokenizer = GeneratorTokenizer::from_gguf(load::vocabulary(&gguf)?)?;
                let template = gguf.string("tokenizer.chat_template")?.to_owned();
                let decoder = Decoder::from_gguf(&gguf, backend, &LoadOptions::default())?;
                (template, decoder, tokenizer, vec![path.to_owned()])
            }
        };
        let mut tokenizer = tokenizer;
        tokenizer
            .extend_to(decoder.config().vocab_size)
            .map_err(|e| EngineError::BadFile { path: path.to_owned(), reason: e.to_string() })?;
        let trained = decoder.config().context_window;
        let info = GeneratorInfo {
            model: model.to_owned(),
            digest: digest::of_files(&files.iter().map(PathBuf::as_path).collect::<Vec<_>>())?,
            context_window: window.map_or(trained, |window| window.min(trained)),
        };
        let template = ChatTemplate::new(template, tokenizer.bos(), tokenizer.eos())?;
        Ok(Self { decoder, tokenizer, template, info })
    }
}

/// The files of a folder that the digest covers, in a fixed order.
fn folder_files(folder: &Path) -> Result<Vec<PathBuf>, EngineError> {
    let mut files: Vec<PathBuf> = SMALL_FILES.iter().map(|name| folder.join(name)).filter(|f| f.exists()).collect();
    let entries = std::fs::read_dir(folder).map_err(|e| EngineError::io(folder, e))?;
    let mut weights = entries
        .map(|entry| entry.map(|entry| entry.path()).map_err(|e| EngineError::io(folder, e)))
        .filter(|path| path.as_ref().map_or(true, |p| p.extension().is_some_and(|e| e == "safetensors")))
        .collect::<Result<Vec<_>, _>>()?;
    weights.sort();
    files.extend(weights);
    Ok(files)
}

/// One sequence on pages of its own, for tests of what surrounds a decoder.
#[cfg(test)]
pub(crate) struct Sequence<'a> {
    decoder: &'a Decoder,
    kv: <Decoder as StepModel>::Kv,
    pages: Vec<PageId>,
    position: usize,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl<'a> Sequence<'a> {
    /// An empty one with room for `tokens`.
    pub(crate) fn new(decoder: &'a Decoder, tokens: usize) -> Self {
        let pages = tokens.div_ceil(decoder.page_tokens());
        let kv = decoder.allocate(pages).unwrap();
        Self { decoder, kv, pages: (0..u32::try_from(pages).unwrap()).map(PageId).collect(), position: 0 }
    }

    /// Appends `tokens` and gives the logits after them.
    pub(crate) fn forward(&mut self, tokens: &[u32]) -> Vec<f32> {
        let entry = BatchEntry { tokens, position: self.position, pages: &self.pages, logits: true, generated_from: usize::MAX };
        let logits = StepModel::forward(self.decoder, &mut self.kv, &[entry]).unwrap();
        self.position += tokens.len();
        logits.into_iter().flatten().next().unwrap()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use edgewise_model_api::{ChatMessage, Role};
    use safetensors::{Dtype, tensor::TensorView};

    use super::*;

    const ROWS: usize = 1024;

    /// A folder with the byte-level tokenizer of the goldens and a tiny Llama with small pseudo-random weights.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let golden = Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap())
            .join("../../tests/golden/tokenizers/byte_level");
        for entry in std::fs::read_dir(golden).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let config = serde_json::json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": ROWS, "hidden_size": 32,
            "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": true, "torch_dtype": "float32"
        });
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let layer = |part: &str| format!("model.layers.0.{part}.weight");
        let tensors: Vec<(String, Vec<usize>)> = vec![
            ("model.embed_tokens.weight".to_owned(), vec![ROWS, 32]),
            (layer("input_layernorm"), vec![32]),
            (layer("self_attn.q_proj"), vec![32, 32]),
            (layer("self_attn.k_proj"), vec![16, 32]),
            (layer("self_attn.v_proj"), vec![16, 32]),
            (layer("self_attn.o_proj"), vec![32, 32]),
            (layer("post_attention_layernorm"), vec![32]),
            (layer("mlp.gate_proj"), vec![64, 32]),
            (layer("mlp.up_proj"), vec![64, 32]),
            (layer("mlp.down_proj"), vec![32, 64]),
            ("model.norm.weight".to_owned(), vec![32]),
        ];
        let bytes: Vec<Vec<u8>> = tensors
            .iter()
            .map(|(_, shape)| {
                let count: usize = shape.iter().product();
                (0..count).flat_map(|i| ((i as f32 * 1.37).sin() * 0.1).to_le_bytes()).collect()
            })
            .collect();
        let views = tensors
            .iter()
            .zip(&bytes)
            .map(|((name, shape), bytes)| (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap()));
        let file = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
        folder
    }

    #[test]
    fn a_folder_becomes_a_model_that_reads_its_own_chats() {
        let folder = folder();
        let model = ModelFiles::load("tiny", folder.path(), Some(100), Cpu::default()).unwrap();
        assert_eq!(model.info.context_window, 100);
        assert_eq!(model.tokenizer.vocabulary_size(), ROWS, "rows beyond the tokenizer are tokens without text");
        let chat = model.template.encode(&model.tokenizer, &[ChatMessage::text(Role::User, "Hello, 世界")]).unwrap();
        let logits = Sequence::new(&model.decoder, 100).forward(&chat.tokens);
        assert_eq!(logits.len(), ROWS);
        let digest = model.info.digest;
        std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages[0].content }}").unwrap();
        assert_ne!(ModelFiles::load("tiny", folder.path(), None, Cpu::default()).unwrap().info.digest, digest);
    }

    #[test]
    fn what_is_missing_or_does_not_belong_together_is_one_clear_sentence() {
        let folder = folder();
        let load = || ModelFiles::load("tiny", folder.path(), None, Cpu::default()).err().unwrap().to_string();
        for name in ["tokenizer.json", "config.json", "model.safetensors"] {
            let path = folder.path().join(name);
            let aside = folder.path().join("aside");
            std::fs::rename(&path, &aside).unwrap();
            let reason = load();
            assert!(reason.contains(name) && reason.contains("does not exist") && !reason.contains('\n'), "{reason}");
            std::fs::rename(&aside, &path).unwrap();
        }
        let config = folder.path().join("config.json");
        let text = std::fs::read_to_string(&config).unwrap();
        std::fs::write(&config, text.replace("\"llama\"", "\"mamba\"").replace("LlamaFor", "MambaFor")).unwrap();
        let reason = load();
        assert!(reason.to_lowercase().contains("mamba"), "{reason}");
        std::fs::write(&config, text.replace("1024", "64")).unwrap();
        assert!(!load().contains('\n'));
        std::fs::write(&config, &text).unwrap();
        // A tokenizer of more tokens than the weights have rows.
        let path = folder.path().join("tokenizer.json");
        let tokenizer = std::fs::read_to_string(&path).unwrap();
        let mut file: serde_json::Value = serde_json::from_str(&tokenizer).unwrap();
        file["added_tokens"][0]["id"] = 5000.into();
        std::fs::write(&path, file.to_string()).unwrap();
        assert!(load().contains("the weights know 1024 tokens"), "{}", load());
    }
}
