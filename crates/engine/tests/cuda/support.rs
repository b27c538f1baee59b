//! What the tests share: shapes of every family with made-up weights, and sequences on pages of their own.

use std::sync::LazyLock;

use edgewise_engine::{
    PromptAttention,
    decoder::{Backend, BatchEntry, Cuda, CudaOptions, Decoder, Half, KvFormat, LoadOptions},
};
use edgewise_kv_cache::PageId;
use serde_json::{Value, json};

/// Tokens the made-up models know.
pub(crate) const VOCABULARY: u32 = 512;

/// The card, shared by all tests. A small share of its memory is planned for.
pub(crate) static CUDA: LazyLock<Cuda> = LazyLock::new(|| open(Half::Bf16, KvFormat::Half));
/// The same in half precision.
pub(crate) static CUDA_F16: LazyLock<Cuda> = LazyLock::new(|| open(Half::F16, KvFormat::Half));
/// Both with FP8 pages. The room that prompts read them through is small, so that a batch can be more than fits.
pub(crate) static CUDA_FP8: LazyLock<Cuda> = LazyLock::new(|| open(Half::Bf16, KvFormat::Fp8));
pub(crate) static CUDA_F16_FP8: LazyLock<Cuda> = LazyLock::new(|| open(Half::F16, KvFormat::Fp8));

/// With candle-flash-attn for prompts.
#[cfg(feature = "flash-attn")]
static FLASH: LazyLock<Cuda> = LazyLock::new(|| open_with(Half::Bf16, KvFormat::Half, PromptAttention::FlashAttn));
/// The same in half precision.
#[cfg(feature = "flash-attn")]
static FLASH_F16: LazyLock<Cuda> = LazyLock::new(|| open_with(Half::F16, KvFormat::Half, PromptAttention::FlashAttn));

fn open(half: Half, kv_format: KvFormat) -> Cuda {
    open_with(half, kv_format, PromptAttention::Own)
}

fn open_with(half: Half, kv_format: KvFormat, attention: PromptAttention) -> Cuda {
    let max_rows = if kv_format == KvFormat::Half { 1024 } else { 512 };
    Cuda::open(CudaOptions { max_rows, half, kv_format, attention, ..CudaOptions::default() }).unwrap()
}

/// What the properties hold for: those of [`devices`], and FP8 pages.
pub(crate) fn all_devices() -> Vec<(PromptAttention, &'static Cuda)> {
    let fp8: [&Cuda; 2] = [&CUDA_FP8, &CUDA_F16_FP8];
    let fp8 = fp8.map(|device| (PromptAttention::Own, device));
    [devices(Half::Bf16), devices(Half::F16)].into_iter().flatten().chain(fp8).collect()
}

/// The card with every attention of prompts that the program was built with, our own first.
pub(crate) fn devices(half: Half) -> Vec<(PromptAttention, &'static Cuda)> {
    let own: &Cuda = if half == Half::F16 { &CUDA_F16 } else { &CUDA };
    #[cfg(feature = "flash-attn")]
    let flash: Option<&Cuda> = Some(if half == Half::F16 { &FLASH_F16 } else { &FLASH });
    #[cfg(not(feature = "flash-attn"))]
    let flash: Option<&Cuda> = None;
    let flash = flash.map(|device| (PromptAttention::FlashAttn, device));
    [(PromptAttention::Own, own)].into_iter().chain(flash).collect()
}

/// A shape: name and `config.json`.
pub(crate) fn shapes() -> Vec<(&'static str, String)> {
    let shape = |family: &str, heads: u32, kv_heads: u32, head_dim: u32, more: Value| {
        let mut config = json!({
            "model_type": family, "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 512,
            "num_hidden_layers": 3, "num_attention_heads": heads, "num_key_value_heads": kv_heads,
            "head_dim": head_dim, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "hidden_act": "silu", "tie_word_embeddings": false
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config.to_string()
    };
    let yarn = json!({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024});
    let llama3 = json!({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 512
    });
    vec![
        ("llama, 4/4 heads of 64", shape("llama", 4, 4, 64, json!({}))),
        ("llama, 8/2 heads of 64, tied", shape("llama", 8, 2, 64, json!({"tie_word_embeddings": true}))),
        ("llama, 9/3 heads of 64", shape("llama", 9, 3, 64, json!({}))),
        ("llama, 8/1 heads of 128", shape("llama", 8, 1, 128, json!({}))),
        ("llama, 4/2 heads of 128, llama3", shape("llama", 4, 2, 128, json!({"rope_scaling": llama3}))),
        ("mistral, 8/2 heads of 128", shape("mistral", 8, 2, 128, json!({"sliding_window": 100}))),
        ("mistral, 4/2 heads of 64", shape("mistral", 4, 2, 64, json!({"sliding_window": 33}))),
        ("qwen2, 8/2 heads of 64", shape("qwen2", 8, 2, 64, json!({"hidden_size": 512, "rope_scaling": yarn}))),
        ("qwen3, 4/2 heads of 128", shape("qwen3", 4, 2, 128, json!({}))),
    ]
}

/// A decoder of a shape, with the same weights on any backend.
pub(crate) fn decoder<B: Backend>(config: &str, backend: B) -> Decoder<B> {
    Decoder::with_random_weights(config, backend, &LoadOptions::default(), 11).unwrap()
}

/// Tokens that look random.
pub(crate) fn tokens(count: usize, seed: u32) -> Vec<u32> {
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some((*state >> 8) % VOCABULARY)
    };
    std::iter::successors(Some(seed), |state| Some(state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223)))
        .scan(seed, |state, _| next(state))
        .take(count)
        .collect()
}

/// A sequence on pages of its own.
pub(crate) struct Sequence<'a, B: Backend> {
    decoder: &'a Decoder<B>,
    kv: B::Kv,
    pages: Vec<PageId>,
    held: usize,
    /// Tokens from there on count as generated.
    prompt: usize,
}

impl<'a, B: Backend> Sequence<'a, B> {
    pub(crate) fn new(decoder: &'a Decoder<B>, positions: usize, prompt: usize) -> Self {
        let pages = positions.div_ceil(decoder.page_tokens());
        let kv = decoder.allocate(pages).unwrap();
        Self { decoder, kv, pages: (0..pages as u32).map(PageId).collect(), held: 0, prompt }
    }

    /// Appends tokens; the logits after the last.
    pub(crate) fn feed(&mut self, tokens: &[u32]) -> Vec<f32> {
        let (position, pages, generated_from) = (self.held, &self.pages, self.prompt);
        let entry = BatchEntry { tokens, position, pages, logits: true, generated_from };
        let logits = self.decoder.forward(&mut self.kv, &[entry]).unwrap();
        self.held += tokens.len();
        logits.into_iter().flatten().next().unwrap()
    }
}

/// `‖a − b‖ / ‖b‖`
pub(crate) fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (difference / b.iter().map(|b| square(*b)).sum::<f64>()).sqrt()
}

/// Index of the largest value.
pub(crate) fn best(logits: &[f32]) -> u32 {
    let (i, _) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    i as u32
}
