//! What the decoder's tests share: the tiny models of `tests/fixtures/decoders` and feeding sequences over pages.

use std::path::{Path, PathBuf};

use edgewise_engine::decoder::{BatchEntry, Cpu, CpuKv, Decoder, DecoderError, GgufFile, LoadOptions};
use edgewise_kv_cache::PageId;

/// A file or folder beside the workspace's tests.
pub(crate) fn in_tests(path: &str) -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../tests").join(path)
}

/// The SmolLM2 test model.
pub(crate) fn smollm2() -> PathBuf {
    let models = std::env::var_os("EDGEWISE_TEST_MODELS").expect("EDGEWISE_TEST_MODELS is not set: run ./scripts/test");
    Path::new(&models).join("smollm2-135m-instruct/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// A tiny model, from its folder or its GGUF file.
pub(crate) fn load(model: &str, options: &LoadOptions) -> Result<Decoder, DecoderError> {
    let path = in_tests("fixtures/decoders").join(model);
    if model.ends_with(".gguf") {
        Decoder::from_gguf(&GgufFile::open(path)?, Cpu::default(), options)
    } else {
        Decoder::from_folder(path, Cpu::default(), options)
    }
}

/// One sequence on pages of its own, in the order of `pages`.
pub(crate) struct Sequence<'a> {
    pub(crate) decoder: &'a Decoder,
    pub(crate) kv: CpuKv,
    pub(crate) pages: Vec<PageId>,
    pub(crate) tokens: usize,
}

impl<'a> Sequence<'a> {
    pub(crate) fn new(decoder: &'a Decoder, positions: usize) -> Self {
        let pages = positions.div_ceil(decoder.page_tokens());
        let kv = decoder.allocate(pages).unwrap();
        Self { decoder, kv, pages: (0..pages as u32).map(PageId).collect(), tokens: 0 }
    }

    /// Appends tokens; the logits after the last.
    pub(crate) fn feed(&mut self, tokens: &[u32]) -> Vec<f32> {
        let entry = BatchEntry { tokens, position: self.tokens, pages: &self.pages, logits: true, generated_from: usize::MAX };
        let logits = self.decoder.forward(&mut self.kv, &[entry]).unwrap();
        self.tokens += tokens.len();
        logits.into_iter().flatten().next().unwrap()
    }
}

/// Index of the largest value.
pub(crate) fn best(logits: &[f32]) -> u32 {
    let (i, _) = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).unwrap();
    i as u32
}
